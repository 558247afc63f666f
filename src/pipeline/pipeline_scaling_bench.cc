// Simulated scaling: a shape on 1 to 16 machines of a profile with a GPU each and 10 Gbit/s between them: generated tokens/s and how busy the ranks are. Blocks, and where attention
// runs, are tried; each rank fills its tiers by the first rule, as stages do. Shown are the fastest and the one that keeps the ranks clearly busier, if there is one (--all: each). As in
// FlexGen's paper one block of sequences is a run, and the clock starts with the weights in place. No figure here is measured on a GPU.
//
// Usage: pipeline_scaling_bench PROFILE.json [--all] [SHAPE ...]    (bench/t4.json is the paper's T4; default: opt-6.7b opt-30b opt-175b)

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "base/error.h"
#include "generation/list_source.h"
#include "pipeline/simulate.h"
#include "pipeline/stage_split.h"
#include "plan/first_rule.h"
#include "plan/policy_sizes.h"

namespace flexgen {
namespace {

constexpr int64_t kPrompt = 512, kGenerated = 32;
constexpr int64_t kMostSequences = 4096;  ///< of a block
constexpr int64_t kRamBytes = 208'000'000'000, kGpuBytes = 16'000'000'000 - (int64_t{1} << 30), kDiskBytes = 1500'000'000'000;

/// FlexGen's published generated tokens/s (ICML 2023, tables 2 and 3).
struct Published {
  const char* shape;
  double of_one, of_four;
};
constexpr Published kPublished[] = {{"opt-6.7b", 25.26, 201.12}, {"opt-30b", 7.32, 23.61}, {"opt-175b", 0.69, 2.33}};

struct Result {
  double tokens_per_s = 0, utilisation = 0;
  std::string text;
};

std::optional<Result> run(const std::string& shape, const HardwareProfile& hardware, int num_ranks, int64_t micro_batch_size, int64_t batches_a_group,
                          Tier attention) {
  const ModelConfig config = parse_config(*shape_config_json(shape), "", shape);
  const auto whole = Model::of_shape(config, DType::kBF16);
  const std::vector<StageResources> equal(static_cast<size_t>(num_ranks), StageResources{kRamBytes, 1e13, 2e9});
  const std::vector<int64_t> split = split_blocks(*whole, equal);
  const int64_t batches = batches_a_group * num_ranks;
  if (batches * micro_batch_size > kMostSequences) return std::nullopt;

  Workload workload;
  std::vector<Request> requests(static_cast<size_t>(batches * micro_batch_size));
  for (Request& request : requests) {
    request.prompt.assign(static_cast<size_t>(kPrompt), 7);
    request.params.max_tokens = kGenerated;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    workload.add(kPrompt, kGenerated, false, false);
  }
  const int64_t max_rows = std::max<int64_t>(256, 4096 / num_ranks);  // rooms for embedding rows and activations are as many as micro-batches
  PolicyRequest request;
  request.block = policy_of_sizes(*whole, workload, DType::kBF16, micro_batch_size, batches, 1, max_rows).block();
  request.block->num_groups = num_ranks;
  request.attention_tier = attention;
  request.num_stages = num_ranks;
  const Budgets budgets{kRamBytes, kDiskBytes, kGpuBytes};
  std::vector<std::unique_ptr<Model>> models;
  std::vector<SimulatedRank> ranks;
  int64_t first = 0;
  for (int64_t blocks : split) {
    models.push_back(Model::of_shape(config, DType::kBF16));
    if (num_ranks > 1) models.back()->keep_blocks(first, blocks);
    first += blocks;
    try {
      const Policy policy = choose_policy(*models.back(), workload, budgets, request, DType::kBF16);
      ranks.push_back({models.back().get(), policy, {}, &hardware, Precision::of(*models.back(), DType::kBF16, DType::kBF16), true});
    } catch (const Error&) {  // it does not fit
      return std::nullopt;
    }
  }
  ListSource source(std::move(requests));
  const PipelineReport report = simulate_pipeline(ranks, {1.25e9, 50e-6}, DType::kBF16, source);
  std::string busiest;
  double busy_s = 0;
  for (const RunReport& rank : report.ranks)
    for (const LaneReport& lane : rank.lanes)
      if (lane.stats.busy_s > busy_s) busiest = lane.name(), busy_s = lane.stats.busy_s;
  Result result;
  result.tokens_per_s = static_cast<double>(report.whole.generated_tokens) / report.whole.elapsed_s;
  result.utilisation = report.utilisation();
  char speed[64];
  std::snprintf(speed, sizeof(speed), "%.2f | %.2f", result.tokens_per_s, result.utilisation);
  result.text = std::to_string(micro_batch_size) + " x " + std::to_string(batches) + " | " + ranks.front().policy.weights.to_string() + ", " +
                ranks.front().policy.kv_cache.to_string() + " | " + (attention == Tier::kGpu ? "GPU" : "CPU") + " | " + speed + " | " + busiest + " |";
  return result;
}

void scale(const std::string& shape, const HardwareProfile& hardware, bool all) {
  std::printf("\n%s, 16 bits, %lld prompt and %lld generated tokens, simulated: %s, 16 GB of GPU memory, 208 GB of RAM, 10 Gbit/s between ranks\n\n",
              shape.c_str(), static_cast<long long>(kPrompt), static_cast<long long>(kGenerated), hardware.name.c_str());
  std::printf(
      "| ranks | block | weights, cache (gpu:cpu:disk) | attention | generated tokens/s | utilisation | busiest lane | FlexGen published |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n");
  for (int num_ranks : {1, 2, 4, 8, 16}) {
    std::string published = "-";
    for (const Published& known : kPublished)
      if (shape == known.shape && (num_ranks == 1 || num_ranks == 4)) {
        char text[32];
        std::snprintf(text, sizeof(text), "%.2f", num_ranks == 1 ? known.of_one : known.of_four);
        published = text;
      }
    std::optional<Result> fastest, busiest;
    for (int64_t size : {8, 32, 64})
      for (int64_t batches : {1, 2, 4, 8})
        for (Tier attention : {Tier::kCpu, Tier::kGpu}) {
          const std::optional<Result> result = run(shape, hardware, num_ranks, size, batches, attention);
          if (!result) continue;
          if (all) std::printf("| %d | %s |\n", num_ranks, result->text.c_str()), std::fflush(stdout);
          if (!fastest || result->tokens_per_s > fastest->tokens_per_s) fastest = result;
          if (!busiest || result->utilisation > busiest->utilisation) busiest = result;
        }
    if (!fastest) std::printf("| %d | nothing fits | | | | | | %s |\n", num_ranks, published.c_str());
    else std::printf("| %d | %s %s |\n", num_ranks, fastest->text.c_str(), published.c_str());
    if (busiest && busiest->utilisation > fastest->utilisation + 0.01) std::printf("| %d, busiest | %s |\n", num_ranks, busiest->text.c_str());
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace flexgen

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s PROFILE.json [--all] [SHAPE ...]\n", argv[0]);
    return 2;
  }
  std::ifstream file(argv[1]);
  std::stringstream text;
  text << file.rdbuf();
  std::vector<std::string> shapes(argv + 2, argv + argc);
  const bool all = std::erase(shapes, "--all") > 0;
  if (shapes.empty())
    for (const auto& known : flexgen::kPublished) shapes.push_back(known.shape);
  try {
    const flexgen::HardwareProfile hardware = flexgen::profile_from_json(text.str(), argv[1]);
    for (const std::string& shape : shapes) flexgen::scale(shape, hardware, all);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
