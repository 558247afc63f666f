#pragma once
// RequestQueue: between calls and the engine, an open source. Calls put their sequences in from any thread; the engine, in its own thread, draws them in the order in which they came
// and hands back what it finds. While no call waits it draws from a batch, if one is lent. The queue is bounded: what does not fit is refused, with a time after which to try again.

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/engine.h"
#include "generation/batcher.h"
#include "serve/ticket.h"

namespace flexgen {

class RequestQueue : public RequestSource, public CompletionSink {
 public:
  /// `most_waiting`: sequences that wait for a slot, at the most, with those that the engine has drawn while their grammars are compiled.
  explicit RequestQueue(int64_t most_waiting) : most_waiting_(most_waiting) {}

  // Any thread.
  /// `sequence` makes those of the ticket, in its order, once there is a place for each; their keys are set here. Throws ApiError: 429 where there is no room now, 413 where there never
  /// is, 503 once it is closed.
  std::shared_ptr<Ticket> submit(int64_t count, const std::function<Request(int64_t)>& sequence, bool follows);
  /// Lets the engine answer a batch in what time it has, until all of it is done, `stop` is set or the engine ends. Blocks; one batch at a time. Throws what source or sink have thrown.
  RunReport lend(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop);
  /// Takes nothing more; what it has is answered still.
  void close();
  /// What it has is given up too: tickets fail with `why`.
  void abandon(const std::string& why);
  /// The engine has ended.
  void engine_ended(const std::string& why);

  int64_t num_waiting() const;
  int64_t num_running() const { return running_; }
  int64_t num_cancelled() const { return num_cancelled_; }

  // The engine's thread.
  std::optional<Request> next() override;
  std::optional<Request> next_before_others() override;
  bool gives_way(int64_t key) const override { return (key & kOfBatch) != 0; }
  void began(int64_t key) override;
  int64_t remaining() const override;
  bool is_open() const override;
  void wait() override;
  bool is_cancelled(int64_t key) const override;
  void accept(Completion completion) override;
  bool follows_text() const override { return running_ > 0; }
  void follow(const Completion& so_far, std::string_view text) override;

 private:
  struct Place {
    std::shared_ptr<Ticket> ticket;
    int64_t sequence = 0;
    bool has_slot = false;
  };
  struct Waiting {
    Request request;
    Place place;
  };
  /// A batch that is lent.
  struct Batch {
    RequestSource* source;
    CompletionSink* sink;
    const std::atomic<bool>* stop;
    int64_t under_way = 0;
    bool exhausted = false;
    std::exception_ptr error;
    RunReport report = {};

    bool ends() const { return exhausted || error || *stop; }
  };
  static constexpr int64_t kOfBatch = int64_t{1} << 62;  ///< marks the keys of a batch

  std::optional<Request> next_of_calls(const std::unique_lock<std::mutex>& lock);
  void accept_of_batch(Completion completion);
  bool batch_has_work() const { return batch_ && !batch_->ends() && batch_->source->remaining() > 0; }

  const int64_t most_waiting_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Waiting> waiting_;
  int64_t promised_ = 0;  ///< places of sequences that are being made
  Batch* batch_ = nullptr;
  bool open_ = true;
  std::string ended_;  ///< why there is no engine any more
  std::atomic<bool> abandoned_{false};
  std::string why_abandoned_;
  int64_t next_key_ = 0;
  std::unordered_map<int64_t, Place> under_way_;  ///< of calls; the engine's thread alone
  std::atomic<int64_t> running_{0}, drawn_{0};    ///< their numbers: with a slot, and without one yet
  std::atomic<int64_t> num_cancelled_{0};
};

}  // namespace flexgen
