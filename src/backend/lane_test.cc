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

/// A lane on a device learns of beginnings in one thread and of ends in another.
TEST(Lane, BusyTimeIsAUnion) {
  class Told : public Lane {
   public:
    Told() : Lane("told", nullptr) {}
    Event submit(Work) override { return {}; }
    void begin(int s) { begin_busy(Clock::time_point(std::chrono::seconds(s))); }
    void end(int s) { end_busy(Clock::time_point(std::chrono::seconds(s))); }
  } lane;
  lane.begin(10);
  lane.end(14);
  lane.begin(12);  // which was enqueued while the first was under way, and told when it was over
  lane.end(16);
  EXPECT_EQ(lane.stats().busy_s, 6);
  lane.begin(15);
  lane.end(15);  // its end was seen late
  lane.begin(20);
  lane.begin(21);
  lane.end(22);
  lane.end(25);
  EXPECT_EQ(lane.stats().busy_s, 11);
}

}  // namespace
}  // namespace flexgen::lane_test
