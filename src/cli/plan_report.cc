#include "cli/plan_report.h"

#include <algorithm>
#include <map>
#include <tuple>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/units.h"
#include "cli/plan_table.h"
#include "cli/policy_text.h"
#include "plan/expert_loading.h"

namespace flexgen {
namespace {

double tokens_per_s(const PlanInput& input, double time_s) { return time_s > 0 ? input.workload.total_generated_tokens / time_s : 0; }

/// What a policy waits for most, in words.
std::string bottleneck_text(const PlanInput& input, const Prediction& prediction, const Policy& policy) {
  const LaneKind busiest = prediction.busy.busiest();
  const double share = prediction.busy[busiest] / prediction.time_s;
  std::string text = fmt::format("{} {:.0f}% busy", lane_name(busiest), 100 * share);
  if (busiest == LaneKind::kCompute && prediction.steps > 0) {
    const double rows = rows_of(input.workload, policy) / prediction.steps / static_cast<double>(policy.num_micro_batches);
    text += fmt::format(", {:.0f} rows a visit", rows);
  }
  return text;
}

/// The share of the disk space for spilled data that a plan takes; 0 where there is none.
double disk_space_used(const PlanInput& input, const MemoryPlan& memory) {
  return input.budgets.disk_bytes > 0 ? static_cast<double>(memory.bytes(Tier::kDisk)) / static_cast<double>(input.budgets.disk_bytes) : 0;
}
/// From here on a block half as large again may have found no room.
constexpr double kShortOfDiskSpace = 0.6;

std::string binding_text(const PlanInput& input, const Plan& plan, const MemoryPlan& memory) {
  const Policy& policy = plan.policy;
  std::string text = bottleneck_text(input, plan.prediction, policy);
  const double full = static_cast<double>(memory.bytes(Tier::kCpu)) / static_cast<double>(input.budgets.cpu_bytes);
  if (policy.weights.disk <= 0 && policy.kv_cache.disk <= 0) return text + "; all fits in memory";
  if (policy.weights.disk > 0) text += fmt::format("; {:.0f}% of the weights stream from disk", 100 * policy.weights.disk);
  if (policy.kv_cache.disk > 0) text += fmt::format("; {:.0f}% of the KV cache is on disk", 100 * policy.kv_cache.disk);
  text += fmt::format("; RAM is {:.0f}% full", 100 * full);
  const double disk_space = disk_space_used(input, memory);
  return disk_space < kShortOfDiskSpace ? text : text + fmt::format(", the disk space for spilled data {:.0f}%", 100 * disk_space);
}

/// Of the best plan without sharing; 0 where none fits.
double unshared_time_s(const PlanInput& input) {
  const Workload whole = input.workload.without_sharing();
  try {
    return make_plan({input.model, whole, input.budgets, input.request, input.compute, input.kv, input.hardware, input.time_limit_s, false}).prediction.time_s;
  } catch (const Error&) {
    return 0;
  }
}

}  // namespace

PlanReport make_report(const PlanInput& input, const PlanVariants& variants) {
  PlanReport report;
  report.plan = make_plan(input);
  report.memory = memory_plan(input.model, report.plan.policy, input.workload, input.kv);
  report.binding = binding_text(input, report.plan, report.memory);
  if (input.workload.total_shared_tokens > 0)
    report.unshared_time_s = report.plan.policy.prefix_pages > 0 ? unshared_time_s(input) : report.plan.prediction.time_s;

  // The best of every other block and place of attention, and what it waits for.
  auto kind_of = [](const Policy& policy) { return std::tuple(policy.block_size(), policy.num_micro_batches, policy.attention_tier); };
  std::map<std::tuple<int64_t, int64_t, Tier>, Candidate> by_kind;
  for (const Candidate& candidate : report.plan.candidates) {
    auto [entry, is_new] = by_kind.try_emplace(kind_of(candidate.policy), candidate);
    if (!is_new && candidate.time_s < entry->second.time_s) entry->second = candidate;
  }
  std::vector<Candidate> others;
  for (const auto& [kind, candidate] : by_kind)
    if (kind != kind_of(report.plan.policy)) others.push_back(candidate);
  std::sort(others.begin(), others.end(), [](const Candidate& a, const Candidate& b) { return a.time_s < b.time_s; });
  const Precision precision = Precision::of(input.model, input.compute, input.kv);
  // The nearest, and then some further away.
  for (size_t i = 0; i < others.size(); i = i < 3 ? i + 1 : 2 * i) {
    const Prediction prediction = predict(input.model, input.hardware, precision, others[i].policy, input.workload);
    report.alternatives.push_back({others[i].policy, others[i].time_s, bottleneck_text(input, prediction, others[i].policy)});
  }

  auto what_if = [&](std::string change, auto alter) {
    HardwareProfile hardware = input.hardware;
    const Model* model = &input.model;
    Budgets budgets = input.budgets;
    PolicyRequest request = input.request;
    DType kv = input.kv;
    alter(hardware, model, budgets, request, kv);
    if (!model) return;
    WhatIf result{std::move(change), 0, ""};
    try {
      const Plan plan = make_plan({*model, input.workload, budgets, request, input.compute, kv, hardware, 1, false});
      result.time_s = plan.prediction.time_s;
      result.policy = policy_text(plan.policy);
    } catch (const Error&) {
      return;
    }
    report.what_ifs.push_back(std::move(result));
  };
  const int64_t more = std::max<int64_t>(kGiB, input.budgets.cpu_bytes <= 12 * kGiB ? 8 * kGiB : input.budgets.cpu_bytes);
  what_if("+" + format_bytes(more) + " RAM", [&](auto&, auto&, Budgets& budgets, auto&, auto&) { budgets.cpu_bytes += more; });
  const DType weights = Precision::of(input.model, input.compute, input.kv).weights;
  if (row_bytes(input.kv, 64) > row_bytes(DType::kInt4, 64)) what_if("int4 cache", [&](auto&, auto&, auto&, auto&, DType& kv) { kv = DType::kInt4; });
  if (row_bytes(weights, kLongestBlock) > row_bytes(DType::kInt4, kLongestBlock)) {
    what_if("int4 weights",
            [&](auto&, const Model*& model, auto&, auto&, auto&) { model = variants.with_weights ? variants.with_weights(DType::kInt4) : nullptr; });
    if (row_bytes(input.kv, 64) > row_bytes(DType::kInt4, 64))
      what_if("int4 weights and cache", [&](auto&, const Model*& model, auto&, auto&, DType& kv) {
        model = variants.with_weights ? variants.with_weights(DType::kInt4) : nullptr;
        kv = DType::kInt4;
      });
  }
  what_if("twice the disk speed", [&](HardwareProfile& hardware, auto&, auto&, auto&, auto&) {
    hardware.disk.read_bytes_per_s *= 2;
    hardware.disk.write_bytes_per_s *= 2;
    hardware.disk.lookup_s /= 2;
  });
  what_if("twice the matrix speed", [&](HardwareProfile& hardware, auto&, auto&, auto&, auto&) {
    for (auto* processor : {&hardware.cpu, hardware.gpu ? &*hardware.gpu : nullptr})
      if (processor)
        for (MatmulRates& rates : processor->matmul)
          for (RatePoint& point : rates.points) point.per_s *= 2;
  });
  if (input.budgets.disk_bytes == 0)
    what_if("KV cache on disk too (--disk-dir)", [&](auto&, auto&, Budgets& budgets, auto&, auto&) { budgets.disk_bytes = 1000 * kGiB; });
  else if (disk_space_used(input, report.memory) >= kShortOfDiskSpace)
    what_if("+" + format_bytes(input.budgets.disk_bytes) + " disk space (--disk-space)",
            [&](auto&, auto&, Budgets& budgets, auto&, auto&) { budgets.disk_bytes *= 2; });
  std::stable_sort(report.what_ifs.begin(), report.what_ifs.end(), [](const WhatIf& a, const WhatIf& b) { return a.time_s < b.time_s; });
  return report;
}

std::string sharing_text(const PlanReport& report, const PlanInput& input) {
  return sharing_text(input.workload, report.plan.policy, report.unshared_time_s / report.plan.prediction.time_s);
}

std::string report_text(const PlanReport& report, const PlanInput& input) {
  const Prediction& predicted = report.plan.prediction;
  const Workload& job = input.workload;
  std::string text = fmt::format(
      "job: {} sequences, {} prompt and up to {} generated tokens{}\n", format_count(job.num_sequences),
      format_count(static_cast<int64_t>(job.total_prompt_tokens)), format_count(static_cast<int64_t>(job.total_max_tokens)),
      job.expects_early_ends() ? fmt::format(", {} expected ({})", format_count(static_cast<int64_t>(job.total_generated_tokens)), expectation_text(job)) : "");
  if (const std::string sharing = sharing_text(report, input); !sharing.empty()) text += sharing + '\n';
  for (const std::string& note : report.notes) text += "note: " + note + "\n";
  text += fmt::format("machine: {}; {} for RAM, {} for spilled data on disk\n", input.hardware.name, format_bytes(input.budgets.cpu_bytes),
                      input.budgets.disk_bytes > 0 ? format_bytes(input.budgets.disk_bytes) : std::string("nothing"));
  if (!report.dtypes.judged.empty()) text += fmt::format("types: {}\n", choice_text(report.dtypes));
  text += fmt::format("policy: {}\n", policy_text(report.plan.policy));
  if (const std::string experts = experts_text(input.model, report.plan.policy); !experts.empty()) text += "experts: " + experts + "\n";
  text += fmt::format("predicted: {}, {:.1f} generated and {:.1f} prompt tokens/s, {:.0f} steps\n", format_duration(predicted.time_s),
                      tokens_per_s(input, predicted.time_s), job.total_prompt_tokens / predicted.time_s, predicted.steps);
  text += fmt::format("  the busiest lane alone takes {} (efficiency {:.2f}); the linear program said {}\n",
                      format_duration(predicted.busy[predicted.busy.busiest()]), predicted.busy[predicted.busy.busiest()] / predicted.time_s,
                      report.plan.program_time_s > 0 ? format_duration(report.plan.program_time_s) : "nothing");
  text += "lanes:\n";
  for (size_t lane = 0; lane < kNumPlannedLanes; ++lane)
    if (predicted.busy.seconds[lane] > 0)
      text += fmt::format("  {:<12} {:>10}  {:>3.0f}%\n", lane_name(static_cast<LaneKind>(lane)), format_duration(predicted.busy.seconds[lane]),
                          100 * predicted.busy.seconds[lane] / predicted.time_s);
  text += "bytes:\n";
  for (auto [tier, name] : {std::pair{Tier::kGpu, "gpu"}, {Tier::kCpu, "RAM"}, {Tier::kDisk, "disk"}}) {
    if (report.memory.bytes(tier) == 0) continue;
    for (const MemoryItem& item : report.memory.items)
      if (item.tier == tier && item.bytes > 0) text += fmt::format("  {:<5} {:>10}  {}\n", name, format_bytes(item.bytes), item.name);
    text += fmt::format("  {:<5} {:>10}  in all\n", name, format_bytes(report.memory.bytes(tier)));
  }
  text += "binding: " + report.binding + "\n";
  text += fmt::format("looked at {} policies in {}{}; {} blocks do not fit\n", report.plan.candidates.size(), format_duration(report.plan.planning_s),
                      report.plan.complete ? "" : " (out of time)", report.plan.num_too_large);
  for (const Alternative& other : report.alternatives)
    text += fmt::format("  {:.2f} times slower: {} ({})\n", other.time_s / predicted.time_s, policy_text(other.policy), other.why);
  text += "what would help:\n";
  bool any = false;
  for (const WhatIf& change : report.what_ifs)
    if (change.helps(predicted.time_s)) {
      text += fmt::format("  {}: {:.1f}x ({})\n", change.change, predicted.time_s / change.time_s, format_duration(change.time_s));
      any = true;
    }
  if (!any) text += "  nothing of what was tried\n";
  for (const WhatIf& change : report.what_ifs)
    if (!change.helps(predicted.time_s)) text += fmt::format("  (not {}: {:.2f}x)\n", change.change, predicted.time_s / change.time_s);
  return text;
}

std::string report_json(const PlanReport& report, const PlanInput& input) {
  using OrderedJson = nlohmann::ordered_json;
  auto policy_of = [&](const Policy& policy) {
    OrderedJson json = policy_json(policy);
    if (input.model.config().is_mixture()) json.update({{"max_choosing_rows", policy.max_choosing_rows}, {"hottest_first", policy.hottest_first}});
    if (policy.on_gpu()) json["attention_on"] = policy.attention_beside() ? "cpu" : "gpu";
    return json;
  };
  const Prediction& predicted = report.plan.prediction;
  OrderedJson json;
  json["job"] = {{"sequences", input.workload.num_sequences},
                 {"prompt_tokens", input.workload.total_prompt_tokens},
                 {"shared_prompt_tokens", input.workload.total_shared_tokens},
                 {"max_tokens", input.workload.total_max_tokens},
                 {"generated_tokens", input.workload.total_generated_tokens}};
  for (const std::string& note : report.notes) json["notes"].push_back(note);
  json["hardware"] = input.hardware.name;
  json["cpu_memory_bytes"] = input.budgets.cpu_bytes;
  json["disk_space_bytes"] = input.budgets.disk_bytes;
  for (const JudgedPair& judged : report.dtypes.judged)
    json["dtypes"].push_back(
        {{"weights", judged.types.weights}, {"kv_cache", judged.types.kv_cache}, {"time_s", judged.time_s}, {"chosen", judged.types == report.dtypes.types}});
  json["policy"] = policy_of(report.plan.policy);
  json["predicted"] = {{"time_s", predicted.time_s},
                       {"steps", predicted.steps},
                       {"bound_s", predicted.bound_s},
                       {"program_time_s", report.plan.program_time_s},
                       {"generated_tokens_per_s", tokens_per_s(input, predicted.time_s)},
                       {"prompt_tokens_per_s", input.workload.total_prompt_tokens / predicted.time_s},
                       {"disk_read_bytes", predicted.disk_read_bytes},
                       {"disk_write_bytes", predicted.disk_write_bytes}};
  if (report.unshared_time_s > 0) json["predicted"]["time_without_sharing_s"] = report.unshared_time_s;
  if (predicted.load_time_s) json["predicted"]["load_time_s"] = *predicted.load_time_s;
  for (size_t lane = 0; lane < kNumPlannedLanes; ++lane) json["predicted"]["lanes"][lane_name(static_cast<LaneKind>(lane))] = predicted.busy.seconds[lane];
  for (const MemoryItem& item : report.memory.items)
    if (item.bytes > 0)
      json["bytes"].push_back({{"tier", item.tier == Tier::kDisk  ? "disk"
                                        : item.tier == Tier::kCpu ? "cpu"
                                                                  : "gpu"},
                               {"what", item.name},
                               {"bytes", item.bytes}});
  json["binding"] = report.binding;
  json["planning_s"] = report.plan.planning_s;
  json["complete"] = report.plan.complete;
  json["candidates"] = report.plan.candidates.size();
  json["alternatives"] = OrderedJson::array();
  for (const Alternative& other : report.alternatives)
    json["alternatives"].push_back({{"policy", policy_of(other.policy)}, {"time_s", other.time_s}, {"why", other.why}});
  json["what_if"] = OrderedJson::array();
  for (const WhatIf& change : report.what_ifs)
    json["what_if"].push_back({{"change", change.change}, {"time_s", change.time_s}, {"speedup", predicted.time_s / change.time_s}, {"policy", change.policy}});
  return json.dump(1);
}

}  // namespace flexgen
