#include "text/grammar/json_schema.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/units.h"
#include "io/checked_json.h"
#include "text/grammar/pattern.h"
#include "text/grammar/pattern_length.h"
#include "text/grammar/schema_formats.h"
#include "text/grammar/schema_narrowing.h"
#include "text/grammar/schema_options.h"
#include "text/grammar/schema_parts.h"
#include "text/grammar/schema_work.h"
#include "text/regex.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;
using Names = std::set<std::string_view>;

const std::map<std::string_view, Names> kKeywordsOfType{
    {"string", {"minLength", "maxLength", "pattern", "format"}},
    {"integer", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"}},
    {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"}},
    {"array", {"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"}},
    {"object",
     {"properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties"}},
    {"boolean", {}},
    {"null", {}}};
// What xgrammar takes seconds or gigabytes for: it writes out a state for each character that a string must have, once for each pair of bounds (what may follow is shared, as is what it counts: above
// kMaxUnrolled), and for each number of properties that may have come.
constexpr int64_t kMaxUnrolled = 128, kMaxLengthStates = 1024;
constexpr size_t kMaxCountedProperties = 64;
constexpr size_t kMaxJoinedBytes = 4 << 20, kMaxSetBytes = 1 << 20;

/// What a `format` of whole numbers has: OpenAPI's, and those of Rust's schemars.
struct WholeFormat {
  int64_t least, most;
};
const std::map<std::string_view, WholeFormat> kWholeFormats{{"int8", {-128, 127}},
                                                            {"int16", {-32768, 32767}},
                                                            {"int32", {-2147483648, 2147483647}},
                                                            {"int64", {-kMostWhole, kMostWhole}},
                                                            {"int128", {-kMostWhole, kMostWhole}},
                                                            {"int", {-kMostWhole, kMostWhole}},
                                                            {"uint8", {0, 255}},
                                                            {"uint16", {0, 65535}},
                                                            {"uint32", {0, 4294967295}},
                                                            {"uint64", {0, kMostWhole}},
                                                            {"uint128", {0, kMostWhole}},
                                                            {"uint", {0, kMostWhole}}};

class SchemaReader {
 public:
  SchemaReader(const OrderedJson& given, double& pattern_characters) : given_(given), pattern_characters_(pattern_characters) {}

  /// Narrows `root`, a copy of what was given.
  void read(OrderedJson& root) {
    visit(root, "#", 0);
    OrderedJson definitions = OrderedJson::object();
    while (!to_define_.empty()) {
      Definition next = std::move(to_define_.front());
      to_define_.pop_front();
      visit(next.schema, next.place, 1, true);
      definitions[next.name] = std::move(next.schema);
    }
    if (!definitions.empty()) root["$defs"] = std::move(definitions);
    check_ends(root);
  }

 private:
  [[noreturn]] static void fail(const std::string& place, const std::string& what) {
    fail_user("{}{}", place == "#" ? "" : fmt::format("at {}: ", shorten(place.substr(2))), what);
  }
  static std::string shorten(std::string text) {
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    if (text.size() > 120) text = text.substr(0, 120) + "...";
    return text;
  }
  [[noreturn]] static void refuse_keyword(const std::string& place, const std::string& name, const std::string& why) {
    fail(place, fmt::format("'{}' {}", shorten(name), why));
  }

  static std::string text_of(const OrderedJson& value) { return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }
  static bool is_note(const std::string& name) { return is_schema_note(name); }

  void visit_all(OrderedJson& schemas, const std::string& place, int depth) {
    if (schemas.is_object())
      for (auto& [name, schema] : schemas.items()) visit(schema, place + "/" + name, depth);
    else
      for (size_t i = 0; i < schemas.size(); ++i) visit(schemas[i], fmt::format("{}/{}", place, i), depth);
  }

  /// Where the keyword is a list of schemas that is not empty.
  void visit_list(OrderedJson& schema, const char* name, const std::string& place, int depth) {
    if (!schema[name].is_array() || schema[name].empty()) refuse_keyword(place, name, "must be a list of schemas");
    visit_all(schema[name], place + "/" + name, depth);
  }

  void require_alone(const OrderedJson& schema, const char* name, const std::string& place) {
    for (const auto& [other, value] : schema.items())
      if (other != name && !is_note(other)) refuse_keyword(place, other, fmt::format("beside '{}' is not supported", name));
  }

  /// A type beside `name` (options, or a reference) says no more than they do, where each is of it; options that say nothing of their type get it.
  void hand_type_down(OrderedJson& schema, const char* name) {
    const OrderedJson type = schema["type"], list = as_list(type);
    const bool refers = name == std::string_view("$ref");
    if ((!refers && !schema[name].is_array()) || !std::all_of(list.begin(), list.end(), [](const OrderedJson& one) { return one.is_string(); })) return;
    const std::set<std::string> types = list.get<std::set<std::string>>();
    OrderedJson options = refers ? OrderedJson::array({{{name, schema[name]}}}) : schema[name];
    for (OrderedJson& option : options) {
      const auto says = [&](const char* keyword) { return option.contains(keyword); };
      constexpr std::array kOfTypes{"type", "const", "enum", "$ref", "anyOf", "oneOf", "allOf"};
      if (option.is_object() && std::none_of(kOfTypes.begin(), kOfTypes.end(), says)) option["type"] = type;
      if (!allows_only(option, types, given_)) return;
    }
    if (!refers) schema[name] = std::move(options);
    schema.erase("type");
  }

  /// Says what stands together as one schema. One that refers to others becomes a definition, as it may lie within itself: true, all of it is said.
  bool join_parts(OrderedJson& schema, const std::string& place, bool is_definition) {
    for (const char* name : {"$ref", "anyOf", "oneOf", "allOf"})
      if (schema.contains(name) && schema.contains("type")) hand_type_down(schema, name);
    if (!has_parts(schema)) return false;
    if (!is_definition && text_of(schema).find("\"$ref\"") != std::string::npos) {
      OrderedJson said = OrderedJson::object();
      for (const auto& [name, value] : schema.items())
        if (!is_note(name)) said[name] = value;
      const std::string key = text_of(said);
      count_joined(key, place);
      schema = {{"$ref", definition(key, place, said)}};
      return true;
    }
    try {
      schema = joined_schema(schema, given_);
    } catch (const Error& error) {
      fail(place, error.what());
    }
    count_joined(text_of(schema), place);
    return false;
  }
  void count_joined(const std::string& text, const std::string& place) {
    if (joined_bytes_ += text.size(); joined_bytes_ > kMaxJoinedBytes)
      fail(place, "what its parts say together is too long: they refer to each other too often, or come to too many options");
  }

  /// The reference to what `key` stands for; what it says is visited later.
  std::string definition(const std::string& key, const std::string& place, const OrderedJson& schema) {
    std::string& name = names_[key];
    if (name.empty()) {
      name = fmt::format("d{}", names_.size());
      to_define_.push_back({name, place, schema});
    }
    std::string reference = "#/$defs/" + name;
    places_[reference] = place;
    return reference;
  }

  void visit_options(OrderedJson& schema, const char* name, const std::string& place, int depth) {
    require_alone(schema, name, place);
    // Without a 'type' an option fits values of all others, though only of one come by it.
    if (name == std::string_view("oneOf") && schema[name].is_array()) {
      if (const OrderedJson joined = joined_options(schema[name], given_);
          !no_value_fits_two(joined, given_) && !require_what_tells(schema[name], joined, given_))
        refuse_keyword(place, name,
                       "is supported where no value fits two of its options: of different types or values, or objects that what they require tells apart");
      OrderedJson options = std::move(schema[name]);
      schema.erase(name);
      schema["anyOf"] = std::move(options);
      visit_all(schema["anyOf"], place + "/oneOf", depth + 1);
      return;
    }
    visit_list(schema, name, place, depth + 1);
  }

  /// `is_definition`: others may refer to it.
  void visit(OrderedJson& schema, const std::string& place, int depth, bool is_definition = false) {
    if (depth > kMaxSchemaDepth) fail(place, fmt::format("it is nested more than {} levels deep", kMaxSchemaDepth));
    if (++parts_ > kMaxSchemaParts) fail(place, fmt::format("it has more than {} schemas in it", kMaxSchemaParts));
    if (schema.is_boolean()) {
      if (schema == false) fail(place, "false allows no value");
      schema = OrderedJson::object();  // says the same
    }
    if (!schema.is_object()) fail(place, fmt::format("a schema is an object or true, not {}", json_type(schema)));
    if (schema.contains("$id") && place != "#") refuse_keyword(place, "$id", "in a part of a schema is not supported");
    if (join_parts(schema, place, is_definition)) return;
    if (schema.contains("nullable"))
      refuse_keyword(place, "nullable", "is supported beside 'type', as true or false; elsewhere give anyOf with {\"type\": \"null\"}");
    // Those that are referred to are read then.
    for (const char* definitions : {"$defs", "definitions"}) schema.erase(definitions);
    if (schema.contains("$ref")) return visit_reference(schema, place);
    if (schema.contains("const") || schema.contains("enum")) return visit_values(schema, place);
    for (const char* name : {"anyOf", "oneOf", "allOf"})
      if (schema.contains(name)) return visit_options(schema, name, place, depth);
    visit_typed(schema, place, depth);
  }

  void visit_reference(OrderedJson& schema, const std::string& place) {
    require_alone(schema, "$ref", place);
    if (!schema["$ref"].is_string()) refuse_keyword(place, "$ref", "must be a string");
    const std::string given = schema["$ref"].get<std::string>();
    const OrderedJson* target = referenced(given_, given);
    if (!target) fail(place, fmt::format("$ref '{}' leads to no schema of this one: it may be '#', or '#/' and the names on the way to one", shorten(given)));
    if (target == &given_) {
      places_["#"] = "#";
      schema["$ref"] = "#";
      return;
    }
    // A chain of references alone says nothing.
    if (!target_of(schema, given_)) fail(place, fmt::format("$ref '{}' leads to itself, or to nothing", shorten(given)));
    schema["$ref"] = definition("reference " + given, given.substr(given.find('#')), *target);
  }

  /// Leaves those of `values` whose length fits, and bounds of it out.
  static void visit_lengths_of(OrderedJson& values, OrderedJson& schema, const char* name, const std::string& place) {
    if (!schema.contains("minLength") && !schema.contains("maxLength")) return;
    visit_counts(schema, "minLength", "maxLength", place);
    const int64_t least = schema.value("minLength", int64_t{0}), most = schema.value("maxLength", kMaxSchemaCount);
    OrderedJson fitting = OrderedJson::array();
    for (const OrderedJson& value : values) {
      const std::string text = value.is_string() ? value.get<std::string>() : "";
      const int64_t length = std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
      if (!value.is_string() || (length >= least && (length <= most || !schema.contains("maxLength")))) fitting.push_back(value);
    }
    if (fitting.empty()) refuse_keyword(place, name, "has no value of the length that 'minLength' and 'maxLength' beside it ask for");
    values = std::move(fitting);
    schema.erase("minLength");
    schema.erase("maxLength");
  }

  /// Leaves those of `values` that lie within bounds of numbers, and these out.
  static void visit_bounds_of(OrderedJson& values, OrderedJson& schema, const char* name, const std::string& place) {
    for (const char* bound : {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}) {
      if (!schema.contains(bound)) continue;
      if (!schema[bound].is_number()) refuse_keyword(place, bound, "must be a number");
      const long double bounding = number_of(schema[bound]);
      const std::string_view text = bound;
      OrderedJson fitting = OrderedJson::array();
      for (const OrderedJson& value : values) {
        const long double number = value.is_number() ? number_of(value) : 0;
        const bool fits = text == "minimum"            ? number >= bounding
                          : text == "maximum"          ? number <= bounding
                          : text == "exclusiveMinimum" ? number > bounding
                                                       : number < bounding;
        if (!value.is_number() || fits) fitting.push_back(value);
      }
      if (fitting.empty()) refuse_keyword(place, name, fmt::format("has no value that fits '{}' beside it", bound));
      values = std::move(fitting);
      schema.erase(bound);
    }
  }

  static void visit_values(OrderedJson& schema, const std::string& place) {
    const bool is_const = schema.contains("const");
    const char* name = is_const ? "const" : "enum";
    if (is_const && schema.contains("enum")) {  // pydantic's Literal has both
      const OrderedJson& all = schema["enum"];
      if (!all.is_array() || !value_keys(all).contains(value_key(schema["const"])))
        refuse_keyword(place, name, "has a value that is not in the 'enum' beside it");
      schema.erase("enum");
    }
    OrderedJson values = is_const ? OrderedJson::array({schema["const"]}) : schema["enum"];
    if (!values.is_array() || values.empty()) refuse_keyword(place, name, "must be a list of values");
    visit_lengths_of(values, schema, name, place);
    visit_bounds_of(values, schema, name, place);
    if (!is_const) schema["enum"] = values;
    for (const auto& [other, value] : schema.items())
      if (other != name && other != "type" && !is_note(other)) refuse_keyword(place, other, fmt::format("beside '{}' is not supported", name));
    if (has_unsigned(values)) refuse_keyword(place, name, "has a whole number beyond 9223372036854775807, which would be rounded");
    if (!schema.contains("type")) return;
    const OrderedJson types = as_list(schema["type"]);
    for (const OrderedJson& value : values)
      if (std::none_of(types.begin(), types.end(), [&](const OrderedJson& type) { return type.is_string() && is_of_type(value, type.get<std::string>()); }))
        refuse_keyword(place, name, "has a value that is not of the 'type' beside it");
    schema.erase("type");
  }

  void visit_typed(OrderedJson& schema, const std::string& place, int depth) {
    std::vector<std::string> types;
    if (schema.contains("type")) {
      for (const OrderedJson& type : as_list(schema["type"])) {
        if (!type.is_string() || !kKeywordsOfType.contains(type.get<std::string>()))
          refuse_keyword(place, "type", "must be one of string, integer, number, array, object, boolean, null, or a list of these");
        types.push_back(type.get<std::string>());
      }
      if (types.empty()) refuse_keyword(place, "type", "is an empty list");
    }
    for (const auto& [name, value] : schema.items()) {
      if (name == "type" || is_note(name)) continue;
      const auto owner =
          std::find_if(kKeywordsOfType.begin(), kKeywordsOfType.end(), [&name = name](const auto& entry) { return entry.second.contains(name); });
      if (owner == kKeywordsOfType.end()) refuse_keyword(place, name, "is not supported");
      if (!schema.contains("type")) {  // narrowed to the type that it speaks of
        const std::string type = name == "format" ? "string"
                                 : name == "minimum" || name == "maximum" || name == "exclusiveMinimum" || name == "exclusiveMaximum"
                                     ? "number"
                                     : std::string(owner->first);
        if (types.empty()) types.push_back(type);
        else if (types.front() != type) refuse_keyword(place, name, fmt::format("beside keywords of the type {} needs a 'type'", types.front()));
      }
      if (types.size() == 1 && !kKeywordsOfType.at(types.front()).contains(name))
        refuse_keyword(place, name, fmt::format("with the type {} is not supported", types.front()));
    }
    if (types.empty()) return;
    if (!schema.contains("type")) schema["type"] = types.front();
    if (types.size() > 1) return visit_types(schema, types, place, depth);
    const std::string& type = types.front();
    if (type == "string") visit_string(schema, place);
    else if (type == "array") visit_array(schema, place, depth);
    else if (type == "object") visit_object(schema, place, depth);
    else visit_number(schema, type, place);
    narrow(schema, type);
  }

  /// As alternatives of one type each, with the keywords that speak of it.
  void visit_types(OrderedJson& schema, const std::vector<std::string>& types, const std::string& place, int depth) {
    OrderedJson options = OrderedJson::array(), notes = OrderedJson::object();
    for (const std::string& type : types) options.push_back({{"type", type}});
    for (const auto& [name, value] : schema.items()) {
      if (is_note(name)) notes[name] = value;
      if (is_note(name) || name == "type") continue;
      bool speaks = false;
      for (size_t i = 0; i < types.size(); ++i)
        if (kKeywordsOfType.at(types[i]).contains(name)) {
          options[i][name] = value;
          speaks = true;
        } else if (name == "multipleOf" && types[i] == "number") {
          refuse_keyword(place, name, "with the type number is not supported");
        }
      if (!speaks) refuse_keyword(place, name, "with these types is not supported");
    }
    schema = std::move(notes);
    schema["anyOf"] = std::move(options);
    visit_all(schema["anyOf"], place + "/anyOf", depth + 1);
  }

  /// Whether a value fits that has an end, where those of `ending` (targets of references) have one.
  static bool ends(const OrderedJson& schema, const std::set<std::string>& ending) {
    const auto all_of = [&](const auto& schemas) {
      return std::all_of(schemas.begin(), schemas.end(), [&](const OrderedJson& one) { return ends(one, ending); });
    };
    if (!schema.is_object()) return true;
    if (schema.contains("$ref")) return ending.contains(schema["$ref"].get<std::string>());
    for (const char* name : {"anyOf", "oneOf"})
      if (schema.contains(name)) return std::any_of(schema[name].begin(), schema[name].end(), [&](const OrderedJson& one) { return ends(one, ending); });
    if (schema.contains("allOf")) return all_of(schema["allOf"]);
    if (schema.contains("minItems") && schema["minItems"] > 0) {
      const OrderedJson first = schema.value("prefixItems", OrderedJson::array());
      const auto least = schema["minItems"].get<size_t>();
      for (size_t i = 0; i < std::min(least, first.size()); ++i)
        if (!ends(first[i], ending)) return false;
      if (least > first.size() && schema.contains("items") && !ends(schema["items"], ending)) return false;
    }
    if (schema.contains("required"))
      for (const OrderedJson& name : schema["required"])
        if (!ends(schema["properties"][name.get<std::string>()], ending)) return false;
    if (!schema.contains("minProperties") || schema["minProperties"] == 0) return true;
    if (schema.contains("properties")) {
      const OrderedJson& properties = schema["properties"];
      return std::count_if(properties.begin(), properties.end(), [&](const OrderedJson& one) { return ends(one, ending); }) >=
             schema["minProperties"].get<int64_t>();
    }
    return (!schema.contains("additionalProperties") || ends(schema["additionalProperties"], ending)) &&
           (!schema.contains("patternProperties") || all_of(schema["patternProperties"]));
  }

  static void add_targets(const OrderedJson& schema, std::set<std::string>* targets) {
    if (schema.is_object() && schema.contains("$ref") && schema["$ref"].is_string()) targets->insert(schema["$ref"].get<std::string>());
    if (schema.is_structured())
      for (const auto& [name, value] : schema.items()) add_targets(value, targets);
  }

  /// Refuses schemas that only values without an end fit: an object that must hold one like itself. Such an answer would go on until max_tokens.
  void check_ends(const OrderedJson& root) const {
    std::map<std::string, const OrderedJson*> targets;
    std::map<std::string, std::set<std::string>> seen_in;  // a target: those that lie around references to it
    std::vector<std::string> to_look_at;
    std::set<std::string> ending;
    for (const auto& [target, place] : places_) {
      const OrderedJson* schema = referenced(root, target);
      if (!schema) {  // the place of a schema that was written in another way
        ending.insert(target);
        continue;
      }
      targets[target] = schema;
      to_look_at.push_back(target);
      std::set<std::string> within;
      add_targets(*targets[target], &within);
      for (const std::string& one : within) seen_in[one].insert(target);
    }
    while (!to_look_at.empty()) {
      const std::string target = std::move(to_look_at.back());
      to_look_at.pop_back();
      if (ending.contains(target) || !ends(*targets[target], ending)) continue;
      ending.insert(target);
      to_look_at.insert(to_look_at.end(), seen_in[target].begin(), seen_in[target].end());
    }
    for (const auto& [target, schema] : targets)
      if (!ending.contains(target)) fail(places_.at(target), "only values without an end fit: each must hold another like itself");
  }

  /// xgrammar makes nothing that a schema does not name; without names, anything.
  static void narrow(OrderedJson& schema, const std::string& type) {
    if (type == "array" && schema.contains("type") && !schema.contains("items") && !schema.contains("prefixItems")) schema["items"] = OrderedJson::object();
    if (type == "object" && !schema.contains("properties") && !schema.contains("patternProperties") && !schema.contains("propertyNames") &&
        !schema.contains("additionalProperties"))
      schema["additionalProperties"] = true;
  }

  static void visit_bound(const OrderedJson& schema, const char* name, const std::string& place) {
    if (!schema[name].is_number()) refuse_keyword(place, name, "must be a number");
    if (!(std::abs(schema[name].get<double>()) <= kMostBound)) refuse_keyword(place, name, "is too large: bounds up to 1e15 are supported");
  }

  static void visit_number(OrderedJson& schema, const std::string& type, const std::string& place) {
    if (type == "integer") {
      narrow_bounds(schema);
      round_bounds(schema);
    }
    for (const char* name : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
      if (schema.contains(name)) visit_bound(schema, name, place);
    if (schema.contains("format")) visit_number_format(schema, type, place);
    if (type == "number") check_decimals(schema, place);
  }

  /// How wide a number may be.
  static void visit_number_format(OrderedJson& schema, const std::string& type, const std::string& place) {
    const OrderedJson format = schema["format"];
    schema.erase("format");
    if (type == "number" && (format == "double" || format == "float")) return;
    const auto found = kWholeFormats.find(format.is_string() ? format.get_ref<const std::string&>() : "");
    if (type != "integer" || found == kWholeFormats.end())
      refuse_keyword(place, "format",
                     "is not supported for numbers: int8 to int128, uint8 to uint128, int and uint of integers are, float and double of numbers");
    const auto [least, most] = found->second;
    const auto lower = static_cast<double>(least), upper = static_cast<double>(most);
    if (schema.value("exclusiveMinimum", lower) < lower - 1 || schema.value("exclusiveMaximum", upper) > upper + 1)
      refuse_keyword(place, "format", "is narrower than the exclusive bounds beside it");
    if (schema.value("minimum", -kMostBound) < lower && !schema.contains("exclusiveMinimum")) schema["minimum"] = least;
    if (schema.value("maximum", kMostBound) > upper && !schema.contains("exclusiveMaximum")) schema["maximum"] = most;
  }

  /// xgrammar writes numbers between bounds with six decimals at most; between some there is none, and it would write nothing at all.
  static void check_decimals(const OrderedJson& schema, const std::string& place) {
    constexpr double kNone = 1e12;  // bounds beyond a million have room between them, or are equal
    // In millionths, but for what a product is rounded by.
    const auto up = [&](const char* name) { return std::ceil(schema[name].get<double>() * 1e6 * (1 - std::copysign(4e-16, schema[name].get<double>()))); };
    const auto down = [&](const char* name) { return std::floor(schema[name].get<double>() * 1e6 * (1 + std::copysign(4e-16, schema[name].get<double>()))); };
    double least = -kNone, most = kNone;
    if (schema.contains("minimum")) least = std::max(least, up("minimum"));
    if (schema.contains("exclusiveMinimum")) least = std::max(least, down("exclusiveMinimum") + 1);
    if (schema.contains("maximum")) most = std::min(most, down("maximum"));
    if (schema.contains("exclusiveMaximum")) most = std::min(most, up("exclusiveMaximum") - 1);
    if (least <= most || least >= kNone || most <= -kNone) return;
    fail(place, "no number of at most six decimals, which are what is written, lies between its bounds");
  }

  static int64_t visit_count(OrderedJson& schema, const char* name, const std::string& place) {
    OrderedJson& value = schema[name];
    // 2.0 is a whole number to JSON schemas.
    if (const double number = value.is_number_float() ? value.get<double>() : -1; number >= 0 && number <= 1e15 && number == std::floor(number))
      value = static_cast<uint64_t>(number);
    if (!value.is_number_unsigned()) refuse_keyword(place, name, "must be a whole number");
    if (value.get<uint64_t>() > static_cast<uint64_t>(kMaxSchemaCount))
      refuse_keyword(place, name, fmt::format("is more than {}, which is the most that is supported", kMaxSchemaCount));
    return value.get<int64_t>();
  }

  static void visit_counts(OrderedJson& schema, const char* least, const char* most, const std::string& place) {
    const int64_t from = schema.contains(least) ? visit_count(schema, least, place) : 0, to = schema.contains(most) ? visit_count(schema, most, place) : from;
    if (from > to) refuse_keyword(place, least, fmt::format("is more than '{}'", most));
  }

  /// The pattern as xgrammar is to read it. `shared`: it is compiled once, however often it comes.
  std::string visit_pattern(const OrderedJson& pattern, const char* name, const std::string& place, bool shared) {
    if (!pattern.is_string()) refuse_keyword(place, name, "must be a string");
    const auto& text = pattern.get_ref<const std::string&>();
    for (unsigned char c : text)
      if (c < 0x20 || c > 0x7e) refuse_keyword(place, name, "with other characters than printable ones of ASCII is not supported");
    std::string plain;
    double characters = 0;
    try {
      plain = plain_pattern(text, PatternPlace::kJsonString, &characters);
    } catch (const Error& error) {
      refuse_keyword(place, name, fmt::format("cannot be followed: {}", error.what()));
    }
    if (!shared || patterns_.insert(plain).second) pattern_characters_ += characters;
    if (pattern_characters_ > static_cast<double>(kMaxPatternCharacters))
      refuse_keyword(place, name,
                     fmt::format("and the patterns before it have more than {} characters together, their repetitions written out: they take too long to "
                                 "compile; shorten them, or give several the same",
                                 kMaxPatternCharacters));
    return plain;
  }

  void visit_string(OrderedJson& schema, const std::string& place) {
    visit_counts(schema, "minLength", "maxLength", place);
    // xgrammar compiles such texts once if nothing else tells them apart.
    if (schema.contains("pattern") || schema.contains("format"))
      for (auto at = schema.begin(); at != schema.end();)
        at = is_note(at.key()) && at.key() != "$defs" && at.key() != "definitions" ? schema.erase(at) : std::next(at);
    if (schema.contains("format") && visit_format(schema, place)) return;
    if (schema.contains("pattern") && (schema.contains("minLength") || schema.contains("maxLength"))) join_lengths(schema, place);
    if (schema.contains("minLength") || schema.contains("maxLength")) {
      const int64_t least = schema.value("minLength", int64_t{0}), most = schema.value("maxLength", least);
      const bool has_most = schema.contains("maxLength");
      if ((least <= kMaxUnrolled || !has_most) && lengths_.emplace(least, most).second) length_states_ += least <= kMaxUnrolled ? least : 1;
      if (length_states_ > kMaxLengthStates)
        fail(place, fmt::format(
                        "the different 'minLength' up to {} come to more than {} characters together (longer ones without 'maxLength' count as one each): they "
                        "take too long to compile; give several strings the same bounds, or leave 'minLength' out",
                        kMaxUnrolled, kMaxLengthStates));
    }
    if (schema.contains("pattern")) schema["pattern"] = visit_pattern(schema["pattern"], "pattern", place, true);
  }

  /// Has the pattern say the length too.
  void join_lengths(OrderedJson& schema, const std::string& place) {
    double characters = 0;  // those of the pattern as it is now count for nothing
    std::swap(characters, pattern_characters_);
    const std::string plain = visit_pattern(schema["pattern"], "pattern", place, false);
    std::swap(characters, pattern_characters_);
    const std::optional<std::string> joined =
        pattern_of_length(plain, schema.value("minLength", int64_t{0}), schema.value("maxLength", std::numeric_limits<int64_t>::max()));
    if (!joined)
      refuse_keyword(place, schema.contains("minLength") ? "minLength" : "maxLength",
                     "beside 'pattern' is supported where all texts of the pattern are so long, or it is one class, repeated; say the length in the pattern");
    schema["pattern"] = *joined;
    schema.erase("minLength");
    schema.erase("maxLength");
  }

  /// Whether a pattern says all of it now.
  bool visit_format(OrderedJson& schema, const std::string& place) {
    const StringFormat* format = schema["format"].is_string() ? string_format(schema["format"].get_ref<const std::string&>()) : nullptr;
    if (!format) refuse_keyword(place, "format", "is not supported for texts: " + string_format_names() + " are");
    schema.erase("format");
    if (format->texts.front().pattern.empty()) return false;
    const std::string pattern = schema.contains("pattern") && schema["pattern"].is_string() ? schema["pattern"].get<std::string>() : "";
    if (schema.contains("pattern") && !schema["pattern"].is_string()) refuse_keyword(place, "pattern", "must be a string");
    constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
    const int64_t least = schema.value("minLength", int64_t{0}), most = schema.value("maxLength", kMost);
    const std::optional<FormatTexts> texts = format_texts(*format, pattern, least, most);
    if (!texts) {
      if (!pattern.empty())
        refuse_keyword(place, "pattern",
                       "beside 'format' is not supported where its texts are not all of the format, and those that are written for the format not all of it");
      // Bounds of the length are held by all such texts, or cannot be held.
      const FormatTexts& first = format->texts.front();
      if (least > first.least) refuse_keyword(place, "minLength", fmt::format("beside this 'format' is not supported above {}", first.least));
      refuse_keyword(place, "maxLength", fmt::format("beside this 'format' is not supported below {}", format->texts.back().most));
    }
    schema.erase("minLength");
    schema.erase("maxLength");
    if (texts->pattern == pattern) schema["pattern"] = visit_pattern(schema["pattern"], "pattern", place, true);
    else schema["pattern"] = "^" + texts->pattern + "$";
    return true;
  }

  void count_sets(const OrderedJson& lists, const std::string& place) {
    if (set_bytes_ += text_of(lists).size(); set_bytes_ > kMaxSetBytes)
      refuse_keyword(place, "uniqueItems", fmt::format("and those before it come to lists of more than {} together", format_bytes(kMaxSetBytes)));
  }

  void visit_array(OrderedJson& schema, const std::string& place, int depth) {
    visit_counts(schema, "minItems", "maxItems", place);
    if (schema.contains("uniqueItems")) {
      if (schema["uniqueItems"] != false && list_sets(schema, given_)) return count_sets(schema, place);
      if (schema["uniqueItems"] != false && !(schema.contains("maxItems") && schema["maxItems"] <= 1))
        refuse_keyword(place, "uniqueItems", fmt::format("is supported where 'items' are one of up to {} values, or 'maxItems' is 1", kMaxSetValues));
      schema.erase("uniqueItems");
    }
    if (schema.contains("items") && schema["items"].is_array()) {  // up to draft 7, prefixItems are called so
      if (schema.contains("prefixItems")) refuse_keyword(place, "items", "that is a list is not supported beside 'prefixItems'");
      OrderedJson first = std::move(schema["items"]);
      schema.erase("items");
      if (schema.contains("additionalItems")) schema["items"] = schema["additionalItems"];
      if (!first.empty()) schema["prefixItems"] = std::move(first);
    }
    schema.erase("additionalItems");  // without such a list it says nothing
    if (schema.contains("prefixItems") && schema["prefixItems"].is_array() && schema.contains("maxItems") &&
        schema["maxItems"] < schema["prefixItems"].size()) {
      OrderedJson& first = schema["prefixItems"];  // no more can come
      while (first.size() > schema["maxItems"]) first.erase(first.size() - 1);
      schema["items"] = false;
      if (first.empty()) schema.erase("prefixItems");
    }
    if (schema.contains("prefixItems")) visit_list(schema, "prefixItems", place, depth + 1);
    if (schema.contains("items") && schema["items"] != false) visit(schema["items"], place + "/items", depth + 1);
  }

  /// What is said of names holds for these.
  void check_names(OrderedJson& schema, const std::string& place) {
    if (schema.contains("propertyNames")) refuse_keyword(place, "propertyNames", "beside 'properties' is not supported");
    if (!schema.contains("patternProperties")) return;
    if (!schema["patternProperties"].is_object()) refuse_keyword(place, "patternProperties", "must be an object");
    for (const auto& [pattern, value] : schema["patternProperties"].items()) {
      visit_pattern(pattern, "patternProperties", place, true);  // one that is known here means the same elsewhere
      const Regex regex(pattern, "patternProperties");
      for (const auto& [name, property] : schema["properties"].items()) {
        bool matches = false;
        regex.for_each(name, [&](size_t, size_t) { matches = true; });
        if (matches) refuse_keyword(place, "patternProperties", fmt::format("that speaks of '{}' in 'properties' too is not supported", shorten(name)));
      }
    }
    schema.erase("patternProperties");
  }

  void visit_required(OrderedJson& schema, const std::string& place) {
    if (!schema.contains("required")) return;
    if (!schema["required"].is_array()) refuse_keyword(place, "required", "must be a list of names");
    const OrderedJson others = schema.value("additionalProperties", OrderedJson(true));
    const OrderedJson required = schema["required"];
    for (const OrderedJson& name : required) {
      if (!name.is_string()) refuse_keyword(place, "required", "must be a list of names");
      const auto& text = name.get_ref<const std::string&>();
      if (schema.contains("properties") && schema["properties"].contains(text)) continue;
      if (others == false || schema.contains("patternProperties") || schema.contains("propertyNames"))
        refuse_keyword(place, "required", fmt::format("has '{}', which is not in 'properties'", shorten(text)));
      schema["properties"][text] = others;
    }
  }

  void visit_object(OrderedJson& schema, const std::string& place, int depth) {
    visit_counts(schema, "minProperties", "maxProperties", place);
    if (schema.contains("unevaluatedProperties")) {
      if (!schema["unevaluatedProperties"].is_boolean()) refuse_keyword(place, "unevaluatedProperties", "must be true or false");
      if (schema["unevaluatedProperties"] == false && !schema.contains("additionalProperties") && !schema.contains("patternProperties"))
        schema["additionalProperties"] = false;
      schema.erase("unevaluatedProperties");
    }
    if (schema.contains("properties") && !schema["properties"].is_object()) refuse_keyword(place, "properties", "must be an object");
    name_properties(schema, given_);
    visit_required(schema, place);
    const bool named = schema.contains("properties") && !schema["properties"].empty();
    if (named) {
      if (schema.contains("patternProperties") || schema.contains("propertyNames")) check_names(schema, place);
      for (auto property = schema["properties"].begin(); property != schema["properties"].end();) {
        const bool never = property.value() == false;
        if (never && schema.contains("required") &&
            std::find(schema["required"].begin(), schema["required"].end(), OrderedJson(property.key())) != schema["required"].end())
          refuse_keyword(place, "required", fmt::format("has '{}', which may not come", shorten(property.key())));
        property = never ? schema["properties"].erase(property) : std::next(property);
      }
      visit_all(schema["properties"], place + "/properties", depth + 1);
    } else if (schema.contains("properties")) {
      schema.erase("properties");
    }
    if (schema.contains("additionalProperties") && !schema["additionalProperties"].is_boolean())
      visit(schema["additionalProperties"], place + "/additionalProperties", depth + 1);
    const bool more = schema.contains("patternProperties") || schema.contains("propertyNames");
    if (named) {
      // A further one could bear a name that has a schema of its own.
      schema["additionalProperties"] = false;
      for (const char* count : {"minProperties", "maxProperties"})
        if (schema.contains(count) && schema[count] > 1 && schema["properties"].size() > kMaxCountedProperties)
          refuse_keyword(place, count, fmt::format("beside more than {} 'properties' is not supported", kMaxCountedProperties));
      if (schema.contains("minProperties") && schema["minProperties"] > schema["properties"].size())
        refuse_keyword(place, "minProperties", "of more than 'properties' has is not supported");
      return;
    }
    // Names may come twice, and then count once.
    if (schema.contains("minProperties") && schema["minProperties"] > 1) refuse_keyword(place, "minProperties", "of more than 1 needs 'properties'");
    if (!more) return;
    if (schema.contains("patternProperties") && schema.contains("propertyNames"))
      refuse_keyword(place, "propertyNames", "beside 'patternProperties' is not supported");
    if (schema.contains("propertyNames")) {
      if (schema.contains("additionalProperties") && schema["additionalProperties"] == false) {  // xgrammar would let any value come
        schema.erase("propertyNames");
        return;
      }
      visit(schema["propertyNames"], place + "/propertyNames", depth + 1);
      return;
    }
    OrderedJson& patterns = schema["patternProperties"];
    if (!patterns.is_object() || patterns.size() != 1) refuse_keyword(place, "patternProperties", "of other than one pattern is not supported");
    const std::string pattern = patterns.begin().key(), plain = visit_pattern(pattern, "patternProperties", place, false);
    OrderedJson value = std::move(patterns.begin().value());
    visit(value, place + "/patternProperties/" + pattern, depth + 1);
    patterns = {{plain, std::move(value)}};
    schema["additionalProperties"] = false;
  }

  const OrderedJson& given_;
  /// What references lead to, in the result.
  struct Definition {
    std::string name, place;
    OrderedJson schema;
  };
  std::deque<Definition> to_define_;
  std::map<std::string, std::string> names_;   ///< of definitions, by what they stand for
  std::map<std::string, std::string> places_;  ///< of what references of the result lead to
  size_t joined_bytes_ = 0, set_bytes_ = 0;
  std::set<std::pair<int64_t, int64_t>> lengths_;  ///< of strings, from and to
  std::set<std::string> patterns_;                 ///< of strings
  double& pattern_characters_;
  int64_t parts_ = 0, length_states_ = 0;
};

/// Stops before the tree is deeper than it may be.
bool is_too_deep(std::string_view json) {
  int depth = 0;
  bool in_text = false;
  for (size_t i = 0; i < json.size(); ++i) {
    if (in_text) {
      if (json[i] == '\\') ++i;
      else if (json[i] == '"') in_text = false;
    } else if (json[i] == '"') {
      in_text = true;
    } else if (json[i] == '{' || json[i] == '[') {
      if (++depth > 4 * kMaxSchemaDepth) return true;
    } else if (json[i] == '}' || json[i] == ']') {
      --depth;
    }
  }
  return false;
}

/// A whole number that no 64 bits hold would be read as another one.
void check_whole_numbers(std::string_view json) {
  bool in_text = false;
  for (size_t i = 0; i < json.size(); ++i) {
    if (in_text) {
      if (json[i] == '\\') ++i;
      else if (json[i] == '"') in_text = false;
      continue;
    }
    if (json[i] == '"') in_text = true;
    if (json[i] != '-' && (json[i] < '0' || json[i] > '9')) continue;
    const std::string_view number = json.substr(i, json.find_first_not_of("0123456789+-.eE", i) - i);
    i += number.size() - 1;
    if (number.find_first_of(".eE") != std::string_view::npos) continue;
    int64_t small = 0;
    uint64_t large = 0;
    const char* const end = number.data() + number.size();
    if (std::from_chars(number.data(), end, small).ec == std::errc::result_out_of_range && std::from_chars(number.data(), end, large).ec != std::errc())
      fail_user("it has the number {}{}, which 64 bits do not hold", number.substr(0, 40), number.size() > 40 ? "..." : "");
  }
}

}  // namespace

std::string honoured_schema(std::string_view json, double* pattern_characters) {
  if (json.size() > kMaxSchemaBytes) fail_user("it is larger than {}", format_bytes(static_cast<int64_t>(kMaxSchemaBytes)));
  if (is_too_deep(json)) fail_user("it is nested more than {} levels deep", kMaxSchemaDepth);
  parse_checked_json(std::string(json), 4 * kMaxSchemaDepth + 1, "the schema", "it", "correct it");
  OrderedJson schema = parse_json<OrderedJson>(json, "the schema");
  check_whole_numbers(json);
  allow_nulls(schema);
  const SchemaWork work;
  const OrderedJson given = schema;
  double characters = 0;
  SchemaReader(given, pattern_characters ? *pattern_characters : characters).read(schema);
  // Notes may hold anything, and xgrammar reads some.
  return schema.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace flexgen
