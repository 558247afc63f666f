#include "backend/cpu/attention.h"

#include <algorithm>
#include <cmath>

#include "base/units.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention.cc"
#include "hwy/foreach_target.h"
// clang-format off: highway.h first
#include "backend/cpu/simd_inl.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
// clang-format on

#ifndef FLEXGEN_BACKEND_CPU_ATTENTION_ONCE_
#define FLEXGEN_BACKEND_CPU_ATTENTION_ONCE_
namespace flexgen {
/// Positions of one pass of the online softmax. Aligned to multiples of itself, whatever the page
/// size, so that the sums of a position's row are always grouped in the same way.
inline constexpr int64_t kSpan = 64;
/// Scores of a row: a span, and room for a last store of four.
inline constexpr int64_t kScoreStride = kSpan + 16;
/// Query rows (heads and tokens) of one task.
inline constexpr int64_t kTaskQueries = 32;
}  // namespace flexgen
#endif

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

using Floats = hn::ScalableTag<float>;
using Four = hn::CappedTag<float, 4>;

// Queries and head vectors that are in registers at a time (32 registers, or 16).
constexpr int kQueries = hn::MaxLanes(Floats()) >= 16 ? 4 : 2;
constexpr int kHeadVectors = hn::MaxLanes(Floats()) >= 16 ? 8 : 4;

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
  const auto ab =
      hn::BitCast(pair, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce =
      hn::BitCast(pair, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const auto low = hn::BitCast(d, hn::InterleaveLower(pair, ab, ce));
  const auto high = hn::BitCast(d, hn::InterleaveUpper(pair, ab, ce));
  hn::StoreU(fold(d, hn::Add(low, high)), Four(), to);
}
#endif

/// scores[m][t] = q[m] . keys[t] for kRows queries and num_tokens tokens. Stores up to three more.
template <int kRows, typename T>
HWY_INLINE void score(const float* HWY_RESTRICT q, int64_t q_stride, const T* HWY_RESTRICT keys,
                      int64_t head_size, int64_t num_tokens, float* HWY_RESTRICT scores) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t whole = head_size / lanes * lanes;
  const auto rest = static_cast<size_t>(head_size - whole);
  for (int64_t t = 0; t < num_tokens; t += 4) {
    const T* key[4];
    for (int64_t j = 0; j < 4; ++j) key[j] = keys + std::min(t + j, num_tokens - 1) * head_size;
    hn::Vec<Floats> sum[kRows][4];
    for (auto& row : sum)
      for (auto& v : row) v = hn::Zero(d);
    auto step = [&](int64_t i, auto load_key) HWY_ATTR {
      hn::Vec<Floats> k[4];
      for (int j = 0; j < 4; ++j) k[j] = load_key(key[j] + i);
      for (int m = 0; m < kRows; ++m) {
        const auto query = hn::Load(d, q + m * q_stride + i);
        for (int j = 0; j < 4; ++j) sum[m][j] = hn::MulAdd(query, k[j], sum[m][j]);
      }
    };
    for (int64_t i = 0; i < whole; i += lanes)
      step(i, [&](const T* p) HWY_ATTR { return load(d, p); });
    if (rest != 0) step(whole, [&](const T* p) HWY_ATTR { return load_first(d, p, rest); });
    for (int m = 0; m < kRows; ++m)
      store_sums(d, sum[m][0], sum[m][1], sum[m][2], sum[m][3], scores + m * kScoreStride + t);
  }
}

/// mixed[m][i..] += sum over t of weights[m][t] * values[t][i..] for kVectors vectors of head
/// elements.
template <int kRows, int kVectors, class LoadValue, typename T>
HWY_INLINE void mix_part(const float* HWY_RESTRICT weights, const T* HWY_RESTRICT values,
                         int64_t head_size, int64_t num_tokens, float* HWY_RESTRICT mixed,
                         int64_t mixed_stride, const LoadValue& load_value) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<Floats> sum[kRows][kVectors];
  for (int m = 0; m < kRows; ++m)
    for (int j = 0; j < kVectors; ++j)
      sum[m][j] = hn::Load(d, mixed + m * mixed_stride + j * lanes);
  for (int64_t t = 0; t < num_tokens; ++t) {
    hn::Vec<Floats> value[kVectors];
    for (int j = 0; j < kVectors; ++j) value[j] = load_value(values + t * head_size + j * lanes);
    for (int m = 0; m < kRows; ++m) {
      const auto weight = hn::Set(d, weights[m * kScoreStride + t]);
      for (int j = 0; j < kVectors; ++j) sum[m][j] = hn::MulAdd(weight, value[j], sum[m][j]);
    }
  }
  for (int m = 0; m < kRows; ++m)
    for (int j = 0; j < kVectors; ++j)
      hn::Store(sum[m][j], d, mixed + m * mixed_stride + j * lanes);
}

template <int kRows, typename T>
HWY_INLINE void mix(const float* weights, const T* values, int64_t head_size, int64_t num_tokens,
                    float* mixed, int64_t mixed_stride) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  constexpr int kMany = kRows <= 2 ? kHeadVectors : kHeadVectors / 2;
  auto load_whole = [&](const T* p) HWY_ATTR { return load(d, p); };
  int64_t i = 0;
  for (; i + kMany * lanes <= head_size; i += kMany * lanes)
    mix_part<kRows, kMany>(weights, values + i, head_size, num_tokens, mixed + i, mixed_stride,
                           load_whole);
  for (; i + lanes <= head_size; i += lanes)
    mix_part<kRows, 1>(weights, values + i, head_size, num_tokens, mixed + i, mixed_stride,
                       load_whole);
  if (i < head_size) {
    const auto rest = static_cast<size_t>(head_size - i);
    mix_part<kRows, 1>(weights, values + i, head_size, num_tokens, mixed + i, mixed_stride,
                       [&](const T* p) HWY_ATTR { return load_first(d, p, rest); });
  }
}

/// What a query row carries from span to span.
struct Row {
  int64_t first, end;  ///< positions it attends to
  float maximum, sum;
};

/// One span of the online softmax: scores become weights relative to the new maximum, what was
/// mixed so far is scaled to it. [first, end) of the span are the row's.
HWY_INLINE void soften(Row& row, float* HWY_RESTRICT scores, int64_t first, int64_t end,
                       float scale, float* HWY_RESTRICT mixed, int64_t mixed_size) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto lowest = hn::Set(d, -INFINITY), factor = hn::Set(d, scale);
  auto inside = [&](int64_t t) HWY_ATTR {
    const auto at = hn::Iota(d, static_cast<float>(t));
    return hn::And(hn::Ge(at, hn::Set(d, static_cast<float>(first))),
                   hn::Lt(at, hn::Set(d, static_cast<float>(end))));
  };
  auto maximum = hn::Set(d, row.maximum);
  for (int64_t t = 0; t < kSpan; t += lanes) {
    const auto scaled =
        hn::IfThenElse(inside(t), hn::Mul(hn::LoadU(d, scores + t), factor), lowest);
    hn::StoreU(scaled, d, scores + t);
    maximum = hn::Max(maximum, scaled);
  }
  maximum = hn::MaxOfLanes(d, maximum);
  const float new_maximum = hn::GetLane(maximum);
  auto sum = hn::Zero(d);
  for (int64_t t = 0; t < kSpan; t += lanes) {
    const auto weight =
        hn::IfThenElseZero(inside(t), hn::Exp(d, hn::Sub(hn::LoadU(d, scores + t), maximum)));
    hn::StoreU(weight, d, scores + t);
    sum = hn::Add(sum, weight);
  }
  if (new_maximum != row.maximum) {
    const auto shrink = hn::Exp(d, hn::Sub(hn::Set(d, row.maximum), maximum));
    for (int64_t i = 0; i < mixed_size; i += lanes)
      hn::Store(hn::Mul(hn::Load(d, mixed + i), shrink), d, mixed + i);
    row.sum *= hn::GetLane(shrink);
    row.maximum = new_maximum;
  }
  row.sum += hn::GetLane(hn::SumOfLanes(d, sum));
}

/// Calls use(std::integral_constant<int, n>) for n = count in [1, kQueries].
template <class Use>
HWY_INLINE void with_count(int64_t count, const Use& use) {
  if constexpr (kQueries >= 4) {
    if (count == 4) return use(std::integral_constant<int, 4>());
    if (count == 3) return use(std::integral_constant<int, 3>());
  }
  if (count == 2) return use(std::integral_constant<int, 2>());
  return use(std::integral_constant<int, 1>());
}

template <typename T>
void attend_as(const AttentionTask& task, float* scratch) {
  const Floats d;
  const KvGeometry& g = *task.geometry;
  const int64_t head_size = g.head_size, group = g.query_heads / g.kv_heads;
  const int64_t stride = round_up(head_size, 16), num_queries = task.num_rows * group;
  float* const q = scratch;                            // [queries, stride]
  float* const mixed = q + num_queries * stride;       // [queries, stride]
  float* const scores = mixed + num_queries * stride;  // [queries, kScoreStride]
  Row* const rows = reinterpret_cast<Row*>(scores + num_queries * kScoreStride);
  // Query m: head m % group of row m / group; consecutive queries share most of their positions.
  auto packed_index = [&](int64_t m) {
    const int64_t row = task.slot->first_row + task.first_row + m / group;
    return (row * g.query_heads + task.kv_head * group + m % group) * head_size;
  };
  for (int64_t m = 0; m < num_queries; ++m) {
    std::copy_n(task.q + packed_index(m), head_size, q + m * stride);
    std::fill(q + m * stride + head_size, q + (m + 1) * stride, 0.0f);
    std::fill_n(mixed + m * stride, stride, 0.0f);
    const int64_t end = task.slot->past + task.first_row + m / group + 1;
    rows[m] = {task.window > 0 ? std::max<int64_t>(0, end - task.window) : 0, end, -INFINITY, 0.0f};
  }

  // Calls use(data, from, to) for the stretches of [begin, end) that lie in one page.
  auto for_pages = [&](int64_t which, int64_t begin, int64_t end, const auto& use) HWY_ATTR {
    while (begin < end) {
      const int64_t page = begin / g.page_tokens, at = begin % g.page_tokens;
      const int64_t stop = std::min(end, (page + 1) * g.page_tokens);
      const T* data = reinterpret_cast<const T*>(task.slot->pages[page]) +
                      ((which * g.kv_heads + task.kv_head) * g.page_tokens + at) * head_size;
      use(data, begin, stop);
      begin = stop;
    }
  };

  const int64_t task_end = rows[num_queries - 1].end;
  for (int64_t span = rows[0].first / kSpan * kSpan; span < task_end; span += kSpan) {
    auto first_in_span = [&](int64_t m) { return std::max(rows[m].first, span); };
    auto end_in_span = [&](int64_t m) { return std::min(rows[m].end, span + kSpan); };
    for (int64_t m = 0; m < num_queries; m += kQueries) {
      const int64_t count = std::min<int64_t>(kQueries, num_queries - m);
      with_count(count, [&](auto constant) HWY_ATTR {
        for_pages(0, first_in_span(m), end_in_span(m + count - 1),
                  [&](const T* keys, int64_t from, int64_t to) HWY_ATTR {
                    score<decltype(constant)::value>(q + m * stride, stride, keys, head_size,
                                                     to - from,
                                                     scores + m * kScoreStride + (from - span));
                  });
      });
    }
    for (int64_t m = 0; m < num_queries; ++m)
      if (first_in_span(m) < end_in_span(m))
        soften(rows[m], scores + m * kScoreStride, first_in_span(m) - span, end_in_span(m) - span,
               task.scale, mixed + m * stride, stride);
    for (int64_t m = 0; m < num_queries; m += kQueries) {
      const int64_t count = std::min<int64_t>(kQueries, num_queries - m);
      auto mix_rows = [&](auto constant, int64_t row, int64_t begin, int64_t end) HWY_ATTR {
        for_pages(1, begin, end, [&](const T* values, int64_t from, int64_t to) HWY_ATTR {
          mix<decltype(constant)::value>(scores + row * kScoreStride + (from - span), values,
                                         head_size, to - from, mixed + row * stride, stride);
        });
      };
      // Positions all the queries attend to, together; those of some of them alone, before and
      // after. A query must not even multiply a foreign value by zero: it might be infinite.
      const int64_t begin = first_in_span(m + count - 1), end = std::max(begin, end_in_span(m));
      for (int64_t row = m; row < m + count; ++row)
        mix_rows(std::integral_constant<int, 1>(), row, first_in_span(row),
                 std::min(begin, end_in_span(row)));
      with_count(count, [&](auto constant) HWY_ATTR { mix_rows(constant, m, begin, end); });
      for (int64_t row = m; row < m + count; ++row)
        mix_rows(std::integral_constant<int, 1>(), row, std::max(end, first_in_span(row)),
                 end_in_span(row));
    }
  }

  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  with_type(task.out_dtype, task.out, [&](auto* out) HWY_ATTR {
    for (int64_t m = 0; m < num_queries; ++m) {
      const auto inverse = hn::Set(d, 1.0f / rows[m].sum);
      for (int64_t i = 0; i < head_size; i += lanes)
        store(d, hn::Mul(hn::Load(d, mixed + m * stride + i), inverse), out + packed_index(m) + i,
              static_cast<size_t>(std::min(lanes, head_size - i)));
    }
  });
}

void Attend(const AttentionTask& task, float* scratch) {
  switch (task.geometry->dtype) {
    case DType::kF32:
      return attend_as<float>(task, scratch);
    case DType::kF16:
      return attend_as<hwy::float16_t>(task, scratch);
    case DType::kBF16:
      return attend_as<hwy::bfloat16_t>(task, scratch);
  }
}

int64_t RowFloats() { return static_cast<int64_t>(sizeof(Row) / sizeof(float)); }

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flexgen {
HWY_EXPORT(Attend);
HWY_EXPORT(RowFloats);

int64_t attention_task_rows(const KvGeometry& geometry) {
  return std::max<int64_t>(1, kTaskQueries / (geometry.query_heads / geometry.kv_heads));
}

int64_t attention_scratch_floats(const KvGeometry& geometry) {
  const int64_t queries =
      attention_task_rows(geometry) * (geometry.query_heads / geometry.kv_heads);
  return queries *
         (2 * round_up(geometry.head_size, 16) + kScoreStride + HWY_DYNAMIC_DISPATCH(RowFloats)());
}

void attend(const AttentionTask& task, float* scratch) {
  HWY_DYNAMIC_DISPATCH(Attend)(task, scratch);
}

}  // namespace flexgen
#endif  // HWY_ONCE
