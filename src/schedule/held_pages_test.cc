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

TEST(HeldPages, TakesAllAtTheStartWithoutAWindow) {
  const StateSpec state{.heads = 1, .head_size = 8};
  Pool pool;
  HeldPages<Pool> held(state, 16, 2, 5, pool);  // two are others'
  EXPECT_EQ(held.first(), 2);
  EXPECT_EQ(held.end(), 5);
  held.reach(80, pool);
  held.pass(80, pool);
  EXPECT_THAT(held.pages(), ElementsAre(0, 1, 2));
  held.give_back(pool);
  EXPECT_THAT(pool.back, ElementsAre(0, 1, 2));
}

TEST(HeldPages, MovesOnWithItsWindow) {
  const StateSpec state{.heads = 1, .head_size = 8, .window = 32};
  Pool pool;
  HeldPages<Pool> held(state, 16, 0, 10, pool);
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
  const StateSpec state{.heads = 1, .head_size = 8, .window = 32};
  Pool pool;
  HeldPages<Pool> held(state, 16, 0, 3, pool);
  EXPECT_EQ(held.end(), 3);
  held.pass(47, pool);
  EXPECT_THAT(pool.back, ElementsAre(0));
  EXPECT_EQ(held.first(), 1);
}

}  // namespace
}  // namespace flexgen::held_pages_test
