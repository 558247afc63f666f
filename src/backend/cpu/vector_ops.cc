#include "backend/cpu/vector_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// SSE machines run the AVX2 code's scalar sibling; leaving SSE out halves the compile time.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/vector_ops.cc"
#include <hwy/foreach_target.h>  // must come before highway.h
// clang-format off: in this order
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace flexgen {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F = hn::ScalableTag<float>;
using Float = hn::Vec<F>;

/// Lanes of elements [at, at + N) as float.
HWY_INLINE Float load(F d, const std::byte* data, DType dtype, int64_t at) {
  if (dtype == DType::kF32) return hn::LoadU(d, reinterpret_cast<const float*>(data) + at);
  if (dtype == DType::kF16) {
    const hn::Rebind<hwy::float16_t, F> half;
    return hn::PromoteTo(d, hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(data) + at));
  }
  const hn::Rebind<uint16_t, F> half;
  const hn::Rebind<uint32_t, F> wide;
  auto bits = hn::PromoteTo(wide, hn::LoadU(half, reinterpret_cast<const uint16_t*>(data) + at));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}

/// Rounds to nearest even, like bf16_from_float(), for finite values.
HWY_INLINE void store(F d, Float value, std::byte* data, DType dtype, int64_t at) {
  if (dtype == DType::kF32) {
    hn::StoreU(value, d, reinterpret_cast<float*>(data) + at);
  } else if (dtype == DType::kF16) {
    const hn::Rebind<hwy::float16_t, F> half;
    hn::StoreU(hn::DemoteTo(half, value), half, reinterpret_cast<hwy::float16_t*>(data) + at);
  } else {
    const hn::Rebind<uint32_t, F> wide;
    const hn::Rebind<int32_t, F> wide_signed;
    const hn::Rebind<uint16_t, F> half;
    auto bits = hn::BitCast(wide, value);
    auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(wide, 1u));
    auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(wide, 0x7fffu))));
    hn::StoreU(hn::DemoteTo(half, hn::BitCast(wide_signed, rounded)), half,
               reinterpret_cast<uint16_t*>(data) + at);
  }
}

float scalar_load(const std::byte* data, DType dtype, int64_t at) {
  return load_float(data, dtype, at);
}
void scalar_store(float value, std::byte* data, DType dtype, int64_t at) {
  if (dtype == DType::kF32) {
    std::memcpy(data + 4 * at, &value, 4);
    return;
  }
  uint16_t half = dtype == DType::kBF16 ? bf16_from_float(value) : f16_from_float(value);
  std::memcpy(data + 2 * at, &half, 2);
}

void Convert(const std::byte* in, DType from, int64_t begin, int64_t end, std::byte* out,
             DType to) {
  const F d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) store(d, load(d, in, from, i), out, to, i);
  for (; i < end; ++i) scalar_store(scalar_load(in, from, i), out, to, i);
}

void ScaleShift(const float* in, float mean, float scale, const std::byte* weight,
                DType weight_dtype, const std::byte* bias, DType bias_dtype, int64_t cols,
                std::byte* out, DType out_dtype) {
  const F d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Float center = hn::Set(d, mean), factor = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + lanes <= cols; i += lanes) {
    Float value = hn::Mul(hn::Mul(hn::Sub(hn::LoadU(d, in + i), center), factor),
                          load(d, weight, weight_dtype, i));
    if (bias) value = hn::Add(value, load(d, bias, bias_dtype, i));
    store(d, value, out, out_dtype, i);
  }
  for (; i < cols; ++i) {
    float value = (in[i] - mean) * scale * scalar_load(weight, weight_dtype, i);
    if (bias) value += scalar_load(bias, bias_dtype, i);
    scalar_store(value, out, out_dtype, i);
  }
}

void Moments(const float* in, int64_t cols, float center, float* sum, float* squares) {
  const F d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Float middle = hn::Set(d, center);
  Float total = hn::Zero(d), square = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= cols; i += lanes) {
    Float value = hn::Sub(hn::LoadU(d, in + i), middle);
    total = hn::Add(total, value);
    square = hn::MulAdd(value, value, square);
  }
  float tail = 0, tail_square = 0;
  for (; i < cols; ++i) {
    float value = in[i] - center;
    tail += value;
    tail_square += value * value;
  }
  *sum = hn::GetLane(hn::SumOfLanes(d, total)) + tail;
  *squares = hn::GetLane(hn::SumOfLanes(d, square)) + tail_square;
}

HWY_INLINE Float activated(F d, Float x, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return hn::Max(x, hn::Zero(d));
    case Activation::kSilu:
      return hn::Div(x, hn::Add(hn::Set(d, 1.0f), hn::Exp(d, hn::Neg(x))));
    case Activation::kGeluTanh: {
      Float cube = hn::Mul(hn::Mul(x, x), x);
      Float inner =
          hn::Mul(hn::Set(d, 0.79788456080286536f), hn::MulAdd(hn::Set(d, 0.044715f), cube, x));
      return hn::Mul(hn::Mul(hn::Set(d, 0.5f), x), hn::Add(hn::Set(d, 1.0f), hn::Tanh(d, inner)));
    }
    case Activation::kGelu: {
      HWY_ALIGN float values[HWY_MAX_BYTES / sizeof(float)];
      hn::Store(x, d, values);
      for (size_t i = 0; i < hn::Lanes(d); ++i)
        values[i] = 0.5f * values[i] * (1.0f + std::erf(values[i] * 0.70710678118654752f));
      return hn::Load(d, values);
    }
  }
  return x;
}

void Activate(const float* x, const float* up, int64_t begin, int64_t end, Activation activation,
              std::byte* out, DType dtype) {
  const F d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  HWY_ALIGN float tail[HWY_MAX_BYTES / sizeof(float)] = {};
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    Float value = activated(d, hn::LoadU(d, x + i), activation);
    if (up) value = hn::Mul(value, hn::LoadU(d, up + i));
    store(d, value, out, dtype, i);
  }
  if (i == end) return;
  std::copy(x + i, x + end, tail);
  hn::Store(activated(d, hn::Load(d, tail), activation), d, tail);
  for (int64_t j = i; j < end; ++j) scalar_store(tail[j - i] * (up ? up[j] : 1.0f), out, dtype, j);
}

/// Tokens [first, first + num_tokens) of the slot against one kv head. Each page is turned to float
/// once and serves all rows; a row's own arithmetic (page by page, online softmax: Milakov and
/// Gimelshein 2018) does not depend on the others.
void Attend(const float* q, const AttentionSlot& slot, int64_t first, int64_t num_tokens,
            int64_t kv_head, const KvGeometry& g, float scale, int64_t window, std::byte* out,
            DType out_dtype) {
  const F d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t group = g.query_heads / g.kv_heads, rows = num_tokens * group;
  const int64_t width = (g.head_size + lanes - 1) / lanes * lanes;
  const int64_t page_lanes = (g.page_tokens + lanes - 1) / lanes * lanes;
  thread_local std::vector<float> memory;
  memory.assign(
      static_cast<size_t>(2 * rows * width + 2 * g.page_tokens * width + page_lanes + 2 * rows),
      0.0f);
  float* queries = memory.data();
  float* sums = queries + rows * width;
  float* keys = sums + rows * width;
  float* values = keys + g.page_tokens * width;
  float* scores = values + g.page_tokens * width;
  float* maxima = scores + page_lanes;
  float* totals = maxima + rows;
  for (int64_t row = 0; row < rows; ++row) {
    int64_t token = slot.first_row + first + row / group, head = kv_head * group + row % group;
    std::copy_n(q + (token * g.query_heads + head) * g.head_size, g.head_size,
                queries + row * width);
    maxima[row] = -1e30f;
  }
  const int64_t last_position = slot.past + first + num_tokens - 1;
  const int64_t first_position =
      window > 0 ? std::max<int64_t>(0, slot.past + first - window + 1) : 0;
  for (int64_t page = first_position / g.page_tokens; page <= last_position / g.page_tokens;
       ++page) {
    const int64_t page_first = page * g.page_tokens;
    const int64_t filled = std::min(g.page_tokens, last_position + 1 - page_first);
    for (int64_t which = 0; which < 2; ++which) {
      const std::byte* data = slot.pages[page];
      int64_t at = (which * g.kv_heads + kv_head) * g.page_tokens * g.head_size;
      float* to = which == 0 ? keys : values;
      if (width == g.head_size) {
        for (int64_t i = 0; i < filled * width; i += lanes)
          hn::StoreU(load(d, data, g.dtype, at + i), d, to + i);
      } else {
        for (int64_t s = 0; s < filled; ++s)
          for (int64_t i = 0; i < g.head_size; ++i)
            to[s * width + i] = scalar_load(data, g.dtype, at + s * g.head_size + i);
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t position = slot.past + first + row / group;
      const int64_t from =
          window > 0 ? std::max<int64_t>(0, position - window + 1 - page_first) : 0;
      const int64_t to = std::min(g.page_tokens, position + 1 - page_first);
      if (from >= to) continue;
      const float* query = queries + row * width;
      float maximum = maxima[row];
      for (int64_t s = 0; s < page_lanes; ++s) scores[s] = -1e30f;
      for (int64_t s = from; s < to; ++s) {
        const float* key = keys + s * width;
        Float dot = hn::Mul(hn::LoadU(d, query), hn::LoadU(d, key));
        for (int64_t i = lanes; i < width; i += lanes)
          dot = hn::MulAdd(hn::LoadU(d, query + i), hn::LoadU(d, key + i), dot);
        scores[s] = hn::GetLane(hn::SumOfLanes(d, dot)) * scale;
        maximum = std::max(maximum, scores[s]);
      }
      const Float top = hn::Set(d, maximum);
      Float sum = hn::Zero(d);
      for (int64_t s = 0; s < page_lanes; s += lanes) {
        Float weight = hn::Exp(d, hn::Sub(hn::LoadU(d, scores + s), top));
        hn::StoreU(weight, d, scores + s);
        sum = hn::Add(sum, weight);
      }
      float decay = maxima[row] <= -1e30f ? 0.0f : std::exp(maxima[row] - maximum);
      maxima[row] = maximum;
      totals[row] = totals[row] * decay + hn::GetLane(hn::SumOfLanes(d, sum));
      const Float fade = hn::Set(d, decay);
      float* mixed = sums + row * width;
      for (int64_t i = 0; i < width; i += lanes) {
        Float value = hn::Mul(hn::LoadU(d, mixed + i), fade);
        for (int64_t s = from; s < to; ++s)
          value = hn::MulAdd(hn::Set(d, scores[s]), hn::LoadU(d, values + s * width + i), value);
        hn::StoreU(value, d, mixed + i);
      }
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    int64_t token = slot.first_row + first + row / group, head = kv_head * group + row % group;
    int64_t at = (token * g.query_heads + head) * g.head_size;
    float* mixed = sums + row * width;
    const float inverse = 1.0f / totals[row];
    for (int64_t i = 0; i < g.head_size; ++i) mixed[i] *= inverse;
    for (int64_t i = 0; i < g.head_size; ++i) scalar_store(mixed[i], out, out_dtype, at + i);
  }
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace flexgen
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flexgen {

HWY_EXPORT(Convert);
HWY_EXPORT(ScaleShift);
HWY_EXPORT(Moments);
HWY_EXPORT(Activate);
HWY_EXPORT(Attend);
HWY_EXPORT(TargetName);

namespace {
/// Below this many elements a team of threads costs more than it brings.
constexpr int64_t kShare = 1 << 14;
}  // namespace

void convert_elements(const std::byte* in, DType from, int64_t count, std::byte* out, DType to) {
#pragma omp parallel for if (count > kShare)
  for (int64_t begin = 0; begin < count; begin += kShare)
    HWY_DYNAMIC_DISPATCH(Convert)(in, from, begin, std::min(count, begin + kShare), out, to);
}

void scale_shift_row(const float* in, float mean, float scale, const WeightView& weight,
                     const WeightView& bias, int64_t cols, std::byte* out, DType out_dtype) {
  HWY_DYNAMIC_DISPATCH(ScaleShift)
  (in, mean, scale, weight.data(), weight.dtype, bias.empty() ? nullptr : bias.data(), bias.dtype,
   cols, out, out_dtype);
}

void row_moments(const float* in, int64_t cols, float center, float* sum, float* squares) {
  HWY_DYNAMIC_DISPATCH(Moments)(in, cols, center, sum, squares);
}

void activate_elements(const float* x, const float* up, int64_t count, Activation activation,
                       std::byte* out, DType dtype) {
#pragma omp parallel for if (count > kShare)
  for (int64_t begin = 0; begin < count; begin += kShare) HWY_DYNAMIC_DISPATCH(Activate)
  (x, up, begin, std::min(count, begin + kShare), activation, out, dtype);
}

void attend(const float* q, const AttentionSlot& slot, int64_t first_token, int64_t num_tokens,
            int64_t kv_head, const KvGeometry& geometry, float scale, int64_t window,
            std::byte* out, DType out_dtype) {
  HWY_DYNAMIC_DISPATCH(Attend)
  (q, slot, first_token, num_tokens, kv_head, geometry, scale, window, out, out_dtype);
}

std::string vector_target_name() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace flexgen
#endif
