// The profile that a machine keeps of itself: when it is believed, when measured anew, and what is said. Measuring is played.

#include "setup/hardware.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "base/units.h"
#include "io/test_texts.h"
#include "measure/agreed_times.h"
#include "model/dummy_checkpoint.h"

namespace flexgen::hardware_test {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(AgreedTimes, TwoRoundsThatAgreeAreEnough) {
  int calls = 0;
  const AgreedTimes times = agreed_times(2, [&](size_t i) { return ++calls, i == 0 ? 1.0 : 2.0; });
  EXPECT_EQ(calls, 4);
  EXPECT_TRUE(times.agreed);
  EXPECT_EQ(times.times_s, (std::vector<double>{1, 2}));
}

TEST(AgreedTimes, WhatWasDisturbedIsMeasuredAgain) {
  const std::vector<double> second{9, 3, 5, 3.1};  // only disturbances that agree with each other are too slow
  size_t at = 0, first = 0;
  const AgreedTimes times = agreed_times(2, [&](size_t i) { return i == 0 ? (++first, 1.0) : second.at(at++); });
  EXPECT_EQ(first, 2u);  // agreed at once
  EXPECT_EQ(at, 4u);
  EXPECT_TRUE(times.agreed);
  EXPECT_NEAR(times.times_s[1], 3.05, 1e-9);
}

TEST(AgreedTimes, SaysWhenTheyNeverAgree) {
  double time_s = 64;
  const AgreedTimes times = agreed_times(1, [&](size_t) { return time_s /= 2; });
  EXPECT_FALSE(times.agreed);
  EXPECT_NEAR(times.apart, 2, 1e-9);
}

class OwnProfile : public testing::Test {
 protected:
  OwnProfile() {
    wanted_.types = {{{DType::kF32, DType::kBF16}}, {DType::kBF16}, {kUsualWidth}};
    wanted_.read_files = {"a file"};
    next_ = HardwareProfile::uniform(78e9, 10e9, 2e9, 1e9);
    next_.measured = "now";
  }
  std::string path(int threads) { return directory_.file(fmt::format("cache/hardware-a-processor-{}-core{}.json", threads, threads == 1 ? "" : "s")); }
  /// What a run plans with; what it said is in said_.
  HardwareProfile take(const std::string& path) {
    measured_ = 0;
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const HardwareProfile profile = own_profile(wanted_, path, [&](const MeasureOptions& options) {
      ++measured_;
      asked_ = options;
      return next_;
    });
    said_ = testing::internal::GetCapturedStderr() + testing::internal::GetCapturedStdout();
    return profile;
  }
  double rate(const HardwareProfile& profile) { return profile.cpu.matmul.front().points.front().per_s; }

  TemporaryDirectory directory_;
  MeasureOptions wanted_, asked_;
  HardwareProfile next_;
  int measured_ = 0;
  std::string said_;
};

TEST_F(OwnProfile, IsMeasuredOnceAndKept) {
  take(path(2));
  EXPECT_EQ(measured_, 1);
  EXPECT_TRUE(asked_.quick);
  EXPECT_THAT(said_, HasSubstr("never measured"));
  next_ = HardwareProfile::uniform(1, 1, 1, 1);
  EXPECT_EQ(rate(take(path(2))), 78e9);
  EXPECT_EQ(measured_, 0);
  EXPECT_EQ(said_, "");
  // Nothing is left beside it.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.file("cache")), {}), 1);
}

TEST_F(OwnProfile, MeasuredUnderLoadIsNotKeptForGood) {
  const HardwareProfile good = next_;
  next_ = HardwareProfile::uniform(1.7e9, 1e9, 1e9, 1e9);
  next_.measured = "under load";
  next_.load_average = 7.5;
  next_.others_share = 0.6;
  next_.doubt = "other programs took 60% of the processor time that measuring wanted";
  EXPECT_EQ(rate(take(path(2))), 1.7e9);  // as the machine is now
  EXPECT_THAT(said_, AllOf(HasSubstr("in doubt"), HasSubstr("60%"), HasSubstr("next one measures anew"), HasSubstr("load average 7.5")));
  const HardwareProfile kept = load_profile(path(2));
  EXPECT_EQ(kept.load_average, 7.5);
  EXPECT_EQ(kept.others_share, 0.6);
  next_ = good;
  EXPECT_EQ(rate(take(path(2))), 78e9);
  EXPECT_EQ(measured_, 1);
  EXPECT_THAT(said_, AllOf(HasSubstr("60%"), HasSubstr("measuring anew"), Not(HasSubstr("never"))));
  take(path(2));
  EXPECT_EQ(measured_, 0);
}

TEST_F(OwnProfile, MeasuredAfterMuchWasWrittenIsInDoubt) {
  HardwareProfile profile;
  doubt_if_written(kMiB, &profile);
  EXPECT_EQ(profile.doubt, "");
  doubt_if_written(16 * kGiB, &profile);
  EXPECT_THAT(profile.doubt, HasSubstr("16.0 GiB were written just before"));
  profile.doubt = "another reason";
  doubt_if_written(16 * kGiB, &profile);
  EXPECT_EQ(profile.doubt, "another reason");
}

TEST_F(OwnProfile, ARunThatWasTwiceAsFastMeasuresAnew) {
  RunReport report;
  report.elapsed_s = 10;
  report.lanes = {{LaneKind::kCompute, {.busy_s = 9}}, {LaneKind::kDiskRead, {.busy_s = 1}}};
  report.lanes[0].stats.expected_s = 17;
  report.lanes[1].stats.expected_s = 8;  // far off, but the run did not wait for it
  take(path(2));
  doubt_if_faster(report, path(2));
  EXPECT_EQ(load_profile(path(2)).doubt, "");
  report.lanes[0].stats.expected_s = 72;
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  doubt_if_faster(report, path(2));
  EXPECT_THAT(testing::internal::GetCapturedStderr() + testing::internal::GetCapturedStdout(),
              AllOf(HasSubstr("8.0 times as fast"), HasSubstr("next run measures anew")));
  take(path(2));  // as before: this machine is like that
  EXPECT_EQ(measured_, 1);
  doubt_if_faster(report, path(2));
  take(path(2));
  EXPECT_EQ(measured_, 0);
}

TEST_F(OwnProfile, AnotherNumberOfThreadsKeepsTheDisk) {
  next_.disk.read_bytes_per_s = 3e9;
  take(path(2));
  next_ = HardwareProfile::uniform(40e9, 10e9, 1, 1);
  next_.measured = "now";
  const HardwareProfile one = take(path(1));
  EXPECT_THAT(said_, AllOf(HasSubstr("measured with 2 threads"), Not(HasSubstr("never measured"))));
  EXPECT_EQ(measured_, 1);
  EXPECT_TRUE(asked_.read_files.empty());
  EXPECT_EQ(rate(one), 40e9);
  EXPECT_EQ(one.disk.read_bytes_per_s, 3e9);
  take(path(1));
  EXPECT_EQ(measured_, 0);
}

TEST_F(OwnProfile, DamagedOnesAreMeasuredAnew) {
  take(path(2));
  const std::string good = read_text(path(2));
  std::string negative = good, infinite = good, unsorted = good;
  negative.replace(negative.find("78000000000.0"), 13, "-1");
  infinite.replace(infinite.find("78000000000.0"), 13, "1e999");
  for (const std::string& text :
       {std::string(), good.substr(0, good.size() / 2), std::string("[]"), std::string(100000, '['), negative, infinite, std::string(1000, '\0')}) {
    write_text(path(2), text);
    EXPECT_EQ(rate(take(path(2))), 78e9);
    EXPECT_EQ(measured_, 1);
    EXPECT_THAT(said_, HasSubstr("cannot be used"));
    EXPECT_THROW((write_text(path(2), text), load_profile(path(2))), Error);  // given with --hardware
  }
  std::filesystem::remove(path(2));
  ASSERT_EQ(mkfifo(path(2).c_str(), 0600), 0);  // reading it would never end
  EXPECT_THROW(load_profile(path(2)), Error);
  take(path(2));
  EXPECT_EQ(measured_, 1);
}

TEST_F(OwnProfile, NoPlaceToKeepItIsNoReasonToStop) {
  EXPECT_EQ(rate(take("")), 78e9);
  EXPECT_THAT(said_, HasSubstr("FLEXGEN_CACHE_DIR"));
  for (const char* place : {"/proc/.cache/flexgen/hardware-a-1-core.json", "/dev/null/flexgen/hardware-a-1-core.json"}) {
    EXPECT_EQ(rate(take(place)), 78e9);
    EXPECT_EQ(measured_, 1);
    EXPECT_THAT(said_, AllOf(HasSubstr("cannot be kept"), HasSubstr("FLEXGEN_CACHE_DIR")));
  }
}

TEST_F(OwnProfile, WritersAtOnceLeaveAWholeOne) {
  std::vector<std::thread> writers;
  std::filesystem::create_directories(directory_.file("cache"));
  for (int i = 0; i < 4; ++i)
    writers.emplace_back([&, i] {
      HardwareProfile profile = next_;
      profile.name = std::string(static_cast<size_t>(1000 * (i + 1)), 'x');
      for (int round = 0; round < 50; ++round) {
        save_profile(profile, path(2));
        load_profile(path(2));
      }
    });
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.file("cache")), {}), 1);
}

/// A GPU that computes in fp16, as it does for every OPT checkpoint: the processor beside it cannot, and is measured in what it computes in.
TEST(SetHardware, MeasuresTheProcessorInItsOwnType) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer does not follow the emulated threads' stacks";
#endif
  const TemporaryDirectory directory;
  setenv("FLEXGEN_CACHE_DIR", directory.file("cache").c_str(), 1);
  const std::string model = directory.file("model");
  ensure_dummy_checkpoint(model, R"({"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 128,
    "vocab_size": 211, "max_position_embeddings": 256, "word_embed_proj_dim": 64, "do_layer_norm_before": true, "activation_function": "relu", "eos_token_id": 2, "bos_token_id": 2})",
                          DType::kF16, 3, nullptr);
  EngineOptions options;
  options.model_directory = model;
  options.load_tokenizer = false;
  options.backend = "emulated-gpu-cuda";
  options.budgets = {64 * kMiB, 0, 16 * kMiB};
  options.threads = 1;
  EngineFlags flags;
  flags.backend = options.backend;
  Engine engine(options);
  ASSERT_EQ(engine.compute_dtype(), DType::kF16);
  set_hardware(engine, flags);
  const HardwareProfile kept = load_profile(profile_path(1));
  EXPECT_NE(kept.cpu.matmul.front().compute, DType::kF16);
  EXPECT_GT(kept.cpu.matmul.front().points.back().per_s, 0);
  ASSERT_TRUE(engine.hardware().gpu.has_value());
  unsetenv("FLEXGEN_CACHE_DIR");
}

TEST(DirectoryLock, SaysThatItWaitsAndGivesUp) {
  TemporaryDirectory directory;
  std::vector<bool> told;
  const DirectoryLock held(directory.path(), 0, [&](bool gives_up) { told.push_back(gives_up); });
  const DirectoryLock second(directory.path(), 0.2, [&](bool gives_up) { told.push_back(gives_up); });
  EXPECT_EQ(told, (std::vector<bool>{false, true}));
}

}  // namespace
}  // namespace flexgen::hardware_test
