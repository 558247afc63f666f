#include "batch/batch_output.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "batch/answer_json.h"
#include "batch/chat_output.h"
#include "batch/choice_store.h"
#include "batch/kept_record.h"
#include "batch/text_offsets.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr const char *kNotFiniteCode = "not_finite", *kDeadEndCode = "dead_end";

std::string to_line(const OrderedJson& json) { return json_text(json) + "\n"; }

/// The best tokens (of those that are there, so many) and the chosen one, by text; a text that two tokens share is the chosen (or the better) one's.
OrderedJson top_logprobs(const Tokenizer* tokenizer, const TokenLogprob& entry, size_t most) {
  std::string chosen = text_of_token(tokenizer, entry.token);
  OrderedJson top = OrderedJson::object();
  std::set<std::string> taken{chosen};
  bool has_chosen = false;
  for (auto [token, logprob] : std::span(entry.top).first(std::min(most, entry.top.size()))) {
    std::string text = chosen;
    if (token == entry.token) has_chosen = true;
    else if (!taken.insert(text = text_of_token(tokenizer, token)).second) text = fmt::format("token_id:{}", token);
    top[text] = logprob_json(logprob);
  }
  if (!has_chosen) top[chosen] = logprob_json(entry.logprob);
  return top;
}

/// Tokens with their logprobs, of each so many of the best, and where the text of each begins.
struct Stretch {
  std::span<const TokenLogprob> entries;
  size_t most = 0;
  std::vector<int64_t> offsets;
};

/// Offsets go up to `limit`, as the text may have been cut; without any all are 0.
Stretch stretch_of(std::span<const TokenLogprob> entries, size_t most, std::span<const int64_t> offsets, int64_t limit) {
  Stretch stretch{entries, most, {}};
  for (size_t i = 0; i < entries.size(); ++i) stretch.offsets.push_back(std::min(offsets.empty() ? 0 : offsets[i], limit));
  return stretch;
}

/// One after the other, as a sequence may have many tokens, each with many logprobs.
void write_logprobs(const Tokenizer* tokenizer, std::span<const Stretch> stretches, const WritePiece& write) {
  using Item = OrderedJson (*)(const Tokenizer*, const Stretch&, size_t);
  static constexpr std::pair<const char*, Item> kLists[] = {
      {"tokens", [](const Tokenizer* tokens, const Stretch& s, size_t i) { return OrderedJson(text_of_token(tokens, s.entries[i].token)); }},
      {"token_logprobs", [](const Tokenizer*, const Stretch& s, size_t i) { return logprob_json(s.entries[i].logprob); }},
      {"top_logprobs", [](const Tokenizer* tokens, const Stretch& s,
                          size_t i) { return std::isnan(s.entries[i].logprob) ? OrderedJson(nullptr) : top_logprobs(tokens, s.entries[i], s.most); }},
      {"text_offset", [](const Tokenizer*, const Stretch& s, size_t i) { return OrderedJson(s.offsets[i]); }}};
  Pieces pieces(write);
  for (const auto& [name, item] : kLists) {
    pieces.add(fmt::format("{}\"{}\":[", name == kLists[0].first ? "{" : ",", name));
    bool first = true;
    for (const Stretch& stretch : stretches)
      for (size_t i = 0; i < stretch.entries.size(); ++i) {
        if (!std::exchange(first, false)) pieces.add(",");
        pieces.add(json_text(item(tokenizer, stretch, i)));
      }
    pieces.add("]");
  }
  pieces.add("}");
  pieces.finish();
}

/// As vLLM has it: of each token of the prompt, by id, its own logprob and those of the best. The rank of a token that is not among these is not known.
void write_prompt_logprobs(const Tokenizer* tokenizer, std::span<const TokenLogprob> entries, size_t most, const WritePiece& write) {
  Pieces pieces(write);
  pieces.add("[");
  for (const TokenLogprob& entry : entries) {
    OrderedJson tokens;
    auto add = [&](int32_t token, float logprob, OrderedJson rank) {
      tokens[std::to_string(token)] = {{"logprob", logprob_json(logprob)}, {"rank", std::move(rank)}, {"decoded_token", text_of_token(tokenizer, token)}};
    };
    if (!std::isnan(entry.logprob)) add(entry.token, entry.logprob, nullptr);
    for (size_t i = 0; i < std::min(most, entry.top.size()); ++i) add(entry.top[i].first, entry.top[i].second, i + 1);
    if (&entry != entries.data()) pieces.add(",");
    pieces.add(json_text(tokens));
  }
  pieces.add("]");
  pieces.finish();
}

void write_ids(std::span<const int32_t> ids, const WritePiece& write) {
  Pieces pieces(write);
  pieces.add("[");
  for (size_t i = 0; i < ids.size(); ++i) pieces.add(fmt::format("{}{}", i > 0 ? "," : "", ids[i]));
  pieces.add("]");
  pieces.finish();
}

/// Where an answer's tokens begin, behind so many characters of a prompt. Its text may have been cut.
std::vector<int64_t> answer_offsets(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const Completion& completion,
                                    int64_t prompt_characters) {
  if (!request.has_text_offsets()) return {};
  std::vector<int32_t> tokens;
  for (const TokenLogprob& entry : completion.logprobs) tokens.push_back(entry.token);
  std::vector<int64_t> offsets(tokens.size());
  const bool skip = request.params.skip_special_tokens;
  if (context.tokenizer) offsets = text_offsets(*context.tokenizer, tokens, skip, end_of_prompt(*context.tokenizer, prompt.tokens, skip));
  const int64_t most = count_characters(completion.text);
  for (int64_t& offset : offsets) offset = prompt_characters + std::min(offset, most);
  return offsets;
}

/// The logprobs of the prompt, if it is echoed, and of the answer.
std::vector<Stretch> stretches_of(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, int64_t prompt_characters,
                                  const Completion& completion, std::span<const int64_t> own_offsets) {
  const bool skip = request.params.skip_special_tokens;
  std::vector<Stretch> stretches;
  std::vector<int64_t> offsets;
  if (request.params.echo) {
    if (const Tokenizer* tokenizer = context.tokenizer)
      offsets = prompt.text.empty() ? text_offsets(*tokenizer, prompt.tokens, skip) : text_offsets_in(*tokenizer, prompt.tokens, prompt.text, prompt.num_added);
    stretches.push_back(stretch_of(completion.prompt_logprobs, static_cast<size_t>(request.params.top_logprobs), offsets, prompt_characters));
  }
  stretches.push_back({completion.logprobs, std::string::npos, {own_offsets.begin(), own_offsets.end()}});
  return stretches;
}

/// What is told of a prompt. As in vLLM it stands in each choice, and of a conversation, which is one prompt, beside them.
void write_of_prompt(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const Completion& completion,
                     const WritePiece& write) {
  if (request.params.prompt_logprobs >= 0) {
    write(R"(,"prompt_logprobs":)");
    write_prompt_logprobs(context.tokenizer, completion.prompt_logprobs, static_cast<size_t>(request.params.prompt_logprobs), write);
  }
  if (request.gives_prompt_token_ids) {
    write(R"(,"prompt_token_ids":)");
    write_ids(prompt.tokens, write);
  }
}

/// What comes behind an answer's text and logprobs, in either form. `reason`: null if the answer goes on.
void write_rest_of_choice(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const Completion& completion,
                          const char* reason, const WritePiece& write) {
  // As vLLM has it: what of the request ended the answer; null for the model's own end tokens.
  const OrderedJson stop_reason = !completion.stop_string.empty() ? OrderedJson(completion.stop_string)
                                  : completion.stop_token         ? OrderedJson(*completion.stop_token)
                                                                  : OrderedJson(nullptr);
  write(fmt::format(R"(,"finish_reason":{},"stop_reason":)", reason ? fmt::format("\"{}\"", reason) : "null"));
  write(json_text(stop_reason));
  if (request.gives_token_ids) {
    write(R"(,"token_ids":)");
    write_ids(completion.tokens, write);
  }
  if (!request.chat) write_of_prompt(context, request, prompt, completion, write);
  write("}");
}

std::string echo_of(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt) {
  if (!request.params.echo || !prompt.text.empty() || !context.tokenizer) return request.params.echo ? prompt.text : "";
  return context.tokenizer->decode(prompt.tokens, request.params.skip_special_tokens);
}

void write_logprobs_of(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, int64_t prompt_characters,
                       const Completion& completion, std::span<const int64_t> offsets, const WritePiece& write) {
  write(R"(,"logprobs":)");
  const bool by_id = !request.params.logprob_token_ids.empty();  // all that are there
  if (request.params.top_logprobs < 0) write("null");
  else if (request.chat)
    write_chat_logprobs(context.tokenizer, completion.logprobs, by_id ? std::string::npos : static_cast<size_t>(request.params.top_logprobs), write);
  else write_logprobs(context.tokenizer, stretches_of(context, request, prompt, prompt_characters, completion, offsets), write);
}

OrderedJson usage_of(const LineUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

OrderedJson body_without_choices(const RecordContext& context, const std::string& digits, const BatchRequest& request, const LineUsage& usage) {
  OrderedJson body;
  body["id"] = (request.chat ? "chatcmpl-" : "cmpl-") + digits;
  body["object"] = request.chat ? "chat.completion" : "text_completion";
  body["created"] = context.created_s;
  body["model"] = context.model_name;
  body["choices"] = OrderedJson::array();
  body["usage"] = usage_of(usage);
  return body;
}

/// In a text the quotes would be escaped. A conversation's last choice ends their list itself.
AnswerFrame around_choices(const std::string& text, const BatchRequest& request) {
  static constexpr std::string_view kChoices = R"("choices":[)";
  const size_t at = text.find(kChoices) + kChoices.size();
  return {text.substr(0, at), text.substr(request.chat ? at + 1 : at)};
}

void write_choice_behind_index(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const Completion& completion,
                               int64_t index, const WritePiece& write) {
  const char* reason = completion.reason == FinishReason::kStop ? "stop" : "length";
  if (request.chat) {
    if (write_chat_message(request, completion, index, write)) reason = "tool_calls";
    write_logprobs_of(context, request, prompt, 0, completion, {}, write);
    write_rest_of_choice(context, request, prompt, completion, reason, write);
    if (index < request.best_of - 1) return;  // it has one prompt
    write("]");
    write_of_prompt(context, request, prompt, completion, write);
    return;
  }
  const std::string prompt_text = echo_of(context, request, prompt);
  write(R"(,"text":)");
  write(json_text(prompt_text + completion.text));
  const int64_t prompt_characters = count_characters(prompt_text);
  write_logprobs_of(context, request, prompt, prompt_characters, completion, answer_offsets(context, request, prompt, completion, prompt_characters), write);
  write_rest_of_choice(context, request, prompt, completion, reason, write);
}

}  // namespace

void write_choice(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const Completion& completion, int64_t index,
                  const WritePiece& write) {
  write(choice_front(index));
  write_choice_behind_index(context, request, prompt, completion, index, write);
}

void write_piece(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const ChoicePiece& piece, const WritePiece& write) {
  const std::string prompt_text = echo_of(context, request, prompt);
  write(choice_front(piece.index));
  if (request.chat) write(fmt::format(R"(,"delta":{})", piece.delta));
  else write(R"(,"text":)" + json_text(prompt_text + piece.completion.text));
  write_logprobs_of(context, request, prompt, count_characters(prompt_text), piece.completion, piece.offsets, write);
  write_rest_of_choice(context, request, prompt, piece.completion, piece.reason, write);
  write("]");
  if (request.chat) write_of_prompt(context, request, prompt, piece.completion, write);
}

void write_unnumbered_choice(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const Completion& completion,
                             const WritePiece& write) {
  FLEXGEN_CHECK(!request.chat);
  write_choice_behind_index(context, request, prompt, completion, 0, write);
}

int64_t echoed_characters(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt) {
  return count_characters(echo_of(context, request, prompt));
}

std::string usage_json(const LineUsage& usage) { return json_text(usage_of(usage)); }

AnswerFrame body_frame(const RecordContext& context, const RecordId& id, const BatchRequest& request, const LineUsage& usage) {
  return around_choices(json_text(body_without_choices(context, record_id_text(id).substr(kRecordIdPrefix.size()), request, usage)), request);
}

AnswerFrame answer_frame(const RecordContext& context, const RecordId& id, const BatchRequest& request, const LineUsage& usage) {
  std::string name = record_id_text(id);
  std::string digits = name.substr(kRecordIdPrefix.size());
  OrderedJson record;
  record["id"] = name;
  record["custom_id"] = request.custom_id;
  record["response"] = {{"status_code", 200}, {"request_id", "req_" + digits}, {"body", body_without_choices(context, digits, request, usage)}};
  record["error"] = nullptr;
  return around_choices(to_line(record), request);
}

std::string answer_record(const RecordContext& context, const RecordId& id, const BatchRequest& request, std::span<const Completion> completions) {
  FLEXGEN_CHECK(static_cast<int64_t>(completions.size()) == request.num_sequences());
  int64_t prompt_tokens = 0, completion_tokens = 0;
  for (const BatchPrompt& prompt : request.prompts) prompt_tokens += static_cast<int64_t>(prompt.tokens.size());
  std::string choices;
  for (size_t i = 0; i < completions.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    if (i > 0) choices += ',';
    write_choice(context, request, request.prompts[static_cast<size_t>(index / request.n)], completions[i], index,
                 [&](std::string_view piece) { choices += piece; });
    completion_tokens += static_cast<int64_t>(completions[i].tokens.size());
  }
  const AnswerFrame frame = answer_frame(context, id, request, {prompt_tokens, 0, completion_tokens});
  return with_checksum(frame.before + choices + frame.after);
}

LineError no_answer_error(const BatchRequest& request, const Completion& completion, int64_t choice) {
  const int64_t at = completion.failed_position, prompt = completion.prompt_tokens;
  const std::string token = at < prompt ? fmt::format("token {} of the prompt", at + 1) : fmt::format("token {} of the answer", at - prompt + 1);
  if (!completion.grammar_failure.empty())
    return {request.custom_id, kDeadEndCode,
            fmt::format("choice {}: the schema or grammar cannot be followed at {}, so there is no answer: {}; simplify it", choice, token,
                        completion.grammar_failure),
            ""};
  if (completion.reason == FinishReason::kDeadEnd) {
    const bool follows = request.params.grammar != nullptr;
    return {request.custom_id, kDeadEndCode,
            fmt::format("choice {}: {} {}, so there is no answer: {}", choice,
                        follows ? "none of the model's tokens goes on with what the schema or grammar asks for at" : "every token is forbidden for", token,
                        follows ? "the tokenizer cannot write a character that must come there; leave it out, or allow another"
                                : "take some out of bad_words, or lower min_tokens"),
            ""};
  }
  return {
      request.custom_id, kNotFiniteCode,
      fmt::format("choice {}: the logits for {} are not finite (vocabulary entry {}), so there is no answer: a weight is NaN or infinite, or values overflow; "
                  "check the checkpoint, or compute with more range (--compute-dtype f32)",
                  choice, token, completion.not_finite_entry),
      ""};
}

bool is_no_answer_record(std::string_view record) {
  // A quote within a text is escaped.
  const auto has = [&](const char* code) { return record.find(fmt::format(R"("response":null,"error":{{"code":"{}")", code)) != std::string_view::npos; };
  return has(kNotFiniteCode) || has(kDeadEndCode);
}

std::string error_record(const InputLine& line, const LineError& error) {
  OrderedJson record;
  record["id"] = record_id_text(line.id);
  record["custom_id"] = error.custom_id;
  record["response"] = nullptr;
  record["error"] = {{"code", error.code},
                     {"message", error.message},
                     {"param", error.param.empty() ? OrderedJson(nullptr) : OrderedJson(error.param)},
                     {"line", line.number}};
  return with_checksum(to_line(record));
}

}  // namespace flexgen
