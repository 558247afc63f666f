#include "schedule/first_loads.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace flexgen {

FirstLoads::FirstLoads(const Model& model, std::vector<int64_t> streamed)
    : order_(model.layers().size()), streamed_(std::move(streamed)), position_(order_.size()) {
  std::vector<int> tables;
  for (const LayerSpec& layer : model.layers())
    for (const WeightUse& use : layer.uses)
      if (use.lookup) tables.push_back(use.weight);
  auto holds_table = [&](int64_t layer) {
    const std::vector<WeightUse>& uses = model.layers()[static_cast<size_t>(layer)].uses;
    return std::any_of(uses.begin(), uses.end(), [&](const WeightUse& use) { return std::find(tables.begin(), tables.end(), use.weight) != tables.end(); });
  };
  std::iota(order_.begin(), order_.end(), 0);
  num_lookup_ = static_cast<size_t>(std::stable_partition(order_.begin(), order_.end(), holds_table) - order_.begin());
  for (size_t at = 0; at < order_.size(); ++at) position_[static_cast<size_t>(order_[at])] = at;
}

std::span<const int64_t> FirstLoads::at_start() { return streamed_.empty() ? all() : before_visit(streamed_.front()); }

std::span<const int64_t> FirstLoads::before_streaming(int64_t key) {
  return key + 1 < std::ssize(streamed_) ? before_visit(streamed_[static_cast<size_t>(key)]) : all();
}

}  // namespace flexgen
