#pragma once
// MemoryPlan: every large piece of memory and disk a policy takes, to the byte, from the same layouts that the stores
// allocate by. Pure functions.

#include <cstdint>
#include <vector>

#include "memory/memory_item.h"
#include "model/model.h"
#include "plan/workload.h"
#include "schedule/policy.h"

namespace flexgen {

struct WeightSums;

struct MemoryPlan {
  std::vector<MemoryItem> items;  ///< those of faster tiers first
  int64_t bytes(Tier tier) const;
  /// Of these, what is taken at the start.
  int64_t arena_bytes(Tier tier) const;
};

/// Logits are kept whole for rows that draw from a part of the distribution (top_k, top_p): rows of a plan x V floats, one set a micro-batch.
int64_t logit_store_bytes(const Model& model, const Policy& policy, const Workload& workload);

MemoryPlan memory_plan(const Model& model, const Policy& policy, const Workload& workload, DType kv_dtype);
/// The same where it is known what the policy's weights come to.
MemoryPlan memory_plan(const Model& model, const Policy& policy, const Workload& workload, DType kv_dtype, const WeightSums& weights);

}  // namespace flexgen
