#include "backend/cpu/worker_team.h"

#include <hwy/cache_control.h>
#include <linux/futex.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <utility>

#include "base/error.h"
#include "base/thread.h"

namespace flexgen {
namespace {

using Clock = std::chrono::steady_clock;

void futex_wait(std::atomic<uint32_t>& word, uint32_t value) {
  static_assert(sizeof(word) == sizeof(uint32_t));
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word, int count) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0); }

/// How long to spin before sleeping. On a quiet machine that saves the wake-ups between products; where others want the cores, every microsecond of it is theirs, so
/// for a while after this thread has lost its core there is next to none.
class Spinner {
 public:
  /// True as soon as done() is; false if it is time to sleep.
  template <typename Done>
  bool spin(const Done& done) {
    const auto begin = Clock::now();
    auto before = begin;
    while (true) {
      for (int i = 0; i < 16; ++i) {
        if (done()) return true;
        hwy::Pause();
      }
      const auto now = Clock::now();
      if (now - before > kLostCore) contended_until_ = now + kContended;
      if (now - begin > (now < contended_until_ ? kContendedSpin : kQuietSpin)) break;
      before = now;
    }
    rusage usage{};
    if (getrusage(RUSAGE_THREAD, &usage) == 0 && usage.ru_nivcsw != switches_) {
      switches_ = usage.ru_nivcsw;
      contended_until_ = Clock::now() + kContended;
    }
    return done();
  }

 private:
  static constexpr std::chrono::microseconds kQuietSpin{100}, kContendedSpin{2}, kLostCore{50};
  static constexpr std::chrono::milliseconds kContended{50};
  Clock::time_point contended_until_{};
  long switches_ = 0;  ///< that this thread did not ask for
};

thread_local Spinner spinner;

}  // namespace

WorkerTeam::WorkerTeam(int num_threads) {
  FLEXGEN_CHECK(num_threads >= 1, "{} threads", num_threads);
  threads_.reserve(static_cast<size_t>(num_threads - 1));
  try {
    for (int worker = 1; worker < num_threads; ++worker)
      threads_.push_back(start_thread(fmt::format("computing, number {} of {}", worker + 1, num_threads), [this, worker] { loop(worker); }));
  } catch (...) {
    close();
    throw;
  }
}

WorkerTeam::~WorkerTeam() { close(); }

void WorkerTeam::close() {
  closing_ = true;
  ++round_;
  futex_wake(round_, INT_MAX);
  for (std::thread& thread : threads_) thread.join();
}

void WorkerTeam::run_units(int64_t num_units, Job job) {
  FLEXGEN_CHECK(!running_.exchange(true), "a team runs one thing at a time");
  FLEXGEN_CHECK(num_units <= INT_MAX, "{} units", num_units);
  job_ = job;
  num_units_ = num_units;
  failed_ = false;
  unfinished_ = static_cast<uint32_t>(num_units);
  // Opens the round: from here on its units are taken.
  open_.store((open_.load(std::memory_order_relaxed) >> 32 << 32) + (uint64_t{1} << 32) + static_cast<uint64_t>(num_units));
  ++round_;
  if (sleepers_.load() != 0) futex_wake(round_, static_cast<int>(num_units - 1));
  while (take_unit(0)) {
  }
  wait_for_end();
  running_ = false;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

bool WorkerTeam::take_unit(int worker) {
  uint64_t open = open_.load();
  do {
    if (static_cast<uint32_t>(open) == 0) return false;
  } while (!open_.compare_exchange_weak(open, open - 1));
  // The unit is ours, so the round cannot end, and what it set stands.
  if (!failed_.load(std::memory_order_relaxed)) {
    try {
      job_.call(job_.context, num_units_ - static_cast<uint32_t>(open), worker);
    } catch (...) {
      std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
      failed_ = true;
    }
  }
  if (unfinished_.fetch_sub(1) == 1 && caller_sleeps_.load() != 0) futex_wake(unfinished_, 1);
  return true;
}

void WorkerTeam::wait_for_end() {
  if (spinner.spin([&] { return unfinished_.load(std::memory_order_acquire) == 0; })) return;
  caller_sleeps_ = 1;
  while (const uint32_t left = unfinished_.load()) futex_wait(unfinished_, left);
  caller_sleeps_ = 0;
}

void WorkerTeam::loop(int worker) {
  while (true) {
    const uint32_t seen = round_.load();
    if (closing_) return;
    while (take_unit(worker)) {
    }
    if (spinner.spin([&] { return round_.load(std::memory_order_relaxed) != seen; })) continue;
    ++sleepers_;
    futex_wait(round_, seen);
    --sleepers_;
  }
}

}  // namespace flexgen
