#include "backend/cpu/worker_team.h"

#include <hwy/cache_control.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <utility>

#include "base/error.h"
#include "base/thread.h"

namespace flexgen {
namespace {

void futex_wait(std::atomic<uint32_t>& word, uint32_t value) {
  static_assert(sizeof(word) == sizeof(uint32_t));
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word, int count) { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0); }

/// How long a core that was lost tells of others: at first, and at most if one is lost again and again.
constexpr std::chrono::nanoseconds kContended = std::chrono::milliseconds(10), kMaxContended = std::chrono::milliseconds(160);
/// The kernel's own threads take a core for microseconds; another program that computes takes it for milliseconds.
constexpr std::chrono::milliseconds kLostCore{1};
/// On a quiet machine spinning saves the wake-ups between products. Where others want the cores, every microsecond of it is theirs.
constexpr std::chrono::microseconds kQuietSpin{1000}, kContendedSpin{2};

/// Bytes that a worker without work asks memory for between two looks.
constexpr int64_t kAskedAtOnce = 512;

std::chrono::nanoseconds cpu_time() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace

WorkerTeam::WorkerTeam(int num_threads) : ahead_(static_cast<size_t>(std::max(num_threads, 0))) {
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
  work(0);
  wait_for_end();
  running_ = false;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void WorkerTeam::work(int worker) {
  const Clock::time_point begin = Clock::now();
  const std::chrono::nanoseconds cpu_begin = cpu_time();
  bool any = false;
  while (take_unit(worker)) any = true;
  if (!any) return;
  const Clock::time_point end = Clock::now();
  if (end - begin > kLostCore && end - begin - (cpu_time() - cpu_begin) > kLostCore) note_lost_core(end);
}

void WorkerTeam::note_lost_core(Clock::time_point now) {
  // Several threads may be here at once: a window too long or too short does no harm.
  const int64_t at = now.time_since_epoch().count(), until = contended_until_.load(std::memory_order_relaxed);
  if (at < until) return;
  const int64_t last = contended_for_.load(std::memory_order_relaxed);
  const int64_t window = at < until + last ? std::min(2 * last, kMaxContended.count()) : kContended.count();
  contended_for_.store(window, std::memory_order_relaxed);
  contended_until_.store(at + window, std::memory_order_relaxed);
}

bool WorkerTeam::spin(int worker, std::atomic<uint32_t>& word, uint32_t value, bool until_equal) {
  const auto done = [&] { return (word.load(std::memory_order_acquire) == value) == until_equal; };
  const Clock::time_point begin = Clock::now();
  Clock::time_point before = begin;
  while (true) {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      // So few at a time that they hardly delay looking again, and so many that memory is busy.
      const Stretch ahead = take_ahead(worker, kAskedAtOnce);
      for (int64_t at = 0; at < ahead.bytes; at += 64) __builtin_prefetch(ahead.data + at, 0, 2);  // the nearest cache is too small for what is under way
      hwy::Pause();
    }
    const Clock::time_point now = Clock::now();
    if (now - before > kLostCore) note_lost_core(now);
    const bool contended = now.time_since_epoch().count() < contended_until_.load(std::memory_order_relaxed);
    if (now - begin > (contended ? kContendedSpin : kQuietSpin)) return done();
    before = now;
  }
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
  if (spin(0, unfinished_, 0, true)) return;
  caller_sleeps_ = 1;
  while (const uint32_t left = unfinished_.load()) futex_wait(unfinished_, left);
  caller_sleeps_ = 0;
}

void WorkerTeam::loop(int worker) {
  while (true) {
    const uint32_t seen = round_.load();
    if (closing_) return;
    work(worker);
    if (spin(worker, round_, seen, false)) continue;
    ++sleepers_;
    futex_wait(round_, seen);
    --sleepers_;
  }
}

}  // namespace flexgen
