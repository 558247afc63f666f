#include "backend/routing.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

namespace flexgen {
namespace {

void softmax_of_row(std::span<float> x) {
  const float most = *std::max_element(x.begin(), x.end());
  float sum = 0;
  for (float& value : x) sum += value = std::exp(value - most);
  for (float& value : x) value /= sum;
}

bool is_taken(std::span<const ExpertChoice> taken, int32_t expert) {
  return std::any_of(taken.begin(), taken.end(), [&](const ExpertChoice& choice) { return choice.expert == expert; });
}

/// Whether a score comes before the best so far, which has a lower number: NaN comes last.
bool comes_first(float score, float best) { return score > best || (std::isnan(best) && !std::isnan(score)); }

/// The largest of the scores that is none of `taken`, of the experts that are `open`.
template <typename Open, typename Score>
int32_t largest_left(int64_t num_experts, std::span<const ExpertChoice> taken, const Open& is_open, const Score& score_of) {
  int32_t best = -1;
  float best_score = 0;
  for (int32_t expert = 0; expert < num_experts; ++expert) {
    if (!is_open(expert) || is_taken(taken, expert)) continue;
    const float score = score_of(static_cast<size_t>(expert));
    if (best >= 0 && !comes_first(score, best_score)) continue;
    best = expert;
    best_score = score;
  }
  return best;
}

/// RouterRule::num_groups: those that a row's experts are of, a bit each.
template <typename Score>
uint64_t open_groups(const RouterRule& rule, const Score& score_of) {
  const int64_t size = rule.num_experts / rule.num_groups;
  std::vector<float> sums(static_cast<size_t>(rule.num_groups));
  for (size_t group = 0; group < sums.size(); ++group) {
    float first = score_of(group * static_cast<size_t>(size)), second = score_of(group * static_cast<size_t>(size) + 1);
    if (second > first) std::swap(first, second);
    for (size_t expert = group * static_cast<size_t>(size) + 2; expert < (group + 1) * static_cast<size_t>(size); ++expert) {
      const float score = score_of(expert);
      if (score > first) second = std::exchange(first, score);
      else if (score > second) second = score;
    }
    sums[group] = first + second;
  }
  uint64_t open = 0;
  for (int64_t i = 0; i < rule.groups_per_row; ++i) {
    int best = -1;
    for (int group = 0; group < rule.num_groups; ++group)
      if ((open >> group & 1u) == 0 && (best < 0 || comes_first(sums[static_cast<size_t>(group)], sums[static_cast<size_t>(best)]))) best = group;
    open |= uint64_t{1} << best;
  }
  return open;
}

/// RouterScore::kSparseMixer.
void choose_as_sparse_mixer(float nearness, std::span<const float> logits, ExpertChoice* choices) {
  for (size_t i = 0; i < 2; ++i) {
    const std::span<const ExpertChoice> taken(choices, i);
    const int32_t best = largest_left(
        std::ssize(logits), taken, [](int32_t) { return true; }, [&](size_t expert) { return logits[expert]; });
    const float most = logits[static_cast<size_t>(best)];
    float sum = 0;
    for (size_t expert = 0; expert < logits.size(); ++expert) {
      if (is_taken(taken, static_cast<int32_t>(expert))) continue;
      const float score = logits[expert], distance = (most - score) / std::max(std::abs(score), most);
      if (!(distance > nearness)) sum += std::exp(score - most);
    }
    choices[i] = {best, 1 / sum};
  }
}

}  // namespace

void choose_experts_of_row(const RouterRule& rule, std::span<float> logits, std::span<const float> bias, ExpertChoice* choices) {
  const auto k = static_cast<size_t>(rule.experts_per_row);
  if (rule.score == RouterScore::kSparseMixer) return choose_as_sparse_mixer(rule.nearness, logits, choices);
  if (rule.score == RouterScore::kSoftmax) softmax_of_row(logits);
  else
    for (float& value : logits) value = 1 / (1 + std::exp(-value));
  const auto score_of = [&](size_t expert) { return logits[expert] + (bias.empty() ? 0 : bias[expert]); };
  const uint64_t open = rule.num_groups > 1 ? open_groups(rule, score_of) : 1;
  const int64_t group_size = rule.num_experts / rule.num_groups;
  float sum = 0;
  for (size_t i = 0; i < k; ++i) {
    const int32_t best = largest_left(
        std::ssize(logits), {choices, i}, [&](int32_t expert) { return (open >> expert / group_size & 1u) != 0; }, score_of);
    choices[i] = {best, logits[static_cast<size_t>(best)]};
    sum += choices[i].weight;
  }
  for (size_t i = 0; i < k; ++i) choices[i].weight *= rule.normalized ? rule.scale / std::max(sum, std::numeric_limits<float>::min()) : rule.scale;
}

void HostKernels::share_rows(int64_t num_rows, int64_t /*cols*/, const std::function<void(int64_t, int64_t)>& work) { work(0, num_rows); }

void HostKernels::add_row(const float* x, int64_t cols, float factor, float* y) {
  for (int64_t i = 0; i < cols; ++i) y[i] += factor * x[i];
}

void HostKernels::choose_experts(float* logits, int64_t num_rows, const WeightView& bias, const RouterRule& rule, ExpertChoice* choices) {
  std::vector<float> values(bias.empty() ? 0 : static_cast<size_t>(bias.cols));
  for (size_t i = 0; i < values.size(); ++i) values[i] = load_float(bias.data(), bias.dtype, static_cast<int64_t>(i));
  share_rows(num_rows, rule.num_experts * rule.experts_per_row, [&](int64_t first, int64_t count) {
    for (int64_t row = first; row < first + count; ++row)
      choose_experts_of_row(rule, {logits + row * rule.num_experts, static_cast<size_t>(rule.num_experts)}, values, choices + row * rule.experts_per_row);
  });
}

void HostKernels::pick_rows(const std::byte* x, std::span<const WeightedRow> rows, int64_t cols, std::byte* out) {
  const int64_t bytes = size_bytes(act_dtype(), cols);
  share_rows(std::ssize(rows), cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) std::memcpy(out + i * bytes, x + rows[static_cast<size_t>(i)].row * bytes, static_cast<size_t>(bytes));
  });
}

void HostKernels::add_rows(const float* x, std::span<const WeightedRow> rows, int64_t cols, float* y) {
  share_rows(std::ssize(rows), cols, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      const WeightedRow& to = rows[static_cast<size_t>(i)];
      add_row(x + i * cols, cols, to.weight, y + to.row * cols);
    }
  });
}

void HostKernels::add_gated_rows(const float* x, int64_t num_rows, int64_t cols, const float* gates, float factor, float* y) {
  share_rows(num_rows, cols, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) add_row(x + t * cols, cols, factor * (1 / (1 + std::exp(-gates[t]))), y + t * cols);
  });
}

}  // namespace flexgen
