#include "schedule/expert_hits.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace flexgen::expert_hits_test {
namespace {

/// Against experts that are drawn.
TEST(ExpertHits, AreWhatRowsChoose) {
  std::mt19937 random(3);
  for (const auto& [experts, per_row, unit, rows] : {std::tuple(32, 4, 1, 1), std::tuple(32, 4, 3, 5), std::tuple(8, 2, 4, 2), std::tuple(60, 4, 6, 20)}) {
    Mixture mixture;
    mixture.num_experts = experts;
    mixture.experts_per_row = per_row;
    std::vector<int> order(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    constexpr int kTries = 4000;
    double hit_experts = 0, hit_units = 0, product = 0;
    for (int i = 0; i < kTries; ++i) {
      std::vector<int> counts(static_cast<size_t>(experts));
      for (int row = 0; row < rows; ++row) {
        std::shuffle(order.begin(), order.end(), random);
        for (int j = 0; j < per_row; ++j) ++counts[static_cast<size_t>(order[static_cast<size_t>(j)])];
      }
      const auto hit = static_cast<double>(experts - std::count(counts.begin(), counts.end(), 0));
      hit_experts += hit / experts / kTries;
      product += rows * per_row / hit / kTries;
      hit_units += std::any_of(counts.begin(), counts.begin() + unit, [](int count) { return count > 0; }) ? 1.0 / kTries : 0;
    }
    EXPECT_NEAR(expert_hit_share(mixture, rows), hit_experts, 0.01);
    EXPECT_NEAR(unit_hit_share(mixture, unit, rows), hit_units, 0.03);
    LayerSpec layer;
    layer.row_share = static_cast<double>(per_row) / experts;
    EXPECT_NEAR(product_rows(layer, rows), product, 0.06 * product);
  }
}

TEST(ExpertHits, AtTheEdges) {
  Mixture mixture;
  mixture.num_experts = 8;
  mixture.experts_per_row = 2;
  EXPECT_EQ(expert_hit_share(mixture, 0), 0);
  EXPECT_DOUBLE_EQ(expert_hit_share(mixture, 1), 0.25);
  EXPECT_EQ(unit_hit_share(mixture, 8, 1), 1);
  EXPECT_EQ(unit_hit_share(mixture, 7, 1), 1);  // two of eight are never both outside
  mixture.experts_per_row = 8;
  EXPECT_EQ(expert_hit_share(mixture, 1), 1);
  EXPECT_EQ(product_rows(LayerSpec{}, 7), 7);
}

/// By chances that differ, against experts that are drawn with them.
TEST(ExpertHits, GoByTheModelsChances) {
  for (const auto& [expert_size, exponent] : {std::pair(512, 1.0), std::pair(96, 1.0), std::pair(96, 0.0)}) {
    const auto model = Model::of_shape(
        parse_config(
            fmt::format(
                R"({{"model_type": "qwen3_moe", "hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 256, "moe_intermediate_size": {}, "head_dim": 64,
      "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 32, "num_experts_per_tok": 4, "vocab_size": 1024, "max_position_embeddings": 64}})",
                expert_size),
            "", "config.json"),
        DType::kBF16);
    const double alike = expert_hit_share(*model, 3);
    EXPECT_DOUBLE_EQ(alike, expert_hit_share(model->config().mixture, 3));
    model->set_expert_chances(ExpertChances::zipf(model->config(), exponent));
    if (exponent == 0) {
      EXPECT_NEAR(expert_hit_share(*model, 3), alike, 1e-9);
    } else {
      EXPECT_LT(expert_hit_share(*model, 3), 0.9 * alike);
    }
    Policy policy;
    policy.weights = {0, 0.3, 0.7};
    const WeightLayout layout(*model, policy);
    for (int rows : {1, 5}) {
      constexpr int kTries = 3000;
      std::vector<double> hit_units(model->layers().size()), bytes(model->layers().size());
      double hit_experts = 0;
      std::vector<int32_t> row(4);
      uint64_t seed = 0;
      for (int i = 0; i < kTries; ++i)
        for (int64_t block : {0, 1}) {
          std::vector<int32_t> counts(32);
          for (int r = 0; r < rows; ++r) {
            draw_experts(model->expert_chances()->of_block(block), ++seed * 7919, row);
            for (int32_t expert : row) ++counts[static_cast<size_t>(expert)];
          }
          hit_experts += static_cast<double>(32 - std::count(counts.begin(), counts.end(), 0)) / 64 / kTries;
          for (size_t layer = 0; layer < model->layers().size(); ++layer) {
            const LayerSpec& unit = model->layers()[layer];
            if (unit.kind != LayerKind::kExperts || unit.index != block) continue;
            hit_units[layer] += unit.rows_that_chose(counts) > 0 ? 1.0 / kTries : 0;
            for (size_t use = 0; use < unit.uses.size(); ++use)
              if (counts[static_cast<size_t>(unit.expert_of_use(use))] > 0)
                bytes[layer] += static_cast<double>(layout.layers[layer].uses[use].streamed.bytes) / kTries;
          }
        }
      EXPECT_NEAR(expert_hit_share(*model, rows), hit_experts, 0.01);
      for (size_t layer = 0; layer < model->layers().size(); ++layer) {
        const LayerSpec& unit = model->layers()[layer];
        if (unit.kind != LayerKind::kExperts) continue;
        EXPECT_NEAR(unit_hit_share(*model, unit, rows), hit_units[layer], 0.05) << unit.num_experts << " experts, " << rows << " rows, layer " << layer;
        EXPECT_NEAR(chosen_bytes(*model, unit, layout.layers[layer], rows).disk, bytes[layer], 0.03 * static_cast<double>(layout.layers[layer].streamed_bytes));
      }
      EXPECT_EQ(expert_hit_share(*model, 0), 0);
      EXPECT_EQ(unit_hit_share(*model, model->layers()[2], 0), 0);
    }
  }
}

/// Of an expert whose matrices are codes with scales beside them, all is read that is chosen: from disk, and from the RAM beside a GPU.
TEST(ExpertHits, ScalesGoWithTheirCodes) {
  const auto model = Model::of_shape(
      parse_config(
          R"({"model_type": "gpt_oss", "hidden_size": 128, "num_hidden_layers": 1, "intermediate_size": 128, "head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 100, "max_position_embeddings": 64, "quantization_config": {"quant_method": "mxfp4"}})",
          "", "config.json"),
      DType::kBF16);
  model->set_expert_chances(ExpertChances::zipf(model->config(), 0));
  Policy policy;
  policy.compute_tier = policy.attention_tier = Tier::kGpu;
  policy.weights = {0.2, 0.4, 0.4};
  const WeightLayout layout(*model, policy);
  int units = 0;
  for (size_t layer = 0; layer < model->layers().size(); ++layer) {
    const LayerSpec& unit = model->layers()[layer];
    if (unit.kind != LayerKind::kExperts) continue;
    ++units;
    const WeightLayout::Layer& placed = layout.layers[layer];
    ASSERT_TRUE(!placed.uses.front().beside.empty() && placed.host_bytes > 0 && placed.streamed_bytes > 0) << layer;
    // As rows choose all experts alike, each byte is as likely to be chosen.
    const double hit = expert_hit_share(*model, 3);
    const ChosenBytes chosen = chosen_bytes(*model, unit, placed, 3);
    EXPECT_NEAR(chosen.host, hit * static_cast<double>(placed.host_bytes), 1e-6 * static_cast<double>(placed.host_bytes)) << layer;
    EXPECT_NEAR(chosen.disk, hit * static_cast<double>(placed.streamed_bytes), 1e-6 * static_cast<double>(placed.streamed_bytes)) << layer;
  }
  EXPECT_GT(units, 0);
}

}  // namespace
}  // namespace flexgen::expert_hits_test
