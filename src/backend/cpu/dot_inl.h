#pragma once
// What products by AVX512-BF16's dot products of two have in common: sixteen rows turned into columns, what is asked of memory meanwhile. For .cc files that are compiled for it, with <immintrin.h>.

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the unused operands of its own intrinsics for uninitialized variables (its bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <hwy/base.h>
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backend/cpu/product_tile.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen::dot_product {

inline constexpr int64_t kLanes = 16;  ///< rows of W in a vector

/// Of four rows, in each 128 bits, four words become four columns.
HWY_INLINE void turn_four(__m512i& r0, __m512i& r1, __m512i& r2, __m512i& r3) {
  const __m512i a = _mm512_unpacklo_epi32(r0, r1), b = _mm512_unpacklo_epi32(r2, r3);
  const __m512i c = _mm512_unpackhi_epi32(r0, r1), e = _mm512_unpackhi_epi32(r2, r3);
  r0 = _mm512_unpacklo_epi64(a, b);
  r1 = _mm512_unpackhi_epi64(a, b);
  r2 = _mm512_unpacklo_epi64(c, e);
  r3 = _mm512_unpackhi_epi64(c, e);
}

/// Word j, 4 + j, 8 + j and 12 + j of four rows each become one of these words of 16 rows each.
HWY_INLINE void join_four(__m512i& t0, __m512i& t1, __m512i& t2, __m512i& t3) {
  const __m512i even = _mm512_shuffle_i32x4(t0, t1, 0x88), odd = _mm512_shuffle_i32x4(t0, t1, 0xdd);
  const __m512i even_below = _mm512_shuffle_i32x4(t2, t3, 0x88), odd_below = _mm512_shuffle_i32x4(t2, t3, 0xdd);
  t0 = _mm512_shuffle_i32x4(even, even_below, 0x88);
  t1 = _mm512_shuffle_i32x4(odd, odd_below, 0x88);
  t2 = _mm512_shuffle_i32x4(even, even_below, 0xdd);
  t3 = _mm512_shuffle_i32x4(odd, odd_below, 0xdd);
}

/// v[i] had 16 words of row i; afterwards it has word i of 16 rows.
HWY_INLINE void transpose(__m512i (&v)[16]) {
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) turn_four(v[i], v[i + 1], v[i + 2], v[i + 3]);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) join_four(v[j], v[4 + j], v[8 + j], v[12 + j]);
}

/// Asks memory for the bytes that come next, evenly over the steps of a tile that is used as it is read.
class EvenFetch {
 public:
  explicit EvenFetch(const ProductTile& tile) : next_(tile.next), bytes_(tile.next == nullptr ? 0 : tile.next_bytes) {}
  HWY_INLINE void reach(int64_t step, int64_t num_steps) {
    for (const int64_t end = bytes_ * step / num_steps; fetched_ < end; fetched_ += 64) _mm_prefetch(next_ + fetched_, _MM_HINT_T1);
  }

 private:
  const std::byte* next_;
  int64_t bytes_, fetched_ = 0;
};

/// Asks memory for `num_rows` stretches of `bytes`, `stride` apart, a line or four at a time: as many as are read meanwhile, as memory takes only so many requests at once; and in the order in which they lie, as it
/// is slow at anything else.
class Fetch {
 public:
  Fetch() = default;
  Fetch(const std::byte* data, int64_t bytes, int64_t num_rows, int64_t stride)
      : at_(data), end_(data + bytes), bytes_(bytes), stride_(stride), rows_left_(data == nullptr || bytes == 0 ? 0 : num_rows) {}

  HWY_INLINE void one() { ask<1>(); }
  HWY_INLINE void four() { ask<4>(); }

 private:
  template <int kLines>
  HWY_INLINE void ask() {
    if (rows_left_ == 0) return;
#pragma GCC unroll 4
    for (int i = 0; i < kLines; ++i) _mm_prefetch(at_ + 64 * i, _MM_HINT_T1);
    at_ += 64 * kLines;
    if (at_ < end_) return;
    --rows_left_;
    end_ += stride_;
    at_ = end_ - bytes_;
  }

  const std::byte *at_ = nullptr, *end_ = nullptr;
  int64_t bytes_ = 0, stride_ = 0, rows_left_ = 0;
};

/// Whether all bf16 of two in a lane, zeros aside, are between 2^-100 and 2^101. Then so are steps, and what codes mean is zero or more than 2^-125, which no instruction takes for zero.
HWY_INLINE bool are_normal(__m512i pairs) {
  constexpr int kBias = 127, kMost = 100;
  const __m512i magnitude = _mm512_and_si512(pairs, _mm512_set1_epi16(0x7fff));
  const __m512i above = _mm512_sub_epi16(magnitude, _mm512_set1_epi16((kBias - kMost) << 7));
  const __mmask32 beyond = _mm512_cmpge_epu16_mask(above, _mm512_set1_epi16((2 * kMost + 1) << 7));
  return _mm512_mask_test_epi16_mask(beyond, magnitude, magnitude) == 0;
}

/// A pair of columns of a row of x, in each lane.
HWY_INLINE __m512bh pair_of_all(const std::byte* x) {
  int32_t pair;
  std::memcpy(&pair, x, sizeof(pair));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

/// Calls work with the number of rows as a constant: num_rows in [kLeast, kMost].
template <int kMost, int kLeast = 1, typename Work>
HWY_INLINE void with_constant(int64_t num_rows, const Work& work) {
  if constexpr (kMost >= kLeast) {
    if (num_rows == kMost) work(std::integral_constant<int, kMost>());
    else with_constant<kMost - 1, kLeast>(num_rows, work);
  }
}

}  // namespace flexgen::dot_product
HWY_POP_ATTRIBUTES
