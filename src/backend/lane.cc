#include "backend/lane.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>

#include "base/thread.h"

namespace flexgen {

LaneStats Lane::stats() const {
  std::lock_guard lock(stats_mutex_);
  LaneStats stats = stats_;
  if (under_way_ > 0) stats.busy_s += std::max(0.0, std::chrono::duration<double>(Clock::now() - busy_since_).count());
  return stats;
}

void Lane::begin_busy(Clock::time_point now) {
  std::lock_guard lock(stats_mutex_);
  // Work may be said to have begun before the last piece was over: that time is counted already.
  if (under_way_++ == 0) busy_since_ = std::max(now, busy_until_);
}

void Lane::end_busy(Clock::time_point now) {
  std::lock_guard lock(stats_mutex_);
  if (--under_way_ > 0) return;
  busy_until_ = std::max(now, busy_since_);
  stats_.busy_s += std::chrono::duration<double>(busy_until_ - busy_since_).count();
}

void Lane::account(const Work& work, Clock::time_point start, Clock::time_point end) {
  {
    std::lock_guard lock(stats_mutex_);
    stats_.bytes += work.bytes;
    ++stats_.operations;
    if (cost_) stats_.expected_s += cost_(work);
  }
  if (trace_) trace_->add(name_, work.name, work.step, work.layer, work.batch, work.bytes, start, end);
}

void Lane::account_virtual(const Work& work, double duration_s) {
  std::lock_guard lock(stats_mutex_);
  stats_.busy_s += duration_s;
  stats_.bytes += work.bytes;
  ++stats_.operations;
  if (cost_) stats_.expected_s += cost_(work);
}

void Lane::count_in() {
  std::lock_guard lock(stats_mutex_);
  ++outstanding_;
}

void Lane::finish(const Event& event, std::exception_ptr error) {
  event.finish(error);
  std::lock_guard lock(stats_mutex_);
  if (error && !first_error_) first_error_ = error;
  --outstanding_;
  idle_.notify_all();
}

std::exception_ptr Lane::first_error() const {
  std::lock_guard lock(stats_mutex_);
  return first_error_;
}

void Lane::drain() {
  std::unique_lock lock(stats_mutex_);
  idle_.wait(lock, [&] { return outstanding_ == 0; });
  if (first_error_) std::rethrow_exception(first_error_);
}

namespace {

/// Blocks until all are done; returns the first error.
std::exception_ptr wait_all(const std::vector<Event>& events) {
  for (const Event& event : events) {
    try {
      event.wait();
    } catch (...) {
      return std::current_exception();
    }
  }
  return nullptr;
}

}  // namespace

void QueueLane::start() {
  thread_ = start_thread("the lane '" + name() + "'", [this] { loop(); });
}

void QueueLane::stop() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

Event QueueLane::submit(Work work) {
  Event event = Event::pending();
  count_in();
  std::lock_guard lock(mutex_);
  queue_.emplace_back(std::move(work), event);
  changed_.notify_all();
  return event;
}

void QueueLane::loop() {
  while (true) {
    std::pair<Work, Event> item;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      item = std::move(queue_.front());
      queue_.pop_front();
    }
    auto& [work, event] = item;
    // What comes later builds on what failed, often by its place in the order alone: it would compute with what was never written.
    std::exception_ptr error = first_error();
    if (!error) error = wait_all(work.after);
    if (error) {
      work = Work();  // what the work holds is free before anyone who waits goes on
      finish(event, error);
    } else {
      perform(std::move(work), event);
    }
  }
}

void ThreadLane::perform(Work work, const Event& event) {
  std::exception_ptr error;
  auto start = Clock::now();
  begin_busy(start);
  try {
    if (work.run) work.run();
  } catch (...) {
    error = std::current_exception();
  }
  auto end = Clock::now();
  end_busy(end);
  account(work, start, end);
  work.run = nullptr;  // as above
  finish(event, error);
}

DiskLane::DiskLane(std::string name, Trace* trace, const AsyncDiskOptions& options) : QueueLane(std::move(name), trace), disk_(AsyncDisk::make(options)) {
  start();
}

void DiskLane::perform(Work work, const Event& event) {
  struct Pending {
    DiskLane* lane;
    Work work;
    Event event;
    Clock::time_point start;
    std::atomic<int64_t> left;
    std::mutex mutex;
    std::exception_ptr error;
  };
  auto pending = std::make_shared<Pending>();
  std::vector<DiskTransfer> transfers = std::move(work.transfers);
  pending->lane = this;
  pending->work = std::move(work);
  pending->event = event;
  pending->start = Clock::now();
  pending->left = static_cast<int64_t>(transfers.size()) + 1;
  begin_busy(pending->start);
  auto one_done = [pending](std::exception_ptr error) {
    if (error) {
      std::lock_guard lock(pending->mutex);
      if (!pending->error) pending->error = error;
    }
    if (pending->left.fetch_sub(1) != 1) return;
    auto end = Clock::now();
    pending->lane->end_busy(end);
    pending->lane->account(pending->work, pending->start, end);
    pending->lane->finish(pending->event, pending->error);
  };
  for (DiskTransfer& transfer : transfers) {
    transfer.done = one_done;
    disk_->submit(std::move(transfer));
  }
  one_done(nullptr);
}

}  // namespace flexgen
