#include "backend/cpu/float_product.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// SSE-only machines get the portable fallback, as in vector_rows.cc.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/float_product.cc"
// foreach_target.h comes before all that is compiled once a target.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include "backend/cpu/simd_inl.h"
#include "backend/cpu/transpose_inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

using float_product::kMaxChunk;
using float_product::kTileRows;
using float_product::PackedChunk;

/// Rows of W that lie side by side in a packed chunk: two vectors.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
constexpr int64_t kPartRows = 2 * static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<float>()));
#else
constexpr int64_t kPartRows = kTileRows;
#endif

HWY_INLINE float element(const std::byte* row, DType dtype, int64_t column) {
  if (dtype == DType::kBF16) {
    uint16_t bits;
    std::memcpy(&bits, row + 2 * column, sizeof(bits));
    return float_from_bf16(bits);
  }
  float value;
  std::memcpy(&value, row + 4 * column, sizeof(value));
  return value;
}

/// Columns [begin, end) of the chunk one by one.
void pack_columns(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first, int64_t begin, int64_t end, int64_t count,
                  PackedChunk* chunk) {
  for (int64_t r = 0; r < kTileRows; ++r) {
    const std::byte* row = rows + r * row_bytes(dtype, cols);
    float* to = chunk->w + r / kPartRows * kPartRows * count + r % kPartRows;
    for (int64_t k = begin; k < end; ++k) to[k * kPartRows] = r < num_rows ? element(row, dtype, first + k) : 0.0f;
  }
}

#if HWY_TARGET != HWY_AVX2 && HWY_TARGET != HWY_AVX3

void PackChunk(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first, int64_t count, const std::byte*, int64_t,
               PackedChunk* chunk) {
  pack_columns(rows, dtype, cols, num_rows, first, 0, count, count, chunk);
}

void MultiplyChunk(const float* x, int64_t x_stride, int64_t num_rows, const PackedChunk& chunk, int64_t count, bool is_first, float* y) {
  for (int64_t t = 0; t < num_rows; ++t, x += x_stride, y += kTileRows)
    for (int64_t r = 0; r < kTileRows; ++r) {
      float sum = 0;
      for (int64_t k = 0; k < count; ++k) sum = std::fma(x[k], chunk.w[k * kTileRows + r], sum);
      y[r] = is_first ? sum : y[r] + sum;
    }
}

#else

/// Eight rows, a multiple of 8 or 16 columns of them; to: their place in the chunk's first column.
template <bool kHalves>
HWY_INLINE void pack_rows(const uint8_t* const (&rows)[8], int64_t count, float* to) {
  const Eight d;
  const hn::RebindToFloat<Eight> df;
  for (int64_t k = 0; k < count; k += kHalves ? 16 : 8, to += (kHalves ? 16 : 8) * kPartRows) {
    EightVector v[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) v[i] = words_at(rows[i] + (kHalves ? 2 : 4) * k);
    transpose(v);
#pragma GCC unroll 8
    for (int64_t i = 0; i < 8; ++i) {
      if constexpr (kHalves) {
        hn::Store(hn::BitCast(df, hn::ShiftLeft<16>(v[i])), df, to + 2 * i * kPartRows);
        hn::Store(hn::BitCast(df, hn::And(v[i], hn::Set(d, 0xffff0000u))), df, to + (2 * i + 1) * kPartRows);
      } else {
        hn::Store(hn::BitCast(df, v[i]), df, to + i * kPartRows);
      }
    }
  }
}

void PackChunk(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes,
               PackedChunk* chunk) {
  alignas(32) static constexpr uint8_t kNothing[4 * kMaxChunk] = {};
  const bool halves = dtype == DType::kBF16;
  const int64_t step = halves ? 16 : 8, whole = count / step * step, stride = row_bytes(dtype, cols), element_bytes = halves ? 2 : 4;
  int64_t fetched = 0;
  for (int64_t r = 0; r < kTileRows; r += 8) {
    // A share at a time, as memory takes only so many requests at once.
    for (const int64_t end = std::min(next_bytes, (r / 8 + 1) * (next_bytes / (kTileRows / 8) + 63)); fetched < end; fetched += 64)
      _mm_prefetch(next + fetched, _MM_HINT_T1);
    const uint8_t* from[8];
    for (int64_t i = 0; i < 8; ++i) from[i] = r + i < num_rows ? reinterpret_cast<const uint8_t*>(rows) + (r + i) * stride + first * element_bytes : kNothing;
    float* to = chunk->w + r / kPartRows * kPartRows * count + r % kPartRows;
    if (halves) pack_rows<true>(from, whole, to);
    else pack_rows<false>(from, whole, to);
  }
  if (whole < count) pack_columns(rows, dtype, cols, num_rows, first, whole, count, count, chunk);
}

using Floats = hn::ScalableTag<float>;
using FloatVector = hn::Vec<Floats>;
using FloatRegister = decltype(FloatVector::raw);  ///< arrays of these stay in registers; arrays of Highway's vectors end on the stack

/// Rows of x whose sums, with two vectors of rows of W, fill the registers.
#if HWY_TARGET == HWY_AVX2
constexpr int kFloatRowsAtOnce = 6;
#else
constexpr int kFloatRowsAtOnce = 12;
#endif

/// kRows rows of x times kParts parts of the chunk.
template <int kRows, int kParts>
HWY_INLINE void multiply_floats(const float* x, int64_t x_stride, const float* w, int64_t count, bool is_first, float* y) {
  const Floats d;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  constexpr int kVectors = 2 * kParts;
  FloatRegister sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[m][v] = hn::Zero(d).raw;
  const int64_t part = count * kPartRows;
  for (int64_t k = 0; k < count; ++k, w += kPartRows) {
    FloatRegister columns[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) columns[v] = hn::Load(d, w + v / 2 * part + v % 2 * kLanes).raw;
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const FloatVector value = hn::Set(d, x[m * x_stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[m][v] = hn::MulAdd(value, FloatVector{columns[v]}, FloatVector{sums[m][v]}).raw;
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* const out = y + m * kTileRows + v * kLanes;
      hn::Store(is_first ? FloatVector{sums[m][v]} : hn::Add(hn::Load(d, out), FloatVector{sums[m][v]}), d, out);
    }
}

/// Calls multiply_floats for the last rows, fewer than kRows + 1.
template <int kRows>
HWY_INLINE void multiply_last_floats(const float* x, int64_t x_stride, int64_t num_rows, const float* w, int64_t count, bool is_first, float* y) {
  if constexpr (kRows > 0) {
    if (num_rows == kRows) multiply_floats<kRows, 1>(x, x_stride, w, count, is_first, y);
    else multiply_last_floats<kRows - 1>(x, x_stride, num_rows, w, count, is_first, y);
  }
}

void MultiplyChunk(const float* x, int64_t x_stride, int64_t num_rows, const PackedChunk& chunk, int64_t count, bool is_first, float* y) {
  // Of few rows the sums would wait for one another: twice as many of them do not.
  if constexpr (kTileRows == 2 * kPartRows) {
    if (num_rows == 1) return multiply_floats<1, 2>(x, x_stride, chunk.w, count, is_first, y);
    if (num_rows == 2) return multiply_floats<2, 2>(x, x_stride, chunk.w, count, is_first, y);
  }
  for (int64_t first = 0; first < kTileRows; first += kPartRows) {
    const float* w = chunk.w + first * count;
    for (int64_t t = 0; t < num_rows; t += kFloatRowsAtOnce) {
      if (num_rows - t >= kFloatRowsAtOnce) multiply_floats<kFloatRowsAtOnce, 1>(x + t * x_stride, x_stride, w, count, is_first, y + t * kTileRows + first);
      else multiply_last_floats<kFloatRowsAtOnce - 1>(x + t * x_stride, x_stride, num_rows - t, w, count, is_first, y + t * kTileRows + first);
    }
  }
}

#endif  // the kind of machine

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flexgen {
HWY_EXPORT(PackChunk);
HWY_EXPORT(MultiplyChunk);

namespace float_product {

void pack_chunk(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes,
                PackedChunk* chunk) {
  HWY_DYNAMIC_DISPATCH(PackChunk)(rows, dtype, cols, num_rows, first, count, next, next_bytes, chunk);
}
void multiply(const float* x, int64_t x_stride, int64_t num_rows, const PackedChunk& chunk, int64_t count, bool is_first, float* y) {
  HWY_DYNAMIC_DISPATCH(MultiplyChunk)(x, x_stride, num_rows, chunk, count, is_first, y);
}

}  // namespace float_product
}  // namespace flexgen
#endif  // HWY_ONCE
