#include "backend/cpu/dot_product.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "base/error.h"
#include "tensor/dtype.h"

namespace flexgen::dot_product {

static_assert(sum_columns(1) % kMaxChunk == 0 && sum_columns(4096) % kMaxChunk == 0);

#if !defined(__x86_64__)

namespace {
[[noreturn]] void refuse() { FLEXGEN_CHECK(false, "no bf16 dot products on this kind of machine"); }
}  // namespace
bool is_supported() { return false; }
void pack_rows(const std::byte*, int64_t, int64_t, std::byte*) { refuse(); }
void pack_chunk(const ProductTile&, int64_t, int64_t, PackedChunk*) { refuse(); }
void multiply(const std::byte*, int64_t, int64_t, const PackedChunk&, int64_t, Place, float*, float*) { refuse(); }
void multiply_few(const std::byte*, int64_t, const ProductTile&, float*) { refuse(); }

#else

bool is_supported() {
  static const bool machine = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                              __builtin_cpu_supports("avx512bf16");
  return machine;
}

#endif

}  // namespace flexgen::dot_product

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the unused operands of its own intrinsics for uninitialized variables (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <hwy/base.h>
#include <immintrin.h>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen::dot_product {
namespace {

constexpr int64_t kLanes = 16;         ///< rows of W in a vector
constexpr int64_t kStep = 2 * kLanes;  ///< columns that are turned at once
constexpr int kRowsAtOnce = 8;         ///< rows of x that go through a packed chunk together

/// v[i] had 16 words of row i; afterwards it has word i of 16 rows.
HWY_INLINE void transpose(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // each 128 bits by themselves
    const __m512i a = _mm512_unpacklo_epi32(v[i], v[i + 1]), b = _mm512_unpacklo_epi32(v[i + 2], v[i + 3]);
    const __m512i c = _mm512_unpackhi_epi32(v[i], v[i + 1]), e = _mm512_unpackhi_epi32(v[i + 2], v[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, b);
    t[i + 1] = _mm512_unpackhi_epi64(a, b);
    t[i + 2] = _mm512_unpacklo_epi64(c, e);
    t[i + 3] = _mm512_unpackhi_epi64(c, e);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {  // t[4g + j]: words j, 4 + j, 8 + j, 12 + j of rows 4g to 4g + 3
    const __m512i even = _mm512_shuffle_i32x4(t[j], t[4 + j], 0x88), odd = _mm512_shuffle_i32x4(t[j], t[4 + j], 0xdd);
    const __m512i even_below = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0x88), odd_below = _mm512_shuffle_i32x4(t[8 + j], t[12 + j], 0xdd);
    v[j] = _mm512_shuffle_i32x4(even, even_below, 0x88);
    v[4 + j] = _mm512_shuffle_i32x4(odd, odd_below, 0x88);
    v[8 + j] = _mm512_shuffle_i32x4(even, even_below, 0xdd);
    v[12 + j] = _mm512_shuffle_i32x4(odd, odd_below, 0xdd);
  }
}

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

/// Asks memory for the tile's next bytes, a share at a time, as it takes only so many requests at once, and in the order in which they lie, as it is slow at anything else.
class Fetch {
 public:
  explicit Fetch(const ProductTile& tile) : next_(tile.next), bytes_(tile.next == nullptr ? 0 : tile.next_bytes) {}
  HWY_INLINE void reach(int64_t step, int64_t num_steps) {
    for (const int64_t end = bytes_ * step / num_steps; fetched_ < end; fetched_ += 64) _mm_prefetch(next_ + fetched_, _MM_HINT_T1);
  }

 private:
  const std::byte* next_;
  int64_t bytes_, fetched_ = 0;
};

HWY_INLINE __m512bh pair_of_all(const std::byte* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof(pair));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

template <int kRows>
HWY_INLINE void multiply_rows(const std::byte* x, int64_t x_bytes, const uint32_t* w, int64_t num_pairs, Place place, float* part, float* y) {
  __m512 sums[kRows][2];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
    for (int v = 0; v < 2; ++v) sums[m][v] = place.begins ? _mm512_setzero_ps() : _mm512_load_ps(part + m * kTileRows + kLanes * v);
  for (int64_t pair = 0; pair < num_pairs; ++pair, w += kTileRows) {
    const __m512i first = _mm512_load_si512(w), second = _mm512_load_si512(w + kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const __m512bh both = pair_of_all(x + m * x_bytes + 4 * pair);
      sums[m][0] = _mm512_dpbf16_ps(sums[m][0], both, reinterpret_cast<__m512bh>(first));
      sums[m][1] = _mm512_dpbf16_ps(sums[m][1], both, reinterpret_cast<__m512bh>(second));
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
    for (int v = 0; v < 2; ++v) {
      const int64_t at = m * kTileRows + kLanes * v;
      if (!place.ends) _mm512_store_ps(part + at, sums[m][v]);
      else _mm512_store_ps(y + at, place.is_first ? sums[m][v] : _mm512_add_ps(_mm512_load_ps(y + at), sums[m][v]));
    }
}

/// kRows packed rows of x times the tile, half of its rows after the other.
template <int kRows>
HWY_INLINE void multiply_tile(const std::byte* x, const ProductTile& tile, float* y) {
  const int64_t cols = tile.cols, of_part = sum_columns(cols), steps = (cols + kStep - 1) / kStep;
  Fetch fetch(tile);
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
            for (int m = 0; m < kRows; ++m) sums[m] = _mm512_dpbf16_ps(sums[m], pair_of_all(at + 4 * (i * kRows + m)), reinterpret_cast<__m512bh>(_mm512_load_si512(w[i])));
        }
      }
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) _mm512_store_ps(y + m * kTileRows, begin == 0 ? sums[m] : _mm512_add_ps(_mm512_load_ps(y + m * kTileRows), sums[m]));
    }
  }
}

/// Calls work with the number of rows as a constant: num_rows in [1, kMost].
template <int kMost, typename Work>
HWY_INLINE void with_constant(int64_t num_rows, const Work& work) {
  if constexpr (kMost > 0) {
    if (num_rows == kMost) work(std::integral_constant<int, kMost>());
    else with_constant<kMost - 1>(num_rows, work);
  }
}

}  // namespace

void pack_rows(const std::byte* x, int64_t num_rows, int64_t cols, std::byte* packed) {
  const auto there = static_cast<__mmask16>((1u << num_rows) - 1);
  for (int64_t column = 0; column < cols; column += kStep) {
    const int64_t num_pairs = std::min<int64_t>(kLanes, (cols - column) / 2);
    __m512i v[16];
    read_pairs({x, cols, num_rows, nullptr, 0}, 0, column, num_pairs, v);
    for (int64_t i = 0; i < num_pairs; ++i, packed += 4 * num_rows) _mm512_mask_storeu_epi32(packed, there, v[i]);
  }
}

void pack_chunk(const ProductTile& tile, int64_t first, int64_t count, PackedChunk* chunk) {
  Fetch fetch(tile);
  for (int64_t column = 0; column < count; column += kStep) {
    fetch.reach(column + kStep, count);
    const int64_t num_pairs = std::min<int64_t>(kLanes, (count - column) / 2);
    for (int64_t row = 0; row < kTileRows; row += kLanes) {
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

void multiply(const std::byte* x, int64_t x_stride, int64_t num_rows, const PackedChunk& chunk, int64_t count, Place place, float* part, float* y) {
  const int64_t x_bytes = size_bytes(DType::kBF16, x_stride);
  for (int64_t row = 0; row < num_rows; row += kRowsAtOnce, x += kRowsAtOnce * x_bytes, part += kRowsAtOnce * kTileRows, y += kRowsAtOnce * kTileRows)
    with_constant<kRowsAtOnce>(std::min<int64_t>(kRowsAtOnce, num_rows - row), [&](auto rows) { multiply_rows<rows>(x, x_bytes, chunk.w, count / 2, place, part, y); });
}

void multiply_few(const std::byte* x, int64_t num_rows, const ProductTile& tile, float* y) {
  with_constant<kFewRows>(num_rows, [&](auto rows) { multiply_tile<rows>(x, tile, y); });
}

}  // namespace flexgen::dot_product
HWY_POP_ATTRIBUTES
#endif
