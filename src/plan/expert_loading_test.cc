#include "plan/expert_loading.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/units.h"
#include "plan/planner.h"
#include "plan/policy_sizes.h"

namespace flexgen::expert_loading_test {
namespace {

std::unique_ptr<Model> mixture(int64_t experts_per_row = 4) {
  return Model::of_shape(
      parse_config(
          fmt::format(
              R"({{"model_type": "qwen3_moe", "hidden_size": 1024, "num_hidden_layers": 6, "intermediate_size": 3072, "moe_intermediate_size": 512, "head_dim": 128,
    "num_attention_heads": 8, "num_key_value_heads": 2, "num_experts": 64, "num_experts_per_tok": {}, "mlp_only_layers": [0], "vocab_size": 8000, "max_position_embeddings": 2048}})",
              experts_per_row),
          "", "config.json"),
      DType::kBF16);
}

Workload job_of(int64_t sequences, int64_t prompt, int64_t generated) {
  Workload workload;
  for (int64_t i = 0; i < sequences; ++i) workload.add(prompt, generated, false, false);
  return workload;
}

Policy policy_on_disk(const Model& model, int64_t size) {
  Policy policy = policy_of_sizes(model, job_of(size, 1, 40), DType::kBF16, size, 1, 3, 256);
  policy.weights = {0, 0, 1};
  policy.kv_cache = policy.activations = {0, 1, 0};
  return policy;
}

/// With up to as many rows as are given a job takes less time than with all experts, and with twice as many no less.
TEST(ChoosingRows, AreWhereTheCostModelHasThem) {
  for (const auto& [experts_per_row, disk_bytes_per_s] : {std::pair(4, 1e9), std::pair(4, 3e8), std::pair(6, 1e9)}) {
    const auto model = mixture(experts_per_row);
    const HardwareProfile hardware = HardwareProfile::uniform(4e11, 2e10, disk_bytes_per_s, disk_bytes_per_s);
    const Precision precision = Precision::of(*model, DType::kBF16, DType::kBF16);
    const int64_t most = choosing_rows(*model, hardware, precision, policy_on_disk(*model, 64));
    ASSERT_GT(most, 1);
    ASSERT_LT(most, 256);
    auto time_s = [&](int64_t sequences, int64_t max_choosing_rows) {
      Policy policy = policy_on_disk(*model, sequences);
      policy.max_choosing_rows = max_choosing_rows;
      policy.pages_per_micro_batch = 41 * sequences;  // all at once: there is no smaller second block
      return predict(*model, hardware, precision, policy, job_of(sequences, 1, 40)).time_s;
    };
    for (int64_t sequences : {int64_t{1}, (most + 1) / 2}) EXPECT_LT(time_s(sequences, most), time_s(sequences, 0)) << sequences;
    EXPECT_LT(time_s(2 * most, 0), 1.02 * time_s(2 * most, 4 * most)) << most;
    EXPECT_EQ(time_s(2 * most, most), time_s(2 * most, 0)) << "larger steps load all";
    EXPECT_LT(choosing_rows(*model, HardwareProfile::uniform(4e11, 2e10, 4 * disk_bytes_per_s, disk_bytes_per_s), precision, policy_on_disk(*model, 64)), most)
        << "with a faster disk";
  }
}

/// One sequence is what its experts take to read, and a step of many as if there were nothing to choose.
TEST(ChoosingRows, ThePlanTakesWhatIsFaster) {
  const auto model = mixture();
  const HardwareProfile hardware = HardwareProfile::uniform(4e11, 2e10, 1e9, 1e9);
  auto plan = [&](int64_t sequences, std::optional<int64_t> fixed) {
    const Workload workload = job_of(sequences, 32, 32);
    PolicyRequest request;
    request.max_choosing_rows = fixed;
    return make_plan({*model, workload, {192 * kMiB, 0}, request, DType::kBF16, DType::kBF16, hardware, 20});
  };
  const Plan alone = plan(1, {}), alone_all = plan(1, 0);
  EXPECT_GT(alone.policy.max_choosing_rows, 0);
  EXPECT_EQ(alone_all.policy.max_choosing_rows, 0);
  EXPECT_LT(alone.prediction.time_s, 0.4 * alone_all.prediction.time_s);
  EXPECT_LT(alone.prediction.disk_read_bytes, 0.3 * alone_all.prediction.disk_read_bytes);
  const Plan many = plan(400, {}), many_all = plan(400, 0), many_chosen = plan(400, 1 << 20);
  EXPECT_LE(many.prediction.time_s, 1.001 * many_all.prediction.time_s);
  EXPECT_LE(many.prediction.time_s, 1.001 * many_chosen.prediction.time_s);
  EXPECT_EQ(many_chosen.policy.max_choosing_rows, 1 << 20);
}

ExpertCounts counts_of(const Model& model, double exponent) {
  const auto chances = ExpertChances::zipf(model.config(), exponent);
  ExpertCounts counts(static_cast<size_t>(model.config().num_layers));
  for (size_t block = 0; block < counts.size(); ++block)
    for (double chance : chances->of_block(static_cast<int64_t>(block))) counts[block].push_back(static_cast<int64_t>(1e6 * chance));
  return counts;
}

/// Where choices spread unevenly fewer experts are hit, so that more rows may choose; and where it is known which, small steps find most of them in memory.
TEST(ChoosingRows, GoByHowOftenExpertsAreChosen) {
  const HardwareProfile hardware = HardwareProfile::uniform(4e11, 2e10, 1e9, 1e9);
  const auto alike = mixture(), skewed = mixture(), counted = mixture();
  skewed->set_expert_chances(ExpertChances::zipf(skewed->config(), 1));
  counted->set_expert_chances(ExpertChances::of_counts(counted->config(), counts_of(*counted, 1)));
  const Precision precision = Precision::of(*alike, DType::kBF16, DType::kBF16);
  EXPECT_GT(choosing_rows(*skewed, hardware, precision, policy_on_disk(*skewed, 64)), choosing_rows(*alike, hardware, precision, policy_on_disk(*alike, 64)));
  const Workload workload = job_of(1, 32, 32);
  auto plan = [&](const Model& model) { return make_plan({model, workload, {192 * kMiB, 0}, {}, DType::kBF16, DType::kBF16, hardware, 20}); };
  const Plan even = plan(*skewed), hottest = plan(*counted);
  EXPECT_FALSE(even.policy.hottest_first);
  EXPECT_TRUE(hottest.policy.hottest_first);
  EXPECT_LT(hottest.prediction.disk_read_bytes, 0.9 * even.prediction.disk_read_bytes);
  EXPECT_LT(hottest.prediction.time_s, even.prediction.time_s);
  EXPECT_LE(memory_plan(*counted, hottest.policy, workload, DType::kBF16).bytes(Tier::kCpu), 192 * kMiB);
  EXPECT_THAT(experts_text(*counted, hottest.policy), testing::EndsWith("; in memory are those that were chosen most often"));
  EXPECT_TRUE(choose_policy(*counted, workload, {192 * kMiB, 0}, {}, DType::kBF16).hottest_first);
  EXPECT_FALSE(choose_policy(*skewed, workload, {192 * kMiB, 0}, {}, DType::kBF16).hottest_first);
}

TEST(ChoosingRows, OfADenseModelAreNone) {
  const auto model = Model::of_shape(parse_config(*shape_config_json("opt-125m"), "", "opt-125m"), DType::kBF16);
  Policy policy = policy_on_disk(*model, 4);
  EXPECT_EQ(choosing_rows(*model, HardwareProfile::generic(), Precision::of(*model, DType::kF32, DType::kBF16), policy), 0);
  EXPECT_EQ(choosing_rows_by_rule(*model), 0);
  EXPECT_EQ(experts_text(*model, policy), "");
}

TEST(ChoosingRows, AreSaid) {
  const auto model = mixture();
  EXPECT_EQ(choosing_rows_by_rule(*model), 10);  // (1 - 4/64)^10 is 0.52
  Policy policy = policy_on_disk(*model, 64);
  EXPECT_EQ(experts_text(*model, policy), "each step loads all experts, ahead of their use");
  policy.max_choosing_rows = 10;
  EXPECT_EQ(
      experts_text(*model, policy),
      "steps of up to 10 tokens load the experts that these choose, once that is known (of 10 tokens 48% of them are expected to be chosen); larger ones load all, ahead of their use");
  policy.max_choosing_rows = 1;
  EXPECT_THAT(experts_text(*model, policy),
              testing::HasSubstr("steps of up to 1 token load the experts that these choose, once that is known (of 1 token 6% "));
  policy.max_choosing_rows = 1 << 20;
  EXPECT_THAT(experts_text(*model, policy), testing::StartsWith("each step loads the experts that its tokens choose, once that is known (of 256 tokens 100%"));
}

}  // namespace
}  // namespace flexgen::expert_loading_test
