#include "text/grammar/call_grammar.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "io/checked_json.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/schema_options.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr size_t kMaxNameBytes = 64;  // OpenAI's
constexpr int kCallBlanks = 1;
constexpr const char *kIdPattern = "[a-zA-Z0-9]{9}", *kIndexPattern = "[0-9]{1,3}";

OrderedJson const_text(const std::string& text) { return {{"type", "const_string"}, {"value", text}}; }

OrderedJson sequence_of(const std::vector<OrderedJson>& elements) { return {{"type", "sequence"}, {"elements", elements}}; }

OrderedJson one_of(const std::vector<OrderedJson>& elements) {
  return elements.size() == 1 ? elements.front() : OrderedJson{{"type", "or"}, {"elements", elements}};
}

/// The token that the mark is, if it is a special one: such a token has no bytes, and no other way leads to it.
std::optional<int32_t> special_token(const std::string& mark, const Tokenizer* tokenizer) {
  if (!tokenizer || mark.empty()) return std::nullopt;
  const std::vector<int32_t> tokens = tokenizer->encode(mark, false);
  if (tokens.size() != 1 || !tokenizer->token_bytes(tokens.front()).empty()) return std::nullopt;
  return tokens.front();
}

/// Null for none.
OrderedJson mark_of(const std::string& mark, const Tokenizer* tokenizer) {
  if (mark.empty()) return nullptr;
  if (const std::optional<int32_t> token = special_token(mark, tokenizer)) return {{"type", "token"}, {"token", *token}};
  return const_text(mark);
}

void check_name(const std::string& name) {
  const auto fits = [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
  };
  if (name.empty() || name.size() > kMaxNameBytes || !std::all_of(name.begin(), name.end(), fits))
    fail_user("has a function whose name is not 1 to {} letters, digits, '_', '-' and '.', so its calls cannot be held to a form", kMaxNameBytes);
}

/// Whether parameters stand for none: no keyword says anything of what an object may hold.
bool are_none(const OrderedJson& parameters) {
  const auto says_nothing = [](const auto& member) {
    const std::string& name = member.key();
    const OrderedJson& value = member.value();
    return is_schema_note(name) || (name == "type" && value == "object") || (name == "properties" && value == OrderedJson::object()) ||
           (name == "required" && value == OrderedJson::array());
  };
  return parameters.is_object() && std::all_of(parameters.items().begin(), parameters.items().end(), says_nothing);
}

/// A function's arguments are an object; without properties it takes none.
std::string schema_of(const CallableFunction& function, double* pattern_characters) {
  if (!function.strict) return R"({"type":"object","additionalProperties":true})";
  const std::string none = R"({"type":"object","additionalProperties":false})";
  if (function.parameters.empty()) return none;
  try {
    if (are_none(json_or_none<OrderedJson>(function.parameters))) return none;
    std::string schema = honoured_schema(function.parameters, pattern_characters);
    const OrderedJson read = parse_json<OrderedJson>(schema, "the schema");
    if (!allows_only(read, {"object"}, read)) fail_user("it must be of the type \"object\"");
    return schema;
  } catch (const Error& error) {
    fail_user("has the function '{}', whose parameters cannot be followed: {}", function.name, error.what());
  }
}

/// `pattern_characters`: as honoured_schema() has it, of the functions before it.
OrderedJson arguments_of(const CallableFunction& function, double* pattern_characters) {
  return {{"type", "json_schema"},
          {"json_schema", parse_json<OrderedJson>(schema_of(function, pattern_characters), "the schema")},
          {"max_whitespace_cnt", kCallBlanks}};
}

/// {"name": ..., "arguments": {...}}
std::vector<OrderedJson> object_call(const std::string& function, const std::string& before, const char* member, OrderedJson arguments,
                                     const std::string& after) {
  return {const_text(fmt::format(R"({}{{"name": "{}", "{}": )", before, function, member)), std::move(arguments), const_text("}" + after)};
}

/// What stands before the calls, each of them, between two of them, and behind the last.
struct CallParts {
  std::string mark;                ///< before each call, or before all of them
  std::vector<OrderedJson> calls;  ///< without their mark
  std::string end;                 ///< a mark behind each of them, or behind all
  OrderedJson open, separator;     ///< null: nothing
  OrderedJson close;               ///< behind the last of calls that have one mark; null: nothing
  bool marked_each = true;
  bool several = true;
};

CallParts parts_of(const WantedCalls& wanted, const Tokenizer* tokenizer) {
  CallParts parts;
  double pattern_characters = 0;
  for (const CallableFunction& function : wanted.functions) {
    check_name(function.name);
    const auto arguments = [&] { return arguments_of(function, &pattern_characters); };
    switch (wanted.form) {
      case CallForm::kNone: fail_user("cannot be honoured: how this model's chat template writes calls is not known");
      case CallForm::kHermes:
        parts.mark = "<tool_call>";
        parts.calls.push_back(sequence_of(object_call(function.name, "\n", "arguments", arguments(), "\n")));
        parts.end = "</tool_call>";
        parts.separator = const_text("\n");
        break;
      case CallForm::kLlama:
        parts.calls.push_back(sequence_of(object_call(function.name, "", "parameters", arguments(), "")));
        parts.several = false;  // its templates take no message with more
        break;
      case CallForm::kHarmony:
        parts.open = {{"type", "optional"},
                      {"content", sequence_of({mark_of("<|channel|>", tokenizer),
                                               const_text("analysis"),
                                               mark_of("<|message|>", tokenizer),
                                               {{"type", "any_text"}},
                                               mark_of("<|end|>", tokenizer),
                                               mark_of("<|start|>", tokenizer),
                                               const_text("assistant")})}};
        parts.calls.push_back(sequence_of({mark_of("<|channel|>", tokenizer), const_text("commentary to=functions." + function.name + " "),
                                           mark_of("<|constrain|>", tokenizer), const_text("json"), mark_of("<|message|>", tokenizer), arguments()}));
        parts.several = false;  // an answer ends with its call
        break;
      case CallForm::kMistral:
        parts.mark = "[TOOL_CALLS]";
        parts.marked_each = false;
        parts.open = const_text(" [");
        parts.calls.push_back(sequence_of(object_call(function.name, "", "arguments", arguments(), "")));
        parts.separator = const_text(", ");
        parts.end = "]";
        break;
      case CallForm::kCommand:
        parts.mark = "<|START_ACTION|>";
        parts.marked_each = false;
        parts.open = const_text("[\n    ");
        parts.calls.push_back(sequence_of({const_text(R"({"tool_call_id": ")"),
                                           {{"type", "regex"}, {"pattern", kIndexPattern}},
                                           const_text(fmt::format(R"(", "tool_name": "{}", "parameters": )", function.name)),
                                           arguments(),
                                           const_text("}")}));
        parts.separator = const_text(",\n    ");
        parts.close = const_text("\n]");
        parts.end = "<|END_ACTION|>";
        break;
      case CallForm::kMistralNamed:
      case CallForm::kMistralNumbered: {
        parts.mark = "[TOOL_CALLS]";
        std::vector<OrderedJson> call{const_text(function.name)};
        if (wanted.form == CallForm::kMistralNumbered) {
          call.push_back(mark_of("[CALL_ID]", tokenizer));
          call.push_back({{"type", "regex"}, {"pattern", kIdPattern}});
        }
        call.push_back(mark_of("[ARGS]", tokenizer));
        call.push_back(arguments());
        parts.calls.push_back(sequence_of(call));
        break;
      }
    }
  }
  return parts;
}

/// `parts` in a row; null ones count for nothing.
OrderedJson row_of(std::initializer_list<OrderedJson> parts) {
  std::vector<OrderedJson> all;
  for (const OrderedJson& part : parts)
    if (!part.is_null()) all.push_back(part);
  return sequence_of(all);
}

/// Any number of it; null unless `several` may come.
OrderedJson more_of(bool several, const OrderedJson& next) { return several ? OrderedJson{{"type", "star"}, {"content", next}} : OrderedJson(); }

/// Calls that have one mark, between that and its end.
OrderedJson calls_of_one_mark(const CallParts& parts, bool several) {
  const OrderedJson call = one_of(parts.calls);
  return row_of({parts.open, call, more_of(several, row_of({parts.separator, call})), parts.close});
}

/// As the calls stand in an answer that is nothing else.
OrderedJson forced_calls(const CallParts& parts, bool one_call, const Tokenizer* tokenizer) {
  const OrderedJson mark = mark_of(parts.mark, tokenizer), end = mark_of(parts.end, tokenizer);
  const bool several = !one_call && parts.several;
  if (!parts.marked_each) return row_of({mark, calls_of_one_mark(parts, several), end});
  const OrderedJson call = one_of(parts.calls);
  return row_of({mark, parts.open, call, end, more_of(several, row_of({parts.separator, mark, call, end}))});
}

/// Any text, in which a mark begins calls.
OrderedJson calls_in_text(const CallParts& parts, bool one_call, const Tokenizer* tokenizer) {
  const OrderedJson content = parts.marked_each ? one_of(parts.calls) : calls_of_one_mark(parts, !one_call);
  const std::optional<int32_t> token = special_token(parts.mark, tokenizer), end = special_token(parts.end, tokenizer);
  const OrderedJson begin = token ? mark_of(parts.mark, tokenizer) : OrderedJson(parts.mark);
  const OrderedJson tag{{"type", "tag"}, {"begin", begin}, {"content", content}, {"end", end ? mark_of(parts.end, tokenizer) : OrderedJson(parts.end)}};
  return {{"type", token ? "token_triggered_tags" : "triggered_tags"},
          {token ? "trigger_tokens" : "triggers", OrderedJson::array({token ? OrderedJson(*token) : OrderedJson(parts.mark)})},
          {"tags", OrderedJson::array({tag})},
          {"at_least_one", false},
          {"stop_after_first", one_call}};
}

}  // namespace

GrammarSpec call_grammar(const WantedCalls& wanted, const Tokenizer* tokenizer) {
  FLEXGEN_CHECK(!wanted.functions.empty());
  const CallParts parts = parts_of(wanted, tokenizer);
  if (!wanted.forced && parts.mark.empty())
    fail_user("cannot be honoured: calls as this model writes them cannot be held to a grammar beside text; force calls with tool_choice, or leave strict out");
  const OrderedJson format = wanted.forced ? forced_calls(parts, wanted.one_call, tokenizer) : calls_in_text(parts, wanted.one_call, tokenizer);
  return {GrammarSpec::Kind::kStructure, format.dump(), {}, true};
}

}  // namespace flexgen
