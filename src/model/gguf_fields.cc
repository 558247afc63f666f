#include "model/gguf_fields.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "io/checked_json.h"
#include "io/gguf.h"

namespace flexgen {

using Json = nlohmann::json;

GgufFields::GgufFields(const Json& metadata, std::string source, std::string architecture, const std::vector<std::string>& ignored)
    : metadata_(metadata), source_(std::move(source)), start_(std::move(architecture) + "."), ignored_(ignored.begin(), ignored.end()) {}

const Json* GgufFields::find(const char* name) {
  seen_.insert(start_ + name);
  return gguf_field(metadata_, start_ + name);
}

const Json* GgufFields::find_of_all(const char* name) {
  const Json* value = find(name);
  if (!value || !value->is_array()) return value;
  if (value->empty() || std::any_of(value->begin(), value->end(), [&](const Json& one) { return one != value->front(); }))
    refuse(name, "differs from layer to layer, which flexgen does not do");
  return &value->front();
}

void GgufFields::refuse(const char* name, const std::string& why) const { fail_user("{}: '{}{}' {}", source_, start_, name, why); }

void GgufFields::copy(const char* name, Json& to, const char* as) {
  const Json* value = find_of_all(name);
  if (value && value->is_number_float() && !std::isfinite(value->get<double>())) refuse(name, "is not finite; the file is broken, fetch it again");
  if (value) to[as] = *value;
}

std::optional<int64_t> GgufFields::integer(const char* name) {
  const Json* value = find_of_all(name);
  if (!value) return std::nullopt;
  if (!value->is_number_integer() || *value < 0 || *value > 1 << 30) refuse(name, "is no whole number from 0 to 2^30");
  return value->get<int64_t>();
}

void GgufFields::only(const char* name, const Json& value) {
  if (const Json* given = find(name); given && *given != value) refuse(name, fmt::format("is {}; flexgen does {} alone", shown(*given), value.dump()));
}

void GgufFields::harmless(std::initializer_list<const char*> names) {
  for (const char* name : names) find(name);
}

void GgufFields::finish() const {
  for (const auto& [name, value] : metadata_.items())
    if (name.starts_with(start_) && !seen_.contains(name) && !ignored_.contains(name))
      fail_user("{}: '{}' is {}, a field that flexgen does not know; if it changes nothing: --ignore-config-field {}", source_, printable(name), shown(value),
                printable(name));
  for (const std::string& name : ignored_)
    if (!metadata_.contains(name) || seen_.contains(name))
      fail_user("--ignore-config-field {}: {} {}; leave it out", printable(name), source_,
                metadata_.contains(name) ? "has it as a field that flexgen reads" : "has no such field");
}

std::string GgufFields::shown(const Json& value) { return printable(value.dump(-1, ' ', true, Json::error_handler_t::replace)); }

}  // namespace flexgen
