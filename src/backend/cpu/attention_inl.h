// What the attention kernels share, for every target Highway compiles for: the online softmax over spans of positions, sums over lanes.
// Included once a target by the .cc files that use foreach_target.h, after simd_inl.h, so no #pragma once.

#ifndef FLEXGEN_BACKEND_CPU_ATTENTION_ONCE_
#define FLEXGEN_BACKEND_CPU_ATTENTION_ONCE_
namespace flexgen {
inline constexpr int64_t kSpan = kAttentionSpan;
/// Scores of a row: a span, and room for a last store of four.
inline constexpr int64_t kScoreStride = kSpan + 16;
}  // namespace flexgen
#endif

#if defined(FLEXGEN_BACKEND_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLEXGEN_BACKEND_CPU_ATTENTION_INL_H_
#undef FLEXGEN_BACKEND_CPU_ATTENTION_INL_H_
#else
#define FLEXGEN_BACKEND_CPU_ATTENTION_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

using Floats = hn::ScalableTag<float>;
using Four = hn::CappedTag<float, 4>;

#if HWY_TARGET == HWY_SCALAR
template <class V>
HWY_INLINE void store_sums(Floats, V a, V b, V c, V e, float* to) {
  to[0] = hn::GetLane(a), to[1] = hn::GetLane(b), to[2] = hn::GetLane(c), to[3] = hn::GetLane(e);
}
#else
/// Adds the halves of a vector until four lanes are left.
template <class D>
HWY_INLINE hn::Vec<Four> fold(D, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return fold(half, hn::Add(hn::UpperHalf(half, v), hn::LowerHalf(half, v)));
  }
}

/// Stores the sums over the lanes of each of four vectors.
template <class D, class V>
HWY_INLINE void store_sums(D d, V a, V b, V c, V e, float* to) {
  const hn::Repartition<uint64_t, D> pair;
  const auto ab = hn::BitCast(pair, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce = hn::BitCast(pair, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const auto low = hn::BitCast(d, hn::InterleaveLower(pair, ab, ce));
  const auto high = hn::BitCast(d, hn::InterleaveUpper(pair, ab, ce));
  hn::StoreU(fold(d, hn::Add(low, high)), Four(), to);
}
#endif

/// Asks for rows some bytes ahead, to lie in the second-level cache: those of the next span or head. The blocks of queries that go through the
/// same rows take turns, row by row, so that reads are under way all the time and not only while the first block works.
class RowsAhead {
 public:
  /// For block `block` of `blocks`, whose rows begin at number `first`.
  RowsAhead(int64_t block, int64_t blocks, int64_t first, int64_t row_bytes, int64_t bytes_ahead)
      : next_(first + block), blocks_(blocks), row_bytes_(row_bytes), bytes_ahead_(bytes_ahead) {}

  /// `row`: number t, or the part of it that matters. Asks for `bytes` of each of the block's rows up to number `end`.
  HWY_INLINE void fetch(const void* row, int64_t t, int64_t end, int64_t bytes) {
    for (; next_ < end; next_ += blocks_) {
      const auto address = reinterpret_cast<uintptr_t>(row) + static_cast<uintptr_t>((next_ - t) * row_bytes_ + bytes_ahead_);  // may lie anywhere
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(reinterpret_cast<const char*>(address + static_cast<uintptr_t>(i)), 0, 2);
    }
  }

 private:
  int64_t next_, blocks_, row_bytes_, bytes_ahead_;
};

/// What a query row carries from span to span.
struct Row {
  int64_t first, end;  ///< positions it attends to
  float maximum, sum;
  int64_t packed;  ///< where it stands in q and in the result
};

/// Of query `in_head` of the task's kv head `head`.
HWY_INLINE Row row_of(const AttentionTask& task, int64_t head, int64_t in_head) {
  const KvGeometry& g = *task.geometry;
  const int64_t group = g.query_heads / g.kv_heads;
  const AttentionRow& from = task.rows[static_cast<size_t>(in_head / group)];
  const int64_t end = from.end(), query_head = (task.first_head + head) * group + in_head % group;
  const SoftmaxStart start = softmax_start(task.rule, query_head);
  return {end - task.rule.visible(end - 1), end, start.maximum, start.sum, ((from.slot->first_row + from.row) * g.query_heads + query_head) * g.head_size};
}

/// One span of the online softmax: scores become weights relative to the new maximum, what was
/// mixed so far is scaled to it. [first, end) of the span are the row's.
template <bool kWhole>
HWY_INLINE void soften_span(Row& row, float* HWY_RESTRICT scores, [[maybe_unused]] int64_t first, [[maybe_unused]] int64_t end, float scale,
                            float* HWY_RESTRICT mixed, int64_t mixed_size) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  [[maybe_unused]] const auto lowest = hn::Set(d, -INFINITY);
  const auto factor = hn::Set(d, scale);
  [[maybe_unused]] auto inside = [&](int64_t t) HWY_ATTR {
    const auto at = hn::Iota(d, static_cast<float>(t));
    return hn::And(hn::Ge(at, hn::Set(d, static_cast<float>(first))), hn::Lt(at, hn::Set(d, static_cast<float>(end))));
  };
  auto maximum = hn::Set(d, row.maximum), poison = hn::Zero(d);
  for (int64_t t = 0; t < kSpan; t += lanes) {
    auto scaled = hn::Mul(hn::LoadU(d, scores + t), factor);
    if constexpr (!kWhole) scaled = hn::IfThenElse(inside(t), scaled, lowest);
    hn::StoreU(scaled, d, scores + t);
    maximum = hn::Max(maximum, scaled);
    poison = hn::Add(poison, scaled);
  }
  maximum = hn::MaxOfLanes(d, maximum);
  const float new_maximum = hn::GetLane(maximum);
  auto sum = hn::Zero(d);
  for (int64_t t = 0; t < kSpan; t += lanes) {
    auto weight = hn::Exp(d, hn::Sub(hn::LoadU(d, scores + t), maximum));
    if constexpr (!kWhole) weight = hn::IfThenElseZero(inside(t), weight);
    hn::StoreU(weight, d, scores + t);
    sum = hn::Add(sum, weight);
  }
  if (new_maximum != row.maximum) {
    const auto shrink = hn::Exp(d, hn::Sub(hn::Set(d, row.maximum), maximum));
    for (int64_t i = 0; i < mixed_size; i += lanes) hn::Store(hn::Mul(hn::Load(d, mixed + i), shrink), d, mixed + i);
    row.sum *= hn::GetLane(shrink);
    row.maximum = new_maximum;
  }
  row.sum += hn::GetLane(hn::SumOfLanes(d, sum));
  // Exp() makes NaN nothing; whoever sees one must not miss it.
  if (const float all = hn::GetLane(hn::SumOfLanes(d, poison)); std::isnan(all)) row.sum = all;
}

HWY_INLINE void soften(Row& row, float* scores, int64_t first, int64_t end, float scale, float* mixed, int64_t mixed_size) {
  if (first <= 0 && end >= kSpan) return soften_span<true>(row, scores, first, end, scale, mixed, mixed_size);
  soften_span<false>(row, scores, first, end, scale, mixed, mixed_size);
}

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
