#include "generation/page_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace flexgen::page_pool_test {
namespace {

TEST(PagePool, GivesSinglePagesOfTheFastestTier) {
  PagePool pool({2, 3});
  std::vector<int32_t> pages;
  for (int i = 0; i < 5; ++i) pages.push_back(pool.take_one());
  EXPECT_EQ(pages, (std::vector<int32_t>{0, 1, 2, 3, 4}));
  pool.give_back(std::vector<int32_t>{3, 1});
  EXPECT_EQ(pool.take_one(), 1);
  EXPECT_EQ(pool.take_one(), 3);
  EXPECT_EQ(pool.free_pages(), 0);
}

TEST(PagePool, GivesEachPageOnceInProportionAndDiskFirst) {
  PagePool pool({6, 18});
  auto pages = pool.take(8);
  int on_disk = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages[i] >= 6) {
      ++on_disk;
      EXPECT_EQ(i, static_cast<size_t>(on_disk - 1));
    }
  }
  EXPECT_EQ(on_disk, 6);
  auto more = pool.take(16);
  EXPECT_EQ(pool.free_pages(), 0);
  std::set<int32_t> all(pages.begin(), pages.end());
  all.insert(more.begin(), more.end());
  EXPECT_EQ(all.size(), 24u);
  pool.give_back(pages);
  EXPECT_EQ(pool.free_pages(), 8);
  EXPECT_EQ(pool.take(8).size(), 8u);
}

TEST(PagePool, TakesFromTheOtherTierWhenOneIsEmpty) {
  PagePool pool({2, 2});
  EXPECT_EQ(pool.take(1).size(), 1u);
  EXPECT_EQ(pool.take(3).size(), 3u);
  EXPECT_EQ(pool.free_pages(), 0);
}

TEST(PagePool, ThreeTiersSlowestFirst) {
  PagePool pool({10, 20, 30});
  const auto pages = pool.take(12);
  ASSERT_EQ(pages.size(), 12u);
  int counts[3] = {0, 0, 0};
  int tier_before = 2;
  for (int32_t page : pages) {
    const int tier = page < 10 ? 0 : page < 30 ? 1 : 2;
    EXPECT_LE(tier, tier_before);
    tier_before = tier;
    ++counts[tier];
  }
  EXPECT_EQ(counts[2], 6);
  EXPECT_EQ(counts[1], 4);
  EXPECT_EQ(counts[0], 2);
  const auto rest = pool.take(48);
  std::set<int32_t> all(pages.begin(), pages.end());
  all.insert(rest.begin(), rest.end());
  EXPECT_EQ(all.size(), 60u);
  pool.give_back(rest);
  pool.give_back(pages);
  EXPECT_EQ(pool.take(12), pages);
}

}  // namespace
}  // namespace flexgen::page_pool_test
