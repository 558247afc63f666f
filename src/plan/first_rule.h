#pragma once
// The first rule: a policy from the model, the job and the budgets without measuring anything. The GPU's memory, if there is one, is filled first, then
// RAM; what does not fit streams from disk. What can't fit at all is refused with the smallest budget that would do.
// Pure functions.

#include <optional>
#include <vector>

#include "plan/memory_plan.h"

namespace flexgen {

struct Budgets {
  int64_t cpu_bytes = 0;
  int64_t disk_bytes = 0;  ///< for spill files; 0: none (the checkpoint itself is not counted)
  int64_t gpu_bytes = 0;   ///< 0: the CPU computes; else a GPU does
  int64_t gpu_kernel_bytes = 0;  ///< of gpu_bytes, what the GPU's kernels take for themselves (Device::kernel_bytes)
  /// What is left of the GPU for what a MemoryPlan lists.
  int64_t gpu_plan_bytes() const { return gpu_bytes - gpu_kernel_bytes; }
};

/// What the user fixed; the rest is chosen.
struct PolicyRequest {
  std::optional<int64_t> micro_batch_size, num_micro_batches, max_rows;
  std::optional<int> buffers;
  std::optional<int64_t> max_choosing_rows;  ///< of a mixture alone
  std::optional<Fractions> weights, kv_cache, activations;
  std::optional<Tier> attention_tier;  ///< beside a GPU
  int64_t num_stages = 1;           ///< of the pipeline: so many groups of micro-batches
  std::optional<BlockShape> block;  ///< agreed on by the stages: everything that they must have in common
};

/// Where attention may run: where everything computes, or beside a GPU as well, unless the request fixes it or a share of the cache in the GPU's memory.
std::vector<Tier> attention_tiers_of(const Budgets& budgets, const PolicyRequest& request);

/// Throws Error{user} if nothing that honours the request fits the budgets.
Policy choose_policy(const Model& model, const Workload& workload, const Budgets& budgets,
                     const PolicyRequest& request, DType kv_dtype);

}  // namespace flexgen
