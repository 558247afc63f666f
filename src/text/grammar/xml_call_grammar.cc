#include "text/grammar/xml_call_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/grammar/pattern.h"
#include "text/grammar/schema_options.h"

namespace flexgen {
namespace {

using structure::const_text;
using structure::Format;

constexpr int kValueBlanks = 1;
constexpr const char* kAnyName = "[a-zA-Z0-9_.-]{1,64}";
const std::set<std::string> kAllButTexts{"null", "boolean", "integer", "number", "array", "object"};

/// Values of the parameters of one function.
class ValueGrammars {
 public:
  ValueGrammars(const Format& root, const XmlMarks& marks) : root_(root), marks_(marks) {}

  Format any_text() const { return structure::any_text({std::string(marks_.value_end)}); }

  /// `name`: of the parameter, for messages.
  Format value(const Format& schema, const std::string& name) const {
    const Format& one = target(schema);
    if (allows_only(one, {"string"}, root_)) return text(one, name);
    if (allows_only(one, kAllButTexts, root_)) return json(schema, name);
    if (one.contains("enum") || one.contains("const")) return choices(one, name);
    for (const char* keyword : {"anyOf", "allOf"})
      if (one.contains(keyword)) return either(one[keyword], name);
    return any_text();
  }

 private:
  [[noreturn]] static void fail(const std::string& name, const std::string& what) {
    fail_user("the parameter '{}' {}, to which calls in this model's form cannot be held", name, what);
  }

  const Format& target(const Format& schema) const {
    const Format* found = target_of(schema, root_);
    FLEXGEN_CHECK(found);
    return *found;
  }

  static bool says_more_than_type(const std::string& name, const Format& value) {
    const bool says_nothing = (name == "items" && value == Format::object()) || (name == "additionalProperties" && value == true);
    return name != "type" && !says_nothing && !is_schema_note(name);
  }

  /// Texts, or other values of whatever kind: what a text says that is one of these is read as it.
  Format either(const Format& options, const std::string& name) const {
    if (options.size() == 1) return value(options.front(), name);
    std::vector<Format> texts;
    for (const Format& option : options) {
      const Format& one = target(option);
      const bool is_text = allows_only(one, {"string"}, root_);
      const bool says_more =
          std::any_of(one.items().begin(), one.items().end(), [](const auto& item) { return says_more_than_type(item.key(), item.value()); });
      if (!is_text && (says_more || !one.contains("type"))) fail(name, "may be a text, or another value of which more than the type is said");
      texts.push_back(is_text ? text(one, name) : json(option, name));
    }
    return structure::one_of(texts);
  }

  /// Values of `enum` or `const`, of which texts are some at least: what is written as one of these is read as a text.
  Format choices(const Format& schema, const std::string& name) const {
    const Format values = schema.contains("const") ? Format::array({schema["const"]}) : schema["enum"];
    std::set<std::string> texts;
    for (const Format& value : values)
      if (value.is_string()) texts.insert(value.get<std::string>());
    std::vector<Format> choices;
    for (const Format& value : values) {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      if (text.find(marks_.value_end) != std::string::npos || text.starts_with('\n') || text.ends_with('\n'))
        fail(name, fmt::format("has a value in 'enum' with '{}', or with a line end at an end", marks_.value_end));
      if (!value.is_string() && texts.contains(text)) fail(name, fmt::format("has the text '{}' in 'enum', beside another value that is written alike", text));
      choices.push_back(const_text(text));
    }
    return structure::one_of(choices);
  }

  Format text(const Format& schema, const std::string& name) const {
    const Format& one = target(schema);
    if (one.contains("enum") || one.contains("const")) return choices(one, name);
    for (const char* keyword : {"anyOf", "allOf"})
      if (one.contains(keyword)) {
        std::vector<Format> texts;
        for (const Format& option : one[keyword]) texts.push_back(text(option, name));
        return structure::one_of(texts);
      }
    std::string pattern;
    if (one.contains("pattern")) {
      pattern = one["pattern"].get<std::string>();
    } else if (one.contains("minLength") || one.contains("maxLength")) {
      const std::string most = one.contains("maxLength") ? one["maxLength"].dump() : "";
      pattern = fmt::format("{}{{{},{}}}", marks_.strips_lines ? "[^<\\n]" : "[^<]", one.value("minLength", int64_t{0}), most);
    } else {
      return any_text();
    }
    try {
      return {{"type", "regex"}, {"pattern", plain_pattern(pattern, PatternPlace::kXmlValue)}};
    } catch (const Error& error) {
      fail(name, fmt::format("has a pattern ({})", error.what()));
    }
  }

  Format json(const Format& schema, const std::string& name) const {
    check_references(schema, name);
    Format whole = schema;
    for (const char* definitions : {"$defs", "definitions"})
      if (root_.contains(definitions)) {
        check_references(root_[definitions], name);
        whole[definitions] = root_[definitions];
      }
    return {{"type", "json_schema"}, {"json_schema", std::move(whole)}, {"max_whitespace_cnt", kValueBlanks}};
  }

  /// A parameter's schema stands alone, with the definitions.
  static void check_references(const Format& schema, const std::string& name) {
    if (!schema.is_structured()) return;
    if (schema.is_object() && schema.contains("$ref") && schema["$ref"].is_string()) {
      const auto& reference = schema["$ref"].get_ref<const std::string&>();
      if (!reference.starts_with("#/$defs/") && !reference.starts_with("#/definitions/")) fail(name, fmt::format("has the $ref '{}'", reference));
    }
    for (const Format& part : schema) check_references(part, name);
  }

  const Format& root_;
  const XmlMarks& marks_;
};

/// The arguments' schema itself, of which only properties can be held.
const Format& properties_schema(const Format& root) {
  const std::set<std::string> known{"type", "properties", "required", "additionalProperties"};
  const Format* schema = target_of(root, root);
  FLEXGEN_CHECK(schema);
  for (const auto& [name, value] : schema->items())
    if (!known.contains(name) && !is_schema_note(name)) fail_user("'{}' at the top is not supported for calls in this model's form", name);
  if (schema->contains("additionalProperties") && !(*schema)["additionalProperties"].is_boolean())
    fail_user("'additionalProperties' that is a schema is not supported for calls in this model's form");
  return *schema;
}

}  // namespace

Format xml_call(const std::string& function, const Format& schema, const XmlMarks& marks, const Tokenizer* tokenizer) {
  const auto text = [](std::string_view view) { return std::string(view); };
  const std::string quote = text(marks.quote);
  const bool is_glm = marks.call.empty();
  // Templates of GLM-4.5 and 4.6 write line ends, those of 4.7 none.
  const Format line = is_glm ? structure::maybe(const_text("\n")) : const_text("\n");
  const Format value_line = marks.form == CallForm::kQwenXml ? line : Format();
  const auto argument = [&](const Format& name, const Format& value) {
    return structure::sequence_of({structure::mark_of(text(marks.key), tokenizer), quote.empty() ? Format() : const_text(quote), name,
                                   quote.empty() ? Format() : const_text(quote), structure::mark_of(text(marks.key_end), tokenizer), is_glm ? line : Format(),
                                   structure::mark_of(text(marks.value), tokenizer), value_line, value, value_line,
                                   structure::mark_of(text(marks.value_end), tokenizer), line});
  };
  std::vector<Format> parts;
  if (is_glm) parts = {const_text(function), line};
  else parts = {const_text(text(marks.call) + quote + function + quote + text(marks.name_end) + "\n")};
  const ValueGrammars values(schema, marks);
  const Format& top = properties_schema(schema);
  const Format none = Format::object(), no_names = Format::array();
  const Format& properties = top.contains("properties") ? top["properties"] : none;
  const Format& required = top.contains("required") ? top["required"] : no_names;
  for (const auto& [name, property] : properties.items()) {
    if (name.empty() || name.find_first_of("<>\"'\n") != std::string::npos || call_text::trimmed(name) != name)
      fail_user("the parameter '{}' has a name that calls in this model's form cannot have", name);
    const Format one = argument(const_text(name), values.value(property, name));
    parts.push_back(std::find(required.begin(), required.end(), Format(name)) == required.end() ? structure::maybe(one) : one);
  }
  if (properties.empty() && top.value("additionalProperties", false))
    parts.push_back({{"type", "star"}, {"content", argument({{"type", "regex"}, {"pattern", kAnyName}}, values.any_text())}});
  if (!is_glm) parts.push_back(const_text(text(marks.call_end) + "\n"));
  return structure::sequence_of(parts);
}

}  // namespace flexgen
