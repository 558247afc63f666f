#pragma once
// Jinja's tests: what stands behind `is`.

#include <string_view>

#include "text/jinja/arguments.h"

namespace flexgen::jinja {

/// Null if there is none of the name. Gives true or false.
Operation find_test(std::string_view name);

}  // namespace flexgen::jinja
