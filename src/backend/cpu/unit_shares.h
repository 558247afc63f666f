#pragma once
// UnitShares: which of a round's units a worker does. Each has a stretch of its own, one after the other, so that it knows what it reads next; whoever is done with that helps others, from the ends of theirs.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace flexgen {

class UnitShares {
 public:
  /// For so many workers at most.
  explicit UnitShares(int max_workers) : stretches_(static_cast<size_t>(max_workers)) {}

  /// A new round of fewer than 2^32 units. While nobody takes any.
  void start(int64_t num_units, int num_workers) {
    num_workers_ = num_workers;
    for (int worker = 0; worker < num_workers; ++worker)
      stretch(worker).store(pack(first_of(worker, num_units, num_workers), first_of(worker + 1, num_units, num_workers)), std::memory_order_relaxed);
  }
  /// The first unit of a worker's own stretch.
  static int64_t first_of(int worker, int64_t num_units, int num_workers) { return num_units * worker / num_workers; }

  struct Unit {
    int64_t unit;
    int64_t next;  ///< what the worker does after it, if nobody helps; -1: not known
  };
  /// Each unit once. Called no oftener than there are units, by many workers at the same time.
  Unit take(int worker) {
    for (;;) {
      if (worker < num_workers_)
        if (const Unit own = take_from(worker, true); own.unit >= 0) return own;
      int longest = 0;
      uint64_t most = 0;
      for (int other = 0; other < num_workers_; ++other)
        if (const uint64_t left = length(stretch(other).load(std::memory_order_relaxed)); left > most) most = left, longest = other;
      if (const Unit helped = take_from(longest, false); helped.unit >= 0) return helped;
    }
  }

 private:
  struct alignas(64) Stretch {
    std::atomic<uint64_t> units = 0;  ///< the first in the upper half, one past the last in the lower
  };
  static uint64_t pack(int64_t first, int64_t end) { return static_cast<uint64_t>(first) << 32 | static_cast<uint64_t>(end); }
  static uint64_t length(uint64_t units) { return (units & 0xffffffffu) - (units >> 32); }
  std::atomic<uint64_t>& stretch(int worker) { return stretches_[static_cast<size_t>(worker)].units; }

  Unit take_from(int worker, bool front) {
    std::atomic<uint64_t>& units = stretch(worker);
    uint64_t left = units.load(std::memory_order_relaxed);
    while (length(left) > 0) {
      const auto first = static_cast<int64_t>(left >> 32), end = static_cast<int64_t>(left & 0xffffffffu);
      if (!units.compare_exchange_weak(left, front ? pack(first + 1, end) : pack(first, end - 1), std::memory_order_relaxed)) continue;
      const bool more = end - first > 1;
      return front ? Unit{first, more ? first + 1 : -1} : Unit{end - 1, more ? end - 2 : -1};
    }
    return {-1, -1};
  }

  std::vector<Stretch> stretches_;
  int num_workers_ = 0;
};

}  // namespace flexgen
