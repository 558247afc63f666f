#pragma once
// Kernels of a mixture of experts: a router's logits become choices, as backend/routing.h has them; rows are packed for an expert, and what it made of them is added to where they came from.
// A row's bits depend on the row alone. Device code.

#include "backend/cuda/row_kernels.h"

namespace flexgen::inline FLEXGEN_SIDE {

/// An expert and what it is chosen by; -1: none.
struct ScoredExpert {
  float score = 0;
  int32_t expert = -1;
};

/// The one that is chosen first: of equal scores that with the lower number, NaN last.
FLEXGEN_CODE ScoredExpert chosen_first(ScoredExpert a, ScoredExpert b) {
  if (a.expert < 0 || b.expert < 0) return a.expert < 0 ? b : a;
  const bool a_is_nan = a.score != a.score, b_is_nan = b.score != b.score;
  if (a_is_nan != b_is_nan) return a_is_nan ? b : a;
  if (a_is_nan || a.score == b.score) return a.expert < b.expert ? a : b;
  return a.score > b.score ? a : b;
}

FLEXGEN_CODE bool is_chosen(const ExpertChoice* choices, int count, int expert) {
  for (int i = 0; i < count; ++i)
    if (choices[i].expert == expert) return true;
  return false;
}

/// Of what each lane has found the one that is chosen first, in every lane.
FLEXGEN_CODE int first_of_warp(ScoredExpert best) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float score = shuffle_xor(best.score, mask);
    best = chosen_first(best, {score, shuffle_xor(best.expert, mask)});
  }
  return best.expert;
}

/// Of the experts that are none of the `count` in choices, and in a group that is `open` (RouterRule::num_groups, a bit each), the one that is chosen next; in every lane. A lane asks for
/// the scores of its own experts alone.
template <typename Score>
FLEXGEN_CODE int next_choice(const RouterRule& rule, uint64_t open, const ExpertChoice* choices, int count, Score score_of) {
  const int num_experts = static_cast<int>(rule.num_experts), group_size = static_cast<int>(rule.num_experts / rule.num_groups);
  ScoredExpert best;
  for (int expert = lane(); expert < num_experts; expert += kWarp)
    if ((open >> expert / group_size & 1u) != 0 && !is_chosen(choices, count, expert)) best = chosen_first(best, {score_of(expert), expert});
  return first_of_warp(best);
}

/// The groups that a row's experts are of, in every lane; one group: that. A lane asks for the scores of all experts of its groups.
template <typename Score>
FLEXGEN_CODE uint64_t open_groups(const RouterRule& rule, Score score_of) {
  const int num_groups = static_cast<int>(rule.num_groups), size = static_cast<int>(rule.num_experts / rule.num_groups);
  if (num_groups == 1) return 1;
  float sums[2] = {};  // of groups `lane` and `lane + kWarp`
  for (int mine = 0; mine < 2; ++mine) {
    const int group = lane() + mine * kWarp;
    if (group >= num_groups) continue;
    float first = score_of(group * size), second = score_of(group * size + 1);
    if (second > first) {
      const float larger = second;
      second = first;
      first = larger;
    }
    for (int expert = group * size + 2; expert < (group + 1) * size; ++expert) {
      const float score = score_of(expert);
      if (score > first) {
        second = first;
        first = score;
      } else if (score > second) {
        second = score;
      }
    }
    sums[mine] = first + second;
  }
  uint64_t open = 0;
  for (int i = 0; i < static_cast<int>(rule.groups_per_row); ++i) {
    ScoredExpert best;
    for (int mine = 0; mine < 2; ++mine) {
      const int group = lane() + mine * kWarp;
      if (group < num_groups && (open >> group & 1u) == 0) best = chosen_first(best, {sums[mine], group});
    }
    open |= uint64_t{1} << first_of_warp(best);
  }
  return open;
}

/// RouterScore::kSparseMixer, for a row of a warp.
FLEXGEN_CODE void choose_nearby(const float* logits, const RouterRule& rule, ExpertChoice* choices) {
  const int num_experts = static_cast<int>(rule.num_experts);
  for (int i = 0; i < 2; ++i) {
    const int best = next_choice(rule, 1, choices, i, [&](int expert) { return logits[expert]; });
    const float most = logits[best];
    float sum = 0;
    for (int expert = lane(); expert < num_experts; expert += kWarp) {
      if (is_chosen(choices, i, expert)) continue;
      const float score = logits[expert], size = fabsf(score);
      const float distance = (most - score) / (size < most ? most : size);
      if (!(distance > rule.nearness)) sum += expf(score - most);
    }
    sum = sum_of_warp(sum);
    if (lane() == 0) choices[i] = {best, 1 / sum};
    sync_warp();
  }
}

/// The choices [T, k] of rows of logits [T, E], which become scores. Grid: T, a warp each.
FLEXGEN_KERNEL void choose_of_rows(float* logits, const std::byte* bias, DType bias_type, RouterRule rule, ExpertChoice* choices) {
  const int num_experts = static_cast<int>(rule.num_experts), per_row = static_cast<int>(rule.experts_per_row);
  logits += block_x() * num_experts;
  choices += block_x() * per_row;
  if (rule.score == RouterScore::kSparseMixer) return choose_nearby(logits, rule, choices);
  if (rule.score == RouterScore::kSoftmax) {
    float most = minus_infinity(), sum = 0;
    for (int expert = lane(); expert < num_experts; expert += kWarp) most = fmaxf(most, logits[expert]);
    most = maximum_of_warp(most);
    for (int expert = lane(); expert < num_experts; expert += kWarp) sum += logits[expert] = expf(logits[expert] - most);
    sum = sum_of_warp(sum);
    for (int expert = lane(); expert < num_experts; expert += kWarp) logits[expert] /= sum;
  } else {
    for (int expert = lane(); expert < num_experts; expert += kWarp) logits[expert] = 1 / (1 + expf(-logits[expert]));
  }
  sync_warp();  // every lane reads the scores of those that are chosen
  const auto score_of = [&](int expert) { return bias == nullptr ? logits[expert] : logits[expert] + load_element(bias, bias_type, expert); };
  const uint64_t open = open_groups(rule, score_of);
  float sum = 0;
  for (int i = 0; i < per_row; ++i) {
    const int best = next_choice(rule, open, choices, i, score_of);
    sum += logits[best];
    if (lane() == 0) choices[i].expert = best;
    sync_warp();
  }
  constexpr float kSmallestNormal = 1.17549435e-38f;
  const float factor = !rule.normalized ? rule.scale : rule.scale / (sum < kSmallestNormal ? kSmallestNormal : sum);
  for (int i = lane(); i < per_row; i += kWarp) choices[i].weight = logits[choices[i].expert] * factor;
}

/// As many as go to a kernel with its arguments, which takes no copy of its own.
inline constexpr int64_t kMostPackedRows = 256;
/// Rows as an argument of a kernel, by value.
struct PackedRows {
  WeightedRow rows[kMostPackedRows];
};

/// out [rows, cols] = the rows of x, elements of two bytes. Grid: rows.
FLEXGEN_KERNEL void pack_rows(const uint16_t* x, PackedRows packed, int64_t cols, uint16_t* out) {
  x += packed.rows[block_x()].row * cols;
  out += block_x() * cols;
  for (int64_t d = thread(); d < cols; d += num_threads()) out[d] = x[d];
}

/// Of y the rows += their weight times x [rows, cols]. Grid: rows.
FLEXGEN_KERNEL void add_packed_rows(const float* x, PackedRows packed, int64_t cols, float* y) {
  const WeightedRow to = packed.rows[block_x()];
  x += block_x() * cols;
  y += to.row * cols;
  for (int64_t d = thread(); d < cols; d += num_threads()) y[d] += to.weight * x[d];
}

/// Row by row y += factor * sigmoid(gate) * x. Grid: T.
FLEXGEN_KERNEL void add_rows_by_gates(const float* x, const float* gates, float factor, int64_t cols, float* y) {
  const float weight = factor * (1 / (1 + expf(-gates[block_x()])));
  x += block_x() * cols;
  y += block_x() * cols;
  for (int64_t d = thread(); d < cols; d += num_threads()) y[d] += weight * x[d];
}

}  // namespace flexgen::inline FLEXGEN_SIDE
