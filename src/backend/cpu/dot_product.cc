#include "backend/cpu/dot_product.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "base/units.h"
#include "tensor/dtype.h"

namespace flexgen::dot_product {

static_assert(sum_columns(1) % kMaxChunk == 0 && sum_columns(4096) % kMaxChunk == 0);

#if !defined(__x86_64__)

namespace {
[[noreturn]] void refuse() { FLEXGEN_CHECK(false, "no bf16 dot products on this kind of machine"); }
}  // namespace
bool is_supported() { return false; }
void pack_rows(const std::byte*, int64_t, int64_t, int64_t, std::byte*) { refuse(); }
void pack_chunk(const ProductTile&, int64_t, int64_t, PackedChunk*) { refuse(); }
void multiply(const Rows&, const ProductTile&, Scratch&, float*) { refuse(); }

#else

bool is_supported() {
  static const bool machine = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
  return machine;
}

#endif

}  // namespace flexgen::dot_product

#if defined(__x86_64__)
#include "backend/cpu/dot_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen::dot_product {
namespace {

constexpr int64_t kStep = 2 * kLanes;  ///< columns that are turned at once

/// Columns of a tile that are asked of memory together: so many that each row gives some KiB at a time, and so few that this strip and the next have room in the second cache.
constexpr int64_t kMaxStrip = 4096;

/// Pairs of columns [column, column + 2 * num_pairs), at most 16, of 16 rows from `row` on: v[i] is pair i of each row. What is not there is zero.
HWY_INLINE void read_pairs(const ProductTile& tile, int64_t row, int64_t column, int64_t num_pairs, __m512i (&v)[16]) {
  const std::byte* at = tile.rows + 2 * (row * tile.cols + column);
  if (num_pairs == kLanes && row + kLanes <= tile.num_rows) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) v[i] = _mm512_loadu_si512(at + 2 * i * tile.cols);
  } else {
    const auto there = static_cast<__mmask16>((1u << num_pairs) - 1);
    for (int i = 0; i < 16; ++i) v[i] = row + i < tile.num_rows ? _mm512_maskz_loadu_epi32(there, at + 2 * i * tile.cols) : _mm512_setzero_si512();
  }
  transpose(v);
}

/// What is asked for while a tile is read from the first column to the last: its own next columns where they are many, the tile that comes next, or what lies there.
class Strips {
 public:
  explicit Strips(const ProductTile& tile) : tile_(tile), columns_(tile.cols) {
    if (tile.in_memory && tile.cols > kMaxStrip) columns_ = round_up(ceil_div(tile.cols, ceil_div(tile.cols, kMaxStrip)), kMaxChunk);
  }
  bool begins_at(int64_t column) const { return column % columns_ == 0; }
  /// What to ask for while the strip from `column` on is read.
  Fetch after(int64_t column) const {
    const int64_t next = column + columns_, row = 2 * tile_.cols;
    if (next < tile_.cols) return {tile_.rows + 2 * next, 2 * std::min(columns_, tile_.cols - next), tile_.num_rows, row};
    if (columns_ < tile_.cols && tile_.next_is_alike) return {tile_.next, 2 * columns_, tile_.next_bytes / row, row};
    return {tile_.next, tile_.next_bytes, 1, 0};
  }

 private:
  ProductTile tile_;
  int64_t columns_;
};

/// Packs whole steps of 16 rows of a chunk, an eighth of a step at a time, so that it fits between products.
struct HalfPacker {
  const std::byte* from;  ///< the first row's first column
  int64_t row_bytes;
  int64_t num_steps;
  uint32_t* to;  ///< their place in the chunk's first pair
  uint32_t (*turned)[16];
  Fetch* fetch;

  /// Eighths 0 to 3 turn four rows each, 4 to 7 join their columns.
  HWY_INLINE void turn(int64_t step, int64_t group) const {
    const std::byte* const at = from + 4 * group * row_bytes + 2 * step * kStep;
    fetch->four();
    __m512i r0 = _mm512_loadu_si512(at), r1 = _mm512_loadu_si512(at + row_bytes), r2 = _mm512_loadu_si512(at + 2 * row_bytes),
            r3 = _mm512_loadu_si512(at + 3 * row_bytes);
    turn_four(r0, r1, r2, r3);
    uint32_t(*const out)[16] = turned + 4 * group;
    _mm512_store_si512(out[0], r0);
    _mm512_store_si512(out[1], r1);
    _mm512_store_si512(out[2], r2);
    _mm512_store_si512(out[3], r3);
  }
  HWY_INLINE void join(int64_t step, int64_t column) const {
    __m512i t0 = _mm512_load_si512(turned[column]), t1 = _mm512_load_si512(turned[4 + column]), t2 = _mm512_load_si512(turned[8 + column]),
            t3 = _mm512_load_si512(turned[12 + column]);
    join_four(t0, t1, t2, t3);
    uint32_t* const out = to + (step * kLanes + column) * kTileRows;
    _mm512_store_si512(out, t0);
    _mm512_store_si512(out + 4 * kTileRows, t1);
    _mm512_store_si512(out + 8 * kTileRows, t2);
    _mm512_store_si512(out + 12 * kTileRows, t3);
  }
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

/// A block of kRows rows times a chunk. With kPacks half of the next one, which is no longer, is packed meanwhile: the two use different parts of the core.
template <int kRows, bool kPackedRows, bool kPacks>
HWY_INLINE void multiply_block(const Block& block, const uint32_t* w, int64_t num_pairs, Place place, const HalfPacker& packer) {
  constexpr int64_t kXStep = kPackedRows ? 4 * kRows : 4;
  const std::byte* x = block.x;
  const int64_t x_bytes = block.x_bytes;
  __m512 sums[kRows][2];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
    for (int v = 0; v < 2; ++v) sums[m][v] = place.begins ? _mm512_setzero_ps() : _mm512_load_ps(block.part + m * kTileRows + kLanes * v);
  if constexpr (kPacks) {
    const auto two_pairs = [&] {
      add_pair<kRows, kPackedRows>(x, x_bytes, w, sums);
      add_pair<kRows, kPackedRows>(x + kXStep, x_bytes, w + kTileRows, sums);
      x += 2 * kXStep, w += 2 * kTileRows;
    };
    for (int64_t step = 0; step < packer.num_steps; ++step) {
      for (int64_t i = 0; i < 4; ++i) packer.turn(step, i), two_pairs();
      for (int64_t i = 0; i < 4; ++i) packer.join(step, i), two_pairs();
    }
    num_pairs -= packer.num_steps * kLanes;
  }
  for (; num_pairs > 0; --num_pairs, x += kXStep, w += kTileRows) add_pair<kRows, kPackedRows>(x, x_bytes, w, sums);
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
    for (int v = 0; v < 2; ++v) {
      const int64_t at = m * kTileRows + kLanes * v;
      if (!place.ends) _mm512_store_ps(block.part + at, sums[m][v]);
      else _mm512_store_ps(block.y + at, place.is_first ? sums[m][v] : _mm512_add_ps(_mm512_load_ps(block.y + at), sums[m][v]));
    }
}

/// kRows packed rows of x times the tile, half of its rows after the other.
template <int kRows>
HWY_INLINE void multiply_tile(const std::byte* x, const ProductTile& tile, float* y) {
  const int64_t cols = tile.cols, of_part = sum_columns(cols), steps = (cols + kStep - 1) / kStep;
  EvenFetch fetch(tile);
  for (int64_t half = 0; half < 2; ++half, y += kLanes) {
    for (int64_t begin = 0; begin < cols; begin += of_part) {
      const int64_t end = std::min(cols, begin + of_part);
      __m512 sums[kRows];
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) sums[m] = _mm512_setzero_ps();
      for (int64_t column = begin; column < end; column += kStep) {
        fetch.reach(half * steps + column / kStep + 1, 2 * steps);
        const int64_t num_pairs = std::min<int64_t>(kLanes, (end - column) / 2);
        __m512i v[16];
        read_pairs(tile, half * kLanes, column, num_pairs, v);
        const std::byte* const at = x + 2 * column * kRows;
        if (num_pairs == kLanes) {
#pragma GCC unroll 16
          for (int i = 0; i < 16; ++i)
#pragma GCC unroll 16
            for (int m = 0; m < kRows; ++m) sums[m] = _mm512_dpbf16_ps(sums[m], pair_of_all(at + 4 * (i * kRows + m)), reinterpret_cast<__m512bh>(v[i]));
        } else {
          alignas(64) uint32_t w[16][kLanes];
          for (int i = 0; i < 16; ++i) _mm512_store_si512(w[i], v[i]);
          for (int64_t i = 0; i < num_pairs; ++i)
            for (int m = 0; m < kRows; ++m)
              sums[m] = _mm512_dpbf16_ps(sums[m], pair_of_all(at + 4 * (i * kRows + m)), reinterpret_cast<__m512bh>(_mm512_load_si512(w[i])));
        }
      }
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) _mm512_store_ps(y + m * kTileRows, begin == 0 ? sums[m] : _mm512_add_ps(_mm512_load_ps(y + m * kTileRows), sums[m]));
    }
  }
}

void multiply_few(const Rows& x, const ProductTile& tile, float* y) {
  with_constant<kFewRows>(x.count, [&](auto rows) { multiply_tile<rows>(x.data, tile, y); });
}

void pack_columns(const ProductTile& tile, int64_t first, int64_t count, Fetch& fetch, PackedChunk* chunk) {
  for (int64_t column = 0; column < count; column += kStep) {
    const int64_t num_pairs = std::min<int64_t>(kLanes, (count - column) / 2);
    for (int64_t row = 0; row < kTileRows; row += kLanes) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) fetch.four();
      __m512i v[16];
      read_pairs(tile, row, first + column, num_pairs, v);
      uint32_t* const w = chunk->w + column / 2 * kTileRows + row;
      if (num_pairs == kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) _mm512_store_si512(w + i * kTileRows, v[i]);
      } else {
        for (int64_t i = 0; i < num_pairs; ++i) _mm512_store_si512(w + i * kTileRows, v[i]);
      }
    }
  }
}

/// All rows of x times a packed chunk. `packer`: where half of the next chunk is packed by the first block, the other half by the second; null: none is.
void multiply_chunk(const Rows& x, const ProductTile& tile, int64_t first, int64_t count, const PackedChunk& chunk, const HalfPacker* packer, Scratch& scratch,
                    float* y) {
  const int64_t cols = tile.cols, of_part = sum_columns(cols), end = first + count;
  const Place place{first % of_part == 0, end % of_part == 0 || end == cols, first < of_part};
  const RowBlocks blocks(x.count, cols);
  for (int64_t b = 0, row = 0; b < blocks.count(); ++b) {
    const int64_t end_row = blocks.first(b + 1), at = row * kTileRows;
    const Block block{x.data + 2 * (x.packed ? first * x.count + row * count : row * cols + first), 2 * cols, scratch.part + at, y + at};
    with_constant<kBlockRows>(end_row - row, [&](auto rows) {
      const auto run = [&](auto packed_rows) {
        constexpr int kRows = decltype(rows)::value;
        constexpr bool kPackedRows = decltype(packed_rows)::value;
        if (packer != nullptr && b < 2) multiply_block<kRows, kPackedRows, true>(block, chunk.w, count / 2, place, packer[b]);
        else multiply_block<kRows, kPackedRows, false>(block, chunk.w, count / 2, place, {});
      };
      if (x.packed) run(std::true_type());
      else run(std::false_type());
    });
    row = end_row;
  }
}

}  // namespace

void pack_rows(const std::byte* x, int64_t num_rows, int64_t cols, int64_t block_pair, std::byte* packed) {
  const RowBlocks blocks(num_rows, cols);
  const int64_t begin = blocks.first(2 * block_pair), middle = blocks.first(2 * block_pair + 1), end = blocks.first(2 * block_pair + 2), above = middle - begin,
                below = end - middle;
  const auto mask_above = static_cast<__mmask16>((1u << above) - 1), mask_below = static_cast<__mmask16>(((1u << below) - 1) << above);
  for (int64_t first = 0; first < cols; first += kMaxChunk) {
    const int64_t count = std::min(kMaxChunk, cols - first);
    std::byte* const chunk = packed + 2 * first * num_rows;
    std::byte *to = chunk + 2 * begin * count, *to_below = chunk + 2 * middle * count - 4 * above;  // whose lanes begin where those above end
    for (int64_t column = 0; column < count; column += kStep) {
      const int64_t num_pairs = std::min<int64_t>(kLanes, (count - column) / 2);
      __m512i v[16];
      read_pairs({x, cols, num_rows}, begin, first + column, num_pairs, v);
      for (int64_t i = 0; i < num_pairs; ++i, to += 4 * above, to_below += 4 * below) {
        _mm512_mask_storeu_epi32(to, mask_above, v[i]);
        if (below > 0) _mm512_mask_storeu_epi32(to_below, mask_below, v[i]);
      }
    }
  }
}

void pack_chunk(const ProductTile& tile, int64_t first, int64_t count, PackedChunk* chunk) {
  Fetch fetch;
  pack_columns(tile, first, count, fetch, chunk);
}

void multiply(const Rows& x, const ProductTile& tile, Scratch& scratch, float* y) {
  if (uses_tile_as_read(x.count, tile.cols)) return multiply_few(x, tile, y);
  const int64_t cols = tile.cols, row_bytes = 2 * cols;
  const Strips strips(tile);
  Fetch fetch;
  PackedChunk *now = &scratch.chunks[0], *next = &scratch.chunks[1];
  bool is_packed = false;
  for (int64_t first = 0; first < cols; first += kMaxChunk) {
    const int64_t count = std::min(kMaxChunk, cols - first), end = first + count;
    if (strips.begins_at(first)) fetch = strips.after(first);
    if (!is_packed) pack_columns(tile, first, count, fetch, now);
    const int64_t next_count = std::min(kMaxChunk, cols - end);
    is_packed = tile.num_rows == kTileRows && next_count > 0 && next_count % kStep == 0;
    const std::byte* const from = tile.rows + 2 * end;
    const HalfPacker packer[2] = {{from, row_bytes, next_count / kStep, next->w, scratch.turned, &fetch},
                                  {from + kLanes * row_bytes, row_bytes, next_count / kStep, next->w + kLanes, scratch.turned, &fetch}};
    multiply_chunk(x, tile, first, count, *now, is_packed ? packer : nullptr, scratch, y);
    std::swap(now, next);
  }
}

}  // namespace flexgen::dot_product
HWY_POP_ATTRIBUTES
#endif
