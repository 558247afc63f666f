#include "plan/memory_plan.h"

#include "schedule/cache_store.h"
#include "schedule/exchange.h"
#include "schedule/hidden_store.h"
#include "schedule/lookup_layout.h"
#include "schedule/stage_messages.h"
#include "schedule/weight_store.h"

namespace flexgen {

int64_t MemoryPlan::bytes(Tier tier) const {
  int64_t total = 0;
  for (const MemoryItem& item : items)
    if (item.tier == tier) total += item.bytes;
  return total;
}

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
  WeightLayout weights(model, policy);
  const LookupLayout lookup(model, policy);
  CacheLayout cache(model, policy, kv_dtype);
  HiddenLayout hidden(model, policy);
  const MessageLayout messages(model, policy);
  const ExchangeLayout exchange(model, policy);
  const Tier compute = policy.compute_tier, cpu = Tier::kCpu;
  MemoryPlan plan;
  plan.items = {
      {"weights, resident", compute, Arena::footprint(weights.resident_bytes)},
      {"weights, staging buffers", compute, Arena::footprint(policy.buffers * weights.buffer_bytes)},
      {"embedding rows", compute, lookup.arena_bytes(policy, compute)},
      {"KV cache", cache.tier, cache.arena_bytes(policy, cache.tier) - cache.buffers_arena_bytes(policy, cache.tier)},
      {"KV cache, staging buffers", cache.tier, cache.buffers_arena_bytes(policy, cache.tier)},
      {"activations", compute, hidden.arena_bytes(policy, compute)},
      {"scratch of a layer", compute, Arena::footprint(model.scratch_bytes(policy.max_rows, policy.max_logit_rows))},
      {"logits", cpu, Arena::footprint(logit_store_bytes(model, policy, workload))},
      {"logprobs of sequences under way", cpu, policy.block_size() * workload.logprob_bytes, false},
  };
  if (policy.on_gpu()) {
    const int64_t host = Arena::footprint(weights.host_bytes);
    plan.items.insert(plan.items.end(), {
                                            {"weights in RAM", cpu, host},
                                            {"weights, bounce buffers", cpu, weights.arena_bytes(policy, cpu) - host},
                                            {"embedding rows on their way", cpu, lookup.arena_bytes(policy, cpu)},
                                            {"activations in RAM", cpu, hidden.arena_bytes(policy, cpu)},
                                            {"activations between stages", cpu, messages.arena_bytes(policy, cpu)},
                                            {"logits and attention on their way", compute, exchange.arena_bytes(policy, compute)},
                                            {"logits and attention on their way", cpu, exchange.arena_bytes(policy, cpu)},
                                        });
    if (cache.tier == compute) {
      const int64_t buffers = cache.buffers_arena_bytes(policy, cpu);
      plan.items.insert(plan.items.end(), {{"KV cache in RAM", cpu, cache.arena_bytes(policy, cpu) - buffers}, {"KV cache, bounce buffers", cpu, buffers}});
    }
  }
  plan.items.push_back({"KV cache spill", Tier::kDisk, cache.file_bytes()});
  plan.items.push_back({"activations spill", Tier::kDisk, hidden.file_bytes()});
  return plan;
}

}  // namespace flexgen
