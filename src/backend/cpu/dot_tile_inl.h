#pragma once
// Blocks of rows of x times a packed chunk of a tile, while the next chunk is packed: for the .cc files of dot_product.h and dot_codes.h. These define FLEXGEN_DOT_TARGET before, as what packs is inlined: it and the
// product are compiled for the same instructions.

#include <type_traits>

#include "backend/cpu/dot_inl.h"
#include "backend/cpu/dot_shape.h"

HWY_PUSH_ATTRIBUTES(FLEXGEN_DOT_TARGET)
namespace flexgen::dot_product {

inline constexpr int64_t kStep = 2 * kLanes;  ///< columns that are turned at once
inline constexpr int64_t kPiecesOfStep = 8;   ///< in which 16 rows of a step are packed

/// A step of four rows from `at` on, `row_bytes` apart, half turned.
HWY_INLINE void turn_rows(const std::byte* at, int64_t row_bytes, uint32_t (*turned)[16]) {
  __m512i r0 = _mm512_loadu_si512(at), r1 = _mm512_loadu_si512(at + row_bytes), r2 = _mm512_loadu_si512(at + 2 * row_bytes),
          r3 = _mm512_loadu_si512(at + 3 * row_bytes);
  turn_four(r0, r1, r2, r3);
  _mm512_store_si512(turned[0], r0);
  _mm512_store_si512(turned[1], r1);
  _mm512_store_si512(turned[2], r2);
  _mm512_store_si512(turned[3], r3);
}
/// Of 16 rows that are half turned, pairs `pair`, pair + 4, 8 and 12 of a step, whose place in the chunk `to` is.
HWY_INLINE void join_columns(const uint32_t (*turned)[16], int64_t pair, uint32_t* to) {
  __m512i t0 = _mm512_load_si512(turned[pair]), t1 = _mm512_load_si512(turned[4 + pair]), t2 = _mm512_load_si512(turned[8 + pair]),
          t3 = _mm512_load_si512(turned[12 + pair]);
  join_four(t0, t1, t2, t3);
  uint32_t* const out = to + pair * kTileRows;
  _mm512_store_si512(out, t0);
  _mm512_store_si512(out + 4 * kTileRows, t1);
  _mm512_store_si512(out + 8 * kTileRows, t2);
  _mm512_store_si512(out + 12 * kTileRows, t3);
}

/// Packs nothing.
struct NoPacker {
  static HWY_INLINE int64_t num_pieces() { return 0; }
  template <class Between>
  HWY_INLINE void run(const Between&) const {}
};

/// Where a chunk lies: whether a part of the columns begins with it, whether one ends, and whether that is the first.
struct Place {
  bool begins, ends, is_first;
};

/// A block of rows of x and its sums.
struct Block {
  const std::byte* x;
  int64_t x_bytes;  ///< from row to row, where they are not packed
  float *part, *y;
};

template <int kRows, bool kPackedRows>
HWY_INLINE void add_pair(const std::byte* x, int64_t x_bytes, const uint32_t* w, __m512 (&sums)[kRows][2]) {
  const __m512i first = _mm512_load_si512(w), second = _mm512_load_si512(w + kLanes);
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
    const __m512bh both = pair_of_all(x + m * (kPackedRows ? 4 : x_bytes));
    sums[m][0] = _mm512_dpbf16_ps(sums[m][0], both, reinterpret_cast<__m512bh>(first));
    sums[m][1] = _mm512_dpbf16_ps(sums[m][1], both, reinterpret_cast<__m512bh>(second));
  }
}

/// A block of kRows rows times a chunk. Meanwhile `packer` packs half of the next one, which is no longer, a piece for each two pairs of columns: the two use different parts of the core.
template <int kRows, bool kPackedRows, class Packer>
HWY_INLINE void multiply_block(const Block& block, const uint32_t* w, int64_t num_pairs, Place place, const Packer& packer) {
  constexpr int64_t kXStep = kPackedRows ? 4 * kRows : 4;
  const std::byte* x = block.x;
  const int64_t x_bytes = block.x_bytes;
  __m512 sums[kRows][2];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
    for (int v = 0; v < 2; ++v) sums[m][v] = place.begins ? _mm512_setzero_ps() : _mm512_load_ps(block.part + m * kTileRows + kLanes * v);
  packer.run([&]() {
    add_pair<kRows, kPackedRows>(x, x_bytes, w, sums);
    add_pair<kRows, kPackedRows>(x + kXStep, x_bytes, w + kTileRows, sums);
    x += 2 * kXStep, w += 2 * kTileRows;
  });
  num_pairs -= 2 * packer.num_pieces();
  for (; num_pairs > 0; --num_pairs, x += kXStep, w += kTileRows) add_pair<kRows, kPackedRows>(x, x_bytes, w, sums);
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
    for (int v = 0; v < 2; ++v) {
      const int64_t at = m * kTileRows + kLanes * v;
      if (!place.ends) _mm512_store_ps(block.part + at, sums[m][v]);
      else _mm512_store_ps(block.y + at, place.is_first ? sums[m][v] : _mm512_add_ps(_mm512_load_ps(block.y + at), sums[m][v]));
    }
}

/// The same with nothing packed: most blocks, and one function for all packers.
template <int kRows, bool kPackedRows>
static HWY_NOINLINE void multiply_plain_block(const Block& block, const uint32_t* w, int64_t num_pairs, Place place) {
  multiply_block<kRows, kPackedRows>(block, w, num_pairs, place, NoPacker());
}

/// All rows of x times a packed chunk of a tile of `cols` columns. `packers`: two, where half of the next chunk is packed by the first block, the other half by the second; null: none is.
template <class Packer>
HWY_INLINE void multiply_chunk(const Rows& x, int64_t cols, int64_t first, int64_t count, const PackedChunk& chunk, const Packer* packers, Scratch& scratch,
                               float* y) {
  const int64_t of_part = sum_columns(cols), end = first + count;
  const Place place{first % of_part == 0, end % of_part == 0 || end == cols, first < of_part};
  const RowBlocks blocks(x.count, cols);
  for (int64_t b = 0, row = 0; b < blocks.count(); ++b) {
    const int64_t end_row = blocks.first(b + 1), at = row * kTileRows;
    const Block block{x.data + 2 * (x.packed ? first * x.count + row * count : row * cols + first), 2 * cols, scratch.part + at, y + at};
    with_constant<kBlockRows, kBlockRows / 2>(end_row - row, [&](auto rows) {
      const auto run = [&](auto packed_rows) {
        constexpr int kRows = decltype(rows)::value;
        constexpr bool kPackedRows = decltype(packed_rows)::value;
        if (packers != nullptr && b < 2) multiply_block<kRows, kPackedRows>(block, chunk.w, count / 2, place, packers[b]);
        else multiply_plain_block<kRows, kPackedRows>(block, chunk.w, count / 2, place);
      };
      if (x.packed) run(std::true_type());
      else run(std::false_type());
    });
    row = end_row;
  }
}

}  // namespace flexgen::dot_product
HWY_POP_ATTRIBUTES
