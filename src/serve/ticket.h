#pragma once
// Ticket: the sequences of one call, and what has come of them. The engine's thread fills it, the call's thread waits. Thread-safe.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "generation/request.h"

namespace flexgen {

/// What is new of one sequence.
struct AnswerPiece {
  int64_t sequence = 0;
  Completion completion;  ///< its new text, tokens and logprobs; the reason where it `ended`
  bool ended = false;
};

class Ticket {
 public:
  /// `follows`: pieces are wanted as they come.
  Ticket(int64_t num_sequences, bool follows) : follows_(follows), seen_(static_cast<size_t>(num_sequences)) {}

  bool follows() const { return follows_; }
  /// Nobody waits for it any more.
  void cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

  // The engine's side.
  void follow(int64_t sequence, const Completion& so_far, std::string_view text);
  void accept(int64_t sequence, Completion completion);
  /// There will be no answers; `why` is for people.
  void fail(const std::string& why);

  // The call's side.
  /// What is new, after a wait of `time` at the most; nothing: there is nothing new yet.
  std::vector<AnswerPiece> wait(std::chrono::milliseconds time);
  /// Whether wait() has given the end of every sequence.
  bool over() const;
  /// Why there are no answers; empty: there are, or may be.
  std::string failure() const;
  /// When the first token of any sequence came.
  std::optional<std::chrono::steady_clock::time_point> first_token() const;

 private:
  struct Seen {
    size_t text = 0, tokens = 0, logprobs = 0, prompt_logprobs = 0;
  };
  /// What of it the call has not had yet.
  AnswerPiece rest_of(int64_t sequence, const Completion& completion, std::string_view text);

  const bool follows_;
  std::atomic<bool> cancelled_{false};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Seen> seen_;           ///< a sequence: what pieces have had of it
  std::vector<AnswerPiece> pieces_;  ///< not taken yet; at most one a sequence
  size_t num_ended_ = 0;             ///< of them wait() has given out the end
  std::string failure_;
  std::optional<std::chrono::steady_clock::time_point> first_token_;
};

}  // namespace flexgen
