#pragma once
// How the texts of two regular expressions relate, both as plain_pattern() gives them. Pure functions; any thread.

#include <string_view>

namespace flexgen {

/// Whether it can be seen that all texts of `inner` are of ASCII, and texts of `outer` too.
bool all_match(std::string_view inner, std::string_view outer);

/// Whether it can be seen that no text of `one`, whose texts are of ASCII, is one of `other`.
bool none_match(std::string_view one, std::string_view other);

}  // namespace flexgen
