#include "app/plan_table.h"

#include <fmt/format.h>

#include <array>

#include "base/units.h"

namespace flexgen {

std::string plan_table(const Engine& engine) {
  const Policy& policy = engine.policy();
  std::string text = fmt::format(
      "policy: {} x {} sequences, up to {} tokens a micro-batch and step, {} buffers\n"
      "  placement (gpu:cpu:disk): weights {}, KV cache {}, activations {}\n",
      policy.micro_batch_size, policy.num_micro_batches, policy.max_rows, policy.buffers, policy.weights.to_string(),
      policy.kv_cache.to_string(), policy.activations.to_string());
  if (policy.on_gpu()) text += fmt::format("  {} computes; attention runs {}\n", engine.device()->name(), policy.attention_beside() ? "on the processor beside it" : "there too");
  constexpr std::array kTierNames{"GPU", "RAM", "disk"};
  for (const MemoryItem& item : engine.memory().items)
    if (item.bytes > 0) text += fmt::format("  {:<5} {:>10}  {}\n", kTierNames[static_cast<size_t>(item.tier)], format_bytes(item.bytes), item.name);
  if (policy.on_gpu()) text += fmt::format("  {:<5} {:>10}  in all\n", "GPU", format_bytes(engine.memory().bytes(Tier::kGpu)));
  text += fmt::format("  {:<5} {:>10}  in all\n", "RAM", format_bytes(engine.memory().bytes(Tier::kCpu)));
  return text;
}

}  // namespace flexgen
