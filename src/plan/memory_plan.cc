#include "plan/memory_plan.h"

#include "schedule/cache_store.h"
#include "schedule/hidden_store.h"
#include "schedule/weight_store.h"

namespace flexgen {

int64_t MemoryPlan::bytes(Tier tier) const {
  int64_t total = 0;
  for (const MemoryItem& item : items)
    if (item.tier == tier) total += item.bytes;
  return total;
}

int64_t logit_store_bytes(const Model& model, const Policy& policy, const Workload& workload) {
  if (!workload.samples || model.layers().back().kind != LayerKind::kHead) return 0;
  return policy.block_size() * model.config().vocab_size * static_cast<int64_t>(sizeof(float));
}

MemoryPlan memory_plan(const Model& model, const Policy& policy, const Workload& workload, DType kv_dtype) {
  WeightLayout weights(model, policy);
  CacheLayout cache(model, policy, kv_dtype);
  HiddenLayout hidden(model, policy);
  int64_t weight_buffers = Arena::footprint(policy.buffers * weights.buffer_bytes);
  int64_t resident = Arena::footprint(weights.resident_bytes);
  int64_t cache_buffers = Arena::footprint(policy.buffers * cache.buffer_bytes);
  MemoryPlan plan;
  plan.items = {
      {"weights, resident", Tier::kCpu, resident},
      {"weights, staging buffers", Tier::kCpu, weight_buffers},
      {"embedding rows", Tier::kCpu, weights.arena_bytes(policy) - weight_buffers - resident},
      {"KV cache", Tier::kCpu, cache.arena_bytes(policy) - cache_buffers},
      {"KV cache, staging buffers", Tier::kCpu, cache_buffers},
      {"activations", Tier::kCpu, hidden.arena_bytes(policy)},
      {"scratch of a layer", Tier::kCpu,
       Arena::footprint(model.scratch_bytes(policy.max_rows, policy.max_logit_rows))},
      {"logits", Tier::kCpu, Arena::footprint(logit_store_bytes(model, policy, workload))},
      {"KV cache spill", Tier::kDisk, cache.file_bytes()},
      {"activations spill", Tier::kDisk, hidden.file_bytes()},
  };
  return plan;
}

}  // namespace flexgen
