// Fuzz target: the body of a call, made of the input's bytes field by field (so that many are taken), or the bytes as they are. It ends in a request or an error; what is let through keeps its promises,
// and an answer is read from a stream as it is read whole.

#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <string>

#include "batch/batch_fields.h"
#include "batch/batch_line.h"
#include "batch/byte_tokenizer.h"
#include "text/chat_answer.h"
#include "text/grammar/fuzz_schemas.h"
#include "text/unicode.h"

namespace {

using namespace flexgen;
using Json = nlohmann::json;
using fuzz::any_value, fuzz::one_of, fuzz::schema_of;

std::string name_of(FuzzChoices& choose) {
  return one_of(choose, {"add", "f", "a.b-c_d", "x y", "", "é", "functions.f", "add\"", "<|call|>",
                         "0123456789012345678901234567890123456789012345678901234567890123456789"});
}

Json tool_of(FuzzChoices& choose) {
  if (choose.rarely()) return any_value(choose);
  Json function = {{"name", name_of(choose)}};
  if (choose.flag()) function["parameters"] = schema_of(choose, 2);
  if (choose.flag()) function["strict"] = choose.rarely() ? any_value(choose) : Json(choose.flag());
  if (choose.flag()) function["description"] = "d";
  return {{"type", choose.rarely() ? "x" : "function"}, {"function", function}};
}

Json message_of(FuzzChoices& choose) {
  if (choose.rarely()) return any_value(choose);
  Json message = {{"role", one_of(choose, {"user", "assistant", "system", "tool", "developer", ""})}};
  switch (choose.below(6)) {
    case 0: message["content"] = Json::array({{{"type", "text"}, {"text", "part"}}, any_value(choose)}); break;
    case 1: break;
    case 2: message["content"] = any_value(choose); break;
    default: message["content"] = one_of(choose, {"Hi", "", "<think>", "<|end|>", "[TOOL_CALLS]", "é"}); break;
  }
  if (choose.below(4) == 0)
    message["tool_calls"] = Json::array({{{"id", "c"},
                                          {"type", "function"},
                                          {"function", {{"name", name_of(choose)}, {"arguments", choose.flag() ? Json("{\"x\": 1}") : any_value(choose)}}}}});
  if (choose.below(8) == 0) message[one_of(choose, {"name", "reasoning_content", "tool_call_id", "audio", "refusal"})] = any_value(choose);
  return message;
}

Json items_of(FuzzChoices& choose, Json (*make)(FuzzChoices&)) {
  Json items = Json::array();
  for (size_t i = 1 + choose.below(4); i > 0; --i) items.push_back(make(choose));
  return items;
}

/// A field that says what the answer must be.
void add_grammar(FuzzChoices& choose, Json& body) {
  switch (choose.below(7)) {
    case 0: body["response_format"] = {{"type", one_of(choose, {"json_object", "text", "json_schema", "x"})}}; break;
    case 1:
      body["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"name", "s"}, {"schema", schema_of(choose, 3)}, {"strict", any_value(choose)}}}};
      break;
    case 2: body["guided_json"] = choose.flag() ? schema_of(choose, 3) : Json(schema_of(choose, 2).dump(-1, ' ', false, Json::error_handler_t::replace)); break;
    case 3: body["guided_regex"] = one_of(choose, {"a+", "(a|b){2}", "[", "", "a{99999}", "\\p{L}"}); break;
    case 4: body["guided_choice"] = Json::array({name_of(choose), any_value(choose)}); break;
    case 5: body["guided_grammar"] = one_of(choose, {"root ::= \"a\"", "root ::= root", "x", "root ::= [a-z]* \"\\n\"", "root ::= (\"a\" | root){3}"}); break;
    default:
      body["structured_outputs"] = {{one_of(choose, {"json", "regex", "choice", "grammar", "json_object", "disable_any_whitespace"}),
                                     choose.flag() ? schema_of(choose, 2) : any_value(choose)}};
      break;
  }
}

void add_number(FuzzChoices& choose, Json& body) {
  const char* name =
      one_of(choose, {"max_tokens", "max_completion_tokens", "max_new_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "n", "best_of",
                      "logprobs", "top_logprobs", "prompt_logprobs", "presence_penalty", "repetition_penalty", "truncate_prompt_tokens"});
  body[name] = choose.rarely() ? any_value(choose) : choose.flag() ? Json(choose.byte()) : Json(choose.byte() / 128.0);
}

void add_field(FuzzChoices& choose, bool chat, Json& body) {
  switch (choose.below(12)) {
    case 0:
    case 1: add_grammar(choose, body); break;
    case 2:
    case 3:
      if (chat) body["tools"] = items_of(choose, tool_of);
      break;
    case 4:
      if (chat)
        body["tool_choice"] =
            choose.flag() ? Json(one_of(choose, {"auto", "none", "required", "x"})) : Json({{"type", "function"}, {"function", {{"name", name_of(choose)}}}});
      break;
    case 5:
      body[one_of(choose, {"parallel_tool_calls", "stream", "add_generation_prompt", "continue_final_message", "echo", "ignore_eos", "return_token_ids",
                           "logprobs"})] = choose.rarely() ? any_value(choose) : Json(choose.flag());
      break;
    case 6: body["stream_options"] = {{one_of(choose, {"include_usage", "include_obfuscation", "continuous_usage_stats", "x"}), choose.flag()}}; break;
    case 7: body["stop"] = choose.flag() ? Json(name_of(choose)) : Json::array({name_of(choose), any_value(choose)}); break;
    case 8:
      body[one_of(choose, {"logit_bias", "chat_template_kwargs", "metadata"})] = {
          {one_of(choose, {"5", "-1", "enable_thinking", "messages", "x"}), any_value(choose)}};
      break;
    case 9: body[one_of(choose, {"bad_words", "stop_token_ids", "logprob_token_ids", "documents"})] = Json::array({any_value(choose), 7}); break;
    case 10: body[one_of(choose, {"model", "user", "reasoning_effort", "service_tier", "frequency_penalty", "x"})] = any_value(choose); break;
    default: add_number(choose, body); break;
  }
}

std::string body_of(FuzzChoices& choose, bool chat) {
  Json body = Json::object();
  if (chat) body["messages"] = choose.rarely() ? any_value(choose) : items_of(choose, message_of);
  else
    body["prompt"] = choose.rarely() ? any_value(choose)
                     : choose.flag() ? Json("Hi")
                                     : Json::array({choose.flag() ? Json("a") : Json(choose.byte()), choose.flag() ? Json("b") : Json(choose.byte())});
  for (size_t i = choose.below(8); i > 0; --i) add_field(choose, chat, body);
  std::string text = body.dump(-1, ' ', false, Json::error_handler_t::replace);
  for (size_t i = choose.rarely() ? choose.below(6) : 0; i > 0; --i)
    text[(choose.byte() * 256u + choose.byte()) % text.size()] = static_cast<char>(choose.byte());
  return text;
}

std::string answer_of(FuzzChoices& choose) {
  static const char* const kPieces[] = {"<tool_call>",
                                        "</tool_call>",
                                        "\n",
                                        "{\"name\": \"add\", \"arguments\": {\"x\": 1}}",
                                        "{\"name\": \"add\", \"parameters\": {}}",
                                        "[TOOL_CALLS]",
                                        "add",
                                        "[ARGS]",
                                        "[CALL_ID]",
                                        "123456789",
                                        "{\"x\": 1}",
                                        "<|channel|>",
                                        "analysis",
                                        "final",
                                        "commentary",
                                        " to=functions.add ",
                                        "<|constrain|>json",
                                        "<|message|>",
                                        "<|end|>",
                                        "<|start|>assistant",
                                        "<|call|>",
                                        "<|return|>",
                                        "<think>",
                                        "</think>",
                                        "<|channel>",
                                        "thought\n",
                                        "<channel|>",
                                        "<answer>",
                                        "</answer>",
                                        "</ans",
                                        " ",
                                        "text",
                                        "é",
                                        "{",
                                        "}",
                                        "[",
                                        "]",
                                        ",",
                                        "<|",
                                        "<"};
  std::string text;
  for (size_t i = choose.below(24); i > 0; --i) text += kPieces[choose.below(std::size(kPieces))];
  return text;
}

void check_prefix(const std::optional<std::string>& part, const std::optional<std::string>& whole) {
  if (part && !part->empty() && !(whole && whole->starts_with(*part))) std::abort();
}

/// As AnswerStream sends it: what was told at any character stays.
void check_answer(const std::string& text, const AnswerForm& form) {
  const ChatAnswer whole = read_chat_answer(text, form);
  for (size_t end = 0; end <= text.size(); ++end) {
    if (end < text.size() && is_continuation(text[end])) continue;
    const ChatAnswer settled = settled_chat_answer(text.substr(0, end), form);
    if (!settled.calls.empty()) std::abort();
    check_prefix(settled.reasoning, whole.reasoning);
    check_prefix(settled.content, whole.content);
  }
  for (const ToolCall& call : whole.calls)
    if (!Json::accept(call.arguments)) std::abort();
}

std::shared_ptr<const ChatTemplate> template_number(size_t number) {
  static const auto kTemplates = [] {
    const std::string front =
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}{{ tools | tojson if tools }}";
    std::vector<std::shared_ptr<const ChatTemplate>> made;
    for (const char* end :
         {"{# <tool_call> #}", "{# <|start_header_id|>\"parameters\": #}", "{# [TOOL_CALLS] \"arguments\" #}", "{# [TOOL_CALLS][ARGS] #}",
          "{# [TOOL_CALLS][CALL_ID][ARGS] #}", "<|start|>assistant{# <|channel|><|message|> #}", "<|start|>assistant<|channel|>final<|message|>",
          "<tool_call><think>", "<think></think>", "{# <|channel>thought <channel|> #}", "{# <think></think><answer></answer> #}", ""})
      made.push_back(std::make_shared<const ChatTemplate>(std::map<std::string, std::string>{{"default", front + end}}, "fuzz", ChatTemplate::SpecialTokens()));
    return made;
  }();
  return kTemplates[number % kTemplates.size()];
}

void check_request(const BatchRequest& request, const ModelLimits& limits, const std::string& answer) {
  if (request.num_sequences() < 1 || request.n > request.best_of) std::abort();
  if (request.chat) check_answer(answer, *request.chat);
  if (request.params.grammar && (request.params.min_tokens > 0 || request.params.ignore_eos || !request.params.bad_words.empty())) std::abort();
  for (const BatchPrompt& prompt : request.prompts) {
    if (prompt.tokens.empty() || std::ssize(prompt.tokens) + request.params.max_tokens > limits.max_positions) std::abort();
    for (int32_t token : prompt.tokens)
      if (token < 0 || token >= limits.vocab_size) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ByteTokenizer tokenizer;
  FuzzChoices choose(data, size);
  const uint8_t how = choose.byte();
  const bool chat = how & 1;
  ModelLimits limits{257, 4000, &tokenizer};
  limits.chat = template_number(choose.byte());
  limits.ends_answers = how < 250;
  const std::string answer = answer_of(choose), body = how % 16 == 3 || how % 16 == 4 ? choose.rest() : body_of(choose, chat);
  const auto parsed = parse_call_body(body, chat ? Endpoint::kChat : Endpoint::kText, "fuzz", limits);
  if (const auto* error = std::get_if<LineError>(&parsed)) {
    if (error->code.empty() || error->message.empty()) std::abort();
    return 0;
  }
  check_request(std::get<CallBody>(parsed).request, limits, answer);
  return 0;
}
