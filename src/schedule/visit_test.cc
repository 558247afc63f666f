#include "schedule/visit.h"

#include <gtest/gtest.h>

namespace flexgen::visit_test {
namespace {

TEST(Schedule, IsTheNestOfLoops) {
  for (auto [layers, batches, groups] : {std::tuple(3, 1, 1), std::tuple(4, 5, 1), std::tuple(2, 7, 3), std::tuple(5, 4, 4)}) {
    Schedule schedule(layers, batches, groups);
    int64_t n = 0;
    for (int64_t step = 0; step < 3; ++step)
      for (int64_t group = 0; group < groups; ++group) {
        ASSERT_GT(schedule.group_end(group), schedule.group_first(group));
        for (int64_t layer = 0; layer < layers; ++layer)
          for (int64_t batch = schedule.group_first(group); batch < schedule.group_end(group); ++batch) {
            const Visit visit = schedule[n++];
            EXPECT_EQ(visit, (Visit{step, layer, batch, schedule.group_first(group), schedule.group_end(group), 0}));
            EXPECT_EQ(visit.last_of_layer(), batch + 1 == schedule.group_end(group));
            Visit next = visit;
            next.advance();
            if (next.layer < layers) {
              EXPECT_EQ(next, schedule[n]);
            }
          }
      }
    EXPECT_EQ(n, 3 * layers * batches);
  }
}

}  // namespace
}  // namespace flexgen::visit_test
