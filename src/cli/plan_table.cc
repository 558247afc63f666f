#include "cli/plan_table.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "base/units.h"
#include "cli/policy_text.h"
#include "plan/expert_loading.h"

namespace flexgen {

namespace {

std::string placement_table(const Engine& engine) {
  const Policy& policy = engine.policy();
  std::string text = fmt::format(
      "policy: {} x {} sequences, up to {} tokens a micro-batch and step, {}\n"
      "  placement (gpu:cpu:disk): weights {}, KV cache {}, activations {}\n",
      policy.micro_batch_size, policy.num_micro_batches, policy.max_rows, buffers_text(policy), policy.weights.to_string(), policy.kv_cache.to_string(),
      policy.activations.to_string());
  if (policy.on_gpu())
    text += fmt::format("  {} computes; attention runs {}\n", engine.device()->name(), policy.attention_beside() ? "on the processor beside it" : "there too");
  if (const std::string experts = experts_text(engine.model(), policy); !experts.empty()) text += "  experts: " + experts + '\n';
  constexpr std::array kTierNames{"GPU", "RAM", "disk"};
  for (const MemoryItem& item : engine.memory().items)
    if (item.bytes > 0) text += fmt::format("  {:<5} {:>10}  {}\n", kTierNames[static_cast<size_t>(item.tier)], format_bytes(item.bytes), item.name);
  if (policy.on_gpu()) text += fmt::format("  {:<5} {:>10}  in all\n", "GPU", format_bytes(engine.memory().bytes(Tier::kGpu)));
  text += fmt::format("  {:<5} {:>10}  in all\n", "RAM", format_bytes(engine.memory().bytes(Tier::kCpu)));
  for (size_t rank = 0; rank < engine.links().size(); ++rank)
    text += fmt::format("  link  {:>8.3g} MB/s  from stage {} to {}, after {:.2f} ms\n", engine.links()[rank].bytes_per_s / 1e6, rank,
                        (rank + 1) % engine.links().size(), engine.links()[rank].delay_s * 1e3);
  return text;
}

}  // namespace

std::string plan_table(const Engine& engine) {
  std::string text = placement_table(engine);
  if (const std::string sharing = sharing_text(engine.workload(), engine.policy()); !sharing.empty()) text += sharing + '\n';
  const Prediction& predicted = engine.plan().prediction;
  if (predicted.time_s <= 0) return text;  // a later stage: the first has it
  text += fmt::format("predicted: {} if answers take {}, {:.0f} in all ({} busiest: {}; {})\n", format_duration(predicted.time_s),
                      expectation_text(engine.workload()), predicted.generated_tokens, lane_name(predicted.busy.busiest()),
                      format_duration(predicted.busy[predicted.busy.busiest()]), engine.hardware().name);
  const bool whole = engine.blocks().second == engine.model().config().num_layers;  // what one stage holds says little of all
  return whole ? text + plan_advice(engine.workload(), engine.plan()) : text;
}

std::string server_plan_table(const Engine& engine) {
  const Prediction& predicted = engine.plan().prediction;
  if (predicted.time_s <= 0) return placement_table(engine);
  return placement_table(engine) + fmt::format("predicted: {:.3g} generated tokens/s with {} sequences in flight ({} busiest; {})\n",
                                               predicted.generated_tokens / predicted.time_s, engine.policy().block_size(), lane_name(predicted.busy.busiest()),
                                               engine.hardware().name);
}

std::string sharing_text(const Workload& workload, const Policy& policy, double times_faster) {
  if (workload.total_shared_tokens == 0) return "";
  const std::string shared = fmt::format("of {} prompt tokens {} are shared", format_count(std::llround(workload.total_prompt_tokens)),
                                         format_count(std::llround(workload.total_shared_tokens)));
  if (policy.prefix_pages == 0) return shared + ", but each prompt is computed whole: memory is so short that keeping what is shared would take more time";
  return fmt::format("{}; computed once{}", shared, times_faster > 0 ? fmt::format(": {:.1f} times faster than without", times_faster) : "");
}

std::string expectation_text(const Workload& workload) {
  // Answers that end early end the job early: with all of max_tokens a prediction is the most that the job should take.
  return workload.expects_early_ends() ? fmt::format("{:.0f} tokens on average", workload.mean_generated()) : "all of their max_tokens";
}

std::string prediction_table(const Prediction& predicted, const RunReport& report) {
  if (report.stopped || predicted.time_s <= 0) return "";
  auto row = [](const std::string& name, double predicted_s, double measured_s) {
    return fmt::format("  {:<12} {:>10} {:>10}   {:+.0f}%\n", name, format_duration(predicted_s), format_duration(measured_s),
                       predicted_s > 0 ? 100 * (measured_s / predicted_s - 1) : 0.0);
  };
  std::string text = fmt::format("  {:<12} {:>10} {:>10}\n", "", "predicted", "measured") + row("time", predicted.time_s, report.elapsed_s);
  // A time for other tokens than were generated says nothing of the model, so the difference is told.
  if (std::llround(predicted.generated_tokens) != report.generated_tokens)
    text += fmt::format("  {:<12} {:>10.0f} {:>10}   {:+.0f}%\n", "tokens", predicted.generated_tokens, report.generated_tokens,
                        predicted.generated_tokens > 0 ? 100 * (static_cast<double>(report.generated_tokens) / predicted.generated_tokens - 1) : 0.0);
  for (size_t lane = 0; lane < kNumPlannedLanes; ++lane)
    for (const LaneReport& measured : report.lanes)
      if (measured.kind == static_cast<LaneKind>(lane) && (predicted.busy.seconds[lane] > 0 || measured.stats.busy_s > 0))
        text += row(measured.name(), predicted.busy.seconds[lane], measured.stats.busy_s);
  return text;
}

std::string plan_advice(const Workload& workload, const Plan& plan) {
  const Policy& policy = plan.policy;
  const Prediction& predicted = plan.prediction;
  std::string text;
  if (policy.weights.disk <= 0 && policy.kv_cache.disk <= 0) text += "note: everything fits in memory; no offloading is needed for this job\n";
  const double streamed = predicted.disk_read_bytes > 0 ? 1 - predicted.loaded_bytes / predicted.disk_read_bytes : 0;
  const double read_s = streamed * predicted.busy[LaneKind::kDiskRead], compute_s = predicted.busy[LaneKind::kCompute];
  if (read_s > 3 * compute_s && policy.block_size() < workload.num_sequences)
    text += fmt::format(
        "note: the block of {} sequences is too small for this machine: it reads for {} and computes for {}; more memory, or --kv-cache-dtype int4, allows a larger one\n",
        policy.block_size(), format_duration(read_s), format_duration(compute_s));
  else if (read_s > 3 * compute_s && predicted.steps > 1)
    text += fmt::format("note: {} sequences are too few for this machine: it reads for {} and computes for {}; more prompts in one job cost little\n",
                        workload.num_sequences, format_duration(read_s), format_duration(compute_s));
  return text;
}

}  // namespace flexgen
