#include "backend/lane.h"

#include <gmock/gmock.h>

#include "base/error.h"

namespace flexgen::lane_test {
namespace {

using testing::ThrowsMessage;

Work work_of(std::function<void()> run, std::vector<Event> after = {}) {
  Work work;
  work.run = std::move(run);
  work.after = std::move(after);
  return work;
}

// A visit whose input a failed one should have written knows it by its place in the lane alone.
TEST(Lane, NothingRunsAfterAPieceThatFailed) {
  ThreadLane lane("compute", nullptr);
  int runs = 0;
  const Event before = lane.submit(work_of([&] { ++runs; }));
  const Event failed = lane.submit(work_of([] { fail_user("no memory"); }));
  const Event later = lane.submit(work_of([&] { ++runs; }));
  EXPECT_NO_THROW(before.wait());
  EXPECT_THAT([&] { failed.wait(); }, ThrowsMessage<Error>("no memory"));
  EXPECT_THAT([&] { later.wait(); }, ThrowsMessage<Error>("no memory"));
  EXPECT_THAT([&] { lane.drain(); }, ThrowsMessage<Error>("no memory"));
  EXPECT_EQ(runs, 1);
}

TEST(Lane, NothingRunsAfterAPieceThatWaitedForWhatFailed) {
  ThreadLane disk("disk", nullptr), compute("compute", nullptr);
  int runs = 0;
  const Event read = disk.submit(work_of([] { fail_user("no disk"); }));
  const Event visit = compute.submit(work_of([&] { ++runs; }, {read})), next = compute.submit(work_of([&] { ++runs; }));
  EXPECT_THAT([&] { visit.wait(); }, ThrowsMessage<Error>("no disk"));
  EXPECT_THAT([&] { next.wait(); }, ThrowsMessage<Error>("no disk"));
  EXPECT_EQ(runs, 0);
}

}  // namespace
}  // namespace flexgen::lane_test
