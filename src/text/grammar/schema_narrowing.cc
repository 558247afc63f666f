#include "text/grammar/schema_narrowing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/grammar/schema_options.h"
#include "text/grammar/schema_parts.h"
#include "text/grammar/schema_work.h"

namespace flexgen {

namespace {
using OrderedJson = nlohmann::ordered_json;
constexpr size_t kMostTried = 16;  // properties that may tell options apart
}  // namespace

bool has_unsigned(const OrderedJson& value) {
  if (value.is_structured()) return std::any_of(value.begin(), value.end(), has_unsigned);
  return value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}

void narrow_bounds(OrderedJson& schema) {
  for (const auto& [name, most] : {std::pair("maximum", kMostWhole), std::pair("exclusiveMaximum", kMostWhole + 1)})
    if (schema.contains(name) && schema[name].is_number() && schema[name].get<double>() > kMostBound) schema[name] = most;
  for (const auto& [name, least] : {std::pair("minimum", -kMostWhole), std::pair("exclusiveMinimum", -kMostWhole - 1)})
    if (schema.contains(name) && schema[name].is_number() && schema[name].get<double>() < -kMostBound) schema[name] = least;
}

void round_bounds(OrderedJson& schema) {
  const auto round = [&](const char* name, const char* whole, double (*to)(double)) {
    if (!schema.contains(name) || !schema[name].is_number_float()) return;
    const double bound = schema[name].get<double>(), rounded = to(bound);
    if (std::abs(bound) > kMostBound || rounded == bound) return;
    schema.erase(name);
    const auto number = static_cast<int64_t>(rounded);
    const bool is_least = whole == std::string_view("minimum");
    if (!schema.contains(whole) || !schema[whole].is_number() || (is_least ? number_of(schema[whole]) < number : number_of(schema[whole]) > number))
      schema[whole] = number;
  };
  for (const char* name : {"minimum", "exclusiveMinimum"}) round(name, "minimum", [](double bound) { return std::ceil(bound); });
  for (const char* name : {"maximum", "exclusiveMaximum"}) round(name, "maximum", [](double bound) { return std::floor(bound); });
}

OrderedJson joined_options(const OrderedJson& options, const OrderedJson& root) {
  OrderedJson all = options;
  for (OrderedJson& option : all)
    if (const OrderedJson* target = target_of(option, root); target && (has_parts(*target) || (target->is_object() && target->contains("allOf")))) {
      try {
        if (OrderedJson joined = joined_schema(*target, root); !has_parts(joined)) option = std::move(joined);
      } catch (const Error&) {  // it is told where the option is read
        if (SchemaWork::is_spent()) throw;
      }
    }
  return all;
}

bool require_what_tells(OrderedJson& options, const OrderedJson& joined, const OrderedJson& root) {
  std::set<std::string> names;
  std::vector<const OrderedJson*> objects(joined.size());
  for (size_t i = 0; i < joined.size(); ++i) {
    const OrderedJson* target = target_of(joined[i], root);
    if (!target || !target->is_object() || !target->contains("properties") || !(*target)["properties"].is_object()) continue;
    objects[i] = target;
    for (const auto& [name, property] : (*target)["properties"].items())
      if (const OrderedJson* at = target_of(property, root); at && at->is_object() && schema_values(*at) && names.size() < kMostTried) names.insert(name);
  }
  for (const std::string& name : names) {
    const OrderedJson needs{{"required", OrderedJson::array({name})}};
    if (!no_value_fits_two(joined, root, &name)) continue;
    for (size_t i = 0; i < joined.size(); ++i)
      if (objects[i] && (*objects[i])["properties"].contains(name)) options[i] = OrderedJson{{"allOf", OrderedJson::array({options[i], needs})}};
    return true;
  }
  return false;
}

void name_properties(OrderedJson& schema, const OrderedJson& root) {
  const OrderedJson* names = schema.contains("propertyNames") ? target_of(schema["propertyNames"], root) : nullptr;
  const bool listed = names && names->is_object() && (names->contains("enum") || names->contains("const"));
  if (!listed || schema.contains("properties") || schema.contains("patternProperties")) return;
  const OrderedJson list = names->contains("const") ? OrderedJson::array({(*names)["const"]}) : as_list((*names)["enum"]);
  for (const auto& [keyword, value] : names->items())
    if (keyword != "enum" && keyword != "const" && !is_schema_note(keyword) && !(keyword == "type" && value == "string")) return;
  const OrderedJson value = schema.value("additionalProperties", OrderedJson(true));
  if (value == false) return;
  OrderedJson properties = OrderedJson::object();
  for (const OrderedJson& name : list)
    if (name.is_string()) properties[name.get<std::string>()] = value;
  if (properties.empty()) return;
  schema["properties"] = std::move(properties);
  schema.erase("propertyNames");
  schema["additionalProperties"] = false;
}

bool list_sets(OrderedJson& schema, const OrderedJson& root) {
  const OrderedJson* items = schema.contains("items") ? target_of(schema["items"], root) : nullptr;
  if (!items || !items->is_object() || schema.contains("prefixItems")) return false;
  for (const auto& [name, value] : items->items())
    if (name != "enum" && name != "const" && name != "type" && !is_schema_note(name)) return false;
  const std::optional<OrderedJson> given = schema_values(*items);
  const OrderedJson types = items->contains("type") ? as_list((*items)["type"]) : OrderedJson();
  OrderedJson values = OrderedJson::array(), lists = OrderedJson::array();
  std::set<std::string> keys;
  for (const OrderedJson& value : given.value_or(OrderedJson::array())) {
    const bool fits = types.is_null() || std::any_of(types.begin(), types.end(),
                                                     [&](const OrderedJson& type) { return type.is_string() && is_of_type(value, type.get<std::string>()); });
    if (fits && keys.insert(value_key(value)).second) values.push_back(value);
  }
  if (values.empty() || values.size() > kMaxSetValues || has_unsigned(values)) return false;
  const size_t least = schema.value("minItems", size_t{0}), most = schema.value("maxItems", values.size());
  for (size_t set = 0; set < size_t{1} << values.size(); ++set) {
    OrderedJson list = OrderedJson::array();
    for (size_t i = 0; i < values.size(); ++i)
      if (set >> i & 1) list.push_back(values[i]);
    if (list.size() >= least && list.size() <= most) lists.push_back(std::move(list));
  }
  if (lists.empty()) return false;
  schema = {{"enum", std::move(lists)}};
  return true;
}

}  // namespace flexgen
