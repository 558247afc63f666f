#include "model/parts/experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "model/expert_chances.h"
#include "model/parts/feed_forward.h"
#include "model/parts/norm.h"

namespace flexgen {
namespace {

void softmax(std::span<float> x) {
  const float most = *std::max_element(x.begin(), x.end());
  float sum = 0;
  for (float& value : x) sum += value = std::exp(value - most);
  for (float& value : x) value /= sum;
}

/// A bias [E] of any type as floats.
std::vector<float> floats_of(const LayerContext& c, const WeightView& vector) {
  std::vector<float> values;
  if (vector.empty()) return values;
  values.resize(static_cast<size_t>(vector.cols));
  const std::byte* const row[]{vector.data()};
  c.kernels.gather_rows(row, vector.dtype, vector.cols, false, values.data());
  return values;
}

/// The largest of `scores` that is none of `taken`. NaN is chosen last, and then like others: what is not finite is found in the logits of the answer.
template <typename Score>
int32_t largest_left(int64_t num_experts, std::span<const int32_t> taken, const Score& score_of) {
  int32_t best = -1;
  float best_score = 0;
  for (int32_t expert = 0; expert < num_experts; ++expert) {
    if (std::find(taken.begin(), taken.end(), expert) != taken.end()) continue;
    const float score = score_of(static_cast<size_t>(expert));
    if (best >= 0 && !(score > best_score) && (!std::isnan(best_score) || std::isnan(score))) continue;
    best = expert;
    best_score = score;
  }
  return best;
}

/// RouterScore::kSparseMixer.
void choose_as_sparse_mixer(float nearness, std::span<const float> logits, int32_t* experts, float* weights) {
  for (int64_t i = 0; i < 2; ++i) {
    const std::span<const int32_t> taken(experts, static_cast<size_t>(i));
    experts[i] = largest_left(std::ssize(logits), taken, [&](size_t expert) { return logits[expert]; });
    const float most = logits[static_cast<size_t>(experts[i])];
    float sum = 0;
    for (size_t expert = 0; expert < logits.size(); ++expert) {
      if (std::find(taken.begin(), taken.end(), static_cast<int32_t>(expert)) != taken.end()) continue;
      const float score = logits[expert], distance = (most - score) / std::max(std::abs(score), most);
      if (!(distance > nearness)) sum += std::exp(score - most);
    }
    weights[i] = 1 / sum;
  }
}

/// The same for the same row in the same block, whatever its neighbours are. FNV-1a.
uint64_t seed_of(const std::byte* row, int64_t bytes, int64_t block) {
  uint64_t hash = 0xcbf29ce484222325u ^ static_cast<uint64_t>(block);
  for (int64_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<uint64_t>(row[i])) * 0x100000001b3u;
  return hash;
}

}  // namespace

void choose_experts_of_row(const Mixture& mixture, std::span<float> logits, std::span<const float> bias, int32_t* experts, float* weights) {
  const int64_t k = mixture.experts_per_row;
  if (mixture.score == RouterScore::kSparseMixer) return choose_as_sparse_mixer(mixture.nearness, logits, experts, weights);
  if (mixture.score == RouterScore::kSoftmax) softmax(logits);
  else for (float& value : logits) value = 1 / (1 + std::exp(-value));
  float sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    experts[i] = largest_left(std::ssize(logits), {experts, static_cast<size_t>(i)}, [&](size_t expert) { return logits[expert] + (bias.empty() ? 0 : bias[expert]); });
    weights[i] = logits[static_cast<size_t>(experts[i])];
    sum += weights[i];
  }
  for (int64_t i = 0; i < k; ++i) weights[i] *= mixture.normalized ? mixture.scale / std::max(sum, std::numeric_limits<float>::min()) : mixture.scale;
}

void choose_experts(const LayerContext& c, const BlockScratch& s) {
  const ModelConfig& m = c.config;
  const int64_t T = c.in.num_rows, E = m.mixture.num_experts, k = m.mixture.experts_per_row, row_bytes = size_bytes(c.kernels.act_dtype(), m.hidden_size);
  const ExpertRows kept = ExpertRows::behind(c.hidden, m, T);
  normalize(c, Role::kNorm2, c.hidden, T, kept.x);
  const std::vector<float> bias = m.mixture.choice_bias ? floats_of(c, c[Role::kRouterBias]) : std::vector<float>();
  const WeightView logit_bias = m.mixture.logit_bias ? c[Role::kRouterBias] : WeightView();
  for (int64_t first = 0; first < T; first += kFfnPanelRows) {
    const int64_t rows = std::min(kFfnPanelRows, T - first);
    c.kernels.linear(kept.x + first * row_bytes, rows, c[Role::kRouter], logit_bias, false, s.router);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = (first + i) * k;
      choose_experts_of_row(m.mixture, std::span(s.router + i * E, static_cast<size_t>(E)), bias, kept.experts + at, kept.weights + at);
      if (m.mixture.drawn)
        draw_experts(m.mixture.drawn->of_block(c.layer.index), seed_of(kept.x + (first + i) * row_bytes, row_bytes, c.layer.index), {kept.experts + at, static_cast<size_t>(k)});
    }
  }
  if (c.has(Role::kUp)) add_feed_forward(c, s, kept.x);
}

void add_experts(const LayerContext& c, const ExpertScratch& s) {
  const ModelConfig& m = c.config;
  const int64_t T = c.in.num_rows, D = m.hidden_size, F = m.mixture.expert_size, k = m.mixture.experts_per_row;
  const int64_t row_bytes = size_bytes(c.kernels.act_dtype(), D);
  const ExpertRows kept = ExpertRows::behind(c.hidden, m, T);
  Kernels& kernels = c.kernels;
  const size_t each = c.w.size() / static_cast<size_t>(c.layer.num_experts);
  for (int64_t number = 0; number < c.layer.num_experts; ++number) {
    int64_t count = 0;
    for (int64_t row = 0; row < T; ++row)
      for (int64_t i = row * k; i < (row + 1) * k; ++i) {
        if (kept.experts[i] != c.layer.first_expert + number) continue;
        s.chosen_by[count] = static_cast<int32_t>(row);
        s.weights[count++] = m.residual_scale * kept.weights[i];
      }
    auto bias = [&](Role role) -> const WeightView& {  // or none
      static const WeightView kNone;
      for (size_t i = static_cast<size_t>(number) * each; i < (static_cast<size_t>(number) + 1) * each; ++i)
        if (c.layer.uses[i].role == role) return c.w[i];
      return kNone;
    };
    auto weight = [&](Role role) -> const WeightView& {
      const WeightView& found = bias(role);
      FLEXGEN_CHECK(!found.empty(), "an expert without one of its matrices");
      return found;
    };
    for (int64_t first = 0; first < count; first += kFfnPanelRows) {
      const int64_t rows = std::min(kFfnPanelRows, count - first);
      for (int64_t i = 0; i < rows; ++i) std::memcpy(s.x + i * row_bytes, kept.x + s.chosen_by[first + i] * row_bytes, static_cast<size_t>(row_bytes));
      if (m.mixture.clamped) {
        kernels.linear(s.x, rows, weight(Role::kGateUp), bias(Role::kGateUpBias), false, s.pairs);
        kernels.clamped_gate(s.pairs, rows * F, *m.mixture.clamped, s.inner);
      } else {
        kernels.linear(s.x, rows, weight(Role::kGate), {}, false, s.gate);
        kernels.linear(s.x, rows, weight(Role::kUp), {}, false, s.up);
        kernels.gated_activate(s.gate, s.up, rows * F, m.activation, s.inner);
      }
      kernels.linear(s.inner, rows, weight(Role::kDown), bias(Role::kDownBias), false, s.out);
      for (int64_t i = 0; i < rows; ++i) kernels.add_scaled(s.out + i * D, D, s.weights[first + i], c.hidden + s.chosen_by[first + i] * D);
    }
  }
}

}  // namespace flexgen
