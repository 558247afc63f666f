#pragma once
// Python's two ways to fill values into a text: the operator % and str.format(). Pure functions.

#include <string>
#include <string_view>

#include "text/jinja/run.h"

namespace flexgen::jinja {

/// text % value: a tuple fills the places one by one, a dict by name.
std::string format_percent(std::string_view text, const Value& value);
/// text.format(...).
std::string format_braces(std::string_view text, const Args& args);

}  // namespace flexgen::jinja
