#include "engine/page_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace flexgen {
namespace {

TEST(PagePool, GivesEachPageOnceInProportionAndDiskFirst) {
  PagePool pool(6, 18);
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
  PagePool pool(2, 2);
  EXPECT_EQ(pool.take(1).size(), 1u);
  EXPECT_EQ(pool.take(3).size(), 3u);
  EXPECT_EQ(pool.free_pages(), 0);
}

}  // namespace
}  // namespace flexgen
