#include "model/parts/experts.h"

#include <numeric>
#include <vector>

#include "base/error.h"
#include "model/expert_chances.h"
#include "model/parts/feed_forward.h"
#include "model/parts/norm.h"

namespace flexgen {
namespace {

/// The same for the same choices in the same block, which differ from row to row. FNV-1a.
uint64_t seed_of(std::span<const ExpertChoice> choices, int64_t block) {
  uint64_t hash = 0xcbf29ce484222325u ^ static_cast<uint64_t>(block);
  for (const std::byte byte : std::as_bytes(choices)) hash = (hash ^ static_cast<uint64_t>(byte)) * 0x100000001b3u;
  return hash;
}

/// Model::draw_experts_by(), for each row.
void draw_choices(const LayerContext& c) {
  const auto k = static_cast<size_t>(c.config.mixture.experts_per_row);
  std::vector<int32_t> experts(k);
  for (size_t first = 0; first < c.in.choices.size(); first += k) {
    const std::span<ExpertChoice> row = c.in.choices.subspan(first, k);
    draw_experts(c.config.mixture.drawn->of_block(c.layer.index), seed_of(row, c.layer.index), experts);
    for (size_t i = 0; i < k; ++i) row[i].expert = experts[i];
  }
}

/// Experts add to zeros: the stream less itself, which is what kernels have for it.
void clear_sums(const LayerContext& c) {
  const int64_t T = c.in.num_rows, D = c.config.hidden_size;
  float* const sums = expert_sums(c.hidden, c.config, T);
  std::vector<const std::byte*> rows;
  rows.reserve(static_cast<size_t>(T));
  for (int64_t t = 0; t < T; ++t) rows.push_back(reinterpret_cast<const std::byte*>(c.hidden + t * D));
  c.kernels.gather_rows(rows, DType::kF32, D, false, sums);
  c.kernels.add_scaled(c.hidden, T * D, -1, sums);
}

/// For each expert of a layer the rows that chose it, in their order.
class RowsOfExperts {
 public:
  explicit RowsOfExperts(const LayerContext& c) : ends_(static_cast<size_t>(c.layer.num_experts) + 1) {
    const std::span<const ExpertChoice> choices = c.in.choices;
    const auto k = static_cast<size_t>(c.config.mixture.experts_per_row);
    auto number_of = [&](const ExpertChoice& choice) { return choice.expert - c.layer.first_expert; };
    auto is_here = [&](const ExpertChoice& choice) { return number_of(choice) >= 0 && number_of(choice) < c.layer.num_experts; };
    for (const ExpertChoice& choice : choices)
      if (is_here(choice)) ++ends_[static_cast<size_t>(number_of(choice)) + 1];
    std::partial_sum(ends_.begin(), ends_.end(), ends_.begin());
    rows_.resize(ends_.back());
    for (size_t i = 0; i < choices.size(); ++i)  // what was an expert's begin becomes its end
      if (is_here(choices[i]))
        rows_[ends_[static_cast<size_t>(number_of(choices[i]))]++] = {static_cast<int32_t>(i / k), c.config.residual_scale * choices[i].weight};
  }

  std::span<const WeightedRow> of(int64_t number) const {
    const size_t begin = number == 0 ? 0 : ends_[static_cast<size_t>(number) - 1];
    return std::span(rows_).subspan(begin, ends_[static_cast<size_t>(number)] - begin);
  }

 private:
  std::vector<size_t> ends_;
  std::vector<WeightedRow> rows_;
};

}  // namespace

void choose_experts(const LayerContext& c, const BlockScratch& s) {
  const Mixture& mixture = c.config.mixture;
  const int64_t T = c.in.num_rows;
  FLEXGEN_CHECK(std::ssize(c.in.choices) == T * mixture.experts_per_row, "{} choices of {} rows", c.in.choices.size(), T);
  std::byte* const x = expert_rows(c.hidden, c.config, T);
  normalize(c, Role::kNorm2, c.hidden, T, x);
  const bool routes_apart = c.has(Role::kRouterNorm);
  if (routes_apart) normalize(c, Role::kRouterNorm, c.hidden, T, s.act);
  c.kernels.route(routes_apart ? s.act : x, T, c[Role::kRouter], mixture.logit_bias ? c[Role::kRouterBias] : WeightView(), s.router);
  if (mixture.logit_factor != 1) c.kernels.scale(s.router, T * mixture.num_experts, mixture.logit_factor, 0);
  if (c.has(Role::kUp)) add_feed_forward(c, s, x);
  if (mixture.joined) clear_sums(c);
  // Last, as one waits for it.
  c.kernels.choose_experts(s.router, T, mixture.choice_bias ? c[Role::kRouterBias] : WeightView(), mixture, c.in.choices.data());
  if (!mixture.expert_scales.empty()) {
    const std::vector<float>& scales = mixture.expert_scales[static_cast<size_t>(c.layer.index)];
    for (ExpertChoice& choice : c.in.choices) choice.weight *= scales[static_cast<size_t>(choice.expert)];
  }
  if (mixture.drawn) draw_choices(c);
}

void add_experts(const LayerContext& c, const ExpertScratch& s) {
  const ModelConfig& m = c.config;
  const int64_t D = m.hidden_size, F = m.mixture.expert_size;
  const std::byte* const x = expert_rows(c.hidden, m, c.in.num_rows);
  float* const sums = expert_sums(c.hidden, m, c.in.num_rows);
  const RowsOfExperts rows_of(c);
  Kernels& kernels = c.kernels;
  const size_t each = c.w.size() / static_cast<size_t>(c.layer.num_experts);
  for (int64_t number = 0; number < c.layer.num_experts; ++number) {
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
    std::span<const WeightedRow> left = rows_of.of(number);
    while (!left.empty()) {
      const std::span<const WeightedRow> panel = left.first(std::min<size_t>(kFfnPanelRows, left.size()));
      const int64_t rows = std::ssize(panel);
      left = left.subspan(panel.size());
      kernels.pick_rows(x, panel, D, s.x);
      if (m.mixture.in_pairs) {
        kernels.linear(s.x, rows, weight(Role::kGateUp), bias(Role::kGateUpBias), false, s.pairs);
      } else {
        kernels.linear(s.x, rows, weight(Role::kGate), bias(Role::kGateBias), false, s.gate);
        kernels.linear(s.x, rows, weight(Role::kUp), bias(Role::kUpBias), false, s.up);
      }
      const GatedValues gates = m.mixture.in_pairs ? GatedValues::pairs(s.pairs) : GatedValues{s.gate, s.up};
      if (m.mixture.clamped) kernels.clamped_gate(gates, rows * F, *m.mixture.clamped, s.inner);
      else kernels.gated_activate(gates.gate, gates.up, rows * F, m.activation, s.inner);
      kernels.linear(s.inner, rows, weight(Role::kDown), bias(Role::kDownBias), false, s.out);
      kernels.add_rows(s.out, panel, D, sums);
    }
  }
}

void join_experts(const LayerContext& c, const BlockScratch& s) {
  const int64_t T = c.in.num_rows, D = c.config.hidden_size, row_bytes = size_bytes(c.kernels.act_dtype(), D);
  float* const sums = expert_sums(c.hidden, c.config, T);
  normalize(c, Role::kNorm2, c.hidden, T, s.act);
  for (int64_t first = 0; first < T; first += kFfnPanelRows) {
    const int64_t rows = std::min(kFfnPanelRows, T - first);
    compute_inner(c, s, s.act + first * row_bytes, rows);
    c.kernels.linear(s.inner, rows, c[Role::kDown], c[Role::kDownBias], false, s.branch);
    normalize_in_place(c, Role::kDensePostNorm, s.branch, rows);
    normalize_in_place(c, Role::kExpertsPostNorm, sums + first * D, rows);
    c.kernels.add_scaled(sums + first * D, rows * D, 1, s.branch);
    normalize_in_place(c, Role::kPostNorm2, s.branch, rows);
    c.kernels.add_scaled(s.branch, rows * D, c.config.residual_scale, c.hidden + first * D);
  }
  scale_block(c);
}

}  // namespace flexgen
