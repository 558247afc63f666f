#include "plan/smallest_budget.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/units.h"
#include "plan/placed_kinds.h"
#include "plan/policy_sizes.h"

namespace flexgen {
namespace {

/// "weights, staging buffers 1.2 GiB, scratch of a layer 10 MiB": what takes most of a tier.
std::string largest_items(const MemoryPlan& plan, Tier tier) {
  std::vector<MemoryItem> items;
  for (const MemoryItem& item : plan.items)
    if (item.tier == tier && item.bytes > 0) items.push_back(item);
  std::sort(items.begin(), items.end(), [](const MemoryItem& a, const MemoryItem& b) { return a.bytes > b.bytes; });
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(3, items.size()); ++i) text += fmt::format("{}{} {}", i ? "; " : "", items[i].name, format_bytes(items[i].bytes));
  return text;
}

}  // namespace

std::vector<Policy> smallest_policies(const Model& model, const Workload& workload, const Budgets& budgets, const PolicyRequest& request, DType kv_dtype) {
  const Fractions in_ram{0, 1, 0}, on_disk{0, 0, 1};
  const int64_t size = request.micro_batch_size.value_or(1);
  Policy policy = policy_of_sizes(model, workload, kv_dtype, size, request.num_micro_batches.value_or(1), request.fewest_buffers(),
                                  request.max_rows.value_or(round_up(size, 16)));
  policy.weight_buffers = request.weight_buffers.value_or(0);
  policy.prefix_pages = 0;  // what is shared saves time
  policy.max_choosing_rows = request.max_choosing_rows.value_or(0);
  std::vector<Fractions> ends{on_disk, in_ram};
  if (budgets.gpu_bytes > 0) {
    policy.compute_tier = Tier::kGpu;
    ends.push_back({1, 0, 0});
  }
  std::vector<Policy> policies;
  for (Tier attention_tier : attention_tiers_of(budgets, request)) {
    policy.attention_tier = attention_tier;
    policies.push_back(policy);
  }
  bool spill_is_asked_for = false;
  for (const PlacedKind& kind : kPlacedKinds) {
    const std::optional<Fractions>& asked = request.*kind.asked;
    spill_is_asked_for |= !kind.of_checkpoint && asked && asked->disk > 0;
    std::vector<Policy> placed;
    for (const Policy& each : policies)
      for (const Fractions& end : ends) {
        placed.push_back(each);
        placed.back().*kind.shares = asked.value_or(end);
      }
    policies = std::move(placed);
  }
  const bool may_spill = budgets.disk_bytes > 0 || spill_is_asked_for;
  std::erase_if(policies, [&](const Policy& each) {
    return std::any_of(kPlacedKinds.begin(), kPlacedKinds.end(), [&](const PlacedKind& kind) {
      const Fractions& shares = each.*kind.shares;
      return (kind.is_beside(each) && shares.gpu > 0) || (!may_spill && !kind.of_checkpoint && shares.disk > 0);
    });
  });
  return policies;
}

void refuse_budget(const Model& model, const Workload& workload, const Budgets& budgets, const PolicyRequest& request, DType kv_dtype) {
  MemoryPlan least_ram, least_disk, least_gpu;
  int64_t ram = std::numeric_limits<int64_t>::max(), disk = ram, gpu = ram;
  for (const Policy& policy : smallest_policies(model, workload, budgets, request, kv_dtype)) {
    const MemoryPlan plan = memory_plan(model, policy, workload, kv_dtype);
    if (plan.bytes(Tier::kDisk) <= budgets.disk_bytes && plan.bytes(Tier::kGpu) < gpu) {
      gpu = plan.bytes(Tier::kGpu);
      least_gpu = plan;
    }
    if (plan.bytes(Tier::kDisk) <= budgets.disk_bytes && plan.bytes(Tier::kGpu) <= budgets.gpu_plan_bytes() && plan.bytes(Tier::kCpu) < ram) {
      ram = plan.bytes(Tier::kCpu);
      least_ram = plan;
    }
    if (plan.bytes(Tier::kDisk) < disk) {
      disk = plan.bytes(Tier::kDisk);
      least_disk = plan;
    }
  }
  if (!least_gpu.items.empty() && gpu > budgets.gpu_plan_bytes())
    fail_user("this job cannot run within --gpu-memory {}: the smallest budget that would do is {} ({} bytes): {}{}", format_bytes(budgets.gpu_bytes),
              format_bytes(gpu + budgets.gpu_kernel_bytes), gpu + budgets.gpu_kernel_bytes, largest_items(least_gpu, Tier::kGpu),
              budgets.gpu_kernel_bytes > 0 ? "; the kernels' own " + format_bytes(budgets.gpu_kernel_bytes) : "");
  if (least_ram.items.empty())
    fail_user("the policy needs {} of disk for spilled cache and activations ({}), but {}; give --disk-dir and at least --disk-space {}", format_bytes(disk),
              largest_items(least_disk, Tier::kDisk),
              budgets.disk_bytes > 0 ? "--disk-space is " + format_bytes(budgets.disk_bytes) : std::string("there is no --disk-dir"), disk);
  fail_user("this job cannot run within --cpu-memory {}: the smallest budget that would do is {} ({} bytes): {}{}", format_bytes(budgets.cpu_bytes),
            format_bytes(ram), ram, largest_items(least_ram, Tier::kCpu), budgets.disk_bytes == 0 ? "; with --disk-dir the KV cache could go to disk" : "");
}

}  // namespace flexgen
