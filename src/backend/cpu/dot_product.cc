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
#define FLEXGEN_DOT_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
#include "backend/cpu/dot_tile_inl.h"

HWY_PUSH_ATTRIBUTES(FLEXGEN_DOT_TARGET)
namespace flexgen::dot_product {
namespace {

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

/// Packs whole steps of 16 rows of a chunk.
struct HalfPacker {
  const std::byte* from;  ///< the first row's first column
  int64_t row_bytes;
  int64_t num_steps;
  uint32_t* to;  ///< their place in the chunk's first pair
  uint32_t (*turned)[16];
  Fetch* fetch;

  int64_t num_pieces() const { return num_steps * kPiecesOfStep; }
  /// Of each step four rows are turned at a time, then columns are joined.
  template <class Between>
  HWY_INLINE void run(const Between& between) const {
    for (int64_t step = 0; step < num_steps; ++step) {
      for (int64_t i = 0; i < 4; ++i) {
        fetch->four();
        turn_rows(from + 4 * i * row_bytes + 2 * step * kStep, row_bytes, turned + 4 * i);
        between();
      }
      for (int64_t i = 0; i < 4; ++i) join_columns(turned, i, to + step * kLanes * kTileRows), between();
    }
  }
};

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
    multiply_chunk(x, cols, first, count, *now, is_packed ? packer : nullptr, scratch, y);
    std::swap(now, next);
  }
}

}  // namespace flexgen::dot_product
HWY_POP_ATTRIBUTES
#endif
