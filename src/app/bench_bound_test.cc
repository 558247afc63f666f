#include "app/bench_bound.h"

#include <gtest/gtest.h>

namespace flexgen {
namespace {

TEST(BenchBound, LongestResourceOverTime) {
  RunReport report;
  report.elapsed_s = 100;
  report.lanes = {{"compute", {60, 0, 1}}, {"disk read", {90, 140e9, 1}}, {"disk lookup", {1, 10e9, 1}}, {"disk write", {10, 5e9, 1}}};
  report.work.linear_flops = 30e12;
  report.work.attention_flops = 10e12;
  report.work.kv_read_bytes = 100e9;
  Peaks peaks{2e9, 1e9, 20e9, 1e12};
  auto times = resource_times(report, peaks);
  ASSERT_EQ(times.size(), 4u);
  EXPECT_DOUBLE_EQ(times[0].time_s, 75);
  EXPECT_DOUBLE_EQ(times[1].time_s, 5);
  EXPECT_DOUBLE_EQ(times[2].time_s, 40);
  EXPECT_DOUBLE_EQ(times[3].time_s, 5);
  EXPECT_DOUBLE_EQ(efficiency(report, times), 0.75);
}

TEST(BenchBound, ALaneRaisesItsPeak) {
  RunReport report;
  report.lanes = {{"disk read", {10, 30e9, 1}}, {"disk write", {0.01, 30e9, 1}}};
  Peaks peaks{2e9, 1e9, 0, 0};
  raise_to_lanes(report, &peaks);
  EXPECT_DOUBLE_EQ(peaks.disk_read_bytes_per_s, 3e9);
  EXPECT_DOUBLE_EQ(peaks.disk_write_bytes_per_s, 1e9);
}

TEST(BenchBound, NoWorkNoTime) {
  EXPECT_EQ(efficiency({}, resource_times({}, {})), 0);
}

}  // namespace
}  // namespace flexgen
