#include "backend/cpu/attention_amx.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "backend/cpu/amx_product.h"
#include "backend/cpu/cpu_features.h"
#include "base/error.h"
#include "base/units.h"

#if defined(__x86_64__)
#include "backend/cpu/amx_inl.h"
#include "backend/cpu/attention_dot_inl.h"
#endif

namespace flexgen {

#if !defined(__x86_64__)
bool attention_amx_fits(const KvGeometry&, DType) { return false; }
int64_t attention_amx_scratch_floats(const AttentionTask&) { return 0; }
void attend_amx(const AttentionTask&, float*) { FLEXGEN_CHECK(false, "no AMX on this kind of machine"); }
void attention_amx_scores(const AttentionTask&, int64_t, int64_t, float*, int64_t, float*) { FLEXGEN_CHECK(false, "no AMX on this kind of machine"); }
#else

bool attention_amx_fits(const KvGeometry& g, DType out_dtype) {
  return uses_amx() && out_dtype == DType::kBF16 && g.dtype == DType::kBF16 && g.head_size % amx_product::kStep == 0 && g.head_size <= kMaxHeadSize &&
         g.page_tokens % kScored == 0;
}

int64_t attention_amx_scratch_floats(const AttentionTask& task) { return scratch_floats(task); }

}  // namespace flexgen

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen {
namespace {

namespace amx = amx_product;

/// What a tile register holds, by its number.
enum Register : uint8_t {
  kScores0 = 0,  ///< [16 positions, query]
  kScores1 = 1,
  kQuery = 2,  ///< [16 pairs of elements, query]
  kRows0 = 3,  ///< keys [16 positions, 32 elements], or pairs of values [16, 16 elements]
  kRows1 = 4,
  kMixed = 5,     ///< [query, 16 elements]
  kWeights0 = 6,  ///< [query, 32 positions]
  kWeights1 = 7,
};

struct AmxCache {
  static constexpr int64_t kQueries = amx::kBlockRows, kTokensAhead = 64;
  static int64_t query_words(int64_t head_size) { return head_size; }
  static void pack_query(const float* q, int64_t head_size, uint16_t* to, Row&) { query_to_bf16(q, head_size, to); }
  static inline void unmix(const float* mixed, int64_t i, int64_t /*head_size*/, V& low, V& high) { unmix_bf16(mixed, i, low, high); }

  /// A head's values of a span as pairs of positions; and the registers' shapes, as long as it lives.
  class Parameters {
   public:
    Parameters() = default;
    Parameters(const Parameters&) = delete;
    ~Parameters() {
      if (shaped_for_ > 0) amx::release();
    }

    /// room: for [kSpan / 2, head_size] of words.
    void begin(int64_t /*num_queries*/, uint32_t* room) { pairs_ = room; }

    void read(const AttentionTask& task, int64_t which, int64_t head, int64_t span, int64_t begin, int64_t end) {
      if (which == 0) keys_are_new_ = true;
      else all_finite_ = pack_values(task, head, span, begin, end, pairs_);
    }
    /// Whether nobody has gone through these keys yet: who does first fetches the next ones.
    bool takes_new_keys() { return std::exchange(keys_are_new_, false); }

    /// Shapes the registers for so many queries.
    void shape_for(int64_t count) {
      if (shaped_for_ == count) return;
      amx::TileShapes shapes;
      const auto set = [&](Register which, int64_t rows, int64_t bytes) {
        shapes.rows[which] = static_cast<uint8_t>(rows), shapes.row_bytes[which] = static_cast<uint16_t>(bytes);
      };
      for (const Register scores : {kScores0, kScores1, kQuery}) set(scores, 16, 4 * count);
      for (const Register rows : {kRows0, kRows1}) set(rows, 16, 64);
      for (const Register of_queries : {kMixed, kWeights0, kWeights1}) set(of_queries, count, 64);
      amx::set_shapes(shapes);
      shaped_for_ = count;
    }
    const uint32_t* pairs() const { return pairs_; }
    bool all_finite() const { return all_finite_; }

   private:
    uint32_t* pairs_ = nullptr;
    bool all_finite_ = true;
    bool keys_are_new_ = false;
    int64_t shaped_for_ = 0;
  };

  /// Values of positions [begin, end) of the span as [kSpan / 2, head_size] of words, interleaved by chunks of 32 elements; zeros for the others. Returns whether all are finite.
  static bool pack_values(const AttentionTask& task, int64_t head, int64_t span, int64_t begin, int64_t end, uint32_t* to) {
    const int64_t head_size = task.geometry->head_size, row_bytes = 2 * head_size;
    const Words exponent = _mm512_set1_epi16(0x7f80);
    Words largest = _mm512_setzero_si512();
    for (int64_t t = 0; t < kSpan; t += 2, to += head_size) {
      const bool has_first = t >= begin && t < end, has_second = t + 1 >= begin && t + 1 < end;
      if (!has_first && !has_second) {
        std::memset(to, 0, static_cast<size_t>(4 * head_size));
        continue;
      }
      const std::byte* const rows = row_at(task, 1, head, span + t);
      fetch_ahead(rows, kTokensAhead * row_bytes, 2 * row_bytes);
      for (int64_t i = 0; i < head_size; i += 32) {
        const Words first = has_first ? words_at(rows + 2 * i) : _mm512_setzero_si512();
        const Words second = has_second ? words_at(rows + row_bytes + 2 * i) : _mm512_setzero_si512();
        largest = _mm512_max_epu16(largest, _mm512_max_epu16(_mm512_and_si512(first, exponent), _mm512_and_si512(second, exponent)));
        Words low, high;
        packed_span::interleave(first, second, low, high);
        _mm512_store_si512(to + i, low);
        _mm512_store_si512(to + i + 16, high);
      }
    }
    return _mm512_cmpeq_epi16_mask(largest, exponent) == 0;
  }

  static void score_block(int64_t count, const AttentionTask& task, int64_t head, int64_t span, int64_t begin, int64_t end, const uint16_t* q,
                          Parameters& parameters, const Row*, float* scores) {
    const int64_t head_size = task.geometry->head_size, row_bytes = 2 * head_size, query_bytes = 4 * count;
    alignas(64) std::byte turned[2 * kMaxHeadSize * kQueries];
    const std::byte* queries = reinterpret_cast<const std::byte*>(q);
    if (count > 1) {
      amx::pack_block(queries, count, head_size, turned);
      queries = turned;
    }
    parameters.shape_for(count);
    const bool fetches = parameters.takes_new_keys();
    for (int64_t t = round_down(begin, kScored); t < end; t += 2 * kScored) {
      const bool two = t + kScored < end;
      const std::byte *const first = row_at(task, 0, head, span + t), *const second = two ? row_at(task, 0, head, span + t + kScored) : first;
      amx::clear<kScores0>();
      amx::clear<kScores1>();
      for (int64_t i = 0; i < head_size; i += amx::kStep) {
        amx::load<kQuery>(queries + i / 2 * query_bytes, query_bytes);
        amx::load<kRows0>(first + 2 * i, row_bytes);
        amx::add_products<kScores0, kRows0, kQuery>();
        if (fetches) fetch_ahead(first + kScored * 2 * i, kTokensAhead * row_bytes, kScored * amx::kStep * 2);
        if (!two) continue;
        amx::load<kRows1>(second + 2 * i, row_bytes);
        amx::add_products<kScores1, kRows1, kQuery>();
        if (fetches) fetch_ahead(second + kScored * 2 * i, kTokensAhead * row_bytes, kScored * amx::kStep * 2);
      }
      write_scores<kScores0>(count, scores + t);
      if (two) write_scores<kScores1>(count, scores + t + kScored);
    }
  }

  template <int kRegister>
  static inline __attribute__((always_inline)) void write_scores(int64_t count, float* scores) {
    if (count == 1) return amx::store<kRegister>(scores, 4);
    alignas(64) float sums[256];
    amx::store<kRegister>(sums, 64);
    amx::turn_sums(sums, count, kSpan, scores);
  }

  /// mixed [count, stride] += weights [count, kSpan] of bf16 times pairs of values.
  static void add_weighted(const uint32_t* weights, const uint32_t* pairs, int64_t head_size, float* mixed, int64_t stride) {
    constexpr int64_t kHalf = kSpan / 2;
    amx::load<kWeights0>(weights, 4 * kHalf);
    amx::load<kWeights1>(weights + kHalf / 2, 4 * kHalf);
    const uint32_t* const later = pairs + kHalf / 2 * head_size;
    for (int64_t i = 0; i < head_size; i += 16) {
      amx::load<kMixed>(mixed + i, 4 * stride);
      amx::load<kRows0>(pairs + i, 4 * head_size);
      amx::add_products<kMixed, kWeights0, kRows0>();
      amx::load<kRows1>(later + i, 4 * head_size);
      amx::add_products<kMixed, kWeights1, kRows1>();
      amx::store<kMixed>(mixed + i, 4 * stride);
    }
  }

  static void mix_block(int64_t count, const AttentionTask& task, int64_t head, int64_t span, const Row* rows, const float* scores, Parameters& parameters,
                        float* mixed, int64_t stride) {
    const int64_t head_size = task.geometry->head_size;
    alignas(64) uint32_t weights[kQueries][kSpan / 2];
    for (int64_t m = 0; m < count; ++m) {
      const uint64_t mine = positions_in(rows[m].first - span, rows[m].end - span);
      for (int64_t t = 0; t < kSpan; t += 32) {
        const V low = _mm512_maskz_loadu_ps(sixteen_of(mine, t), scores + m * kSpan + t),
                high = _mm512_maskz_loadu_ps(sixteen_of(mine, t + 16), scores + m * kSpan + t + 16);
        _mm512_store_si512(weights[m] + t / 2, to_bf16(low, high));
      }
    }
    if (parameters.all_finite()) {
      parameters.shape_for(count);
      return add_weighted(weights[0], parameters.pairs(), head_size, mixed, stride);
    }
    // A value that a query does not attend to must not even be multiplied by zero: each has its own.
    parameters.shape_for(1);
    alignas(64) uint32_t pairs[kSpan / 2 * kMaxHeadSize];
    for (int64_t m = 0; m < count; ++m) {
      const int64_t first = std::clamp<int64_t>(rows[m].first - span, 0, kSpan), end = std::clamp<int64_t>(rows[m].end - span, first, kSpan);
      pack_values(task, head, span, first, end, pairs);
      add_weighted(weights[m], pairs, head_size, mixed + m * stride, stride);
    }
  }
};

}  // namespace

void attend_amx(const AttentionTask& task, float* scratch) { attend_as<AmxCache>(task, scratch); }

void attention_amx_scores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch) {
  scores_as<AmxCache>(task, head, first, out, out_stride, scratch);
}

}  // namespace flexgen
HWY_POP_ATTRIBUTES
namespace flexgen {
#endif  // __x86_64__

}  // namespace flexgen
