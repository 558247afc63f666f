// Simulated scaling: a shape on 1 to 16 machines with a T4 each (constants of FlexGen's paper, section 6.1 and its cost model) and 10 Gbit/s between them: generated
// tokens/s and how busy the ranks are. No figure here is measured on a GPU.
//
// Usage: pipeline_scaling_bench [SHAPE [MICRO_BATCH_SIZE [MICRO_BATCHES_A_GROUP]]]    (default: opt-175b 32 8)

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/units.h"
#include "engine/list_source.h"
#include "engine/simulate.h"
#include "plan/memory_plan.h"
#include "plan/stage_split.h"

namespace flexgen {
namespace {

constexpr int64_t kPrompt = 512, kGenerated = 32;
constexpr int64_t kRamBytes = int64_t{200} << 30, kGpuBytes = int64_t{15} << 30, kDiskBytes = int64_t{1500} << 30;

MachineSpeeds t4() {
  MachineSpeeds speeds;
  speeds.gpu_flops_per_s = 21.2e12;
  speeds.gpu_bytes_per_s = 250e9;
  speeds.h2d_bytes_per_s = speeds.d2h_bytes_per_s = 12.89e9;
  speeds.disk_read_bytes_per_s = 2e9;
  speeds.disk_write_bytes_per_s = 1e9;
  return speeds;
}

/// Fills GPU memory, then RAM: weights first, as each group reads them in each step; the cache takes what is left.
bool place_weights_and_cache(const Model& model, const Workload& workload, Policy* policy) {
  auto fits = [&] {
    const MemoryPlan plan = memory_plan(model, *policy, workload, DType::kF16);
    return plan.bytes(Tier::kCpu) <= kRamBytes && plan.bytes(Tier::kGpu) <= kGpuBytes && plan.bytes(Tier::kDisk) <= kDiskBytes;
  };
  auto fill = [&](Fractions Policy::* kind, Fractions (*of)(double, double), double rest) {
    for (int share = 100; share >= 0; --share) {
      policy->*kind = of(share / 100.0, rest);
      if (fits()) return true;
    }
    return false;
  };
  policy->weights = {0, 0, 1};
  policy->kv_cache = {0, 0, 1};
  policy->activations = {1, 0, 0};
  if (!fits()) policy->activations = {0, 1, 0};
  if (!fits()) return false;
  fill(&Policy::weights, [](double cpu, double) { return Fractions{0, cpu, 1 - cpu}; }, 0);
  if (policy->weights.cpu >= 1) fill(&Policy::weights, [](double gpu, double) { return Fractions{gpu, 1 - gpu, 0}; }, 0);
  fill(&Policy::kv_cache, [](double cpu, double) { return Fractions{0, cpu, 1 - cpu}; }, 0);
  return true;
}

void run(const std::string& shape, int num_ranks, int64_t micro_batch_size, int64_t batches_a_group) {
  const ModelConfig config = parse_config(*shape_config_json(shape), "", shape);
  const auto whole = Model::of_shape(config, DType::kF16);
  const std::vector<StageResources> equal(static_cast<size_t>(num_ranks), StageResources{kRamBytes, 1e13, 2e9});
  const std::vector<int64_t> split = split_blocks(*whole, equal);
  const int64_t batches = batches_a_group * num_ranks;

  Workload workload;
  std::vector<Request> requests(static_cast<size_t>(batches * micro_batch_size));
  for (Request& request : requests) {
    request.prompt.assign(static_cast<size_t>(kPrompt), 7);
    request.params.max_tokens = kGenerated;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    workload.add(kPrompt, kGenerated, false, false);
  }
  std::vector<std::unique_ptr<Model>> models;
  std::vector<SimulatedRank> ranks;
  int64_t first = 0;
  for (int64_t blocks : split) {
    models.push_back(Model::of_shape(config, DType::kF16));
    if (num_ranks > 1) models.back()->keep_blocks(first, blocks);
    first += blocks;
    Policy policy;
    policy.compute_tier = Tier::kGpu;
    policy.attention_tier = Tier::kCpu;
    policy.micro_batch_size = micro_batch_size;
    policy.num_micro_batches = batches;
    policy.num_groups = num_ranks;
    policy.max_rows = std::max<int64_t>(256, 4096 / num_ranks);  // rooms for embedding rows and activations are as many as micro-batches
    policy.max_logit_rows = micro_batch_size;
    policy.pages_per_micro_batch = micro_batch_size * ceil_div(kPrompt + kGenerated, CacheLayout::page_tokens(*models.back(), DType::kF16));
    if (!place_weights_and_cache(*models.back(), workload, &policy)) {
      std::printf("| %d | does not fit |\n", num_ranks);
      return;
    }
    ranks.push_back({models.back().get(), policy, t4()});
  }
  ListSource source(std::move(requests));
  const PipelineReport report = simulate_pipeline(ranks, {1.25e9, 50e-6}, DType::kF16, source);
  std::string busiest;
  double busy_s = 0;
  for (const RunReport& rank : report.ranks)
    for (const LaneReport& lane : rank.lanes)
      if (lane.stats.busy_s > busy_s) busiest = lane.name, busy_s = lane.stats.busy_s;
  std::printf("| %d | %lld x %lld | %s, %s | %.2f | %.2f | %s |\n", num_ranks, static_cast<long long>(micro_batch_size), static_cast<long long>(batches),
              ranks.front().policy.weights.to_string().c_str(), ranks.front().policy.kv_cache.to_string().c_str(),
              static_cast<double>(report.whole.generated_tokens) / report.whole.elapsed_s, report.utilisation(), busiest.c_str());
  std::fflush(stdout);
}

}  // namespace
}  // namespace flexgen

int main(int argc, char** argv) {
  const std::string shape = argc > 1 ? argv[1] : "opt-175b";
  const int64_t micro_batch_size = argc > 2 ? std::atoll(argv[2]) : 32, batches_a_group = argc > 3 ? std::atoll(argv[3]) : 8;
  std::printf("%s, 16 bits, %lld prompt and %lld generated tokens, simulated on T4s with 200 GiB of RAM, 10 Gbit/s; FlexGen published 0.69 (1 GPU) and 2.33 (4 GPUs) tokens/s "
              "for opt-175b\n", shape.c_str(), static_cast<long long>(flexgen::kPrompt), static_cast<long long>(flexgen::kGenerated));
  std::printf("| ranks | block | weights, cache (gpu:cpu:disk) | generated tokens/s | utilisation | busiest lane |\n| --- | --- | --- | --- | --- | --- |\n");
  for (int ranks : {1, 2, 4, 8, 16}) flexgen::run(shape, ranks, micro_batch_size, batches_a_group);
  return 0;
}
