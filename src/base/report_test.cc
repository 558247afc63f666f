#include "base/report.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <string>

namespace flexgen::report_test {
namespace {

TEST(Report, LinesAreFoldedBetweenWords) {
  EXPECT_EQ(folded("one two three four five\nsix\n", 0), "one two three four five\nsix\n") << "no terminal";
  EXPECT_EQ(folded("one two three four five\nsix\n", 20), "one two three four\n  five\nsix\n");
  EXPECT_EQ(folded("  one two three four five six seven\n", 20), "  one two three four\n    five six seven\n");
  EXPECT_EQ(folded("0123456789 0123456789 0123456789 012345678\n", 20), "0123456789\n  0123456789\n  0123456789\n  012345678\n");
  EXPECT_EQ(folded("0123456789012345678901234 x\n", 20), "0123456789012345678901234\n  x\n") << "a word that is too long stays whole";
  EXPECT_EQ(folded("äöüäöüäöü äöüäöüäöü!", 20), "äöüäöüäöü äöüäöüäöü!") << "columns, not bytes";
  EXPECT_EQ(folded("12345678901234567890\n\n  a   b\n", 20), "12345678901234567890\n\n  a   b\n") << "what fits stays as it is";
}

TEST(Report, WhatNobodyReadsIsDroppedSoon) {
  const int full = open("/dev/full", O_WRONLY);
  EXPECT_FALSE(write_if_possible(full, "text"));
  close(full);
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  EXPECT_TRUE(write_if_possible(ends[1], "text"));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(write_if_possible(ends[1], std::string(1 << 20, 'x')));
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(write_if_possible(ends[1], std::string(5000, 'x')));  // it is waited for once
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  std::string taken(1 << 20, '\0');
  EXPECT_GT(read(ends[0], taken.data(), taken.size()), 4);
  EXPECT_TRUE(write_if_possible(ends[1], "more"));
  close(ends[0]);
  signal(SIGPIPE, SIG_IGN);
  EXPECT_FALSE(write_if_possible(ends[1], "more"));
  close(ends[1]);
  EXPECT_FALSE(write_if_possible(ends[1], "more"));
}

TEST(Report, EscapeCodesNeedATerminalThatKnowsThem) {
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
  if (terminal < 0) GTEST_SKIP() << "no terminals here";
  unsetenv("NO_COLOR");
  setenv("TERM", "xterm", 1);
  EXPECT_TRUE(can_redraw(terminal) && can_color(terminal));
  setenv("NO_COLOR", "1", 1);
  EXPECT_TRUE(can_redraw(terminal) && !can_color(terminal));
  unsetenv("NO_COLOR");
  for (const char* term : {"dumb", ""}) {
    setenv("TERM", term, 1);
    EXPECT_FALSE(can_redraw(terminal) || can_color(terminal));
  }
  unsetenv("TERM");
  EXPECT_FALSE(can_redraw(terminal));
  close(terminal);
}

}  // namespace
}  // namespace flexgen::report_test
