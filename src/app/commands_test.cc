// The commands themselves, on a small real checkpoint.

#include "app/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "app/fake_runner.h"
#include "app/lane_peaks.h"
#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

const std::string kModel = std::string(FLEXGEN_SOURCE_DIR) + "/../shared/models/tinystories-656k";

template <typename Call>
std::string stdout_of(Call call) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  call();
  std::fflush(stdout);
  testing::internal::GetCapturedStderr();
  return testing::internal::GetCapturedStdout();
}

class Commands : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kModel)) GTEST_SKIP() << "no " << kModel;
    engine_.cpu_memory_bytes = 64 * kMiB;
  }
  TemporaryDirectory directory_;
  EngineFlags engine_;
};

TEST_F(Commands, Inspect) {
  Json json = Json::parse(stdout_of([] { inspect_command({kModel, true}); }));
  EXPECT_EQ(json["model_type"], "llama");
  EXPECT_EQ(json["layers"], 2);
  EXPECT_EQ(json["parameters"], 656000);
  EXPECT_EQ(json["kv_bytes_per_token"], 2 * 2 * 4 * 16 * 2);  // layers, keys and values, heads, head size, 16 bits
  EXPECT_THROW(inspect_command({directory_.path(), false}), Error);
}

TEST_F(Commands, GenerateContinues) {
  GenerateOptions options{kModel, "", {}, engine_};
  options.params.max_tokens = 24;
  options.params.temperature = 0;
  for (const char* backend : {"reference", "cpu"}) {
    options.engine.backend = backend;
    EXPECT_EQ(stdout_of([&] { generate_command(options); }).substr(0, 63), "Once upon a time, there was a little girl named Lily. She had a") << backend;
  }
  options.params.max_tokens = 512;
  EXPECT_THROW(generate_command(options), Error);  // bos and 512 are more than the positions
}

TEST_F(Commands, BatchIsTheSameUnderEveryPolicyAndAfterAStop) {
  std::string in = directory_.file("in.jsonl"), text;
  for (int i = 0; i < 12; ++i)
    text += fmt::format(R"({{"custom_id":"r{}","method":"POST","url":"/v1/completions","body":{{"prompt":"Once upon {}","max_tokens":{},"temperature":{},"n":{},"logprobs":{},"echo":{}}}}})",
                        i, std::string(static_cast<size_t>(i), 'a'), 3 + i, i % 2, 1 + i % 2, i % 3 ? "null" : "2", i % 4 == 0) + "\n";
  write_text(in, text + "oops\n");
  RunBatchOptions options{kModel, in, directory_.file("a.jsonl"), false, engine_};
  EXPECT_EQ(run_batch_command(options), kExitDone);
  const auto expected = sorted_lines(read_text(options.output));
  ASSERT_EQ(expected.size(), 13u);

  options.output = directory_.file("b.jsonl");
  options.engine.disk_directory = directory_.path();
  options.engine.policy.weights = Fractions{0, 0.3, 0.7};
  options.engine.policy.kv_cache = Fractions{0, 0.5, 0.5};
  options.engine.policy.micro_batch_size = 3;
  options.engine.policy.num_micro_batches = 2;
  EXPECT_EQ(run_batch_command(options), kExitDone);
  EXPECT_EQ(sorted_lines(read_text(options.output)), expected);

  const std::string whole = read_text(options.output);
  for (size_t part = 1; part < 4; ++part) {
    write_text(options.output, whole.substr(0, whole.size() * part / 4));
    options.engine.policy.micro_batch_size = 1 + static_cast<int64_t>(part);
    EXPECT_EQ(run_batch_command(options), kExitDone);
    EXPECT_EQ(sorted_lines(read_text(options.output)), expected) << part;
  }
  options.engine.backend = "reference";
  EXPECT_THROW(run_batch_command(options), Error);  // other answers
}

TEST_F(Commands, Doctor) {
  Json json = Json::parse(stdout_of([&] { doctor_command({directory_.path(), true}); }));
  EXPECT_GT(json["cores"], 0);
  EXPECT_GT(json["memory_total_bytes"], 0);
  EXPECT_GT(json["disk_read_bytes_per_s"], 0);
  EXPECT_GT(json["disk_write_bytes_per_s"], 0);
  EXPECT_THROW(doctor_command({directory_.file("missing"), true}), Error);
}

TEST(LanePeaks, BoundIsTheBusiestResource) {
  RunReport report;
  report.elapsed_s = 100;
  report.lanes = {{"compute", {60, 0, 1}}, {"disk read", {90, 140e9, 1}}, {"disk lookup", {1, 10e9, 1}}, {"disk write", {10, 5e9, 1}}};
  report.work.linear_flops = 40e12;
  report.work.kv_read_bytes = 100e9;
  Bound bound = bound_of(report, {1e12, 20e9, 2e9, 1e9});
  EXPECT_DOUBLE_EQ(bound.compute_s, 45);
  EXPECT_DOUBLE_EQ(bound.disk_read_s, 75);
  EXPECT_DOUBLE_EQ(bound.disk_write_s, 5);
  EXPECT_DOUBLE_EQ(bound.seconds(), 75);
  EXPECT_EQ(bound.busiest(), "disk read");
}

}  // namespace
}  // namespace flexgen
