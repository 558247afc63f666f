// The simulated executor against the real one, and against what arithmetic says of simple cases.

#include "pipeline/simulate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "base/error.h"
#include "base/units.h"
#include "engine/engine.h"
#include "generation/list_source.h"
#include "generation/test_jobs.h"
#include "io/test_folder.h"
#include "model/dummy_checkpoint.h"
#include "pipeline/stage_split.h"
#include "plan/memory_plan.h"

namespace flexgen::simulate_test {
namespace {

std::vector<Request> requests_of(int64_t count, std::pair<int64_t, int64_t> prompt, std::pair<int64_t, int64_t> generated, int64_t vocab) {
  return random_requests(7, count, prompt, generated, vocab);
}

Workload plain_workload(const std::vector<Request>& requests) {
  Workload workload;
  for (const Request& request : requests) workload.add(static_cast<int64_t>(request.prompt.size()), request.params.max_tokens, false, false);
  return workload;
}

const LaneReport& lane(const RunReport& report, LaneKind kind) {
  for (const LaneReport& lane : report.lanes)
    if (lane.kind == kind) return lane;
  ADD_FAILURE() << "no lane " << lane_name(kind);
  return report.lanes.front();
}

constexpr const char* kTiny = R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
  "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 300, "max_position_embeddings": 256, "hidden_act": "silu",
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})";

TEST(Simulate, DoesTheWorkOfARealRun) {
  const std::string directory = process_folder() + "/simulated";
  ensure_dummy_checkpoint(directory, kTiny, DType::kBF16, 3, nullptr);
  const auto requests = requests_of(23, {1, 60}, {1, 9}, 300);
  int checked = 0;
  for (auto [cpu, batches, buffers] : {std::tuple(0.0, 1, 1), std::tuple(0.5, 3, 2), std::tuple(0.25, 2, 3), std::tuple(1.0, 2, 2)}) {
    EngineOptions options;
    options.model_directory = directory;
    options.load_tokenizer = false;
    options.threads = 1;
    options.budgets = {256 * kMiB, kGiB};
    options.disk_directory = process_folder();
    options.policy.micro_batch_size = 4;
    options.policy.num_micro_batches = batches;
    options.policy.buffers = buffers;
    options.policy.weights = options.policy.kv_cache = options.policy.activations = Fractions{0, cpu, 1 - cpu};
    Engine engine(options);
    engine.prepare(plain_workload(requests));
    ListSource source(requests), again(requests);
    NoSink sink;
    std::atomic<bool> never{false};
    const RunReport real = engine.run(source, sink, never);
    const auto model = Model::of_shape(engine.model().config(), DType::kBF16);
    const RunReport simulated = simulate(*model, engine.policy(), engine.kv_dtype(), {}, again);
    EXPECT_EQ(simulated.sequences, real.sequences);
    EXPECT_EQ(simulated.generated_tokens, real.generated_tokens);
    EXPECT_EQ(simulated.prompt_tokens, real.prompt_tokens);
    EXPECT_EQ(simulated.work.steps, real.work.steps);
    EXPECT_EQ(simulated.work.visits, real.work.visits);
    EXPECT_EQ(simulated.work.linear_flops, real.work.linear_flops);
    EXPECT_EQ(simulated.work.kv_read_bytes, real.work.kv_read_bytes);
    EXPECT_EQ(simulated.work.weight_read_bytes, real.work.weight_read_bytes);
    double step_bytes = 0;
    for (int64_t layer = 0; layer < std::ssize(model->layers()); ++layer) step_bytes += model->weight_bytes(layer);
    // A step without a row that wants logits reads less.
    EXPECT_LE(real.work.weight_read_bytes, static_cast<double>(real.work.steps) * step_bytes);
    EXPECT_GT(real.work.weight_read_bytes, 0.7 * static_cast<double>(real.work.steps) * step_bytes);
    EXPECT_EQ(lane(simulated, LaneKind::kDiskWrite).stats.bytes, lane(real, LaneKind::kDiskWrite).stats.bytes);
    // Alignment of the tensors in the file differs: a sector at either end of a piece.
    const double sectors = 2.0 * kDirectAlignment * static_cast<double>(lane(real, LaneKind::kDiskRead).stats.operations) * 16;
    EXPECT_NEAR(lane(simulated, LaneKind::kDiskRead).stats.bytes, lane(real, LaneKind::kDiskRead).stats.bytes, sectors);
    ++checked;
  }
  EXPECT_EQ(checked, 4);
}

TEST(Simulate, DoesTheWorkOfARealRunOnADevice) {
  const std::string directory = process_folder() + "/simulated-device";
  ensure_dummy_checkpoint(directory, kTiny, DType::kBF16, 3, nullptr);
  auto requests = requests_of(23, {1, 60}, {1, 9}, 300);
  for (size_t i = 0; i < 3; ++i) requests[4 * i].params.top_logprobs = 1;  // whose logits go down, with their neighbours'
  int checked = 0;
  for (auto [attention, batches, buffers] :
       {std::tuple(Tier::kGpu, 1, 1), std::tuple(Tier::kGpu, 3, 3), std::tuple(Tier::kCpu, 3, 2), std::tuple(Tier::kCpu, 1, 1)}) {
    EngineOptions options;
    options.model_directory = directory;
    options.backend = "emulated-gpu";
    options.load_tokenizer = false;
    options.threads = 1;
    options.budgets = {256 * kMiB, kGiB, 256 * kMiB};
    options.disk_directory = process_folder();
    options.policy.micro_batch_size = 4;
    options.policy.num_micro_batches = batches;
    options.policy.buffers = buffers;
    options.policy.weights = options.policy.activations = Fractions{0.25, 0.5, 0.25};
    options.policy.kv_cache = attention == Tier::kGpu ? Fractions{0.25, 0.5, 0.25} : Fractions{0, 0.5, 0.5};
    options.policy.attention_tier = attention;
    Engine engine(options);
    engine.prepare(plain_workload(requests));
    ListSource source(requests), again(requests);
    NoSink sink;
    std::atomic<bool> never{false};
    const RunReport real = engine.run(source, sink, never);
    const auto model = Model::of_shape(engine.model().config(), DType::kBF16);
    const RunReport simulated = simulate(*model, engine.policy(), engine.kv_dtype(), {}, again);
    EXPECT_EQ(simulated.work.visits, real.work.visits);
    EXPECT_EQ(simulated.work.linear_flops, real.work.linear_flops);
    EXPECT_EQ(lane(simulated, LaneKind::kDiskWrite).stats.bytes, lane(real, LaneKind::kDiskWrite).stats.bytes);
    for (LaneKind kind : {LaneKind::kH2d, LaneKind::kD2h}) EXPECT_EQ(lane(simulated, kind).stats.bytes, lane(real, kind).stats.bytes) << lane_name(kind);
    EXPECT_EQ(lane(simulated, LaneKind::kCpu).stats.operations, lane(real, LaneKind::kCpu).stats.operations);
    EXPECT_GT(lane(real, LaneKind::kH2d).stats.bytes, 0);
    ++checked;
  }
  EXPECT_EQ(checked, 4);
}

class Shape8B : public testing::Test {
 protected:
  Shape8B() : model_(Model::of_shape(parse_config(*shape_config_json("llama-3.1-8b"), "", "shape"), DType::kBF16)) {}
  RunReport run(Policy policy, const MachineSpeeds& speeds) {
    ListSource source(requests_);
    return simulate(*model_, policy, DType::kBF16, speeds, source);
  }
  Policy policy(int64_t cpu_bytes) { return choose_policy(*model_, plain_workload(requests_), {cpu_bytes, 0}, {}, DType::kBF16); }
  std::unique_ptr<Model> model_;
  std::vector<Request> requests_ = requests_of(64, {64, 192}, {32, 32}, 128256);
};

TEST_F(Shape8B, BusiestLaneIsTheTime) {
  const Policy policy = this->policy(6 * kGiB);
  // One lane clearly the slowest: then it hardly stands still (the head has little to compute, so its loads show). (Where two are alike, steps full of prompts wait for the one and later steps for the other.)
  for (MachineSpeeds speeds : {MachineSpeeds{1e11, 3e10, 2e9, 1e9}, MachineSpeeds{4e12, 3e11, 1e9, 1e9}}) {
    const RunReport report = run(policy, speeds);
    double busiest = 0, sum = 0;
    for (const LaneReport& lane : report.lanes) {
      busiest = std::max(busiest, lane.stats.busy_s);
      sum += lane.stats.busy_s;
    }
    EXPECT_GE(report.elapsed_s, busiest);
    EXPECT_LT(report.elapsed_s, 1.05 * busiest);
    EXPECT_LE(report.elapsed_s, sum);
    EXPECT_NEAR(lane(report, LaneKind::kCompute).stats.busy_s,
                report.work.linear_flops / speeds.flops_per_s + report.work.kv_read_bytes / speeds.ram_bytes_per_s +
                    static_cast<double>(report.work.visits) * speeds.visit_overhead_s,
                1e-6 * report.elapsed_s);
  }
}

TEST_F(Shape8B, OneBufferDoesNotOverlap) {
  Policy policy = this->policy(6 * kGiB);
  const MachineSpeeds speeds{8e11, 3e10, 2e9, 1e9};
  const RunReport overlapped = run(policy, speeds);
  policy.buffers = 1;
  const RunReport serial = run(policy, speeds);
  const double sum = lane(serial, LaneKind::kCompute).stats.busy_s + lane(serial, LaneKind::kDiskRead).stats.busy_s;
  EXPECT_GT(serial.elapsed_s, 0.95 * sum - lane(serial, LaneKind::kDiskLookup).stats.busy_s);
  EXPECT_LT(overlapped.elapsed_s, 0.9 * serial.elapsed_s);
}

TEST_F(Shape8B, ComputingBeginsBeforeAllWeightsAreThere) {
  // All in RAM: the disk has something to do in the first step alone, for about twice as long as it takes to compute.
  const Policy policy = this->policy(40 * kGiB);
  ASSERT_EQ(policy.weights.disk, 0);
  const RunReport report = run(policy, {1e12, 3e10, 1e9, 1e9});
  const double compute_s = lane(report, LaneKind::kCompute).stats.busy_s, read_s = lane(report, LaneKind::kDiskRead).stats.busy_s;
  EXPECT_GT(read_s, 14);
  EXPECT_LT(report.elapsed_s, compute_s + 0.75 * read_s);
  HardwareProfile hardware = HardwareProfile::uniform(1e12, 30e9, 1e9, 1e9);
  const Precision precision = Precision::of(*model_, DType::kBF16, DType::kBF16);
  ListSource source(requests_);
  const RunReport of_profile = simulate(*model_, policy, precision, hardware, source);
  const Prediction predicted = predict(*model_, hardware, precision, policy, plain_workload(requests_));
  EXPECT_NEAR(predicted.time_s / of_profile.elapsed_s, 1, 0.02);
  EXPECT_NEAR(predicted.loaded_bytes, lane(of_profile, LaneKind::kDiskRead).stats.bytes, 1);
  // What loading adds is what nothing overlaps; with weights in place the rest is left.
  ASSERT_TRUE(predicted.load_time_s);
  EXPECT_GT(*predicted.load_time_s, 0);
  EXPECT_LT(*predicted.load_time_s, 0.75 * read_s);
  ListSource again(requests_);
  const SimulatedRank rank{model_.get(), policy, {}, &hardware, precision, true};
  const RunReport in_place = simulate_pipeline({&rank, 1}, LinkSpeed{}, DType::kBF16, again).whole;
  EXPECT_EQ(lane(in_place, LaneKind::kDiskRead).stats.busy_s, 0);
  EXPECT_NEAR((predicted.time_s - *predicted.load_time_s) / in_place.elapsed_s, 1, 0.02);
}

TEST_F(Shape8B, FasterLanesNeverTakeLonger) {
  const Policy policy = this->policy(8 * kGiB);
  double last = 1e300;
  for (double disk : {0.5e9, 1e9, 2e9, 4e9, 8e9}) {
    const RunReport report = run(policy, {4e11, 3e10, disk, disk});
    EXPECT_LE(report.elapsed_s, last * (1 + 1e-9));
    last = report.elapsed_s;
  }
}

/// GPUs with the job that FlexGen published: 512 tokens in, 32 out.
class OnGpu : public testing::Test {
 protected:
  static constexpr double kGB = 1e9;
  /// The paper's machine: a T4 of 16 GB with 208 GB of RAM and an SSD.
  static MachineSpeeds t4() {
    MachineSpeeds speeds{1e12, 40 * kGB, 2 * kGB, 1 * kGB};
    speeds.gpu_flops_per_s = 21.2e12;
    speeds.gpu_bytes_per_s = 250 * kGB;
    speeds.h2d_bytes_per_s = speeds.d2h_bytes_per_s = 12.89 * kGB;
    return speeds;
  }
  static MachineSpeeds h200() {
    MachineSpeeds speeds{8e12, 300 * kGB, 6 * kGB, 3 * kGB};
    speeds.gpu_flops_per_s = 600e12;
    speeds.gpu_bytes_per_s = 4300 * kGB;
    speeds.h2d_bytes_per_s = speeds.d2h_bytes_per_s = 52 * kGB;
    return speeds;
  }
  static std::unique_ptr<Model> shape(const char* name) { return Model::of_shape(parse_config(*shape_config_json(name), "", "shape"), DType::kF16); }
  static double busiest_s(const RunReport& report) {
    double busiest = 0;
    for (const LaneReport& lane : report.lanes) busiest = std::max(busiest, lane.stats.busy_s);
    return busiest;
  }
  std::vector<Request> requests_ = requests_of(384, {512, 512}, {32, 32}, 50272);
};

TEST_F(OnGpu, T4RunsAModelLargerThanItsMemory) {
  const auto model = shape("opt-30b");
  const Budgets budgets{200 * kGiB, 0, 15 * kGiB};
  const Policy policy = choose_policy(*model, plain_workload(requests_), budgets, {}, DType::kBF16);
  EXPECT_EQ(policy.compute_tier, Tier::kGpu);
  EXPECT_EQ(policy.weights.disk, 0);
  const MemoryPlan plan = memory_plan(*model, policy, plain_workload(requests_), DType::kBF16);
  EXPECT_LE(plan.bytes(Tier::kGpu), budgets.gpu_bytes);
  EXPECT_LE(plan.bytes(Tier::kCpu), budgets.cpu_bytes);
  ListSource source(requests_);
  const RunReport report = simulate(*model, policy, DType::kBF16, t4(), source);
  EXPECT_EQ(report.sequences, 384);
  EXPECT_GE(report.elapsed_s, busiest_s(report));
  EXPECT_LT(report.elapsed_s, 1.35 * busiest_s(report));
  // FlexGen's published figure on this machine is 7.32 tokens/s.
  EXPECT_GT(static_cast<double>(report.generated_tokens) / report.elapsed_s, 7.32);
}

TEST_F(OnGpu, H200KeepsASmallModelWhole) {
  const auto model = shape("opt-6.7b");
  const Policy policy = choose_policy(*model, plain_workload(requests_), {200 * kGiB, 0, 130 * kGiB}, {}, DType::kBF16);
  EXPECT_EQ(policy.weights, (Fractions{1, 0, 0}));
  EXPECT_EQ(policy.attention_tier, Tier::kGpu);
  ListSource source(requests_);
  const RunReport report = simulate(*model, policy, DType::kBF16, h200(), source);
  // The weights come from the disk once.
  EXPECT_LT(report.elapsed_s, 1.1 * (lane(report, LaneKind::kCompute).stats.busy_s + lane(report, LaneKind::kDiskRead).stats.busy_s));
}

TEST_F(OnGpu, LogitsOfGreedyTokensStayThere) {
  const auto model = shape("opt-6.7b");
  const Policy policy = choose_policy(*model, plain_workload(requests_), {200 * kGiB, 0, 130 * kGiB}, {}, DType::kBF16);
  auto down_bytes = [&](int64_t top_logprobs) {
    for (Request& request : requests_) request.params.top_logprobs = top_logprobs;
    ListSource source(requests_);
    return lane(simulate(*model, policy, DType::kBF16, h200(), source), LaneKind::kD2h).stats.bytes;
  };
  int64_t head_chunks = 0;
  for (const LayerSpec& layer : model->layers()) head_chunks += layer.kind == LayerKind::kHead;
  const double tokens = 384 * 32, greedy = down_bytes(-1);
  EXPECT_EQ(down_bytes(0) - greedy, tokens * 4.0 * static_cast<double>(model->config().vocab_size));
  EXPECT_EQ(greedy, tokens * 8.0 * static_cast<double>(head_chunks));  // and nothing else: the cache and the activations are in the GPU
}

TEST_F(OnGpu, AttentionBesideTheGpuSparesTheBus) {
  // The cache in RAM: over the bus for every token, or q, k, v (more than the cache takes, while prompts are read) and the results alone.
  const auto model = shape("opt-6.7b");
  Policy policy;
  policy.micro_batch_size = 32;
  policy.num_micro_batches = 6;
  policy.max_rows = 512;
  policy.max_logit_rows = 32;
  policy.weights = {0, 1, 0};
  policy.kv_cache = {0, 1, 0};
  policy.activations = {1, 0, 0};
  policy.pages_per_micro_batch = 32 * ((544 + 15) / 16);
  policy.compute_tier = policy.attention_tier = Tier::kGpu;
  auto run = [&] {
    ListSource source(requests_);
    return simulate(*model, policy, DType::kF16, t4(), source);
  };
  const RunReport on_gpu = run();
  policy.attention_tier = Tier::kCpu;
  const RunReport beside = run();
  EXPECT_LT(lane(beside, LaneKind::kH2d).stats.bytes, 0.8 * lane(on_gpu, LaneKind::kH2d).stats.bytes);
  // The GPU has another micro-batch's work while the processor attends.
  EXPECT_LT(beside.elapsed_s, 0.9 * (lane(beside, LaneKind::kCompute).stats.busy_s + lane(beside, LaneKind::kCpu).stats.busy_s));
  EXPECT_LT(beside.elapsed_s, on_gpu.elapsed_s);
  // One buffer: first one, then the other.
  policy.buffers = 1;
  EXPECT_GT(run().elapsed_s, 1.1 * beside.elapsed_s);
}

TEST_F(OnGpu, WhatThePlannerChoosesTakesWhatItPredicts) {
  const auto model = shape("opt-6.7b");
  HardwareProfile hardware = HardwareProfile::uniform(1e12, 40 * kGB, 2 * kGB, 1 * kGB);
  hardware.gpu = gpu_of(21.2e12, 250 * kGB);
  hardware.h2d_bytes_per_s = hardware.d2h_bytes_per_s = 12.89 * kGB;
  const Precision precision = Precision::of(*model, DType::kBF16, DType::kBF16);
  int beside = 0;
  for (auto [prompt, generated, tier] : {std::tuple(512, 32, Tier::kGpu), std::tuple(512, 32, Tier::kCpu), std::tuple(256, 256, Tier::kCpu)}) {
    const std::vector<Request> requests = requests_of(256, {prompt, prompt}, {generated, generated}, 50272);
    PolicyRequest request;
    if (generated < 200) request.attention_tier = tier;  // else it is the planner's own choice
    const Plan plan = make_plan({*model, plain_workload(requests), {200 * kGiB, 0, 15 * kGiB}, request, DType::kBF16, DType::kBF16, hardware});
    EXPECT_EQ(plan.policy.attention_tier, tier) << prompt << " " << generated;
    beside += plan.policy.attention_beside();
    ListSource source(requests);
    const RunReport report = simulate(*model, plan.policy, precision, hardware, source);
    EXPECT_NEAR(plan.prediction.time_s / report.elapsed_s, 1, 0.1) << prompt << " " << generated;
  }
  EXPECT_EQ(beside, 2);
}

TEST_F(OnGpu, FasterBusesNeverTakeLonger) {
  const auto model = shape("opt-30b");
  Policy policy = choose_policy(*model, plain_workload(requests_), {200 * kGiB, 0, 15 * kGiB}, {}, DType::kBF16);
  double last = 1e300;
  for (double bus : {4e9, 8e9, 16e9, 32e9}) {
    MachineSpeeds speeds = t4();
    speeds.h2d_bytes_per_s = speeds.d2h_bytes_per_s = bus;
    ListSource source(requests_);
    const RunReport report = simulate(*model, policy, DType::kBF16, speeds, source);
    EXPECT_LE(report.elapsed_s, last * (1 + 1e-9));
    last = report.elapsed_s;
  }
}

TEST_F(OnGpu, RefusesABudgetThatIsTooSmallAndNamesOneThatIsNot) {
  const auto model = shape("opt-6.7b");
  const Workload workload = plain_workload(requests_);
  for (int64_t cpu_bytes : {16 * kGiB, 64 * kGiB}) {
    std::string message;
    try {
      choose_policy(*model, workload, {cpu_bytes, 0, 64 * kMiB}, {}, DType::kBF16);
      FAIL() << "64 MiB of GPU memory cannot do";
    } catch (const Error& error) {
      message = error.what();
    }
    ASSERT_THAT(message, testing::HasSubstr("--gpu-memory"));
    const size_t open = message.rfind('(');
    ASSERT_NE(open, std::string::npos) << message;
    const int64_t smallest = std::stoll(message.substr(open + 1));
    EXPECT_NO_THROW(choose_policy(*model, workload, {cpu_bytes, 0, smallest}, {}, DType::kBF16));
    EXPECT_THROW(choose_policy(*model, workload, {cpu_bytes, 0, smallest * 98 / 100}, {}, DType::kBF16), Error);
  }
}

TEST(FirstRule, PromptsRideWithGenerationEvenly) {
  // A small block: steps full of prompts would compute while the disk waits, and the steps between them would wait for the disk.
  const auto model = Model::of_shape(parse_config(*shape_config_json("opt-6.7b"), "", "shape"), DType::kBF16);
  const std::vector<Request> requests = requests_of(256, {64, 192}, {32, 32}, 50272);
  Policy policy = choose_policy(*model, plain_workload(requests), {6 * kGiB, 0}, {}, DType::kBF16);
  const MachineSpeeds speeds{4.1e11, 3.8e10, 2.3e9, 1e9};
  auto time_s = [&] {
    ListSource source(requests);
    return simulate(*model, policy, DType::kBF16, speeds, source).elapsed_s;
  };
  const double chosen_s = time_s();
  policy.max_rows = 512;
  EXPECT_LT(chosen_s, 0.85 * time_s());
}

/// A pipeline of equal ranks, each with its share of the blocks in RAM.
class SimulatedPipeline : public testing::Test {
 protected:
  PipelineReport run(int num_ranks, int64_t micro_batch_size, int64_t num_micro_batches, int64_t num_groups, const LinkSpeed& link = {}) {
    const ModelConfig config = parse_config(*shape_config_json("llama-3.1-8b"), "", "shape");
    std::vector<std::unique_ptr<Model>> models;
    std::vector<SimulatedRank> ranks;
    // The head is worth two blocks and more: equal shares of the blocks would leave three ranks waiting for the last.
    const std::vector<StageResources> equal(static_cast<size_t>(num_ranks), StageResources{kGiB << 10, 1e12, 1e9});
    int64_t first = 0;
    for (int64_t blocks : split_blocks(*Model::of_shape(config, DType::kBF16), equal)) {
      models.push_back(Model::of_shape(config, DType::kBF16));
      if (num_ranks > 1) models.back()->keep_blocks(first, blocks);
      first += blocks;
      Policy policy;
      policy.weights = policy.kv_cache = policy.activations = {0, 1, 0};
      policy.micro_batch_size = micro_batch_size;
      policy.num_micro_batches = num_micro_batches;
      policy.num_groups = num_groups;
      policy.max_rows = policy.max_logit_rows = 256;
      policy.pages_per_micro_batch = 16 * micro_batch_size;
      ranks.push_back({models.back().get(), policy, {}});
    }
    ListSource source(requests_);
    return simulate_pipeline(ranks, link, DType::kBF16, source);
  }
  std::vector<Request> requests_ = requests_of(96, {64, 192}, {32, 32}, 128256);
};

TEST_F(SimulatedPipeline, DoesTheWorkOfOneProcess) {
  const PipelineReport one = run(1, 8, 6, 1), three = run(3, 8, 6, 3), again = run(3, 8, 6, 3);
  EXPECT_EQ(three.whole.sequences, one.whole.sequences);
  EXPECT_EQ(three.whole.generated_tokens, one.whole.generated_tokens);
  double flops = 0;
  for (const RunReport& rank : three.ranks) {
    EXPECT_EQ(rank.work.rows, one.whole.work.rows);
    flops += rank.work.linear_flops;
  }
  EXPECT_NEAR(flops, one.whole.work.linear_flops, 1e-9 * flops);
  EXPECT_LT(three.whole.elapsed_s, 0.45 * one.whole.elapsed_s);  // three times the processors
  // Threads change nothing.
  EXPECT_EQ(again.whole.elapsed_s, three.whole.elapsed_s);
}

TEST_F(SimulatedPipeline, GroupsKeepTheRanksBusy) {
  requests_ = requests_of(384, {64, 192}, {32, 32}, 128256);
  const double none = run(4, 12, 8, 1).utilisation(), as_many = run(4, 12, 8, 4).utilisation(), twice = run(4, 12, 8, 8).utilisation();
  // Blocks and head cannot be shared out quite evenly: nine tenths are the most there is.
  EXPECT_LT(none, 0.4);
  EXPECT_GT(as_many, 0.75);
  EXPECT_GT(twice, 0.83);
  EXPECT_GT(twice, as_many);
}

TEST_F(SimulatedPipeline, SlowLinksCost) {
  const double fast = run(2, 8, 4, 2).whole.elapsed_s;
  const double slow = run(2, 8, 4, 2, {12.5e6, 10e-3}).whole.elapsed_s;  // 100 Mbit/s, 10 ms
  const double slowest = run(2, 8, 4, 2, {12.5e6, 10}).whole.elapsed_s;  // each step waits for its way there and back
  EXPECT_LT(fast, slow);
  EXPECT_GT(slowest, slow + 32 * 10);
}

TEST_F(SimulatedPipeline, AProfileIsThatOfOneProcess) {
  const auto model = Model::of_shape(parse_config(*shape_config_json("llama-3.1-8b"), "", "shape"), DType::kBF16);
  const Policy policy = choose_policy(*model, plain_workload(requests_), {6 * kGiB, 0}, {}, DType::kBF16);
  EXPECT_GT(policy.weights.disk, 0);
  const HardwareProfile hardware = HardwareProfile::generic();
  const Precision precision = Precision::of(*model, DType::kBF16, DType::kBF16);
  ListSource source(requests_), again(requests_);
  const RunReport one = simulate(*model, policy, precision, hardware, source);
  const SimulatedRank rank{model.get(), policy, {}, &hardware, precision};
  const RunReport pipeline = simulate_pipeline({&rank, 1}, LinkSpeed{}, DType::kBF16, again).whole;
  EXPECT_EQ(pipeline.elapsed_s, one.elapsed_s);
  ASSERT_EQ(pipeline.lanes.size(), one.lanes.size());
  for (size_t lane = 0; lane < one.lanes.size(); ++lane) EXPECT_EQ(pipeline.lanes[lane].stats.busy_s, one.lanes[lane].stats.busy_s) << one.lanes[lane].name();
}

TEST_F(SimulatedPipeline, LargeMessagesAskFirst) {
  const double plain = run(2, 8, 4, 2, {12.5e6, 10e-3}).whole.elapsed_s, asking = run(2, 8, 4, 2, {12.5e6, 10e-3, 65536, 20e-3}).whole.elapsed_s;
  EXPECT_GT(asking, plain);
  EXPECT_EQ(run(2, 8, 4, 2, {12.5e6, 10e-3, 1e9, 20e-3}).whole.elapsed_s, plain);
}

}  // namespace
}  // namespace flexgen::simulate_test
