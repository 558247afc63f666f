#pragma once
// DotProduct: products of rows of bf16 with rows of weights in bf16, by AVX512-BF16's dot products of two. oneDNN spends most of its time on copying the weights where rows of x are few, and pads them. Pure
// functions, thread-safe; all but is_supported() only on machines that have the instructions. What they give is used where it is bit for bit what oneDNN gives (Linear looks).
//
// One element of the result is a sum that depends on its row of x and its row of W alone, in fp32: columns are cut into parts of sum_columns(); within one, pairs of columns are added from the left, starting
// from zero; the parts' sums are added from the left.

#include <cstddef>
#include <cstdint>

#include "backend/cpu/dot_shape.h"
#include "backend/cpu/product_tile.h"

namespace flexgen::dot_product {

/// Whether this machine has the instructions.
bool is_supported();

/// Packs one of the num_block_pairs() of x [num_rows <= kMaxRows, cols] bf16 to its place in `packed`, of the same size: [chunk, block, pair of columns, row]. So what is multiplied together lies together, and a
/// tile reads from the first byte to the last. As rows lie, where they are a multiple of 4 KiB their columns are in the same few places of the nearest cache.
void pack_rows(const std::byte* x, int64_t num_rows, int64_t cols, int64_t block_pair, std::byte* packed);

/// Packs columns [first, first + count) of the tile of at most kTileRows rows of bf16; rows that are not there become zeros.
void pack_chunk(const ProductTile& tile, int64_t first, int64_t count, PackedChunk* chunk);

/// y [x.count, kTileRows] f32, 64-byte aligned = x, packed where it uses the tile as read, times the tile.
void multiply(const Rows& x, const ProductTile& tile, Scratch& scratch, float* y);

}  // namespace flexgen::dot_product
