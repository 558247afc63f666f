#include "batch/tool_choice.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "base/error.h"
#include "batch/grammar_fields.h"
#include "text/grammar/call_grammar.h"
#include "text/grammar/parameter_types.h"
#include "text/jinja/print.h"

namespace flexgen {
namespace {

using jinja::Value;

constexpr const char* kToolChoicePath = "body.tool_choice";
constexpr const char* kToolsPath = "body.tools";

/// `all`: of all functions; else of strict ones.
CallableFunction callable(const Value& tool, bool all) {
  const Value& function = *tool.member("function");
  CallableFunction callable{function.member("name")->text()->bytes, "", true};
  const Value* strict = function.member("strict");
  if (strict && !strict->is<bool>())
    refuse_value(kToolsPath, fmt::format("has the function {} with another value of strict than true and false", quote_text(callable.name)));
  callable.strict = all || (strict && jinja::truth(*strict));
  if (const Value* parameters = function.member("parameters")) callable.parameters = jinja::to_json(*parameters, {});
  return callable;
}

/// The function that {"type": "function", "function": {"name": ...}} names.
std::string chosen_name(const nlohmann::json& choice) {
  const bool is_function = choice.is_object() && choice.value("type", nlohmann::json()) == "function" && choice.contains("function") &&
                           choice["function"].is_object() && choice["function"].value("name", nlohmann::json()).is_string();
  if (!is_function)
    refuse("unsupported_parameter", kToolChoicePath,
           fmt::format(R"({} must be "none", "auto", "required" or {{"type": "function", "function": {{"name": ...}}}}, not {})", kToolChoicePath,
                       shown_value(choice)));
  return choice["function"]["name"].get<std::string>();
}

}  // namespace

ToolChoice parse_tool_choice(const Conversation& conversation, const LineBody& body, CallForm form, const Tokenizer* tokenizer, bool no_text) {
  const nlohmann::json* given = body.find("tool_choice");
  const bool one_call = !body.flag("parallel_tool_calls", true);
  ToolChoice choice;
  const bool has_tools = !conversation.tools.none();
  const bool says_nothing = given && (*given == "none" || (*given == "auto" && body.find("tools")));
  if (given && !has_tools && !says_nothing) refuse_value(kToolChoicePath, "needs tools");
  choice.calls = has_tools && !(given && *given == "none");
  if (!choice.calls) return choice;
  if (xml_marks(form)) choice.types = parameter_types(conversation.tools);
  choice.forced = given && *given != "auto";
  const std::string name = choice.forced && *given != "required" ? chosen_name(*given) : "";
  WantedCalls wanted{{}, form, one_call || !name.empty(), choice.forced || no_text};
  bool any_strict = false;
  for (const Value& tool : conversation.tools.list()->items) {
    CallableFunction function = callable(tool, choice.forced);
    any_strict |= function.strict;
    if (name.empty() || function.name == name) wanted.functions.push_back(std::move(function));
  }
  if (wanted.functions.empty()) refuse_value(kToolChoicePath, fmt::format("names the function {}, which is not in tools", quote_text(name)));
  if (!choice.forced && !any_strict) return choice;
  const char* path = choice.forced ? kToolChoicePath : kToolsPath;
  const std::string what = choice.forced ? "" : "has a function with strict, which ";
  refuse_beside_grammar(body, path);
  try {
    choice.grammar = kept_grammar(call_grammar(wanted, tokenizer, &choice.types));
  } catch (const Error& error) {
    const std::string why = error.what();
    refuse_value(path, why.starts_with("has ") ? why : what + why);
  }
  return choice;
}

}  // namespace flexgen
