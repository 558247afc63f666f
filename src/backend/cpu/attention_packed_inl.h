#pragma once
// A head's keys or values of a span, packed once for many queries: blocks of queries then need no sums across lanes and no interleaving of their own. Each query's
// sums are those that attention_dot.cc takes without packing, in the same order, bit for bit. For .cc files that are compiled for AVX512-BF16.

#include "backend/cpu/dot_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen::packed_span {

/// Queries of a head from which on packing its span takes less time than it saves.
inline constexpr int64_t kLeastQueries = 16;

HWY_INLINE __m512 dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)); }

/// keys [16, head_size] of bf16 become to [head_size / 2, 16] of words: in a vector one pair of elements of all positions. head_size % 32 == 0.
HWY_INLINE void pack_keys(const std::byte* keys, int64_t head_size, uint32_t* to) {
  for (int64_t pair = 0; pair < head_size / 2; pair += 16) {
    __m512i v[16];
#pragma GCC unroll 16
    for (int64_t i = 0; i < 16; ++i) v[i] = _mm512_loadu_si512(keys + 2 * head_size * i + 4 * pair);
    dot_product::transpose(v);
#pragma GCC unroll 16
    for (int64_t i = 0; i < 16; ++i) _mm512_store_si512(to + 16 * (pair + i), v[i]);
  }
}

/// scores[m stride + i] = q[m] . keys[i] of sixteen packed keys; q [kRows, head_size] of bf16.
template <int kRows>
HWY_INLINE void score(const uint16_t* q, const uint32_t* keys, int64_t head_size, float* scores, int64_t stride) {
  __m512 all[kRows][2];
  // A lane of the unpacked sum holds every sixteenth pair; four lanes are added first, then the fours.
#pragma GCC unroll 4
  for (int four = 0; four < 4; ++four) {
    __m512 sums[kRows][4];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sums[m][j] = _mm512_setzero_ps();
    for (int64_t pair = 4 * four; pair < head_size / 2; pair += 16) {
      __m512i key[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) key[j] = _mm512_load_si512(keys + 16 * (pair + j));
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const __m512bh query = dot_product::pair_of_all(reinterpret_cast<const std::byte*>(q + m * head_size + 2 * (pair + j)));
          sums[m][j] = dot(sums[m][j], key[j], reinterpret_cast<__m512i>(query));
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
      const __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[m][0], sums[m][2]), _mm512_add_ps(sums[m][1], sums[m][3]));
      all[m][four % 2] = four < 2 ? sum : _mm512_add_ps(all[m][four % 2], sum);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) _mm512_storeu_ps(scores + m * stride, _mm512_add_ps(all[m][0], all[m][1]));
}

/// The elements of two positions side by side, in the order of Bf16Cache::unmix().
HWY_INLINE void interleave(__m512i first, __m512i second, __m512i& low, __m512i& high) {
  low = _mm512_unpacklo_epi16(first, second);
  high = _mm512_unpackhi_epi16(first, second);
}

/// Two positions' values [2, head_size] of bf16 become to [head_size] of words, interleaved by chunks of 32 elements.
HWY_INLINE void pack_values(const std::byte* values, int64_t head_size, uint32_t* to) {
  for (int64_t i = 0; i < head_size; i += 32) {
    const __m512i first = _mm512_loadu_si512(values + 2 * i), second = _mm512_loadu_si512(values + 2 * head_size + 2 * i);
    __m512i low, high;
    interleave(first, second, low, high);
    _mm512_store_si512(to + i, low);
    _mm512_store_si512(to + i + 16, high);
  }
}

}  // namespace flexgen::packed_span
HWY_POP_ATTRIBUTES
