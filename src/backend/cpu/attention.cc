#include "backend/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>

#include "backend/cpu/vector_rows.h"
#include "base/units.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention.cc"
// foreach_target.h comes before all that is compiled once a target.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
#include "backend/cpu/simd_inl.h"
#include "backend/cpu/quant_inl.h"
#include "backend/cpu/attention_inl.h"
// clang-format on

#ifndef FLEXGEN_BACKEND_CPU_ATTENTION_TASK_ONCE_
#define FLEXGEN_BACKEND_CPU_ATTENTION_TASK_ONCE_
namespace flexgen {
/// Head elements that the widest vectors take at a time; rows of heads in scratch are filled up to
/// it.
inline constexpr int64_t kMaxPair = 32;
/// Query rows of one head in a task at most, where slots share pages: what they carry from span to span stays in the second-level cache.
inline constexpr int64_t kSharedQueries = 128;
}  // namespace flexgen
#endif

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

// A head is taken in pairs of vectors. For bf16 the first of a pair holds the even elements and the
// second the odd ones, which are the halves of 32-bit words and so cost one operation each; queries
// and results are put into that order and back.
constexpr int kQueries = hn::MaxLanes(Floats()) >= 16 ? 4 : 2;    // in registers at a time,
constexpr int kHeadPairs = hn::MaxLanes(Floats()) >= 16 ? 4 : 2;  // of 32 registers or of 16
constexpr int64_t kPair = 2 * static_cast<int64_t>(hn::MaxLanes(Floats()));

struct Pair {
  hn::Vec<Floats> first, second;
};

template <typename T>
HWY_INLINE Pair load_pair(const T* p) {
  const Floats d;
  return {load(d, p), load(d, p + hn::Lanes(d))};
}
HWY_INLINE Pair load_pair(const hwy::bfloat16_t* p) {
  const Floats d;
  const hn::RebindToUnsigned<Floats> du;
#if HWY_TARGET == HWY_SCALAR
  uint32_t word;  // two elements, not always aligned to a word
  std::memcpy(&word, p, sizeof(word));
  const auto words = hn::Set(du, word);
#else
  const auto words = hn::LoadU(du, reinterpret_cast<const uint32_t*>(p));
#endif
  return {hn::BitCast(d, hn::ShiftLeft<16>(words)), hn::BitCast(d, hn::And(words, hn::Set(du, 0xffff0000u)))};
}
/// The first n < kPair elements, the rest zero.
template <typename T>
HWY_INLINE Pair load_pair_first(const T* p, size_t n) {
  alignas(64) T part[kPair] = {};
  std::memcpy(part, p, n * sizeof(T));
  return load_pair(static_cast<const T*>(part));
}

/// Puts n floats into the order of pairs, zeros after them up to a whole number of pairs.
template <typename T>
HWY_INLINE void to_pairs(const float* from, int64_t n, float* to) {
  std::fill(std::copy_n(from, n, to), to + round_up(n, kPair), 0.0f);
  if constexpr (std::is_same_v<T, hwy::bfloat16_t>) {
    const Floats d;
    for (int64_t i = 0; i < n; i += kPair) {
      hn::Vec<Floats> even, odd;
      hn::LoadInterleaved2(d, to + i, even, odd);
      hn::Store(even, d, to + i);
      hn::Store(odd, d, to + i + kPair / 2);
    }
  }
}
/// And back, in place.
template <typename T>
HWY_INLINE void from_pairs(float* head, int64_t n) {
  if constexpr (std::is_same_v<T, hwy::bfloat16_t>) {
    const Floats d;
    for (int64_t i = 0; i < n; i += kPair) {
      const auto even = hn::Load(d, head + i), odd = hn::Load(d, head + i + kPair / 2);
      hn::StoreInterleaved2(even, odd, d, head + i);
    }
  }
}

/// Sums of products in flight: kRows queries times four tokens.
template <int kRows>
struct Sums {
  hn::Vec<Floats> of[kRows][4];
};

template <int kRows, class LoadKey, typename T>
HWY_INLINE Sums<kRows> score_step(Sums<kRows> sums, const float* HWY_RESTRICT q, int64_t q_stride, const T* const (&key)[4], int64_t i,
                                  const LoadKey& load_key) {
  Pair query[kRows];
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) query[m] = load_pair(q + m * q_stride + i);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Pair k = load_key(key[j] + i);
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) sums.of[m][j] = hn::MulAdd(query[m].second, k.second, hn::MulAdd(query[m].first, k.first, sums.of[m][j]));
  }
  return sums;
}

/// scores[m][t] = q[m] . keys[t] for kRows queries and num_tokens tokens. Stores up to three more.
template <int kRows, typename T>
HWY_INLINE void score(const float* HWY_RESTRICT q, int64_t q_stride, const T* HWY_RESTRICT keys, int64_t head_size, int64_t num_tokens, RowsAhead ahead,
                      float* HWY_RESTRICT scores) {
  const Floats d;
  const int64_t whole = round_down(head_size, kPair);
  const auto rest = static_cast<size_t>(head_size - whole);
  const auto token_bytes = head_size * static_cast<int64_t>(sizeof(T));
  for (int64_t t = 0; t < num_tokens; t += 4) {
    ahead.fetch(keys + t * head_size, t, t + 4, token_bytes);
    const T* key[4];
    for (int64_t j = 0; j < 4; ++j) key[j] = keys + std::min(t + j, num_tokens - 1) * head_size;
    Sums<kRows> sums;
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sums.of[m][j] = hn::Zero(d);
    for (int64_t i = 0; i < whole; i += kPair) sums = score_step<kRows>(sums, q, q_stride, key, i, [](const T* p) HWY_ATTR { return load_pair(p); });
    if (rest != 0) sums = score_step<kRows>(sums, q, q_stride, key, whole, [rest](const T* p) HWY_ATTR { return load_pair_first(p, rest); });
    for (int m = 0; m < kRows; ++m) store_sums(d, sums.of[m][0], sums.of[m][1], sums.of[m][2], sums.of[m][3], scores + m * kScoreStride + t);
  }
}

/// mixed[m][i..] += sum over t of weights[m][t] * values[t][i..] for kPairs pairs of head elements.
template <int kRows, int kPairs, class LoadValue, typename T>
HWY_INLINE void mix_part(const float* HWY_RESTRICT weights, const T* HWY_RESTRICT values, int64_t head_size, int64_t num_tokens, RowsAhead ahead,
                         float* HWY_RESTRICT mixed, int64_t mixed_stride, const LoadValue& load_value) {
  const Floats d;
  Pair sum[kRows][kPairs];
  for (int m = 0; m < kRows; ++m)
    for (int j = 0; j < kPairs; ++j) sum[m][j] = load_pair(mixed + m * mixed_stride + j * kPair);
  for (int64_t t = 0; t < num_tokens; ++t) {
    ahead.fetch(values + t * head_size, t, t + 1, kPairs * kPair * static_cast<int64_t>(sizeof(T)));
    Pair value[kPairs];
    for (int j = 0; j < kPairs; ++j) value[j] = load_value(values + t * head_size + j * kPair);
    for (int m = 0; m < kRows; ++m) {
      const auto weight = hn::Set(d, weights[m * kScoreStride + t]);
      for (int j = 0; j < kPairs; ++j) {
        sum[m][j].first = hn::MulAdd(weight, value[j].first, sum[m][j].first);
        sum[m][j].second = hn::MulAdd(weight, value[j].second, sum[m][j].second);
      }
    }
  }
  for (int m = 0; m < kRows; ++m)
    for (int j = 0; j < kPairs; ++j) {
      hn::Store(sum[m][j].first, d, mixed + m * mixed_stride + j * kPair);
      hn::Store(sum[m][j].second, d, mixed + m * mixed_stride + j * kPair + kPair / 2);
    }
}

template <int kRows, typename T>
HWY_INLINE void mix(const float* weights, const T* values, int64_t head_size, int64_t num_tokens, RowsAhead ahead, float* mixed, int64_t mixed_stride) {
  constexpr int kMany = kRows <= 2 ? kHeadPairs : kHeadPairs / 2;
  auto load_whole = [](const T* p) HWY_ATTR { return load_pair(p); };
  int64_t i = 0;
  auto part = [&](auto pairs, const auto& load_value) HWY_ATTR {
    mix_part<kRows, decltype(pairs)::value>(weights, values + i, head_size, num_tokens, ahead, mixed + i, mixed_stride, load_value);
    i += decltype(pairs)::value * kPair;
  };
  while (i + kMany * kPair <= head_size) part(std::integral_constant<int, kMany>(), load_whole);
  while (i + kPair <= head_size) part(std::integral_constant<int, 1>(), load_whole);
  if (i < head_size) {
    const auto rest = static_cast<size_t>(head_size - i);
    part(std::integral_constant<int, 1>(), [rest](const T* p) HWY_ATTR { return load_pair_first(p, rest); });
  }
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
void attend_as(const AttentionTask& whole, float* scratch) {
  AttentionTask task = whole;
  const Floats d;
  const KvGeometry& g = *task.geometry;
  const int64_t head_size = g.head_size, group = g.query_heads / g.kv_heads;
  const int64_t stride = round_up(head_size, kMaxPair);
  const int64_t per_head = task.num_rows() * group, num_queries = task.num_heads * per_head;
  float* const q = scratch;                            // [queries, stride]
  float* const mixed = q + num_queries * stride;       // [queries, stride]
  float* const scores = mixed + num_queries * stride;  // [queries, kScoreStride]
  Row* const rows = reinterpret_cast<Row*>(scores + num_queries * kScoreStride);
  float* const unpacked = reinterpret_cast<float*>(rows + num_queries);  // [kSpan, head_size], of quantized caches
  const bool quantized = is_quantized(g.dtype);
  const int64_t token_bytes = row_bytes(g.dtype, head_size);
  // Query m belongs to kv head m / per_head; consecutive queries of a head share most of their
  // positions.
  for (int64_t m = 0; m < num_queries; ++m) {
    rows[m] = row_of(task, m / per_head, m % per_head);
    to_pairs<T>(task.q + rows[m].packed, head_size, q + m * stride);
    std::fill_n(mixed + m * stride, stride, 0.0f);
  }

  // Calls use(data, from, to) for the stretches of [begin, end) that lie in one page: keys (which =
  // 0) or values (1) of one head.
  auto for_pages = [&](int64_t which, int64_t head, int64_t begin, int64_t end, const auto& use) HWY_ATTR {
    while (begin < end) {
      const int64_t stop = std::min(end, (begin / g.page_tokens + 1) * g.page_tokens);
      use(task.slot->pages[begin / g.page_tokens] + g.row_offset(which, task.first_head + head, begin), begin, stop);
      begin = stop;
    }
  };
  // The same for elements, which quantized rows have only once they are unpacked: all that the stretch wants of a head in this span, when
  // its first query comes.
  int64_t unpacked_key = -1;
  int64_t first_query = 0, end_query = 0, stretch_begin = 0, stretch_end = 0;  // of each head, and the positions
  auto for_elements = [&](int64_t which, int64_t head, int64_t begin, int64_t end, const auto& use) HWY_ATTR {
    if (!quantized) {
      for_pages(which, head, begin, end, [&](const std::byte* data, int64_t from, int64_t to) HWY_ATTR { use(reinterpret_cast<const T*>(data), from, to); });
      return;
    }
    if constexpr (std::is_same_v<T, float>) {
      if (begin >= end) return;
      const int64_t span = begin / kSpan * kSpan, key = (span * 2 + which) * task.num_heads + head;
      if (key != unpacked_key) {
        for_pages(which, head, std::max(stretch_begin, span), std::min(stretch_end, span + kSpan),
                  [&](const std::byte* data, int64_t from, int64_t to) HWY_ATTR {
                    for (int64_t t = from; t < to; ++t, data += token_bytes) unpack_row(data, g.dtype, head_size, unpacked + (t - span) * head_size);
                  });
        unpacked_key = key;
      }
      use(unpacked + (begin - span) * head_size, begin, end);
    }
  };
  // Calls use(count, m, head) for the blocks of count <= kQueries queries m, m + 1, ... of the same
  // head.
  auto for_blocks = [&](const auto& use) HWY_ATTR {
    for (int64_t head = 0; head < task.num_heads; ++head)
      for (int64_t at = first_query; at < end_query; at += kQueries)
        with_count(std::min<int64_t>(kQueries, end_query - at), [&](auto count) HWY_ATTR {
          use(count, head * per_head + at, head,
              RowsAhead((at - first_query) / kQueries, ceil_div(end_query - first_query, kQueries), 0, token_bytes, kSpan * token_bytes));
        });
  };

  for (const AttentionStretch& stretch : task.stretches) {
    task.slot = stretch.slot;
    unpacked_key = -1;
    first_query = stretch.first_row * group, end_query = stretch.end_row * group;
    stretch_begin = std::max(stretch.begin, rows[first_query].first), stretch_end = std::min(stretch.end, rows[end_query - 1].end);
    // All heads' keys, then all heads' values: that is how they lie in a page, and memory is read in
    // order.
    for (int64_t span = stretch_begin / kSpan * kSpan; span < stretch_end; span += kSpan) {
      auto first_in_span = [&](int64_t m) { return std::max(rows[m].first, span); };
      auto end_in_span = [&](int64_t m) { return std::min(rows[m].end, span + kSpan); };
      for_blocks([&](auto count, int64_t m, int64_t head, RowsAhead ahead) HWY_ATTR {
        for_elements(0, head, first_in_span(m), end_in_span(m + count - 1), [&](const T* keys, int64_t from, int64_t to) HWY_ATTR {
          score<decltype(count)::value>(q + m * stride, stride, keys, head_size, to - from, ahead, scores + m * kScoreStride + (from - span));
        });
      });
      for (int64_t head = 0; head < task.num_heads; ++head)
        for (int64_t m = head * per_head + first_query; m < head * per_head + end_query; ++m) {
          const int64_t first = first_in_span(m), end = end_in_span(m);
          if (first >= end) continue;
          const float scale = finish_scores(task, head, m % per_head % group, rows[m].end - 1, first, scores + m * kScoreStride + first - span, end - first);
          soften(rows[m], scores + m * kScoreStride, first - span, end - span, scale, mixed + m * stride, stride);
        }
      for_blocks([&](auto count, int64_t m, int64_t head, RowsAhead ahead) HWY_ATTR {
        auto mix_rows = [&](auto some, int64_t row, int64_t begin, int64_t end) HWY_ATTR {
          for_elements(1, head, begin, end, [&](const T* values, int64_t from, int64_t to) HWY_ATTR {
            mix<decltype(some)::value>(scores + row * kScoreStride + (from - span), values, head_size, to - from, ahead, mixed + row * stride, stride);
          });
        };
        // Positions all the queries attend to, together; those of some of them alone, before and
        // after. A query must not even multiply a foreign value by zero: it might be infinite.
        const std::integral_constant<int, 1> one;
        const int64_t begin = first_in_span(m + count - 1), end = std::max(begin, end_in_span(m));
        for (int64_t row = m; row < m + count; ++row) mix_rows(one, row, first_in_span(row), std::min(begin, end_in_span(row)));
        mix_rows(count, m, begin, end);
        for (int64_t row = m; row < m + count; ++row) mix_rows(one, row, std::max(end, first_in_span(row)), end_in_span(row));
      });
    }
  }

  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  with_type(task.out_dtype, task.out, [&](auto* out) HWY_ATTR {
    for (int64_t m = 0; m < num_queries; ++m) {
      from_pairs<T>(mixed + m * stride, head_size);
      const auto inverse = hn::Set(d, 1.0f / rows[m].sum);
      for (int64_t i = 0; i < head_size; i += lanes)
        store(d, hn::Mul(hn::Load(d, mixed + m * stride + i), inverse), out + rows[m].packed + i, static_cast<size_t>(std::min(lanes, head_size - i)));
    }
  });
}

template <typename T>
void scores_as(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch) {
  const KvGeometry& g = *task.geometry;
  const int64_t head_size = g.head_size, group = g.query_heads / g.kv_heads, kv_head = task.first_head + head;
  const int64_t stride = round_up(head_size, kMaxPair), token_bytes = row_bytes(g.dtype, head_size);
  float* const q = scratch;                               // [group, stride]
  float* const scores = q + group * stride;               // [group, kScoreStride]
  float* const unpacked = scores + group * kScoreStride;  // [kSpan, head_size], of quantized caches
  for (int64_t m = 0; m < group; ++m)
    to_pairs<T>(task.q + ((task.slot->first_row + task.rows[0].row) * g.query_heads + kv_head * group + m) * head_size, head_size, q + m * stride);
  const int64_t end = task.rows[0].end();
  // Stretches that lie in one span and one page.
  for (int64_t from = first, to; from < end; from = to) {
    to = std::min({end, (from / kSpan + 1) * kSpan, (from / g.page_tokens + 1) * g.page_tokens});
    const std::byte* data = task.slot->pages[from / g.page_tokens] + g.row_offset(0, kv_head, from);
    const T* keys = reinterpret_cast<const T*>(data);
    // Heads go one after the other here, so what comes next is in the next page.
    const int64_t ahead = to < end ? task.slot->pages[to / g.page_tokens] + g.row_offset(0, kv_head, to) - data : 0;
    if constexpr (std::is_same_v<T, float>) {
      if (is_quantized(g.dtype)) {
        for (int64_t t = from; t < to; ++t, data += token_bytes) unpack_row(data, g.dtype, head_size, unpacked + (t - from) * head_size);
        keys = unpacked;
      }
    }
    for (int64_t m = 0; m < group; m += kQueries)
      with_count(std::min<int64_t>(kQueries, group - m), [&](auto count) HWY_ATTR {
        score<decltype(count)::value>(q + m * stride, stride, keys, head_size, to - from,
                                      RowsAhead(m / kQueries, ceil_div(group, kQueries), 0, token_bytes, ahead), scores + m * kScoreStride);
      });
    for (int64_t m = 0; m < group; ++m) {
      const float scale = finish_scores(task, head, m, end - 1, from, scores + m * kScoreStride, to - from);
      for (int64_t t = from; t < to; ++t) out[m * out_stride + t - first] = scores[m * kScoreStride + t - from] * scale;
    }
  }
}

void AttentionScores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch) {
  switch (task.geometry->dtype) {
    case DType::kF16: return scores_as<hwy::float16_t>(task, head, first, out, out_stride, scratch);
    case DType::kBF16: return scores_as<hwy::bfloat16_t>(task, head, first, out, out_stride, scratch);
    default: return scores_as<float>(task, head, first, out, out_stride, scratch);
  }
}

void AddSoftmax(float* scores, int64_t count, float* shares) {
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d)), whole = round_down(count, lanes);
  auto most = hn::Set(d, -INFINITY);
  for (int64_t i = 0; i < whole; i += lanes) most = hn::Max(hn::LoadU(d, scores + i), most);
  float maximum = hn::GetLane(hn::MaxOfLanes(d, most));
  for (int64_t i = whole; i < count; ++i) maximum = std::max(maximum, scores[i]);
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < count; i += lanes) {
    const auto n = static_cast<size_t>(std::min(lanes, count - i));
    const auto below = hn::Sub(load(d, scores + i, n), hn::Set(d, maximum));
    auto weight = hn::Exp(d, below);
    if (i == whole) weight = hn::IfThenElseZero(hn::FirstN(d, n), weight);
    // The share of a NaN is one, so that it is chosen and seen; the others' go without it, as Exp() makes it nothing.
    store(d, hn::IfThenElse(hn::IsNaN(below), below, weight), scores + i, n);
    sum = hn::Add(sum, weight);
  }
  const float total = hn::GetLane(hn::SumOfLanes(d, sum));
  const auto inverse = hn::Set(d, total > 0 ? 1.0f / total : 0.0f);
  for (int64_t i = 0; i < count; i += lanes) {
    const auto n = static_cast<size_t>(std::min(lanes, count - i));
    store(d, hn::MulAdd(load(d, scores + i, n), inverse, load(d, shares + i, n)), shares + i, n);
  }
}

void Attend(const AttentionTask& task, float* scratch) {
  switch (task.geometry->dtype) {
    case DType::kF16: return attend_as<hwy::float16_t>(task, scratch);
    case DType::kBF16: return attend_as<hwy::bfloat16_t>(task, scratch);
    default: return attend_as<float>(task, scratch);
  }
}

int64_t RowFloats() { return static_cast<int64_t>(sizeof(Row) / sizeof(float)); }

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flexgen {
HWY_EXPORT(Attend);
HWY_EXPORT(AttentionScores);
HWY_EXPORT(AddSoftmax);
HWY_EXPORT(RowFloats);

void AttentionPlan::add_stretches(std::span<const Part> parts, int64_t end_row, int64_t begin) {
  const AttentionSlot* const slot = rows_[static_cast<size_t>(parts[0].first_row)].slot;
  const int64_t first_row = parts[0].first_row;
  if (parts.size() == 1) {
    stretches_.push_back({slot, first_row, end_row, begin, rows_[static_cast<size_t>(end_row) - 1].end()});
    return;
  }
  int64_t shared = parts[1].shared;
  for (const Part& part : parts.subspan(2)) shared = std::min(shared, part.shared);
  if (shared > begin) stretches_.push_back({slot, first_row, end_row, begin, shared});
  // And then those that have more in common, group by group.
  for (size_t from = 0, to; from < parts.size(); from = to) {
    for (to = from + 1; to < parts.size() && parts[to].shared > shared;) ++to;
    add_stretches(parts.subspan(from, to - from), to < parts.size() ? parts[to].first_row : end_row, shared);
  }
}

/// Of a task for all heads, rows and stretches of which are numbered from those of all: tasks for some heads each.
void AttentionPlan::add_task(const AttentionTask& task, int64_t max_queries, int64_t max_heads) {
  const int64_t kv_heads = task.geometry->kv_heads;
  const int64_t heads = std::clamp<int64_t>(max_queries / task.queries_per_head(), 1, std::min(max_heads, kv_heads));
  for (int64_t head = 0; head < kv_heads; head += heads) {
    tasks_.push_back(task);
    tasks_.back().first_head = head;
    tasks_.back().num_heads = std::min(heads, kv_heads - head);
  }
}

/// Rows of a task of one slot.
int64_t task_rows(const TaskSize& size, int64_t group) {
  const int64_t rows = std::max<int64_t>(1, size.queries / group), whole = round_up(rows, size.multiple / std::gcd(size.multiple, group));
  return whole * group <= 2 * size.queries ? whole : rows;
}

void AttentionPlan::make(const AttentionTask& all, const TaskSize& task_size, int64_t num_workers, std::span<const AttentionSlot> slots) {
  const KvGeometry& g = *all.geometry;
  const int64_t group = g.query_heads / g.kv_heads;
  const int64_t rows = task_rows(task_size, group), max_queries = task_size.of_all_heads;
  tasks_.clear(), rows_.clear(), stretches_.clear();
  // Tasks point to these, which must not move.
  int64_t num_rows = 0;
  for (const AttentionSlot& slot : slots) num_rows += slot.num_rows;
  rows_.reserve(static_cast<size_t>(num_rows));
  stretches_.reserve(static_cast<size_t>(2 * num_rows));
  // One head's keys serve many rows while they are near; with few rows many heads make a long read.
  const auto max_heads = ceil_div(g.kv_heads * static_cast<int64_t>(slots.size()), 4 * num_workers);
  const auto dense_rows = [&](const AttentionSlot& slot) {
    return all.rule.sparsity < 1 ? std::clamp<int64_t>(slot.dense_until - slot.past, 0, slot.num_rows) : slot.num_rows;
  };
  const auto may_join = [&](const AttentionSlot& slot) {
    return slot.num_rows > 0 && slot.num_rows <= rows && dense_rows(slot) == slot.num_rows &&
           (all.rule.window == 0 || slot.past + slot.num_rows <= all.rule.window);
  };
  for (size_t at = 0; at < slots.size();) {
    const AttentionSlot& slot = slots[at];
    // All that begin alike, then as many of them a task as keep its workers busy.
    parts_.clear();
    size_t end = at + 1;
    int64_t joined = slot.num_rows;
    if (may_join(slot)) {
      parts_.push_back({0, 0});
      for (; end < slots.size() && may_join(slots[end]); ++end) {
        const int64_t shared = round_down(slots[end].shared, kAttentionSpan);
        if (shared == 0) break;
        parts_.push_back({0, shared});
        joined += slots[end].num_rows;
      }
    }
    if (end > at + 1) {
      const int64_t most = std::clamp<int64_t>(ceil_div(joined * g.kv_heads, 4 * num_workers), rows, std::max<int64_t>(rows, kSharedQueries / group));
      for (size_t from = at, to; from < end; from = to) {
        const size_t first_row = rows_.size(), first_stretch = stretches_.size();
        int64_t in_task = 0;
        for (to = from; to < end && (to == from || in_task + slots[to].num_rows <= most); ++to) {
          parts_[to - at].first_row = std::ssize(rows_);
          for (int64_t row = 0; row < slots[to].num_rows; ++row) rows_.push_back({&slots[to], row});
          in_task += slots[to].num_rows;
        }
        add_stretches(std::span(parts_).subspan(from - at, to - from), std::ssize(rows_), 0);
        for (size_t i = first_stretch; i < stretches_.size(); ++i)
          stretches_[i].first_row -= static_cast<int64_t>(first_row), stretches_[i].end_row -= static_cast<int64_t>(first_row);
        AttentionTask task = all;
        task.rows = std::span(rows_).subspan(first_row);
        task.stretches = std::span(stretches_).subspan(first_stretch);
        task.slot = task.rows[0].slot;
        add_task(task, max_queries, max_heads);
      }
      at = end;
      continue;
    }
    const int64_t dense = dense_rows(slot);
    for (int64_t row = 0; row < slot.num_rows;) {
      AttentionTask task = all;
      task.slot = &slot;
      task.sparse = row >= dense;
      const int64_t count = task.sparse ? 1 : std::min(rows, dense - row);
      const size_t first_row = rows_.size();
      for (int64_t end_row = row + count; row < end_row; ++row) rows_.push_back({&slot, row});
      stretches_.push_back({&slot, 0, count, 0, rows_.back().end()});
      task.rows = std::span(rows_).subspan(first_row);
      task.stretches = std::span(stretches_).last(1);
      add_task(task, max_queries, max_heads);
    }
    ++at;
  }
  // The longest first, so that no worker is left with a long one at the end.
  auto size = [](const AttentionTask& task) {
    int64_t positions = 0;
    for (const AttentionStretch& stretch : task.stretches) positions += (stretch.end_row - stretch.first_row) * (stretch.end - stretch.begin);
    return task.num_heads * positions;
  };
  std::stable_sort(tasks_.begin(), tasks_.end(), [&](const AttentionTask& a, const AttentionTask& b) { return size(a) > size(b); });
}

int64_t attention_scratch_floats(const AttentionTask& task) {
  const KvGeometry& g = *task.geometry;
  const int64_t queries = task.num_heads * task.queries_per_head();
  return queries * (2 * round_up(g.head_size, kMaxPair) + kScoreStride + HWY_DYNAMIC_DISPATCH(RowFloats)()) + (is_quantized(g.dtype) ? kSpan * g.head_size : 0);
}

float finish_scores(const AttentionTask& task, int64_t head, int64_t query, int64_t position, int64_t first, float* scores, int64_t count) {
  const AttentionRule& rule = task.rule;
  if (scores_are_plain(rule)) return rule.scale;
  vector_rows::scale(scores, count, rule.scale, rule.soft_cap);
  if (!rule.slopes.empty()) {
    const int64_t group = task.geometry->query_heads / task.geometry->kv_heads;
    const float slope = rule.slopes[static_cast<size_t>((task.first_head + head) * group + query)];
    for (int64_t i = 0; i < count; ++i) scores[i] += slope * static_cast<float>(first + i - position);
  }
  return 1;
}

void attend(const AttentionTask& task, float* scratch) { HWY_DYNAMIC_DISPATCH(Attend)(task, scratch); }

void attention_scores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch) {
  HWY_DYNAMIC_DISPATCH(AttentionScores)(task, head, first, out, out_stride, scratch);
}

void add_softmax(float* scores, int64_t count, float* shares) { HWY_DYNAMIC_DISPATCH(AddSoftmax)(scores, count, shares); }

}  // namespace flexgen
#endif  // HWY_ONCE
