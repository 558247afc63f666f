#include "serve/answer_stream.h"

#include <algorithm>
#include <iterator>

#include "batch/chat_output.h"
#include "io/checked_json.h"
#include "text/chat_answer.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr std::chrono::seconds kQuiet{10};

std::string digits_of(const RecordId& id) { return record_id_text(id).substr(kRecordIdPrefix.size()); }

/// What of `whole` comes after its first `sent` bytes, which are counted then.
std::string rest_after(const std::optional<std::string>& whole, size_t& sent) {
  if (!whole || whole->size() <= sent) return "";
  return whole->substr(std::exchange(sent, whole->size()));
}

}  // namespace

AnswerStream::AnswerStream(const RecordContext& record, const RecordId& id, const CallBody& call, int64_t copies, const HttpWrite& write)
    : record_(record), call_(call), copies_(copies), write_(write), rest_(call.request), states_(static_cast<size_t>(call.request.num_sequences() / copies)),
      totals_(states_.size()) {
  const bool chat = call.request.chat.has_value();
  before_ = json_text({{"id", (chat ? "chatcmpl-" : "cmpl-") + digits_of(id)},
                       {"object", chat ? "chat.completion.chunk" : "text_completion"},
                       {"created", record.created_s},
                       {"model", record.model_name}});
  before_.back() = ',';
  before_ += R"("choices":[)";
  rest_.params.echo = rest_.gives_prompt_token_ids = false;
  rest_.params.prompt_logprobs = -1;
}

void AnswerStream::event(std::string_view json) {
  writes_ = writes_ && write_(fmt::format("data: {}\n\n", json));
  written_at_ = std::chrono::steady_clock::now();
}

void AnswerStream::chunk(const BatchRequest& request, int64_t sequence, const Completion& completion, const char* reason, const ChatAnswer& news) {
  const BatchPrompt& prompt = request.prompts[static_cast<size_t>(prompt_of(sequence))];
  const State& state = states_[static_cast<size_t>(sequence)];
  for (int64_t index = sequence * copies_; index < (sequence + 1) * copies_; ++index) {
    std::string text = before_;
    std::string delta;
    if (request.chat) delta = state.began ? delta_json(request, index, news) : R"({"role":"assistant","content":""})";
    write_piece(record_, request, prompt, {completion, index, state.places, reason, delta}, [&](std::string_view piece) { text += piece; });
    event(text + after_chunk(prompt, totals_[static_cast<size_t>(sequence)]));
  }
}

std::string AnswerStream::after_chunk(const BatchPrompt& prompt, const Total& total) const {
  if (!call_.stream_usage) return "}";
  if (!call_.stream_usage_so_far) return R"(,"usage":null})";
  const int64_t tokens = std::ssize(prompt.tokens);
  return fmt::format(R"(,"usage":{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{}}}}})", tokens, total.generated_tokens,
                     tokens + total.generated_tokens);
}

void AnswerStream::add(const AnswerPiece& piece) {
  State& state = states_[static_cast<size_t>(piece.sequence)];
  const Completion& completion = piece.completion;
  const char* reason = !piece.ended ? nullptr : completion.reason == FinishReason::kStop ? "stop" : "length";
  Total& total = totals_[static_cast<size_t>(piece.sequence)];
  total.generated_tokens += std::ssize(completion.tokens);
  if (piece.ended) {
    total.reason = reason;
    total.prompt_tokens = std::ssize(call_.request.prompts[static_cast<size_t>(prompt_of(piece.sequence))].tokens);
    total.cached_tokens = completion.cached_tokens;
  }
  if (call_.request.chat) {
    add_to_conversation(state, piece, reason);
  } else {
    const Completion placed = with_placed_tokens(state, piece);
    const bool says =
        !placed.text.empty() || !placed.logprobs.empty() || !placed.prompt_logprobs.empty() || piece.ended || (rest_.gives_token_ids && !placed.tokens.empty());
    if (!says) return;
    chunk(state.began ? rest_ : call_.request, piece.sequence, placed, reason);
    state.began = true;
  }
}

Completion AnswerStream::with_placed_tokens(State& state, const AnswerPiece& piece) const {
  Completion placed = piece.completion;
  if (call_.request.params.top_logprobs < 0) return placed;
  const BatchPrompt& prompt = call_.request.prompts[static_cast<size_t>(prompt_of(piece.sequence))];
  if (!state.began) state.prompt_characters = echoed_characters(record_, call_.request, prompt);
  state.shown_characters += count_characters(placed.text);
  state.tokens.insert(state.tokens.end(), placed.tokens.begin(), placed.tokens.end());
  state.logprobs.insert(state.logprobs.end(), std::make_move_iterator(placed.logprobs.begin()), std::make_move_iterator(placed.logprobs.end()));
  if (record_.tokenizer && !state.offsets) {
    const bool skip = call_.request.params.skip_special_tokens;
    state.offsets.emplace(*record_.tokenizer, skip, end_of_prompt(*record_.tokenizer, prompt.tokens, skip));
  }
  if (state.offsets) {
    for (const int32_t token : placed.tokens) state.offsets->add(token);
    if (piece.ended) state.offsets->finish();
  }
  state.places.clear();
  for (; state.places.size() < state.tokens.size(); ++state.sent_tokens) {
    int64_t offset = 0;
    if (state.offsets) {
      if (state.sent_tokens >= state.offsets->known().size()) break;
      offset = state.offsets->known()[state.sent_tokens];
      if (offset > state.shown_characters && !piece.ended) break;
    }
    state.places.push_back(state.prompt_characters + std::min(offset, state.shown_characters));
  }
  const auto count = static_cast<ptrdiff_t>(state.places.size());
  placed.tokens.assign(state.tokens.begin(), state.tokens.begin() + count);
  placed.logprobs.assign(std::make_move_iterator(state.logprobs.begin()), std::make_move_iterator(state.logprobs.begin() + count));
  state.tokens.erase(state.tokens.begin(), state.tokens.begin() + count);
  state.logprobs.erase(state.logprobs.begin(), state.logprobs.begin() + count);
  return placed;
}

void AnswerStream::add_to_conversation(State& state, const AnswerPiece& piece, const char* reason) {
  const AnswerForm& form = *call_.request.chat;
  if (!state.began) {
    Completion none;
    none.prompt_logprobs = piece.completion.prompt_logprobs;
    chunk(call_.request, piece.sequence, none, nullptr);
    state.began = true;
  }
  state.text += piece.completion.text;
  const ChatAnswer answer = piece.ended ? read_chat_answer(state.text, form) : settled_chat_answer(state.text, form);
  ChatAnswer news;
  if (std::string thoughts = rest_after(answer.reasoning, state.thoughts); !thoughts.empty()) news.reasoning = std::move(thoughts);
  if (std::string content = rest_after(answer.content, state.content); !content.empty()) news.content = std::move(content);
  news.calls = answer.calls;
  if (!news.calls.empty()) reason = "tool_calls";
  const bool says =
      news.reasoning || news.content || reason || !piece.completion.logprobs.empty() || (rest_.gives_token_ids && !piece.completion.tokens.empty());
  if (says) chunk(rest_, piece.sequence, piece.completion, reason, news);
}

void AnswerStream::stay_alive() {
  if (std::chrono::steady_clock::now() - written_at_ < kQuiet) return;
  writes_ = writes_ && write_(": waiting\n\n");
  written_at_ = std::chrono::steady_clock::now();
}

void AnswerStream::finish() {
  if (call_.stream_usage) {
    LineUsage usage;
    for (const BatchPrompt& prompt : call_.request.prompts) usage.prompt_tokens += std::ssize(prompt.tokens);
    int64_t last_prompt = -1;
    for (size_t i = 0; i < totals_.size(); ++i) {
      usage.completion_tokens += copies_ * totals_[i].generated_tokens;
      if (const int64_t prompt = prompt_of(static_cast<int64_t>(i)); std::exchange(last_prompt, prompt) != prompt)
        usage.cached_tokens += totals_[i].cached_tokens;
    }
    event(fmt::format(R"({}],"usage":{}}})", before_, usage_json(usage)));
  }
  event("[DONE]");
}

void AnswerStream::fail(const ApiError& error) {
  event(error.body());
  event("[DONE]");
}

}  // namespace flexgen
