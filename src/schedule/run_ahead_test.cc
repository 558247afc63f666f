#include "schedule/run_ahead.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace flexgen::run_ahead_test {
namespace {

TEST(RunAhead, WaitsForTheOldestWhereTablesAreLarge) {
  RunAhead run_ahead;
  const Event first = Event::pending(), second = Event::pending();
  run_ahead.add(first, RunAhead::kMostBytes);
  run_ahead.wait_for_room();  // what is just within the bound
  run_ahead.add(second, 1);
  std::atomic<bool> over = false;
  std::thread waiting([&] {
    run_ahead.wait_for_room();
    over = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(over);
  first.finish();
  waiting.join();
  EXPECT_TRUE(over);
  // One that is alone under way may be as large as it likes.
  second.finish();
  run_ahead.add(Event::pending(), 5 * RunAhead::kMostBytes);
  run_ahead.wait_for_room();
}

TEST(RunAhead, SmallTablesNeverWait) {
  RunAhead run_ahead;
  for (int visit = 0; visit < 1000; ++visit) {
    run_ahead.wait_for_room();
    run_ahead.add(Event::pending(), RunAhead::kMostBytes / 1000);
  }
}

}  // namespace
}  // namespace flexgen::run_ahead_test
