#pragma once
// Jinja's filters, with transformers' own tojson.

#include <string_view>

#include "text/jinja/arguments.h"

namespace flexgen::jinja {

/// Null if there is none of the name.
Operation find_filter(std::string_view name);

/// Those that make one value of one, and those that go through items.
Operation value_filter(std::string_view name);
Operation item_filter(std::string_view name);

}  // namespace flexgen::jinja
