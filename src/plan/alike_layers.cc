#include "plan/alike_layers.h"

#include <algorithm>

namespace flexgen {
namespace {

/// In what visits take, but for what attention reads.
bool alike(const LayerSpec& a, const LayerSpec& b) {
  return a.kind == b.kind && (a.cache < 0) == (b.cache < 0) && a.num_experts == b.num_experts && a.vocab_count == b.vocab_count &&
         a.linear_flops_per_row == b.linear_flops_per_row && a.row_share == b.row_share;
}

}  // namespace

AlikeLayers::AlikeLayers(const Model& model) {
  for (const LayerSpec& layer : model.layers()) {
    const auto known = std::find_if(ones_.begin(), ones_.end(), [&](const LayerSpec* one) { return alike(*one, layer); });
    kinds_.push_back(static_cast<uint32_t>(known - ones_.begin()));
    if (known == ones_.end()) ones_.push_back(&layer);
    if (layer.cache >= 0) continue;
    if (outer_.empty() || outer_.back().kind != kinds_.back()) outer_.push_back({kinds_.back(), 0});
    ++outer_.back().count;
  }
}

}  // namespace flexgen
