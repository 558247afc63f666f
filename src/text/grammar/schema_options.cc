#include "text/grammar/schema_options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <vector>

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;
using Texts = std::set<std::string>;

const std::set<std::string_view> kNotes{"title",   "description", "default", "examples",    "deprecated", "readOnly",     "writeOnly",     "$comment",
                                        "$schema", "$id",         "$defs",   "definitions", "example",    "externalDocs", "discriminator", "$anchor"};

/// %20 and its like as the bytes that they stand for.
std::string without_percents(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned byte = 0;
    const char* const digits = text.data() + i + 1;
    const bool is_byte = text[i] == '%' && i + 2 < text.size() && std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2;
    out += is_byte ? static_cast<char>(byte) : text[i];
    if (is_byte) i += 2;
  }
  return out;
}

/// With members of objects in the order of their names, and whole numbers without a fraction.
nlohmann::json in_order(const OrderedJson& value) {
  constexpr double kTwoTo64 = 18446744073709551616.0;
  if (value.is_object()) {
    nlohmann::json object = nlohmann::json::object();
    for (const auto& [name, member] : value.items()) object[name] = in_order(member);
    return object;
  }
  if (value.is_array()) {
    nlohmann::json list = nlohmann::json::array();
    for (const OrderedJson& one : value) list.push_back(in_order(one));
    return list;
  }
  if (!value.is_number_float()) return nlohmann::json(value);
  const auto number = value.get<double>();
  if (number != std::floor(number) || number >= kTwoTo64 || number < -kTwoTo64 / 2) return number;
  if (number < 0) return static_cast<int64_t>(number);
  return static_cast<uint64_t>(number);
}

class Options {
 public:
  explicit Options(const OrderedJson& root) : root_(root) {}

  bool no_value_fits_two(const OrderedJson& options, const std::string* always, bool of_all) const {
    std::vector<Option> all;
    Texts listed;  // strings, of all options
    for (const OrderedJson& schema : options) {
      Option option;
      if (!read(schema, &option, &listed)) return false;
      if (of_all) {
        if (option.allows_others) return false;
        option.writes_named = option.takes_named;
      }
      if (always && option.values.contains(*always)) option.written.insert(*always);
      for (const Option& before : all)
        if (!excludes(before, option) || !excludes(option, before)) return false;
      all.push_back(std::move(option));
    }
    return true;
  }

  /// `followed`: what was found of references; of those that are being looked at nothing is known.
  bool allows_only(const OrderedJson& schema, const Texts& types, std::map<std::string, bool>* followed) const {
    if (!schema.is_object()) return false;
    const auto only = [&](const OrderedJson& one) { return allows_only(one, types, followed); };
    const auto is_one = [&](const OrderedJson& type) {
      return types.contains(type.is_string() ? type.get<std::string>() : "") || (type == "integer" && types.contains("number"));
    };
    if (schema.contains("type"))
      if (const OrderedJson given = as_list(schema["type"]); !given.empty() && std::all_of(given.begin(), given.end(), is_one)) return true;
    if (schema.contains("$ref")) {
      if (!schema["$ref"].is_string()) return false;
      const auto& reference = schema["$ref"].get_ref<const std::string&>();
      if (const auto [known, is_new] = followed->emplace(reference, false); !is_new) return known->second;
      const OrderedJson* target = referenced(root_, reference);
      return (*followed)[reference] = target && only(*target);
    }
    if (const auto values = schema_values(schema))
      return std::all_of(values->begin(), values->end(), [&](const OrderedJson& value) { return is_one(json_type(value)); });
    for (const char* name : {"anyOf", "oneOf"})
      if (schema.contains(name)) return schema[name].is_array() && std::all_of(schema[name].begin(), schema[name].end(), only);
    return schema.contains("allOf") && schema["allOf"].is_array() && std::any_of(schema["allOf"].begin(), schema["allOf"].end(), only);
  }

  /// What a reference leads to; null where it leads to nothing, or round in a circle.
  const OrderedJson* target_of(const OrderedJson& schema) const {
    const OrderedJson* at = &schema;
    for (Texts followed; at->is_object() && at->contains("$ref");) {
      const OrderedJson& reference = (*at)["$ref"];
      if (!reference.is_string()) return nullptr;
      const auto& text = reference.get_ref<const std::string&>();
      at = followed.insert(text).second ? referenced(root_, text) : nullptr;
      if (!at) return nullptr;
    }
    return at;
  }

 private:
  /// Adds the types of the values that a schema allows. False: it does not say.
  bool add_types(const OrderedJson& schema, Texts* types, Texts* followed) const {
    if (!schema.is_object()) return false;
    if (schema.contains("$ref")) {
      // One that was looked at has added its types, or is adding them.
      if (schema["$ref"].is_string() && !followed->insert(schema["$ref"].get<std::string>()).second) return true;
      const OrderedJson* target = target_of(schema);
      return target && add_types(*target, types, followed);
    }
    if (const auto values = schema_values(schema)) {
      for (const OrderedJson& value : *values) add_type(json_type(value), types);
      return true;
    }
    if (schema.contains("type")) {
      for (const OrderedJson& type : as_list(schema["type"]))
        if (type.is_string()) add_type(type.get<std::string>(), types);
      return true;
    }
    for (const char* name : {"anyOf", "oneOf"})
      if (schema.contains(name)) {
        const OrderedJson& options = schema[name];
        return options.is_array() && std::all_of(options.begin(), options.end(), [&](const OrderedJson& option) { return add_types(option, types, followed); });
      }
    return false;
  }
  static void add_type(const std::string& type, Texts* types) {
    types->insert(type);
    if (type == "number") types->insert({"integer", "fraction"});
  }

  /// What is known of the values that an option allows.
  struct Option {
    bool lists = false;
    Texts listed;  ///< value_key() of values but for strings
    Texts types;   ///< of what is written for it
    bool allows_others = false;
    // Of an object: the properties that are written, and what is said of them.
    Texts names, required, written, never;  ///< all that may come; those that must; those that always come; those that are said not to
    std::map<std::string, Texts> values;    ///< value_key() of those that a property must be one of, where it comes
    bool writes_named = false, takes_named = false;
  };

  /// False: it does not say enough, or lists a string that is in `strings`, to which its own are added.
  bool read(const OrderedJson& schema, Option* option, Texts* strings) const {
    const OrderedJson* target = target_of(schema);
    if (!target || !target->is_object()) return false;
    if (const auto values = schema_values(*target)) {
      option->lists = true;
      Texts own;
      for (const OrderedJson& value : *values) {
        option->types.insert(shown_type(value));
        if (value.is_string()) own.insert(value.get<std::string>());
        else option->listed.insert(value_key(value));
      }
      return std::all_of(own.begin(), own.end(), [&](const std::string& text) { return strings->insert(text).second; });
    }
    Texts followed;
    if (!add_types(schema, &option->types, &followed)) {  // it is written as what it speaks of, and allows all others
      if (!has_properties(*target)) return false;
      option->types = {"object"};
      option->allows_others = true;
    }
    if (option->types == Texts{"object"}) read_object(*target, option);
    return !option->types.empty();
  }

  void read_object(const OrderedJson& object, Option* option) const {
    if (object.contains("required") && object["required"].is_array())
      for (const OrderedJson& name : object["required"])
        if (name.is_string()) option->required.insert(name.get<std::string>());
    option->names = option->written = option->required;
    if (has_properties(object))
      for (const auto& [name, property] : object["properties"].items()) {
        (property == false ? option->never : option->names).insert(name);
        const OrderedJson* target = target_of(property);
        if (const auto values = target && target->is_object() ? schema_values(*target) : std::nullopt) option->values[name] = value_keys(*values);
      }
    option->takes_named = object.contains("additionalProperties") && object["additionalProperties"] == false && !object.contains("patternProperties");
    option->writes_named = has_properties(object) || option->takes_named;
  }

  /// Whether it can be seen that no value that is written for `a` fits `b`.
  static bool excludes(const Option& a, const Option& b) {
    if (a.lists && b.lists) return share_none(a.listed, b.listed);
    if (!b.allows_others && std::none_of(a.types.begin(), a.types.end(), [&](const std::string& type) { return b.types.contains(type); })) return true;
    return !a.lists && !b.lists && a.types == Texts{"object"} && never_fits(a, b);
  }
  static bool share_none(const Texts& a, const Texts& b) {
    return std::none_of(a.begin(), a.end(), [&](const std::string& key) { return b.contains(key); });
  }
  /// 1.0 may be either.
  static std::string shown_type(const OrderedJson& value) {
    const bool is_whole = value.is_number_float() && std::floor(value.get<double>()) == value.get<double>();
    return is_whole ? "integer" : value.is_number_float() ? "fraction" : json_type(value);
  }
  static bool has_properties(const OrderedJson& object) {
    return object.contains("properties") && object["properties"].is_object() && !object["properties"].empty();
  }

  /// Whether no object that is written for `a`, with properties that it names alone, fits `b`.
  static bool never_fits(const Option& a, const Option& b) {
    if (a.writes_named && std::any_of(b.required.begin(), b.required.end(), [&](const std::string& name) { return !a.names.contains(name); })) return true;
    if (std::any_of(b.required.begin(), b.required.end(), [&](const std::string& name) { return a.never.contains(name); })) return true;
    return std::any_of(a.written.begin(), a.written.end(), [&](const std::string& name) {
      if ((b.takes_named && !b.names.contains(name)) || b.never.contains(name)) return true;
      const auto mine = a.values.find(name), others = b.values.find(name);
      if (mine == a.values.end() || others == b.values.end()) return false;
      return share_none(mine->second, others->second);
    });
  }

  const OrderedJson& root_;
};

}  // namespace

std::optional<OrderedJson> schema_values(const OrderedJson& schema) {
  if (schema.contains("const")) return OrderedJson::array({schema["const"]});
  if (schema.contains("enum")) return as_list(schema["enum"]);
  return {};
}

std::string value_key(const OrderedJson& value) { return in_order(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); }

std::set<std::string> value_keys(const OrderedJson& values) {
  std::set<std::string> keys;
  for (const OrderedJson& value : values) keys.insert(value_key(value));
  return keys;
}

long double number_of(const OrderedJson& number) {
  if (number.is_number_unsigned()) return static_cast<long double>(number.get<uint64_t>());
  return number.is_number_integer() ? static_cast<long double>(number.get<int64_t>()) : static_cast<long double>(number.get<double>());
}

std::string json_type(const OrderedJson& value) {
  if (value.is_number_integer()) return "integer";
  if (value.is_number()) return "number";
  return value.is_boolean() ? "boolean" : value.type_name();
}

const OrderedJson* target_of(const OrderedJson& schema, const OrderedJson& root) { return Options(root).target_of(schema); }

bool is_schema_note(const std::string& name) { return kNotes.contains(name) || name.starts_with("x-"); }

bool is_of_type(const OrderedJson& value, const std::string& type) { return json_type(value) == type || (type == "number" && value.is_number_integer()); }

bool allows_only(const OrderedJson& schema, const std::set<std::string>& types, const OrderedJson& root) {
  std::map<std::string, bool> followed;
  return Options(root).allows_only(schema, types, &followed);
}

OrderedJson as_list(const OrderedJson& value) { return value.is_array() ? value : OrderedJson::array({value}); }

const OrderedJson* referenced(const OrderedJson& root, const std::string& reference) {
  std::string path = reference;
  if (const auto id = root.is_object() ? root.find("$id") : root.end(); id != root.end() && id->is_string())
    if (const auto& name = id->get_ref<const std::string&>(); !name.empty() && !name.ends_with('#') && path.starts_with(name)) path.erase(0, name.size());
  if (path != "#" && !path.starts_with("#/")) return nullptr;
  path = without_percents(path);
  try {  // what a text may be, and an index, is nlohmann's to say
    const OrderedJson::json_pointer pointer(path.substr(1));
    return root.contains(pointer) ? &root.at(pointer) : nullptr;
  } catch (const OrderedJson::exception&) {
    return nullptr;
  }
}

namespace {

/// `names`: its members are schemas by names of their own, which are no keywords.
void allow_nulls_in(OrderedJson& schema, bool names) {
  if (schema.is_object() && !names) {
    const auto nullable = schema.find("nullable");
    const bool says = nullable != schema.end() && nullable->is_boolean() && (*nullable == false || schema.contains("type"));
    if (says && *nullable == true) {
      OrderedJson types = as_list(schema["type"]);
      if (std::find(types.begin(), types.end(), "null") == types.end()) types.push_back("null");
      schema["type"] = std::move(types);
    }
    if (says) schema.erase("nullable");
  }
  if (!schema.is_structured()) return;
  static const std::set<std::string_view> data{"const", "enum", "default", "example", "examples"};
  static const std::set<std::string_view> by_name{"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"};
  for (auto& [name, part] : schema.items())
    if (names || !data.contains(name)) allow_nulls_in(part, !names && by_name.contains(name));
}

}  // namespace

void allow_nulls(OrderedJson& schema) { allow_nulls_in(schema, false); }

bool no_value_fits_two(const OrderedJson& options, const OrderedJson& root, const std::string* always, bool of_all) {
  return Options(root).no_value_fits_two(options, always, of_all);
}

}  // namespace flexgen
