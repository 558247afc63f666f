#include "text/grammar/call_grammar.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "io/checked_json.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/parameter_types.h"
#include "text/grammar/pattern.h"
#include "text/grammar/schema_options.h"
#include "text/grammar/structure_format.h"
#include "text/grammar/xml_call_grammar.h"

namespace flexgen {
namespace {

using OrderedJson = structure::Format;
using structure::const_text;
using structure::mark_of;
using structure::one_of;
using structure::sequence_of;
using structure::special_token;

constexpr size_t kMaxNameBytes = 64;  // OpenAI's
constexpr int kCallBlanks = 1;
constexpr const char *kIdPattern = "[a-zA-Z0-9]{9}", *kIndexPattern = "[0-9]{1,3}";

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

/// Of a form whose calls are a list of JSON behind one mark. What is last ends it: a tag of any calls must have an end.
void set_list_parts(const std::string& open, const std::string& close, const char* separator, const JsonMarks& marks, CallParts* parts) {
  parts->mark = std::string(marks.begin);
  parts->marked_each = false;
  parts->open = const_text(open);
  parts->separator = const_text(separator);
  parts->end = marks.end.empty() ? close : std::string(marks.end);
  if (!marks.end.empty()) parts->close = const_text(close);
}

/// What stands around the calls of a form, and between them.
CallParts parts_around(CallForm form, const Tokenizer* tokenizer) {
  CallParts parts;
  switch (form) {
    case CallForm::kNone: fail_user("cannot be honoured: how this model's chat template writes calls is not known");
    case CallForm::kGemma:
    case CallForm::kOlmo:
      fail_user(
          "cannot be honoured: calls as this model's chat template writes them are read, but not held to a form; ask with tool_choice \"auto\" and without strict");
    case CallForm::kHermes:
    case CallForm::kQwenXml:
    case CallForm::kSeedXml:
    case CallForm::kGlm: {
      const XmlMarks* xml = xml_marks(form);
      parts.mark = std::string(xml ? xml->begin : json_marks(form)->begin);
      parts.end = std::string(xml ? xml->end : json_marks(form)->end);
      parts.separator = form == CallForm::kGlm ? structure::maybe(const_text("\n")) : const_text("\n");
      break;
    }
    case CallForm::kMiniMax:
      parts.mark = std::string(xml_marks(form)->begin);
      parts.marked_each = false;
      parts.open = const_text("\n");
      parts.end = std::string(xml_marks(form)->end);
      break;
    case CallForm::kLlama: parts.several = false; break;  // its templates take no message with more
    case CallForm::kHarmony:
      parts.open = structure::maybe(structure::harmony_message("analysis", tokenizer));
      parts.several = false;  // an answer ends with its call
      break;
    case CallForm::kMistral:
      parts.mark = "[TOOL_CALLS]";
      parts.marked_each = false;
      parts.open = const_text(" [");
      parts.separator = const_text(", ");
      parts.end = "]";
      break;
    case CallForm::kCommand: set_list_parts("[\n    ", "\n]", ",\n    ", *json_marks(form), &parts); break;
    case CallForm::kGranite:
    case CallForm::kPhi:
    case CallForm::kHunyuan: set_list_parts("[", "]", ", ", *json_marks(form), &parts); break;
    case CallForm::kMistralNamed:
    case CallForm::kMistralNumbered: parts.mark = "[TOOL_CALLS]"; break;
  }
  return parts;
}

/// A call of the function, without what stands around calls.
OrderedJson grammar_of_call(const CallableFunction& function, CallForm form, double* pattern_characters, const Tokenizer* tokenizer, ParameterTypes* types) {
  const std::string& name = function.name;
  if (const XmlMarks* marks = xml_marks(form)) {
    const OrderedJson schema = parse_json<OrderedJson>(schema_of(function, pattern_characters), "the schema");
    try {
      OrderedJson call = xml_call(name, schema, *marks, tokenizer);
      if (types && function.strict && !set_parameter_types(name, schema, types)) fail_user("they refer to each other too often");
      return form == CallForm::kMiniMax || form == CallForm::kGlm ? call : sequence_of({const_text("\n"), std::move(call)});
    } catch (const Error& error) {
      fail_user("has the function '{}', whose parameters cannot be followed: {}", name, error.what());
    }
  }
  OrderedJson arguments = arguments_of(function, pattern_characters);
  switch (form) {
    case CallForm::kHermes: return sequence_of(object_call(name, "\n", "arguments", std::move(arguments), "\n"));
    case CallForm::kLlama: return sequence_of(object_call(name, "", "parameters", std::move(arguments), ""));
    case CallForm::kHarmony:
      return sequence_of({mark_of("<|channel|>", tokenizer), const_text("commentary to=functions." + name + " "), mark_of("<|constrain|>", tokenizer),
                          const_text("json"), mark_of("<|message|>", tokenizer), std::move(arguments)});
    case CallForm::kCommand:
      return sequence_of({const_text(R"({"tool_call_id": ")"),
                          {{"type", "regex"}, {"pattern", kIndexPattern}},
                          const_text(fmt::format(R"(", "tool_name": "{}", "parameters": )", name)),
                          std::move(arguments),
                          const_text("}")});
    case CallForm::kMistralNamed:
    case CallForm::kMistralNumbered: {
      std::vector<OrderedJson> call{const_text(name)};
      if (form == CallForm::kMistralNumbered) {
        call.push_back(mark_of("[CALL_ID]", tokenizer));
        call.push_back({{"type", "regex"}, {"pattern", kIdPattern}});
      }
      call.push_back(mark_of("[ARGS]", tokenizer));
      call.push_back(std::move(arguments));
      return sequence_of(call);
    }
    default: return sequence_of(object_call(name, "", "arguments", std::move(arguments), ""));  // Mistral and others with lists
  }
}

CallParts parts_of(const WantedCalls& wanted, const Tokenizer* tokenizer, ParameterTypes* types) {
  for (const CallableFunction& function : wanted.functions) check_name(function.name);
  CallParts parts = parts_around(wanted.form, tokenizer);
  double pattern_characters = 0;
  for (const CallableFunction& function : wanted.functions)
    parts.calls.push_back(grammar_of_call(function, wanted.form, &pattern_characters, tokenizer, types));
  return parts;
}

/// Any number of it; null unless `several` may come.
OrderedJson more_of(bool several, const OrderedJson& next) { return several ? OrderedJson{{"type", "star"}, {"content", next}} : OrderedJson(); }

/// Calls that have one mark, between that and its end.
OrderedJson calls_of_one_mark(const CallParts& parts, bool several) {
  const OrderedJson call = one_of(parts.calls);
  return sequence_of({parts.open, call, more_of(several, sequence_of({parts.separator, call})), parts.close});
}

/// As the calls stand in an answer that is nothing else.
OrderedJson forced_calls(const CallParts& parts, bool one_call, const Tokenizer* tokenizer) {
  const OrderedJson mark = mark_of(parts.mark, tokenizer), end = mark_of(parts.end, tokenizer);
  const bool several = !one_call && parts.several;
  if (!parts.marked_each) return sequence_of({mark, calls_of_one_mark(parts, several), end});
  const OrderedJson call = one_of(parts.calls);
  return sequence_of({mark, parts.open, call, end, more_of(several, sequence_of({parts.separator, mark, call, end}))});
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

/// Calls that no mark begins, or text; null in a form whose calls a mark begins.
OrderedJson calls_or_text(const CallParts& parts, CallForm form, const Tokenizer* tokenizer) {
  const OrderedJson call = one_of(parts.calls);
  if (form == CallForm::kHarmony) {  // the message that ends the answer, behind what is said before a call
    const OrderedJson last =
        sequence_of({mark_of("<|channel|>", tokenizer), const_text("final"), mark_of("<|message|>", tokenizer), structure::harmony_text()});
    return sequence_of({parts.open, structure::maybe(structure::harmony_message("commentary", tokenizer)), one_of({call, last})});
  }
  if (form != CallForm::kLlama) return nullptr;
  // What begins with a brace, behind blanks or the mark of Python or not, would be read as a call.
  const OrderedJson first{{"type", "regex"}, {"pattern", plain_pattern("\\s*[^\\s{]", PatternPlace::kAnswer)}};
  return one_of({call, structure::maybe(sequence_of({first, structure::any_text({"|python_tag|>"})}))});
}

}  // namespace

GrammarSpec call_grammar(const WantedCalls& wanted, const Tokenizer* tokenizer, ParameterTypes* types) {
  FLEXGEN_CHECK(!wanted.functions.empty());
  const CallParts parts = parts_of(wanted, tokenizer, types);
  OrderedJson format;
  if (wanted.forced) format = forced_calls(parts, wanted.one_call, tokenizer);
  else if (format = calls_or_text(parts, wanted.form, tokenizer); format.is_null()) format = calls_in_text(parts, wanted.one_call, tokenizer);
  return {GrammarSpec::Kind::kStructure, format.dump(), {}, true};
}

}  // namespace flexgen
