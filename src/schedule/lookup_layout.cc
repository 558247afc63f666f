#include "schedule/lookup_layout.h"

#include <algorithm>

#include "base/units.h"
#include "io/file.h"
#include "memory/arena.h"

namespace flexgen {
namespace {

/// Whether a head multiplies by the same tensor.
bool is_tied(const Model& model, int weight) {
  return std::any_of(model.layers().begin(), model.layers().end(), [weight](const LayerSpec& layer) {
    return layer.kind == LayerKind::kHead && std::any_of(layer.uses.begin(), layer.uses.end(), [weight](const WeightUse& use) { return use.weight == weight; });
  });
}

}  // namespace

LookupLayout::LookupLayout(const Model& model, const Policy& policy) {
  const std::vector<WeightUse>& uses = model.layers().front().uses;
  const auto found = std::find_if(uses.begin(), uses.end(), [](const WeightUse& use) { return use.lookup; });
  if (found == uses.end()) return;
  table = static_cast<size_t>(found - uses.begin());
  const WeightSpec& weight = model.weights()[static_cast<size_t>(found->weight)];
  const int64_t row_room = round_up(weight.row_bytes(), kDirectAlignment) + kDirectAlignment;
  const bool small = weight.bytes() <= policy.num_micro_batches * policy.max_rows * row_room;
  const bool in_memory = policy.weights.disk <= 0 ? !is_tied(model, found->weight) : small;
  const bool may_be_on_disk = !in_memory && policy.weights.disk > 0;
  if (!policy.on_gpu()) {
    if (in_memory) resident_rows = found->rows;
    if (may_be_on_disk) row_bytes = row_room;
  } else if (policy.weights.gpu >= 1) {
    if (in_memory) resident_rows = found->rows;
  } else {
    if (in_memory) host_rows = found->rows;
    if (may_be_on_disk) bounce_bytes = row_room;
    row_bytes = row_room;  // a row's bytes start as far from its slot's start as from a sector's
  }
}

std::vector<MemoryItem> LookupLayout::memory(const Policy& policy) const {
  const auto of_rows = [&](int64_t bytes) { return policy.num_micro_batches * Arena::footprint(policy.max_rows * bytes); };
  std::vector<MemoryItem> items{{"embedding rows", policy.compute_tier, of_rows(row_bytes)}};
  if (policy.on_gpu()) items.push_back({"embedding rows on their way", Tier::kCpu, of_rows(bounce_bytes)});
  return items;
}

}  // namespace flexgen
