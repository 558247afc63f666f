#pragma once
// MemoryItem: one use of memory or disk, as layouts say it and plans list it. Pure data.

#include <cstdint>
#include <span>
#include <string>

#include "memory/tier.h"

namespace flexgen {

/// Bytes of a tier and what they are for.
struct MemoryItem {
  std::string name;
  Tier tier = Tier::kCpu;
  int64_t bytes = 0;
  bool in_arena = true;  ///< taken at the start; else it grows up to this as the job runs
};

/// What the items take of a tier.
inline int64_t bytes_in(std::span<const MemoryItem> items, Tier tier) {
  int64_t bytes = 0;
  for (const MemoryItem& item : items)
    if (item.tier == tier) bytes += item.bytes;
  return bytes;
}

}  // namespace flexgen
