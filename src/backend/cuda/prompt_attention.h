#pragma once
// Attention of prompt rows: a block's warps share tiles of keys and values, which come to shared memory while the tile before is computed (FlashAttention-2: Dao 2023).
// Codes become 16-bit numbers on the way, exactly; their scales and minimums are applied in fp32. Other types become the act type.
//
// A warp has 16 rows, a row being one query head of one new token; a block 64 that follow one another, of one slot and kv head. A row's tiles of 32 positions start at
// multiples of 32, so its bits do not depend on pages, chunks, or the rows beside it.
// FLEXGEN_UNROLL stands before loops that are no blocks, which clang-format 14 takes apart.
// clang-format off

#include "backend/cuda/attention_kernels.h"

namespace flexgen::inline FLEXGEN_SIDE {

inline constexpr int kPromptRows = kAttentionWarps * kWarpRows;

/// Sets infinities and NaN to zero: in a tile that some rows see in part they would turn a weight of zero into NaN.
template <typename Half>
FLEXGEN_CODE bool leave_out_infinite(uint32_t (&pairs)[4]) {
  constexpr uint32_t kExponent = Half::kType == DType::kBF16 ? 0x7f80u : 0x7c00u;
  bool found = false;
  for (uint32_t& both : pairs) {
    if ((both & kExponent) == kExponent) both &= 0xffff0000u, found = true;
    if ((both >> 16 & kExponent) == kExponent) both &= 0x0000ffffu, found = true;
  }
  return found;
}

/// Keys or values of 32 positions in shared memory.
template <int kGroups>
struct PromptTileData {
  static constexpr int kRowBytes = 128 * kGroups;
  alignas(16) std::byte rows[kTile * kRowBytes];     ///< of the act type, or codes less code_center() as such
  TwoScales scales[kGroups][kTile / 2];              ///< codes: what they stand for; positions 2 i and 2 i + 1 together
  /// Where 16 bytes lie of a position: moved, so that eight positions' fall into different banks.
  static FLEXGEN_CODE int at(int position, int chunk) { return position * kRowBytes + 16 * (chunk ^ (position & 7)); }
  // at() of what a lane reads, as few offsets that differ from lane to lane and what is added to them.
  /// Keys: of position 8 n + lane % 8, chunk 4 j + lane / 8.
  static FLEXGEN_CODE int key_at(const int (&offsets)[2], int n, int j) { return offsets[j % 2] + 8 * n * kRowBytes + 128 * (j / 2); }
  /// Values: of position 16 step + lane % 16, chunk 2 j + lane / 16.
  static FLEXGEN_CODE int value_at(const int (&offsets)[4], int step, int j) { return offsets[j % 4] + 16 * step * kRowBytes + 128 * (j / 4); }
};

/// Running softmax of a warp's 16 rows. Of lane l, index 0 belongs to row l / 4, index 1 to row l / 4 + 8.
template <typename Half, int kGroups, RowKind kKind>
struct PromptWarp {
  using Data = PromptTileData<kGroups>;

  uint32_t q[4 * kGroups][4];
  float out[8 * kGroups][4] = {};  ///< products of 16 rows and 8 columns
  float maximum[2] = {minus_infinity(), minus_infinity()}, sum[2] = {};
  int first_visible[2], last_visible[2];  ///< positions
  float slope[2] = {};                    ///< ALiBi: of the row's query head
  float q_sum[kGroups][2] = {};           ///< codes: of the row's query over a group, which keys' minimums are multiplied with
  float minimums[kGroups][2] = {};        ///< codes: the lane's part of the weighted minimums of values; finish() adds them

  int key_offsets[2], value_offsets[4];

  FLEXGEN_CODE static int row(int half) { return lane() / 4 + 8 * half; }

  /// query(r): the query of row r, or null.
  template <typename Query>
  FLEXGEN_CODE void start(int head_size, Query query) {
    for (int j = 0; j < 2; ++j) key_offsets[j] = Data::at(lane() % 8, 4 * j + lane() / 8);
    for (int j = 0; j < 4; ++j) value_offsets[j] = Data::at(lane() % 16, 2 * j + lane() / 16);
FLEXGEN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float* x = query(row(half));
      auto element = [&](int column) { return x != nullptr && column < head_size ? x[column] : 0.0f; };
FLEXGEN_UNROLL
      for (int step = 0; step < 4 * kGroups; ++step)
FLEXGEN_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int column = 16 * step + 8 * i + 2 * (lane() % 4);
          const uint32_t both = q[step][2 * i + half] = Half::pack(element(column), element(column + 1));
          q_sum[step / 4][half] += Half::to_float(both & 0xffffu) + Half::to_float(both >> 16);
        }
FLEXGEN_UNROLL
      for (auto& of_group : q_sum) of_group[half] = sum_of_four(of_group[half]);
    }
  }

  /// Scores of 32 keys: [4 products of 8 positions].
  FLEXGEN_CODE void score(bool has_codes, const Data& keys, float (&scores)[kTile / 8][4]) const {
FLEXGEN_UNROLL
    for (int n = 0; n < kTile / 8; ++n) {
FLEXGEN_UNROLL
      for (float& x : scores[n]) x = 0;
FLEXGEN_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        float products[4];
FLEXGEN_UNROLL
        for (int i = 0; i < 4; ++i) products[i] = has_codes ? 0.0f : scores[n][i];
FLEXGEN_UNROLL
        for (int step = 4 * group; step < 4 * group + 4; step += 2) {
          uint32_t words[4];
          load_matrices<false>(keys.rows + Data::key_at(key_offsets, n, step / 2), words);
          const uint32_t low[2] = {words[0], words[1]}, high[2] = {words[2], words[3]};
          multiply_add<Half>(products, q[step], low);
          multiply_add<Half>(products, q[step + 1], high);
        }
        if (!has_codes) {
FLEXGEN_UNROLL
          for (int i = 0; i < 4; ++i) scores[n][i] = products[i];
        } else {
          const TwoScales scales = keys.scales[group][4 * n + lane() % 4];
FLEXGEN_UNROLL
          for (int i = 0; i < 4; ++i) scores[n][i] += fmaf(products[i], scales.scale[i % 2].step, q_sum[group][i / 2] * scales.scale[i % 2].minimum);
        }
      }
    }
  }

  /// Takes the tile of positions [first, first + 32) in. `all_seen`: every row of the warp sees every one.
  FLEXGEN_CODE void attend(const AttentionOnDevice& a, int first, bool all_seen, const Data& keys, const Data& values) {
    const bool with_codes = has_codes(kKind, a.cache.dtype);
    float p[kTile / 8][4];
    score(with_codes, keys, p);
    auto position_of = [&](int i) { return first + 8 * (i / 4) + 2 * (lane() % 4) + i % 2; };
    finish_scores<4 * kTile / 8>(a, p[0], [&](int i) { return slope[i / 2 % 2]; }, [&](int i) { return position_of(i) - last_visible[i / 2 % 2]; });
    if (!all_seen) {
FLEXGEN_UNROLL
      for (int i = 0; i < 4 * kTile / 8; ++i)
        if (position_of(i) < first_visible[i / 2 % 2] || position_of(i) > last_visible[i / 2 % 2]) p[i / 4][i % 4] = minus_infinity();
    }
    float factor[2];
FLEXGEN_UNROLL
    for (int half = 0; half < 2; ++half) {
      float largest = maximum[half];
FLEXGEN_UNROLL
      for (int n = 0; n < kTile / 8; ++n) largest = fmaxf(largest, fmaxf(p[n][2 * half], p[n][2 * half + 1]));
      largest = maximum_of_four(largest);
      const float base = subtracted(largest);
      factor[half] = power_of_2(maximum[half] - base);
      maximum[half] = largest;
      float total = 0;
FLEXGEN_UNROLL
      for (int n = 0; n < kTile / 8; ++n)
FLEXGEN_UNROLL
        for (int i = 0; i < 2; ++i) total += p[n][2 * half + i] = power_of_2(p[n][2 * half + i] - base);
      sum[half] = sum[half] * factor[half] + total;  // of the lane's positions; finish() adds the four lanes'
    }
    if (any_in_warp(factor[0] != 1 || factor[1] != 1)) rescale(out, minimums, factor);
    if (with_codes) add_coded_values(first, all_seen, p, values);
    else if (all_seen) add_values<true>(p, values);
    else if (any_in_warp(add_values<false>(p, values))) add_infinite(a.cache.head_size, first, p, values);
  }

  /// Adds the weighted values of the tile. Where some rows do not see all of it, what is not finite is left out; returns whether the lane met such.
  template <bool kAllSeen>
  FLEXGEN_CODE bool add_values(const float (&p)[kTile / 8][4], const Data& values) {
    bool has_infinite = false;
FLEXGEN_UNROLL
    for (int step = 0; step < kTile / 16; ++step) {
      uint32_t weights[4];
      pack_weights(p, step, weights);
FLEXGEN_UNROLL
      for (int column = 0; column < 8 * kGroups; column += 2) {
        uint32_t words[4];
        load_matrices<true>(values.rows + Data::value_at(value_offsets, step, column / 2), words);
        if constexpr (!kAllSeen) has_infinite |= leave_out_infinite<Half>(words);
        multiply(column, weights, words);
      }
    }
    return has_infinite;
  }
  static FLEXGEN_CODE void pack_weights(const float (&p)[kTile / 8][4], int step, uint32_t (&weights)[4]) {
FLEXGEN_UNROLL
    for (int i = 0; i < 4; ++i) weights[i] = Half::pack(p[2 * step + i / 2][2 * (i % 2)], p[2 * step + i / 2][2 * (i % 2) + 1]);
  }
  FLEXGEN_CODE void multiply(int column, const uint32_t (&weights)[4], const uint32_t (&words)[4]) {
    const uint32_t low[2] = {words[0], words[1]}, high[2] = {words[2], words[3]};
    multiply_add<Half>(out[column], weights, low);
    multiply_add<Half>(out[column + 1], weights, high);
  }

  /// The same of codes: weights are multiplied by steps, and by minimums in fp32. What a row does not see may have a scale that is not finite. A step of int4 is so
  /// large that a rounded weight is as good as it gets; of int8 a value is up to 128 steps, and a weight is rounded twice: itself, and what the first rounding left.
  FLEXGEN_CODE void add_coded_values(int first, bool all_seen, const float (&p)[kTile / 8][4], const Data& values) {
FLEXGEN_UNROLL
    for (int step = 0; step < kTile / 16; ++step)
FLEXGEN_UNROLL
      for (int group = 0; group < kGroups; ++group) {
        uint32_t weights[4], rests[4];
FLEXGEN_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int n = 2 * step + i / 2, half = i % 2, position = first + 8 * n + 2 * (lane() % 4);
          TwoScales scales = values.scales[group][4 * n + lane() % 4];
FLEXGEN_UNROLL
          for (int odd = 0; odd < 2; ++odd) {
            if (!all_seen && (position + odd < first_visible[half] || position + odd > last_visible[half])) scales.scale[odd] = {0, 0};
            minimums[group][half] = fmaf(p[n][2 * half + odd], scales.scale[odd].minimum, minimums[group][half]);
          }
          const float low = p[n][2 * half] * scales.scale[0].step, high = p[n][2 * half + 1] * scales.scale[1].step;
          weights[i] = Half::pack(low, high);
          rests[i] = pack_rest<Half>(low, high, weights[i]);
        }
FLEXGEN_UNROLL
        for (int column = 8 * group; column < 8 * group + 8; column += 2) {
          uint32_t words[4];
          load_matrices<true>(values.rows + Data::value_at(value_offsets, step, column / 2), words);
          multiply(column, weights, words);
          if (kKind != RowKind::kInt4) multiply(column, rests, words);
        }
      }
  }

  /// What leave_out_infinite() left out, for the rows that do see it.
  FLEXGEN_CODE void add_infinite(int head_size, int first, const float (&p)[kTile / 8][4], const Data& values) {
FLEXGEN_ROLLED
    for (int i = 0; i < kTile; ++i) {
FLEXGEN_UNROLL
      for (int half = 0; half < 2; ++half) {
        float weight = 0;
FLEXGEN_UNROLL
        for (int n = 0; n < kTile / 8; ++n)
FLEXGEN_UNROLL
          for (int odd = 0; odd < 2; ++odd) {
            const float there = shuffle(p[n][2 * half + odd], lane() / 4 * 4 + i % 8 / 2);
            if (i == 8 * n + i % 8 && i % 2 == odd) weight = there;
          }
        if (first + i < first_visible[half] || first + i > last_visible[half]) continue;
        weight = Half::to_float(Half::from_float(weight));  // as add_values() has it: one that rounds to zero makes NaN of an infinity there too
        for_results(head_size, half, [&](int column, float& x) {
          const float value = Half::to_float(load16(values.rows + Data::at(i, column / 8) + 2 * (column % 8)));
          if (!is_finite(value)) x += weight * value;
        });
      }
    }
  }

  /// After the last tile: sums that four lanes have parts of.
  FLEXGEN_CODE void finish() {
FLEXGEN_UNROLL
    for (float& x : sum) x = sum_of_four(x);
    add_minimums(out, minimums);
  }

  /// Calls body(column, element) for every element of the lane's row `half`.
  template <typename Body>
  FLEXGEN_CODE void for_results(int head_size, int half, Body body) {
FLEXGEN_UNROLL
    for (int product = 0; product < 8 * kGroups; ++product)
FLEXGEN_UNROLL
      for (int i = 0; i < 2; ++i)
        if (const int column = 8 * product + 2 * (lane() % 4) + i; column < head_size) body(column, out[product][2 * half + i]);
  }
};

/// Brings the rows of a block's tiles to shared memory, by all of its threads: elements of the act type by copies that nobody waits for, codes through registers.
template <typename Half, int kGroups, RowKind kKind>
struct PromptTileLoader {
  using Data = PromptTileData<kGroups>;
  static constexpr int kChunks = 8 * kGroups;  ///< of 16 bytes, of a row in shared memory
  /// So many threads a row, each with chunks that many apart; so many rows a thread.
  static constexpr int kTogether = kKind == RowKind::kInt4 ? kChunks / 2 : kChunks, kRowsAtOnce = kAttentionWarps * kWarp / kTogether, kRowsEach = kTile / kRowsAtOnce;
  static constexpr bool kHasCodes = kKind == RowKind::kInt4 || kKind == RowKind::kInt8;
  const CacheOnDevice& cache;
  int first_page, head, first, last;  ///< positions that are there, inclusive
  uint32_t codes[2][kRowsEach][3];    ///< of keys and values: two words, and the parameters of their group

  /// Begins with positions [from, from + 32). Of those that are not there the nearest that is is read, and zeros are placed.
  FLEXGEN_CODE void start(Data& keys, Data& values, int from) {
    const int64_t of_head = static_cast<int64_t>(head) * cache.page_tokens, to_values = static_cast<int64_t>(cache.kv_heads) * cache.page_tokens * cache.row_bytes;
    const std::byte* rows[kRowsEach];
FLEXGEN_UNROLL
    for (int i = 0; i < kRowsEach; ++i) {
      const int position = from + row_of(i), there = position < first ? first : position > last ? last : position;
      rows[i] = cache.page_shift >= 0 ? cache.pages[first_page + (there >> cache.page_shift)] + (of_head + (there & (cache.page_tokens - 1))) * cache.row_bytes
                                      : cache.row(first_page, 0, head, there);
    }
FLEXGEN_UNROLL
    for (int i = 0; i < kRowsEach; ++i)
FLEXGEN_UNROLL
      for (int which = 0; which < 2; ++which) {
        const std::byte* row = rows[i] + (which == 0 ? 0 : to_values);
        Data& to = which == 0 ? keys : values;
        const int part = thread() % kTogether;
        if constexpr (kKind == RowKind::kHalf) {
          start_copy16(to.rows + Data::at(row_of(i), part), row + 16 * part, is_there(from, i));
        } else if constexpr (kHasCodes) {
          for (int word = 0; word < 2; ++word) codes[which][i][word] = load32(row + 8 * part + 4 * word);
          codes[which][i][2] = load32(row + kGroups * (kKind == RowKind::kInt4 ? 32 : 64) + 4 * (part * kGroups / kTogether));
        } else {
          Words4 words{};
          if (is_there(from, i)) load_share_slowly<Half>(row, cache.dtype, cache.head_size, part / 8, [&](int j) { return 8 * (part % 8) + j; }, words.word);
          store(to, i, part, words);
          if (is_quantized(cache.dtype) && part % 8 == 0) set_scale(to, i, part / 8, scale_of_group<kKind>(is_there(from, i) ? row : nullptr, cache, part / 8));
        }
      }
    close_copies();
  }
  /// Ends it: all is in place after wait_for_copies() and sync_block().
  FLEXGEN_CODE void place(Data& keys, Data& values, int from) const {
    if constexpr (kHasCodes) {
FLEXGEN_UNROLL
      for (int i = 0; i < kRowsEach; ++i)
FLEXGEN_UNROLL
        for (int which = 0; which < 2; ++which) place_codes(which == 0 ? keys : values, i, codes[which][i], is_there(from, i));
    }
  }

 private:
  static FLEXGEN_CODE int row_of(int i) { return i * kRowsAtOnce + thread() / kTogether; }
  FLEXGEN_CODE bool is_there(int from, int i) const { return from + row_of(i) >= first && from + row_of(i) <= last; }

  static FLEXGEN_CODE void place_codes(Data& to, int i, const uint32_t (&from)[3], bool is_there) {
    constexpr DType kType = kKind == RowKind::kInt4 ? DType::kInt4 : DType::kInt8;
    const int part = thread() % kTogether;
    // int4: eight elements, and the eight that lie 32 further.
FLEXGEN_UNROLL
    for (int high = 0; high < (kKind == RowKind::kInt4 ? 2 : 1); ++high) {
      Words4 words;
FLEXGEN_UNROLL
      for (int word = 0; word < 2; ++word) unpack_codes<Half>(kKind == RowKind::kInt4 ? from[word] >> 4 * high & 0x0f0f0f0fu : from[word], kType, words.word + 2 * word);
      store(to, i, kKind == RowKind::kInt4 ? 8 * (part / 4) + part % 4 + 4 * high : part, words);
    }
    if (part % (kTogether / kGroups) != 0) return;
    GroupScale scale = fast_group_scale(from[2]);
    scale.minimum = fmaf(code_center(kType), scale.step, scale.minimum);
    set_scale(to, i, part / (kTogether / kGroups), is_there ? scale : GroupScale{0, 0});
  }
  static FLEXGEN_CODE void store(Data& to, int i, int chunk, const Words4& words) { *reinterpret_cast<Words4*>(to.rows + Data::at(row_of(i), chunk)) = words; }
  static FLEXGEN_CODE void set_scale(Data& to, int i, int group, GroupScale scale) { to.scales[group][row_of(i) / 2].scale[row_of(i) % 2] = scale; }
};

/// Prompt rows. Grid: (tiles, G).
template <typename Half, int kGroups, RowKind kKind>
FLEXGEN_KERNEL void FLEXGEN_BOUNDS(kAttentionWarps * kWarp, kGroups == 1 ? 3 : 2) attend_prompts(AttentionOnDevice a, const PromptTile* tiles) {
  FLEXGEN_SHARED PromptTileData<kGroups> keys[2], values[2];
  const PromptTile tile = tiles[block_x()];
  const SlotOnDevice slot = a.slots[tile.slot];
  const int head = static_cast<int>(block_y()), group = a.cache.query_heads / a.cache.kv_heads, head_size = a.cache.head_size;
  // Entry e of the slot is query head e % group of its new row e / group.
  const int first_entry = tile.first + kWarpRows * warp(), rest = tile.count - kWarpRows * warp(), count = rest < kWarpRows ? rest : kWarpRows;
  auto at = [&](int r) {
    const int entry = first_entry + r;
    return (static_cast<int64_t>(slot.first_row + entry / group) * a.cache.query_heads + head * group + entry % group) * head_size;
  };
  auto position_of = [&](int entry) { return slot.past + entry / group; };
  auto first_seen = [&](int position) { return a.window > 0 && position >= a.window ? position + 1 - a.window : 0; };
  const int first = first_seen(position_of(tile.first)), last = position_of(tile.first + tile.count - 1);
  // What a row of the warp sees, and what all of them do; a warp without rows sees nothing.
  const int warp_first = first_seen(position_of(first_entry)), warp_last = count > 0 ? position_of(first_entry + count - 1) : -1;
  const int all_first = first_seen(warp_last), all_last = position_of(first_entry);

  const int first_tile = first / kTile * kTile;
  PromptTileLoader<Half, kGroups, kKind> loader{a.cache, slot.first_page, head, first, last, {}};
  loader.start(keys[0], values[0], first_tile);

  PromptWarp<Half, kGroups, kKind> rows;
  rows.start(head_size, [&](int r) { return r < count ? a.q + at(r) : nullptr; });
  for (int half = 0; half < 2; ++half) {
    // Rows beyond the last see what the last does: their results are dropped, and no tile seems to be seen in part because of them.
    const int r = rows.row(half), position = r < count ? position_of(first_entry + r) : warp_last;
    rows.first_visible[half] = first_seen(position);
    rows.last_visible[half] = position;
    if (a.slopes != nullptr) rows.slope[half] = a.slopes[head * group + (first_entry + r) % group];
  }
  loader.place(keys[0], values[0], first_tile);
  int now = 0;
FLEXGEN_ROLLED
  for (int from = first_tile; from <= last; from += kTile, now ^= 1) {
    wait_for_copies<0>();
    sync_block();  // all see the tile, and are done with the one before it
    const bool has_next = from + kTile <= last;
    if (has_next) loader.start(keys[now ^ 1], values[now ^ 1], from + kTile);
    if (from <= warp_last && from + kTile > warp_first) rows.attend(a, from, from >= all_first && from + kTile - 1 <= all_last, keys[now], values[now]);
    if (has_next) loader.place(keys[now ^ 1], values[now ^ 1], from + kTile);
  }
  rows.finish();
FLEXGEN_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int r = rows.row(half);
    if (r >= count) continue;
    const float factor = 1 / (rows.sum[half] + sink_weight(a, head * group + (first_entry + r) % group, rows.maximum[half]));
    uint16_t* out = a.out + at(r);
    rows.for_results(head_size, half, [&](int column, float x) { out[column] = Half::from_float(x * factor); });
  }
}

}  // namespace flexgen::inline FLEXGEN_SIDE
