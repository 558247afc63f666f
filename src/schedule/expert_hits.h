#pragma once
// How many experts some row of a pass is expected to choose, if rows choose independently: by the model's expert_chances(), or where it has none, no expert more often than another. What visits
// are said to take and how the planner loads experts go by it. Pure functions.

#include "model/model.h"
#include "schedule/weight_layout.h"

namespace flexgen {

/// The share of a block's experts that `rows` rows choose: 1 - (1 - k/E)^rows.
double expert_hit_share(const Mixture& mixture, double rows);

/// The same of units of `num_experts` experts: a row chooses none of these with the chance C(E - n, k) / C(E, k).
double unit_hit_share(const Mixture& mixture, int64_t num_experts, double rows);

/// By the model's chances: of all experts of the model, the share that `rows` rows choose.
double expert_hit_share(const Model& model, double rows);
/// Whether they choose any of the unit's experts.
double unit_hit_share(const Model& model, const LayerSpec& unit, double rows);
/// The same in two steps, the first of which has nothing to do with rows: the logarithm of the chance that one row chooses none of the unit's experts, and of that the share.
double unit_log_miss(const Mixture& mixture, int64_t num_experts);
double unit_log_miss(const Model& model, const LayerSpec& unit);
double hit_share_of(double log_miss, double rows);
/// Of the bytes that a pass over a unit reads from disk, and of those that it copies from RAM to a GPU, those of experts that they choose; `placed` is the unit's layout.
struct ChosenBytes {
  double disk = 0, host = 0;
};
ChosenBytes chosen_bytes(const Model& model, const LayerSpec& unit, const WeightLayout::Layer& placed, double rows);

/// Rows that each product of a visit of `rows` rows multiplies: of experts, the mean over those that some row chooses.
double product_rows(const LayerSpec& layer, double rows);

}  // namespace flexgen
