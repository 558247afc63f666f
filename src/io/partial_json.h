#pragma once
// JSON of ours of which only a part is kept in memory. Pure functions.

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/checked_json.h"

namespace flexgen {

/// As parse_json(), without the members of these names, in whatever object: they are read, and take no memory.
inline nlohmann::json parse_json_without(std::span<const std::string_view> names, std::string_view text, std::string_view what) {
  using Json = nlohmann::json;
  const auto keeps = [names](int, Json::parse_event_t event, const Json& value) {
    return event != Json::parse_event_t::key || std::find(names.begin(), names.end(), value.get_ref<const std::string&>()) == names.end();
  };
  const Json json = nul_in(text) == std::string_view::npos ? Json::parse(text, keeps, false) : Json(Json::value_t::discarded);
  if (json.is_discarded()) fail_user("{} is not JSON", what);
  return json;
}

}  // namespace flexgen
