// What policies have in common is made once, and says the same as what is made for each.

#include "plan/weight_layouts.h"

#include <gtest/gtest.h>

#include <random>

#include "plan/cost_model.h"
#include "plan/expert_loading.h"
#include "plan/policy_sizes.h"
#include "schedule/expert_hits.h"

namespace flexgen::weight_layouts_test {
namespace {

std::unique_ptr<Model> mixture() {
  return Model::of_shape(
      parse_config(
          R"({"model_type": "qwen3_moe", "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 512, "moe_intermediate_size": 128, "head_dim": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 14, "num_experts_per_tok": 2, "mlp_only_layers": [1], "vocab_size": 4000,
    "max_position_embeddings": 256})",
          "", "config.json"),
      DType::kBF16);
}

TEST(AlikeLayers, KindsOfAMixture) {
  const auto model = mixture();
  const AlikeLayers alike(*model);
  std::vector<size_t> outer;
  for (const AlikeLayers::Run& run : alike.outer()) outer.insert(outer.end(), static_cast<size_t>(run.count), run.kind);
  size_t next = 0;
  for (size_t i = 0; i < model->layers().size(); ++i) {
    const LayerSpec &layer = model->layers()[i], &one = model->layers()[alike.first(alike.kind_of(i))];
    EXPECT_EQ(layer.kind, one.kind);
    EXPECT_EQ(layer.num_experts, one.num_experts);
    EXPECT_EQ(layer.linear_flops_per_row, one.linear_flops_per_row);
    EXPECT_EQ(layer.vocab_count, one.vocab_count);
    EXPECT_LE(alike.first(alike.kind_of(i)), i);
    if (layer.kind == LayerKind::kExperts) {
      EXPECT_EQ(hit_share_of(alike.log_miss(i), 3), unit_hit_share(*model, layer, 3));
    }
    if (layer.cache >= 0) continue;
    ASSERT_LT(next, outer.size());
    EXPECT_EQ(outer[next++], alike.kind_of(i));
  }
  EXPECT_EQ(next, outer.size());
  EXPECT_EQ(alike.kind_of(0), 0u);
  EXPECT_NE(alike.kind_of(1), alike.kind_of(0));
  // embed, sparse and dense blocks, units of two sizes at the most, chunks of the head of two.
  EXPECT_LE(alike.num_kinds(), 7u);
  EXPECT_LT(2 * alike.num_kinds(), model->layers().size());
}

/// Asked for again and again, in any order.
TEST(WeightLayouts, SayWhatIsMadeForEachPolicy) {
  std::mt19937 random(5);
  for (bool counted : {false, true}) {
    const auto model = mixture();
    if (counted) {
      std::vector<int64_t> counts;
      for (int64_t i = 0; i < 14; ++i) counts.push_back(1 + i * i);
      model->set_expert_chances(ExpertChances::of_counts(model->config(), {counts, {}, counts, counts}));
    }
    HardwareProfile hardware = HardwareProfile::uniform(4e10, 2e10, 3e8, 1e8);
    hardware.gpu = gpu_of(1e12, 1e11);
    const Precision precision = Precision::of(*model, DType::kBF16, DType::kBF16);
    Workload workload;
    for (int64_t i = 0; i < 12; ++i) workload.add(5 + 3 * i, 2 + i, false, false);
    WeightLayouts layouts(*model);
    for (int i = 0; i < 60; ++i) {
      Policy policy = policy_of_sizes(*model, workload, DType::kBF16, 1 + static_cast<int64_t>(random() % 6), 1 + static_cast<int64_t>(random() % 3),
                                      1 + static_cast<int>(random() % 3), 16 << random() % 8);
      if (random() % 2) policy.compute_tier = Tier::kGpu;
      policy.attention_tier = random() % 2 ? policy.compute_tier : Tier::kCpu;
      const double resident = static_cast<double>(random() % 4) / 4, other = 1 - resident;
      policy.weights = policy.on_gpu() ? Fractions{resident, other / 2, other / 2} : Fractions{0, resident, other};
      policy.kv_cache = policy.attention_tier == Tier::kGpu ? Fractions{0.5, 0.5, 0} : Fractions{0, 1, 0};
      policy.hottest_first = counted && random() % 2;
      EXPECT_EQ(layouts.sums(policy), WeightSums::of(*model, policy)) << i;
      EXPECT_EQ(static_cast<const WeightSums&>(*layouts.layout(policy)), WeightSums::of(*model, policy)) << i;
      policy.max_choosing_rows = choosing_rows(layouts, hardware, precision, policy);
      EXPECT_EQ(policy.max_choosing_rows, choosing_rows(*model, hardware, precision, policy)) << i;
      const SlotWalk walk = walk_slots(*model, policy, DType::kBF16, workload);
      const Prediction a = predict(layouts, hardware, precision, policy, workload, walk), b = predict(*model, hardware, precision, policy, workload, walk);
      EXPECT_EQ(a.time_s, b.time_s) << i;
      EXPECT_EQ(a.busy.seconds, b.busy.seconds) << i;
      EXPECT_EQ(a.loaded_bytes, b.loaded_bytes) << i;
    }
  }
}

}  // namespace
}  // namespace flexgen::weight_layouts_test
