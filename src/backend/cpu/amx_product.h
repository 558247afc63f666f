#pragma once
// AmxProduct: products of rows of x with rows of weights in bf16, by AMX's tile registers (Intel SDM, TDPBF16PS). Pure functions, thread-safe; all but is_supported() only on machines that have the instructions.
//
// A register takes 16 rows of W as they lie, 32 columns of them, so weights need no packing; another takes 16 rows of x, turned. One element of the result is a sum that depends on its row of x and its row of W
// alone, in fp32: of each 32 columns from the left, those with even numbers are added up from zero and those with odd ones, both are added, and that to the sum. (AVX512-BF16 adds in another order.)

#include <cstddef>
#include <cstdint>

#include "backend/cpu/amx_shape.h"
#include "backend/cpu/product_tile.h"
#include "base/units.h"

namespace flexgen::amx_product {

inline constexpr int64_t kColumnGrain = 2;  ///< a row has a multiple of so many columns

/// Whether this machine has the instructions and the system lets this process use them. The first call asks for it.
bool is_supported();

/// Packs a block of x [num_rows <= kBlockRows, cols] bf16 to `packed`, of the same size: [pair of columns, row].
void pack_block(const std::byte* x, int64_t num_rows, int64_t cols, std::byte* packed);

/// y [num_rows, kTileRows] f32 = x [num_rows, cols], block after block as pack_block() leaves them, times the tile. For few rows, as the tile is read where it lies.
void multiply(const std::byte* x, int64_t num_rows, const ProductTile& tile, float* y);

// For many rows a chunk of several tiles is copied side by side, so that the near caches hold it, and all rows go through it; sums wait in memory for the next chunk.

inline constexpr int64_t kMaxChunkColumns = 640;
/// Of rows of `cols` columns: whole groups of codes, which have two steps, and chunks of one size, as a short one has the sums written for little. One chunk where it can hold all.
inline constexpr int64_t chunk_columns(int64_t cols) {
  constexpr int64_t kOfSeveral = 512;
  const int64_t chunks = cols <= kMaxChunkColumns ? 1 : ceil_div(cols, kOfSeveral);
  return round_up(ceil_div(cols, chunks), 2 * kStep);
}

/// Bytes of a padded block: kBlockRows rows of whole steps.
inline constexpr int64_t padded_bytes(int64_t cols) { return 2 * kBlockRows * round_up(cols, kStep); }

/// As pack_block(), zeros where there is no row or no column: padded_bytes(cols), 64-byte aligned.
void pack_padded_block(const std::byte* x, int64_t num_rows, int64_t cols, std::byte* packed);

/// A chunk of a tile: [step, row, column], zeros where the tile has none.
struct TileChunk {
  alignas(64) std::byte w[2 * kMaxChunkColumns * kTileRows];
};
/// Copies `count` <= kMaxChunkColumns columns of the tile from `first` on.
void copy_chunk(const ProductTile& tile, int64_t first, int64_t count, TileChunk* chunk);

/// Sums of a tile and two blocks of x, as registers leave them.
struct BlockSums {
  alignas(64) float sums[4][256];
};
/// Lines to fetch for later while a chunk is multiplied, evenly over its steps, as memory takes only so many requests at once: `rows` stretches of `bytes`, `stride` apart.
struct Ahead {
  const std::byte* data = nullptr;
  int64_t bytes = 0, rows = 0, stride = 0;
};
/// Adds `num_steps` steps of two blocks of x, packed and padded, to the sums; the first ones begin them. Meanwhile rows of x and of W are fetched.
void add_chunk(const std::byte* x0, const std::byte* x1, const TileChunk& chunk, int64_t num_steps, bool is_first, const Ahead& x_ahead, const Ahead& w_ahead,
               BlockSums* sums);

/// Where sums go: rows of y f32, `stride` floats apart, of tile_rows <= kTileRows columns; as add_product() of vector_rows.h, bias [tile_rows] or null.
struct ProductOut {
  float* y;
  int64_t stride, tile_rows;
  const float* bias;
  bool accumulate;
};
/// The sums of num_rows <= 2 * kBlockRows rows of x.
void turn(const BlockSums& sums, int64_t num_rows, const ProductOut& out);

/// Threads that call add_chunk() do so between these: they shape the tile registers, and give them back.
void begin_chunks();
void end_chunks();

}  // namespace flexgen::amx_product
