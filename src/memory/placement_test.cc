#include "memory/placement.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/error.h"

namespace flexgen::placement_test {
namespace {

TEST(Fractions, ParsesPercentages) {
  EXPECT_EQ(Fractions::parse("0:40:60", "--weights"), (Fractions{0, 0.4, 0.6}));
  EXPECT_EQ(Fractions::parse("100:0:0", "--weights"), (Fractions{1, 0, 0}));
  EXPECT_EQ(Fractions::parse("0:12.5:87.5", "--weights").to_string(), "0:12.5:87.5");
  for (const char* text : {"", "40:60", "0:40:61", "0:-1:101", "0:40:60:0", "a:b:c", "0:40:60 ", "0:nan:100"})
    EXPECT_THROW(Fractions::parse(text, "--weights"), Error) << text;
}

TEST(Placement, SharesAreKeptWithinAGrainOverAnyNumberOfObjects) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    double a = static_cast<double>(random() % 101) / 100, b = static_cast<double>(random() % 101) / 100;
    Fractions fractions{std::min(a, b), std::abs(a - b), 1 - std::max(a, b)};
    std::vector<PlacedObject> objects(1 + random() % 20);
    int64_t largest = 0;
    for (auto& object : objects) {
      object = {static_cast<int64_t>(1 + random() % 500), static_cast<int64_t>(2 + random() % 64), 8};
      largest = std::max(largest, object.row_bytes * object.grain_rows);
    }
    double gpu = 0, cpu = 0, total = 0;
    auto splits = place(objects, fractions);
    for (size_t i = 0; i < objects.size(); ++i) {
      const RowSplit& split = splits[i];
      EXPECT_GE(split.gpu, 0);
      EXPECT_GE(split.cpu, 0);
      EXPECT_GE(split.disk, 0);
      EXPECT_EQ(split.gpu + split.cpu + split.disk, objects[i].rows);
      auto row_bytes = static_cast<double>(objects[i].row_bytes);
      gpu += static_cast<double>(split.gpu) * row_bytes;
      cpu += static_cast<double>(split.cpu) * row_bytes;
      total += static_cast<double>(objects[i].rows) * row_bytes;
    }
    EXPECT_NEAR(gpu, total * fractions.gpu, 2.0 * static_cast<double>(largest));
    EXPECT_NEAR(cpu, total * fractions.cpu, 3.0 * static_cast<double>(largest));
  }
}

TEST(Placement, WholeSharesAreExact) {
  std::vector<PlacedObject> objects{{37, 10, 16}, {5, 3, 16}, {100, 7, 16}};
  for (const RowSplit& split : place(objects, {0, 1, 0})) EXPECT_EQ(split.disk, 0);
  for (const RowSplit& split : place(objects, {0, 0, 1})) EXPECT_EQ(split.cpu, 0);
  for (const RowSplit& split : place(objects, {1, 0, 0})) EXPECT_EQ(split.cpu + split.disk, 0);
}

TEST(Placement, InOrderFillsTheFasterTiersWithWholeObjects) {
  std::mt19937 random(8);
  for (int round = 0; round < 300; ++round) {
    const double a = static_cast<double>(random() % 101) / 100, b = static_cast<double>(random() % 101) / 100;
    const Fractions fractions{std::min(a, b), std::abs(a - b), 1 - std::max(a, b)};
    std::vector<PlacedObject> objects;
    std::vector<std::vector<size_t>> groups(1 + random() % 4);
    for (std::vector<size_t>& group : groups) {
      for (auto left = 1 + random() % 12; left > 0; --left) {
        group.push_back(objects.size());
        objects.push_back({64, 32, 16});
      }
      std::shuffle(group.begin(), group.end(), random);
    }
    const std::vector<RowSplit> splits = place_in_order(objects, groups, fractions);
    for (const std::vector<size_t>& group : groups) {
      RowSplit sum;
      int cut = 0;
      bool faster_is_full = false;
      for (size_t i : group) {
        const RowSplit& split = splits[i];
        EXPECT_EQ(split.gpu + split.cpu + split.disk, 64);
        sum = {sum.gpu + split.gpu, sum.cpu + split.cpu, sum.disk + split.disk};
        cut += std::max({split.gpu, split.cpu, split.disk}) < 64;
        if (faster_is_full) {
          EXPECT_EQ(split.disk, 64) << "a later one is in a faster tier";
        }
        faster_is_full = faster_is_full || split.disk > 0;
      }
      const auto rows = static_cast<double>(64 * group.size());
      EXPECT_LE(cut, 2);
      EXPECT_NEAR(static_cast<double>(sum.gpu), rows * fractions.gpu, 17);
      EXPECT_NEAR(static_cast<double>(sum.cpu), rows * fractions.cpu, 33);
    }
  }
  const std::vector<PlacedObject> objects{{37, 10, 16}, {5, 3, 16}};
  const std::vector<std::vector<size_t>> groups{{1, 0}};
  for (const RowSplit& split : place_in_order(objects, groups, {0, 1, 0})) EXPECT_EQ(split.disk, 0);
  for (const RowSplit& split : place_in_order(objects, groups, {0, 0, 1})) EXPECT_EQ(split.cpu, 0);
}

}  // namespace
}  // namespace flexgen::placement_test
