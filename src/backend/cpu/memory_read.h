#pragma once
// Reading memory with all workers, to measure how fast that goes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/cpu/worker_team.h"
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

}  // namespace flexgen
