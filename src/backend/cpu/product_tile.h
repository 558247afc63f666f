#pragma once
// ProductTile: what a product on the cpu backend reads of a weight at a time.

#include <cstddef>
#include <cstdint>

namespace flexgen {

/// Rows of W [num_rows, cols], one after the other, and what to fetch from memory meanwhile, for a later call; no `next`: nothing.
struct ProductTile {
  const std::byte* rows = nullptr;
  int64_t cols = 0, num_rows = 0;
  const std::byte* next = nullptr;
  int64_t next_bytes = 0;
};

}  // namespace flexgen
