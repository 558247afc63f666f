#include "pipeline/stage_split.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "base/units.h"

namespace flexgen::stage_split_test {
namespace {

std::unique_ptr<Model> shape(const char* name) { return Model::of_shape(parse_config(*shape_config_json(name), "", name), DType::kBF16); }

using Split = std::vector<int64_t>;

TEST(StageSplit, EqualRanksGetEqualShares) {
  const auto model = shape("opt-175b");  // 96 blocks; its head is small beside a block
  for (size_t count : {1, 2, 3, 4, 16}) {
    const std::vector<StageResources> ranks(count, StageResources{16 * kGiB, 1e12, 1.5e9});
    const Split split = split_blocks(*model, ranks);
    EXPECT_EQ(std::accumulate(split.begin(), split.end(), int64_t{0}), 96);
    auto [least, most] = std::minmax_element(split.begin(), split.end());
    EXPECT_LE(*most - *least, 1) << count;
  }
}

TEST(StageSplit, LessMemoryGetsFewerBlocks) {
  const auto model = shape("opt-30b");
  // Where reading the disk decides, each rank holds what it can and they read alike.
  const Split split = split_blocks(*model, std::vector<StageResources>{{20 * kGiB, 1e15, 1.5e9}, {10 * kGiB, 1e15, 1.5e9}});
  EXPECT_EQ(split[0] + split[1], 48);
  EXPECT_GT(split[0], split[1] + 5);
}

TEST(StageSplit, SlowRanksGetFewerBlocks) {
  const auto model = shape("llama-3.1-70b");
  const Split split = split_blocks(*model, std::vector<StageResources>{{kGiB << 10, 3e12, 1e9}, {kGiB << 10, 1e12, 1e9}});
  EXPECT_EQ(split[0] + split[1], 80);
  EXPECT_NEAR(static_cast<double>(split[0]) / static_cast<double>(split[1]), 3, 0.4);
}

TEST(StageSplit, EveryRankGetsOne) {
  const auto model = shape("opt-125m");  // 12 blocks
  std::vector<StageResources> ranks(12, StageResources{kGiB, 1e12, 1e9});
  EXPECT_EQ(split_blocks(*model, ranks), Split(12, 1));
  ranks.emplace_back();
  EXPECT_THROW(split_blocks(*model, ranks), Error);
}

TEST(StageSplit, ParsesOrSaysWhatIsWrong) {
  EXPECT_EQ(parse_split("10:22", "--stages", 2, 32), (Split{10, 22}));
  EXPECT_EQ(parse_split("7", "--stages", 1, 7), (Split{7}));
  for (const char* bad : {"", "10:", ":22", "10:22:", "10:0", "-1:33", "a:b", "10 22", "10:21", "10:11:11", "32"})
    EXPECT_THROW(parse_split(bad, "--stages", 2, 32), Error) << bad;
}

TEST(StageSplit, TheSmallestBlockIsAgreedOn) {
  const BlockShape small{8, 2, 64, 8, 40, 2}, large{16, 2, 64, 16, 80, 2};
  EXPECT_EQ(agreed_block(std::vector{large, small, large}).micro_batch_size, 8);
  // A rank that reads weights anew for each group wants few; the others follow.
  const BlockShape many{8, 8, 64, 8, 40, 8}, few{8, 8, 64, 8, 40, 2};
  EXPECT_EQ(agreed_block(std::vector{many, few, many}).num_groups, 2);
  EXPECT_EQ(agreed_block(std::vector{many, many}).num_groups, 8);
}

TEST(StageSplit, TheSmallestOfEachSizeIsWithinEveryWish) {
  // The first has fewer slots, the second fewer rows: what is agreed on first has more rows than the second can do.
  const BlockShape slots{64, 1, 1024, 64, 640, 2, 100, 3}, rows{128, 1, 128, 128, 1280, 2};
  EXPECT_EQ(agreed_block(std::vector{slots, rows}).max_rows, 1024);
  EXPECT_EQ(smallest_block(std::vector{slots, rows}), (BlockShape{64, 1, 128, 64, 640, 2}));
}

}  // namespace
}  // namespace flexgen::stage_split_test
