// Layers that keep something which no family keeps yet: their declaration is all that memory plan, cost model, stores and batcher need. (What computes with it is the layer's own, and missing here.)

#include <gtest/gtest.h>

#include <fmt/format.h>

#include "generation/list_source.h"
#include "pipeline/simulate.h"
#include "plan/cost_model.h"
#include "plan/memory_plan.h"
#include "plan/policy_sizes.h"

namespace flexgen::pretended_state_test {
namespace {

constexpr int64_t kFixedBytes = 300000, kLatent = 160;

/// Six blocks: two with a fixed state a sequence, two with a latent a position, two with keys and values.
std::unique_ptr<Model> pretended_model() {
  auto model = Model::of_shape(
      parse_config(R"({"model_type": "llama", "hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
    "intermediate_size": 1408, "vocab_size": 2000, "max_position_embeddings": 2048, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
    "eos_token_id": 5, "bos_token_id": 1})",
                   "", "pretended"),
      DType::kBF16);
  for (int64_t block : {0, 3}) model->declare_state(block, {.kind = StateSpec::Kind::kFixed, .fixed_bytes = kFixedBytes});
  for (int64_t block : {1, 4}) model->declare_state(block, {.heads = 1, .head_size = kLatent, .rows = 1});
  return model;
}

struct Job {
  std::vector<Request> requests;
  Workload workload;
};
Job make_job() {
  Job job;
  for (int64_t i = 0; i < 30; ++i) {
    Request& request = job.requests.emplace_back();
    request.prompt.resize(static_cast<size_t>(20 + 13 * i % 200));
    request.params.max_tokens = 5 + 7 * i % 40;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    job.workload.add(std::ssize(request.prompt), request.params.max_tokens, false, false);
  }
  return job;
}

TEST(PretendedState, MemoryIsPlannedByTheDeclaration) {
  const auto model = pretended_model();
  ASSERT_EQ(model->states().size(), 3U);
  const Job job = make_job();
  Policy policy = policy_of_sizes(*model, job.workload, DType::kBF16, 5, 2, 2, 64);
  policy.prefix_pages = 3;  // which a fixed state cannot share
  const CacheLayout layout(*model, policy, DType::kBF16);
  const int64_t tokens = layout.tokens_per_page, pages = policy.pages_per_micro_batch;
  EXPECT_EQ(layout.prefix_pages(), 0);
  const int64_t fixed = 2 * 5 * round_up(kFixedBytes, kDirectAlignment), latent = 2 * pages * round_up(tokens * kLatent * 2, kDirectAlignment),
                keys_and_values = 2 * pages * round_up(2 * 4 * tokens * 64 * 2, kDirectAlignment);
  for (const Fractions& cache : {Fractions{0, 1, 0}, Fractions{0, 0, 1}}) {
    policy.kv_cache = cache;
    int64_t planned = 0;
    for (const MemoryItem& item : memory_plan(*model, policy, job.workload, DType::kBF16).items)
      if (item.name == "KV cache" || item.name == "KV cache spill") planned += item.bytes;
    EXPECT_EQ(planned, 2 * (fixed + latent + keys_and_values));  // two micro-batches
  }
  // A visit's buffer holds the most that one layer's visit may want.
  EXPECT_EQ(CacheLayout(*model, policy, DType::kBF16).buffer_bytes, std::max({fixed, latent, keys_and_values}) / 2);
}

TEST(PretendedState, SimulatedRunsGoThroughAndThePlanAgrees) {
  const auto model = pretended_model();
  const Job job = make_job();
  const Precision precision = Precision::of(*model, DType::kF32, DType::kBF16);
  HardwareProfile hardware = HardwareProfile::generic();
  hardware.disk.read_bytes_per_s = hardware.disk.write_bytes_per_s = 2e8;  // so that the cache is what takes long
  for (double in_ram : {1.0, 0.5, 0.0})
    for (int buffers : {1, 2, 3}) {
      Policy policy = policy_of_sizes(*model, job.workload, DType::kBF16, 5, 2, buffers, 64);
      policy.kv_cache = {0, in_ram, 1 - in_ram};
      ListSource source(job.requests);
      const RunReport simulated = simulate(*model, policy, precision, hardware, source);
      EXPECT_EQ(simulated.sequences, 30);
      const Prediction predicted = predict(*model, hardware, precision, policy, job.workload);
      double written = 0;
      for (const LaneReport& lane : simulated.lanes)
        if (lane.kind == LaneKind::kDiskWrite) written += lane.stats.bytes;
      const std::string text = fmt::format("{} in RAM, {} buffers", in_ram, buffers);
      EXPECT_NEAR(predicted.time_s / simulated.elapsed_s, 1, 0.1) << text;
      if (in_ram < 1) {
        EXPECT_NEAR(predicted.disk_write_bytes / written, 1, 0.1) << text;
      }
    }
}

/// Each slot has one page of a fixed state, of which every step reads and writes all.
TEST(PretendedState, AFixedStateMovesWhole) {
  const auto model = pretended_model();
  Workload workload;
  workload.add(10, 3, false, false);
  Policy policy = policy_of_sizes(*model, workload, DType::kBF16, 1, 1, 2, 16);
  policy.kv_cache = {0, 0, 1};
  Request request;
  request.prompt.resize(10);
  request.params.max_tokens = 3;
  request.params.temperature = 0;
  request.params.ignore_eos = true;
  ListSource source({request});
  const RunReport simulated = simulate(*model, policy, Precision::of(*model, DType::kF32, DType::kBF16), HardwareProfile::generic(), source);
  const int64_t tokens = CacheLayout::page_tokens(*model, DType::kBF16);
  const auto padded = [](int64_t bytes) { return static_cast<double>(round_up(bytes, kDirectAlignment)); };
  const double a_step = 2 * (padded(kFixedBytes) + padded(tokens * kLatent * 2) + padded(2 * 4 * tokens * 64 * 2));
  double written = 0;
  for (const LaneReport& lane : simulated.lanes)
    if (lane.kind == LaneKind::kDiskWrite) written += lane.stats.bytes;
  EXPECT_EQ(written, 3 * a_step);  // the prompt and two tokens; all positions are in the first page
}

/// Which no family may declare while nothing computes with it.
TEST(PretendedState, IsNamedInMessages) {
  EXPECT_EQ((StateSpec{.kind = StateSpec::Kind::kFixed, .fixed_bytes = 2048}).to_string(), "2.00 KiB a sequence");
  EXPECT_EQ((StateSpec{.heads = 1, .head_size = 576, .rows = 1}).to_string(), "a row a position of 1 heads of 576");
}

}  // namespace
}  // namespace flexgen::pretended_state_test
