#pragma once
// Attention over paged, ragged slots on tensor cores: online softmax (FlashAttention-2: Dao 2023), the query heads of a kv head as the rows of one product
// (so that keys and values are read once for all of them), generated tokens with their context split over blocks (Flash-Decoding: Dao et al. 2023).
//
// Prompt rows and generated rows are computed by different kernels; which it is depends on the position alone (AttentionSlot::dense_until). Here: what they share,
// sparse rows, and generated rows over a cache of any type (generated_attention.h has those over the usual ones, prompt_attention.h prompts), whose keys and values
// go from the cache straight into tensor core registers. A warp computes 16 rows, query heads of one new token, of one slot and kv head. A row's tiles of 32
// positions start at multiples of 32, so its bits do not depend on pages, chunks, or the rows beside it.
// FLEXGEN_UNROLL stands before loops that are no blocks, which clang-format 14 takes apart.
// clang-format off

#include "backend/cuda/cache_rows.h"
#include "backend/cuda/tensor_core.h"

namespace flexgen::inline FLEXGEN_SIDE {

inline constexpr int kTile = 32;           ///< positions scored together
inline constexpr int kWarpRows = 16;       ///< rows of a warp
inline constexpr int kAttentionWarps = 4;  ///< of a block
inline constexpr int kSplit = 512;         ///< positions of a block of generated tokens; a multiple of kAttentionWarps * kTile

/// What all kernels of one attention call share.
struct AttentionOnDevice {
  const float* q = nullptr;  ///< [T, A, H]
  uint16_t* out = nullptr;   ///< [T, A, H] Half
  const SlotOnDevice* slots = nullptr;
  CacheOnDevice cache;
  float scale_log2 = 1;  ///< scores are exponents of 2
  int window = 0;
  float soft_cap = 0;    ///< as in AttentionRule; 0: none
  const float* slopes = nullptr;  ///< ALiBi [A]; null: none
  const float* sinks = nullptr;   ///< [A]; null: none
};

/// What a query head's sink adds to the sum of its softmax weights, which are exponents of 2 relative to `maximum`.
FLEXGEN_CODE float sink_weight(const AttentionOnDevice& a, int query_head, float maximum) {
  constexpr float kLog2E = 1.4426950408889634f;
  return a.sinks == nullptr ? 0.0f : exp2f(a.sinks[query_head] * kLog2E - maximum);
}

/// Products of queries and keys x [kCount] as exponents of 2. slope(i): of the query head of x[i]; distance(i): the key's position less the row's own.
template <int kCount, typename Slope, typename Distance>
FLEXGEN_CODE void finish_scores(const AttentionOnDevice& a, float* x, Slope slope, Distance distance) {
  constexpr float kLog2E = 1.4426950408889634f;
FLEXGEN_UNROLL
  for (int i = 0; i < kCount; ++i) x[i] *= a.scale_log2;
  if (a.soft_cap != 0) {
FLEXGEN_UNROLL
    for (int i = 0; i < kCount; ++i) x[i] = a.soft_cap * kLog2E * tanhf(x[i] / (a.soft_cap * kLog2E));
  }
  if (a.slopes != nullptr) {
FLEXGEN_UNROLL
    for (int i = 0; i < kCount; ++i) x[i] += slope(i) * kLog2E * static_cast<float>(distance(i));
  }
}

/// What is subtracted from scores for a maximum of theirs: that of a row that has seen nothing yet is -infinity, which must not be subtracted from itself.
FLEXGEN_CODE float subtracted(float maximum) { return maximum == minus_infinity() ? 0.0f : maximum; }

// Of a warp's 16 rows, of which a lane has two in a tensor core's layout: products of eight columns each, eight a group, and what the rows' values have in minimums.

/// Both by the rows' factors.
template <int kProducts, int kGroups>
FLEXGEN_CODE void rescale(float (&out)[kProducts][4], float (&minimums)[kGroups][2], const float (&factor)[2]) {
FLEXGEN_UNROLL
  for (auto& product : out)
FLEXGEN_UNROLL
    for (int i = 0; i < 4; ++i) product[i] *= factor[i / 2];
FLEXGEN_UNROLL
  for (auto& of_group : minimums)
FLEXGEN_UNROLL
    for (int half = 0; half < 2; ++half) of_group[half] *= factor[half];
}

/// Adds the minimums, of which the four lanes of a row have parts.
template <int kProducts, int kGroups>
FLEXGEN_CODE void add_minimums(float (&out)[kProducts][4], const float (&minimums)[kGroups][2]) {
FLEXGEN_UNROLL
  for (int group = 0; group < kGroups; ++group)
FLEXGEN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float total = sum_of_four(minimums[group][half]);
FLEXGEN_UNROLL
      for (int product = 8 * group; product < 8 * group + 8; ++product)
FLEXGEN_UNROLL
        for (int i = 0; i < 2; ++i) out[product][2 * half + i] += total;
    }
}

/// What rounding x and y to `packed` left.
template <typename Half>
FLEXGEN_CODE uint32_t pack_rest(float x, float y, uint32_t packed) {
  return Half::pack(x - Half::to_float(packed & 0xffffu), y - Half::to_float(packed >> 16));
}

/// Up to 64 rows of prompt tokens: entries [first, first + count) of a slot's new rows times the query heads of a kv head.
struct PromptTile {
  int32_t slot = 0, first = 0, count = 0;
};

/// A generated token's row.
struct GeneratedRow {
  int32_t slot = 0, row = 0;  ///< row within the slot
  int32_t num_splits = 0;
  int32_t first_partial = 0;  ///< where its partial results start, in units of [A] heads
  int32_t visible = 0;        ///< positions it sees
  int32_t kept = 0;           ///< sparse: positions it uses; 0: all
  int64_t scores = 0;         ///< sparse: where its scores [A, visible] start, in floats
  int64_t chosen = 0;         ///< sparse: where its positions [G, kept] start, in int32s
};

/// Running softmax of a warp's 16 rows. Of lane l, index 0 belongs to row l / 4, index 1 to row l / 4 + 8.
template <typename Half, int kGroups, RowKind kKind>
struct WarpRows {
  uint32_t q[4 * kGroups][4];
  float out[8 * kGroups][4];  ///< tensor core layout; column c of product 8 * group + i is element value_element(c, i) of the group
  float maximum[2], sum[2];
  float q_sum[kGroups][2];    ///< quantized caches: of the row's query over a group, which keys' minimums are multiplied with
  float minimums[kGroups][2]; ///< quantized caches: the lane's part of the weighted minimums of values; finish() adds them
  int first_visible[2], last_visible[2];  ///< positions
  int own[2] = {0, 0};        ///< the row's position, and the slope of its query head: for ALiBi alone
  float slope[2] = {0, 0};

  FLEXGEN_CODE static int row(int half) { return lane() / 4 + 8 * half; }

  /// query(r): the query of row r, or null. Of both rows of the lane.
  template <typename Query>
  FLEXGEN_CODE void start(int head_size, Query query) {
    const int pair = lane() % 4;
    for (int half = 0; half < 2; ++half) {
      const float* x = query(row(half));
      auto element = [&](int group, int j) {
        const int column = 64 * group + key_element(pair, j);
        return x != nullptr && column < head_size ? x[column] : 0.0f;
      };
FLEXGEN_UNROLL
      for (int step = 0; step < 4 * kGroups; ++step)
FLEXGEN_UNROLL
        for (int i = 0; i < 2; ++i)
          q[step][2 * i + half] = Half::pack(element(step / 4, 4 * (step % 4) + 2 * i), element(step / 4, 4 * (step % 4) + 2 * i + 1));
      maximum[half] = minus_infinity();
      sum[half] = 0;
FLEXGEN_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        float total = 0;
FLEXGEN_UNROLL
        for (int i = 0; i < 8; ++i) {
          const uint32_t both = q[4 * group + i / 2][2 * (i % 2) + half];
          total += Half::to_float(both & 0xffffu) + Half::to_float(both >> 16);
        }
        q_sum[group][half] = sum_of_four(total);
        minimums[group][half] = 0;
      }
    }
FLEXGEN_UNROLL
    for (auto& product : out)
FLEXGEN_UNROLL
      for (float& x : product) x = 0;
  }

  /// scores [4 products of 8 positions]: key(i): the key of position i of the tile, or null.
  template <typename Key>
  FLEXGEN_CODE void score(const CacheOnDevice& cache, Key key, float (&scores)[kTile / 8][4]) const {
    const int pair = lane() % 4;
    const bool quantized = has_codes(kKind, cache.dtype);
FLEXGEN_UNROLL
    for (int n = 0; n < kTile / 8; ++n) {
      const std::byte* at = key(8 * n + lane() / 4);
FLEXGEN_UNROLL
      for (float& x : scores[n]) x = 0;
FLEXGEN_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        uint32_t k[8];
        load_key_share<Half, kKind>(at, cache, group, pair, k);
        float of_group[4];
FLEXGEN_UNROLL
        for (int i = 0; i < 4; ++i) of_group[i] = quantized ? 0.0f : scores[n][i];
FLEXGEN_UNROLL
        for (int step = 0; step < 4; ++step) {
          const uint32_t b[2] = {k[2 * step], k[2 * step + 1]};
          multiply_add<Half>(of_group, q[4 * group + step], b);
        }
        if (!quantized) {
FLEXGEN_UNROLL
          for (int i = 0; i < 4; ++i) scores[n][i] = of_group[i];
        } else {
          const GroupScale mine = scale_of_group<kKind>(at, cache, group);
FLEXGEN_UNROLL
          for (int i = 0; i < 2; ++i) {  // column 2 pair + i: the key of lanes 4 (2 pair + i) ...
            const GroupScale scale{shuffle(mine.step, 4 * (2 * pair + i)), shuffle(mine.minimum, 4 * (2 * pair + i))};
FLEXGEN_UNROLL
            for (int half = 0; half < 2; ++half)
              scores[n][2 * half + i] += fmaf(of_group[2 * half + i], scale.step, q_sum[group][half] * scale.minimum);
          }
        }
      }
    }
  }

  /// Takes the tile of positions [first, first + 32) in: scaled scores of positions that a row does not see are left out.
  /// key(i), value(i): the rows of position first + i, or null where no row of the warp sees it.
  template <typename Key, typename Value>
  FLEXGEN_CODE void attend(const AttentionOnDevice& a, int first, Key key, Value value) {
    const CacheOnDevice& cache = a.cache;
    const int pair = lane() % 4;
    float p[kTile / 8][4];
    score(cache, key, p);

    finish_scores<4 * kTile / 8>(a, p[0], [&](int i) { return slope[i / 2 % 2]; }, [&](int i) { return first + 8 * (i / 4) + 2 * pair + i % 2 - own[i / 2 % 2]; });
    float factor[2];
FLEXGEN_UNROLL
    for (int half = 0; half < 2; ++half) {
      float largest = maximum[half];
FLEXGEN_UNROLL
      for (int n = 0; n < kTile / 8; ++n)
FLEXGEN_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int position = first + 8 * n + 2 * pair + i;
          const bool seen = position >= first_visible[half] && position <= last_visible[half];
          float& x = p[n][2 * half + i];
          if (!seen) x = minus_infinity();
          largest = fmaxf(largest, x);
        }
      largest = maximum_of_four(largest);
      const float base = subtracted(largest);
      factor[half] = exp2f(maximum[half] - base);
      maximum[half] = largest;
      float total = 0;
FLEXGEN_UNROLL
      for (int n = 0; n < kTile / 8; ++n)
FLEXGEN_UNROLL
        for (int i = 0; i < 2; ++i) total += p[n][2 * half + i] = exp2f(p[n][2 * half + i] - base);
      sum[half] = sum[half] * factor[half] + sum_of_four(total);
    }
    rescale(out, minimums, factor);

    const bool quantized = has_codes(kKind, cache.dtype);
FLEXGEN_UNROLL
    for (int step = 0; step < kTile / 16; ++step) {
      // Position i of the lane: 0 and 1 are columns 2 pair + {0, 1} of product 2 step, 2 and 3 those of the next.
      const std::byte* at[4];
FLEXGEN_UNROLL
      for (int i = 0; i < 4; ++i) at[i] = value(16 * step + 2 * pair + i % 2 + 8 * (i / 2));
      auto weight = [&](int i, int half) { return p[2 * step + i / 2][2 * half + i % 2]; };
FLEXGEN_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        uint32_t v[4][4];
        float steps[4];
FLEXGEN_UNROLL
        for (int i = 0; i < 4; ++i) {
          load_value_share<Half, kKind>(at[i], cache, group, lane() / 4, v[i]);
          if (!quantized) {
            steps[i] = 1;
            continue;
          }
          const GroupScale scale = scale_of_group<kKind>(at[i], cache, group);
          steps[i] = scale.step;
FLEXGEN_UNROLL
          for (int half = 0; half < 2; ++half) minimums[group][half] += weight(i, half) * scale.minimum;
        }
        // Times the step of a quantized value, which is up to 128 steps, a weight is rounded to 16 bits twice: itself, and what the first rounding left.
        uint32_t weights[4], rests[4];
FLEXGEN_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int low = 2 * (i / 2), half = i % 2;
          const float x = weight(low, half) * steps[low], y = weight(low + 1, half) * steps[low + 1];
          weights[i] = Half::pack(x, y);
          rests[i] = pack_rest<Half>(x, y, weights[i]);
        }
FLEXGEN_UNROLL
        for (int column = 0; column < 8; ++column) {
          auto both = [&](int low) {
            return column % 2 == 0 ? (v[low][column / 2] & 0xffffu) | v[low + 1][column / 2] << 16
                                   : v[low][column / 2] >> 16 | (v[low + 1][column / 2] & 0xffff0000u);
          };
          const uint32_t b[2] = {both(0), both(2)};
          multiply_add<Half>(out[8 * group + column], weights, b);
          if (quantized) multiply_add<Half>(out[8 * group + column], rests, b);
        }
      }
    }
  }

  /// After the last tile: adds the weighted minimums of values, which the four lanes of a row have parts of.
  FLEXGEN_CODE void finish() { add_minimums(out, minimums); }

  /// Calls body(half, column, value) for every element of the result that is this lane's, column counted within the head.
  template <typename Body>
  FLEXGEN_CODE void for_results(int head_size, Body body) {
FLEXGEN_UNROLL
    for (int product = 0; product < 8 * kGroups; ++product)
FLEXGEN_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int column = 64 * (product / 8) + value_element(2 * (lane() % 4) + i % 2, product % 8);
        if (column < head_size) body(i / 2, column, out[product][i]);
      }
  }
};

/// In how many splits positions [first, last] are cut: at multiples of kSplit, but that a last one of up to half of it belongs to the one before it.
constexpr int64_t num_splits(int64_t first, int64_t last) {
  const int64_t splits = last / kSplit - first / kSplit + 1;
  return splits > 1 && last % kSplit < kSplit / 2 ? splits - 1 : splits;
}

/// The positions of a generated row's split. With `kept`, positions are indices into the chosen.
struct SplitRange {
  int first, last;  ///< inclusive
  FLEXGEN_CODE SplitRange(const GeneratedRow& row, int position, int split) {
    const int from = row.kept > 0 ? 0 : position + 1 - row.visible, to = row.kept > 0 ? row.kept - 1 : position;
    const int start = (from / kSplit + split) * kSplit;
    first = start > from ? start : from;
    last = split == row.num_splits - 1 ? to : start + kSplit - 1;
  }
};

/// A weighted sum of values, the sum of the weights, and the maximum of the scores that these are relative to.
struct SplitSums {
  float value, weight, maximum;
};

/// Of a query head of a generated row element `column`: to `out` if the row has one split, else to partials [first_partial + split][A][2 + H], for merge_splits().
template <typename Half>
FLEXGEN_CODE void store_of_split(const AttentionOnDevice& a, const GeneratedRow& row, int split, int query_head, int column, const SplitSums& sums, uint16_t* out, float* partials) {
  if (row.num_splits == 1) {
    *out = Half::from_float(sums.value / (sums.weight + sink_weight(a, query_head, sums.maximum)));
    return;
  }
  float* partial = partials + (static_cast<int64_t>(row.first_partial + split) * a.cache.query_heads + query_head) * (2 + a.cache.head_size);
  if (column == 0) {
    partial[0] = sums.weight;
    partial[1] = sums.maximum;
  }
  partial[2 + column] = sums.value;
}

/// Generated rows over a cache of any kind. Grid: (most splits, G * ceil(A / G / 16), rows). A row with one split is finished here; else [sum, maximum, H values] a head go
/// to partials [first_partial + split][A][2 + H].
template <typename Half, int kGroups, RowKind kKind>
FLEXGEN_KERNEL void attend_generated(AttentionOnDevice a, const GeneratedRow* generated, const int32_t* chosen, float* partials) {
  const GeneratedRow task = generated[block_z()];
  const int split = static_cast<int>(block_x());
  if (split >= task.num_splits) return;
  const SlotOnDevice slot = a.slots[task.slot];
  const int group = a.cache.query_heads / a.cache.kv_heads, head_tiles = (group + kWarpRows - 1) / kWarpRows, head_size = a.cache.head_size;
  const int head = static_cast<int>(block_y()) / head_tiles, first_member = static_cast<int>(block_y()) % head_tiles * kWarpRows;
  const int count = group - first_member < kWarpRows ? group - first_member : kWarpRows;
  const int query_head = head * group + first_member;
  const int64_t at = (static_cast<int64_t>(slot.first_row + task.row) * a.cache.query_heads + query_head) * head_size;
  const SplitRange range(task, slot.past + task.row, split);
  if (chosen != nullptr) chosen += task.chosen + static_cast<int64_t>(head) * task.kept;

  WarpRows<Half, kGroups, kKind> rows;
  rows.start(head_size, [&](int r) { return r < count ? a.q + at + static_cast<int64_t>(r) * head_size : nullptr; });
  for (int half = 0; half < 2; ++half) {
    rows.first_visible[half] = range.first;
    rows.last_visible[half] = range.last;
    rows.own[half] = slot.past + task.row;
    if (a.slopes != nullptr && rows.row(half) < count) rows.slope[half] = a.slopes[query_head + rows.row(half)];
  }
FLEXGEN_ROLLED
  for (int from = (range.first / kTile + (warp() + kAttentionWarps - range.first / kTile % kAttentionWarps) % kAttentionWarps) * kTile; from <= range.last;
       from += kAttentionWarps * kTile) {
    auto cached = [&](int which, int i) -> const std::byte* {
      const int index = from + i;
      if (index < range.first || index > range.last) return nullptr;
      return a.cache.row(slot.first_page, which, head, task.kept > 0 ? chosen[index] : index);
    };
    rows.attend(a, from, [&](int i) { return cached(0, i); }, [&](int i) { return cached(1, i); });
  }

  rows.finish();

  // The warps' results come together in their order.
  FLEXGEN_SHARED float total[kWarpRows][64 * kGroups];
  FLEXGEN_SHARED float maximum[kWarpRows], sum[kWarpRows];
FLEXGEN_ROLLED
  for (int turn = 0; turn < kAttentionWarps; ++turn) {
    sync_block();
    if (warp() != turn) continue;
    float mine[2], theirs[2], both_sum[2], both_maximum[2];
    for (int half = 0; half < 2; ++half) {
      const int r = rows.row(half);
      const float there = turn == 0 ? minus_infinity() : maximum[r];
      both_maximum[half] = fmaxf(there, rows.maximum[half]);
      const float base = subtracted(both_maximum[half]);
      mine[half] = exp2f(rows.maximum[half] - base);
      theirs[half] = exp2f(there - base);
      both_sum[half] = (turn == 0 ? 0.0f : sum[r] * theirs[half]) + rows.sum[half] * mine[half];
    }
    sync_warp();  // all lanes have read the row before one writes it
    for (int half = 0; half < 2 && lane() % 4 == 0; ++half) {
      maximum[rows.row(half)] = both_maximum[half];
      sum[rows.row(half)] = both_sum[half];
    }
    rows.for_results(head_size, [&](int half, int column, float x) {
      float& y = total[rows.row(half)][column];
      y = (turn == 0 ? 0.0f : y * theirs[half]) + x * mine[half];
    });
  }
  sync_block();
  for (int i = thread(); i < count * head_size; i += num_threads()) {
    const int r = i / head_size, column = i - r * head_size;
    store_of_split<Half>(a, task, split, query_head + r, column, {total[r][column], sum[r], maximum[r]}, a.out + at + i, partials);
  }
}

/// Puts the splits of generated rows together, in their order. Grid: (A, rows).
template <typename Half>
FLEXGEN_KERNEL void merge_splits(AttentionOnDevice a, const GeneratedRow* generated, const float* partials) {
  const GeneratedRow task = generated[block_y()];
  if (task.num_splits == 1) return;
  const SlotOnDevice slot = a.slots[task.slot];
  const int head = static_cast<int>(block_x()), head_size = a.cache.head_size;
  const int64_t stride = static_cast<int64_t>(a.cache.query_heads) * (2 + head_size);
  partials += static_cast<int64_t>(task.first_partial) * stride + static_cast<int64_t>(head) * (2 + head_size);
  float maximum = minus_infinity(), sum = 0;
  for (int split = 0; split < task.num_splits; ++split) maximum = fmaxf(maximum, partials[split * stride + 1]);
  for (int split = 0; split < task.num_splits; ++split) sum += partials[split * stride] * exp2f(partials[split * stride + 1] - maximum);
  sum += sink_weight(a, head, maximum);
  uint16_t* out = a.out + (static_cast<int64_t>(slot.first_row + task.row) * a.cache.query_heads + head) * head_size;
  for (int column = thread(); column < head_size; column += num_threads()) {
    float x = 0;
    for (int split = 0; split < task.num_splits; ++split) x += partials[split * stride + 2 + column] * exp2f(partials[split * stride + 1] - maximum);
    out[column] = Half::from_float(x / sum);
  }
}

// ---------------------------------------------------------------- sparse rows

/// Scores of all positions that sparse rows see, scaled for exp2: scores [A, visible] a row. Grid: (most tiles / 4, G * ceil(A / G / 16), rows).
template <typename Half, int kGroups, RowKind kKind>
FLEXGEN_KERNEL void score_generated(AttentionOnDevice a, const GeneratedRow* generated, float* scores) {
  const GeneratedRow task = generated[block_z()];
  const SlotOnDevice slot = a.slots[task.slot];
  const int group = a.cache.query_heads / a.cache.kv_heads, head_tiles = (group + kWarpRows - 1) / kWarpRows, head_size = a.cache.head_size;
  const int head = static_cast<int>(block_y()) / head_tiles, first_member = static_cast<int>(block_y()) % head_tiles * kWarpRows;
  const int count = group - first_member < kWarpRows ? group - first_member : kWarpRows, query_head = head * group + first_member;
  const int position = slot.past + task.row, first = position + 1 - task.visible;
  const int from = (first / kTile + static_cast<int>(block_x()) * kAttentionWarps + warp()) * kTile;
  if (from > position) return;
  const int64_t at = (static_cast<int64_t>(slot.first_row + task.row) * a.cache.query_heads + query_head) * head_size;
  WarpRows<Half, kGroups, kKind> rows;
  rows.start(head_size, [&](int r) { return r < count ? a.q + at + static_cast<int64_t>(r) * head_size : nullptr; });
  float tile[kTile / 8][4];
  rows.score(a.cache, [&](int i) -> const std::byte* {
    return from + i >= first && from + i <= position ? a.cache.row(slot.first_page, 0, head, from + i) : nullptr;
  }, tile);
  finish_scores<4 * kTile / 8>(a, tile[0], [](int) { return 0.0f; }, [](int) { return 0; });
  for (int n = 0; n < kTile / 8; ++n)
    for (int i = 0; i < 4; ++i) {
      const int r = rows.row(i / 2), seen = from + 8 * n + 2 * (lane() % 4) + i % 2;
      if (r < count && seen >= first && seen <= position)
        scores[task.scores + static_cast<int64_t>(query_head + r) * task.visible + seen - first] = tile[n][i];
    }
}

/// The order of shares: the bits of floats that are not negative are in their order; NaN counts as the largest (backend/sparse_positions.cc).
FLEXGEN_CODE uint32_t share_key(float share) { return std::bit_cast<uint32_t>(share) & 0x7fffffffu; }

/// Chooses the positions of sparse rows as choose_positions() does: of each kv head the row's own and the kept - 1 others with the largest shares, of
/// equal ones the earlier; ascending, from position 0 of the sequence. Reads scores [A, visible] and leaves shares [G, visible] in the first rows. Grid: (G, rows).
FLEXGEN_KERNEL void choose_generated(AttentionOnDevice a, const GeneratedRow* generated, float* scores, int32_t* chosen) {
  FLEXGEN_SHARED float reduction[kWarp];
  FLEXGEN_SHARED uint32_t counts[256];
  FLEXGEN_SHARED uint32_t prefix, wanted, above_sum;
  const GeneratedRow task = generated[block_y()];
  const SlotOnDevice slot = a.slots[task.slot];
  const int head = static_cast<int>(block_x()), group = a.cache.query_heads / a.cache.kv_heads, visible = task.visible;
  float* shares = scores + task.scores + static_cast<int64_t>(head) * group * visible;
  chosen += task.chosen + static_cast<int64_t>(head) * task.kept;
  const int first = slot.past + task.row + 1 - visible;

  for (int member = 0; member < group; ++member) {
    float* mine = shares + static_cast<int64_t>(member) * visible;
    float largest = minus_infinity(), total = 0;
    for (int i = thread(); i < visible; i += num_threads()) largest = fmaxf(largest, mine[i]);
    largest = reduce_block<true>(largest, reduction);
    for (int i = thread(); i < visible; i += num_threads()) {
      const float weight = exp2f(mine[i] - largest);
      total += weight == weight ? weight : 0.0f;  // the share of a NaN is one, so that it is chosen and seen
    }
    total = reduce_block<false>(total, reduction);
    if (total == 0) total = 1;
    for (int i = thread(); i < visible; i += num_threads()) {
      const float share = exp2f(mine[i] - largest) / total;
      shares[i] = member == 0 ? share : shares[i] + share;
    }
  }
  sync_block();

  // Radix selection, a byte at a time: `prefix` becomes the key of the last that is taken, `wanted` how many with just that key are.
  const int others = visible - 1;
  if (thread() == 0) prefix = 0, wanted = static_cast<uint32_t>(task.kept - 1);
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = thread(); i < 256; i += num_threads()) counts[i] = 0;
    sync_block();
    const uint32_t fixed = shift == 24 ? 0 : 0xffffffffu << (shift + 8), so_far = prefix;
    for (int i = thread(); i < others; i += num_threads()) {
      const uint32_t key = share_key(shares[i]);
      if ((key & fixed) == so_far) add_to(&counts[(key >> shift) & 0xffu], 1);
    }
    sync_block();
    if (thread() == 0) {
      above_sum = 0;
      int byte = 255;
      while (byte > 0 && above_sum + counts[byte] < wanted) above_sum += counts[byte--];
      prefix = so_far | static_cast<uint32_t>(byte) << shift;
      wanted -= above_sum;
    }
    sync_block();
  }

  // In order: what lies above the last key, and the first `wanted` of those equal to it. Each round places num_threads() positions.
  FLEXGEN_SHARED uint32_t taken_of_warp[kWarp], equal_of_warp[kWarp];
  uint32_t taken_before = 0, equal_before = 0;
  const uint32_t last_key = prefix, equal_wanted = task.kept > 1 ? wanted : 0;
  for (int from = 0; from < others; from += num_threads()) {
    const int i = from + thread();
    const uint32_t key = i < others ? share_key(shares[i]) : 0;
    const bool above = i < others && task.kept > 1 && key > last_key, equal = i < others && task.kept > 1 && key == last_key;
    // Ranks within the block by sums of small whole numbers, which floats hold exactly.
    float equal_rank = equal ? 1.0f : 0.0f;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const float before = shuffle(equal_rank, lane() >= offset ? lane() - offset : 0);
      if (lane() >= offset) equal_rank += before;
    }
    if (lane() == kWarp - 1) equal_of_warp[warp()] = static_cast<uint32_t>(equal_rank);
    sync_block();
    uint32_t rank = equal_before + static_cast<uint32_t>(equal_rank) - (equal ? 1u : 0u);
    for (int w = 0; w < warp(); ++w) rank += equal_of_warp[w];
    const bool taken = above || (equal && rank < equal_wanted);
    float taken_rank = taken ? 1.0f : 0.0f;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const float before = shuffle(taken_rank, lane() >= offset ? lane() - offset : 0);
      if (lane() >= offset) taken_rank += before;
    }
    if (lane() == kWarp - 1) taken_of_warp[warp()] = static_cast<uint32_t>(taken_rank);
    sync_block();
    uint32_t place = taken_before + static_cast<uint32_t>(taken_rank) - 1u;
    for (int w = 0; w < warp(); ++w) place += taken_of_warp[w];
    if (taken) chosen[place] = first + i;
    for (int w = 0; w < num_threads() / kWarp; ++w) {
      taken_before += taken_of_warp[w];
      equal_before += equal_of_warp[w];
    }
    sync_block();
  }
  if (thread() == 0) chosen[task.kept - 1] = first + others;
}

}  // namespace flexgen::inline FLEXGEN_SIDE
