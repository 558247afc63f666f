// The search of GroupRange::kMse (tensor/group_quant.h) for every target Highway compiles for: the same bytes as the plain statement
// there, so nothing may be contracted to fused operations (src/CMakeLists.txt). Included once a target, after simd_inl.h, so no #pragma once.

#if defined(FLEXGEN_BACKEND_CPU_QUANT_SEARCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLEXGEN_BACKEND_CPU_QUANT_SEARCH_INL_H_
#undef FLEXGEN_BACKEND_CPU_QUANT_SEARCH_INL_H_
#else
#define FLEXGEN_BACKEND_CPU_QUANT_SEARCH_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>

#include "tensor/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

/// Two ends of a group's range, and the scale and minimum they give, bf16.
struct GroupEnds {
  float low, high;
  uint16_t scale, minimum;

  GroupEnds(float low_end, float high_end, float levels)
      : low(low_end), high(high_end), scale(bf16_from_float(levels / (high_end - low_end))), minimum(bf16_from_float(low_end)) {
    if (!std::isfinite(float_from_bf16(scale))) scale = 0;
  }
};

/// x [kQuantGroup], zeros past `count`. Squares are summed in 16 lanes, these by halves.
HWY_INLINE float squared_error(const float* HWY_RESTRICT x, int64_t count, const GroupEnds& ends, float levels) {
  const hn::CappedTag<float, 16> d;
  constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(d));
  constexpr int64_t kVectors = 16 / kLanes;
  const float scale_value = float_from_bf16(ends.scale);
  const auto scale = hn::Set(d, scale_value), minimum = hn::Set(d, float_from_bf16(ends.minimum)), most = hn::Set(d, levels);
  const auto step = hn::Set(d, scale_value == 0 ? 0.0f : 1 / scale_value);
  hn::Vec<decltype(d)> sums[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) sums[v] = hn::Zero(d);
  for (int64_t i = 0; i < count; i += 16)
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t at = i + v * kLanes;
      const auto above = hn::Sub(hn::Load(d, x + at), minimum);
      const auto code = hn::Round(hn::Min(hn::Max(hn::Mul(above, scale), hn::Zero(d)), most));
      auto error = hn::Sub(above, hn::Mul(code, step));
      if (at + kLanes > count) error = hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(std::max<int64_t>(0, count - at))), error);
      sums[v] = hn::Add(sums[v], hn::Mul(error, error));
    }
  alignas(64) float lanes[16];
  for (int64_t v = 0; v < kVectors; ++v) hn::Store(sums[v], d, lanes + v * kLanes);
  for (int64_t half = 8; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

/// The best of all that are tried. `start`: the extremes of the group.
HWY_NOINLINE GroupEnds least_error(const float* HWY_RESTRICT x, int64_t count, const GroupEnds& start, float levels) {
  GroupEnds best = start;
  float best_error = squared_error(x, count, start, levels);
  auto try_ends = [&](float low, float high) HWY_ATTR {
    const GroupEnds tried(low, high, levels);
    const float error = squared_error(x, count, tried, levels);
    if (error < best_error) best = tried, best_error = error;
  };
  float unit = 0.04f * (start.high - start.low);
  for (int i = 0; i < 5; ++i)
    for (int j = 0; j < 5; ++j)
      if (i + j > 0) try_ends(start.low + static_cast<float>(i) * unit, start.high - static_cast<float>(j) * unit);
  for (int round = 0; round < 2; ++round) {
    unit *= 0.5f;
    const GroupEnds around = best;
    for (int a = -1; a <= 1; ++a)
      for (int b = -1; b <= 1; ++b)
        if (a != 0 || b != 0) try_ends(around.low + static_cast<float>(a) * unit, around.high + static_cast<float>(b) * unit);
  }
  return best;
}

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
