#include "setup/engine_flags.h"

#include <gtest/gtest.h>
#include <sched.h>

#include "measure/machine.h"

namespace flexgen::engine_flags_test {
namespace {

TEST(EngineFlags, ThreadsThatAreNotGivenAreThisMachines) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  int core = 0;
  while (!CPU_ISSET(core, &before)) ++core;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EngineFlags flags;
  EXPECT_EQ(engine_options(flags, "m").threads, default_threads());
  EXPECT_EQ(default_threads(), 1);
  sched_setaffinity(0, sizeof(before), &before);
  flags.threads = 5;
  EXPECT_EQ(engine_options(flags, "m").threads, 5);
}

}  // namespace
}  // namespace flexgen::engine_flags_test
