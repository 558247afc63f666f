// What is expected of answers, against what they may take.

#include "plan/workload.h"

#include <gtest/gtest.h>

namespace flexgen::workload_test {
namespace {

TEST(Workload, AnswersAreExpectedToTakeAllUnlessSaid) {
  Workload job;
  job.add(10, 32, false, false);
  EXPECT_EQ(job.total_generated_tokens, 32);
  EXPECT_FALSE(job.expects_early_ends());
  job.add(10, 32, false, false, 8);
  job.add(10, 4, false, false, 8);
  job.add(10, 4, false, false, 0);
  job.add(10, 0, false, true, 8);  // its prompt is scored
  EXPECT_TRUE(job.expects_early_ends());
  EXPECT_EQ(job.longest_sequence, 42);
  EXPECT_EQ(job.total_max_tokens, 32 + 32 + 4 + 4 + 0);
  EXPECT_EQ(job.total_generated_tokens, 32 + 8 + 4 + 1 + 0);
  const int32_t generated[] = {32, 8, 4, 1, 0};
  for (size_t i = 0; i < job.sample.size(); ++i) EXPECT_EQ(job.sample[i].generated, generated[i]);
}

TEST(Workload, WhatIsSharedIsWholePages) {
  Workload job;
  for (int i = 0; i < 10; ++i) job.add(150, 8, false, false, {}, {i % 2 == 0 ? 112 : 48, i == 0 ? 0 : 48});
  const Workload paged = job.in_pages(64);
  EXPECT_EQ(paged.total_prefix_tokens, 5 * 64);
  EXPECT_EQ(paged.total_shared_tokens, 0);
  EXPECT_EQ(paged.computed_prompt_tokens(), 1500);
  EXPECT_EQ(paged.sample[0].prefix, 64);
  EXPECT_EQ(paged.sample[1].prefix, 0);
  EXPECT_EQ(job.in_pages(16).total_shared_tokens, job.total_shared_tokens);
}

TEST(Workload, ASampleKeepsNeighboursTogether) {
  Workload workload;
  constexpr int64_t kRun = Workload::kSampleRun;
  for (int64_t i = 0; i < 5 * Workload::kMaxSample; ++i) workload.add(static_cast<int64_t>(i), 1, false, false);
  EXPECT_EQ(workload.sample_stride, 8);
  EXPECT_LE(std::ssize(workload.sample), Workload::kMaxSample);
  EXPECT_EQ(std::ssize(workload.sample), ceil_div(5 * Workload::kMaxSample, 8 * kRun) * kRun);
  for (int64_t i = 0; i < std::ssize(workload.sample); ++i) ASSERT_EQ(workload.sample[static_cast<size_t>(i)].prompt, i / kRun * kRun * 8 + i % kRun);
}

TEST(Workload, AShareIsOfEachAnswersMaxTokens) {
  Workload job;
  for (int i = 0; i < 40000; ++i) job.add(10, i % 2 ? 100 : 1, false, false);
  EXPECT_GT(job.sample_stride, 1);
  job.expect(0.3);
  double generated = 0, most = 0;
  for (const SequenceLength& length : job.sample) {
    generated += length.generated;
    most += length.max_tokens;
  }
  EXPECT_DOUBLE_EQ(job.total_generated_tokens / job.total_max_tokens, generated / most);
  for (const SequenceLength& length : job.sample) EXPECT_EQ(length.generated, length.max_tokens == 1 ? 1 : 30);
  job.expect(1);
  EXPECT_FALSE(job.expects_early_ends());
}

}  // namespace
}  // namespace flexgen::workload_test
