#include "text/grammar/schema_options.h"

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;
using Texts = std::set<std::string>;

const std::set<std::string_view> kNotes{"title",   "description", "default", "examples",    "deprecated", "readOnly",     "writeOnly",    "$comment",
                                        "$schema", "$id",         "$defs",   "definitions", "example",    "externalDocs", "discriminator"};

/// Of `const` or `enum`; nothing if a schema has neither.
std::optional<OrderedJson> values_of(const OrderedJson& schema) {
  if (schema.contains("const")) return OrderedJson::array({schema["const"]});
  if (schema.contains("enum")) return as_list(schema["enum"]);
  return {};
}

class Options {
 public:
  explicit Options(const OrderedJson& root) : root_(root) {}

  bool no_value_fits_two(const OrderedJson& options) const {
    Texts seen;
    std::vector<const OrderedJson*> objects;
    for (const OrderedJson& option : options) {
      Texts types, followed;
      if (!add_types(option, &types, &followed) || types.empty()) return false;
      if (types == Texts{"object"}) {
        objects.push_back(&option);
        if (objects.size() > 1) continue;
      }
      for (const std::string& type : types)
        if (!seen.insert(type).second) return false;
    }
    return objects.size() < 2 || are_told_apart(objects);
  }

  /// `followed`: references that were looked at, or are being looked at: these say nothing more.
  bool allows_only(const OrderedJson& schema, const Texts& types, Texts* followed) const {
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
      if (!followed->insert(reference).second) return true;
      const OrderedJson* target = referenced(root_, reference);
      return target && only(*target);
    }
    if (const auto values = values_of(schema))
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
    if (const auto values = values_of(schema)) {
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
    if (type == "integer") types->insert("number");  // 1.0 may be either
    if (type == "number") types->insert("integer");
  }

  /// The strings that a property of an object must be one of; nothing if it may be left out, or be something else.
  std::optional<Texts> texts_of(const OrderedJson& object, const std::string& name) const {
    if (!object.contains("required") || !object["required"].is_array() || !object.contains("properties") || !object["properties"].contains(name)) return {};
    const OrderedJson& required = object["required"];
    if (std::find(required.begin(), required.end(), OrderedJson(name)) == required.end()) return {};
    const OrderedJson* property = target_of(object["properties"][name]);
    const auto values = property && property->is_object() ? values_of(*property) : std::nullopt;
    if (!values) return {};
    Texts texts;
    for (const OrderedJson& value : *values) {
      if (!value.is_string()) return {};
      texts.insert(value.get<std::string>());
    }
    return texts;
  }

  bool tells_apart(const std::string& name, const std::vector<const OrderedJson*>& objects) const {
    Texts seen;
    return std::all_of(objects.begin(), objects.end(), [&](const OrderedJson* object) {
      const std::optional<Texts> texts = texts_of(*object, name);
      return texts && std::all_of(texts->begin(), texts->end(), [&](const std::string& text) { return seen.insert(text).second; });
    });
  }

  bool are_told_apart(std::vector<const OrderedJson*> objects) const {
    for (const OrderedJson*& object : objects) {
      object = target_of(*object);
      if (!object->contains("properties") || !(*object)["properties"].is_object()) return false;
    }
    const OrderedJson& first = (*objects.front())["properties"];
    return std::any_of(first.items().begin(), first.items().end(), [&](const auto& property) { return tells_apart(property.key(), objects); });
  }

  const OrderedJson& root_;
};

}  // namespace

std::string json_type(const OrderedJson& value) {
  if (value.is_number_integer()) return "integer";
  if (value.is_number()) return "number";
  return value.is_boolean() ? "boolean" : value.type_name();
}

const OrderedJson* target_of(const OrderedJson& schema, const OrderedJson& root) { return Options(root).target_of(schema); }

bool is_schema_note(const std::string& name) { return kNotes.contains(name) || name.starts_with("x-"); }

bool is_of_type(const OrderedJson& value, const std::string& type) { return json_type(value) == type || (type == "number" && value.is_number_integer()); }

bool allows_only(const OrderedJson& schema, const std::set<std::string>& types, const OrderedJson& root) {
  Texts followed;
  return Options(root).allows_only(schema, types, &followed);
}

OrderedJson as_list(const OrderedJson& value) { return value.is_array() ? value : OrderedJson::array({value}); }

const OrderedJson* referenced(const OrderedJson& root, const std::string& reference) {
  if (reference != "#" && !reference.starts_with("#/")) return nullptr;
  try {  // what a text may be, and an index, is nlohmann's to say
    const OrderedJson::json_pointer pointer(reference.substr(1));
    return root.contains(pointer) ? &root.at(pointer) : nullptr;
  } catch (const OrderedJson::exception&) {
    return nullptr;
  }
}

bool no_value_fits_two(const OrderedJson& options, const OrderedJson& root) { return Options(root).no_value_fits_two(options); }

}  // namespace flexgen
