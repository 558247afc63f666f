#include "backend/cpu/attention_dot.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/units.h"

#if defined(__x86_64__)
#include "backend/cpu/attention_dot_inl.h"
#endif

namespace flexgen {

#if !defined(__x86_64__)
int64_t attention_dot_scratch_floats(const AttentionTask&) { return 0; }
bool attention_dot_fits(const KvGeometry&, DType) { return false; }
void attention_dot_scores(const AttentionTask&, int64_t, int64_t, float*, int64_t, float*) {
  FLEXGEN_CHECK(false, "no bf16 dot products on this kind of machine");
}
void attend_dot(const AttentionTask&, float*) { FLEXGEN_CHECK(false, "no bf16 dot products on this kind of machine"); }
#else

int64_t attention_dot_scratch_floats(const AttentionTask& task) { return scratch_floats(task); }

bool attention_dot_fits(const KvGeometry& g, DType out_dtype) {
  const int64_t grain = g.dtype == DType::kInt4 ? kQuantGroup : 32;
  return dot_product::is_supported() && out_dtype == DType::kBF16 && (g.dtype == DType::kBF16 || g.dtype == DType::kInt4) && g.head_size % grain == 0 &&
         g.head_size <= kMaxHeadSize && g.page_tokens % kScored == 0;
}

}  // namespace flexgen

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen {
namespace {

#define FLEXGEN_INLINE inline __attribute__((always_inline))

using packed_span::dot;

/// A cache whose queries are multiplied four at a time.
template <class Cache>
struct ByFours {
  static constexpr int64_t kQueries = 4;
  static constexpr bool kBf16Weights = false;

  template <int kRows, class Parameters>
  static void score_span(const AttentionTask& task, int64_t head, int64_t span, int64_t begin, int64_t end, const uint16_t* q, const Parameters& parameters,
                         const Row* rows, float* scores) {
    for (int64_t t = round_down(begin, kScored); t < end; t += kScored)
      Cache::template score<kRows>(q, row_at(task, 0, head, span + t), task.geometry->head_size, parameters, t, rows, scores + t);
  }
  template <class Parameters>
  static void score_block(int64_t count, const AttentionTask& task, int64_t head, int64_t span, int64_t begin, int64_t end, const uint16_t* q,
                          const Parameters& parameters, const Row* rows, float* scores) {
    auto* const score = count == 4   ? score_span<4, Parameters>
                        : count == 3 ? score_span<3, Parameters>
                        : count == 2 ? score_span<2, Parameters>
                                     : score_span<1, Parameters>;
    score(task, head, span, begin, end, q, parameters, rows, scores);
  }
  template <class Parameters>
  static void mix_block(int64_t count, const AttentionTask& task, int64_t head, int64_t span, const Row* rows, const float* scores,
                        const Parameters& parameters, float* mixed, int64_t stride) {
    auto* const mix = count == 4 ? Cache::template mix<4> : count == 3 ? Cache::template mix<3> : count == 2 ? Cache::template mix<2> : Cache::template mix<1>;
    mix(task, head, span, rows, scores, parameters, mixed, stride);
  }
};

/// In each 128 bits the sums of the four floats that a, b, c, e have there.
FLEXGEN_INLINE V sum_fours(V a, V b, V c, V e) {
  const V ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const V ce = _mm512_add_ps(_mm512_unpacklo_ps(c, e), _mm512_unpackhi_ps(c, e));
  const __m512d abd = _mm512_castps_pd(ab), ced = _mm512_castps_pd(ce);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(abd, ced)), _mm512_castpd_ps(_mm512_unpackhi_pd(abd, ced)));
}

// --- bf16 ---

struct Bf16Cache : ByFours<Bf16Cache> {
  static constexpr int64_t kTokensAhead = 32;
  static int64_t query_words(int64_t head_size) { return head_size; }

  static void pack_query(const float* q, int64_t head_size, uint16_t* to, Row&) { query_to_bf16(q, head_size, to); }

  /// A head's keys or values of a span, packed where many queries read them.
  struct Parameters {
    uint32_t* packed = nullptr;

    /// room: for [kSpan / 2, head_size] of words.
    void begin(int64_t num_queries, uint32_t* room) { packed = num_queries >= packed_span::kLeastQueries ? room : nullptr; }

    /// Those of positions [begin, end) of the span, in whole groups; what stands outside is packed too, and not to be used.
    void read(const AttentionTask& task, int64_t which, int64_t head, int64_t span, int64_t begin, int64_t end) {
      if (packed == nullptr) return;
      const int64_t head_size = task.geometry->head_size, row_bytes = 2 * head_size, group = which == 0 ? kScored : 2;
      for (int64_t t = round_down(begin, group); t < end; t += group) {
        const std::byte* rows = row_at(task, which, head, span + t);
        fetch_ahead(rows, kTokensAhead * row_bytes, group * row_bytes);
        if (which == 0) packed_span::pack_keys(rows, head_size, packed + t * head_size / 2);
        else packed_span::pack_values(rows, head_size, packed + t * head_size / 2);
      }
    }
  };

  /// scores[m][0..16) = q[m] . keys[0..16)
  template <int kRows>
  static FLEXGEN_INLINE void score(const uint16_t* q, const std::byte* keys, int64_t head_size, const Parameters& parameters, int64_t t, const Row*,
                                   float* scores) {
    if (parameters.packed != nullptr) return packed_span::score<kRows>(q, parameters.packed + t * head_size / 2, head_size, scores, kSpan);
    const int64_t row_bytes = 2 * head_size;
    V fours[kRows][4];
    for (int64_t quarter = 0; quarter < 4; ++quarter) {
      const std::byte* key = keys + quarter * 4 * row_bytes;
      fetch_ahead(key, kTokensAhead * row_bytes, 4 * row_bytes);
      V sums[kRows][4];
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) sums[m][j] = _mm512_setzero_ps();
      for (int64_t i = 0; i < head_size; i += 32) {
        Words factors[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) factors[j] = words_at(key + j * row_bytes + 2 * i);
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m) {
          const Words query = words_at(q + m * head_size + i);
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) sums[m][j] = dot(sums[m][j], factors[j], query);
        }
      }
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) fours[m][quarter] = sum_fours(sums[m][0], sums[m][1], sums[m][2], sums[m][3]);
    }
    for (int m = 0; m < kRows; ++m) {
      const V* x = fours[m];
      const V low = _mm512_add_ps(_mm512_shuffle_f32x4(x[0], x[1], 0x44), _mm512_shuffle_f32x4(x[0], x[1], 0xee));
      const V high = _mm512_add_ps(_mm512_shuffle_f32x4(x[2], x[3], 0x44), _mm512_shuffle_f32x4(x[2], x[3], 0xee));
      _mm512_storeu_ps(scores + m * kSpan, _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd)));
    }
  }

  /// mixed[m][part ..] += sum over pairs of tokens, those of [from, to) of the span. pair(t, j, low, high): chunk j of the values of t and t + 1, interleaved.
  template <int kRows, int kChunks, class Pair>
  static FLEXGEN_INLINE void mix_part(const uint32_t (*weights)[kSpan / 2], int64_t from, int64_t to, float* mixed, int64_t stride, const Pair& pair) {
    V sums[kRows][2 * kChunks];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
      for (int j = 0; j < 2 * kChunks; ++j) sums[m][j] = _mm512_loadu_ps(mixed + m * stride + 16 * j);
    for (int64_t t = from & ~int64_t{1}; t < to; t += 2) {
      V factors[kRows];
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) factors[m] = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(weights[m][t / 2])));
#pragma GCC unroll 2
      for (int j = 0; j < kChunks; ++j) {
        Words low, high;
        pair(t, j, low, high);
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m) {
          sums[m][2 * j] = dot(sums[m][2 * j], low, _mm512_castps_si512(factors[m]));
          sums[m][2 * j + 1] = dot(sums[m][2 * j + 1], high, _mm512_castps_si512(factors[m]));
        }
      }
    }
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
      for (int j = 0; j < 2 * kChunks; ++j) _mm512_storeu_ps(mixed + m * stride + 16 * j, sums[m][j]);
  }

  /// Calls part(std::integral_constant<int, n>, i) for the n chunks of 32 elements from i on, all of a head.
  template <class Part>
  static FLEXGEN_INLINE void for_chunks(int64_t head_size, const Part& part) {
    int64_t i = 0;
    for (; i + 64 <= head_size; i += 64) part(std::integral_constant<int, 2>(), i);
    for (; i < head_size; i += 32) part(std::integral_constant<int, 1>(), i);
  }

  template <int kRows>
  static FLEXGEN_INLINE void mix_rows(const AttentionTask& task, int64_t head, int64_t span, int64_t from, int64_t to, const uint32_t (*weights)[kSpan / 2],
                                      float* mixed, int64_t stride) {
    const KvGeometry& g = *task.geometry;
    while (from < to) {
      const int64_t stop = std::min(to, ((span + from) / g.page_tokens + 1) * g.page_tokens - span);
      const int64_t row_bytes = 2 * g.head_size, even = from & ~int64_t{1};
      const std::byte* values = row_at(task, 1, head, span + even);
      for_chunks(g.head_size, [&](auto chunks, int64_t i) {
        mix_part<kRows, decltype(chunks)::value>(weights, from, stop, mixed + i, stride, [&](int64_t t, int j, Words& low, Words& high) {
          const std::byte* at = values + (t - even) * row_bytes + 2 * i + 64 * j;
          if (i == 0 && j == 0) fetch_ahead(at, kTokensAhead * row_bytes, 2 * row_bytes);
          // A token outside must not even be multiplied by zero: it might be infinite.
          const Words first = t >= from ? words_at(at) : _mm512_setzero_si512();
          const Words second = t + 1 < stop ? words_at(at + row_bytes) : _mm512_setzero_si512();
          packed_span::interleave(first, second, low, high);
        });
      });
      from = stop;
    }
  }

  /// The same of packed values; from and to are even.
  template <int kRows>
  static FLEXGEN_INLINE void mix_packed(const uint32_t* values, int64_t from, int64_t to, int64_t head_size, const uint32_t (*weights)[kSpan / 2], float* mixed,
                                        int64_t stride) {
    for_chunks(head_size, [&](auto chunks, int64_t i) {
      mix_part<kRows, decltype(chunks)::value>(weights, from, to, mixed + i, stride, [&](int64_t t, int j, Words& low, Words& high) {
        const uint32_t* at = values + t * head_size / 2 + i + 32 * j;
        low = words_at(at);
        high = words_at(at + 16);
      });
    });
  }

  /// All that the queries' weights give of one head in a span. scores: the weights; each row's [first, end) is clear.
  template <int kRows>
  static void mix(const AttentionTask& task, int64_t head, int64_t span, const Row* rows, const float* scores, const Parameters& parameters, float* mixed,
                  int64_t stride) {
    alignas(64) uint32_t weights[kRows][kSpan / 2];
    int64_t first[kRows], end[kRows], all_first = 0, all_end = kSpan;
    for (int m = 0; m < kRows; ++m) {
      for (int64_t i = 0; i < kSpan; i += 32)
        _mm512_store_si512(weights[m] + i / 2, to_bf16(_mm512_loadu_ps(scores + m * kSpan + i), _mm512_loadu_ps(scores + m * kSpan + i + 16)));
      first[m] = std::max<int64_t>(0, rows[m].first - span);
      end[m] = std::clamp<int64_t>(rows[m].end - span, first[m], std::max(first[m], kSpan));
      all_first = std::max(all_first, first[m]);
      all_end = std::min(all_end, end[m]);
    }
    // Pairs that all rows attend to, together; what is before and after, row by row. A row's sums grow in the order of positions either way.
    all_first = round_up(all_first, 2);
    all_end = std::max(all_first, round_down(all_end, 2));
    for (int m = 0; m < kRows; ++m) mix_rows<1>(task, head, span, first[m], std::min(all_first, end[m]), weights + m, mixed + m * stride, stride);
    if (parameters.packed != nullptr) mix_packed<kRows>(parameters.packed, all_first, all_end, task.geometry->head_size, weights, mixed, stride);
    else mix_rows<kRows>(task, head, span, all_first, all_end, weights, mixed, stride);
    for (int m = 0; m < kRows; ++m) mix_rows<1>(task, head, span, std::max(all_end, first[m]), end[m], weights + m, mixed + m * stride, stride);
  }

  static FLEXGEN_INLINE void unmix(const float* mixed, int64_t i, int64_t /*head_size*/, V& low, V& high) { unmix_bf16(mixed, i, low, high); }
};

// --- int4 ---

// A group is 32 bytes: byte i has code i in its low half and code i + 32 in its high half. Two tokens' bytes fill a vector of 32 words of four
// codes each; the codes at one place of all words become bf16 factors by one look-up, and what they mean is applied to sums: with step = 1 / scale and
// x = minimum + code step = middle + (code - 8) step,  sum q x = middle (sum q) + (sum q (code - 8)) step,  and the weights of values are
// multiplied by their token's step. Codes are taken about their middle as the rounding of these weights to bf16 counts less so.

/// bf16 of code - 8, twice: vpermw takes five bits of an index, and the fifth is of the neighbouring code.
FLEXGEN_INLINE Words code_table() {
  alignas(64) static const uint16_t table[32] = {0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000,
                                                 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040,
                                                 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
  return _mm512_load_si512(table);
}
/// The factors at place n of all words: elements 2w, 2w + 32, 2w + 1, 2w + 33 of word w's group for n = 0, 1, 2, 3.
template <int n>
FLEXGEN_INLINE Words factors_of(Words words, Words table) {
  return _mm512_permutexvar_epi16(n == 0 ? words : _mm512_srli_epi16(words, 4 * n), table);
}
FLEXGEN_INLINE Words two_groups(const std::byte* first, const std::byte* second) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first))),
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)), 1);
}

struct Int4Cache : ByFours<Int4Cache> {
  static constexpr int64_t kTokensAhead = 2 * kSpan;  // a span's scales are read before its codes, and what was asked for a span ago may still be on its way
  static int64_t query_words(int64_t head_size) { return 2 * head_size; }

  /// In the order of factors_of(), once for each of two tokens.
  static void pack_query(const float* q, int64_t head_size, uint16_t* to, Row& row) {
    alignas(64) uint16_t order[32];
    for (int w = 0; w < 32; ++w) order[w] = static_cast<uint16_t>(2 * (w % 16));
    const Words even = _mm512_load_si512(order), odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
    for (int64_t group = 0; group < head_size / kQuantGroup; ++group, q += kQuantGroup, to += 2 * kQuantGroup) {
      const Words low = to_bf16(_mm512_loadu_ps(q), _mm512_loadu_ps(q + 16)), high = to_bf16(_mm512_loadu_ps(q + 32), _mm512_loadu_ps(q + 48));
      _mm512_storeu_si512(to, _mm512_permutexvar_epi16(even, low));
      _mm512_storeu_si512(to + 32, _mm512_permutexvar_epi16(even, high));
      _mm512_storeu_si512(to + 64, _mm512_permutexvar_epi16(odd, low));
      _mm512_storeu_si512(to + 96, _mm512_permutexvar_epi16(odd, high));
      const Words ones = _mm512_set1_epi16(0x3f80);
      row.q_sums[group] = _mm512_reduce_add_ps(dot(dot(_mm512_setzero_ps(), low, ones), high, ones));
    }
  }

  /// to[i] = the Number at from + i stride, for i in [0, kScored).
  template <class Number>
  static FLEXGEN_INLINE void copy_strided(const std::byte* from, int64_t stride, uint64_t* to) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < kScored; ++i, from += stride) {
      Number number;
      std::memcpy(&number, from, sizeof(number));
      asm("" : "+r"(number));  // else GCC collects them in vectors first, which takes twice as long
      to[i] = number;
    }
  }

  /// step and middle of the rows of a span, for each group.
  struct Parameters {
    alignas(64) float steps[kMaxGroups][kSpan];
    alignas(64) float middles[kMaxGroups][kSpan];

    void begin(int64_t /*num_queries*/, uint32_t* /*room*/) {}
    /// Of the positions [begin, end) in the span, filled up to whole sixteens.
    FLEXGEN_INLINE void read(const AttentionTask& task, int64_t which, int64_t head, int64_t span, int64_t begin, int64_t end) {
      const KvGeometry& g = *task.geometry;
      const int64_t num_groups = g.head_size / kQuantGroup, stride = row_bytes(g.dtype, g.head_size);
      // Those of two groups at a time, by plain loads: a gather takes longer.
      alignas(64) uint64_t twos[ceil_div(kMaxGroups, 2)][kSpan];
      for (int64_t t = round_down(begin, kScored); t < end; t += kScored) {
        const std::byte* row = row_at(task, which, head, span + t) + g.head_size / 2;
        for (int64_t group = 0; group < num_groups; group += 2) {
          const std::byte* from = row + 4 * group;
          uint64_t* to = &twos[group / 2][t];
          if (group + 1 < num_groups) copy_strided<uint64_t>(from, stride, to);
          else copy_strided<uint32_t>(from, stride, to);
        }
      }
      const Words even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
      for (int64_t t = round_down(begin, kScored); t < end; t += kScored)
        for (int64_t group = 0; group < num_groups; ++group) {
          const Words both = _mm512_permutex2var_epi32(words_at(&twos[group / 2][t]), group % 2 == 0 ? even : odd, words_at(&twos[group / 2][t + 8]));
          const V scale = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
          const __mmask16 some = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_NEQ_UQ);
          const V step = _mm512_maskz_div_ps(some, _mm512_set1_ps(1.0f), scale);
          const V minimum = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
          _mm512_store_ps(steps[group] + t, step);
          _mm512_store_ps(middles[group] + t, _mm512_fmadd_ps(step, _mm512_set1_ps(8.0f), minimum));
        }
    }
  };

  template <int kRows>
  static FLEXGEN_INLINE void score(const uint16_t* q, const std::byte* keys, int64_t head_size, const Parameters& parameters, int64_t t, const Row* rows,
                                   float* scores) {
    const int64_t num_groups = head_size / kQuantGroup, row_bytes = head_size / 2 + 4 * num_groups;
    const Words table = code_table();
    const Words first_eight = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), next_two = _mm512_set1_epi32(2);
    V pairs[kRows][kScored / 2];
    // Two pairs share the loads of the queries.
#pragma GCC unroll 1
    for (int64_t pair = 0; pair < kScored / 2; pair += 2) {
      const std::byte* key = keys + 2 * pair * row_bytes;
      fetch_ahead(key, kTokensAhead * row_bytes, 4 * row_bytes);
      V sums[kRows][2];
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) sums[m][0] = sums[m][1] = _mm512_setzero_ps();
#pragma GCC unroll 1
      for (int64_t group = 0; group < num_groups; ++group) {
        const Words first = two_groups(key + 32 * group, key + row_bytes + 32 * group);
        const Words second = two_groups(key + 2 * row_bytes + 32 * group, key + 3 * row_bytes + 32 * group);
        V codes[kRows][2];
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m) codes[m][0] = codes[m][1] = _mm512_setzero_ps();
        auto add_place = [&]<int n>() __attribute__((always_inline)) {
          const Words a = factors_of<n>(first, table), b = factors_of<n>(second, table);
#pragma GCC unroll 4
          for (int m = 0; m < kRows; ++m) {
            const Words query = words_at(q + m * 2 * head_size + 128 * group + 32 * n);
            codes[m][0] = dot(codes[m][0], a, query);
            codes[m][1] = dot(codes[m][1], b, query);
          }
        };
        add_place.template operator()<0>();
        add_place.template operator()<1>();
        add_place.template operator()<2>();
        add_place.template operator()<3>();
        const V four = _mm512_broadcast_f32x4(_mm_loadu_ps(parameters.steps[group] + t + 2 * pair));
        const V steps[2] = {_mm512_permutexvar_ps(first_eight, four), _mm512_permutexvar_ps(_mm512_add_epi32(first_eight, next_two), four)};
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
          for (int i = 0; i < 2; ++i) sums[m][i] = _mm512_fmadd_ps(codes[m][i], steps[i], sums[m][i]);
      }
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) pairs[m][pair] = sums[m][0], pairs[m][pair + 1] = sums[m][1];
    }
    const Words order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    for (int m = 0; m < kRows; ++m) {
      const V* x = pairs[m];
      const V low = sum_fours(x[0], x[1], x[2], x[3]), high = sum_fours(x[4], x[5], x[6], x[7]);
      V sums = _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));  // even tokens of four pairs, odd ones, ...
      sums = _mm512_permutexvar_ps(order, sums);
      for (int64_t group = 0; group < num_groups; ++group)
        sums = _mm512_fmadd_ps(_mm512_load_ps(parameters.middles[group] + t), _mm512_set1_ps(rows[m].q_sums[group]), sums);
      _mm512_storeu_ps(scores + m * kSpan, sums);
    }
  }

  template <int kRows>
  static void mix(const AttentionTask& task, int64_t head, int64_t span, const Row* rows, const float* scores, const Parameters& parameters, float* mixed,
                  int64_t stride) {
    const KvGeometry& g = *task.geometry;
    const int64_t num_groups = g.head_size / kQuantGroup, row_bytes = g.head_size / 2 + 4 * num_groups;
    const Words table = code_table();
    alignas(64) uint16_t order[32];  // of two tokens' words: the first of each, the second of each, ...
    for (int w = 0; w < 32; ++w) order[w] = static_cast<uint16_t>(w / 2 + 16 * (w % 2));
    const Words pairwise = _mm512_load_si512(order);

    int64_t begin = kSpan, end = 0;
    for (int m = 0; m < kRows; ++m) {
      begin = std::min(begin, std::max<int64_t>(0, rows[m].first - span));
      end = std::max(end, std::min(kSpan, rows[m].end - span));
    }
    begin = round_down(begin, 2);
    for (int64_t group = 0; group < num_groups; ++group) {
      // Weights over scales; zero for tokens that are not a row's. Codes are finite whatever the memory holds, so a zero is enough.
      alignas(64) uint32_t weights[kRows][kSpan / 2];
      for (int m = 0; m < kRows; ++m) {
        const uint64_t mine = positions_in(rows[m].first - span, rows[m].end - span);
        V middle_sum = _mm512_setzero_ps();
        for (int64_t t = 0; t < kSpan; t += 32) {
          V scaled[2];
          for (int64_t part = 0; part < 2; ++part) {
            const int64_t at = t + 16 * part;
            const V weight = _mm512_loadu_ps(scores + m * kSpan + at);
            scaled[part] = _mm512_maskz_mul_ps(sixteen_of(mine, at), weight, _mm512_load_ps(parameters.steps[group] + at));
            middle_sum = _mm512_mask3_fmadd_ps(weight, _mm512_load_ps(parameters.middles[group] + at), middle_sum, sixteen_of(mine, at));
          }
          _mm512_store_si512(weights[m] + t / 2, to_bf16(scaled[0], scaled[1]));
        }
        mixed[m * stride + g.head_size + group] += _mm512_reduce_add_ps(middle_sum);
      }
      float* part = mixed + group * kQuantGroup;
      V sums[kRows][4];
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) sums[m][n] = _mm512_loadu_ps(part + m * stride + 16 * n);
      for (int64_t from = begin; from < end;) {
        const int64_t stop = std::min(end, ((span + from) / g.page_tokens + 1) * g.page_tokens - span);
        const std::byte* values = row_at(task, 1, head, span + from);
        // By pointer: GCC keeps a counter of tokens in a vector register, and halves it there.
        const uint32_t* const last = weights[0] + ceil_div(stop, 2);
#pragma GCC unroll 1
        for (const uint32_t* weight = weights[0] + from / 2; weight != last; ++weight, values += 2 * row_bytes) {
          if (group == 0) fetch_ahead(values, kTokensAhead * row_bytes, 2 * row_bytes);
          const Words words = _mm512_permutexvar_epi16(pairwise, two_groups(values + 32 * group, values + row_bytes + 32 * group));
          const Words f0 = factors_of<0>(words, table), f1 = factors_of<1>(words, table), f2 = factors_of<2>(words, table), f3 = factors_of<3>(words, table);
#pragma GCC unroll 4
          for (int m = 0; m < kRows; ++m) {
            const Words twice = _mm512_set1_epi32(static_cast<int>(weight[m * (kSpan / 2)]));
            sums[m][0] = dot(sums[m][0], f0, twice);
            sums[m][1] = dot(sums[m][1], f1, twice);
            sums[m][2] = dot(sums[m][2], f2, twice);
            sums[m][3] = dot(sums[m][3], f3, twice);
          }
        }
        from = stop;
      }
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) _mm512_storeu_ps(part + m * stride + 16 * n, sums[m][n]);
    }
  }

  static FLEXGEN_INLINE void unmix(const float* mixed, int64_t i, int64_t head_size, V& low, V& high) {
    const float* group = mixed + i / kQuantGroup * kQuantGroup + i % kQuantGroup / 2;  // places 0 and 2, or 1 and 3
    const V even = _mm512_loadu_ps(group), odd = _mm512_loadu_ps(group + 32);
    const Words low_order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const V middle = _mm512_set1_ps(mixed[head_size + i / kQuantGroup]);
    low = _mm512_add_ps(_mm512_permutex2var_ps(even, low_order, odd), middle);
    high = _mm512_add_ps(_mm512_permutex2var_ps(even, _mm512_add_epi32(low_order, _mm512_set1_epi32(8)), odd), middle);
  }
};

}  // namespace

void attend_dot(const AttentionTask& task, float* scratch) {
  if (task.geometry->dtype == DType::kInt4) return attend_as<Int4Cache>(task, scratch);
  FLEXGEN_CHECK(task.geometry->dtype == DType::kBF16, "bf16 or int4");
  attend_as<Bf16Cache>(task, scratch);
}

void attention_dot_scores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch) {
  auto* const scores = task.geometry->dtype == DType::kInt4 ? scores_as<Int4Cache> : scores_as<Bf16Cache>;
  scores(task, head, first, out, out_stride, scratch);
}

#undef FLEXGEN_INLINE
}  // namespace flexgen
HWY_POP_ATTRIBUTES
namespace flexgen {
#endif  // __x86_64__

}  // namespace flexgen
