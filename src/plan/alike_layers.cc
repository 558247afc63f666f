#include "plan/alike_layers.h"

#include <algorithm>

#include "schedule/expert_hits.h"

namespace flexgen {
namespace {

/// In what visits take, but for what attention reads.
bool alike(const LayerSpec& a, const LayerSpec& b) {
  return a.kind == b.kind && (a.cache < 0) == (b.cache < 0) && a.num_experts == b.num_experts && a.vocab_count == b.vocab_count &&
         a.linear_flops_per_row == b.linear_flops_per_row && a.row_share == b.row_share;
}

}  // namespace

AlikeLayers::AlikeLayers(const Model& model) {
  for (size_t i = 0; i < model.layers().size(); ++i) {
    const LayerSpec& layer = model.layers()[i];
    const auto known = std::find_if(firsts_.begin(), firsts_.end(), [&](size_t first) { return alike(model.layers()[first], layer); });
    const auto kind = static_cast<size_t>(known - firsts_.begin());
    kinds_.push_back(static_cast<uint32_t>(kind));
    if (kind == firsts_.size()) firsts_.push_back(i);
    // Where nothing is known of experts, one layer says it of all that are alike.
    if (layer.kind != LayerKind::kExperts) log_misses_.push_back(0);
    else log_misses_.push_back(firsts_[kind] == i || model.expert_chances() ? unit_log_miss(model, layer) : log_misses_[firsts_[kind]]);
    if (layer.cache >= 0) continue;
    if (outer_.empty() || outer_.back().kind != kind) outer_.push_back({kind, 0});
    ++outer_.back().count;
  }
}

}  // namespace flexgen
