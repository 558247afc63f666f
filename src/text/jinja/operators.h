#pragma once
// Python's operators on values. Each throws Failure where Python raises.

#include <string_view>

#include "text/jinja/run.h"

namespace flexgen::jinja {

Value add(const Value& a, const Value& b);
Value subtract(const Value& a, const Value& b);
Value multiply(const Value& a, const Value& b);
Value divide(const Value& a, const Value& b);
Value floor_divide(const Value& a, const Value& b);
/// The rest of a division, or a text with its places filled in.
Value modulo(const Value& a, const Value& b);
Value power(const Value& a, const Value& b);
Value negate(const Value& value);
/// `item in container`
bool contains(const Value& container, const Value& item);

/// Characters that HTML gives a meaning, written out.
std::string escaped_html(std::string_view text);

}  // namespace flexgen::jinja
