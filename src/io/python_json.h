#pragma once
// JSON as Python's json module writes it: NaN, Infinity and -Infinity stand bare, which JSON does not know. Pure function.

#include <string>
#include <string_view>

namespace flexgen {

/// `text` with these three put in quotes, so that a JSON parser takes them, as texts: whoever wants a number there refuses them by name.
std::string with_python_numbers_quoted(std::string_view text);

/// `text` with 1e308 or -1e308 in their place: for files where texts are read and such numbers are not.
std::string with_large_numbers_for_python(std::string_view text);

}  // namespace flexgen
