#include "serve/ticket.h"

#include <algorithm>
#include <utility>

namespace flexgen {
namespace {

template <typename T>
void append_from(std::vector<T>& to, const std::vector<T>& from, size_t& seen) {
  to.insert(to.end(), from.begin() + static_cast<ptrdiff_t>(seen), from.end());
  seen = from.size();
}

}  // namespace

AnswerPiece Ticket::rest_of(int64_t sequence, const Completion& completion, std::string_view text) {
  Seen& seen = seen_[static_cast<size_t>(sequence)];
  AnswerPiece piece;
  piece.sequence = sequence;
  piece.completion.prompt_tokens = completion.prompt_tokens;
  piece.completion.cached_tokens = completion.cached_tokens;
  piece.completion.text = text.size() > seen.text ? std::string(text.substr(seen.text)) : "";
  seen.text = std::max(seen.text, text.size());
  append_from(piece.completion.tokens, completion.tokens, seen.tokens);
  append_from(piece.completion.logprobs, completion.logprobs, seen.logprobs);
  append_from(piece.completion.prompt_logprobs, completion.prompt_logprobs, seen.prompt_logprobs);
  return piece;
}

void Ticket::follow(int64_t sequence, const Completion& so_far, std::string_view text) {
  std::lock_guard guard(mutex_);
  if (!first_token_) first_token_ = std::chrono::steady_clock::now();
  if (!follows_ || cancelled_) return;
  AnswerPiece piece = rest_of(sequence, so_far, text);
  const auto waiting = std::find_if(pieces_.begin(), pieces_.end(), [&](const AnswerPiece& other) { return other.sequence == sequence; });
  if (waiting == pieces_.end()) {
    pieces_.push_back(std::move(piece));
  } else {  // a slow reader gets more at a time
    Completion& more = waiting->completion;
    size_t none = 0;
    more.text += piece.completion.text;
    append_from(more.tokens, piece.completion.tokens, none = 0);
    append_from(more.logprobs, piece.completion.logprobs, none = 0);
    append_from(more.prompt_logprobs, piece.completion.prompt_logprobs, none = 0);
  }
  changed_.notify_all();
}

void Ticket::accept(int64_t sequence, Completion completion) {
  std::lock_guard guard(mutex_);
  if (!first_token_) first_token_ = std::chrono::steady_clock::now();
  const auto waiting = std::find_if(pieces_.begin(), pieces_.end(), [&](const AnswerPiece& other) { return other.sequence == sequence; });
  Seen& seen = seen_[static_cast<size_t>(sequence)];
  if (waiting != pieces_.end()) {  // what was not taken yet goes with the end
    seen.text -= waiting->completion.text.size();
    seen.tokens -= waiting->completion.tokens.size();
    seen.logprobs -= waiting->completion.logprobs.size();
    seen.prompt_logprobs -= waiting->completion.prompt_logprobs.size();
    pieces_.erase(waiting);
  }
  AnswerPiece last{sequence, {}, true};
  if (follows_) {
    AnswerPiece rest = rest_of(sequence, completion, completion.text);
    completion.text = std::move(rest.completion.text);
    completion.tokens = std::move(rest.completion.tokens);
    completion.logprobs = std::move(rest.completion.logprobs);
    completion.prompt_logprobs = std::move(rest.completion.prompt_logprobs);
  }
  last.completion = std::move(completion);
  pieces_.push_back(std::move(last));
  changed_.notify_all();
}

void Ticket::fail(const std::string& why) {
  std::lock_guard guard(mutex_);
  failure_ = why;
  changed_.notify_all();
}

std::vector<AnswerPiece> Ticket::wait(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, time, [&] { return !pieces_.empty() || !failure_.empty(); });
  std::vector<AnswerPiece> pieces = std::exchange(pieces_, {});
  num_ended_ += static_cast<size_t>(std::count_if(pieces.begin(), pieces.end(), [](const AnswerPiece& piece) { return piece.ended; }));
  return pieces;
}

bool Ticket::over() const {
  std::lock_guard guard(mutex_);
  return num_ended_ == seen_.size();
}

std::string Ticket::failure() const {
  std::lock_guard guard(mutex_);
  return failure_;
}

std::optional<std::chrono::steady_clock::time_point> Ticket::first_token() const {
  std::lock_guard guard(mutex_);
  return first_token_;
}

}  // namespace flexgen
