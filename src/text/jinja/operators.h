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

/// value.name, as Jinja looks it up: Python's attributes and methods first, then items.
Value get_attribute(const Value& value, std::string_view name);
/// value[key]: items first.
Value get_item(const Value& value, const Value& key);
/// value[start:stop:stride]; None: left out.
Value get_slice(const Value& value, const Value& start, const Value& stop, const Value& stride);

/// Characters that HTML gives a meaning, written out.
std::string escaped_html(std::string_view text);

}  // namespace flexgen::jinja
