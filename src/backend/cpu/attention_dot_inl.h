#pragma once
// Attention with products of bf16, whatever multiplies them: what a query carries from span to span, the online softmax in powers of two, the walk over spans. q and the softmax's weights are rounded to bf16,
// sums are fp32. For .cc files that are compiled for AVX512-BF16, which give the Cache: how a block of queries is multiplied with a head's keys and values of a span.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "backend/cpu/attention.h"
#include "backend/cpu/attention_packed_inl.h"
#include "backend/cpu/dot_product.h"
#include "base/units.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen {
namespace {

constexpr int64_t kSpan = kAttentionSpan;
/// Positions scored together.
constexpr int64_t kScored = 16;
constexpr int64_t kMaxHeadSize = 256, kMaxGroups = kMaxHeadSize / kQuantGroup;
/// Floats beside the H of a query's result: what the middles of each group add to all of its elements.
constexpr int64_t kMiddleSums = 16;

/// What a query row carries from span to span.
struct Row {
  int64_t first, end;          ///< positions it attends to
  int64_t packed;              ///< where it stands in q and in the result
  float maximum;               ///< of the scores, times log2 e
  alignas(64) float sums[16];  ///< of the weights, a lane; added up at the end
  float q_sums[kMaxGroups];    ///< of the query's elements, a group
};
constexpr int64_t kRowFloats = round_up(static_cast<int64_t>(sizeof(Row)), 64) / 4;

int64_t num_queries(const AttentionTask& task) { return task.num_heads * task.queries_per_head(); }

int64_t scratch_floats(const AttentionTask& task) {
  const int64_t head_size = task.geometry->head_size;
  // Queries, results, scores, rows; a packed span of bf16.
  return num_queries(task) * (head_size + (head_size + kMiddleSums) + kSpan + kRowFloats) + kSpan * head_size / 2;
}

#define FLEXGEN_INLINE inline __attribute__((always_inline))

using V = __m512;
using Words = __m512i;

/// The 32 bf16 of two vectors, to nearest even.
FLEXGEN_INLINE Words to_bf16(V low, V high) { return reinterpret_cast<Words>(_mm512_cvtne2ps_pbh(high, low)); }
FLEXGEN_INLINE Words words_at(const void* p) { return _mm512_loadu_si512(p); }

constexpr float kLog2E = 1.44269504f;
/// Of the Taylor series of e^(r ln 2), from r^7 on.
constexpr float kExp2Last = 1.54035304e-4f, kExp2Factors[] = {1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.0f};

/// 2^x for x <= 0, to about 1e-7 of itself; below -126 as at -126: the series of the rest r beside a whole number.
FLEXGEN_INLINE V exp2_of(V x) {
  x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x);  // in this order a NaN stays one
  const V n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const V r = _mm512_sub_ps(x, n);
  V p = _mm512_set1_ps(kExp2Last);
  for (const float factor : kExp2Factors) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(factor));
  return _mm512_scalef_ps(p, n);
}

/// A bit for each position of a span, set for those in [first, end), which may lie beyond it.
FLEXGEN_INLINE uint64_t positions_in(int64_t first, int64_t end) {
  const int64_t from = std::clamp<int64_t>(first, 0, kSpan), to = std::clamp<int64_t>(end, from, kSpan);
  return from == to ? 0 : ~uint64_t{0} >> (kSpan - (to - from)) << from;
}
FLEXGEN_INLINE __mmask16 sixteen_of(uint64_t positions, int64_t at) { return static_cast<__mmask16>(positions >> at); }

/// What the kernels below need of a head's rows in a page: the first one wanted.
FLEXGEN_INLINE const std::byte* row_at(const AttentionTask& task, int64_t which, int64_t head, int64_t position) {
  const KvGeometry& g = *task.geometry;
  return task.slot->pages[position / g.page_tokens] + g.row_offset(which, task.first_head + head, position);
}

/// Asks for bytes at p + offset, to lie in the second-level cache (the first is too small for what is under way); may lie anywhere.
FLEXGEN_INLINE void fetch_ahead(const std::byte* p, int64_t offset, int64_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(offset);
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(address + static_cast<uintptr_t>(i)), _MM_HINT_T1);
}

/// The same of four vectors side by side, as each step waits for the one before.
FLEXGEN_INLINE void exp2_of_four(V (&x)[4]) {
  V n[4], p[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_max_ps(_mm512_set1_ps(-126.0f), x[i]);
    n[i] = _mm512_roundscale_ps(x[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    x[i] = _mm512_sub_ps(x[i], n[i]);
    p[i] = _mm512_set1_ps(kExp2Last);
  }
#pragma GCC unroll 6
  for (const float factor : kExp2Factors)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) p[i] = _mm512_fmadd_ps(p[i], x[i], _mm512_set1_ps(factor));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) x[i] = _mm512_scalef_ps(p[i], n[i]);
}

/// One span of the online softmax, as in attention.cc, in powers of two. The positions `mine` of the span are the row's: all of them if kWhole. Scores [kSpan] become weights, zero for other positions: floats, or bf16
/// at the beginning.
template <bool kInBf16, bool kWhole>
FLEXGEN_INLINE void soften(Row& row, float* scores, uint64_t mine, float scale, float* mixed, int64_t mixed_size) {
  const V factor = _mm512_set1_ps(scale * kLog2E), lowest = _mm512_set1_ps(-INFINITY);
  V scaled[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const V score = _mm512_loadu_ps(scores + 16 * i);
    scaled[i] = kWhole ? _mm512_mul_ps(score, factor) : _mm512_mask_mul_ps(lowest, sixteen_of(mine, 16 * i), score, factor);
  }
  // A NaN is kept where it is the second operand of the last one.
  V maximum = lowest;
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) maximum = _mm512_max_ps(maximum, scaled[i]);
  const float new_maximum = std::max(row.maximum, _mm512_reduce_max_ps(maximum));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) scaled[i] = _mm512_sub_ps(scaled[i], _mm512_set1_ps(new_maximum));
  exp2_of_four(scaled);
  V sum = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    if constexpr (!kWhole) scaled[i] = _mm512_maskz_mov_ps(sixteen_of(mine, 16 * i), scaled[i]);
    if constexpr (!kInBf16) _mm512_storeu_ps(scores + 16 * i, scaled[i]);
    sum = _mm512_add_ps(sum, scaled[i]);
  }
  if constexpr (kInBf16) {
    _mm512_storeu_si512(scores, to_bf16(scaled[0], scaled[1]));
    _mm512_storeu_si512(scores + 16, to_bf16(scaled[2], scaled[3]));
  }
  if (new_maximum != row.maximum) {
    const V shrink = exp2_of(_mm512_set1_ps(row.maximum - new_maximum));
    for (int64_t i = 0; i < mixed_size; i += 16) _mm512_storeu_ps(mixed + i, _mm512_mul_ps(_mm512_loadu_ps(mixed + i), shrink));
    _mm512_store_ps(row.sums, _mm512_mul_ps(_mm512_load_ps(row.sums), shrink));
    row.maximum = new_maximum;
  }
  _mm512_store_ps(row.sums, _mm512_add_ps(_mm512_load_ps(row.sums), sum));
}

FLEXGEN_INLINE void query_to_bf16(const float* q, int64_t head_size, uint16_t* to) {
  for (int64_t i = 0; i < head_size; i += 32) _mm512_storeu_si512(to + i, to_bf16(_mm512_loadu_ps(q + i), _mm512_loadu_ps(q + i + 16)));
}

/// The 32 elements from i on of what was mixed of values that packed_span::interleave() turned, in their order.
FLEXGEN_INLINE void unmix_bf16(const float* mixed, int64_t i, V& low, V& high) {
  const Words low_order = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const V a = _mm512_loadu_ps(mixed + i), b = _mm512_loadu_ps(mixed + i + 16);
  low = _mm512_permutex2var_ps(a, low_order, b);
  high = _mm512_permutex2var_ps(a, _mm512_add_epi32(low_order, _mm512_set1_epi32(8)), b);
}

// A Cache has:
//   kQueries: of a head, that are multiplied at a time; query_words(): of 16 bits, that a packed query takes; pack_query(), unmix()
//   Parameters: of a head's keys (which = 0) or values (1) in a span, read before they are multiplied
//   score_block(): the scores of `count` <= kQueries queries; mix_block(): adds the values by the weights that these have become
//   kBf16Weights: whether weights are bf16, at the beginning of where their scores were

template <class Cache>
void scores_as(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch) {
  const KvGeometry& g = *task.geometry;
  const int64_t group = g.query_heads / g.kv_heads, words = Cache::query_words(g.head_size);
  Row* const rows = reinterpret_cast<Row*>(scratch);
  float* const scores = scratch + group * kRowFloats;
  uint16_t* const q = reinterpret_cast<uint16_t*>(scores + group * kSpan);
  const int64_t row = task.slot->first_row + task.rows[0].row, end = task.rows[0].end();
  for (int64_t m = 0; m < group; ++m) {
    rows[m] = {first, end, (row * g.query_heads + (task.first_head + head) * group + m) * g.head_size, -INFINITY, {}, {}};
    Cache::pack_query(task.q + rows[m].packed, g.head_size, q + m * words, rows[m]);
  }
  typename Cache::Parameters parameters;
  for (int64_t span = round_down(first, kSpan); span < end; span += kSpan) {
    const int64_t from = std::max<int64_t>(0, first - span), to = std::min(kSpan, end - span);
    parameters.read(task, 0, head, span, from, to);
    for (int64_t m = 0; m < group; m += Cache::kQueries)
      Cache::score_block(std::min(Cache::kQueries, group - m), task, head, span, from, to, q + m * words, parameters, rows + m, scores + m * kSpan);
    for (int64_t m = 0; m < group; ++m) {
      const float scale = finish_scores(task, head, m, end - 1, span + from, scores + m * kSpan + from, to - from);
      for (int64_t t = from; t < to; ++t) out[m * out_stride + span + t - first] = scores[m * kSpan + t] * scale;
    }
  }
}

template <class Cache>
void attend_as(const AttentionTask& whole, float* scratch) {
  AttentionTask task = whole;
  const KvGeometry& g = *task.geometry;
  const int64_t head_size = g.head_size, group = g.query_heads / g.kv_heads, per_head = task.queries_per_head();
  const int64_t count = num_queries(task), stride = head_size + kMiddleSums, words = Cache::query_words(head_size);
  Row* const rows = reinterpret_cast<Row*>(scratch);
  float* const mixed = scratch + count * kRowFloats;
  float* const scores = mixed + count * stride;
  uint16_t* const q = reinterpret_cast<uint16_t*>(scores + count * kSpan);
  uint32_t* const room = reinterpret_cast<uint32_t*>(q + count * words);

  const bool is_plain = scores_are_plain(task.rule);
  // Query m belongs to kv head m / per_head.
  for (int64_t m = 0; m < count; ++m) {
    const int64_t head = task.first_head + m / per_head, in_head = m % per_head;
    const AttentionRow& from = task.rows[static_cast<size_t>(in_head / group)];
    const int64_t end = from.end(), query_head = head * group + in_head % group;
    const SoftmaxStart start = softmax_start(task.rule, query_head);
    rows[m] = {end - task.rule.visible(end - 1), end,         ((from.slot->first_row + from.row) * g.query_heads + query_head) * head_size,
               start.maximum * kLog2E,           {start.sum}, {}};
    Cache::pack_query(task.q + rows[m].packed, head_size, q + m * words, rows[m]);
    std::fill_n(mixed + m * stride, stride, 0.0f);
  }

  typename Cache::Parameters parameters;
  for (const AttentionStretch& stretch : task.stretches) {
    task.slot = stretch.slot;
    const int64_t first_query = stretch.first_row * group, end_query = stretch.end_row * group;  // of each head
    parameters.begin(end_query - first_query, room);
    const int64_t stretch_begin = std::max(stretch.begin, rows[first_query].first), stretch_end = std::min(stretch.end, rows[end_query - 1].end);
    for (int64_t span = round_down(stretch_begin, kSpan); span < stretch_end; span += kSpan) {
      const int64_t span_begin = std::max<int64_t>(0, stretch_begin - span), span_end = std::min(kSpan, stretch_end - span);
      // All heads' keys, then all heads' values: that is how they lie in a page, and memory is read in order.
      for (int64_t head = 0; head < task.num_heads; ++head) {
        parameters.read(task, 0, head, span, span_begin, span_end);
        for (int64_t m = head * per_head + first_query; m < head * per_head + end_query; m += Cache::kQueries) {
          const int64_t block = std::min(Cache::kQueries, head * per_head + end_query - m);
          const int64_t begin = std::max<int64_t>(0, rows[m].first - span), end = std::min(kSpan, rows[m + block - 1].end - span);
          Cache::score_block(block, task, head, span, begin, end, q + m * words, parameters, rows + m, scores + m * kSpan);
        }
      }
      for (int64_t head = 0; head < task.num_heads; ++head)
        for (int64_t m = head * per_head + first_query; m < head * per_head + end_query; ++m) {
          const int64_t first = std::max<int64_t>(0, rows[m].first - span), end = std::min(kSpan, rows[m].end - span);
          if (first >= end) {
            if constexpr (Cache::kBf16Weights) std::fill_n(scores + m * kSpan, kSpan / 2, 0.0f);
            continue;
          }
          float scale = task.rule.scale;
          if (!is_plain) scale = finish_scores(task, head, m % per_head % group, rows[m].end - 1, span + first, scores + m * kSpan + first, end - first);
          const uint64_t mine = positions_in(first, end);
          if (mine == ~uint64_t{0}) soften<Cache::kBf16Weights, true>(rows[m], scores + m * kSpan, mine, scale, mixed + m * stride, stride);
          else soften<Cache::kBf16Weights, false>(rows[m], scores + m * kSpan, mine, scale, mixed + m * stride, stride);
        }
      for (int64_t head = 0; head < task.num_heads; ++head) {
        parameters.read(task, 1, head, span, span_begin, span_end);
        for (int64_t m = head * per_head + first_query; m < head * per_head + end_query; m += Cache::kQueries) {
          const int64_t block = std::min(Cache::kQueries, head * per_head + end_query - m);
          Cache::mix_block(block, task, head, span, rows + m, scores + m * kSpan, parameters, mixed + m * stride, stride);
        }
      }
    }
  }

  for (int64_t m = 0; m < count; ++m) {
    auto* const out = reinterpret_cast<uint16_t*>(task.out) + rows[m].packed;
    const V inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(_mm512_load_ps(rows[m].sums)));
    for (int64_t i = 0; i < head_size; i += 32) {
      V low, high;
      Cache::unmix(mixed + m * stride, i, head_size, low, high);
      _mm512_storeu_si512(out + i, to_bf16(_mm512_mul_ps(low, inverse), _mm512_mul_ps(high, inverse)));
    }
  }
}

#undef FLEXGEN_INLINE
}  // namespace
}  // namespace flexgen
HWY_POP_ATTRIBUTES
