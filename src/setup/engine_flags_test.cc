#include "setup/engine_flags.h"

#include <gtest/gtest.h>

#include "measure/machine.h"
#include "measure/test_one_core.h"

namespace flexgen::engine_flags_test {
namespace {

TEST(EngineFlags, ThreadsThatAreNotGivenAreThisMachines) {
  EngineFlags flags;
  {
    const OneCore one;
    EXPECT_EQ(engine_options(flags, "m").threads, default_threads());
    EXPECT_EQ(default_threads(), 1);
  }
  flags.threads = 5;
  EXPECT_EQ(engine_options(flags, "m").threads, 5);
}

}  // namespace
}  // namespace flexgen::engine_flags_test
