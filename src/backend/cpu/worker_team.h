#pragma once
// WorkerTeam: the threads of the cpu backend. Units of work are dealt out one by one to whoever is free, so that a worker whose core is taken away
// holds up no more than the unit it has. Whoever has nothing to do spins for a millisecond and then sleeps, or sleeps at once
// where another program has lately had a core: others get their share. Whoever spins may ask memory meanwhile for what its next work will read.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace flexgen {

class WorkerTeam {
 public:
  /// The calling thread of run() and num_threads - 1 others, which start here. Throws Error{user} if there is no thread for one of them; those that had started have ended then.
  explicit WorkerTeam(int num_threads);
  ~WorkerTeam();
  WorkerTeam(const WorkerTeam&) = delete;
  WorkerTeam& operator=(const WorkerTeam&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  /// How many workers so many multiplications and additions deserve: all, or one if waking the others and waiting for them,
  /// which takes microseconds on a quiet machine and milliseconds on a busy one, could cost more than they save.
  int workers_for(double flops) const {
    constexpr double kAloneFlops = 4e6;  // about 20 microseconds of one core
    return flops < kAloneFlops ? 1 : size();
  }

  /// What this worker will read next, as far as is known: bytes that may lie anywhere, as asking for them is no access. It asks for them while it has nothing to do. From the thread of run().
  void set_ahead(int worker, const std::byte* data, int64_t bytes) {
    Ahead& ahead = ahead_[static_cast<size_t>(worker)];
    const auto at = reinterpret_cast<uintptr_t>(data);
    ahead.end.store(0, std::memory_order_relaxed);
    ahead.at.store(at, std::memory_order_relaxed);
    ahead.end.store(at + static_cast<uintptr_t>(bytes), std::memory_order_relaxed);
  }
  struct Stretch {
    const std::byte* data = nullptr;
    int64_t bytes = 0;
  };
  /// Takes up to so many of these bytes off, for a unit of the worker that asks for them while it works. From within that unit.
  Stretch take_ahead(int worker, int64_t bytes) {
    Ahead& ahead = ahead_[static_cast<size_t>(worker)];
    const uintptr_t at = ahead.at.load(std::memory_order_relaxed), end = ahead.end.load(std::memory_order_relaxed);
    if (at >= end) return {};
    const auto count = static_cast<uintptr_t>(std::min<int64_t>(bytes, static_cast<int64_t>(end - at)));
    ahead.at.store(at + count, std::memory_order_relaxed);
    return {reinterpret_cast<const std::byte*>(at), static_cast<int64_t>(count)};
  }

  /// Calls work(unit, worker) for each unit in [0, num_units), in no set order; worker is in [0, size()), the calling thread is number 0. Returns when all are done.
  /// With `num_workers` 1, or one unit, all is done in place. An error of a unit is thrown here, the first of several; units that had not begun are left out then.
  /// For one thread at a time, and not from within a unit.
  template <typename Work>
  void run(int num_workers, int64_t num_units, const Work& work) {
    if (num_units <= 1 || num_workers <= 1 || threads_.empty()) {
      for (int64_t unit = 0; unit < num_units; ++unit) work(unit, 0);
      return;
    }
    run_units(num_units, {[](const void* context, int64_t unit, int worker) { (*static_cast<const Work*>(context))(unit, worker); }, &work});
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Job {
    void (*call)(const void* context, int64_t unit, int worker) = nullptr;
    const void* context = nullptr;
  };

  void run_units(int64_t num_units, Job job);
  void close();
  void loop(int worker);
  /// Does units until none is left to begin, and sees whether the core was taken away meanwhile.
  void work(int worker);
  bool take_unit(int worker);
  /// Waits for a short while until `word` is `value`, or is not; false if it is time to sleep.
  bool spin(int worker, std::atomic<uint32_t>& word, uint32_t value, bool until_equal);
  void note_lost_core(Clock::time_point now);
  void wait_for_end();

  /// Where a worker's bytes ahead begin and end: two words, that are read and written apart, as a wrong one costs no more than a read that nobody wanted.
  struct alignas(64) Ahead {
    std::atomic<uintptr_t> at = 0, end = 0;
  };

  std::vector<Ahead> ahead_;
  std::vector<std::thread> threads_;
  // Of the round under way; set by run(), read by who holds one of its units, which keeps the round from ending.
  Job job_;
  int64_t num_units_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  // What the threads share is spread over cache lines by who writes it.
  alignas(64) std::atomic<uint64_t> open_ = 0;        ///< the round's number in the upper half, its units that nobody has begun in the lower
  alignas(64) std::atomic<uint32_t> unfinished_ = 0;  ///< units of the round that are not done
  std::atomic<uint32_t> caller_sleeps_ = 0;
  alignas(64) std::atomic<uint32_t> round_ = 0;  ///< changes when there is something to look at
  std::atomic<uint32_t> sleepers_ = 0;
  std::atomic<bool> closing_ = false;
  std::atomic<bool> running_ = false;                             ///< run() is under way
  std::atomic<int64_t> contended_until_ = 0, contended_for_ = 0;  ///< until when others are taken to want the cores, and how long in all; ns of Clock
};

}  // namespace flexgen
