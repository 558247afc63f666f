#pragma once
// ProductTile: what a product on the cpu backend reads of a weight at a time.

#include <cstddef>
#include <cstdint>

#include "tensor/weight_view.h"

namespace flexgen {

/// Rows of W [num_rows, cols], one after the other, and what to fetch from memory meanwhile, for a later call; no `next`: nothing.
struct ProductTile {
  const std::byte* rows = nullptr;
  int64_t cols = 0, num_rows = 0;
  const std::byte* next = nullptr;
  int64_t next_bytes = 0;
  bool in_memory = false;      ///< `rows` are where the weight lies, and so are not in a cache by themselves
  bool next_is_alike = false;  ///< `next` are rows of as many columns of the same type
  // Of codes whose scales are tensors of their own:
  const CodeFormat* format = nullptr;
  const WeightPiece* piece = nullptr;
  int64_t piece_row = 0;  ///< of the piece, the tile's first
};

}  // namespace flexgen
