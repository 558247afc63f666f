#include "text/grammar/parameter_types.h"

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/checked_json.h"
#include "text/grammar/schema_options.h"
#include "text/jinja/print.h"

namespace flexgen {
namespace {

using Json = nlohmann::ordered_json;
using Kinds = std::map<std::string, ParameterKind, std::less<>>;

constexpr int64_t kMaxSteps = 1 << 21;  // schemas that are looked at, again and again where several parameters refer to one

ValueTypes type_of_name(const Json& name) {
  constexpr std::array<std::pair<std::string_view, ValueTypes>, 7> kTypes{{{"null", kNullType},
                                                                           {"boolean", kBooleanType},
                                                                           {"integer", kIntegerType},
                                                                           {"number", kNumberType},
                                                                           {"string", kTextType},
                                                                           {"array", kListType},
                                                                           {"object", kObjectType}}};
  if (!name.is_string()) return 0;
  const auto* found = std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& type) { return type.first == name.get_ref<const std::string&>(); });
  return found == kTypes.end() ? 0 : found->second;
}

ValueTypes types_of_json(const Json& value) {
  if (value.is_null()) return kNullType;
  if (value.is_boolean()) return kBooleanType;
  if (value.is_string()) return kTextType;
  if (value.is_array()) return kListType;
  if (value.is_object()) return kObjectType;
  return value.is_number_integer() ? kIntegerType | kNumberType : kNumberType;
}

class KindReader {
 public:
  /// `steps`: those that may be taken still.
  KindReader(const Json& root, int64_t& steps) : root_(root), steps_(steps) {}

  Kinds parameters() {
    Kinds kinds;
    walk(root_, [&](const Json& schema, std::vector<const Json*>* next) {
      add_list(schema, "allOf", next);
      const auto properties = schema.find("properties");
      if (properties == schema.end() || !properties->is_object()) return;
      for (const auto& [name, property] : properties->items()) {
        ParameterKind kind = kind_of(property);
        ParameterKind& whole = kinds[name];
        whole.types |= kind.types;
        whole.texts.insert(whole.texts.end(), kind.texts.begin(), kind.texts.end());
      }
    });
    return kinds;
  }

 private:
  using Texts = std::set<std::string, std::less<>>;
  using Listed = std::pair<ValueTypes, std::shared_ptr<const Texts>>;

  /// Calls `look` with a schema, with what it refers to, and with those that this adds to, each once. False: that took too many steps.
  bool walk(const Json& schema, const std::function<void(const Json&, std::vector<const Json*>*)>& look) {
    std::vector<const Json*> next{&schema};
    std::set<const Json*> seen;
    while (!next.empty()) {
      const Json& one = *next.back();
      next.pop_back();
      if (--steps_ < 0) return false;
      if (!one.is_object() || !seen.insert(&one).second) continue;
      if (const auto reference = one.find("$ref"); reference != one.end() && reference->is_string())
        if (const Json* target = target_of_reference(reference->get_ref<const std::string&>())) next.push_back(target);
      look(one, &next);
    }
    return true;
  }

  const Json* target_of_reference(const std::string& reference) {
    const auto [found, is_new] = targets_.try_emplace(reference, nullptr);
    if (is_new) found->second = referenced(root_, reference);
    return found->second;
  }

  static void add_list(const Json& schema, const char* name, std::vector<const Json*>* next) {
    if (const auto list = schema.find(name); list != schema.end() && list->is_array())
      for (const Json& one : *list) next->push_back(&one);
  }

  ParameterKind kind_of(const Json& schema) {
    unsigned types = 0;
    bool nullable = false;
    ParameterKind kind;
    const auto add_values = [&](const Json& values, bool is_list) {
      const Listed& listed = listed_of(values, is_list);
      types |= listed.first;
      if (listed.second) kind.texts.push_back(listed.second);
    };
    const bool ends = walk(schema, [&](const Json& one, std::vector<const Json*>* next) {
      const unsigned before = std::exchange(types, 0);
      for (const auto& [name, value] : one.items()) {
        if (name == "type")
          for (const Json& type : as_list(value)) types |= type_of_name(type);
        else if (name == "const") add_values(value, false);
        else if (name == "enum" && value.is_array()) add_values(value, true);
        else if (name == "nullable") nullable |= value == true;
      }
      const size_t known = next->size();
      for (const char* name : {"anyOf", "oneOf", "allOf"}) add_list(one, name, next);
      if (types == 0 && next->size() == known && !one.contains("$ref"))
        for (const char* name : {"pattern", "minLength", "maxLength", "format"})
          if (one.contains(name)) types = kTextType;
      types |= before;
    });
    if (!ends || types == 0) return {};
    kind.types = static_cast<ValueTypes>(types | (nullable ? kNullType : 0u));
    if (kind.types == kTextType) kind.texts.clear();  // all are texts anyway
    return kind;
  }

  const Listed& listed_of(const Json& values, bool is_list) {
    const auto [found, is_new] = listed_.try_emplace(&values);
    if (!is_new) return found->second;
    unsigned types = 0;
    Texts texts;
    const auto add = [&](const Json& value) {
      types |= types_of_json(value);
      if (value.is_string()) texts.insert(value.get<std::string>());
    };
    if (is_list) std::for_each(values.begin(), values.end(), add);
    else add(values);
    found->second = {static_cast<ValueTypes>(types), texts.empty() ? nullptr : std::make_shared<const Texts>(std::move(texts))};
    return found->second;
  }

  const Json& root_;
  int64_t& steps_;
  std::unordered_map<std::string, const Json*> targets_;
  std::unordered_map<const Json*, Listed> listed_;
};

}  // namespace

ParameterTypes parameter_types(const jinja::Value& tools) {
  ParameterTypes types;
  int64_t steps = kMaxSteps;
  if (!tools.list()) return types;
  for (const jinja::Value& tool : tools.list()->items) {
    const jinja::Value* function = tool.member("function");
    const jinja::Value* name = function ? function->member("name") : nullptr;
    const jinja::Value* parameters = function ? function->member("parameters") : nullptr;
    if (!name || !name->text() || !parameters) continue;
    const Json schema = json_or_none<Json>(jinja::to_json(*parameters, {}));
    types.functions[name->text()->bytes] = KindReader(schema, steps).parameters();
  }
  return types;
}

bool set_parameter_types(const std::string& function, const Json& schema, ParameterTypes* types) {
  int64_t steps = kMaxSteps;
  types->functions[function] = KindReader(schema, steps).parameters();
  return steps >= 0;
}

}  // namespace flexgen
