#include "schedule/held_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace flexgen::held_pages_test {
namespace {

using testing::ElementsAre;

/// Numbers pages as they are taken.
struct Pool {
  using Pages = std::vector<int>;
  Pages take(int64_t count) {
    Pages pages;
    for (; count > 0; --count) take_one(pages);
    return pages;
  }
  void take_one(Pages& pages) { pages.push_back(next++); }
  void give_back_first(int64_t count, Pages& pages) {
    back.insert(back.end(), pages.begin(), pages.begin() + count);
    pages.erase(pages.begin(), pages.begin() + count);
  }
  int next = 0;
  std::vector<int> back;
};

/// What a sequence holds in pages of 16 tokens, and the pool that they are of.
struct Holding {
  Holding(int64_t window, int64_t first, int64_t end) : state{.heads = 1, .head_size = 8, .window = window}, held(state, 16, {{0, first}}, end, pool) {}
  Holding(int64_t window, std::vector<PageRange> others, int64_t end)
      : state{.heads = 1, .head_size = 8, .window = window}, held(state, 16, std::move(others), end, pool) {}
  StateSpec state;
  Pool pool;
  HeldPages<Pool> held;
};

TEST(HeldPages, TakesAllAtTheStartWithoutAWindow) {
  Holding of(0, 2, 5);  // two are others'
  auto& [state, pool, held] = of;
  EXPECT_EQ(held.first(), 2);
  EXPECT_EQ(held.end(), 5);
  held.reach(80, pool);
  held.pass(80, pool);
  EXPECT_THAT(held.pages(), ElementsAre(0, 1, 2));
  held.give_back(pool);
  EXPECT_THAT(pool.back, ElementsAre(0, 1, 2));
}

TEST(HeldPages, MovesOnWithItsWindow) {
  Holding of(32, 0, 10);
  auto& [state, pool, held] = of;
  EXPECT_EQ(held.end(), 0);
  held.reach(40, pool);
  EXPECT_THAT(held.pages(), ElementsAre(0, 1, 2));
  held.pass(40, pool);  // whose row sees positions from 9 on
  EXPECT_THAT(pool.back, ElementsAre());
  held.pass(47, pool);
  EXPECT_THAT(pool.back, ElementsAre(0));
  held.reach(49, pool);
  EXPECT_THAT(held.pages(), ElementsAre(1, 2, 3));
  EXPECT_EQ(held.first(), 1);
  held.give_back(pool);
  EXPECT_THAT(pool.back, ElementsAre(0, 1, 2, 3));
}

/// A short sequence takes all at the start, and what its window passes goes back too.
TEST(HeldPages, AShortSequenceGivesBackWhatItsWindowPasses) {
  Holding of(32, 0, 3);
  auto& [state, pool, held] = of;
  EXPECT_EQ(held.end(), 3);
  held.pass(47, pool);
  EXPECT_THAT(pool.back, ElementsAre(0));
  EXPECT_EQ(held.first(), 1);
}

/// Others' pages between its own, as of one who computes a prefix of which the last window is kept.
TEST(HeldPages, PassesOverWhatIsNotItsOwn) {
  Holding of(32, std::vector<PageRange>{{0, 1}, {3, 5}}, 12);
  auto& [state, pool, held] = of;
  EXPECT_EQ(held.first(), 1);
  held.reach(50, pool);  // into page 3
  EXPECT_THAT(held.pages(), ElementsAre(0, 1));
  EXPECT_EQ(held.index_of(2), 1);
  EXPECT_EQ(held.index_of(4), 2);
  EXPECT_TRUE(held.has(2));
  EXPECT_FALSE(held.has(3));
  held.pass(79, pool);  // whose row sees page 3
  EXPECT_THAT(pool.back, ElementsAre(0, 1));
  held.reach(100, pool);
  EXPECT_THAT(held.pages(), ElementsAre(2, 3));
  EXPECT_FALSE(held.has(4));
  EXPECT_TRUE(held.has(5));
  EXPECT_EQ(held.index_of(5), 0);
  EXPECT_EQ(held.index_of(6), 1);
  held.pass(95 + 32, pool);
  EXPECT_THAT(pool.back, ElementsAre(0, 1, 2));
  EXPECT_EQ(held.index_of(6), 0);
  held.give_back(pool);
  EXPECT_THAT(pool.back, ElementsAre(0, 1, 2, 3));
}

}  // namespace
}  // namespace flexgen::held_pages_test
