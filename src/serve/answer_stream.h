#pragma once
// AnswerStream: an answer as server-sent events, in OpenAI's chunks. One thread.

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "batch/batch_output.h"
#include "batch/text_offsets.h"
#include "serve/api_error.h"
#include "serve/http_server.h"
#include "serve/ticket.h"

namespace flexgen {

class AnswerStream {
 public:
  /// `copies`: choices of each sequence. `call` must outlive it.
  AnswerStream(const RecordContext& record, const RecordId& id, const CallBody& call, int64_t copies, const HttpWrite& write);

  /// Whether the client still takes what is written.
  bool writes() const { return writes_; }
  void add(const AnswerPiece& piece);
  /// A comment now and then, so that nobody on the way takes a quiet connection for a dead one.
  void stay_alive();
  /// The end: the usage, if it is wanted.
  void finish();
  /// The end where there is no answer.
  void fail(const ApiError& error);

  /// Of a sequence.
  struct Total {
    const char* reason = "stop";
    int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  };
  const std::vector<Total>& totals() const { return totals_; }

 private:
  /// How far a sequence is.
  struct State {
    bool began = false;
    std::string text;                       ///< of a conversation's answer, so far
    size_t thoughts = 0, content = 0;       ///< bytes of it that were sent
    std::optional<GrowingOffsets> offsets;  ///< of its tokens, where their logprobs are wanted
    std::vector<int32_t> tokens;            ///< that wait, with their logprobs
    std::vector<TokenLogprob> logprobs;
    std::vector<int64_t> places;  ///< where the tokens begin that are sent now
    size_t sent_tokens = 0;
    int64_t prompt_characters = 0, shown_characters = 0;  ///< in front of its text; of its text, so far
  };
  void event(std::string_view json);
  void chunk(const BatchRequest& request, int64_t sequence, const Completion& completion, const char* reason, const ChatAnswer& news = {});
  /// What a chunk of a choice ends with.
  std::string after_chunk(const BatchPrompt& prompt, const Total& total) const;
  /// A piece of a text with the tokens of which it is certain where they begin in it, as the whole answer has it: the text may be cut before the others.
  Completion with_placed_tokens(State& state, const AnswerPiece& piece) const;
  void add_to_conversation(State& state, const AnswerPiece& piece, const char* reason);
  int64_t prompt_of(int64_t sequence) const { return sequence * copies_ / call_.request.best_of; }

  const RecordContext record_;
  const CallBody& call_;
  int64_t copies_;
  HttpWrite write_;
  bool writes_ = true;
  std::string before_;  ///< the choice of a chunk
  BatchRequest rest_;   ///< the request as pieces after the first of a choice show it
  std::vector<State> states_;
  std::vector<Total> totals_;
  std::chrono::steady_clock::time_point written_at_ = std::chrono::steady_clock::now();
};

}  // namespace flexgen
