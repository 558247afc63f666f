#include "backend/cpu/dot_product.h"

#include <cstring>

#include "base/error.h"

// SSE-only machines get the portable fallback, as in vector_rows.cc.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/dot_product.cc"
// foreach_target.h comes before all that is compiled once a target.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include "backend/cpu/simd_inl.h"
#include "backend/cpu/transpose_inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

using dot_product::kColumnGrain;
using dot_product::kTileRows;

#if HWY_TARGET != HWY_AVX2 && HWY_TARGET != HWY_AVX3

void PackPairs(const std::byte* rows, int64_t cols, int64_t num_rows, int64_t first, int64_t count, const std::byte*, int64_t, dot_product::PackedChunk* chunk) {
  for (int64_t pair = 0; pair < count / 2; ++pair)
    for (int64_t r = 0; r < kTileRows; ++r) {
      uint32_t word = 0;
      if (r < num_rows) std::memcpy(&word, rows + size_bytes(DType::kBF16, r * cols + first + 2 * pair), sizeof(word));
      chunk->w[pair * kTileRows + r] = word;
    }
}

#else

void PackPairs(const std::byte* rows, int64_t cols, int64_t num_rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes, dot_product::PackedChunk* chunk) {
  alignas(32) static constexpr uint8_t kNothing[32] = {};
  const Eight d;
  int64_t fetched = 0;
  for (int64_t column = 0; column < count; column += kColumnGrain) {
    // A share at a time, as memory takes only so many requests at once.
    for (const int64_t end = next_bytes * (column + kColumnGrain) / count; fetched < end; fetched += 64) _mm_prefetch(next + fetched, _MM_HINT_T1);
    for (int64_t part = 0; part < kTileRows; part += 8) {
      EightVector v[8];
#pragma GCC unroll 8
      for (int64_t i = 0; i < 8; ++i)
        v[i] = words_at(part + i < num_rows ? reinterpret_cast<const uint8_t*>(rows + size_bytes(DType::kBF16, (part + i) * cols + first + column)) : kNothing);
      transpose(v);
#pragma GCC unroll 8
      for (int64_t i = 0; i < 8; ++i) hn::Store(v[i], d, chunk->w + (column / 2 + i) * kTileRows + part);
    }
  }
}

#endif  // the kind of machine

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace flexgen {
HWY_EXPORT(PackPairs);

namespace dot_product {

void pack_chunk(const std::byte* rows, int64_t cols, int64_t num_rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes, PackedChunk* chunk) {
  HWY_DYNAMIC_DISPATCH(PackPairs)(rows, cols, num_rows, first, count, next, next_bytes, chunk);
}

}  // namespace dot_product
}  // namespace flexgen

namespace flexgen::dot_product {

#if !defined(__x86_64__)
bool is_supported() { return false; }
void multiply(const std::byte*, int64_t, int64_t, const PackedChunk&, int64_t, bool, float*) { FLEXGEN_CHECK(false, "no bf16 dot products on this kind of machine"); }
#else

bool is_supported() {
  static const bool machine = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                              __builtin_cpu_supports("avx512bf16");
  return machine;
}

}  // namespace flexgen::dot_product

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
#endif  // HWY_ONCE
