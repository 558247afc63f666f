#include "app/batch_output.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"

namespace flexgen {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kPieceBytes = 64 << 10;

/// Valid UTF-8 whatever is in it, and without line ends.
std::string to_text(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
std::string to_line(const Json& json) { return to_text(json) + "\n"; }

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

/// Tokens with their logprobs, and where the text of each begins.
struct Stretch {
  std::span<const TokenLogprob> entries;
  std::vector<int64_t> offsets;
};

/// Offsets count characters from `offset` on, up to `limit`.
Stretch stretch_of(const Tokenizer* tokenizer, std::span<const TokenLogprob> entries, int64_t offset, int64_t limit) {
  Stretch stretch{entries, {}};
  std::optional<StreamDecoder> decoder;
  if (tokenizer) decoder.emplace(*tokenizer);
  for (const TokenLogprob& entry : entries) {
    stretch.offsets.push_back(std::min(offset, limit));
    if (decoder) offset += count_characters(decoder->push(entry.token));
  }
  return stretch;
}

/// One after the other, as a sequence may have many tokens, each with many logprobs.
void write_logprobs(const Tokenizer* tokenizer, std::span<const Stretch> stretches, const WritePiece& write) {
  using Item = Json (*)(const Tokenizer*, const TokenLogprob&, int64_t);
  static constexpr std::pair<const char*, Item> kLists[] = {
      {"tokens", [](const Tokenizer* tokens, const TokenLogprob& entry, int64_t) { return Json(token_text(tokens, entry.token)); }},
      {"token_logprobs", [](const Tokenizer*, const TokenLogprob& entry, int64_t) { return number(entry.logprob); }},
      {"top_logprobs", [](const Tokenizer* tokens, const TokenLogprob& entry, int64_t) { return std::isnan(entry.logprob) ? Json(nullptr) : top_logprobs(tokens, entry); }},
      {"text_offset", [](const Tokenizer*, const TokenLogprob&, int64_t offset) { return Json(offset); }}};
  std::string piece;
  for (const auto& [name, item] : kLists) {
    piece += fmt::format("{}\"{}\":[", name == kLists[0].first ? "{" : ",", name);
    bool first = true;
    for (const Stretch& stretch : stretches)
      for (size_t i = 0; i < stretch.entries.size(); ++i) {
        if (!std::exchange(first, false)) piece += ',';
        piece += to_text(item(tokenizer, stretch.entries[i], stretch.offsets[i]));
        if (piece.size() < kPieceBytes) continue;
        write(piece);
        piece.clear();
      }
    piece += ']';
  }
  write(piece + '}');
}

}  // namespace

void write_choice(const RecordContext& context, const BatchRequest& request, const BatchPrompt& prompt, const Completion& completion, int64_t index, const WritePiece& write) {
  std::string prompt_text;
  if (request.params.echo) {
    prompt_text = prompt.text;
    if (prompt_text.empty() && context.tokenizer) prompt_text = context.tokenizer->decode(prompt.tokens, true);
  }
  write(fmt::format(R"({{"index":{},"text":)", index));
  write(to_text(prompt_text + completion.text));
  write(R"(,"logprobs":)");
  if (request.params.top_logprobs >= 0) {
    const int64_t prompt_characters = count_characters(prompt_text);
    const Stretch stretches[] = {stretch_of(context.tokenizer, completion.prompt_logprobs, 0, prompt_characters),
                                 stretch_of(context.tokenizer, completion.logprobs, prompt_characters, prompt_characters + count_characters(completion.text))};
    write_logprobs(context.tokenizer, stretches, write);
  } else {
    write("null");
  }
  write(fmt::format(R"(,"finish_reason":"{}"}})", completion.reason == FinishReason::kStop ? "stop" : "length"));
}

AnswerFrame answer_frame(const RecordContext& context, const RecordId& id, const BatchRequest& request, int64_t prompt_tokens, int64_t completion_tokens) {
  std::string name = record_id_text(id);
  std::string digits = name.substr(kRecordIdPrefix.size());
  Json body;
  body["id"] = "cmpl-" + digits;
  body["object"] = "text_completion";
  body["created"] = context.created_s;
  body["model"] = context.model_name;
  body["choices"] = Json::array();
  body["usage"] = {{"prompt_tokens", prompt_tokens},
                   {"completion_tokens", completion_tokens},
                   {"total_tokens", prompt_tokens + completion_tokens}};

  Json record;
  record["id"] = name;
  record["custom_id"] = request.custom_id;
  record["response"] = {{"status_code", 200}, {"request_id", "req_" + digits}, {"body", std::move(body)}};
  record["error"] = nullptr;
  // In a text the quotes would be escaped.
  static constexpr std::string_view kChoices = R"("choices":[)";
  const std::string text = to_line(record);
  const size_t at = text.find(kChoices) + kChoices.size();
  return {text.substr(0, at), text.substr(at)};
}

std::string answer_record(const RecordContext& context, const RecordId& id, const BatchRequest& request,
                          std::span<const Completion> completions) {
  FLEXGEN_CHECK(static_cast<int64_t>(completions.size()) == request.num_sequences());
  int64_t prompt_tokens = 0, completion_tokens = 0;
  for (const BatchPrompt& prompt : request.prompts) prompt_tokens += static_cast<int64_t>(prompt.tokens.size());
  std::string choices;
  for (size_t i = 0; i < completions.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    if (i > 0) choices += ',';
    write_choice(context, request, request.prompts[static_cast<size_t>(index / request.n)], completions[i], index, [&](std::string_view piece) { choices += piece; });
    completion_tokens += static_cast<int64_t>(completions[i].tokens.size());
  }
  const AnswerFrame frame = answer_frame(context, id, request, prompt_tokens, completion_tokens);
  return frame.before + choices + frame.after;
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
