// The linear program against hand-made cases, the search against what it may not do, and budgets at the edge of what works.

#include "plan/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "base/error.h"
#include "base/units.h"
#include "model/config.h"
#include "model/prepared_weights.h"
#include "plan/placement_program.h"
#include "plan/policy_sizes.h"
#include "plan/slot_walk.h"
#include "plan/smallest_budget.h"
#include "schedule/cache_store.h"
#include "schedule/slot_rules.h"

namespace flexgen::planner_test {
namespace {

TEST(PlacementProgram, FillsMemoryWithWhatSavesMost) {
  // 10 GB of weights read every step, 4 GB of cache read every second step; 6 GB of RAM; reading is all there is to wait for.
  PlacementProgram program;
  Affine& ram = program.bytes[1];
  ram.of(TensorKind::kWeights, Tier::kCpu) = 10e9;
  ram.of(TensorKind::kKvCache, Tier::kCpu) = 4e9;
  program.capacity = {0, 6e9, 1e12};
  program.allowed = {{{false, true, true}, {false, true, true}, {false, true, false}}};
  Affine read_s;
  read_s.of(TensorKind::kWeights, Tier::kDisk) = 10;
  read_s.of(TensorKind::kKvCache, Tier::kDisk) = 2;
  program.steps = {{5, {read_s}}};
  const auto placed = solve(program);
  ASSERT_TRUE(placed);
  EXPECT_NEAR(placed->of(TensorKind::kWeights).cpu, 0.6, 1e-6);
  EXPECT_NEAR(placed->of(TensorKind::kKvCache).cpu, 0, 1e-6);
  EXPECT_NEAR(placed->time_s, 5 * (4 + 2), 1e-6);
  EXPECT_NEAR(placed->of(TensorKind::kActivations).cpu, 1, 1e-9);

  // With compute of 5 s a step there is room: any placement that reads for at most 5 s will do, and none is better.
  Affine compute_s;
  compute_s.constant = 7;
  program.steps.front().resources_s.push_back(compute_s);
  EXPECT_NEAR(solve(program)->time_s, 35, 1e-6);
  program.fixed[1] = Fractions{0, 1, 0};
  const auto fixed = solve(program);
  EXPECT_NEAR(fixed->of(TensorKind::kKvCache).cpu, 1, 1e-9);
  EXPECT_NEAR(fixed->of(TensorKind::kWeights).cpu, 0.2, 1e-6);
  EXPECT_NEAR(fixed->time_s, 40, 1e-6);
  program.capacity[1] = 1e9;
  EXPECT_FALSE(solve(program));
}

/// PlanInput's, but for programs that a sanitizer makes many times slower.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSearchLimit_s = 100;
#else
constexpr double kSearchLimit_s = 4;
#endif

struct Job {
  std::unique_ptr<Model> model;
  Workload workload;
};

Job job_of(const std::string& shape, int64_t count, std::pair<int64_t, int64_t> prompt, std::pair<int64_t, int64_t> generated, uint64_t seed = 3) {
  Job job{Model::of_shape(parse_config(*shape_config_json(shape), "", shape), DType::kBF16), {}};
  std::mt19937_64 random(seed);
  auto draw = [&](std::pair<int64_t, int64_t> range) {
    return range.first + static_cast<int64_t>(random() % static_cast<uint64_t>(range.second - range.first + 1));
  };
  for (int64_t i = 0; i < count; ++i) {
    const int64_t prompt_tokens = draw(prompt);
    job.workload.add(prompt_tokens, draw(generated), false, false);
  }
  return job;
}

TEST(Planner, IsAtLeastAsGoodAsTheFirstRule) {
  const HardwareProfile hardware = HardwareProfile::generic();
  for (const char* shape : {"opt-1.3b", "opt-6.7b", "llama-3.1-8b"})
    for (int64_t gib : {3, 6, 20}) {
      const Job job = job_of(shape, 200, {64, 192}, {32, 32});
      for (int64_t disk : {int64_t{0}, 100 * kGiB}) {
        // As long as it needs: built for a sanitizer the search is ten times slower. TakesSecondsForTheLargest watches over its time.
        const PlanInput input{*job.model, job.workload, {gib * kGiB, disk}, {}, DType::kF32, DType::kBF16, hardware, 100};
        const Plan plan = make_plan(input);
        EXPECT_TRUE(plan.complete) << plan.planning_s;
        EXPECT_LE(memory_plan(*job.model, plan.policy, job.workload, DType::kBF16).bytes(Tier::kCpu), gib * kGiB);
        const Plan rule = plan_by_first_rule(input);
        EXPECT_LE(plan.prediction.time_s, 1.001 * rule.prediction.time_s) << shape << " " << gib << " GiB, disk " << disk;
      }
    }
}

/// With less than a page reserved for each short sequence, some slots stayed empty.
TEST(Planner, ReservesPagesForAllSlots) {
  const auto steps_of = [](const Job& job, const Policy& policy) {
    double steps = 0;
    for (const StepLoad& step : walk_slots(*job.model, policy, DType::kBF16, job.workload).steps) steps += step.count;
    return steps;
  };
  for (auto [prompt, generated] : {std::pair<int64_t, int64_t>{1, 1}, {8, 10}, {64, 1}, {64, 16}, {100, 29}, {100, 30}}) {
    Job job = job_of("smollm2-135m", 64, {prompt, prompt}, {generated, generated});
    const Policy policy = policy_of_sizes(*job.model, job.workload, DType::kBF16, 32, 2, 2, 32 * prompt);
    EXPECT_EQ(steps_of(job, policy), static_cast<double>(generated)) << prompt << " " << generated;
    Workload means = job.workload;
    means.sample.clear();
    EXPECT_GE(policy_of_sizes(*job.model, means, DType::kBF16, 32, 2, 2, 32 * prompt).pages_per_micro_batch, policy.pages_per_micro_batch);
  }
}

/// Of which the sample has the short ones alone.
TEST(Planner, ReservesPagesForLinesThatTheSampleSkips) {
  Job job = job_of("smollm2-135m", 0, {1, 1}, {1, 1});
  for (int64_t i = 0; i <= Workload::kMaxSample; ++i) job.workload.add(i / Workload::kSampleRun % 2 ? 640 : 8, 1, false, false);
  ASSERT_EQ(job.workload.sample_stride, 2);
  const int64_t page_tokens = CacheLayout::page_tokens(*job.model, DType::kBF16);
  const int64_t needed = 32 * (pages_of_sequence(8, 1, page_tokens) + pages_of_sequence(640, 1, page_tokens));
  EXPECT_GE(policy_of_sizes(*job.model, job.workload, DType::kBF16, 64, 1, 2, 256).pages_per_micro_batch, needed);
}

TEST(Planner, TakesThePromptsOfASmallJobInOneStepWhereThatSavesReadingWeights) {
  // Up to 128 rows a product takes as long as reading its weight.
  HardwareProfile hardware = HardwareProfile::generic();
  for (MatmulRates& rates : hardware.cpu.matmul) rates.points = {{1, 4e9}, {128, 512e9}, {256, 512e9}};
  const Job job = job_of("opt-1.3b", 1, {128, 128}, {32, 32});
  const Plan plan = make_plan({*job.model, job.workload, {20 * kGiB}, {}, DType::kBF16, DType::kBF16, hardware});
  EXPECT_GE(plan.policy.max_rows, 128);
}

/// Jobs of few steps, in whose first most of what stays is read, while layers compute that have the one buffer.
TEST(Planner, TheProgramOfOneBufferComesNearThePrediction) {
  HardwareProfile hardware = HardwareProfile::generic();
  hardware.disk.read_bytes_per_s = hardware.disk.write_bytes_per_s = 7e8;
  for (const char* shape : {"opt-1.3b", "gemma-3-4b", "llama-3.1-8b"})
    for (double share : {0.1, 0.5, 0.75})
      for (int64_t gen : {1, 6}) {
        const Job job = job_of(shape, 12, {24, 48}, {gen, gen});
        PolicyRequest request;
        request.buffers = 1;
        request.micro_batch_size = 4;
        request.num_micro_batches = 3;
        request.max_rows = 128;
        request.weights = Fractions{0, share, 1 - share};
        request.kv_cache = request.activations = Fractions{0, 1, 0};
        const Plan plan = make_plan({*job.model, job.workload, {20 * kGiB, 50 * kGiB}, request, DType::kF32, DType::kBF16, hardware});
        EXPECT_NEAR(plan.prediction.time_s / plan.program_time_s, 1, 0.08) << shape << " " << share << " " << gen;
      }
}

/// A pass over the weights must serve many sequences also where memory holds one of the largest layers alone, or fewer rows than prompts come in with.
TEST(Planner, ShortMemoryStillServesManySequences) {
  const HardwareProfile hardware = HardwareProfile::generic();
  const auto time_s = [&](const Job& job, int64_t mib, const PolicyRequest& request) {
    return make_plan({*job.model, job.workload, {mib * kMiB, 50 * kGiB}, request, DType::kBF16, DType::kBF16, hardware, kSearchLimit_s}).prediction.time_s;
  };
  PolicyRequest one_buffer, few_rows;
  one_buffer.buffers = 1;
  few_rows.max_rows = 512;
  const Job many = job_of("llama-3.1-8b", 300, {100, 100}, {32, 32}), long_prompts = job_of("llama-3.1-8b", 20, {4096, 4096}, {1, 1});
  EXPECT_LE(time_s(many, 700, {}), 1.02 * time_s(many, 700, one_buffer));
  for (int64_t mib : {1000, 1100}) EXPECT_LE(time_s(long_prompts, mib, {}), 1.02 * time_s(long_prompts, mib, few_rows)) << mib;
  const Policy by_rule = choose_policy(*many.model, many.workload, {700 * kMiB, 50 * kGiB}, {}, DType::kBF16);
  EXPECT_EQ(by_rule.buffers, 1);
  EXPECT_GT(by_rule.block_size(), 64);
}

TEST(Planner, ExplicitFlagsWin) {
  const HardwareProfile hardware = HardwareProfile::generic();
  const Job job = job_of("opt-1.3b", 60, {30, 90}, {10, 20});
  PolicyRequest request;
  request.micro_batch_size = 7;
  request.num_micro_batches = 3;
  request.buffers = 2;
  request.weight_buffers = 5;
  request.max_rows = 33;
  request.kv_cache = Fractions{0, 0.25, 0.75};
  const Plan plan = make_plan({*job.model, job.workload, {2 * kGiB, 10 * kGiB}, request, DType::kF32, DType::kBF16, hardware});
  EXPECT_EQ(plan.policy.micro_batch_size, 7);
  EXPECT_EQ(plan.policy.num_micro_batches, 3);
  EXPECT_EQ(plan.policy.buffers, 2);
  EXPECT_EQ(plan.policy.num_weight_buffers(), 5);
  EXPECT_EQ(plan.policy.max_rows, 33);
  EXPECT_EQ(plan.policy.kv_cache, (Fractions{0, 0.25, 0.75}));
  EXPECT_GT(plan.policy.weights.cpu, 0);
}

/// Units of experts are small beside pages of the cache, so a deeper ring of them alone costs little.
TEST(Planner, GivesUnitsOfExpertsMoreBuffersThanTheCache) {
  const Job job = job_of("gpt-oss-20b", 64, {64, 192}, {16, 16});
  const PlanInput input{*job.model, job.workload, {6 * kGiB, 50 * kGiB}, {}, DType::kBF16, DType::kBF16, HardwareProfile::generic()};
  const Plan plan = make_plan(input);
  EXPECT_GT(plan.policy.num_weight_buffers(), plan.policy.buffers);
  PlanInput as_many = input;
  as_many.request.weight_buffers = plan.policy.buffers;
  EXPECT_LT(plan.prediction.time_s, make_plan(as_many).prediction.time_s);

  const auto staging_bytes = [&](int weight_buffers, const std::string& name) {
    Policy policy = plan.policy;
    policy.buffers = 2;
    policy.weight_buffers = weight_buffers;
    for (const MemoryItem& item : memory_plan(*job.model, policy, job.workload, DType::kBF16).items)
      if (item.name == name) return static_cast<double>(item.bytes);
    ADD_FAILURE() << name;
    return 0.0;
  };
  EXPECT_NEAR(staging_bytes(10, "weights, staging buffers") / staging_bytes(0, "weights, staging buffers"), 5, 0.01);
  EXPECT_EQ(staging_bytes(10, "KV cache, staging buffers"), staging_bytes(0, "KV cache, staging buffers"));
}

/// A GPU of 16 GB with 208 GB of RAM: a bus of 13 GB/s, and cores that read 40 GB/s of cache.
HardwareProfile small_gpu_machine() {
  HardwareProfile hardware = HardwareProfile::uniform(1e12, 4e10, 2e9, 1e9);
  hardware.gpu = gpu_of(21.2e12, 250e9);
  hardware.h2d_bytes_per_s = hardware.d2h_bytes_per_s = 12.89e9;
  return hardware;
}
constexpr Budgets kSmallGpu{208'000'000'000, 0, 16'000'000'000};

TEST(Planner, AttendsBesideTheGpuWhereTheBusIsSlowerThanTheProcessor) {
  const HardwareProfile hardware = small_gpu_machine();
  // Answers of a thousand tokens and more: the cache of many sequences is in RAM, and each token reads its own once.
  const Job job = job_of("opt-6.7b", 400, {500, 700}, {900, 1000});
  auto plan_with = [&](std::optional<Tier> tier) {
    PolicyRequest request;
    request.attention_tier = tier;
    return make_plan({*job.model, job.workload, kSmallGpu, request, DType::kBF16, DType::kBF16, hardware, 60});
  };
  const Plan free = plan_with({}), on_gpu = plan_with(Tier::kGpu), beside = plan_with(Tier::kCpu);
  EXPECT_EQ(free.policy.attention_tier, Tier::kCpu);
  EXPECT_GT(free.policy.kv_cache.cpu, 0.9);
  EXPECT_EQ(free.policy.kv_cache.gpu, 0);
  EXPECT_LT(free.prediction.time_s, 0.8 * on_gpu.prediction.time_s);
  EXPECT_LT(free.prediction.time_s, 1.02 * beside.prediction.time_s);
  EXPECT_GT(free.prediction.busy[LaneKind::kCpu], 0);
  EXPECT_EQ(on_gpu.policy.attention_tier, Tier::kGpu);
  EXPECT_EQ(beside.policy.attention_tier, Tier::kCpu);
  for (const Candidate& candidate : on_gpu.candidates) EXPECT_EQ(candidate.policy.attention_tier, Tier::kGpu);
  for (const Candidate& candidate : beside.candidates) EXPECT_EQ(candidate.policy.attention_tier, Tier::kCpu);
  // Both were looked at.
  EXPECT_TRUE(
      std::any_of(free.candidates.begin(), free.candidates.end(), [](const Candidate& candidate) { return candidate.policy.attention_tier == Tier::kGpu; }));
  for (const Plan* plan : {&free, &on_gpu, &beside}) {
    const MemoryPlan memory = memory_plan(*job.model, plan->policy, job.workload, DType::kBF16);
    EXPECT_LE(memory.bytes(Tier::kGpu), kSmallGpu.gpu_bytes);
    EXPECT_LE(memory.bytes(Tier::kCpu), kSmallGpu.cpu_bytes);
  }
}

/// Where one buffer is tried too, what overlaps is still judged as overlapping.
TEST(Planner, LargeLayersBesideASmallGpuStillOverlap) {
  const HardwareProfile hardware = small_gpu_machine();
  const Job job = job_of("opt-30b", 400, {500, 700}, {900, 1000});
  const Budgets budgets{200'000'000'000, 0, 8'000'000'000};
  const auto plan_with = [&](std::optional<int> buffers) {
    PolicyRequest request;
    request.buffers = buffers;
    request.attention_tier = Tier::kCpu;
    return make_plan({*job.model, job.workload, budgets, request, DType::kBF16, DType::kBF16, hardware, kSearchLimit_s}).prediction.time_s;
  };
  const double free_s = plan_with({});
  for (int buffers : {1, 2, 3}) EXPECT_LE(free_s, 1.01 * plan_with(buffers)) << buffers;
}

TEST(Planner, AttendsOnTheGpuWhereTheCacheIs) {
  const HardwareProfile hardware = small_gpu_machine();
  const Job job = job_of("opt-1.3b", 100, {60, 100}, {30, 40});
  PolicyRequest request;
  EXPECT_EQ(make_plan({*job.model, job.workload, kSmallGpu, request, DType::kBF16, DType::kBF16, hardware}).policy.attention_tier, Tier::kGpu);
  // A share of the cache in the GPU's memory leaves no choice.
  request.kv_cache = Fractions{0.1, 0.9, 0};
  const Plan plan = make_plan({*job.model, job.workload, kSmallGpu, request, DType::kBF16, DType::kBF16, hardware});
  for (const Candidate& candidate : plan.candidates) EXPECT_EQ(candidate.policy.attention_tier, Tier::kGpu);
  EXPECT_EQ(plan.policy.kv_cache, *request.kv_cache);
}

/// The bytes that a refusal names.
int64_t named_budget(const std::string& message, const char* before, char after) {
  const size_t at = message.find(before);
  if (at == std::string::npos) return -1;
  size_t begin = message.rfind(after == '(' ? '(' : ' ', message.find("bytes)", at));
  return std::stoll(message.substr(begin + 1));
}

TEST(Planner, KernelsOfTheGpuArePartOfItsBudget) {
  HardwareProfile hardware = HardwareProfile::generic();
  hardware.gpu = gpu_of(20e12, 300e9);
  const Job job = job_of("opt-1.3b", 60, {30, 90}, {10, 20});
  auto plan_with = [&](int64_t gpu) {
    Budgets budgets{8 * kGiB, 10 * kGiB, gpu};
    budgets.gpu_kernel_bytes = 600 * kMiB;
    const Plan plan = make_plan({*job.model, job.workload, budgets, {}, DType::kBF16, DType::kBF16, hardware});
    EXPECT_LE(memory_plan(*job.model, plan.policy, job.workload, DType::kBF16).bytes(Tier::kGpu) + 600 * kMiB, gpu);
  };
  plan_with(kGiB);
  std::string message;
  try {
    plan_with(610 * kMiB);
    ADD_FAILURE() << "ran in 10 MiB beside the kernels";
  } catch (const Error& error) {
    message = error.what();
  }
  EXPECT_THAT(message, testing::HasSubstr("the kernels' own 600 MiB"));
  const int64_t smallest = named_budget(message, "smallest budget", '(');
  EXPECT_NO_THROW(plan_with(smallest)) << message;
  EXPECT_THROW(plan_with(smallest / 100 * 98), Error) << message;
}

TEST(Planner, LogprobsOfSequencesUnderWayAreWithinTheBudget) {
  const HardwareProfile hardware = HardwareProfile::generic();
  Job job = job_of("opt-1.3b", 200, {64, 192}, {96, 96});
  const auto plan_of = [&] { return make_plan({*job.model, job.workload, {kGiB, 10 * kGiB}, {}, DType::kF32, DType::kBF16, hardware}); };
  const Plan without = plan_of();
  job.workload.logprob_bytes = 8 * kMiB;
  const Plan with = plan_of();
  const MemoryPlan memory = memory_plan(*job.model, with.policy, job.workload, DType::kBF16);
  EXPECT_LE(memory.bytes(Tier::kCpu), kGiB);
  EXPECT_EQ(memory.bytes(Tier::kCpu) - memory.arena_bytes(Tier::kCpu), with.policy.block_size() * 8 * kMiB);
  EXPECT_LT(with.policy.block_size(), without.policy.block_size());
}

/// 64 sequences in groups of 8 that share 64 pages' tokens: what is reserved for them, and what the plan makes of it.
TEST(Planner, SharedPrefixesTakeTheirPagesOnce) {
  const HardwareProfile hardware = HardwareProfile::generic();
  const Job job = job_of("opt-1.3b", 1, {64, 64}, {16, 16});
  const int64_t page = CacheLayout::page_tokens(*job.model, DType::kBF16);
  Workload apart, shared;
  for (int64_t i = 0; i < 64; ++i) {
    apart.add(65 * page, 16, false, false);
    shared.add(65 * page, 16, false, false, {}, {64 * page, i % 8 == 0 ? 0 : 64 * page});
  }
  EXPECT_EQ(shared.computed_prompt_tokens(), static_cast<double>((64 + 8 * 64) * page));
  EXPECT_EQ(prefix_pages(shared, page, 1), 64);
  EXPECT_EQ(prefix_pages(shared, page, 8), 64 + 64);  // of two groups, when one follows the other
  EXPECT_EQ(prefix_pages(shared, page, 64), 8 * 64);
  EXPECT_EQ(prefix_pages(apart, page, 64), 0);
  Workload means = shared;
  means.sample.clear();
  EXPECT_EQ(prefix_pages(means, page, 64), 8 * 64);
  const auto ends_of = [&](const Workload& workload, int64_t block) {
    Policy policy;
    policy.micro_batch_size = block;
    policy.prefix_pages = 1000;
    return prefix_ends(workload, page, policy);
  };
  EXPECT_EQ(ends_of(shared, 1), 1 + 1);  // and one of those that take longer
  EXPECT_EQ(ends_of(shared, 8), 2 + 1);
  EXPECT_EQ(ends_of(shared, 64), 8);
  EXPECT_EQ(ends_of(apart, 64), 0);
  EXPECT_EQ(ends_of(means, 64), 0);
  Workload nested;  // all begin with 32 pages
  for (int64_t i = 0; i < 64; ++i) nested.add(65 * page, 16, false, false, {}, {64 * page, i == 0 ? 0 : i % 8 == 0 ? 32 * page : 64 * page});
  EXPECT_EQ(ends_of(nested, 8), 1 + 2 + 2);
  EXPECT_EQ(ends_of(nested, 64), 1 + 8);
  Workload large;  // of which a sample is known
  for (int64_t i = 0; i < 40000; ++i) large.add(65 * page, 16, false, false, {}, {64 * page, i % 10 == 0 ? 0 : 64 * page});
  EXPECT_GT(large.sample_stride, 1);
  EXPECT_EQ(ends_of(large, 64), ceil_div(1000, 64));
  Workload pairs;  // of which a sample is known
  pairs.add(65 * page, 16, false, false);
  for (int64_t i = 0; i < 20000; ++i) pairs.add(65 * page, 16, false, false, {}, {64 * page, i % 2 == 0 ? 0 : 64 * page});
  EXPECT_GE(policy_of_sizes(*job.model, pairs, DType::kBF16, 8, 1, 2, 64).prefix_pages, 64);
  auto plan_of = [&](const Workload& workload, int64_t cpu) {
    return make_plan({*job.model, workload, {cpu, 10 * kGiB}, {}, DType::kF32, DType::kBF16, hardware});
  };
  for (int64_t cpu : {kGiB, 4 * kGiB}) {
    const Plan together = plan_of(shared, cpu);
    EXPECT_LE(memory_plan(*job.model, together.policy, shared, DType::kBF16).bytes(Tier::kCpu), cpu);
    EXPECT_LT(together.prediction.time_s, 0.5 * plan_of(apart, cpu).prediction.time_s);
  }
  // What fits without sharing is not refused for it.
  auto smallest = [&](const Workload& workload) -> std::string {
    try {
      plan_of(workload, 100 * kKiB);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(smallest(shared), smallest(apart));
}

/// Groups of a few: a sample of every second or fourth would have first ones alone, or none of them.
TEST(Planner, PlansALargeJobOfSmallGroupsAsASmallOne) {
  const HardwareProfile hardware = HardwareProfile::generic();
  const Job job = job_of("smollm2-135m", 0, {1, 1}, {1, 1});
  for (int64_t group : {2, 4}) {
    const auto seconds_each = [&](int64_t count, int64_t offset) {
      Workload workload;
      for (int64_t i = 0; i < count; ++i) workload.add(640 + 64, 16, false, false, {}, {640, (i + offset) % group == 0 ? 0 : 640});
      EXPECT_NEAR(workload.in_pages(64).total_shared_tokens, workload.total_shared_tokens, 0.001 * workload.total_shared_tokens);
      return make_plan({*job.model, workload, {kGiB}, {}, DType::kBF16, DType::kBF16, hardware, kSearchLimit_s}).prediction.time_s / static_cast<double>(count);
    };
    const double small = seconds_each(8000, 0);
    for (int64_t offset : {0, 1}) EXPECT_NEAR(seconds_each(40000, offset), small, 0.1 * small) << group << " " << offset;
  }
}

/// Ten questions to each document: where the pages of two have no room beside a question's own, one sequence of 16 tokens a step was all that was left.
TEST(Planner, PromptsAreComputedWholeWherePrefixesHaveNoRoom) {
  const HardwareProfile hardware = HardwareProfile::generic();
  const Job job = job_of("smollm2-135m", 0, {1, 1}, {1, 1});
  Workload shared;
  for (int64_t i = 0; i < 100; ++i) shared.add(2048 + 64, 64, false, false, {}, {2048, i % 10 == 0 ? 0 : 2048});
  const Workload apart = shared.without_sharing();
  const auto input_of = [&](const Workload& workload, int64_t mib) {
    return PlanInput{*job.model, workload, {mib * kMiB}, {}, DType::kBF16, DType::kBF16, hardware, kSearchLimit_s};
  };
  const Precision precision = Precision::of(*job.model, DType::kBF16, DType::kBF16);
  Policy smallest = policy_of_sizes(*job.model, apart, DType::kBF16, 1, 1, 1, 16);
  smallest.weights = {0, 0, 1};
  smallest.kv_cache = smallest.activations = {0, 1, 0};
  const double smallest_s = predict(*job.model, hardware, precision, smallest, shared).time_s;
  EXPECT_EQ(smallest_s, predict(*job.model, hardware, precision, smallest, apart).time_s) << "the job is walked in part";
  for (int64_t mib : {60, 80, 120, 160, 190, 200, 300}) {
    const Plan plan = make_plan(input_of(shared, mib));
    EXPECT_LE(memory_plan(*job.model, plan.policy, shared, DType::kBF16).bytes(Tier::kCpu), mib * kMiB);
    EXPECT_LE(plan.prediction.time_s, make_plan(input_of(apart, mib)).prediction.time_s) << mib;
    EXPECT_EQ(plan.policy.prefix_pages > 0, mib >= 200) << mib;
    EXPECT_LT(plan.prediction.time_s, (mib >= 120 ? 0.2 : 0.5) * smallest_s) << mib;
    if (mib >= 120) {
      EXPECT_LT(plan_by_first_rule(input_of(shared, mib)).prediction.time_s, 0.5 * smallest_s) << mib;
    }
  }
  // Of a number of sequences that is given, whole prompts may not fit: the plan that shares stands.
  for (int64_t mib : {400, 450, 500}) {
    PlanInput fixed = input_of(shared, mib);
    fixed.request.micro_batch_size = 16;
    EXPECT_THROW(make_plan({*job.model, apart, fixed.budgets, fixed.request, DType::kBF16, DType::kBF16, hardware, kSearchLimit_s}), Error) << mib;
    EXPECT_GT(make_plan(fixed).policy.prefix_pages, 0) << mib;
  }
  // What sharing saves may not be known, as of a server's calls: it keeps its room.
  Workload unknown = shared;
  unknown.total_shared_tokens = 0;
  for (SequenceLength& length : unknown.sample) length.shared = 0;
  EXPECT_GT(make_plan(input_of(unknown, 300)).policy.prefix_pages, 0);
}

TEST(Planner, ExpectedAnswersChangeTimeAndNotMemory) {
  const HardwareProfile hardware = HardwareProfile::generic();
  const Job all = job_of("opt-1.3b", 200, {64, 192}, {96, 96});
  Job early = job_of("opt-1.3b", 200, {64, 192}, {96, 96});
  early.workload.expect(0.25);
  EXPECT_EQ(early.workload.longest_sequence, all.workload.longest_sequence);
  EXPECT_EQ(early.workload.total_generated_tokens, 200 * 24);
  for (int64_t size : {1, 7, 40})
    EXPECT_EQ(policy_of_sizes(*early.model, early.workload, DType::kBF16, size, 2, 2, 64).pages_per_micro_batch,
              policy_of_sizes(*all.model, all.workload, DType::kBF16, size, 2, 2, 64).pages_per_micro_batch);
  auto plan_of = [&](const Job& job, int64_t cpu) { return make_plan({*job.model, job.workload, {cpu, 10 * kGiB}, {}, DType::kF32, DType::kBF16, hardware}); };
  const Plan plan = plan_of(early, kGiB);
  EXPECT_LE(memory_plan(*early.model, plan.policy, early.workload, DType::kBF16).bytes(Tier::kCpu), kGiB);
  EXPECT_GE(plan.policy.pages_per_micro_batch, plan.policy.micro_batch_size * (64 + 96) / CacheLayout::page_tokens(*early.model, DType::kBF16));
  EXPECT_LT(plan.prediction.time_s, 0.5 * plan_of(all, kGiB).prediction.time_s);
  EXPECT_EQ(plan.prediction.generated_tokens, 200 * 24);
  auto refusal = [&](const Job& job) -> std::string {
    try {
      plan_of(job, 100 * kKiB);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(refusal(all), "");
  EXPECT_EQ(refusal(early), refusal(all));
}

TEST(Planner, TakesSecondsForTheLargest) {
  const HardwareProfile hardware = HardwareProfile::generic();
  const Job job = job_of("opt-175b", 3000, {100, 900}, {32, 512});
  const Plan plan = make_plan({*job.model, job.workload, {200 * kGiB, 1500 * kGiB}, {}, DType::kF32, DType::kBF16, hardware});
  EXPECT_LT(plan.planning_s, 5);
  EXPECT_GT(plan.candidates.size(), kSearchLimit_s > 4 ? 5 : 20);  // a sanitizer's program looks at fewer in the same time
  // Attention on a GPU and beside it.
  const Plan with_gpu = make_plan({*job.model, job.workload, {200 * kGiB, 1500 * kGiB, 80 * kGiB}, {}, DType::kBF16, DType::kBF16, small_gpu_machine()});
  EXPECT_LT(with_gpu.planning_s, 5);
}

/// Mixtures of thousands of units of experts: all policies are judged before time is out.
TEST(Planner, IsDoneInTimeWithManyExperts) {
  const HardwareProfile hardware = HardwareProfile::generic();
  for (const auto& [shape, chances_differ] : {std::pair("gpt-oss-120b", false), {"qwen3-235b-a22b", false}, {"qwen3-30b-a3b", true}}) {
    const Job job = job_of(shape, 256, {128, 128}, {32, 32});
    if (chances_differ) job.model->set_expert_chances(ExpertChances::zipf(job.model->config(), 1));
    const Plan plan = make_plan({*job.model, job.workload, {6 * kGiB, 100 * kGiB}, {}, DType::kBF16, DType::kBF16, hardware, kSearchLimit_s});
    EXPECT_TRUE(plan.complete) << shape << ": " << plan.planning_s << " s";
  }
}

/// Lines without a max_tokens may take all positions that a model has.
TEST(Planner, LooksAtManyPoliciesWhereAnswersAreOpenEnded) {
  const HardwareProfile hardware = HardwareProfile::generic();
  const Job job = job_of("llama-3.1-8b", 500, {200, 1000}, {130'000, 130'000});
  const Plan plan = make_plan({*job.model, job.workload, {100 * kGiB, 4000 * kGiB}, {}, DType::kBF16, DType::kBF16, hardware, kSearchLimit_s});
  EXPECT_GT(plan.candidates.size(), 30) << plan.planning_s << " s";
}

/// They are read with a file's first sector and go with its last, which experts that are not chosen never come to.
TEST(Planner, CountsChecksumsOfExpertsThatAreNotChosen) {
  const HardwareProfile hardware = HardwareProfile::generic();
  Job job = job_of("qwen3-30b-a3b", 2, {16, 16}, {8, 8});
  imagine_prepared_weights(*job.model, DType::kInt4);
  double experts = 0;
  for (const LayerSpec& layer : job.model->layers())
    if (layer.kind == LayerKind::kExperts)
      for (const WeightUse& use : layer.uses) experts += static_cast<double>(job.model->weights()[static_cast<size_t>(use.weight)].bytes());
  const int64_t sums = job.model->expert_checking_bytes();
  EXPECT_NEAR(static_cast<double>(sums), experts / 4096 * 4.125, 0.01 * experts / 4096 * 4.125);
  Policy policy = policy_of_sizes(*job.model, job.workload, DType::kBF16, 2, 1, 2, 32);
  policy.weights = {0, 0, 1};
  policy.kv_cache = policy.activations = {0, 1, 0};
  const auto ram = [&](int64_t max_choosing_rows) {
    policy.max_choosing_rows = max_choosing_rows;
    const MemoryPlan memory = memory_plan(*job.model, policy, job.workload, DType::kBF16);
    return std::pair(memory.bytes(Tier::kCpu), memory.arena_bytes(Tier::kCpu));
  };
  EXPECT_EQ(ram(8).first - ram(0).first, sums);
  EXPECT_EQ(ram(8).second, ram(0).second) << "not taken at the start";
  policy.weights = {0, 1, 0};
  EXPECT_EQ(ram(8).first, ram(0).first);
  // Plans keep to budgets that hardly have room for them.
  for (bool chosen_alone : {false, true}) {
    PolicyRequest request;
    if (chosen_alone) request.max_choosing_rows = std::numeric_limits<int64_t>::max();
    const auto plan_with = [&](int64_t cpu) {
      return make_plan({*job.model, job.workload, {cpu, 0}, request, DType::kBF16, DType::kBF16, hardware, kSearchLimit_s});
    };
    std::string message;
    try {
      plan_with(kMiB);
    } catch (const Error& error) {
      message = error.what();
    }
    const int64_t smallest = named_budget(message, "smallest budget", '(');
    for (int64_t cpu : {smallest, smallest + sums / 2, smallest + 2 * sums})
      EXPECT_LE(memory_plan(*job.model, plan_with(cpu).policy, job.workload, DType::kBF16).bytes(Tier::kCpu), cpu) << chosen_alone << ": " << message;
  }
}

TEST(Planner, PlansForAGpuWithinAnyBudgetThatSuffices) {
  const HardwareProfile hardware = small_gpu_machine();
  std::mt19937_64 random(23);
  const char* shapes[] = {"opt-125m", "opt-1.3b", "opt-6.7b", "llama-3.1-8b", "qwen3-0.6b"};
  int beside = 0;
  for (int i = 0; i < 40; ++i) {
    const int64_t prompt = 1 + static_cast<int64_t>(random() % 400), generated = 1 + static_cast<int64_t>(random() % 60);
    const Job job = job_of(shapes[random() % std::size(shapes)], 1 + static_cast<int64_t>(random() % 30), {1, prompt}, {1, generated}, random());
    PolicyRequest request;
    if (random() % 3 == 0) request.attention_tier = random() % 2 ? Tier::kCpu : Tier::kGpu;
    if (random() % 3 == 0) request.micro_batch_size = 1 + static_cast<int64_t>(random() % 9);
    if (random() % 3 == 0) request.num_micro_batches = 1 + static_cast<int64_t>(random() % 4);
    if (random() % 3 == 0) request.buffers = 1 + static_cast<int>(random() % 3);
    if (random() % 4 == 0) request.weights = Fractions{0.2, 0.3, 0.5};
    if (random() % 4 == 0) request.kv_cache = request.attention_tier == Tier::kCpu ? Fractions{0, 1, 0} : Fractions{0.5, 0.5, 0};
    const DType kv = std::array{DType::kBF16, DType::kInt4}[random() % 2];
    const int64_t disk = random() % 2 ? 50 * kGiB : 0;
    auto plan_with = [&](int64_t gpu, int64_t cpu) {
      return make_plan({*job.model, job.workload, {cpu, disk, gpu}, request, DType::kBF16, kv, hardware, 0.5});
    };
    // First what it takes of the GPU, then what it takes of RAM beside that or a little more.
    std::string message;
    auto refusal = [&](int64_t gpu, int64_t cpu) {
      try {
        plan_with(gpu, cpu);
        return false;
      } catch (const Error& error) {
        message = error.what();
        return true;
      }
    };
    ASSERT_TRUE(refusal(100 * kKiB, 100 * kKiB)) << i;
    int64_t gpu = named_budget(message, "smallest budget", '(');
    ASSERT_GT(gpu, 100 * kKiB) << message;
    ASSERT_THAT(message, testing::HasSubstr("--gpu-memory"));
    EXPECT_TRUE(refusal(gpu / 100 * 98, 500 * kGiB)) << i << ": " << message;
    gpu += static_cast<int64_t>(random() % 2) * static_cast<int64_t>(random() % (2 * kGiB));
    ASSERT_TRUE(refusal(gpu, 100 * kKiB)) << i;
    ASSERT_THAT(message, testing::HasSubstr("--cpu-memory")) << i;
    const int64_t cpu = named_budget(message, "smallest budget", '(');
    EXPECT_TRUE(refusal(gpu, cpu / 100 * 98)) << i << ": " << message;
    EXPECT_NO_THROW({
      const Plan plan = plan_with(gpu, cpu);
      const MemoryPlan memory = memory_plan(*job.model, plan.policy, job.workload, kv);
      EXPECT_LE(memory.bytes(Tier::kGpu), gpu);
      EXPECT_LE(memory.bytes(Tier::kCpu), cpu);
      if (request.attention_tier) {
        EXPECT_EQ(plan.policy.attention_tier, *request.attention_tier);
      }
      if (request.kv_cache) {
        EXPECT_EQ(plan.policy.kv_cache, *request.kv_cache);
      }
      beside += plan.policy.attention_beside();
    }) << i
       << ": " << message;
  }
  EXPECT_GT(beside, 3);
}

TEST(Planner, SmallestBudgetWorksAndLessDoesNot) {
  const HardwareProfile hardware = HardwareProfile::generic();
  std::mt19937_64 random(17);
  const char* shapes[] = {"opt-125m", "opt-1.3b", "opt-6.7b", "opt-30b", "llama-3.1-8b", "qwen3-0.6b"};
  for (int i = 0; i < 50; ++i) {
    const int64_t prompt = 1 + static_cast<int64_t>(random() % 400), generated = 1 + static_cast<int64_t>(random() % 60);
    const Job job = job_of(shapes[random() % std::size(shapes)], 1 + static_cast<int64_t>(random() % 30), {1, prompt}, {1, generated}, random());
    PolicyRequest request;
    if (random() % 3 == 0) request.micro_batch_size = 1 + static_cast<int64_t>(random() % 9);
    if (random() % 3 == 0) request.num_micro_batches = 1 + static_cast<int64_t>(random() % 4);
    if (random() % 3 == 0) request.buffers = 1 + static_cast<int>(random() % 3);
    if (random() % 4 == 0) request.max_rows = 8 + static_cast<int64_t>(random() % 100);
    if (random() % 4 == 0) request.weights = Fractions{0, 0.3, 0.7};
    const DType kv = std::array{DType::kBF16, DType::kInt4, DType::kF32}[random() % 3];
    const int64_t disk = random() % 2 ? 50 * kGiB : 0;
    if (disk > 0 && random() % 4 == 0) request.kv_cache = Fractions{0, 0.5, 0.5};
    auto plan_with = [&](int64_t cpu) { return make_plan({*job.model, job.workload, {cpu, disk}, request, DType::kF32, kv, hardware, 0.5}); };
    std::string message;
    try {
      plan_with(100 * kKiB);
      ADD_FAILURE() << i << ": ran in 100 KiB";
      continue;
    } catch (const Error& error) {
      message = error.what();
    }
    const int64_t smallest = named_budget(message, "smallest budget", '(');
    ASSERT_GT(smallest, 100 * kKiB) << message;
    EXPECT_NO_THROW({
      const Plan plan = plan_with(smallest);
      EXPECT_LE(memory_plan(*job.model, plan.policy, job.workload, kv).bytes(Tier::kCpu), smallest);
    }) << i
       << ": " << message;
    EXPECT_THROW(plan_with(smallest / 100 * 98), Error) << i << ": " << message;
  }
}

}  // namespace
}  // namespace flexgen::planner_test
