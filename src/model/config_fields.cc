#include "model/config_fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "io/checked_json.h"

namespace flexgen {
namespace {

std::string shown(const nlohmann::json& value) { return printable(value.dump()); }

}  // namespace

void ConfigFields::refuse(const std::string& name, const std::string& why) const { fail_user("{}: '{}' {}", source_, printable(name), why); }

const nlohmann::json* ConfigFields::find(const std::string& name) {
  seen_.insert(name);
  auto found = json_.find(name);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

int64_t ConfigFields::integer(const std::string& name, int64_t low, int64_t high) {
  const nlohmann::json* value = find(name);
  if (!value) refuse(name, "is missing; fetch the file again");
  if (!value->is_number_integer()) refuse(name, fmt::format("is {}; it must be a whole number", shown(*value)));
  // A number beyond int64 wraps to a negative one, or is caught by the bound.
  bool fits = !value->is_number_unsigned() || value->get<uint64_t>() <= static_cast<uint64_t>(high);
  if (!fits || value->get<int64_t>() < low || value->get<int64_t>() > high)
    refuse(name, fmt::format("is {}; it must be from {} to {}", shown(*value), low, high));
  return value->get<int64_t>();
}

int64_t ConfigFields::integer_or(const std::string& name, int64_t fallback, int64_t low, int64_t high) {
  return find(name) ? integer(name, low, high) : fallback;
}

double ConfigFields::positive(const std::string& name, double high) {
  const nlohmann::json* value = find(name);
  if (!value) refuse(name, "is missing; fetch the file again");
  double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number > 0 && number <= high)) refuse(name, fmt::format("is {}; it must be a number above 0, and at most {}", shown(*value), high));
  return number;
}

double ConfigFields::positive_or(const std::string& name, double fallback, double high) { return find(name) ? positive(name, high) : fallback; }

bool ConfigFields::flag_or(const std::string& name, bool fallback) {
  const nlohmann::json* value = find(name);
  if (!value) return fallback;
  if (!value->is_boolean()) refuse(name, fmt::format("is {}; it must be true or false", shown(*value)));
  return value->get<bool>();
}

std::string ConfigFields::text_or(const std::string& name, const std::string& fallback) {
  const nlohmann::json* value = find(name);
  if (!value) return fallback;
  if (!value->is_string()) refuse(name, fmt::format("is {}; it must be a text", shown(*value)));
  return value->get<std::string>();
}

void ConfigFields::only(const std::string& name, const nlohmann::json& supported) {
  const nlohmann::json* value = find(name);
  if (value && *value != supported) refuse(name, fmt::format("is {}; flexgen supports only {} here", shown(*value), supported.dump()));
}

ConfigFields ConfigFields::inner(const nlohmann::json& object, const std::string& name) {
  opened_.insert(name);
  std::set<std::string> ignored;
  for (const std::string& field : ignored_)
    if (field.starts_with(name + ".")) ignored.insert(field.substr(name.size() + 1));
  ConfigFields fields(object, source_ + ": " + name, std::move(ignored));
  fields.path_ = path_ + name + ".";
  return fields;
}

void ConfigFields::neutral(const std::string& name, std::initializer_list<nlohmann::json> values) {
  if (seen_.contains(name) || harmless_.contains(name)) return;  // the family's own
  const nlohmann::json* value = find(name);
  if (!value || std::find(values.begin(), values.end(), *value) != values.end()) return;
  std::vector<std::string> supported;
  for (const nlohmann::json& known : values) supported.push_back(known.dump());
  refuse(name, fmt::format("is {}; flexgen supports only {} here", shown(*value), fmt::join(supported, " or ")));
}

void ConfigFields::harmless(std::initializer_list<const char*> names) { harmless_.insert(names.begin(), names.end()); }

void ConfigFields::finish() const {
  for (const std::string& name : ignored_) {
    const bool is_inner = std::any_of(opened_.begin(), opened_.end(), [&](const std::string& outer) { return name.starts_with(outer + "."); });
    if (seen_.contains(name)) refuse(name, "is a field that flexgen reads; --ignore-config-field is for those that it does not know");
    if (!json_.contains(name) && !is_inner) refuse(name, "is not in the file, so --ignore-config-field cannot name it");
  }
  for (const auto& [name, value] : json_.items())
    if (!value.is_null() && !seen_.contains(name) && !harmless_.contains(name) && !ignored_.contains(name))
      refuse(name, fmt::format("is a field that flexgen does not know; if it does not change what the model computes, give --ignore-config-field {}",
                               printable(path_ + name)));
}

}  // namespace flexgen
