#include "backend/cpu/dot_product.h"

#include <cstring>
#include <hwy/base.h>

#include "base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace flexgen::dot_product {

#if !defined(__x86_64__)
bool is_supported() { return false; }
void pack_chunk(const std::byte*, int64_t, int64_t, int64_t, int64_t, const std::byte*, int64_t, PackedChunk*) { FLEXGEN_CHECK(false, "no bf16 dot products on this kind of machine"); }
void multiply(const std::byte*, int64_t, int64_t, const PackedChunk&, int64_t, bool, float*) { FLEXGEN_CHECK(false, "no bf16 dot products on this kind of machine"); }
#else

bool is_supported() {
  static const bool machine = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                              __builtin_cpu_supports("avx512bf16");
  return machine;
}

}  // namespace flexgen::dot_product

HWY_PUSH_ATTRIBUTES("avx2")
namespace flexgen::dot_product {
namespace {

/// v[i] had 8 words of row i; afterwards it has word i of 8 rows.
inline __attribute__((always_inline)) void transpose_words(__m256i (&v)[8]) {
  __m256i t[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {  // each 128 bits by themselves
    const __m256i a = _mm256_unpacklo_epi32(v[i], v[i + 1]), b = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    const __m256i c = _mm256_unpacklo_epi32(v[i + 2], v[i + 3]), d = _mm256_unpackhi_epi32(v[i + 2], v[i + 3]);
    t[i] = _mm256_unpacklo_epi64(a, c);
    t[i + 1] = _mm256_unpackhi_epi64(a, c);
    t[i + 2] = _mm256_unpacklo_epi64(b, d);
    t[i + 3] = _mm256_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2x128_si256(t[i], t[4 + i], 0x20);
    v[4 + i] = _mm256_permute2x128_si256(t[i], t[4 + i], 0x31);
  }
}

}  // namespace

void pack_chunk(const std::byte* rows, int64_t cols, int64_t num_rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes, PackedChunk* chunk) {
  const int64_t stride = size_bytes(DType::kBF16, cols);
  rows += size_bytes(DType::kBF16, first);
  int64_t fetched = 0;
  for (int64_t column = 0; column < count; column += kColumnGrain) {
    // A share at a time, as memory takes only so many requests at once.
    for (const int64_t end = next_bytes * (column + kColumnGrain) / count; fetched < end; fetched += 64) _mm_prefetch(next + fetched, _MM_HINT_T1);
    for (int64_t part = 0; part < kTileRows; part += 8) {
      __m256i v[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i)
        v[i] = part + i < num_rows ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + (part + i) * stride + 2 * column)) : _mm256_setzero_si256();
      transpose_words(v);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) _mm256_store_si256(reinterpret_cast<__m256i*>(chunk->w + (column / 2 + i) * kTileRows + part), v[i]);
    }
  }
}

}  // namespace flexgen::dot_product
HWY_POP_ATTRIBUTES

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen::dot_product {
namespace {

template <int kRows>
inline __attribute__((always_inline)) void multiply_rows(const std::byte* x, int64_t x_bytes, const uint32_t* w, int64_t num_pairs, bool is_first, float* y) {
  __m512 sums[kRows][2];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
    for (int v = 0; v < 2; ++v) sums[m][v] = is_first ? _mm512_setzero_ps() : _mm512_load_ps(y + m * kTileRows + 16 * v);
  for (int64_t pair = 0; pair < num_pairs; ++pair, w += kTileRows) {
    const __m512i first = _mm512_load_si512(w), second = _mm512_load_si512(w + 16);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      int32_t columns;
      std::memcpy(&columns, x + m * x_bytes + 4 * pair, sizeof(columns));
      const auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(columns));
      sums[m][0] = _mm512_dpbf16_ps(sums[m][0], both, reinterpret_cast<__m512bh>(first));
      sums[m][1] = _mm512_dpbf16_ps(sums[m][1], both, reinterpret_cast<__m512bh>(second));
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
    for (int v = 0; v < 2; ++v) _mm512_store_ps(y + m * kTileRows + 16 * v, sums[m][v]);
}

constexpr int kRowsAtOnce = 8;

template <int kRows>
inline __attribute__((always_inline)) void multiply_last(const std::byte* x, int64_t x_bytes, int64_t num_rows, const uint32_t* w, int64_t num_pairs, bool is_first, float* y) {
  if constexpr (kRows > 0) {
    if (num_rows == kRows) multiply_rows<kRows>(x, x_bytes, w, num_pairs, is_first, y);
    else multiply_last<kRows - 1>(x, x_bytes, num_rows, w, num_pairs, is_first, y);
  }
}

}  // namespace

void multiply(const std::byte* x, int64_t x_stride, int64_t num_rows, const PackedChunk& chunk, int64_t count, bool is_first, float* y) {
  const int64_t x_bytes = size_bytes(DType::kBF16, x_stride);
  for (int64_t row = 0; row < num_rows; row += kRowsAtOnce, x += kRowsAtOnce * x_bytes, y += kRowsAtOnce * kTileRows) {
    if (num_rows - row >= kRowsAtOnce) multiply_rows<kRowsAtOnce>(x, x_bytes, chunk.w, count / 2, is_first, y);
    else multiply_last<kRowsAtOnce - 1>(x, x_bytes, num_rows - row, chunk.w, count / 2, is_first, y);
  }
}

#endif

}  // namespace flexgen::dot_product
#if defined(__x86_64__)
HWY_POP_ATTRIBUTES
#endif
