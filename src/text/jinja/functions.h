#pragma once
// The functions that a chat template finds: Jinja's, and those that transformers adds.

#include <optional>
#include <string_view>

#include "text/jinja/arguments.h"

namespace flexgen::jinja {

/// range, dict, namespace, joiner, cycler, raise_exception, strftime_now; null for any other name.
std::optional<Value> global_function(std::string_view name);

}  // namespace flexgen::jinja
