#include "plan/expected_visits.h"

#include <utility>

#include "plan/weight_layouts.h"
#include "schedule/expert_hits.h"

namespace flexgen {

ExpectedVisits::ExpectedVisits(WeightLayouts& layouts, const HardwareProfile& hardware, const Precision& precision, const Policy& policy)
    : model_(layouts.model()), alike_(layouts.alike()), hardware_(hardware), precision_(precision), policy_(policy), weights_(layouts.layout(policy)),
      hits_(model_.expert_chances() ? model_.layers().size() : alike_.num_kinds()), batch_carries_(static_cast<size_t>(policy.num_micro_batches), kHalf) {}

void ExpectedVisits::begin_step(const StepLoad& load) {
  const std::vector<double> rows_before = std::exchange(batch_rows_, {}), logit_rows_before = std::exchange(batch_logit_rows_, {});
  rows_ = 0;
  block_times_.clear();
  wanted_.clear();
  for (const BatchLoad& batch : load.batches) {
    rows_ += batch.rows;
    batch_rows_.push_back(batch.rows);
    batch_logit_rows_.push_back(batch.logit_rows);
    block_times_.push_back(batch.rows > 0 ? block_times(model_, hardware_, precision_, policy_, batch.block) : BlockTimes{});
  }
  if (batch_rows_ == rows_before && batch_logit_rows_ == logit_rows_before) return;
  for (HitShares& hit : hits_) hit.is_known = false;
  outer_s_.assign(alike_.num_kinds() * load.batches.size(), -1);
}

const HitShares& ExpectedVisits::hits_of(size_t layer) {
  // Where nothing is known of experts, one layer says it of all that are alike.
  HitShares& hit = hits_[model_.expert_chances() ? layer : alike_.kind_of(layer)];
  if (hit.is_known) return hit;
  hit.is_known = true;
  hit.disk = hit.host = 0;
  hit.of_batch.clear();
  hit.visit_s.clear();
  const LayerSpec& unit = model_.layers()[layer];
  const WeightLayout::Layer& placed = weights_->layers[layer];
  const double log_miss = alike_.log_miss(layer);
  hit.whole = hit_share_of(log_miss, rows_);
  if (hit.whole > 0 && !model_.expert_chances()) {
    hit.disk = hit.host = expert_hit_share(model_, rows_) / hit.whole;
  } else if (hit.whole > 0) {
    const ChosenBytes chosen = chosen_bytes(model_, unit, placed, rows_);
    if (placed.streamed_bytes > 0) hit.disk = chosen.disk / static_cast<double>(placed.streamed_bytes) / hit.whole;
    if (placed.host_bytes > 0) hit.host = chosen.host / static_cast<double>(placed.host_bytes) / hit.whole;
  }
  for (double rows : batch_rows_) {
    const double share = hit_share_of(log_miss, rows);
    hit.of_batch.push_back(share);
    hit.visit_s.push_back(share > 0 ? outer_visit_time_s(hardware_, precision_, policy_, unit, rows, share) : 0);
  }
  return hit;
}

const std::vector<bool>& ExpectedVisits::choose(size_t first_unit) {
  first_unit_ = first_unit;
  wanted_.clear();
  wanted_by_.clear();
  auto happens = [](double& carry, double share) {
    carry += share;
    const bool whole = carry >= 1;
    if (whole) carry -= 1;
    return whole;
  };
  for (size_t layer = first_unit; layer < model_.layers().size() && model_.layers()[layer].kind == LayerKind::kExperts; ++layer) {
    const HitShares& hit = hits_of(layer);
    wanted_.push_back(happens(unit_carry_, hit.whole));
    for (size_t b = 0; b < batch_rows_.size(); ++b) wanted_by_.push_back(wanted_.back() && happens(batch_carries_[b], hit.of_batch[b] / hit.whole));
  }
  return wanted_;
}

double ExpectedVisits::outer_s(size_t layer, size_t batch) {
  double& known_s = outer_s_[alike_.kind_of(layer) * batch_rows_.size() + batch];
  if (known_s < 0) {
    const LayerSpec& spec = model_.layers()[layer];
    known_s = outer_visit_time_s(hardware_, precision_, policy_, spec, spec.kind == LayerKind::kHead ? batch_logit_rows_[batch] : batch_rows_[batch]);
  }
  return known_s;
}

}  // namespace flexgen
