#include "cli/stop_signals.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>

namespace flexgen::stop_signals_test {
namespace {

TEST(StopSignals, WhatIsDeafToThemEndsAtOnce) {
  const auto signalled = [](bool before, bool within) {
    const StopSignals signals;
    if (before) raise(SIGTERM);
    {
      const StopSignals::AtOnce at_once(75);
      if (within) raise(SIGINT);
    }
    raise(SIGTERM);
    std::exit(signals.stop() ? 3 : 4);
  };
  EXPECT_EXIT(signalled(false, true), testing::ExitedWithCode(75), "stopped by a signal before the first step");
  EXPECT_EXIT(signalled(true, false), testing::ExitedWithCode(75), "stopped by a signal before the first step") << "it came just before";
  EXPECT_EXIT(signalled(false, false), testing::ExitedWithCode(3), "after the step under way") << "as ever behind it";
}

}  // namespace
}  // namespace flexgen::stop_signals_test
