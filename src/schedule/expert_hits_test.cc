#include "schedule/expert_hits.h"

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

}  // namespace
}  // namespace flexgen::expert_hits_test
