#pragma once
// JSON as Python's json module writes it: NaN, Infinity and -Infinity stand bare, which JSON does not know. Pure function.

#include <string>
#include <string_view>

namespace flexgen {

/// `text` with these three put in quotes, so that a JSON parser takes them, as texts: whoever wants a number there refuses them by name.
std::string with_python_numbers_quoted(std::string_view text);

}  // namespace flexgen
