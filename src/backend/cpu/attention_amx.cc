#include "backend/cpu/attention_amx.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
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

/// What a tile register holds, by its number, where a head has few queries: they are turned, and keys are multiplied as they lie.
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
/// Where a head has many: keys are turned, once for all of them, and queries are multiplied as they lie. Registers 0 to 3 have sums [query, 16 positions or elements].
enum ManyRegister : uint8_t {
  kLeft0 = 4,  ///< queries [query, 32 elements], or weights [query, 32 positions]
  kLeft1 = 5,
  kRight0 = 6,  ///< pairs of elements of keys [16, 16 positions], or of positions of values [16, 16 elements]
  kRight1 = 7,
};

struct AmxCache {
  static constexpr int64_t kQueries = amx::kBlockRows, kTokensAhead = 64;
  static constexpr bool kBf16Weights = true;
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

    /// num_queries: of a head. room: for [kSpan / 2, head_size] of words.
    void begin(int64_t num_queries, uint32_t* room) {
      pairs_ = room;
      is_many_ = num_queries > kQueries;
    }

    void read(const AttentionTask& task, int64_t which, int64_t head, int64_t span, int64_t begin, int64_t end) {
      if (which == 1) all_finite_ = pack_values(task, head, span, begin, end, pairs_);
      else if (is_many_) turn_keys(task, head, span, begin, end, pairs_);
      else keys_are_new_ = true;
    }
    /// Whether nobody has gone through these keys yet: who does first fetches the next ones.
    bool takes_new_keys() { return std::exchange(keys_are_new_, false); }

    /// Shapes the registers for so many queries.
    void shape_for(int64_t count) {
      if (shaped_for_ == count && shaped_many_ == is_many_) return;
      amx::TileShapes shapes;
      const auto set = [&](uint8_t which, int64_t rows, int64_t bytes) {
        shapes.rows[which] = static_cast<uint8_t>(rows), shapes.row_bytes[which] = static_cast<uint16_t>(bytes);
      };
      if (is_many_) {
        for (uint8_t of_queries = 0; of_queries <= kLeft1; ++of_queries) set(of_queries, count, 64);
        for (const uint8_t right : {kRight0, kRight1}) set(right, 16, 64);
      } else {
        for (const uint8_t scores : {kScores0, kScores1, kQuery}) set(scores, 16, 4 * count);
        for (const uint8_t rows : {kRows0, kRows1}) set(rows, 16, 64);
        for (const uint8_t of_queries : {kMixed, kWeights0, kWeights1}) set(of_queries, count, 64);
      }
      amx::set_shapes(shapes);
      shaped_for_ = count;
      shaped_many_ = is_many_;
    }
    bool is_many() const { return is_many_; }
    /// Of elements of keys [kSpan / 16, head_size / 2, 16 positions], where queries are many, or of positions of values [kSpan / 2, head_size], whichever was read last.
    const uint32_t* pairs() const { return pairs_; }
    bool all_finite() const { return all_finite_; }

   private:
    uint32_t* pairs_ = nullptr;
    bool all_finite_ = true;
    bool keys_are_new_ = false, is_many_ = false, shaped_many_ = false;
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

  /// Keys of positions [begin, end) of the span, sixteen by sixteen, as pairs().
  static void turn_keys(const AttentionTask& task, int64_t head, int64_t span, int64_t begin, int64_t end, uint32_t* to) {
    const int64_t head_size = task.geometry->head_size, row_bytes = 2 * head_size;
    for (int64_t t = round_down(begin, kScored); t < end; t += kScored) {
      const std::byte* const keys = row_at(task, 0, head, span + t);
      fetch_ahead(keys, kTokensAhead * row_bytes, kScored * row_bytes);
      packed_span::pack_keys(keys, head_size, to + t * head_size / 2);
    }
  }

  /// Scores [query, kSpan] of kBlocks times sixteen positions.
  template <int kBlocks>
  static inline __attribute__((always_inline)) void score_turned(const uint16_t* q, const uint32_t* keys, int64_t head_size, float* scores) {
    const auto blocks = [](const auto& work) {
      work(std::integral_constant<int, 0>());
      if constexpr (kBlocks == 4) work(std::integral_constant<int, 1>()), work(std::integral_constant<int, 2>()), work(std::integral_constant<int, 3>());
    };
    blocks([](auto block) { amx::clear<block>(); });
    for (int64_t i = 0; i < head_size; i += amx::kStep) {
      amx::load<kLeft0>(q + i, 2 * head_size);
      blocks([&](auto block) {
        constexpr int kRight = block % 2 == 0 ? kRight0 : kRight1;
        amx::load<kRight>(keys + block * kScored * head_size / 2 + i / 2 * kScored, 4 * kScored);
        amx::add_products<block, kLeft0, kRight>();
      });
    }
    blocks([&](auto block) { amx::store<block>(scores + block * kScored, 4 * kSpan); });
  }

  static void score_block(int64_t count, const AttentionTask& task, int64_t head, int64_t span, int64_t begin, int64_t end, const uint16_t* q,
                          Parameters& parameters, const Row*, float* scores) {
    const int64_t head_size = task.geometry->head_size, row_bytes = 2 * head_size, query_bytes = 4 * count;
    parameters.shape_for(count);
    if (parameters.is_many()) {
      const int64_t from = round_down(begin, kScored);
      if (end - from > kSpan - kScored) return score_turned<kSpan / kScored>(q, parameters.pairs(), head_size, scores);
      for (int64_t t = from; t < end; t += kScored) score_turned<1>(q, parameters.pairs() + t * head_size / 2, head_size, scores + t);
      return;
    }
    alignas(64) std::byte turned[2 * kMaxHeadSize * kQueries];
    const std::byte* queries = reinterpret_cast<const std::byte*>(q);
    if (count > 1) {
      amx::pack_block(queries, count, head_size, turned);
      queries = turned;
    }
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

  static constexpr int64_t kWeightStride = 4 * kSpan;  ///< bytes from a query's weights to the next one's

  /// mixed [count, stride] += weights of bf16 times pairs of values.
  static void add_weighted(const float* weights, const uint32_t* pairs, int64_t head_size, float* mixed, int64_t stride) {
    amx::load<kWeights0>(weights, kWeightStride);
    amx::load<kWeights1>(weights + kSpan / 4, kWeightStride);
    const uint32_t* const later = pairs + kSpan / 4 * head_size;
    for (int64_t i = 0; i < head_size; i += 16) {
      amx::load<kMixed>(mixed + i, 4 * stride);
      amx::load<kRows0>(pairs + i, 4 * head_size);
      amx::add_products<kMixed, kWeights0, kRows0>();
      amx::load<kRows1>(later + i, 4 * head_size);
      amx::add_products<kMixed, kWeights1, kRows1>();
      amx::store<kMixed>(mixed + i, 4 * stride);
    }
  }

  /// The same of many queries.
  static void add_weighted_of_many(const float* weights, const uint32_t* pairs, int64_t head_size, float* mixed, int64_t stride) {
    amx::load<kLeft0>(weights, kWeightStride);
    amx::load<kLeft1>(weights + kSpan / 4, kWeightStride);
    const uint32_t* const later = pairs + kSpan / 4 * head_size;
    // Sums of 32 elements at a time, in two pairs of registers by turns, as one waits for its products.
    const auto add = [&](auto first, int64_t i) {
      constexpr int kOther = first + 1;
      amx::load<first>(mixed + i, 4 * stride);
      amx::load<kOther>(mixed + i + 16, 4 * stride);
      amx::load<kRight0>(pairs + i, 4 * head_size);
      amx::add_products<first, kLeft0, kRight0>();
      amx::load<kRight1>(pairs + i + 16, 4 * head_size);
      amx::add_products<kOther, kLeft0, kRight1>();
      amx::load<kRight0>(later + i, 4 * head_size);
      amx::add_products<first, kLeft1, kRight0>();
      amx::load<kRight1>(later + i + 16, 4 * head_size);
      amx::add_products<kOther, kLeft1, kRight1>();
    };
    const auto store = [&](auto first, int64_t i) {
      constexpr int kOther = first + 1;
      amx::store<first>(mixed + i, 4 * stride);
      amx::store<kOther>(mixed + i + 16, 4 * stride);
    };
    const std::integral_constant<int, 0> even;
    const std::integral_constant<int, 2> odd;
    int64_t i = 0;
    for (; i + 64 <= head_size; i += 64) {
      add(even, i);
      add(odd, i + 32);
      store(even, i);
      store(odd, i + 32);
    }
    if (i < head_size) add(even, i), store(even, i);
  }

  static void mix_block(int64_t count, const AttentionTask& task, int64_t head, int64_t span, const Row* rows, const float* scores, Parameters& parameters,
                        float* mixed, int64_t stride) {
    const int64_t head_size = task.geometry->head_size;
    const auto add = parameters.is_many() ? add_weighted_of_many : add_weighted;
    if (parameters.all_finite()) {
      parameters.shape_for(count);
      return add(scores, parameters.pairs(), head_size, mixed, stride);
    }
    // A value that a query does not attend to must not even be multiplied by zero: each has its own.
    parameters.shape_for(1);
    alignas(64) uint32_t pairs[kSpan / 2 * kMaxHeadSize];
    for (int64_t m = 0; m < count; ++m) {
      const int64_t first = std::clamp<int64_t>(rows[m].first - span, 0, kSpan), end = std::clamp<int64_t>(rows[m].end - span, first, kSpan);
      pack_values(task, head, span, first, end, pairs);
      add(scores + m * kSpan, pairs, head_size, mixed + m * stride, stride);
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
