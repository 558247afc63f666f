#pragma once
// DotProduct: products of rows of bf16 with rows of weights in bf16, by AVX512-BF16's dot products of two, for few rows of x: with those oneDNN spends most of its time on copying the weights. Pure functions,
// thread-safe. What it gives is used where it is bit for bit what oneDNN gives (Linear looks).
//
// One element of the result is a sum that depends on its row of x and its row of W alone: pairs of columns are added from the left, in fp32.

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace flexgen::dot_product {

inline constexpr int64_t kTileRows = 32;   ///< rows of W that are packed together: two vectors
inline constexpr int64_t kMaxChunk = 512;  ///< columns packed at a time; they stay in the nearest cache
inline constexpr int64_t kColumnGrain = 16;  ///< a row has a multiple of so many columns

/// Whether this machine has the instructions.
bool is_supported();

/// A chunk of kTileRows rows of W as multiply() reads them.
struct PackedChunk {
  alignas(64) uint32_t w[kMaxChunk / 2 * kTileRows];  ///< [pair of columns, row]
};

/// Packs columns [first, first + count), a multiple of kColumnGrain, of the `num_rows` <= kTileRows rows [., cols] bf16 at `rows`; rows that are not there become zeros. `next`, `next_bytes`: what to fetch from
/// memory meanwhile, for a later call.
void pack_chunk(const std::byte* rows, int64_t cols, int64_t num_rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes, PackedChunk* chunk);

/// y [num_rows, kTileRows] f32, 64-byte aligned = (is_first ? 0 : y) + x [num_rows, count] bf16, rows of `x_stride` elements, times the chunk of `count` columns. Only where is_supported().
void multiply(const std::byte* x, int64_t x_stride, int64_t num_rows, const PackedChunk& chunk, int64_t count, bool is_first, float* y);

}  // namespace flexgen::dot_product
