#include "cli/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/report.h"
#include "batch/fake_runner.h"

namespace flexgen::progress_test {
namespace {

using testing::HasSubstr;

Progress half_done() {
  Progress now;
  now.sequences_done = 100;
  now.sequences_total = 256;
  now.prompt_tokens_done = 10000;
  now.prompt_tokens_total = 16000;
  now.generated_tokens_done = 2000;
  now.generated_tokens_total = 8000;
  now.elapsed_s = 100;
  now.lanes = {{LaneKind::kCompute, {60, 0, 10}}, {LaneKind::kDiskRead, {97, 1.7e11, 10}}};
  return now;
}

TEST(Progress, Line) {
  EXPECT_EQ(progress_line({}, half_done()),
            "100 of 256 sequences done; 100 prompt and 20 generated tokens/s; 1m 40s left; bottleneck disk read (97% busy, 1.70 GB/s)");
}

TEST(Progress, BottleneckIsThatOfTheWindow) {
  Progress before = half_done(), now = half_done();
  now.elapsed_s = 110;
  now.lanes[0].stats.busy_s = 69;
  now.lanes[1].stats.busy_s = 98;
  EXPECT_EQ(bottleneck(before, now).name, "compute");
  EXPECT_NEAR(bottleneck(before, now).busy, 0.9, 1e-9);
  EXPECT_EQ(bottleneck(now, now).name, "");
}

TEST(Progress, Bar) {
  EXPECT_EQ(progress_bar({}, half_done(), 200),
            "[" + std::string(20, '#') + std::string(20, '-') + "]  50%  100/256  100 prompt + 20 generated tok/s  ETA 1m 40s  disk read 97%");
  EXPECT_EQ(progress_bar({}, half_done(), 80), "[#########----------]  50%  100/256  100 prompt + 20 generated tok/s  ETA 1m 40s");
  EXPECT_EQ(progress_bar({}, half_done(), 60), "[" + std::string(16, '#') + std::string(16, '-') + "]  50%  100/256  ETA 1m 40s");
  EXPECT_EQ(progress_bar({}, half_done(), 12), "ETA 1m 40s") << "goes last";
}

TEST(Progress, BarFitsEveryWidth) {
  Progress large = half_done();
  large.sequences_done = 1234567;
  large.sequences_total = 123456789;
  large.elapsed_s = 1e6;
  large.prompt_tokens_done = 1e12;
  large.prompt_tokens_total = 1e14;
  for (const Progress& progress : {Progress{}, half_done(), large})
    for (int width = 0; width <= 220; ++width) {
      const std::string bar = progress_bar({}, progress, width);
      EXPECT_LE(bar.size(), static_cast<size_t>(width));
      if (width >= 20) {
        EXPECT_THAT(bar, HasSubstr("ETA")) << width;
      }
      if (width >= 60) {
        EXPECT_THAT(bar, HasSubstr("%")) << width;
      }
    }
}

TEST(Progress, CountsWhatEarlierRunsHaveDone) {
  Progress now = half_done();
  now.sequences_before = 256;
  EXPECT_THAT(progress_bar({}, now, 100), HasSubstr("75%  356/512"));
  EXPECT_THAT(progress_line({}, now), HasSubstr("356 of 512 sequences done"));
  EXPECT_EQ(seconds_left(now), seconds_left(half_done())) << "what is left takes as long as before";
}

/// A prompt of many tokens may take one step, and each token of an answer one.
TEST(Progress, WeighsTokensByWhatTheyTake) {
  Progress now = half_done();  // 10,000 of 16,000 prompt tokens, 2,000 of 8,000 of the answers, in 100 s
  now.sequences_done = 50;
  now.prompts_share = 0.2;
  EXPECT_DOUBLE_EQ(seconds_left(now), 100 * (1 - 0.325) / 0.325);
  now.prompts_share = 0.5;
  EXPECT_DOUBLE_EQ(seconds_left(now), 100 * (1 - 0.4375) / 0.4375);
  now.prompts_share = 1;
  now.prompt_tokens_done = 17000;
  EXPECT_EQ(seconds_left(now), 0) << "no more than all";
}

TEST(Progress, NothingKnownYet) {
  EXPECT_LT(seconds_left({}), 0);
  EXPECT_THAT(progress_line({}, {}), HasSubstr("? left"));
  EXPECT_THAT(progress_bar({}, {}, 100), HasSubstr("0%"));
}

TEST(Progress, Table) {
  RunReport report;
  report.sequences = 256;
  report.prompt_tokens = 32768;
  report.generated_tokens = 8192;
  report.elapsed_s = 100;
  report.lanes = {{LaneKind::kCompute, {62, 0, 5}}, {LaneKind::kDiskRead, {97, 1.34e11, 5}}, {LaneKind::kDiskWrite, {}}};
  std::string table = report_table(report);
  EXPECT_THAT(table, HasSubstr("327.7 tokens/s"));
  EXPECT_THAT(table, HasSubstr("81.9 tokens/s"));
  EXPECT_THAT(table, HasSubstr("97% busy   125 GiB at 1.38 GB/s"));
  EXPECT_THAT(table, testing::Not(HasSubstr("disk write")));
}

TEST(Progress, DisplayPrintsLinesAndEnds) {
  std::FILE* file = std::tmpfile();
  for (bool terminal : {false, true}) {
    ProgressDisplay display(half_done, 0.01, fileno(file), terminal);
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
  }
  std::rewind(file);
  std::string text(100000, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  EXPECT_THAT(text, testing::ContainsRegex("[0-9]+-[0-9]+-[0-9]+ [0-9:]+ 100 of 256 sequences done"));
  EXPECT_THAT(text, HasSubstr("\r[####"));
  EXPECT_TRUE(text.ends_with(" \r"));
  EXPECT_EQ(text.find('\033'), std::string::npos);
}

/// A note would stand behind the bar that is drawn.
TEST(Progress, ANoteTakesThePlaceOfABar) {
  std::FILE* const file = std::tmpfile();
  const int kept = dup(STDERR_FILENO);
  ASSERT_EQ(dup2(fileno(file), STDERR_FILENO), STDERR_FILENO);
  draw_over(STDERR_FILENO, "[##--]  50%");
  write_note("a note\n");
  draw_over(STDERR_FILENO, "[###-]");
  draw_over(STDERR_FILENO, "");
  write_note("another\n");
  dup2(kept, STDERR_FILENO);
  close(kept);
  std::rewind(file);
  std::string text(1000, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  EXPECT_EQ(text, "\r[##--]  50%\r           \ra note\n\r[###-]\r      \ranother\n");
}

}  // namespace
}  // namespace flexgen::progress_test
