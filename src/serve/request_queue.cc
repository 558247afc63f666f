#include "serve/request_queue.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "serve/api_error.h"

namespace flexgen {
namespace {

constexpr int kRetryS = 2;                                // a slot falls free sooner or later; nobody knows when
constexpr std::chrono::milliseconds kBatchStopPoll{100};  // in which a batch notices its stop

}  // namespace

std::shared_ptr<Ticket> RequestQueue::submit(int64_t count, const std::function<Request(int64_t)>& sequence, bool follows) {
  const auto require_open = [&] {
    if (!open_) throw ApiError{503, "the server is about to end", "shutting_down"};
  };
  std::unique_lock lock(mutex_);
  require_open();
  if (count > most_waiting_)
    throw ApiError{
        413,
        fmt::format("the request asks for {} sequences, and {} may wait (--max-queue); send them in several requests, or as a batch", count, most_waiting_),
        "too_many_sequences"};
  const int64_t taken = std::ssize(waiting_) + drawn_ + promised_;
  if (taken + count > most_waiting_)
    throw ApiError{429, fmt::format("{} sequences wait already, and there may be {}; try again later", taken, most_waiting_), "queue_full", "", kRetryS};
  promised_ += count;
  lock.unlock();
  std::vector<Request> sequences;
  std::exception_ptr error;
  try {
    for (int64_t i = 0; i < count; ++i) sequences.push_back(sequence(i));
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  promised_ -= count;
  if (error) std::rethrow_exception(error);
  require_open();
  auto ticket = std::make_shared<Ticket>(count, follows);
  for (int64_t i = 0; i < count; ++i) {
    Request& request = sequences[static_cast<size_t>(i)];
    request.key = next_key_++;
    waiting_.push_back({std::move(request), {ticket, i}});
  }
  changed_.notify_all();
  return ticket;
}

RunReport RequestQueue::lend(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  FLEXGEN_CHECK(!batch_, "two batches at a time");
  Batch batch{&source, &sink, &stop};
  batch.exhausted = source.remaining() == 0;
  batch_ = &batch;
  changed_.notify_all();
  while (ended_.empty() && !(batch.ends() && batch.under_way == 0)) changed_.wait_for(lock, kBatchStopPoll);
  batch_ = nullptr;
  if (batch.error) std::rethrow_exception(batch.error);
  batch.report.stopped = !batch.exhausted || batch.under_way > 0;
  batch.report.elapsed_s = seconds_since(start);
  return batch.report;
}

void RequestQueue::close() {
  std::lock_guard guard(mutex_);
  open_ = false;
  changed_.notify_all();
}

void RequestQueue::abandon(const std::string& why) {
  std::lock_guard guard(mutex_);
  open_ = false;
  why_abandoned_ = why;
  abandoned_ = true;
  for (Waiting& waiting : std::exchange(waiting_, {})) waiting.place.ticket->fail(why);
  changed_.notify_all();
}

void RequestQueue::engine_ended(const std::string& why) {
  std::lock_guard guard(mutex_);
  open_ = false;
  ended_ = why;
  for (Waiting& waiting : std::exchange(waiting_, {})) waiting.place.ticket->fail(why);
  for (auto& [key, place] : std::exchange(under_way_, {})) place.ticket->fail(why);
  running_ = drawn_ = 0;
  changed_.notify_all();
}

int64_t RequestQueue::num_waiting() const {
  std::lock_guard guard(mutex_);
  return std::ssize(waiting_) + drawn_;
}

std::optional<Request> RequestQueue::next_of_calls(const std::unique_lock<std::mutex>& /*lock*/) {
  while (!waiting_.empty()) {
    Waiting first = std::move(waiting_.front());
    waiting_.pop_front();
    if (first.place.ticket->cancelled()) {
      ++num_cancelled_;
      continue;
    }
    under_way_.emplace(first.request.key, std::move(first.place));
    ++drawn_;
    return std::move(first.request);
  }
  return std::nullopt;
}

std::optional<Request> RequestQueue::next_before_others() {
  const std::unique_lock lock(mutex_);
  return next_of_calls(lock);
}

std::optional<Request> RequestQueue::next() {
  std::unique_lock lock(mutex_);
  if (std::optional<Request> of_call = next_of_calls(lock)) return of_call;
  if (!batch_ || batch_->ends() || abandoned_) return std::nullopt;
  Batch& batch = *batch_;
  ++batch.under_way;  // so that it stays while the lock is open
  lock.unlock();
  std::optional<Request> request;
  std::exception_ptr error;
  try {
    request = batch.source->next();
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  if (error && !batch.error) batch.error = error;
  if (!error) batch.exhausted = !request || batch.source->remaining() == 0;  // who knows of none left does not ask again
  if (!request) {
    --batch.under_way;
    changed_.notify_all();
    return std::nullopt;
  }
  request->key |= kOfBatch;
  return request;
}

void RequestQueue::began(int64_t key) {
  if (key & kOfBatch) return;
  under_way_.at(key).has_slot = true;
  --drawn_;
  ++running_;
}

int64_t RequestQueue::remaining() const {
  std::lock_guard guard(mutex_);
  return std::ssize(waiting_) + (batch_has_work() && !abandoned_ ? batch_->source->remaining() : 0);
}

bool RequestQueue::is_open() const {
  std::lock_guard guard(mutex_);
  return open_;
}

void RequestQueue::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !open_ || !waiting_.empty() || batch_has_work(); });
}

bool RequestQueue::is_cancelled(int64_t key) const {
  if (abandoned_) return true;
  if (key & kOfBatch) {
    std::lock_guard guard(mutex_);
    return *batch_->stop || batch_->error;
  }
  return under_way_.at(key).ticket->cancelled();
}

void RequestQueue::accept(Completion completion) {
  if (completion.key & kOfBatch) return accept_of_batch(std::move(completion));
  auto found = under_way_.extract(completion.key);
  FLEXGEN_CHECK(!found.empty(), "key {}", completion.key);
  Place& place = found.mapped();
  --(place.has_slot ? running_ : drawn_);
  if (completion.reason == FinishReason::kCancelled) {
    ++num_cancelled_;
    std::lock_guard guard(mutex_);
    if (abandoned_) place.ticket->fail(why_abandoned_);
    return;
  }
  place.ticket->accept(place.sequence, std::move(completion));
}

void RequestQueue::accept_of_batch(Completion completion) {
  Batch& batch = *batch_;  // it stays while it has sequences under way
  std::exception_ptr error;
  const bool cancelled = completion.reason == FinishReason::kCancelled;
  if (!cancelled) {
    completion.key &= ~kOfBatch;
    ++batch.report.sequences;
    batch.report.generated_tokens += std::ssize(completion.tokens);
    batch.report.shared_prompt_tokens += completion.cached_tokens;
    try {
      if (!batch.error) batch.sink->accept(std::move(completion));
    } catch (...) {
      error = std::current_exception();
    }
  }
  std::lock_guard guard(mutex_);
  if (error && !batch.error) batch.error = error;
  --batch.under_way;
  changed_.notify_all();
}

void RequestQueue::follow(const Completion& so_far, std::string_view text) {
  if (so_far.key & kOfBatch) return;
  const Place& place = under_way_.at(so_far.key);
  place.ticket->follow(place.sequence, so_far, text);
}

}  // namespace flexgen
