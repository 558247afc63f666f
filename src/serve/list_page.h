#pragma once
// A page of a list, as /v1/files and /v1/batches give it. Any thread.

#include <nlohmann/json.hpp>
#include <string>

namespace flexgen {

/// `data`: a list of objects with ids. `has_more`: others follow it.
std::string list_page(nlohmann::ordered_json data, bool has_more);

}  // namespace flexgen
