#include "app/batch_output.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"

namespace flexgen {
namespace {

using Json = nlohmann::ordered_json;

/// One line, valid UTF-8 whatever is in it.
std::string to_line(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

/// A logprob with the digits that a float has; JSON knows no infinity, and OpenAI writes -9999 for it.
Json number(float logprob) {
  if (std::isnan(logprob)) return nullptr;
  if (std::isinf(logprob)) return -9999.0;
  char digits[32];
  auto end = std::to_chars(digits, digits + sizeof(digits), logprob).ptr;
  double value = 0;
  std::from_chars(digits, end, value);
  return value;
}

std::string token_text(const Tokenizer* tokenizer, int32_t token) {
  return tokenizer ? tokenizer->token_text(token) : fmt::format("token_id:{}", token);
}

/// The best tokens and the chosen one, by text; a text that two tokens share is the chosen (or the better) one's.
Json top_logprobs(const Tokenizer* tokenizer, const TokenLogprob& entry) {
  std::string chosen = token_text(tokenizer, entry.token);
  Json top = Json::object();
  std::set<std::string> taken{chosen};
  bool has_chosen = false;
  for (auto [token, logprob] : entry.top) {
    std::string text = chosen;
    if (token == entry.token) has_chosen = true;
    else if (!taken.insert(text = token_text(tokenizer, token)).second) text = fmt::format("token_id:{}", token);
    top[text] = number(logprob);
  }
  if (!has_chosen) top[chosen] = number(entry.logprob);
  return top;
}

/// Appends the logprobs of one stretch of tokens; offsets count characters from `offset` on, up to `limit`.
void add_logprobs(const Tokenizer* tokenizer, std::span<const TokenLogprob> entries, int64_t offset, int64_t limit, Json* out) {
  std::optional<StreamDecoder> decoder;
  if (tokenizer) decoder.emplace(*tokenizer);
  for (const TokenLogprob& entry : entries) {
    (*out)["tokens"].push_back(token_text(tokenizer, entry.token));
    (*out)["token_logprobs"].push_back(number(entry.logprob));
    (*out)["top_logprobs"].push_back(std::isnan(entry.logprob) ? Json(nullptr) : top_logprobs(tokenizer, entry));
    (*out)["text_offset"].push_back(std::min(offset, limit));
    if (decoder) offset += count_characters(decoder->push(entry.token));
  }
}

Json choice_record(const RecordContext& context, const BatchRequest& request, const Completion& completion, int64_t index) {
  const BatchPrompt& prompt = request.prompts[static_cast<size_t>(index / request.n)];
  std::string prompt_text;
  if (request.params.echo) {
    prompt_text = prompt.text;
    if (prompt_text.empty() && context.tokenizer) prompt_text = context.tokenizer->decode(prompt.tokens, true);
  }
  Json choice;
  choice["index"] = index;
  choice["text"] = prompt_text + completion.text;
  choice["logprobs"] = nullptr;
  if (request.params.top_logprobs >= 0) {
    Json logprobs;
    for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) logprobs[name] = Json::array();
    int64_t prompt_characters = count_characters(prompt_text);
    add_logprobs(context.tokenizer, completion.prompt_logprobs, 0, prompt_characters, &logprobs);
    add_logprobs(context.tokenizer, completion.logprobs, prompt_characters,
                 prompt_characters + count_characters(completion.text), &logprobs);
    choice["logprobs"] = std::move(logprobs);
  }
  choice["finish_reason"] = completion.reason == FinishReason::kStop ? "stop" : "length";
  return choice;
}

}  // namespace

std::string answer_record(const RecordContext& context, const RecordId& id, const BatchRequest& request,
                          std::span<const Completion> completions) {
  FLEXGEN_CHECK(static_cast<int64_t>(completions.size()) == request.num_sequences());
  std::string name = record_id_text(id);
  std::string digits = name.substr(kRecordIdPrefix.size());
  int64_t prompt_tokens = 0, completion_tokens = 0;
  for (const BatchPrompt& prompt : request.prompts) prompt_tokens += static_cast<int64_t>(prompt.tokens.size());

  Json body;
  body["id"] = "cmpl-" + digits;
  body["object"] = "text_completion";
  body["created"] = context.created_s;
  body["model"] = context.model_name;
  body["choices"] = Json::array();
  for (size_t i = 0; i < completions.size(); ++i) {
    body["choices"].push_back(choice_record(context, request, completions[i], static_cast<int64_t>(i)));
    completion_tokens += static_cast<int64_t>(completions[i].tokens.size());
  }
  body["usage"] = {{"prompt_tokens", prompt_tokens},
                   {"completion_tokens", completion_tokens},
                   {"total_tokens", prompt_tokens + completion_tokens}};

  Json record;
  record["id"] = name;
  record["custom_id"] = request.custom_id;
  record["response"] = {{"status_code", 200}, {"request_id", "req_" + digits}, {"body", std::move(body)}};
  record["error"] = nullptr;
  return to_line(record);
}

std::string error_record(const InputLine& line, const LineError& error) {
  Json record;
  record["id"] = record_id_text(line.id);
  record["custom_id"] = error.custom_id;
  record["response"] = nullptr;
  record["error"] = {{"code", error.code}, {"message", error.message},
                     {"param", error.param.empty() ? Json(nullptr) : Json(error.param)}, {"line", line.number}};
  return to_line(record);
}

}  // namespace flexgen
