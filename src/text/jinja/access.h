#pragma once
// What is within a value: attributes, items and slices, as Jinja finds them in Python's values. Each throws Failure where Python raises.

#include <string_view>

#include "text/jinja/run.h"

namespace flexgen::jinja {

/// value.name, as Jinja looks it up: Python's attributes and methods first, then items.
Value get_attribute(const Value& value, std::string_view name);
/// value[key]: items first.
Value get_item(const Value& value, const Value& key);
/// value[start:stop:stride]; None: left out.
Value get_slice(const Value& value, const Value& start, const Value& stop, const Value& stride);

}  // namespace flexgen::jinja
