#include "backend/sparse_positions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "backend/kernels.h"

namespace flexgen::sparse_positions_test {
namespace {

std::vector<int32_t> chosen_of(std::vector<float> shares, int64_t kept) {
  std::vector<int32_t> chosen;
  choose_positions(shares, kept, &chosen);
  return chosen;
}

TEST(SparsePositions, OwnAndTheLargest) {
  EXPECT_EQ(chosen_of({0.5f, 0.1f, 0.3f, 0.0f}, 3), (std::vector<int32_t>{0, 2, 3}));
  EXPECT_EQ(chosen_of({0.5f, 0.1f, 0.3f, 0.0f}, 1), (std::vector<int32_t>{3}));
  EXPECT_EQ(chosen_of({1.0f}, 1), (std::vector<int32_t>{0}));
}

TEST(SparsePositions, OfEqualOnesTheEarlier) {
  EXPECT_EQ(chosen_of({0.2f, 0.2f, 0.2f, 0.2f, 0.2f}, 3), (std::vector<int32_t>{0, 1, 4}));
  EXPECT_EQ(chosen_of({0.0f, NAN, 0.9f, 0.1f}, 2), (std::vector<int32_t>{1, 3}));  // what is broken is seen
}

TEST(SparsePositions, AsASortWouldChoose) {
  std::mt19937 random(4);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> shares(1 + random() % 300);
    for (float& share : shares)
      share = round % 2 == 0 ? static_cast<float>(random() % 50) / 50 : std::ldexp(static_cast<float>(random() % 1000), -static_cast<int>(random() % 30));
    const auto kept = static_cast<int64_t>(1 + random() % shares.size());
    std::vector<int32_t> expected(shares.size() - 1);
    std::iota(expected.begin(), expected.end(), 0);
    std::stable_sort(expected.begin(), expected.end(), [&](int32_t a, int32_t b) { return shares[static_cast<size_t>(a)] > shares[static_cast<size_t>(b)]; });
    expected.resize(static_cast<size_t>(kept - 1));
    expected.push_back(static_cast<int32_t>(shares.size() - 1));
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(chosen_of(shares, kept), expected);
  }
}

TEST(AttentionRuleTest, Counts) {
  const AttentionRule all{1, 0, 1}, tenth{1, 0, 0.1}, window{1, 8, 0.5};
  const AttentionSlot slot{0, 1, 20, nullptr, 5};
  EXPECT_FALSE(all.is_sparse(slot, 20));
  EXPECT_TRUE(tenth.is_sparse(slot, 5));
  EXPECT_FALSE(tenth.is_sparse(slot, 4));
  EXPECT_EQ(tenth.visible(0), 1);
  EXPECT_EQ(tenth.kept(1), 1);
  EXPECT_EQ(tenth.kept(101), 11);
  EXPECT_EQ(window.visible(3), 4);
  EXPECT_EQ(window.visible(7), 8);
  EXPECT_EQ(window.visible(100), 8);
  EXPECT_EQ(all.kept(8), 8);
}

}  // namespace
}  // namespace flexgen::sparse_positions_test
