#include "batch/chat_output.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/sha256.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int kMistralIdDigits = 9;  // its templates refuse others
constexpr int kIdDigits = 24;

/// Names a call by what its line asks for, its content and its place, in the choice and among the choices, so that a job which goes on gives the same names. Lines that ask for the same get the same choices, names too.
std::string call_id(const BatchRequest& request, int64_t choice, const ToolCall& call, size_t index) {
  const std::string line = request.answers_id ? std::string(request.answers_id->begin(), request.answers_id->end()) : request.custom_id;
  const std::string place = choice == 0 ? fmt::format("{}", index) : fmt::format("{}/{}", choice, index);
  const Sha256::Digest digest = Sha256::of(fmt::format("{} {} {} {}", line, place, call.name, call.arguments));
  const std::string digits = Sha256::hex(digest, kIdDigits / 2);
  return is_mistral(request.chat->calls) ? digits.substr(0, kMistralIdDigits) : "call_" + digits;
}

/// A token with its logprob and the bytes of its text.
OrderedJson entry_json(const Tokenizer* tokenizer, int32_t token, float logprob) {
  const std::string text = text_of_token(tokenizer, token);
  // A part of a character is no text, yet it has bytes, which clients join.
  const std::string own = tokenizer ? tokenizer->token_bytes(token) : "";
  OrderedJson bytes = OrderedJson::array();
  for (const char c : own.empty() ? text : own) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text}, {"logprob", logprob_json(logprob)}, {"bytes", std::move(bytes)}};
}

OrderedJson calls_of(const BatchRequest& request, int64_t choice, const ChatAnswer& answer, bool numbered) {
  OrderedJson calls = OrderedJson::array();
  for (size_t i = 0; i < answer.calls.size(); ++i) {
    OrderedJson call;
    if (numbered) call["index"] = i;
    call.update({{"id", call_id(request, choice, answer.calls[i], i)},
                 {"type", "function"},
                 {"function", {{"name", answer.calls[i].name}, {"arguments", answer.calls[i].arguments}}}});
    calls.push_back(std::move(call));
  }
  return calls;
}

}  // namespace

void add_thoughts(const std::string& thoughts, nlohmann::ordered_json* message) {
  for (const char* name : {"reasoning_content", "reasoning"}) (*message)[name] = thoughts;
}

std::string delta_json(const BatchRequest& request, int64_t choice, const ChatAnswer& news) {
  OrderedJson delta = OrderedJson::object();
  if (news.reasoning) add_thoughts(*news.reasoning, &delta);
  if (news.content) delta["content"] = *news.content;
  if (!news.calls.empty()) delta["tool_calls"] = calls_of(request, choice, news, true);
  return json_text(delta);
}

bool write_chat_message(const BatchRequest& request, const Completion& completion, int64_t choice, const WritePiece& write) {
  const ChatAnswer answer = read_chat_answer(completion.text, *request.chat);
  OrderedJson message;
  message["role"] = "assistant";
  message["content"] = answer.content ? OrderedJson(*answer.content) : OrderedJson(nullptr);
  message["refusal"] = nullptr;
  if (answer.reasoning) add_thoughts(*answer.reasoning, &message);
  if (!answer.calls.empty()) message["tool_calls"] = calls_of(request, choice, answer, false);
  write(R"(,"message":)");
  write(json_text(message));
  return !answer.calls.empty();
}

void write_chat_logprobs(const Tokenizer* tokenizer, std::span<const TokenLogprob> entries, size_t most, const WritePiece& write) {
  Pieces pieces(write);
  pieces.add(R"({"content":[)");
  for (const TokenLogprob& entry : entries) {
    OrderedJson json = entry_json(tokenizer, entry.token, entry.logprob);
    OrderedJson& top = json["top_logprobs"] = OrderedJson::array();
    for (const auto& [token, logprob] : std::span(entry.top).first(std::min(most, entry.top.size()))) top.push_back(entry_json(tokenizer, token, logprob));
    if (&entry != entries.data()) pieces.add(",");
    pieces.add(json_text(json));
  }
  pieces.add(R"(],"refusal":null})");
  pieces.finish();
}

}  // namespace flexgen
