#include "setup/engine_flags.h"

#include <gtest/gtest.h>

#include "io/test_folder.h"
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

TEST(EngineFlags, ADiskBudgetThatIsGivenStands) {
  EngineFlags flags;
  EXPECT_FALSE(engine_options(flags, "m").usual_disk_bytes);
  flags.disk_directory = process_folder();
  const EngineOptions usual = engine_options(flags, "m");
  ASSERT_TRUE(usual.usual_disk_bytes);
  EXPECT_GT(usual.budgets.disk_bytes, 0);
  flags.disk_space_bytes = 12345;
  EXPECT_EQ(engine_options(flags, "m").budgets.disk_bytes, 12345);
  EXPECT_FALSE(engine_options(flags, "m").usual_disk_bytes);
}

}  // namespace
}  // namespace flexgen::engine_flags_test
