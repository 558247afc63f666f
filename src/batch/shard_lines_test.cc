// Which lines are a shard's: against costs that are added up line by line.

#include "batch/shard_lines.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

namespace flexgen::shard_lines_test {
namespace {

struct PlacedLine {
  int64_t line = 0;
  LineCost cost;
};

ShardSplit split_of(const std::vector<PlacedLine>& order, int64_t num_shards) {
  ShardSplit split(num_shards);
  for (const PlacedLine& each : order) split.add(each.line, each.cost);
  split.settle();
  return split;
}

std::vector<int64_t> lines_in(ShardSplit& split, int64_t shard) {
  std::vector<int64_t> lines;
  split.lines_of(shard, [&](int64_t line) { lines.push_back(line); });
  std::sort(lines.begin(), lines.end());
  return lines;
}

/// What computing these lines takes, in the order.
int64_t tokens_of(const std::vector<PlacedLine>& order, const std::vector<int64_t>& lines) {
  int64_t tokens = 0, shared = 0;
  for (const PlacedLine& each : order) {
    shared = std::min(shared, each.cost.shared);
    if (!std::binary_search(lines.begin(), lines.end(), each.line)) continue;
    tokens += each.cost.tokens - shared;
    shared = std::numeric_limits<int64_t>::max();
  }
  return tokens;
}

/// `sizes`: of groups, one after the other in the input.
std::vector<PlacedLine> groups_of(const std::vector<int64_t>& sizes, int64_t common, int64_t own) {
  std::vector<PlacedLine> order;
  for (const int64_t size : sizes)
    for (int64_t i = 0; i < size; ++i) order.push_back({std::ssize(order), {common + own, i > 0 ? common : 0}});
  return order;
}

TEST(ShardSplit, GroupsStayWhole) {
  ShardSplit split = split_of(groups_of(std::vector<int64_t>(9, 8), 640, 10), 3);
  EXPECT_TRUE(split.by_pieces());
  EXPECT_EQ(split.slowest(), 3 * (640 + 8 * 10));
  EXPECT_EQ(lines_in(split, 1).front(), 24);  // of groups 3 to 5
  EXPECT_EQ(lines_in(split, 1).size(), 24U);
  // What is too large for one shard is cut.
  ShardSplit large = split_of(groups_of({2, 94, 2}, 100, 50), 2);
  EXPECT_TRUE(large.by_pieces());
  EXPECT_LE(large.slowest(), 49 * 50 + 100 + 150);
}

TEST(ShardSplit, InTurnsWhereNothingIsGained) {
  const std::vector<int64_t> own{10, 100, 1000, 10, 100, 1000};
  std::vector<PlacedLine> apart;
  for (int64_t tokens : own) apart.push_back({std::ssize(apart), {tokens, 0}});
  ShardSplit split = split_of(apart, 2);
  EXPECT_FALSE(split.by_pieces());
  EXPECT_EQ(lines_in(split, 1), (std::vector<int64_t>{1, 3, 5}));
  // All of one group: each shard computes what is common either way.
  EXPECT_FALSE(split_of(groups_of({64}, 640, 10), 4).by_pieces());
  // More shards than lines.
  ShardSplit few = split_of(groups_of({2}, 640, 10), 5);
  EXPECT_EQ(lines_in(few, 0).size() + lines_in(few, 1).size(), 2U);
  ShardSplit none = split_of({}, 3);
  EXPECT_TRUE(lines_in(none, 2).empty());
}

TEST(ShardSplit, CostsAreThoseOfItsLines) {
  std::mt19937_64 random(3);
  int by_pieces = 0;
  for (int round = 0; round < 200; ++round) {
    std::vector<int64_t> lines(1 + random() % 60);
    for (size_t i = 0; i < lines.size(); ++i) lines[i] = static_cast<int64_t>(i);
    std::shuffle(lines.begin(), lines.end(), random);
    std::vector<PlacedLine> order;
    for (int64_t line : lines) {
      const auto own = static_cast<int64_t>(1 + random() % 40), shared = static_cast<int64_t>(random() % 4 == 0 ? random() % 64 : 16 * (random() % 8));
      order.push_back({line, {own + 128, shared}});
    }
    const auto num_shards = static_cast<int64_t>(2 + random() % 6);
    ShardSplit split = split_of(order, num_shards);
    std::vector<int64_t> all;
    int64_t slowest = 0, slowest_in_turns = 0;
    for (int64_t shard = 0; shard < num_shards; ++shard) {
      const std::vector<int64_t> some = lines_in(split, shard);
      all.insert(all.end(), some.begin(), some.end());
      slowest = std::max(slowest, tokens_of(order, some));
      std::vector<int64_t> in_turns;
      for (int64_t line = shard; line < std::ssize(order); line += num_shards) in_turns.push_back(line);
      slowest_in_turns = std::max(slowest_in_turns, tokens_of(order, in_turns));
    }
    std::sort(all.begin(), all.end());
    std::sort(lines.begin(), lines.end());
    EXPECT_EQ(all, lines) << round;
    EXPECT_EQ(split.slowest(), slowest) << round;
    EXPECT_LE(slowest, slowest_in_turns) << round;
    by_pieces += split.by_pieces();
  }
  EXPECT_GT(by_pieces, 20);
  EXPECT_LT(by_pieces, 180);
}

}  // namespace
}  // namespace flexgen::shard_lines_test
