#include "app/engine_runner.h"

#include "app/progress.h"
#include "base/log.h"
#include "base/units.h"

namespace flexgen {

std::string describe_policy(const Engine& engine) {
  const Policy& policy = engine.policy();
  std::string text = fmt::format("block of {} = {} x {} sequences; gpu:cpu:disk weights {}, KV cache {}, activations {}; {} buffers; RAM {}",
                                 policy.block_size(), policy.num_micro_batches, policy.micro_batch_size, policy.weights.to_string(),
                                 policy.kv_cache.to_string(), policy.activations.to_string(), policy.buffers,
                                 format_bytes(engine.memory().bytes(Tier::kCpu)));
  if (int64_t spill = engine.memory().bytes(Tier::kDisk)) text += fmt::format(", disk {}", format_bytes(spill));
  return text;
}

void EngineRunner::prepare(const Workload& workload) {
  engine_.prepare(workload);
  spdlog::info("{} sequences, {} prompt tokens, up to {} to generate", format_count(workload.num_sequences),
               format_count(static_cast<int64_t>(workload.total_prompt_tokens)), format_count(static_cast<int64_t>(workload.total_generated_tokens)));
  spdlog::info("{}", describe_policy(engine_));
}

RunReport EngineRunner::run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) {
  ProgressDisplay display([this] { return engine_.progress(); });
  return engine_.run(source, sink, stop);
}

}  // namespace flexgen
