#pragma once
// Pacer: what several disks may move together in a second, for jobs that leave other programs their share of one (--disk-bandwidth). Any thread.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <mutex>

namespace flexgen {

class Pacer {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Pacer(double bytes_per_s) : bytes_per_s_(bytes_per_s) {}

  /// When bytes may start to move, and when as many as these may have moved.
  struct Turn {
    Clock::time_point begin, end;
  };
  /// Turns follow one another. One that comes late gives time back, a few milliseconds at most: sleepers wake up late, but a pause allows no burst.
  Turn take(int64_t bytes) {
    const auto span = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(static_cast<double>(bytes) / bytes_per_s_));
    std::lock_guard lock(mutex_);
    const Clock::time_point begin = std::max(next_, Clock::now() - kLateness);
    next_ = begin + span;
    return {begin, next_};
  }

 private:
  static constexpr std::chrono::milliseconds kLateness{5};
  const double bytes_per_s_;
  std::mutex mutex_;
  Clock::time_point next_{};
};

}  // namespace flexgen
