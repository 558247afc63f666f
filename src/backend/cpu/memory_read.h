#pragma once
// Reading memory with all workers, to measure how fast that goes.

#include <emmintrin.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/cpu/worker_team.h"
#include "base/clock.h"
#include "base/units.h"

namespace flexgen {

/// The sum of the 8-byte words in `bytes` (a multiple of 8) from `data` on, so that nobody can leave the reading out.
inline uint64_t sum_of_words(WorkerTeam& team, const std::byte* data, int64_t bytes) {
  constexpr int64_t kUnit = 2 * kMiB / 8;
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  const int64_t count = bytes / 8;
  std::vector<uint64_t> sums(static_cast<size_t>(ceil_div(count, kUnit)));
  team.run(team.size(), std::ssize(sums), [&](int64_t unit, int) {
    uint64_t sum = 0;
    for (int64_t i = unit * kUnit; i < std::min(count, (unit + 1) * kUnit); ++i) sum += words[i];
    sums[static_cast<size_t>(unit)] = sum;
  });
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  return total;
}

/// After this no cache holds any of them.
inline void flush_from_caches(WorkerTeam& team, const std::byte* data, int64_t bytes) {
  constexpr int64_t kUnit = 2 * kMiB, kLine = 64;
  team.run(team.size(), ceil_div(bytes, kUnit), [&](int64_t unit, int) {
    for (int64_t at = unit * kUnit; at < std::min(bytes, (unit + 1) * kUnit); at += kLine) _mm_clflush(data + at);
    _mm_mfence();
  });
}

/// Seconds that reading them takes from memory itself: last-level caches of hundreds of megabytes would hold all that it is reasonable to measure with.
inline double read_from_memory_s(WorkerTeam& team, const std::byte* data, int64_t bytes) {
  flush_from_caches(team, data, bytes);
  const auto begin = std::chrono::steady_clock::now();
  [[maybe_unused]] volatile uint64_t sink = sum_of_words(team, data, bytes);
  return seconds_since(begin);
}

}  // namespace flexgen
