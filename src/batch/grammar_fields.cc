#include "batch/grammar_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <list>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/grammar/json_schema.h"
#include "text/jinja/print.h"

namespace flexgen {
namespace {

using jinja::Value;
using GrammarKind = GrammarSpec::Kind;

constexpr size_t kMaxGrammarChoices = 1024, kMaxGrammarBytes = 64 << 10, kMaxRegexBytes = 16 << 10, kKeptGrammars = 32;

/// Of a field, as it is called within the body.
std::string name_in_body(const std::string& path) { return path.starts_with("body.") ? path.substr(5) : path; }

std::string grammar_json(const Value& value) { return jinja::to_json(value, {}); }

/// What one field asks for, and where.
struct Asked {
  GrammarSpec spec;
  std::string path;
};

/// A schema may be given as it is, or as a text.
Asked asked_schema(const Value& schema, const std::string& path) {
  if (schema.text()) return {{GrammarKind::kJsonSchema, schema.text()->bytes, {}, true}, path};
  return {{GrammarKind::kJsonSchema, grammar_json(schema), {}, true}, path};
}

Asked asked_text(GrammarKind kind, const std::string& text, const std::string& path) {
  if (text.empty()) refuse_value(path, "is empty");
  const size_t most = kind == GrammarKind::kRegex ? kMaxRegexBytes : kMaxGrammarBytes;
  if (text.size() > most) refuse_value(path, fmt::format("is longer than {} bytes", most));
  return {{kind, text, {}, true}, path};
}

Asked asked_choice(std::vector<std::string> choices, const std::string& path) {
  size_t bytes = 0;
  for (const std::string& choice : choices) bytes += choice.size();
  if (choices.empty() || choices.size() > kMaxGrammarChoices || bytes > kMaxGrammarBytes)
    refuse_value(path, fmt::format("must be a list of 1 to {} texts, of {} bytes together", kMaxGrammarChoices, kMaxGrammarBytes));
  if (std::any_of(choices.begin(), choices.end(), [](const std::string& choice) { return choice.empty(); })) refuse_value(path, "has an empty text");
  return {{GrammarKind::kChoice, "", std::move(choices), true}, path};
}

std::optional<Asked> response_format(const LineJson& line, const LineBody& body) {
  const std::string path = LineBody::path("response_format");
  if (!body.find("response_format")) return std::nullopt;
  const Value* value = line.value("response_format");
  const Value* type = value ? value->member("type") : nullptr;
  if (!type || !type->text()) refuse_value(path, R"(must be an object with "type": "text", "json_object" or "json_schema")");
  const std::string& name = type->text()->bytes;
  const bool has_schema = name == "json_schema";
  // llama.cpp, Together and Fireworks have the schema here.
  const Value* beside = has_schema || name == "json_object" ? value->member("schema") : nullptr;
  for (const auto& [field, inner] : value->dict()->items())
    if (const std::string& text = field.text()->bytes;
        !inner.none() && text != "type" && !(has_schema && text == "json_schema") && !(beside && text == "schema"))
      refuse_value(path, fmt::format("has the field {}, which is not supported", quote_text(text)));
  if (name == "text") return std::nullopt;
  if (beside && value->member("json_schema")) refuse_value(path, "has schema, and json_schema too; give one");
  if (beside) return asked_schema(*beside, path);
  if (name == "json_object") return Asked{{GrammarKind::kJsonObject, "", {}, true}, path};
  if (!has_schema) refuse_value(path, fmt::format("has the type {}; text, json_object and json_schema are supported", quote_text(name)));
  const Value* outer = value->member("json_schema");
  const Value* schema = outer ? outer->member("schema") : nullptr;
  if (!schema) refuse_value(path, R"(must be {"type": "json_schema", "json_schema": {"name": text, "schema": {...}}})");
  for (const auto& [field, inner] : outer->dict()->items()) {
    const std::string& text = field.text()->bytes;
    if (inner.none() || text == "schema") continue;
    const bool is_text = text == "name" || text == "description";
    if (!is_text && text != "strict") refuse_value(path, fmt::format("has the field {} in json_schema, which is not supported", quote_text(text)));
    if (is_text ? !inner.text() : !inner.is<bool>())
      refuse_value(path, fmt::format("has json_schema.{}, which must be {}", text, is_text ? "a text" : "true or false"));
  }
  return asked_schema(*schema, path);
}

void add_guided(const LineJson& line, const LineBody& body, std::vector<Asked>* all) {
  if (const nlohmann::json* json = body.find("guided_json")) {
    const std::string path = LineBody::path("guided_json");
    if (const Value* value = line.value("guided_json")) all->push_back(asked_schema(*value, path));
    else if (json->is_string()) all->push_back({{GrammarKind::kJsonSchema, json->get<std::string>(), {}, true}, path});
    else refuse_value(path, "must be a schema, as an object or as a text");
  }
  for (const auto& [name, kind] : {std::pair{"guided_regex", GrammarKind::kRegex}, std::pair{"guided_grammar", GrammarKind::kEbnf}})
    if (const nlohmann::json* text = body.find(name)) {
      if (!text->is_string()) refuse_value(LineBody::path(name), "must be a text");
      all->push_back(asked_text(kind, text->get<std::string>(), LineBody::path(name)));
    }
  const nlohmann::json* list = body.find("guided_choice");
  const std::string path = LineBody::path("guided_choice");
  if (list && !list->is_array()) refuse_value(path, "must be a list of texts");
  if (list) {
    std::vector<std::string> choices;
    for (const nlohmann::json& choice : *list) {
      if (!choice.is_string()) refuse_value(path, "must be a list of texts");
      choices.push_back(choice.get<std::string>());
    }
    all->push_back(asked_choice(std::move(choices), path));
  }
}

void add_structured(const LineJson& line, const LineBody& body, std::vector<Asked>* all) {
  const std::string path = LineBody::path("structured_outputs");
  if (!body.find("structured_outputs")) return;
  const Value* value = line.value("structured_outputs");
  if (!value || !value->dict()) refuse_value(path, "must be an object");
  const size_t before = all->size();
  bool compact = false;
  for (const auto& [key, field] : value->dict()->items()) {
    const std::string& name = key.text()->bytes;
    const std::string at = path + "." + name.substr(0, kQuotedBytes);
    if (field.none()) continue;
    const std::string shown = grammar_json(field);
    if (name == "json") all->push_back(asked_schema(field, at));
    else if ((name == "regex" || name == "grammar") && field.text())
      all->push_back(asked_text(name == "regex" ? GrammarKind::kRegex : GrammarKind::kEbnf, field.text()->bytes, at));
    else if (name == "choice" && field.list()) {
      std::vector<std::string> choices;
      for (const Value& choice : field.list()->items) {
        if (!choice.text()) refuse_value(at, "must be a list of texts");
        choices.push_back(choice.text()->bytes);
      }
      all->push_back(asked_choice(std::move(choices), at));
    } else if (name == "json_object" && shown == "true") all->push_back({{GrammarKind::kJsonObject, "", {}, true}, at});
    else if (name == "disable_any_whitespace" && (shown == "true" || shown == "false")) compact = shown == "true";
    else if ((name == "json_object" || name == "disable_fallback" || name == "disable_additional_properties") && shown == "false") continue;
    else refuse_value(at, "is not supported: json, regex, choice, grammar, json_object and disable_any_whitespace are");
  }
  if (all->size() == before) refuse_value(path, "says nothing of the answer: give json, regex, choice, grammar or json_object, or leave it out");
  for (size_t i = before; i < all->size(); ++i) (*all)[i].spec.any_whitespace = !compact;
}

}  // namespace

// Most files have a few.
std::shared_ptr<const GrammarSpec> kept_grammar(GrammarSpec asked, bool is_honoured) {
  static std::mutex mutex;
  static std::list<std::pair<GrammarSpec, std::shared_ptr<const GrammarSpec>>> kept;  // as asked, as honoured; the newest first
  {
    std::lock_guard lock(mutex);
    for (auto at = kept.begin(); at != kept.end(); ++at)
      if (at->first == asked) {
        kept.splice(kept.begin(), kept, at);
        return kept.front().second;
      }
  }
  GrammarSpec spec = asked;
  if (const std::optional<std::string> why = why_no_grammars()) fail_user("cannot be followed: {}", *why);
  if (spec.kind == GrammarKind::kJsonSchema && !is_honoured) spec.text = honoured_schema(spec.text);
  check_grammar(spec);
  auto honoured = std::make_shared<const GrammarSpec>(std::move(spec));
  std::lock_guard lock(mutex);
  kept.emplace_front(std::move(asked), honoured);
  if (kept.size() > kKeptGrammars) kept.pop_back();
  return honoured;
}

void refuse_beside_grammar(const LineBody& body, const std::string& path) {
  for (const char* name : {"min_tokens", "ignore_eos", "bad_words"})
    if (const nlohmann::json* value = body.find(name); value && *value != 0 && *value != false && !(value->is_array() && value->empty()))
      refuse_value(LineBody::path(name),
                   fmt::format("is not supported with {}: where the one says what must come, the other may forbid it", name_in_body(path)));
}

std::shared_ptr<const GrammarSpec> parse_grammar(const LineJson& line, const LineBody& body) {
  std::vector<Asked> all;
  if (std::optional<Asked> asked = response_format(line, body)) all.push_back(std::move(*asked));
  add_guided(line, body, &all);
  add_structured(line, body, &all);
  if (all.empty()) return nullptr;
  if (all.size() > 1) refuse_value(all[1].path, fmt::format("says what the answer must be, and so does {}; give one", name_in_body(all[0].path)));
  refuse_beside_grammar(body, all[0].path);
  const bool is_ebnf = all[0].spec.kind == GrammarKind::kEbnf, has_rules = all[0].spec.text.find("::=") != std::string::npos;
  try {
    return kept_grammar(std::move(all[0].spec));
  } catch (const Error& error) {
    refuse("invalid_value", all[0].path,
           fmt::format("{}: {}{}", all[0].path, error.what(),
                       is_ebnf && !has_rules ? "; Lark's grammars are not read: write rules as GBNF has them, root ::= ..., beginning with root" : ""));
  }
}

std::shared_ptr<const GrammarSpec> schema_grammar(std::string_view json) { return kept_grammar({GrammarKind::kJsonSchema, std::string(json), {}, true}); }

}  // namespace flexgen
