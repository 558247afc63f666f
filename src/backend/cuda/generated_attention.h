#pragma once
// Attention of generated rows over a cache in the act type or in codes: as attend_generated() (attention_kernels.h), but keys and values come through shared
// memory, by copies that a warp starts stages ahead, so that enough bytes are under way to use the memory's bandwidth; every kind of cache has code of its own.
//
// A warp computes up to 8 query heads of a kv head over tiles of 32 positions: scores as Q K^T, whose registers are, rounded, those of the weights in V^T P^T. Codes
// become 16-bit numbers by setting the bits of an exponent (Kim et al. 2022, "Who Says Elephants Can't Run"); what that adds to every code, and scales and minimums, are applied in fp32.
// FLEXGEN_UNROLL stands before loops that are no blocks, which clang-format 14 takes apart.
// clang-format off

#include "backend/cuda/attention_kernels.h"

namespace flexgen::inline FLEXGEN_SIDE {

inline constexpr int kStageRows = 16;     ///< positions of a stage, of keys or of values
inline constexpr int kGeneratedHeads = 8; ///< query heads of a block

/// How a row of a cache of this kind lies; heads are 64 * kGroups elements.
template <typename Half, int kGroups, RowKind kKind>
struct RowShape {
  static constexpr bool kHasCodes = kKind != RowKind::kHalf;
  static constexpr int kCodeBytes = kKind == RowKind::kInt4 ? 32 : 64;  ///< of a group
  static constexpr int kBytes = kGroups * (kHasCodes ? kCodeBytes + 4 : 128);
  static constexpr int kStageBytes = kStageRows * kBytes;
  /// As many as make 48 KiB a block, the most that needs no asking for.
  static constexpr int kStages = kStageBytes > 3500 ? 3 : kStageBytes > 2100 ? 5 : 6;
  /// Codes are multiplied plus this: int4 codes as they are made, int8 codes so that they are small.
  static constexpr float kOffset = kKind == RowKind::kInt8 ? -128.0f : Half::kType == DType::kBF16 ? 128.0f : 1024.0f;
  /// A value is taken as so many steps from the middle, whose part needs no rounding of the weight.
  static constexpr float kCenter = kKind == RowKind::kInt8 ? 128.0f : 8.0f;
};

// ---------------------------------------------------------------- codes to 16 bits

/// The codes of 8 int4 in a word, as pairs plus kOffset: of bytes 0 and 2, low halves; of 1 and 3; the same of high halves.
template <typename Half>
FLEXGEN_CODE void spread_int4(uint32_t codes, uint32_t (&out)[4]) {
  constexpr uint32_t kExponent = Half::kType == DType::kBF16 ? 0x43004300u : 0x64006400u;
  out[0] = (codes & 0x000f000fu) | kExponent;
  out[1] = (codes >> 8 & 0x000f000fu) | kExponent;
  out[2] = (codes >> 4 & 0x000f000fu) | kExponent;
  out[3] = (codes >> 12 & 0x000f000fu) | kExponent;
}

// ---------------------------------------------------------------- one warp

/// A warp's part of a split: its query heads, running softmax and result. Lane l has the head `head` = l / 4, and of sums over the head those of heads 2 pair + {0, 1}.
template <typename Half, int kGroups, RowKind kKind>
struct GeneratedWarp {
  using Shape = RowShape<Half, kGroups, kKind>;
  static constexpr int kHead = 64 * kGroups;

  uint32_t q[2 * kGroups][4];      ///< step 2 j in words 0 and 2, step 2 j + 1 in 1 and 3: of a product by either, the other's rows are not used
  float out[4 * kGroups][4] = {};  ///< products of 16 columns and 8 heads
  float maximum = minus_infinity(), sum = 0;
  float q_sum[kGroups] = {};       ///< codes: of the query over a group
  float minimums[kGroups] = {};    ///< codes: the lane's part of what finish() adds to a group's columns

  /// Two elements of a query's step, which go with words 0 and 1 of b (`high`) of keys.
  static FLEXGEN_CODE int key_column(int step, int high, int i) {
    const int pair = lane() % 4, group = 64 * (step / 4), t = step % 4;
    if (kKind == RowKind::kHalf) return 16 * step + 8 * high + 2 * pair + i;
    if (kKind == RowKind::kInt4) return group + 32 * (t % 2) + 8 * pair + 4 * (t / 2) + high + 2 * i;
    return group + 4 * key_word(t) + 2 * high + i;
  }
  /// int8: the word of a group's codes of which step t takes four; so that lanes of a warp meet in few banks.
  static FLEXGEN_CODE int key_word(int t) {
    const int pair = lane() % 4;
    return pair % 2 + 2 * t + 8 * (pair / 2);
  }
  /// Column of the head of element i of product m of `out`.
  static FLEXGEN_CODE int value_column(int m, int i) {
    const int row = lane() / 4, group = 64 * (m / 4), t = m % 4, second = i / 2;
    if (kKind == RowKind::kHalf) return 16 * m + row + 8 * second;
    if (kKind == RowKind::kInt4) return group + 32 * (t % 2) + 4 * row + 2 * (t / 2) + second;
    return group + 32 * (t / 2) + 4 * row + 2 * (t % 2) + second;
  }

  /// `query`: of the lane's head, or null.
  FLEXGEN_CODE void start(const float* query) {
FLEXGEN_UNROLL
    for (int step = 0; step < 4 * kGroups; ++step)
FLEXGEN_UNROLL
      for (int high = 0; high < 2; ++high) {
        auto element = [&](int i) { return query == nullptr ? 0.0f : query[key_column(step, high, i)]; };
        const uint32_t both = q[step / 2][2 * high + step % 2] = Half::pack(element(0), element(1));
        if (Shape::kHasCodes) q_sum[step / 4] += Half::to_float(both & 0xffffu) + Half::to_float(both >> 16);
      }
    if constexpr (Shape::kHasCodes) {
FLEXGEN_UNROLL
      for (float& total : q_sum) total = sum_of_four(total);
    }
  }

  /// Codes: writes scales [kGroups][kStageRows / 2] of a stage; `shift` steps are added to minimums.
  static FLEXGEN_CODE void unpack_scales(const std::byte* stage, float shift, TwoScales* scales) {
    static_assert(kGroups * kStageRows <= kWarp);
    const int row = lane() % kStageRows, group = lane() / kStageRows;
    if (group < kGroups) {
      const GroupScale scale = fast_group_scale(load32(stage + row * Shape::kBytes + kGroups * Shape::kCodeBytes + 4 * group));
      reinterpret_cast<GroupScale*>(scales)[lane()] = {scale.step, fmaf(shift, scale.step, scale.minimum)};
    }
    sync_warp();
  }

  /// Where 16 bytes lie of a row of a stage in the act type: moved, so that eight rows' fall into different banks.
  static FLEXGEN_CODE int half_at(int row, int chunk) { return row * Shape::kBytes + 16 * (chunk ^ (row & 7)); }

  /// Scores of a stage's 16 positions: [2 products of 8][2].
  FLEXGEN_CODE void score(const std::byte* stage, const TwoScales* scales, float (*scores)[2]) const {
    const int pair = lane() % 4;
FLEXGEN_UNROLL
    for (int n = 0; n < 2; ++n) {
      float even[4] = {}, odd[4] = {}, total[2] = {};
FLEXGEN_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        uint32_t keys[4][2];
        load_keys(stage, 8 * n, group, keys);
FLEXGEN_UNROLL
        for (int t = 0; t < 4; ++t) multiply_add<Half>(t % 2 == 0 ? even : odd, q[2 * group + t / 2], keys[t]);
        if (!Shape::kHasCodes) continue;
        const TwoScales of_positions = scales[group * (kStageRows / 2) + 4 * n + pair];
FLEXGEN_UNROLL
        for (int i = 0; i < 2; ++i) {
          const GroupScale scale = of_positions.scale[i];
          total[i] += fmaf(even[i] + odd[2 + i], scale.step, q_sum[group] * scale.minimum);
        }
FLEXGEN_UNROLL
        for (int i = 0; i < 4; ++i) even[i] = odd[i] = 0;
      }
FLEXGEN_UNROLL
      for (int i = 0; i < 2; ++i) scores[n][i] = Shape::kHasCodes ? total[i] : even[i] + odd[2 + i];
    }
  }

  /// Of 8 keys from row `first` on, b of the four products of a group.
  static FLEXGEN_CODE void load_keys(const std::byte* stage, int first, int group, uint32_t (&keys)[4][2]) {
    const int row = lane() / 4, pair = lane() % 4;
    if constexpr (kKind == RowKind::kHalf) {
FLEXGEN_UNROLL
      for (int half = 0; half < 2; ++half) {
        uint32_t words[4];
        load_matrices<false>(stage + half_at(first + lane() % 8, 8 * group + 4 * half + lane() / 8), words);
FLEXGEN_UNROLL
        for (int i = 0; i < 4; ++i) keys[2 * half + i / 2][i % 2] = words[i];
      }
    } else if constexpr (kKind == RowKind::kInt4) {
      const std::byte* at = stage + (first + row) * Shape::kBytes + 32 * group + 8 * pair;
      const Words2 words = Shape::kBytes % 8 == 0 ? load64(at) : Words2{{load32(at), load32(at + 4)}};
FLEXGEN_UNROLL
      for (int half = 0; half < 2; ++half) {
        uint32_t codes[4];
        spread_int4<Half>(words.word[half], codes);
FLEXGEN_UNROLL
        for (int i = 0; i < 4; ++i) keys[2 * half + i / 2][i % 2] = codes[i];
      }
    } else {
      const std::byte* at = stage + (first + row) * Shape::kBytes + 64 * group;
FLEXGEN_UNROLL
      for (int t = 0; t < 4; ++t) {
        const uint32_t word = load32(at + 4 * key_word(t));
        keys[t][0] = pair_of_bytes<Half, 0>(word, word >> 8, Shape::kCenter);
        keys[t][1] = pair_of_bytes<Half, 2>(word, word >> 8, Shape::kCenter);
      }
    }
  }

  /// Takes the scores of the tile of positions [first, first + 32), of which [from, to] are seen, into the softmax; scores become weights.
  FLEXGEN_CODE void take_scores(const AttentionOnDevice& a, int first, int from, int to, int own, float slope, float (&p)[kTile / 8][2]) {
    const int mine = first + 2 * (lane() % 4);
    finish_scores<2 * kTile / 8>(a, p[0], [&](int) { return slope; }, [&](int i) { return mine + 8 * (i / 2) + i % 2 - own; });
    if (first < from || first + kTile - 1 > to) {
FLEXGEN_UNROLL
      for (int n = 0; n < kTile / 8; ++n)
FLEXGEN_UNROLL
        for (int i = 0; i < 2; ++i)
          if (mine + 8 * n + i < from || mine + 8 * n + i > to) p[n][i] = minus_infinity();
    }
    float largest = maximum;
FLEXGEN_UNROLL
    for (int n = 0; n < kTile / 8; ++n) largest = fmaxf(largest, fmaxf(p[n][0], p[n][1]));
    largest = maximum_of_four(largest);
    const float base = subtracted(largest), factor = power_of_2(maximum - base);
    maximum = largest;
    float total = 0;
FLEXGEN_UNROLL
    for (int n = 0; n < kTile / 8; ++n)
FLEXGEN_UNROLL
      for (int i = 0; i < 2; ++i) total += p[n][i] = power_of_2(p[n][i] - base);
    sum = sum * factor + total;  // of the lane's positions; finish() adds the four lanes'
FLEXGEN_UNROLL
    for (float& x : minimums) x *= factor;
    const float factors[2] = {shuffle(factor, 8 * (lane() % 4)), shuffle(factor, 8 * (lane() % 4) + 4)};
FLEXGEN_UNROLL
    for (auto& product : out)
FLEXGEN_UNROLL
      for (int i = 0; i < 4; ++i) product[i] *= factors[i % 2];
  }

  /// Adds the values of a stage, weighted: p [2][2] as score() has them. A step of int4 is so large that a rounded weight is as good as it gets; of int8 a value is
  /// up to 128 steps, and a weight is rounded twice: itself, and what the first rounding left.
  FLEXGEN_CODE void add_values(const std::byte* stage, const TwoScales* scales, const float (*p)[2]) {
    const int pair = lane() % 4;
FLEXGEN_UNROLL
    for (int group = 0; group < kGroups; ++group) {
      uint32_t weights[2], rests[2] = {};
FLEXGEN_UNROLL
      for (int half = 0; half < 2; ++half) {
        if constexpr (!Shape::kHasCodes) {
          weights[half] = Half::pack(p[half][0], p[half][1]);
        } else {
          const TwoScales of_positions = scales[group * (kStageRows / 2) + 4 * half + pair];
          const GroupScale low = of_positions.scale[0], high = of_positions.scale[1];
          const float x = p[half][0] * low.step, y = p[half][1] * high.step;
          const uint32_t both = weights[half] = Half::pack(x, y);
          if (kKind == RowKind::kInt8) rests[half] = pack_rest<Half>(x, y, both);
          minimums[group] = fmaf(p[half][0], low.minimum, minimums[group]);
          minimums[group] = fmaf(p[half][1], high.minimum, minimums[group]);
          if constexpr (Shape::kOffset + Shape::kCenter != 0)
            minimums[group] = fmaf(-(Shape::kOffset + Shape::kCenter), Half::to_float(both & 0xffffu) + Half::to_float(both >> 16), minimums[group]);
        }
      }
      uint32_t values[4][4];
      load_values(stage, group, values);
FLEXGEN_UNROLL
      for (int t = 0; t < 4; ++t) {
        multiply_add<Half>(out[4 * group + t], values[t], weights);
        if (kKind == RowKind::kInt8) multiply_add<Half>(out[4 * group + t], values[t], rests);
      }
    }
  }

  /// a of the four products of a group: 16 columns by the stage's 16 positions each.
  static FLEXGEN_CODE void load_values(const std::byte* stage, int group, uint32_t (&values)[4][4]) {
    const int row = lane() / 4, pair = lane() % 4;
    if constexpr (kKind == RowKind::kHalf) {
FLEXGEN_UNROLL
      for (int t = 0; t < 4; ++t) load_matrices<true>(stage + half_at(lane() % 8 + 8 * (lane() / 16), 8 * group + 2 * t + lane() / 8 % 2), values[t]);
    } else {
FLEXGEN_UNROLL
      for (int half = 0; half < 2; ++half) {  // positions 2 pair + {0, 1}, and these plus 8
        const std::byte* at = stage + (2 * pair + 8 * half) * Shape::kBytes + Shape::kCodeBytes * group + 4 * row;
        if constexpr (kKind == RowKind::kInt4) {
          const uint32_t low = load32(at), high = load32(at + Shape::kBytes);
FLEXGEN_UNROLL
          for (int two = 0; two < 2; ++two) {
            uint32_t codes[4];  // of columns 2 two, 2 two + 1, and these plus 32
            spread_int4<Half>(two == 0 ? pick_bytes<0x5410>(low, high) : pick_bytes<0x7632>(low, high), codes);
FLEXGEN_UNROLL
            for (int i = 0; i < 4; ++i) values[2 * two + i / 2][2 * half + i % 2] = codes[i];
          }
        } else {
FLEXGEN_UNROLL
          for (int two = 0; two < 2; ++two) {
            const uint32_t low = load32(at + 32 * two), high = load32(at + Shape::kBytes + 32 * two);
            values[2 * two][2 * half] = pair_of_bytes<Half, 0>(low, high, Shape::kCenter);
            values[2 * two][2 * half + 1] = pair_of_bytes<Half, 1>(low, high, Shape::kCenter);
            values[2 * two + 1][2 * half] = pair_of_bytes<Half, 2>(low, high, Shape::kCenter);
            values[2 * two + 1][2 * half + 1] = pair_of_bytes<Half, 3>(low, high, Shape::kCenter);
          }
        }
      }
    }
  }

  /// After the last tile: sums that four lanes have parts of.
  FLEXGEN_CODE void finish() {
    sum = sum_of_four(sum);
    if constexpr (Shape::kHasCodes) {
FLEXGEN_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        const float total = sum_of_four(minimums[group]);
        const float of_heads[2] = {shuffle(total, 8 * (lane() % 4)), shuffle(total, 8 * (lane() % 4) + 4)};
FLEXGEN_UNROLL
        for (int t = 0; t < 4; ++t)
FLEXGEN_UNROLL
          for (int i = 0; i < 4; ++i) out[4 * group + t][i] += of_heads[i % 2];
      }
    }
  }
};

// ---------------------------------------------------------------- copies to stages

/// The rows of a split, as a warp's lanes copy them to stages together.
template <typename Half, int kGroups, RowKind kKind>
struct StageCopier {
  using Warp = GeneratedWarp<Half, kGroups, kKind>;
  using Shape = RowShape<Half, kGroups, kKind>;
  const CacheOnDevice& cache;
  int first_page, head, first, last;  ///< positions, or with `chosen` indices into it, inclusive
  const int32_t* chosen;              ///< or null
  int64_t of_head, to_values;         ///< bytes: from a page's start to the head's keys, and on to its values

  FLEXGEN_CODE StageCopier(const CacheOnDevice& cache, int first_page, int head, const SplitRange& range, const int32_t* chosen)
      : cache(cache), first_page(first_page), head(head), first(range.first), last(range.last), chosen(chosen),
        of_head(static_cast<int64_t>(head) * cache.page_tokens * Shape::kBytes), to_values(static_cast<int64_t>(cache.kv_heads) * cache.page_tokens * Shape::kBytes) {}

  /// Keys (which 0) or values (1) of positions [from, from + 16); zeros for those not in the split.
  FLEXGEN_CODE void start(std::byte* stage, int which, int from) const {
    if (chosen == nullptr && from >= first && from + kStageRows - 1 <= last && cache.page_shift >= 4) {  // one stretch of a page
      const std::byte* rows = cache.pages[first_page + (from >> cache.page_shift)] + of_head + (which == 0 ? 0 : to_values) + (from & (cache.page_tokens - 1)) * Shape::kBytes;
      constexpr int kChunks = Shape::kStageBytes / 16;
FLEXGEN_UNROLL
      for (int j = 0; j < (kChunks + kWarp - 1) / kWarp; ++j) {
        const int i = lane() + kWarp * j;
        if (kChunks % kWarp != 0 && i >= kChunks) break;
        const int to = Shape::kHasCodes ? 16 * i : Warp::half_at(i / (8 * kGroups), i % (8 * kGroups));
        start_copy16(stage + to, rows + 16 * i);
      }
      return;
    }
    // Two lanes a row.
    const int row = lane() / 2, index = from + row;
    const bool is_there = index >= first && index <= last;
    // What is not there is not read, but named by an address that could be.
    const std::byte* at = is_there ? cache.row(first_page, which, head, chosen != nullptr ? chosen[index] : index) : reinterpret_cast<const std::byte*>(cache.pages);
    const int step = is_there ? 1 : 0;
    if constexpr (!Shape::kHasCodes) {
FLEXGEN_UNROLL
      for (int chunk = lane() % 2; chunk < 8 * kGroups; chunk += 2) start_copy16(stage + Warp::half_at(row, chunk), at + 16 * chunk * step, is_there);
    } else {
FLEXGEN_UNROLL
      for (int word = lane() % 2; word < Shape::kBytes / 4; word += 2) start_copy4(stage + row * Shape::kBytes + 4 * word, at + 4 * word * step, is_there);
    }
  }
};

// ---------------------------------------------------------------- the kernel

/// As attend_generated(). Grid: (most splits, G * ceil(A / G / 8), rows).
template <typename Half, int kGroups, RowKind kKind>
FLEXGEN_KERNEL void FLEXGEN_BOUNDS(kAttentionWarps * kWarp, 4)
    attend_generated_staged(AttentionOnDevice a, const GeneratedRow* generated, const int32_t* chosen, float* partials) {
  using Shape = RowShape<Half, kGroups, kKind>;
  constexpr int kHead = 64 * kGroups, kRow = kHead + 4, kStages = Shape::kStages;  // kRow: heads 2 pair fall into different banks
  constexpr int kRing = kStages * Shape::kStageBytes, kRings = kAttentionWarps * kRing, kMerge = kAttentionWarps * kGeneratedHeads * (kRow + 2) * 4;
  alignas(16) FLEXGEN_SHARED std::byte memory[kRings > kMerge ? kRings : kMerge];
  FLEXGEN_SHARED TwoScales all_scales[kAttentionWarps][Shape::kHasCodes ? kGroups * kStageRows / 2 : 1];

  const GeneratedRow task = generated[block_z()];
  const int split = static_cast<int>(block_x());
  if (split >= task.num_splits) return;
  const SlotOnDevice slot = a.slots[task.slot];
  const int group = a.cache.query_heads / a.cache.kv_heads, head_tiles = (group + kGeneratedHeads - 1) / kGeneratedHeads;
  const int head = static_cast<int>(block_y()) / head_tiles, first_member = static_cast<int>(block_y()) % head_tiles * kGeneratedHeads;
  const int count = group - first_member < kGeneratedHeads ? group - first_member : kGeneratedHeads, query_head = head * group + first_member;
  const int64_t at = (static_cast<int64_t>(slot.first_row + task.row) * a.cache.query_heads + query_head) * kHead;
  const int own = slot.past + task.row, mine = lane() / 4;
  const SplitRange range(task, own, split);
  const StageCopier<Half, kGroups, kKind> copier(a.cache, slot.first_page, head, range,
                                                 chosen == nullptr ? nullptr : chosen + task.chosen + static_cast<int64_t>(head) * task.kept);

  // Stages of a tile: keys of its halves, values of its halves. Tile t, counted from position 0, is warp t % 4's.
  const int first_tile = range.first / kTile + (warp() + kAttentionWarps - range.first / kTile % kAttentionWarps) % kAttentionWarps;
  const int num_stages = first_tile * kTile > range.last ? 0 : 4 * ((range.last / kTile - first_tile) / kAttentionWarps + 1);
  std::byte* const ring = memory + warp() * kRing;
  int started = 0, start_at = 0, read_at = 0;  // start_at, read_at: bytes within the ring
  auto start_stage = [&] {
    if (started < num_stages)
      copier.start(ring + start_at, started / 2 % 2, (first_tile + started / 4 * kAttentionWarps) * kTile + started % 2 * kStageRows);
    close_copies();
    ++started;
    start_at = start_at + Shape::kStageBytes == kRing ? 0 : start_at + Shape::kStageBytes;
  };
  auto next_stage = [&]() -> const std::byte* {
    wait_for_copies<kStages - 2>();
    sync_warp();  // all see the stage, and are done with the one before it
    const std::byte* stage = ring + read_at;
    read_at = read_at + Shape::kStageBytes == kRing ? 0 : read_at + Shape::kStageBytes;
    start_stage();
    return stage;
  };
FLEXGEN_UNROLL
  for (int i = 0; i < kStages - 1; ++i) start_stage();

  GeneratedWarp<Half, kGroups, kKind> state;
  state.start(mine < count ? a.q + at + static_cast<int64_t>(mine) * kHead : nullptr);
  const float slope = a.slopes != nullptr && mine < count ? a.slopes[query_head + mine] : 0.0f;
  TwoScales* const scales = all_scales[warp()];
FLEXGEN_ROLLED
  for (int first = first_tile * kTile; first <= range.last; first += kAttentionWarps * kTile) {
    float p[kTile / 8][2];
FLEXGEN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::byte* stage = next_stage();
      if (Shape::kHasCodes) state.unpack_scales(stage, -Shape::kOffset, scales);
      state.score(stage, scales, p + 2 * half);
    }
    state.take_scores(a, first, range.first, range.last, own, slope, p);
FLEXGEN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::byte* stage = next_stage();
      if (Shape::kHasCodes) state.unpack_scales(stage, Shape::kCenter, scales);
      state.add_values(stage, scales, p + 2 * half);
    }
  }
  state.finish();
  wait_for_copies<0>();
  sync_block();

  // The warps' results, put together in their order.
  auto* totals = reinterpret_cast<float*>(memory);  // [warps][8][kRow], then sums and maximums [warps][8]
  float *sums = totals + kAttentionWarps * kGeneratedHeads * kRow, *maximums = sums + kAttentionWarps * kGeneratedHeads;
  if (lane() % 4 == 0) {
    sums[warp() * kGeneratedHeads + mine] = state.sum;
    maximums[warp() * kGeneratedHeads + mine] = state.maximum;
  }
FLEXGEN_UNROLL
  for (int m = 0; m < 4 * kGroups; ++m)
FLEXGEN_UNROLL
    for (int i = 0; i < 4; ++i) totals[(warp() * kGeneratedHeads + 2 * (lane() % 4) + i % 2) * kRow + state.value_column(m, i)] = state.out[m][i];
  sync_block();
  for (int i = thread(); i < count * kHead; i += num_threads()) {
    const int r = i / kHead, column = i % kHead;
    float maximum = minus_infinity(), sum = 0, total = 0;
    for (int w = 0; w < kAttentionWarps; ++w) maximum = fmaxf(maximum, maximums[w * kGeneratedHeads + r]);
    const float base = subtracted(maximum);
FLEXGEN_UNROLL
    for (int w = 0; w < kAttentionWarps; ++w) {
      const float factor = power_of_2(maximums[w * kGeneratedHeads + r] - base);
      sum += sums[w * kGeneratedHeads + r] * factor;
      total += totals[(w * kGeneratedHeads + r) * kRow + column] * factor;
    }
    store_of_split<Half>(a, task, split, query_head + r, column, {total, sum, maximum}, a.out + at + i, partials);
  }
}

}  // namespace flexgen::inline FLEXGEN_SIDE
