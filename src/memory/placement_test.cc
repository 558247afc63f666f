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

}  // namespace
}  // namespace flexgen::placement_test
