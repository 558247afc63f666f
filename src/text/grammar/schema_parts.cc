#include "text/grammar/schema_parts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "text/grammar/schema_options.h"
#include "text/grammar/schema_work.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;
using Texts = std::set<std::string>;

constexpr size_t kMaxOptions = 64, kMaxJoins = 4000, kMaxChoicesWithin = 64, kPropertiesOfAStep = 16;
constexpr std::array kCombining{"$ref", "allOf", "anyOf", "oneOf"};
constexpr const char* kIdInAPart = "'$id' in a part of a schema is not supported";  // references in it would be looked up there
/// Said by options: either the one, or the other.
constexpr std::array kConditions{"if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"};

bool combines(const OrderedJson& schema) {
  const auto says = [&](const char* name) { return schema.contains(name); };
  return schema.is_object() && (std::any_of(kCombining.begin(), kCombining.end(), says) || std::any_of(kConditions.begin(), kConditions.end(), says));
}

/// Each part once: what lies within itself comes to the same again.
OrderedJson as_all_of(const OrderedJson& a, const OrderedJson& b) {
  SchemaWork::spend(a);
  SchemaWork::spend(b);
  OrderedJson parts = OrderedJson::array();
  for (const OrderedJson& one : {a, b}) {
    const bool is_list = one.is_object() && one.size() == 1 && one.contains("allOf") && one["allOf"].is_array();
    for (const OrderedJson& part : is_list ? one["allOf"] : OrderedJson::array({one})) {
      SchemaWork::spend(parts.size() * sizeof(OrderedJson));
      if (std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(part);
    }
  }
  return {{"allOf", std::move(parts)}};
}

/// The values that a schema lists; null: it lists none.
OrderedJson listed_values(const OrderedJson& schema) {
  const std::optional<OrderedJson> values = schema_values(schema);
  return values && values->is_array() ? *values : OrderedJson();
}

bool is_of_types(const OrderedJson& value, const OrderedJson& types) {
  const bool is_whole = value.is_number_float() && std::floor(value.get<double>()) == value.get<double>();
  return std::any_of(types.begin(), types.end(), [&](const OrderedJson& type) {
    return type.is_string() && (is_of_type(value, type.get<std::string>()) || (is_whole && type == "integer"));
  });
}

OrderedJson types_of_both(const OrderedJson& a, const OrderedJson& b) {
  OrderedJson types = OrderedJson::array();
  const auto add = [&](const OrderedJson& type) {
    if (std::find(types.begin(), types.end(), type) == types.end()) types.push_back(type);
  };
  for (const OrderedJson& one : as_list(a))
    for (const OrderedJson& other : as_list(b))
      if (one == other || (one == "integer" && other == "number")) add(one);
      else if (one == "number" && other == "integer") add(other);
  return types;
}

class Joining {
 public:
  /// Of plain schemas, which combine nothing.
  static std::optional<OrderedJson> both(const OrderedJson& a, const OrderedJson& b) {
    if (a.contains("$id") || b.contains("$id")) fail_user(kIdInAPart);
    SchemaWork::spend(a);
    SchemaWork::spend(b);
    OrderedJson out = a;
    if (!join_objects(a, b, &out)) return std::nullopt;
    for (const auto& [one, other] : {std::pair(&a, &b), std::pair(&b, &a)})
      if ((one->contains("prefixItems") || (one->contains("items") && (*one)["items"].is_array())) &&
          (other->contains("items") || other->contains("prefixItems")) && *one != *other)
        fail_user("a list of items in one part of it beside what another says of items is not supported");
    for (const auto& [name, value] : b.items()) {
      if (kOfObjects.contains(name) || is_schema_note(name)) continue;
      if (name == "const" || name == "enum") {
        if (!join_values(value, name == "const", &out)) return std::nullopt;
      } else if (!out.contains(name)) {
        out[name] = value;
      } else if (out[name] != value && !join(name, value, &out)) {
        return std::nullopt;
      }
    }
    return left(std::move(out));
  }

  /// Without what keywords rule out; nothing: they rule out all.
  static std::optional<OrderedJson> left(OrderedJson schema) {
    if (schema.contains("not") && schema.contains("type") && schema["type"] == "boolean" && listed_values(schema).is_null()) {
      schema.erase("type");
      schema["enum"] = {true, false};
    }
    OrderedJson values = listed_values(schema);
    if (values.is_null()) return schema;
    if (schema.contains("const") && schema.contains("enum") && !value_keys(schema["enum"]).contains(value_key(schema["const"]))) return std::nullopt;
    const OrderedJson types = schema.contains("type") ? as_list(schema["type"]) : OrderedJson();
    const OrderedJson without = schema.contains("not") && schema["not"].is_object() ? listed_values(schema["not"]) : OrderedJson();
    const Texts excluded = value_keys(without);
    OrderedJson kept = OrderedJson::array();
    for (const OrderedJson& value : values)
      if ((types.is_null() || is_of_types(value, types)) && (excluded.empty() || !excluded.contains(value_key(value)))) kept.push_back(value);
    if (kept.empty() && !values.empty()) return std::nullopt;
    if (!without.is_null()) schema.erase("not");
    schema.erase("const");
    schema["enum"] = std::move(kept);
    return schema;
  }

 private:
  /// Of `name`, which both have, and differently. False: no value is left.
  static bool join(const std::string& name, const OrderedJson& value, OrderedJson* out) {
    OrderedJson& mine = (*out)[name];
    const auto is_one_of = [&](std::initializer_list<const char*> names) { return std::find(names.begin(), names.end(), name) != names.end(); };
    if (is_one_of({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}) && mine.is_number() && value.is_number()) {
      if (number_of(value) > number_of(mine)) mine = value;
    } else if (is_one_of({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}) && mine.is_number() && value.is_number()) {
      if (number_of(value) < number_of(mine)) mine = value;
    } else if (name == "type") {
      OrderedJson types = types_of_both(mine, value);
      if (types.empty()) return false;
      mine = types.size() == 1 ? types.front() : std::move(types);
    } else if (name == "items" && !mine.is_array() && !value.is_array() && !out->contains("prefixItems")) {
      mine = both_schemas(mine, value).value_or(false);
    } else if (name == "not" && !listed_values(mine).is_null() && !listed_values(value).is_null()) {
      OrderedJson values = listed_values(mine);
      for (const OrderedJson& one : listed_values(value)) values.push_back(one);
      mine = {{"enum", std::move(values)}};
    } else if (name == "uniqueItems" && mine.is_boolean() && value.is_boolean()) {
      mine = true;
    } else {
      refuse(name);
    }
    return true;
  }
  [[noreturn]] static void refuse(const std::string& name) { fail_user("'{}' of two parts of it that differ is not supported", name); }

  static bool join_values(const OrderedJson& value, bool is_const, OrderedJson* out) {
    const OrderedJson theirs = is_const ? OrderedJson::array({value}) : value, mine = listed_values(*out);
    if (!theirs.is_array()) fail_user("'enum' must be a list of values");
    if (mine.is_null()) {
      (*out)["enum"] = theirs;
      return true;
    }
    OrderedJson shared = OrderedJson::array();
    const Texts keys = value_keys(theirs);
    for (const OrderedJson& one : mine)
      if (keys.contains(value_key(one))) shared.push_back(one);
    if (shared.empty()) return false;
    out->erase("const");
    (*out)["enum"] = std::move(shared);
    return true;
  }

  /// What `schema` says of a property that it does not name: null for nothing.
  static OrderedJson of_others(const OrderedJson& schema) {
    return schema.contains("additionalProperties") && schema["additionalProperties"] != true ? schema["additionalProperties"] : OrderedJson();
  }
  /// An object of ordered JSON looks for a name from its front.
  using Named = std::map<std::string_view, const OrderedJson*>;
  static Named named(const OrderedJson& schema) {
    Named all;
    if (!schema.contains("properties")) return all;
    if (!schema["properties"].is_object()) fail_user("'properties' must be an object");
    for (const auto& property : schema["properties"].items()) all.emplace(property.key(), &property.value());
    return all;
  }

  static bool join_objects(const OrderedJson& a, const OrderedJson& b, OrderedJson* out) {
    for (const char* of_names : {"patternProperties", "propertyNames"})
      for (const auto& [one, other] : {std::pair(&a, &b), std::pair(&b, &a)})
        if (one->contains(of_names) && (other->contains("properties") || other->contains("additionalProperties") || other->contains(of_names)) &&
            (!other->contains(of_names) || (*one)[of_names] != (*other)[of_names]))
          fail_user("'{}' of one part of it beside what another says of properties is not supported", of_names);
    OrderedJson required = OrderedJson::array();
    OrderedJson::object_t all;
    const Named of_a = named(a), of_b = named(b);
    const auto add = [&](const OrderedJson& one, const Named& others, const OrderedJson& other, bool first) {
      if (!one.contains("properties")) return;
      for (const auto& [name, schema] : one["properties"].items()) {
        const auto same = others.find(name);
        if (!first && same != others.end()) continue;
        const OrderedJson beside = same != others.end() ? *same->second : of_others(other);
        all.emplace_back(name, beside.is_null() ? schema : both_schemas(schema, beside).value_or(false));
      }
    };
    add(a, of_b, b, true);
    add(b, of_a, a, false);
    OrderedJson properties = std::move(all);
    Texts is_required;
    for (const OrderedJson* one : {&a, &b})
      if (one->contains("required")) {
        if (!(*one)["required"].is_array()) fail_user("'required' must be a list of names");
        for (const OrderedJson& name : (*one)["required"])
          if (is_required.insert(value_key(name)).second) required.push_back(name);
      }
    std::map<std::string_view, bool> may_come;  // of those with a name
    for (const auto& property : properties.items()) may_come.emplace(property.key(), property.value() != false);
    const bool others_may_come = of_others(a) != false && of_others(b) != false;
    for (const OrderedJson& name : required) {
      if (!name.is_string()) continue;
      const auto known = may_come.find(name.get_ref<const std::string&>());
      if (known != may_come.end() ? !known->second : !others_may_come) return false;
    }
    if (!properties.empty()) (*out)["properties"] = std::move(properties);
    if (!required.empty()) (*out)["required"] = std::move(required);
    if (b.contains("additionalProperties"))
      (*out)["additionalProperties"] =
          a.contains("additionalProperties") ? both_schemas(a["additionalProperties"], b["additionalProperties"]).value_or(false) : b["additionalProperties"];
    for (const char* of_names : {"patternProperties", "propertyNames"})
      if (b.contains(of_names)) (*out)[of_names] = b[of_names];
    return true;
  }

  inline static const std::set<std::string_view> kOfObjects{"properties", "required", "additionalProperties", "patternProperties", "propertyNames"};
};

/// Takes a schema apart at its top: what its keywords say, and of which options one must fit besides.
class Parts {
 public:
  explicit Parts(const OrderedJson& root) : root_(root) {}

  /// As plain schemas of which one must fit; none: no value fits. `exclusive`: set to false where it must be one alone, and that is not known. `last`: nothing is joined to them later.
  std::vector<OrderedJson> options_of(const OrderedJson& schema, bool* exclusive, bool last = true) {
    if (++steps_ > kMaxJoins) fail_user("its parts come to too many options together, or lead to themselves");
    Flat flat;
    Texts followed;
    if (!flatten(schema, followed, &flat)) return {};
    if (flat.base.contains("properties")) steps_ += flat.base["properties"].size() / kPropertiesOfAStep;
    std::optional<OrderedJson> base = Joining::left(std::move(flat.base));
    if (!base) return {};
    std::vector<OrderedJson> all{std::move(*base)};
    // What leads to itself would copy all of it at each level.
    if (++depth_ > kMaxChoicesWithin) fail_user("its parts come to too many options together, or lead to themselves");
    for (size_t i = 0; i < flat.choices.size(); ++i)
      all = with_choice(all, flat.choices[i], flat.choices.size() == 1, exclusive, last && i + 1 == flat.choices.size());
    --depth_;
    return all;
  }

 private:
  struct Choice {
    OrderedJson options;
    bool one_alone = false;
  };
  struct Flat {
    OrderedJson base = OrderedJson::object();
    std::vector<Choice> choices;
  };

  std::vector<OrderedJson> with_choice(const std::vector<OrderedJson>& all, const Choice& choice, bool alone, bool* exclusive, bool last) {
    std::vector<OrderedJson> joined;
    for (const OrderedJson& one : all) {
      std::vector<OrderedJson> of_one;
      bool each_is_plain = true;
      for (const OrderedJson& option : choice.options) {
        std::vector<OrderedJson> plain = options_of(as_all_of(one, option), exclusive, last);
        each_is_plain = each_is_plain && plain.size() <= 1;
        for (OrderedJson& schema : plain) of_one.push_back(std::move(schema));
        if (joined.size() + of_one.size() > kMaxOptions) fail_user("its parts come to more than {} options together", kMaxOptions);
      }
      if (choice.one_alone && of_one.size() > 1 && !are_apart(&of_one, last) && !tell_apart(&of_one, each_is_plain)) {
        if (!alone || !each_is_plain) fail_user("'oneOf' beside other keywords is not supported where a value may fit two of its options");
        *exclusive = false;
      }
      for (OrderedJson& schema : of_one) joined.push_back(std::move(schema));
    }
    return joined;
  }

  /// Whether no value fits two; what is joined to them later may name what only its absence told apart: so it is said to be absent.
  bool are_apart(std::vector<OrderedJson>* options, bool last) const {
    if (!no_value_fits_two(*options, root_)) return false;
    if (last || no_value_fits_two(*options, root_, nullptr, true)) return true;
    std::vector<OrderedJson> said = *options;
    for (OrderedJson& option : said)
      if (option.contains("properties") && !option.contains("type") && listed_values(option).is_null()) option["type"] = "object";  // as it is written
    const std::vector<OrderedJson> given = said;
    for (size_t i = 0; i < said.size(); ++i)
      for (size_t j = 0; j < given.size(); ++j) {
        const auto fits_one = [&] { return no_value_fits_two(OrderedJson::array({said[i], given[j]}), root_, nullptr, true); };
        if (i == j || fits_one()) continue;
        if (!given[i].contains("properties") || !given[j].contains("required")) return false;
        for (const OrderedJson& name : given[j]["required"]) {
          if (!name.is_string() || said[i]["properties"].contains(name.get<std::string>())) continue;
          if (given[i].contains("required") && std::find(given[i]["required"].begin(), given[i]["required"].end(), name) != given[i]["required"].end())
            continue;
          said[i]["properties"][name.get<std::string>()] = false;
          break;
        }
        if (!fits_one()) return false;
      }
    *options = std::move(said);
    return true;
  }

  /// Leaves properties out of each option that others require, so that no value fits two.
  static bool tell_apart(std::vector<OrderedJson>* options, bool each_is_plain) {
    if (!each_is_plain) return false;
    const auto required = [](const OrderedJson& option) { return option.contains("required") ? option["required"] : OrderedJson::array(); };
    const std::vector<OrderedJson> given = *options;
    for (size_t i = 0; i < options->size(); ++i) {
      OrderedJson& option = (*options)[i];
      if (!option.contains("properties") || !option["properties"].is_object() || !option.contains("type") || option["type"] != "object") return false;
      const OrderedJson mine = required(option);
      for (size_t j = 0; j < given.size(); ++j) {
        if (j == i) continue;
        const OrderedJson theirs = required(given[j]);
        const auto name =
            std::find_if(theirs.begin(), theirs.end(), [&](const OrderedJson& one) { return std::find(mine.begin(), mine.end(), one) == mine.end(); });
        if (name == theirs.end() || !name->is_string()) return false;
        option["properties"][name->get<std::string>()] = false;
      }
    }
    return true;
  }

  /// False: no value fits.
  bool flatten(const OrderedJson& schema, const Texts& followed, Flat* flat) {
    if (schema == true) return true;
    if (schema == false) return false;
    if (!schema.is_object()) fail_user("a schema is an object or true, not {}", json_type(schema));
    if (schema.contains("$id") && &schema != &root_) fail_user(kIdInAPart);
    OrderedJson plain = OrderedJson::object();
    for (const auto& [name, value] : schema.items()) {
      const bool is_apart = std::find(kCombining.begin(), kCombining.end(), name) != kCombining.end() ||
                            std::find(kConditions.begin(), kConditions.end(), name) != kConditions.end() || name == "not";
      if (!is_apart && !is_schema_note(name)) plain[name] = value;
    }
    if (plain.contains("unevaluatedProperties")) {  // of this part alone
      if (plain["unevaluatedProperties"] != false || combines(schema)) fail_user("'unevaluatedProperties' in a part of it is not supported");
      if (!plain.contains("additionalProperties")) plain["additionalProperties"] = false;
      plain.erase("unevaluatedProperties");
    }
    std::optional<OrderedJson> both = Joining::both(flat->base, plain);
    if (!both) return false;
    flat->base = std::move(*both);
    if (schema.contains("not") && !add_negation(schema["not"], flat)) return false;
    add_conditions(schema, flat);
    if (schema.contains("$ref")) {
      if (!schema["$ref"].is_string()) fail_user("'$ref' must be a string");
      const auto& reference = schema["$ref"].get_ref<const std::string&>();
      const OrderedJson* target = referenced(root_, reference);
      if (!target) fail_user("$ref '{}' leads to no schema of this one", reference);
      if (followed.contains(reference)) fail_user("$ref '{}' leads to itself", reference);
      Texts further = followed;
      further.insert(reference);
      if (!flatten(*target, further, flat)) return false;
    }
    for (const char* name : {"allOf", "anyOf", "oneOf"}) {
      if (!schema.contains(name)) continue;
      if (!schema[name].is_array() || schema[name].empty()) fail_user("'{}' must be a list of schemas", name);
      if (name != std::string_view("allOf")) {
        flat->choices.push_back({schema[name], name == std::string_view("oneOf")});
        continue;
      }
      for (const OrderedJson& one : schema[name])
        if (!flatten(one, followed, flat)) return false;
    }
    return true;
  }

  static OrderedJson without(const std::string& name) { return {{"properties", {{name, false}}}}; }
  static OrderedJson object_without(const std::string& name) { return {{"type", "object"}, {"properties", {{name, false}}}}; }

  /// What must not be, where it can be said: values, types, properties that are there.
  static bool add_negation(const OrderedJson& negated, Flat* flat) {
    const bool alone = negated.is_object() && negated.size() == 1;
    if (alone && negated.contains("required") && negated["required"].is_array() && !negated["required"].empty()) {
      OrderedJson options = OrderedJson::array();
      for (const OrderedJson& name : negated["required"]) {
        if (!name.is_string()) fail_user("'required' must be a list of names");
        options.push_back(object_without(name.get<std::string>()));
      }
      flat->choices.push_back({std::move(options), false});
      return true;
    }
    if (alone && negated.contains("type")) {
      const OrderedJson types = as_list(negated["type"]);
      static const OrderedJson all_types = {"string", "number", "array", "object", "boolean", "null"};
      const auto has = [&](const char* type) { return std::find(types.begin(), types.end(), type) != types.end(); };
      if (has("integer") && !has("number")) fail_user("'not' of integers is not supported");
      OrderedJson others = OrderedJson::array();
      for (const OrderedJson& type : all_types)
        if (std::find(types.begin(), types.end(), type) == types.end()) others.push_back(type);
      std::optional<OrderedJson> both = Joining::both(flat->base, {{"type", others}});
      if (!both) return false;
      flat->base = std::move(*both);
      return true;
    }
    if (alone && !listed_values(negated).is_null()) {
      std::optional<OrderedJson> both = Joining::both(flat->base, {{"not", negated}});
      if (both) flat->base = std::move(*both);
      return both.has_value();
    }
    fail_user("'not' is not supported but of 'const', 'enum', 'type' or 'required' alone");
  }

  static void add_conditions(const OrderedJson& schema, Flat* flat) {
    if (schema.contains("if")) {
      OrderedJson options = OrderedJson::array();
      const OrderedJson then = schema.contains("then") ? schema["then"] : OrderedJson(true),
                        otherwise = schema.contains("else") ? schema["else"] : OrderedJson(true);
      options.push_back(as_all_of(schema["if"], then));
      for (const OrderedJson& negation : negations_of(schema["if"])) options.push_back(as_all_of(negation, otherwise));
      flat->choices.push_back({std::move(options), false});
    }
    for (const char* name : {"dependentRequired", "dependentSchemas", "dependencies"}) {
      if (!schema.contains(name)) continue;
      if (!schema[name].is_object()) fail_user("'{}' must be an object", name);
      for (const auto& [property, needed] : schema[name].items()) {
        const OrderedJson is_there = {{"required", OrderedJson::array({property})}};
        const OrderedJson with = as_all_of(is_there, needed.is_array() ? OrderedJson{{"required", needed}} : needed);
        flat->choices.push_back({OrderedJson::array({with, without(property)}), false});
      }
    }
  }

  /// Schemas that no value of `condition` fits.
  static OrderedJson negations_of(const OrderedJson& condition) {
    OrderedJson negations = OrderedJson::array();
    if (condition == false) return OrderedJson::array({true});
    if (condition == true) return negations;
    if (!condition.is_object()) fail_user("'if' must be a schema");
    for (const auto& [name, value] : condition.items())
      if (name != "properties" && name != "required" && !is_schema_note(name) && !(name == "type" && value == "object"))
        fail_user("'if' is not supported but of 'required' and of 'const' or 'enum' of properties; '{}' is in it", name);
    if (condition.contains("properties") && condition["properties"].is_object())
      for (const auto& [name, property] : condition["properties"].items()) {
        if (!property.is_object() || property.empty() || listed_values(property).is_null())
          fail_user("'if' is not supported but of 'required' and of 'const' or 'enum' of properties");
        for (const auto& [keyword, value] : property.items())
          if (keyword != "const" && keyword != "enum" && keyword != "type" && !is_schema_note(keyword))
            fail_user("'if' is not supported but of 'required' and of 'const' or 'enum' of properties");
        const OrderedJson values = listed_values(property), types = property.contains("type") ? as_list(property["type"]) : OrderedJson();
        if (!types.is_null() && !std::all_of(values.begin(), values.end(), [&](const OrderedJson& value) { return is_of_types(value, types); }))
          fail_user("'if' has a property with a value that is not of the 'type' beside it");
        negations.push_back(
            {{"type", "object"}, {"properties", {{name, {{"not", {{"enum", listed_values(property)}}}}}}}, {"required", OrderedJson::array({name})}});
      }
    if (condition.contains("required") && condition["required"].is_array())
      for (const OrderedJson& name : condition["required"])
        if (name.is_string()) negations.push_back(object_without(name.get<std::string>()));
    return negations;
  }

  const OrderedJson& root_;
  size_t steps_ = 0, depth_ = 0;
};

}  // namespace

std::optional<OrderedJson> both_schemas(const OrderedJson& a, const OrderedJson& b) {
  if (a == false || b == false) return std::nullopt;
  if (a == true) return b;
  if (b == true) return a;
  if (!a.is_object() || !b.is_object()) fail_user("a schema is an object or true, not {}", json_type(a.is_object() ? b : a));
  if (combines(a) || combines(b)) return as_all_of(a, b);
  return Joining::both(a, b);
}

bool has_parts(const OrderedJson& schema) {
  const auto says = [&](const char* name) { return schema.contains(name); };
  if (!schema.is_object()) return false;
  if (schema.contains("not") || std::any_of(kConditions.begin(), kConditions.end(), says)) return true;
  if (!combines(schema)) return false;
  if (schema.contains("allOf") && (!schema["allOf"].is_array() || schema["allOf"].size() > 1)) return true;
  return std::count_if(schema.items().begin(), schema.items().end(), [](const auto& member) { return !is_schema_note(member.key()); }) > 1;
}

OrderedJson joined_schema(const OrderedJson& schema, const OrderedJson& root) {
  bool exclusive = true;
  OrderedJson said = schema;
  const OrderedJson unevaluated = said.contains("unevaluatedProperties") ? said["unevaluatedProperties"] : OrderedJson();  // by all parts together
  said.erase("unevaluatedProperties");
  said.erase("$id");  // at the root; elsewhere it is refused where the schema is visited
  std::vector<OrderedJson> options = Parts(root).options_of(said, &exclusive);
  if (!unevaluated.is_null())
    for (OrderedJson& option : options) option["unevaluatedProperties"] = unevaluated;
  if (options.empty()) fail_user("no value fits all that is said");
  if (std::any_of(options.begin(), options.end(), [](const OrderedJson& option) { return option.contains("not"); }))
    fail_user("'not' of values is supported beside 'enum', 'const' or the type boolean alone");
  if (options.size() == 1) return std::move(options.front());
  return {{exclusive ? "anyOf" : "oneOf", options}};
}

}  // namespace flexgen
