#include "plan/memory_plan.h"

#include <algorithm>

#include "memory/arena.h"
#include "schedule/stores.h"

namespace flexgen {

int64_t MemoryPlan::bytes(Tier tier) const { return bytes_in(items, tier); }

int64_t MemoryPlan::arena_bytes(Tier tier) const {
  int64_t total = bytes(tier);
  for (const MemoryItem& item : items)
    if (item.tier == tier && !item.in_arena) total -= item.bytes;
  return total;
}

int64_t logit_store_bytes(const Model& model, const Policy& policy, const Workload& workload) {
  if (!workload.keeps_logits || model.layers().back().kind != LayerKind::kHead) return 0;
  return policy.block_size() * model.config().vocab_size * static_cast<int64_t>(sizeof(float));
}

MemoryPlan memory_plan(const Model& model, const Policy& policy, const Workload& workload, DType kv_dtype) {
  return memory_plan(model, policy, workload, kv_dtype, WeightSums::of(model, policy));
}

MemoryPlan memory_plan(const Model& model, const Policy& policy, const Workload& workload, DType kv_dtype, const WeightSums& weights) {
  MemoryPlan plan{memory_of_stores(model, policy, kv_dtype, weights)};
  plan.items.push_back({"scratch of a layer", policy.compute_tier, Arena::footprint(model.scratch_bytes(policy.max_rows, policy.max_logit_rows))});
  plan.items.push_back({"logits", Tier::kCpu, Arena::footprint(logit_store_bytes(model, policy, workload))});
  if (policy.max_choosing_rows > 0 && weights.streamed_bytes_per_step > 0 && model.expert_checking_bytes() > 0)
    plan.items.push_back({"checksums of experts that may not be read", Tier::kCpu, model.expert_checking_bytes(), false});
  plan.items.push_back({"logprobs of sequences under way", Tier::kCpu, policy.block_size() * workload.logprob_bytes, false});
  std::stable_sort(plan.items.begin(), plan.items.end(), [](const MemoryItem& a, const MemoryItem& b) { return a.tier < b.tier; });
  return plan;
}

}  // namespace flexgen
