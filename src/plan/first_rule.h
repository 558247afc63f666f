#pragma once
// The first rule: a policy from the model, the job and the budgets without measuring anything. The GPU's memory, if there is one, is filled first, then
// RAM; what does not fit streams from disk. What can't fit at all is refused with the smallest budget that would do.
// Pure functions.

#include <vector>

#include "plan/memory_plan.h"
#include "plan/policy_request.h"

namespace flexgen {

/// Where attention may run: where everything computes, or beside a GPU as well, unless the request fixes it or a share of the cache in the GPU's memory.
std::vector<Tier> attention_tiers_of(const Budgets& budgets, const PolicyRequest& request);

/// Throws Error{user} if nothing that honours the request fits the budgets.
Policy choose_policy(const Model& model, const Workload& workload, const Budgets& budgets, const PolicyRequest& request, DType kv_dtype);

}  // namespace flexgen
