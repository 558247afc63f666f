#pragma once
// FloatProduct: products of rows of floats with rows of weights in fp32, in SIMD picked at run time for the machine. LinearPacked (linear_packed.h) cuts a whole product into these. Pure functions, thread-safe.
//
// One element of the result is a sum over the columns that depends on its row of x and its row of W alone: columns are cut into chunks by chunk_columns(); within one the products are added from the left,
// each by a fused multiply-add; the chunks' sums are added from the left. Every instruction set gives the same bits.

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace flexgen::float_product {

inline constexpr int64_t kTileRows = 32;   ///< rows of W that are packed together
inline constexpr int64_t kMaxChunk = 256;  ///< columns packed at a time: half a tile of them stays in the nearest cache

/// How many of the columns that are left the next chunk has: kMaxChunk, and two halves at the end. (The order of oneDNN's sums in panels of few rows, so that answers are those of before.)
inline int64_t chunk_columns(int64_t left) { return left >= 2 * kMaxChunk ? kMaxChunk : left > kMaxChunk ? (left + 1) / 2 : left; }

/// A chunk of kTileRows rows of W as floats, as multiply() reads them.
struct PackedChunk {
  alignas(64) float w[kMaxChunk * kTileRows];  ///< [part of the rows, column, row]
};

/// Packs columns [first, first + count) of the `num_rows` <= kTileRows rows [., cols] at `rows`, `dtype` kF32 or kBF16; rows that are not there become zeros. `next`, `next_bytes`: what to fetch from memory
/// meanwhile, for a later call (in the order in which it lies: memory is slow at anything else).
void pack_chunk(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes,
                PackedChunk* chunk);

/// y [num_rows, kTileRows] f32, 64-byte aligned = (is_first ? 0 : y) + x [num_rows, count], rows of `x_stride`, times the chunk of `count` columns.
void multiply(const float* x, int64_t x_stride, int64_t num_rows, const PackedChunk& chunk, int64_t count, bool is_first, float* y);

}  // namespace flexgen::float_product
