#pragma once
// DotProduct: products of rows of bf16 with rows of weights in bf16, by AVX512-BF16's dot products of two. oneDNN spends most of its time on copying the weights where rows of x are few, and pads them. Pure
// functions, thread-safe; all but is_supported() only on machines that have the instructions. What they give is used where it is bit for bit what oneDNN gives (Linear looks).
//
// One element of the result is a sum that depends on its row of x and its row of W alone, in fp32: columns are cut into parts of sum_columns(); within one, pairs of columns are added from the left, starting
// from zero; the parts' sums are added from the left.

#include <cstddef>
#include <cstdint>

#include "backend/cpu/product_tile.h"

namespace flexgen::dot_product {

inline constexpr int64_t kTileRows = 32;   ///< rows of W that go through together: two vectors
inline constexpr int64_t kMaxChunk = 512;  ///< columns packed at a time; they stay in the nearest cache
inline constexpr int64_t kFewRows = 16;    ///< up to so many rows of x a tile is used as it is read; for more it is packed first
inline constexpr int64_t kColumnGrain = 2; ///< a row has a multiple of so many columns

/// Columns of a part, for rows of `cols`: a multiple of kMaxChunk. (The order of oneDNN's sums, so that answers are those of before.)
inline constexpr int64_t sum_columns(int64_t cols) { return cols <= 1024 ? 512 : 1024; }

/// Whether this machine has the instructions.
bool is_supported();

/// Packs x [num_rows <= kFewRows, cols] bf16 as [pair of columns, row]: what is multiplied together lies together. As rows lie, where they are a multiple of 4 KiB their columns are in the same few places of the
/// nearest cache.
void pack_rows(const std::byte* x, int64_t num_rows, int64_t cols, std::byte* packed);

/// A chunk of a tile as multiply() reads it.
struct PackedChunk {
  alignas(64) uint32_t w[kMaxChunk / 2 * kTileRows];  ///< [pair of columns, row]
};

/// Packs columns [first, first + count) of the tile of at most kTileRows rows of bf16; rows that are not there become zeros. Of `next` it fetches all.
void pack_chunk(const ProductTile& tile, int64_t first, int64_t count, PackedChunk* chunk);

/// Where a chunk lies: whether a part of the columns begins with it, whether one ends, and whether that is the first.
struct Place {
  bool begins, ends, is_first;
};

/// Adds x [num_rows, count] bf16, rows of `x_stride` elements, times the chunk of `count` columns to the sums of its part [num_rows, kTileRows] f32, and these to `y` [num_rows, kTileRows] f32 where the part ends.
/// Both are 64-byte aligned.
void multiply(const std::byte* x, int64_t x_stride, int64_t num_rows, const PackedChunk& chunk, int64_t count, Place place, float* part, float* y);

/// y [num_rows <= kFewRows, kTileRows] f32, 64-byte aligned = x, as pack_rows() leaves it, times the whole tile.
void multiply_few(const std::byte* x, int64_t num_rows, const ProductTile& tile, float* y);

}  // namespace flexgen::dot_product
