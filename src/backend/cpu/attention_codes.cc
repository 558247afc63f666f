#include "backend/cpu/attention_codes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/units.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/attention_codes.cc"
// foreach_target.h comes before all that is compiled once a target.
// clang-format off
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
#include "backend/cpu/simd_inl.h"
#include "backend/cpu/attention_inl.h"
// clang-format on

#ifndef FLEXGEN_BACKEND_CPU_ATTENTION_CODES_ONCE_
#define FLEXGEN_BACKEND_CPU_ATTENTION_CODES_ONCE_
namespace flexgen {
inline constexpr int64_t kMaxCodesHead = 256, kMaxCodesGroups = kMaxCodesHead / kQuantGroup;
/// Query rows whose sums are in registers at a time.
inline constexpr int64_t kCodesQueries = 4;
/// Floats beside the H of a query's result: what the minimums of each group add to all of its elements. And room for whole vectors.
inline constexpr int64_t kMinimumSums = 16;
}  // namespace flexgen
#endif

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

bool CodesTarget() { return false; }
int64_t CodesRowFloats() { return 0; }
void AttendCodes(const AttentionTask&, float*) { HWY_ABORT("no vectors"); }
void CodesScores(const AttentionTask&, int64_t, int64_t, float*, int64_t, float*) { HWY_ABORT("no vectors"); }

#else

// Codes are taken in 16-bit words as they lie: four of int4, two of int8. Part n of a vector of words, shifted and masked, is a factor in
// products of pairs of 16-bit numbers, whose sums are of 32 bits and exact.
using Words = hn::CappedTag<int16_t, 16>;
using Wide = hn::RepartitionToWide<Words>;
using SumLanes = hn::RebindToFloat<Wide>;
constexpr auto kWords = static_cast<int64_t>(hn::MaxLanes(Words()));
constexpr int64_t kLanes = kWords / 2;

template <int kBits>
struct Codes {
  static constexpr int64_t kParts = 16 / kBits;
  static constexpr int64_t kGroupWords = kQuantGroup / kParts;
  static constexpr int64_t kGroupBytes = 2 * kGroupWords;
  static constexpr int64_t kChunks = kGroupWords / kWords;
  static int64_t row_bytes(int64_t head_size) { return head_size / kQuantGroup * (kGroupBytes + 4); }
  /// Which element of its group part n of word w is (tensor/group_quant.h).
  static constexpr int64_t element(int64_t w, int64_t n) { return kBits == 8 ? 2 * w + n : 2 * w + n / 2 + n % 2 * (kQuantGroup / 2); }

  static HWY_INLINE hn::Vec<Words> part(hn::Vec<Words> words, int n) {
    const Words d;
    const hn::RebindToUnsigned<Words> du;
    const auto shifted = n == 0 ? words : hn::BitCast(d, hn::ShiftRightSame(hn::BitCast(du, words), kBits * n));
    return n + 1 == kParts ? shifted : hn::And(shifted, hn::Set(d, static_cast<int16_t>((1 << kBits) - 1)));
  }
};

/// What a query row carries, beside its state.
struct CodesRow : Row {
  float scale;                  ///< a query's element is its number times this
  float sums[kMaxCodesGroups];  ///< of its elements, a group
};

/// sum += pairs of products. In place: GCC 12 would take the additions of a row of these apart, compute all products first, and run out of registers.
HWY_INLINE void add_products(hn::Vec<Words> a, hn::Vec<Words> b, hn::Vec<Wide>& sum, hn::Vec<Wide>& rest) {
  sum = hn::ReorderWidenMulAccumulate(Wide(), a, b, sum, rest);
#if defined(__GNUC__) && HWY_TARGET == HWY_AVX2
  asm("" : "+x"(sum.raw));
#endif
}

HWY_INLINE hn::Vec<Words> words_at(const void* p) { return hn::LoadU(Words(), static_cast<const int16_t*>(p)); }

/// q [head_size] as numbers of 16 bits in the order of the parts: [group][chunk][part][kWords].
template <int kBits>
HWY_INLINE void pack_query(const float* q, int64_t head_size, int16_t* to, CodesRow& row) {
  const Floats d;
  const hn::RebindToSigned<Floats> di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto largest = hn::Zero(d), poison = hn::Zero(d);
  for (int64_t i = 0; i < head_size; i += lanes) {
    const auto v = hn::LoadU(d, q + i);
    largest = hn::Max(largest, hn::Abs(v));
    poison = hn::MulAdd(v, hn::Zero(d), poison);  // infinities and NaN give NaN
  }
  const float most = hn::GetLane(hn::MaxOfLanes(d, largest)), bad = hn::GetLane(hn::SumOfLanes(d, poison));
  const bool fine = most > 1e-30f && bad == 0;
  row.scale = most / 32767 + bad;
  const auto inverse = hn::Set(d, fine ? 32767 / most : 0.0f);
  alignas(64) int32_t numbers[kMaxCodesHead];
  for (int64_t i = 0; i < head_size; i += lanes) hn::Store(fine ? hn::NearestInt(hn::Mul(hn::LoadU(d, q + i), inverse)) : hn::Zero(di), di, numbers + i);
  using C = Codes<kBits>;
  for (int64_t group = 0; group < head_size / kQuantGroup; ++group) {
    const int32_t* from = numbers + group * kQuantGroup;
    int32_t sum = 0;
    for (int64_t i = 0; i < kQuantGroup; ++i) sum += from[i];
    row.sums[group] = static_cast<float>(sum) * row.scale;
    for (int64_t chunk = 0; chunk < C::kChunks; ++chunk)
      for (int64_t n = 0; n < C::kParts; ++n)
        for (int64_t w = 0; w < kWords; ++w) *to++ = static_cast<int16_t>(from[C::element(chunk * kWords + w, n)]);
  }
}

/// The rows of one head in a span: where they are, the step and the minimum of each group.
struct SpanRows {
  const std::byte* at[kSpan];
  alignas(64) float steps[kMaxCodesGroups][kSpan], minimums[kMaxCodesGroups][kSpan];

  /// Keys (which = 0) or values of positions [span + begin, span + end).
  template <int kBits>
  HWY_INLINE void read(const AttentionTask& task, int64_t which, int64_t head, int64_t span, int64_t begin, int64_t end) {
    const KvGeometry& g = *task.geometry;
    const int64_t groups = g.head_size / kQuantGroup, bytes = Codes<kBits>::row_bytes(g.head_size);
    alignas(64) uint32_t words[kMaxCodesGroups][kSpan];
    if (end - begin < kSpan) std::memset(words, 0, sizeof(words));
    for (int64_t t = begin; t < end;) {
      const int64_t position = span + t, stop = std::min(end, (position / g.page_tokens + 1) * g.page_tokens - span);
      const std::byte* row = task.slot->pages[position / g.page_tokens] + g.row_offset(which, task.first_head + head, position);
      for (; t < stop; ++t, row += bytes) {
        at[t] = row;
        const std::byte* parameters = row + groups * Codes<kBits>::kGroupBytes;
        for (int64_t group = 0; group < groups; ++group) std::memcpy(&words[group][t], parameters + 4 * group, 4);
      }
    }
    // So that whole fours can be taken.
    for (int64_t t = begin & ~int64_t{3}; t < begin; ++t) at[t] = at[begin];
    for (int64_t t = end; t % 4 != 0; ++t) at[t] = at[end - 1];
    const Floats d;
    const hn::RebindToUnsigned<Floats> du;
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t t = 0; t < kSpan; t += static_cast<int64_t>(hn::Lanes(d))) {
        const auto both = hn::Load(du, words[group] + t);
        const auto scale = hn::BitCast(d, hn::ShiftLeft<16>(both));
        const auto step = hn::IfThenZeroElse(hn::Eq(scale, hn::Zero(d)), hn::Div(hn::Set(d, 1.0f), scale));
        hn::Store(step, d, steps[group] + t);
        hn::Store(hn::BitCast(d, hn::And(both, hn::Set(du, 0xffff0000u))), d, minimums[group] + t);
      }
  }
};

/// scores[m][t] = q[m] . keys[t] for kRows queries and the span's positions [begin, end), before the rule's scale. q [kRows][head_size].
template <int kBits, int kRows>
void score_codes(const int16_t* HWY_RESTRICT q, const SpanRows& keys, int64_t head_size, int64_t begin, int64_t end, RowsAhead ahead, const CodesRow* rows,
                 float* HWY_RESTRICT scores) {
  using C = Codes<kBits>;
  const Words d;
  const Wide di;
  const SumLanes df;
  const int64_t groups = head_size / kQuantGroup;
  for (int64_t t = begin & ~int64_t{3}; t < end; t += 4) {
    hn::Vec<SumLanes> of[kRows][4];
    ahead.fetch(keys.at[t], t, t + 4, C::row_bytes(head_size));
    // Two keys share the loads of the queries.
#pragma GCC unroll 1
    for (int64_t j = 0; j < 4; j += 2) {
      const std::byte* key[2] = {keys.at[t + j], keys.at[t + j + 1]};
#pragma GCC unroll 1
      for (int64_t group = 0; group < groups; ++group) {
        hn::Vec<Wide> low[kRows][2], high[kRows][2];
#pragma GCC unroll 4
        for (int m = 0; m < kRows; ++m) low[m][0] = low[m][1] = high[m][0] = high[m][1] = hn::Zero(di);
#pragma GCC unroll 4
        for (int64_t chunk = 0; chunk < C::kChunks; ++chunk) {
          const int64_t offset = group * C::kGroupBytes + 2 * chunk * kWords;
          const auto first = words_at(key[0] + offset), second = words_at(key[1] + offset);
          const int16_t* query = q + group * kQuantGroup + chunk * C::kParts * kWords;
#pragma GCC unroll 4
          for (int n = 0; n < C::kParts; ++n) {
            const auto a = C::part(first, n), b = C::part(second, n);
#pragma GCC unroll 4
            for (int m = 0; m < kRows; ++m) {
              const auto factor = hn::LoadU(d, query + m * head_size + n * kWords);
              add_products(factor, a, low[m][0], high[m][0]);
              add_products(factor, b, low[m][1], high[m][1]);
            }
          }
        }
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          const auto step = hn::Set(df, keys.steps[group][t + j + i]);
#pragma GCC unroll 4
          for (int m = 0; m < kRows; ++m) {
            const auto sum = hn::ConvertTo(df, hn::Add(low[m][i], high[m][i]));
            of[m][j + i] = group == 0 ? hn::Mul(sum, step) : hn::MulAdd(sum, step, of[m][j + i]);
          }
        }
      }
    }
    for (int m = 0; m < kRows; ++m) store_sums(df, of[m][0], of[m][1], of[m][2], of[m][3], scores + m * kScoreStride + t);
  }
  const Floats wide;
  for (int m = 0; m < kRows; ++m)
    for (int64_t t = 0; t < kSpan; t += static_cast<int64_t>(hn::Lanes(wide))) {
      auto sum = hn::Mul(hn::LoadU(wide, scores + m * kScoreStride + t), hn::Set(wide, rows[m].scale));
      for (int64_t group = 0; group < groups; ++group) sum = hn::MulAdd(hn::Load(wide, keys.minimums[group] + t), hn::Set(wide, rows[m].sums[group]), sum);
      hn::StoreU(sum, wide, scores + m * kScoreStride + t);
    }
}

/// Weights times steps of a span as numbers of 16 bits, for kCodesQueries rows.
struct SpanWeights {
  alignas(64) int16_t numbers[kCodesQueries][kMaxCodesGroups][kSpan];
  float scales[kCodesQueries][kMaxCodesGroups];
};

/// Fills row m of `to` from its softmax weights, which count in [first, end) of the span; adds what the minimums give to minimum_sums [groups], and
/// what all numbers together are off by, times the middle code: what is left are errors times a code's distance from the middle.
template <int kBits>
HWY_INLINE void pack_weights(const float* weights, int64_t first, int64_t end, const SpanRows& values, int64_t groups, int64_t m, SpanWeights& to,
                             float* minimum_sums) {
  const Floats d;
  const hn::Rebind<int16_t, Floats> narrow;
  const hn::RebindToSigned<Floats> di;
  constexpr float kMiddle = static_cast<float>((1 << kBits) - 1) / 2;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  alignas(64) float scaled[kSpan];
  for (int64_t group = 0; group < groups; ++group) {
    auto largest = hn::Zero(d), sum = hn::Zero(d), all = hn::Zero(d);
    for (int64_t t = 0; t < kSpan; t += lanes) {
      // A position outside must not even be multiplied by zero: its minimum might be infinite.
      const auto at = hn::Iota(d, static_cast<float>(t));
      const auto inside = hn::And(hn::Ge(at, hn::Set(d, static_cast<float>(first))), hn::Lt(at, hn::Set(d, static_cast<float>(end))));
      const auto weight = hn::LoadU(d, weights + t);
      const auto product = hn::IfThenElseZero(inside, hn::Mul(weight, hn::Load(d, values.steps[group] + t)));
      hn::Store(product, d, scaled + t);
      largest = hn::Max(largest, product);
      all = hn::Add(all, product);
      sum = hn::Add(sum, hn::IfThenElseZero(inside, hn::Mul(weight, hn::Load(d, values.minimums[group] + t))));
    }
    const float most = hn::GetLane(hn::MaxOfLanes(d, largest));
    to.scales[m][group] = most > 1e-33f ? most / 32767 : 0.0f;
    const auto inverse = hn::Set(d, most > 1e-33f ? 32767 / most : 0.0f);
    auto total = hn::Zero(di);
    for (int64_t t = 0; t < kSpan; t += lanes) {
      const auto number = hn::NearestInt(hn::Mul(hn::Load(d, scaled + t), inverse));
      total = hn::Add(total, number);
      hn::StoreU(hn::DemoteTo(narrow, number), narrow, to.numbers[m][group] + t);
    }
    const auto off = hn::NegMulAdd(hn::ConvertTo(d, total), hn::Set(d, to.scales[m][group]), all);
    minimum_sums[group] += hn::GetLane(hn::SumOfLanes(d, hn::MulAdd(off, hn::Set(d, kMiddle), sum)));
  }
}

/// Of one group and chunk, the sums of some of its parts for the words in the lower and upper halves of each 128 bits.
/// mixed [2 halves][parts][kLanes] a row.
template <int kBits, int kRows, int kFromHalf, int kToHalf, int kFrom, int kTo>
HWY_INLINE void mix_codes_part(const SpanRows& values, int64_t offset, int64_t begin, int64_t end, const SpanWeights& weights, int64_t group, RowsAhead ahead,
                               int64_t fetched_bytes, float* HWY_RESTRICT mixed, int64_t stride) {
  using C = Codes<kBits>;
  const Words d;
  const Wide di;
  const SumLanes df;
  constexpr int kParts = kTo - kFrom, kSums = (kToHalf - kFromHalf) * kParts;
  hn::Vec<Wide> low[kRows][kSums], high[kRows][kSums];
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) low[m][i] = high[m][i] = hn::Zero(di);
  for (int64_t t = begin & ~int64_t{1}; t < end; t += 2) {
    const std::byte *first = values.at[t], *second = values.at[t + 1];
    if (fetched_bytes > 0) ahead.fetch(first, t, t + 2, fetched_bytes);
    const auto a = words_at(first + offset), b = words_at(second + offset);
    hn::Vec<Words> weight[kRows];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
      int32_t pair;
      std::memcpy(&pair, &weights.numbers[m][group][t], sizeof(pair));
      weight[m] = hn::BitCast(d, hn::Set(di, pair));
    }
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) {
      const auto words = i / kParts + kFromHalf == 0 ? hn::InterleaveLower(d, a, b) : hn::InterleaveUpper(d, a, b);
      const auto part = C::part(words, i % kParts + kFrom);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) add_products(part, weight[m], low[m][i], high[m][i]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) {
      float* to = mixed + m * stride + ((i / kParts + kFromHalf) * C::kParts + i % kParts + kFrom) * kLanes;
      const auto sum = hn::ConvertTo(df, hn::RearrangeToOddPlusEven(low[m][i], high[m][i]));
      hn::StoreU(hn::MulAdd(sum, hn::Set(df, weights.scales[m][group]), hn::LoadU(df, to)), df, to);
    }
}

/// mixed[m] += the weighted values of the span's positions [begin, end), in the order [group][chunk][half][part][kLanes].
template <int kBits, int kRows>
void mix_codes(const SpanRows& values, int64_t head_size, int64_t begin, int64_t end, RowsAhead ahead, const SpanWeights& weights, float* mixed,
               int64_t stride) {
  using C = Codes<kBits>;
  for (int64_t group = 0; group < head_size / kQuantGroup; ++group)
    for (int64_t chunk = 0; chunk < C::kChunks; ++chunk) {
      const int64_t offset = group * C::kGroupBytes + 2 * chunk * kWords;
      float* to = mixed + group * kQuantGroup + chunk * C::kParts * kWords;
      const int64_t fetched = group == 0 && chunk == 0 ? C::row_bytes(head_size) : 0;
      auto part = [&]<int kFromHalf, int kToHalf, int kFrom, int kTo>(int64_t fetched_bytes) HWY_ATTR {
        mix_codes_part<kBits, kRows, kFromHalf, kToHalf, kFrom, kTo>(values, offset, begin, end, weights, group, ahead, fetched_bytes, to, stride);
      };
      // At most eight sums in registers.
      constexpr int kParts = C::kParts;
      if constexpr (kRows * 2 * kParts <= 8) {
        part.template operator()<0, 2, 0, kParts>(fetched);
      } else if constexpr (kRows * kParts <= 8) {
        part.template operator()<0, 1, 0, kParts>(fetched);
        part.template operator()<1, 2, 0, kParts>(0);
      } else {
        part.template operator()<0, 1, 0, kParts / 2>(fetched);
        part.template operator()<0, 1, kParts / 2, kParts>(0);
        part.template operator()<1, 2, 0, kParts / 2>(0);
        part.template operator()<1, 2, kParts / 2, kParts>(0);
      }
    }
}

/// Calls use(std::integral_constant<int, n>) for n = count in [1, kCodesQueries].
template <class Use>
HWY_INLINE void with_queries(int64_t count, const Use& use) {
  if (count == 4) return use(std::integral_constant<int, 4>());
  if (count == 3) return use(std::integral_constant<int, 3>());
  if (count == 2) return use(std::integral_constant<int, 2>());
  return use(std::integral_constant<int, 1>());
}

/// Where in `mixed` the elements of a group are.
template <int kBits>
constexpr std::array<uint8_t, kQuantGroup> places_of_elements() {
  using C = Codes<kBits>;
  std::array<uint8_t, kQuantGroup> places{};
  int64_t place = 0;
  for (int64_t chunk = 0; chunk < C::kChunks; ++chunk)
    for (int64_t half = 0; half < 2; ++half)
      for (int64_t n = 0; n < C::kParts; ++n)
        for (int64_t lane = 0; lane < kLanes; ++lane, ++place)  // a lane holds a word of the four that its 128 bits have in this half
          places[static_cast<size_t>(C::element(chunk * kWords + lane / 4 * 8 + half * 4 + lane % 4, n))] = static_cast<uint8_t>(place);
  return places;
}

template <int kBits>
void attend_codes_as(const AttentionTask& whole, float* scratch) {
  AttentionTask task = whole;
  const KvGeometry& g = *task.geometry;
  const int64_t head_size = g.head_size, groups = head_size / kQuantGroup, group = g.query_heads / g.kv_heads;
  const int64_t per_head = task.num_rows() * group, count = task.num_heads * per_head, stride = head_size + kMinimumSums;
  float* const mixed = scratch;                                                  // [count, stride]
  float* const scores = mixed + count * stride;                                  // [count, kScoreStride]
  int16_t* const q = reinterpret_cast<int16_t*>(scores + count * kScoreStride);  // [count, head_size]
  CodesRow* const rows = reinterpret_cast<CodesRow*>(q + count * head_size);
  for (int64_t m = 0; m < count; ++m) {
    static_cast<Row&>(rows[m]) = row_of(task, m / per_head, m % per_head);
    pack_query<kBits>(task.q + rows[m].packed, head_size, q + m * head_size, rows[m]);
    std::fill_n(mixed + m * stride, stride, 0.0f);
  }

  SpanRows in_span;
  SpanWeights weights;
  for (const AttentionStretch& stretch : task.stretches) {
    task.slot = stretch.slot;
    const int64_t first_query = stretch.first_row * group, end_query = stretch.end_row * group;  // of each head
    const int64_t stretch_begin = std::max(stretch.begin, rows[first_query].first), stretch_end = std::min(stretch.end, rows[end_query - 1].end);
    // All heads' keys, then all heads' values: that is how they lie in a page, and memory is read in order.
    for (int64_t span = stretch_begin / kSpan * kSpan; span < stretch_end; span += kSpan) {
      const int64_t span_begin = std::max<int64_t>(0, stretch_begin - span), span_end = std::min(kSpan, stretch_end - span);
      auto first_of = [&](int64_t m) { return std::max<int64_t>(0, rows[m].first - span); };
      auto end_of = [&](int64_t m) { return std::min(kSpan, rows[m].end - span); };
      auto for_blocks = [&](int64_t which, const auto& use) HWY_ATTR {
        for (int64_t head = 0; head < task.num_heads; ++head) {
          in_span.read<kBits>(task, which, head, span, span_begin, span_end);
          for (int64_t at = first_query; at < end_query; at += kCodesQueries)
            with_queries(std::min(kCodesQueries, end_query - at), [&](auto some) HWY_ATTR {
              // Rows come in the order of their positions.
              const int64_t m = head * per_head + at, begin = first_of(m), end = end_of(m + some - 1);
              const int64_t bytes = Codes<kBits>::row_bytes(head_size);
              const RowsAhead ahead((at - first_query) / kCodesQueries, ceil_div(end_query - first_query, kCodesQueries), begin & ~int64_t{3}, bytes,
                                    kSpan * bytes);
              if (begin < end) use(some, m, begin, end, ahead);
            });
        }
      };
      for_blocks(0, [&](auto some, int64_t m, int64_t begin, int64_t end, RowsAhead ahead)
                        HWY_ATTR { score_codes<kBits, some>(q + m * head_size, in_span, head_size, begin, end, ahead, rows + m, scores + m * kScoreStride); });
      for (int64_t head = 0; head < task.num_heads; ++head)
        for (int64_t m = head * per_head + first_query; m < head * per_head + end_query; ++m)
          if (const int64_t first = first_of(m), end = end_of(m); first < end) {
            const float scale = finish_scores(task, head, m % per_head % group, rows[m].end - 1, span + first, scores + m * kScoreStride + first, end - first);
            soften(rows[m], scores + m * kScoreStride, first, end, scale, mixed + m * stride, stride);
          }
      for_blocks(1, [&](auto some, int64_t m, int64_t begin, int64_t end, RowsAhead ahead) HWY_ATTR {
        for (int64_t row = 0; row < some; ++row)
          pack_weights<kBits>(scores + (m + row) * kScoreStride, first_of(m + row), end_of(m + row), in_span, groups, row, weights,
                              mixed + (m + row) * stride + head_size);
        mix_codes<kBits, some>(in_span, head_size, begin, end, ahead, weights, mixed + m * stride, stride);
      });
    }
  }

  constexpr std::array<uint8_t, kQuantGroup> kPlaces = places_of_elements<kBits>();
  const Floats d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  with_type(task.out_dtype, task.out, [&](auto* out) HWY_ATTR {
    alignas(64) float result[kMaxCodesHead];
    for (int64_t m = 0; m < count; ++m) {
      const float* from = mixed + m * stride;
      const float inverse = 1.0f / rows[m].sum;
      for (int64_t i = 0; i < head_size; ++i)
        result[i] = (from[i / kQuantGroup * kQuantGroup + kPlaces[static_cast<size_t>(i % kQuantGroup)]] + from[head_size + i / kQuantGroup]) * inverse;
      for (int64_t i = 0; i < head_size; i += lanes) store(d, hn::Load(d, result + i), out + rows[m].packed + i);
    }
  });
}

template <int kBits>
void codes_scores_as(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch) {
  const KvGeometry& g = *task.geometry;
  const int64_t head_size = g.head_size, group = g.query_heads / g.kv_heads;
  float* const scores = scratch;                                                 // [group, kScoreStride]
  int16_t* const q = reinterpret_cast<int16_t*>(scores + group * kScoreStride);  // [group, head_size]
  CodesRow* const rows = reinterpret_cast<CodesRow*>(q + group * head_size);
  const int64_t row = task.slot->first_row + task.rows[0].row, end = task.rows[0].end();
  for (int64_t m = 0; m < group; ++m)
    pack_query<kBits>(task.q + (row * g.query_heads + (task.first_head + head) * group + m) * head_size, head_size, q + m * head_size, rows[m]);
  SpanRows keys;
  for (int64_t span = first / kSpan * kSpan; span < end; span += kSpan) {
    const int64_t from = std::max<int64_t>(0, first - span), to = std::min(kSpan, end - span);
    keys.read<kBits>(task, 0, head, span, from, to);
    // Heads go one after the other here, so what comes next is in the next span's page.
    const int64_t next = span + kSpan;
    const int64_t ahead = next < end ? task.slot->pages[next / g.page_tokens] + g.row_offset(0, task.first_head + head, next) - keys.at[from] : 0;
    for (int64_t m = 0; m < group; m += kCodesQueries)
      with_queries(std::min(kCodesQueries, group - m), [&](auto some) HWY_ATTR {
        score_codes<kBits, some>(q + m * head_size, keys, head_size, from, to,
                                 RowsAhead(m / kCodesQueries, ceil_div(group, kCodesQueries), from & ~int64_t{3}, Codes<kBits>::row_bytes(head_size), ahead),
                                 rows + m, scores + m * kScoreStride);
      });
    for (int64_t m = 0; m < group; ++m) {
      const float scale = finish_scores(task, head, m, end - 1, span + from, scores + m * kScoreStride + from, to - from);
      for (int64_t t = from; t < to; ++t) out[m * out_stride + span + t - first] = scores[m * kScoreStride + t] * scale;
    }
  }
}

bool CodesTarget() { return true; }
int64_t CodesRowFloats() { return static_cast<int64_t>(sizeof(CodesRow) / sizeof(float)); }

void AttendCodes(const AttentionTask& task, float* scratch) { (task.geometry->dtype == DType::kInt4 ? attend_codes_as<4> : attend_codes_as<8>)(task, scratch); }
void CodesScores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch) {
  (task.geometry->dtype == DType::kInt4 ? codes_scores_as<4> : codes_scores_as<8>)(task, head, first, out, out_stride, scratch);
}

#endif  // HWY_SCALAR

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flexgen {
HWY_EXPORT(CodesTarget);
HWY_EXPORT(CodesRowFloats);
HWY_EXPORT(AttendCodes);
HWY_EXPORT(CodesScores);

bool attention_codes_fits(const KvGeometry& g) {
  return is_quantized(g.dtype) && g.head_size % kQuantGroup == 0 && g.head_size <= kMaxCodesHead && HWY_DYNAMIC_DISPATCH(CodesTarget)();
}

int64_t attention_codes_scratch_floats(const AttentionTask& task) {
  const KvGeometry& g = *task.geometry;
  const int64_t queries = task.num_heads * task.queries_per_head();
  return queries * (g.head_size + kMinimumSums + kScoreStride + g.head_size / 2 + HWY_DYNAMIC_DISPATCH(CodesRowFloats)());
}

void attend_codes(const AttentionTask& task, float* scratch) { HWY_DYNAMIC_DISPATCH(AttendCodes)(task, scratch); }

void attention_codes_scores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch) {
  HWY_DYNAMIC_DISPATCH(CodesScores)(task, head, first, out, out_stride, scratch);
}

}  // namespace flexgen
#endif  // HWY_ONCE
