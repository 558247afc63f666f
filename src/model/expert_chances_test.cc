// How often experts are chosen, as counted and as a law has it, and rows that choose so.

#include "model/expert_chances.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/model.h"

namespace flexgen::expert_chances_test {
namespace {

/// Three blocks, the second of them dense.
ModelConfig config_of(int64_t experts, int64_t per_row) {
  return parse_config(
      fmt::format(
          R"({{"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16, "num_key_value_heads": 1, "intermediate_size": 96,
    "moe_intermediate_size": 32, "num_experts": {}, "num_experts_per_tok": {}, "mlp_only_layers": [1], "vocab_size": 331, "max_position_embeddings": 256}})",
          experts, per_row),
      "", "config.json");
}
double sum(std::span<const double> values) { return std::accumulate(values.begin(), values.end(), 0.0); }

TEST(ExpertChances, GoByCounts) {
  const auto chances = ExpertChances::of_counts(config_of(4, 2), {{99, 29, 49, 19}, {}, {}});
  const std::span<const double> block = chances->of_block(0);  // 100, 30, 50 and 20 of 200
  EXPECT_DOUBLE_EQ(block[0], 1);
  EXPECT_DOUBLE_EQ(block[1], 0.3);
  EXPECT_DOUBLE_EQ(block[2], 0.5);
  EXPECT_DOUBLE_EQ(block[3], 0.2);
  EXPECT_EQ(std::vector(chances->hottest_first(0).begin(), chances->hottest_first(0).end()), (std::vector<int32_t>{0, 2, 1, 3}));
  EXPECT_TRUE(chances->of_block(1).empty());
  for (double chance : chances->of_block(2)) EXPECT_DOUBLE_EQ(chance, 0.5) << "nothing was counted";
  EXPECT_TRUE(chances->are_counted());
}

TEST(ExpertChances, NoneIsAboveOneNorNone) {
  const auto chances = ExpertChances::of_counts(config_of(8, 3), {{1000000, 900000, 0, 0, 5, 0, 0, 0}, {}, {0, 0, 0, 0, 0, 0, 0, 0}});
  EXPECT_EQ(chances->of_block(0)[0], 1);
  EXPECT_EQ(chances->of_block(0)[1], 1);
  EXPECT_NEAR(sum(chances->of_block(0)), 3, 1e-12);
  for (double chance : chances->of_block(0)) EXPECT_GT(chance, 0);
  for (double chance : chances->of_block(2)) EXPECT_DOUBLE_EQ(chance, 3.0 / 8);
  const auto all = ExpertChances::of_counts(config_of(4, 4), {{7, 0, 0, 0}, {}, {}});
  for (double chance : all->of_block(0)) EXPECT_DOUBLE_EQ(chance, 1);
}

TEST(ExpertChances, FallAsZipfsLawHasIt) {
  const ModelConfig config = config_of(64, 4);
  for (double exponent : {0.0, 0.5, 1.0}) {
    const auto chances = ExpertChances::zipf(config, exponent);
    EXPECT_FALSE(chances->are_counted());
    for (int64_t block : {0, 2}) {
      const std::span<const double> own = chances->of_block(block);
      EXPECT_NEAR(sum(own), 4, 1e-9);
      auto nth = [&](size_t n) { return own[static_cast<size_t>(chances->hottest_first(block)[n - 1])]; };
      EXPECT_NEAR(nth(2) / nth(32), std::pow(16, exponent), 1e-9);
    }
  }
  const auto chances = ExpertChances::zipf(config, 1), again = ExpertChances::zipf(config, 1);
  EXPECT_FALSE(std::ranges::equal(chances->of_block(0), chances->of_block(2))) << "blocks have other favourites";
  EXPECT_TRUE(std::ranges::equal(chances->of_block(2), again->of_block(2)));
}

TEST(ExpertChances, AreThoseOfDraws) {
  const ModelConfig config = config_of(32, 4);
  for (double exponent : {0.0, 0.7, 1.5}) {
    const auto chances = ExpertChances::zipf(config, exponent);
    constexpr int kRows = 20000;
    std::vector<double> drawn(32);
    std::vector<int32_t> row(4), again(4);
    for (uint64_t seed = 0; seed < kRows; ++seed) {
      draw_experts(chances->of_block(0), seed, row);
      draw_experts(chances->of_block(0), seed, again);
      ASSERT_EQ(row, again);
      std::sort(row.begin(), row.end());
      ASSERT_EQ(std::adjacent_find(row.begin(), row.end()), row.end());
      for (int32_t expert : row) drawn[static_cast<size_t>(expert)] += 1.0 / kRows;
    }
    for (size_t expert = 0; expert < drawn.size(); ++expert) EXPECT_NEAR(drawn[expert], chances->of_block(0)[expert], 0.02) << exponent;
  }
}

}  // namespace
}  // namespace flexgen::expert_chances_test
