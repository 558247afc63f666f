#pragma once
// What a policy is chosen within: the memory that it may take, and what the user fixed of it. Pure data.

#include <cstdint>
#include <optional>
#include <vector>

#include "memory/tier.h"
#include "schedule/policy.h"

namespace flexgen {

/// Memory that a run may take, in bytes.
struct Budgets {
  int64_t cpu_bytes = 0;
  int64_t disk_bytes = 0;        ///< for spill files; 0: none (the checkpoint itself is not counted)
  int64_t gpu_bytes = 0;         ///< 0: the CPU computes; else a GPU does
  int64_t gpu_kernel_bytes = 0;  ///< of gpu_bytes, what the GPU's kernels take for themselves (Device::kernel_bytes)
  /// What is left of the GPU for what a MemoryPlan lists.
  int64_t gpu_plan_bytes() const { return gpu_bytes - gpu_kernel_bytes; }
};

/// What the user fixed; the rest is chosen.
struct PolicyRequest {
  std::optional<int64_t> micro_batch_size, num_micro_batches, max_rows;
  std::optional<int> buffers;
  std::optional<int> weight_buffers;         ///< with `buffers` too, no fewer than these
  std::optional<int64_t> max_choosing_rows;  ///< of a mixture alone
  std::optional<Fractions> weights, kv_cache, activations;
  std::optional<Tier> attention_tier;  ///< beside a GPU
  int64_t num_stages = 1;              ///< of the pipeline: so many groups of micro-batches
  std::optional<BlockShape> block;     ///< agreed on by the stages: everything that they must have in common

  /// The numbers of buffers worth trying.
  std::vector<int> buffer_counts() const {
    if (buffers) return {*buffers};
    return weight_buffers == 2 ? std::vector<int>{2} : std::vector<int>{3, 2};
  }
  /// And where memory is short.
  std::vector<int> buffer_counts_in_need() const {
    std::vector<int> counts = buffer_counts();
    if (counts.back() != fewest_buffers()) counts.push_back(fewest_buffers());
    return counts;
  }
  /// For the least memory.
  int fewest_buffers() const { return buffers.value_or(weight_buffers ? 2 : 1); }
};

}  // namespace flexgen
