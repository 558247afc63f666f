#pragma once
// Reading memory with all workers, to measure how fast that goes.

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/cpu/worker_team.h"
#include "base/clock.h"
#include "base/units.h"

namespace flexgen {

/// The sum of the 8-byte words in `bytes` (a multiple of 8) from `data` on, so that nobody can leave the reading out. Lines are asked for ahead, as products do it: on an Emerald Rapids that reads half as
/// much again as what the processor fetches by itself.
inline uint64_t sum_of_words(WorkerTeam& team, const std::byte* data, int64_t bytes) {
  constexpr int64_t kUnit = 2 * kMiB / 8, kLine = 64 / 8, kAhead = 32 * kKiB / 8;
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  const int64_t count = bytes / 8;
  std::vector<uint64_t> sums(static_cast<size_t>(ceil_div(count, kUnit)));
  team.run(team.size(), std::ssize(sums), [&](int64_t unit, int) {
    const int64_t end = std::min(count, (unit + 1) * kUnit), last = end - 1;
    uint64_t even = 0, odd = 0;
    int64_t i = unit * kUnit;
    for (; i + kLine <= end; i += kLine) {
      const uint64_t* const line = words + i;
      __builtin_prefetch(words + std::min(i + kAhead, last), 0, 2);
      even += line[0] + line[2] + line[4] + line[6];
      odd += line[1] + line[3] + line[5] + line[7];
    }
    for (; i < end; ++i) even += words[i];
    sums[static_cast<size_t>(unit)] = even + odd;
  });
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  return total;
}

/// After this no cache holds any of them; on other processors than x86 they stay where they are.
inline void flush_from_caches([[maybe_unused]] WorkerTeam& team, [[maybe_unused]] const std::byte* data, [[maybe_unused]] int64_t bytes) {
#if defined(__x86_64__)
  constexpr int64_t kUnit = 2 * kMiB, kLine = 64;
  team.run(team.size(), ceil_div(bytes, kUnit), [&](int64_t unit, int) {
    for (int64_t at = unit * kUnit; at < std::min(bytes, (unit + 1) * kUnit); at += kLine) _mm_clflush(data + at);
    _mm_mfence();
  });
#endif
}

/// Seconds that reading them takes from memory itself: last-level caches of hundreds of megabytes would hold all that it is reasonable to measure with.
inline double read_from_memory_s(WorkerTeam& team, const std::byte* data, int64_t bytes) {
  flush_from_caches(team, data, bytes);
  const auto begin = std::chrono::steady_clock::now();
  [[maybe_unused]] volatile uint64_t sink = sum_of_words(team, data, bytes);
  return seconds_since(begin);
}

}  // namespace flexgen
