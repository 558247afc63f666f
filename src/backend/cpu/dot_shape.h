#pragma once
// How products by AVX512-BF16's dot products of two (dot_product.h, which says in which order they add) cut rows of W and of x, and what they work with. Pure data.

#include <cstddef>
#include <cstdint>

namespace flexgen::dot_product {

inline constexpr int64_t kTileRows = 32;    ///< rows of W that go through together: two vectors
inline constexpr int64_t kMaxChunk = 128;   ///< columns packed at a time: two chunks and a block of x stay in the nearest cache
inline constexpr int64_t kFewRows = 16;     ///< of x: up to so many a tile may be used as it is read; for more it is packed first
inline constexpr int64_t kBlockRows = 8;    ///< of more rows, how many have their sums in registers at a time
inline constexpr int64_t kMaxRows = 256;    ///< of x in one call
inline constexpr int64_t kColumnGrain = 2;  ///< a row has a multiple of so many columns

/// Columns of a part, for rows of `cols`: a multiple of kMaxChunk. (The order of oneDNN's sums, so that answers are those of before.)
inline constexpr int64_t sum_columns(int64_t cols) { return cols <= 1024 ? 512 : 1024; }

/// Whether rows [num_rows, cols] of x go through a tile as it is read, all at once; else it is packed and they go through it in blocks, which reads x once instead of twice.
inline constexpr bool uses_tile_as_read(int64_t num_rows, int64_t cols) { return num_rows <= (cols <= 2048 ? kFewRows : kBlockRows); }

/// How rows [num_rows, cols] of x go through a tile: a block at a time. The last two blocks share what is left evenly, as the sums of a row or two would wait for one another.
class RowBlocks {
 public:
  RowBlocks(int64_t num_rows, int64_t cols) : num_rows_(num_rows), count_(uses_tile_as_read(num_rows, cols) ? 1 : (num_rows + kBlockRows - 1) / kBlockRows) {}
  int64_t count() const { return count_; }
  /// A block's first row; from block count() on, the number of rows.
  int64_t first(int64_t block) const {
    if (block >= count_) return num_rows_;
    if (block == 0 || block < count_ - 1) return block * kBlockRows;
    const int64_t before = (count_ - 2) * kBlockRows;
    return before + (num_rows_ - before + 1) / 2;
  }

 private:
  int64_t num_rows_, count_;
};

/// Blocks are packed two at a time.
inline int64_t num_block_pairs(int64_t num_rows, int64_t cols) { return (RowBlocks(num_rows, cols).count() + 1) / 2; }

/// A chunk of a tile as it is multiplied.
struct PackedChunk {
  alignas(64) uint32_t w[kMaxChunk / 2 * kTileRows];  ///< [pair of columns, row]
};

/// What multiply() needs besides, one a thread.
struct Scratch {
  PackedChunk chunks[2];                         ///< one that is multiplied, one that is packed meanwhile
  alignas(64) uint32_t turned[16][16];           ///< of what is packed: 16 rows of W half turned
  alignas(64) float part[kMaxRows * kTileRows];  ///< sums of columns that are not all there yet
};

/// Rows of x [count <= kMaxRows, cols] bf16.
struct Rows {
  const std::byte* data;
  int64_t count;
  bool packed;  ///< as pack_rows() leaves them; else one after the other
};

}  // namespace flexgen::dot_product
