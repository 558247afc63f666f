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

class Options {
 public:
  explicit Options(const OrderedJson& root) : root_(root) {}

  bool no_value_fits_two(const OrderedJson& options, const std::string* always) const {
    std::vector<Option> all;
    Texts listed;  // strings, of all options
    for (const OrderedJson& schema : options) {
      Option option;
      if (!read(schema, &option, &listed)) return false;
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
    OrderedJson listed = OrderedJson::array();  ///< values but for strings
    Texts types;                                ///< of what is written for it
    bool allows_others = false;
    // Of an object: the properties that are written, and what is said of them.
    Texts names, required, written;             ///< all that may come; those that must; those that always come
    std::map<std::string, OrderedJson> values;  ///< that a property must be one of, where it comes
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
        else option->listed.push_back(value);
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
        option->names.insert(name);
        const OrderedJson* target = target_of(property);
        if (const auto values = target && target->is_object() ? schema_values(*target) : std::nullopt) option->values[name] = *values;
      }
    option->takes_named = object.contains("additionalProperties") && object["additionalProperties"] == false && !object.contains("patternProperties");
    option->writes_named = has_properties(object) || option->takes_named;
  }

  /// Whether it can be seen that no value that is written for `a` fits `b`.
  static bool excludes(const Option& a, const Option& b) {
    if (a.lists && b.lists) return std::none_of(a.listed.begin(), a.listed.end(), [&](const OrderedJson& value) { return holds(b.listed, value); });
    if (!b.allows_others && std::none_of(a.types.begin(), a.types.end(), [&](const std::string& type) { return b.types.contains(type); })) return true;
    return !a.lists && !b.lists && a.types == Texts{"object"} && never_fits(a, b);
  }
  static bool holds(const OrderedJson& list, const OrderedJson& value) { return std::find(list.begin(), list.end(), value) != list.end(); }
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
    return std::any_of(a.written.begin(), a.written.end(), [&](const std::string& name) {
      if (b.takes_named && !b.names.contains(name)) return true;
      const auto mine = a.values.find(name), others = b.values.find(name);
      if (mine == a.values.end() || others == b.values.end()) return false;
      return std::none_of(mine->second.begin(), mine->second.end(), [&](const OrderedJson& value) { return holds(others->second, value); });
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

bool no_value_fits_two(const OrderedJson& options, const OrderedJson& root, const std::string* always) {
  return Options(root).no_value_fits_two(options, always);
}

}  // namespace flexgen
