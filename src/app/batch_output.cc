#include "app/batch_output.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "app/text_offsets.h"
#include "base/error.h"

namespace flexgen {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kNotFiniteCode = "not_finite";

/// One line, valid UTF-8 whatever is in it.
std::string to_line(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"; }

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

/// The best tokens (of those that are there, so many) and the chosen one, by text; a text that two tokens share is the chosen (or the better) one's.
Json top_logprobs(const Tokenizer* tokenizer, const TokenLogprob& entry, size_t most) {
  std::string chosen = token_text(tokenizer, entry.token);
  Json top = Json::object();
  std::set<std::string> taken{chosen};
  bool has_chosen = false;
  for (auto [token, logprob] : std::span(entry.top).first(std::min(most, entry.top.size()))) {
    std::string text = chosen;
    if (token == entry.token) has_chosen = true;
    else if (!taken.insert(text = token_text(tokenizer, token)).second) text = fmt::format("token_id:{}", token);
    top[text] = number(logprob);
  }
  if (!has_chosen) top[chosen] = number(entry.logprob);
  return top;
}

/// Appends the logprobs of one stretch of tokens, whose text begins at `first`; offsets go up to `limit`, as the text may have been cut.
void add_logprobs(const Tokenizer* tokenizer, std::span<const TokenLogprob> entries, size_t most, std::span<const int64_t> offsets, int64_t first, int64_t limit, Json* out) {
  for (size_t i = 0; i < entries.size(); ++i) {
    const TokenLogprob& entry = entries[i];
    (*out)["tokens"].push_back(token_text(tokenizer, entry.token));
    (*out)["token_logprobs"].push_back(number(entry.logprob));
    (*out)["top_logprobs"].push_back(std::isnan(entry.logprob) ? Json(nullptr) : top_logprobs(tokenizer, entry, most));
    (*out)["text_offset"].push_back(std::min(first + (tokenizer ? offsets[i] : 0), limit));
  }
}

/// As vLLM has it: of each token of the prompt, by id, its own logprob and those of the best. The rank of a token that is not among these is not known.
Json prompt_logprobs(const Tokenizer* tokenizer, std::span<const TokenLogprob> entries, size_t most) {
  Json out = Json::array();
  for (const TokenLogprob& entry : entries) {
    Json tokens;
    auto add = [&](int32_t token, float logprob, Json rank) {
      tokens[std::to_string(token)] = {{"logprob", number(logprob)}, {"rank", std::move(rank)}, {"decoded_token", token_text(tokenizer, token)}};
    };
    if (!std::isnan(entry.logprob)) add(entry.token, entry.logprob, nullptr);
    for (size_t i = 0; i < std::min(most, entry.top.size()); ++i) add(entry.top[i].first, entry.top[i].second, i + 1);
    out.push_back(std::move(tokens));
  }
  return out;
}

Json choice_record(const RecordContext& context, const BatchRequest& request, const Completion& completion, int64_t index) {
  const BatchPrompt& prompt = request.prompts[static_cast<size_t>(index / request.n)];
  std::string prompt_text;
  if (request.params.echo) {
    prompt_text = prompt.text;
    if (prompt_text.empty() && context.tokenizer) prompt_text = context.tokenizer->decode(prompt.tokens, request.params.skip_special_tokens);
  }
  Json choice;
  choice["index"] = index;
  choice["text"] = prompt_text + completion.text;
  choice["logprobs"] = nullptr;
  if (request.params.top_logprobs >= 0) {
    Json logprobs;
    for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) logprobs[name] = Json::array();
    const int64_t prompt_characters = count_characters(prompt_text);
    const bool skip = request.params.skip_special_tokens;
    std::vector<int64_t> offsets;
    if (request.params.echo) {
      if (const Tokenizer* tokenizer = context.tokenizer)
        offsets = prompt.text.empty() ? text_offsets(*tokenizer, prompt.tokens, skip) : text_offsets_in(*tokenizer, prompt.tokens, prompt.text, prompt.num_added);
      add_logprobs(context.tokenizer, completion.prompt_logprobs, static_cast<size_t>(request.params.top_logprobs), offsets, 0, prompt_characters, &logprobs);
    }
    std::vector<int32_t> tokens;
    for (const TokenLogprob& entry : completion.logprobs) tokens.push_back(entry.token);
    if (context.tokenizer) offsets = text_offsets(*context.tokenizer, tokens, skip);
    add_logprobs(context.tokenizer, completion.logprobs, std::string::npos, offsets, prompt_characters, prompt_characters + count_characters(completion.text), &logprobs);
    choice["logprobs"] = std::move(logprobs);
  }
  choice["finish_reason"] = completion.reason == FinishReason::kStop ? "stop" : "length";
  // As vLLM has it: what of the request ended the answer; null for the model's own end tokens.
  choice["stop_reason"] = !completion.stop_string.empty() ? Json(completion.stop_string) : completion.stop_token ? Json(*completion.stop_token) : Json(nullptr);
  if (request.params.prompt_logprobs >= 0)
    choice["prompt_logprobs"] = prompt_logprobs(context.tokenizer, completion.prompt_logprobs, static_cast<size_t>(request.params.prompt_logprobs));
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

LineError not_finite_error(const BatchRequest& request, const Completion& completion, int64_t choice) {
  const auto prompt = static_cast<int64_t>(request.prompts[static_cast<size_t>(choice / request.n)].tokens.size());
  const int64_t at = completion.not_finite_position;
  const std::string token = at < prompt ? fmt::format("token {} of the prompt", at + 1) : fmt::format("token {} of the answer", at - prompt + 1);
  return {request.custom_id, kNotFiniteCode,
          fmt::format("choice {}: the logits for {} are not finite (vocabulary entry {}), so there is no answer: a weight is NaN or infinite, or values overflow; "
                      "check the checkpoint, or compute with more range (--compute-dtype f32)", choice, token, completion.not_finite_entry),
          ""};
}

bool is_not_finite_record(std::string_view record) {
  // A quote within a text is escaped.
  return record.find(fmt::format(R"("response":null,"error":{{"code":"{}")", kNotFiniteCode)) != std::string_view::npos;
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
