// Which weights lie where.

#include <gtest/gtest.h>

#include <tuple>

#include "model/test_code_checkpoints.h"
#include "schedule/weight_layout.h"

namespace flexgen::weight_layout_test {
namespace {

struct Bytes {
  double resident = 0, streamed = 0;
  double share() const { return resident / (resident + streamed); }
};

/// Of experts, and of all other weights that are placed.
std::pair<Bytes, Bytes> bytes_of(const Model& model, const Fractions& weights) {
  Policy policy;
  policy.weights = weights;
  const WeightLayout layout(model, policy);
  Bytes experts, others;
  for (size_t i = 0; i < layout.layers.size(); ++i)
    for (size_t u = 0; u < layout.layers[i].uses.size(); ++u) {
      const WeightUse& use = model.layers()[i].uses[u];
      const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
      if (use.lookup || weight.always_resident) continue;
      Bytes& of = model.layers()[i].kind == LayerKind::kExperts ? experts : others;
      of.resident += static_cast<double>(layout.layers[i].uses[u].resident_rows * weight.row_bytes());
      of.streamed += static_cast<double>(layout.layers[i].uses[u].streamed_rows * weight.row_bytes());
    }
  return {experts, others};
}

/// A small step reads of experts those that are chosen, and of other weights all: these are in memory first.
TEST(WeightLayout, ExpertsTakeWhatOtherWeightsLeave) {
  const auto model = Model::of_shape(
      parse_config(R"({"model_type": "olmoe", "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 256, "num_attention_heads": 4, "num_experts": 8,
    "num_experts_per_tok": 2, "vocab_size": 1024, "max_position_embeddings": 64})",
                   "", "config.json"),
      DType::kBF16);
  const auto [all, all_others] = bytes_of(*model, {0, 0, 1});
  const double bytes = all.streamed + all_others.streamed, other_share = all_others.streamed / bytes;
  ASSERT_GT(other_share, 0.1);
  ASSERT_LT(other_share, 0.3);
  for (double share : {0.05, other_share / 2, other_share, 0.4, 0.75, 0.99, 1.0}) {
    const auto [experts, others] = bytes_of(*model, {0, share, 1 - share});
    EXPECT_NEAR((experts.resident + others.resident) / bytes, share, 0.01);
    EXPECT_NEAR(others.share(), std::min(1.0, share / other_share), 0.02) << share;
    if (share > other_share) {
      EXPECT_EQ(others.streamed, 0) << share;
    }
    if (share < other_share) {
      EXPECT_EQ(experts.resident, 0) << share;
    }
    if (share == 1) {
      EXPECT_EQ(experts.streamed, 0);
    }
  }
  // Experts share evenly, so that the disk has the same to do for each block.
  Policy policy;
  policy.weights = {0, 0.5, 0.5};
  const WeightLayout layout(*model, policy);
  for (size_t i = 0; i < layout.layers.size(); ++i) {
    if (model->layers()[i].kind != LayerKind::kExperts) continue;
    for (const WeightLayout::Use& use : layout.layers[i].uses)
      EXPECT_NEAR(static_cast<double>(use.streamed_rows) / static_cast<double>(use.streamed_rows + use.resident_rows), 0.5 / (1 - other_share), 0.1);
  }
}

/// Several matrices in one that lies by columns are loaded as one: with nothing but what lies around a tensor saved, as there are fewer.
TEST(WeightLayout, FusedMatricesAreLoadedOnce) {
  for (const Fractions& shares : {Fractions{0, 0, 1}, Fractions{0, 1, 0}}) {
    const auto bytes = [&](const char* name) {
      Policy policy;
      policy.weights = shares;
      const auto model = Model::load(quantized_checkpoint(name));
      const WeightLayout layout(*model, policy);
      const auto [experts, others] = bytes_of(*model, shares);
      return std::tuple(others.resident, others.streamed, layout.streamed_bytes_per_step, layout.resident_bytes);
    };
    const auto fused = bytes("fused-awq"), apart = bytes("awq");
    EXPECT_EQ(std::get<0>(fused), std::get<0>(apart));
    EXPECT_EQ(std::get<1>(fused), std::get<1>(apart));
    EXPECT_LE(std::get<2>(fused), std::get<2>(apart));
    EXPECT_LE(std::get<3>(fused), std::get<3>(apart));
  }
}

/// Experts that are chosen most often are in memory whole, as many of each block.
TEST(WeightLayout, TheHottestExpertsComeFirst) {
  const auto model = Model::of_shape(
      parse_config(
          R"({"model_type": "qwen3_moe", "hidden_size": 256, "num_hidden_layers": 3, "intermediate_size": 256, "moe_intermediate_size": 128, "head_dim": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_experts": 8, "num_experts_per_tok": 2, "mlp_only_layers": [1], "vocab_size": 1024, "max_position_embeddings": 64})",
          "", "config.json"),
      DType::kBF16);
  Policy policy;
  policy.weights = {0, 0.6, 0.4};
  const WeightLayout even(*model, policy);
  policy.hottest_first = true;
  EXPECT_EQ(WeightLayout(*model, policy).resident_bytes, even.resident_bytes) << "nothing was counted";
  model->set_expert_chances(ExpertChances::of_counts(model->config(), {{1, 9, 2, 8, 3, 7, 4, 6}, {}, {8, 7, 6, 5, 4, 3, 2, 1}}));
  const WeightLayout layout(*model, policy);
  // Fewer matrices are cut, each of which has a sector twice.
  for (const auto& [bytes, even_bytes] :
       {std::pair(layout.resident_bytes, even.resident_bytes), {layout.streamed_bytes_per_step, even.streamed_bytes_per_step}}) {
    EXPECT_LE(bytes, even_bytes);
    EXPECT_GE(static_cast<double>(bytes), 0.95 * static_cast<double>(even_bytes));
  }
  for (int64_t block : {0, 2}) {
    std::vector<double> resident(8), all(8);
    for (size_t i = 0; i < layout.layers.size(); ++i) {
      const LayerSpec& layer = model->layers()[i];
      if (layer.kind != LayerKind::kExperts || layer.index != block) continue;
      for (size_t use = 0; use < layer.uses.size(); ++use) {
        const auto expert = static_cast<size_t>(layer.expert_of_use(use));
        resident[expert] += static_cast<double>(layout.layers[i].uses[use].resident_rows);
        all[expert] += static_cast<double>(layer.uses[use].rows);
      }
    }
    size_t whole = 0, cut = 0;
    double before = 1;
    for (int32_t expert : model->expert_chances()->hottest_first(block)) {
      const double share = resident[static_cast<size_t>(expert)] / all[static_cast<size_t>(expert)];
      EXPECT_LE(share, before);
      before = share;
      whole += share == 1;
      cut += share > 0 && share < 1;
    }
    EXPECT_GE(whole, 2U);
    EXPECT_LE(whole, 6U);
    EXPECT_LE(cut, 1U);
  }
}

/// Plans ask for sums alone, and for layouts without experts' uses: the same in all that they have.
TEST(WeightLayout, SumsAreThoseOfTheWholeLayout) {
  const auto model =
      Model::of_shape(parse_config(R"({"model_type": "gpt_oss", "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 1024, "max_position_embeddings": 256,
    "quantization_config": {"quant_method": "mxfp4"}})",
                                   "", "config.json"),
                      DType::kBF16);
  for (bool counted : {false, true}) {
    if (counted) model->set_expert_chances(ExpertChances::of_counts(model->config(), ExpertCounts(4, {1, 9, 2, 8, 3, 7, 4, 6})));
    for (Tier tier : {Tier::kCpu, Tier::kGpu})
      for (const Fractions& weights : {Fractions{0, 1, 0}, {0, 0, 1}, {0, 0.37, 0.63}, {0.25, 0.25, 0.5}, {1, 0, 0}}) {
        Policy policy;
        policy.compute_tier = tier;
        policy.hottest_first = counted;
        policy.weights = tier == Tier::kCpu ? Fractions{0, weights.gpu + weights.cpu, weights.disk} : weights;
        const WeightLayout whole(*model, policy), part(*model, policy, WeightLayout::Kept::kNotOfExperts);
        const WeightSums& sums = whole;
        EXPECT_EQ(WeightSums::of(*model, policy), sums);
        EXPECT_EQ(static_cast<const WeightSums&>(part), sums);
        ASSERT_EQ(part.layers.size(), whole.layers.size());
        int64_t streamed = 0;
        for (size_t i = 0; i < whole.layers.size(); ++i) {
          const WeightLayout::Layer &a = whole.layers[i], &b = part.layers[i];
          EXPECT_EQ(std::tuple(a.resident_bytes, a.streamed_bytes, a.host_at, a.host_bytes, a.staged_bytes, a.ring_index),
                    std::tuple(b.resident_bytes, b.streamed_bytes, b.host_at, b.host_bytes, b.staged_bytes, b.ring_index));
          EXPECT_EQ(a.uses.size(), model->layers()[i].uses.size());
          EXPECT_EQ(b.uses.size(), model->layers()[i].kind == LayerKind::kExperts ? 0 : a.uses.size());
          int64_t resident = 0;
          for (const WeightLayout::Use& use : a.uses) resident += use.resident.bytes;
          EXPECT_EQ(a.resident_bytes, resident);
          streamed += a.streamed_bytes;
        }
        EXPECT_EQ(sums.streamed_bytes_per_step, streamed);
        EXPECT_EQ(sums.streamed_bytes_per_step > 0, policy.weights.disk > 0);
      }
  }
}

}  // namespace
}  // namespace flexgen::weight_layout_test
