#pragma once
// How long the texts of a pattern are. Pure functions; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace flexgen {

/// `plain`, as plain_pattern() gives it, with texts of `least` to `most` characters alone: as it is where all of its texts are so long, and with other counts where it is one character or class, repeated.
/// Nothing where that cannot be said so.
std::optional<std::string> pattern_of_length(std::string_view plain, int64_t least, int64_t most);

}  // namespace flexgen
