// Profiles: JSON and back, rates between the points, and files that are wrong.

#include "plan/hardware_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"

namespace flexgen::hardware_profile_test {
namespace {

HardwareProfile with_gpu() {
  HardwareProfile profile = HardwareProfile::generic();
  profile.gpu = profile.cpu;
  profile.gpu->attention.push_back({DType::kInt4, 4, {{64, 1e9}, {1024, 3e9}}, 2e9});
  profile.name = "a \"machine\"";
  return profile;
}

TEST(HardwareProfile, JsonAndBack) {
  HardwareProfile profile = with_gpu();
  profile.disk.write_wait_s = 0.25;
  profile.disk.short_read_bytes_per_s = 5e8;
  const std::string text = to_json(profile);
  EXPECT_EQ(to_json(profile_from_json(text, "test")), text);
  EXPECT_EQ(profile_from_json(text, "test").disk.write_wait_s, 0.25);
  EXPECT_EQ(profile_from_json(text, "test").disk.short_read_bytes_per_s, 5e8);
  profile.disk.read_bytes_per_s = 6e8;
  EXPECT_FALSE(profile.disk.leaves_room_for_writes());
}

TEST(HardwareProfile, KeepsWhatSpeaksAgainstIt) {
  HardwareProfile profile = with_gpu();
  profile.measured = "2026-01-01";
  profile.load_average = 3.5;
  profile.others_share = 0.25;
  profile.doubt = "other programs";
  profile.confirmed = true;
  const HardwareProfile again = profile_from_json(to_json(profile), "test");
  EXPECT_EQ(again.load_average, 3.5);
  EXPECT_EQ(again.others_share, 0.25);
  EXPECT_EQ(again.doubt, "other programs");
  EXPECT_TRUE(again.confirmed);
}

TEST(HardwareProfile, SaysHowItWasMeasured) {
  std::string text = to_json(with_gpu());
  EXPECT_EQ(profile_from_json(text, "test").method, kMeasuringMethod);
  const std::string line = fmt::format("\"method\": {},", kMeasuringMethod);
  ASSERT_NE(text.find(line), std::string::npos);
  text.erase(text.find(line), line.size());
  EXPECT_EQ(profile_from_json(text, "test").method, 1);  // as before there were several
}

TEST(HardwareProfile, ALimitedDiskSharesItsLimit) {
  DiskProfile disk;
  disk.read_bytes_per_s = 2e9, disk.write_bytes_per_s = 0.4e9, disk.write_share_of_read = 0.5, disk.compute_slowdown = 0.2;
  const DiskProfile less = limited(disk, 0.5e9);
  EXPECT_EQ(less.read_bytes_per_s, 0.5e9);
  EXPECT_EQ(less.write_bytes_per_s, 0.4e9);
  EXPECT_NEAR(less.write_share_of_read, 0.8, 1e-12);  // a second of writing uses up 0.4 of 0.5 GB
  EXPECT_NEAR(less.compute_slowdown, 0.05, 1e-12);
  const DiskProfile same = limited(disk, 1e12);
  EXPECT_EQ(same.read_bytes_per_s, disk.read_bytes_per_s);
  EXPECT_EQ(same.write_share_of_read, disk.write_share_of_read);
  EXPECT_EQ(same.compute_slowdown, disk.compute_slowdown);
}

TEST(HardwareProfile, TimeIsLinearBetweenPoints) {
  ComputeProfile cpu;
  cpu.matmul = {{DType::kF32, DType::kBF16, {{1, 1e9}, {16, 16e9}, {64, 32e9}}}};
  auto visit_s = [&](double rows) { return cpu.matmul_s(DType::kF32, DType::kBF16, kUsualWidth, rows, rows * 1e9); };
  EXPECT_NEAR(visit_s(1), 1, 1e-9);
  EXPECT_NEAR(visit_s(16), 1, 1e-9);  // one row or sixteen: the weights are read all the same
  EXPECT_NEAR(visit_s(8), 1, 1e-9);
  EXPECT_NEAR(visit_s(64), 2, 1e-9);
  EXPECT_NEAR(visit_s(40), 1.5, 1e-9);
  EXPECT_NEAR(visit_s(112), 3, 1e-9);  // goes on as it went last
}

TEST(HardwareProfile, TakesTheNearestType) {
  ComputeProfile cpu;
  cpu.matmul = {{DType::kF32, DType::kF32, {{1, 1e9}}}, {DType::kF32, DType::kBF16, {{1, 2e9}}}, {DType::kBF16, DType::kInt4, {{1, 4e9}}}};
  EXPECT_NEAR(cpu.matmul_s(DType::kF32, DType::kF16, kUsualWidth, 1, 2e9), 1, 1e-9);
  EXPECT_NEAR(cpu.matmul_s(DType::kF32, DType::kInt4, kUsualWidth, 1, 4e9), 1, 1e-9);
  cpu.attention = {{DType::kBF16, 1, {{64, 4e9}}, 1e9}, {DType::kBF16, 4, {{64, 1e9}}, 1e9}};
  EXPECT_NEAR(cpu.decode_attention_s(DType::kF16, 1, 100, 4e9), 1, 1e-9);
  EXPECT_NEAR(cpu.decode_attention_s(DType::kBF16, 4, 100, 1e9), 1, 1e-9);
  EXPECT_NEAR(cpu.decode_attention_s(DType::kBF16, 8, 100, 1e9), 1, 1e-9);
  EXPECT_NEAR(cpu.decode_attention_s(DType::kBF16, 2, 100, 4e9), 2, 1e-9);
}

TEST(HardwareProfile, TakesTheNearestWidthOfTheNearestType) {
  ComputeProfile cpu;
  cpu.matmul = {{DType::kF32, DType::kBF16, {{1, 4e9}}}, {DType::kF32, DType::kBF16, {{1, 1e9}}, 256}, {DType::kF32, DType::kInt4, {{1, 8e9}}, 1024}};
  auto time_s = [&](double width) { return cpu.matmul_s(DType::kF32, DType::kBF16, width, 1, 4e9); };
  EXPECT_NEAR(time_s(12288), 1, 1e-9);
  EXPECT_NEAR(time_s(1024), 1, 1e-9);  // another type's would be nearer
  EXPECT_NEAR(time_s(512), 4, 1e-9);
  EXPECT_NEAR(time_s(64), 4, 1e-9);
}

TEST(HardwareProfile, WrongFilesAreRefusedByName) {
  const std::string good = to_json(with_gpu());
  auto refused = [&](const std::string& from, const std::string& to, const std::string& why) {
    std::string text = good;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    try {
      profile_from_json(text, "file.json");
      ADD_FAILURE() << "accepted: " << to;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(why));
    }
  };
  refused("\"disk\"", "\"disc\"", "the field 'disc' is unknown");
  refused("\"ram_read_bytes_per_s\": 25000000000.0", "\"ram_read_bytes_per_s\": -1", "'ram_read_bytes_per_s' must be a number above 0");
  refused("\"weights\": \"bf16\"", "\"weights\": \"bf17\"", "'weights' is 'bf17'");
  refused("\"format\": 1", "\"format\": 2", "format 2");
  refused("\"visit_s\"", "\"visits\"", "cpu: the field 'visits' is unknown");
  const std::string ram = "\"ram_read_bytes_per_s\": 25000000000.0";
  for (const char* value : {"1e15", "0", "-0.5", "1e-3", "\"fast\"", "null", "[1]", "true"})
    refused(ram, fmt::format("\"ram_read_bytes_per_s\": {}", value), "'ram_read_bytes_per_s'");
  refused(ram, "\"ram_read_bytes_per_s\": 1e999", "a number that is out of range, 1e999");
  refused(ram, "\"ram_read_bytes_per_s\": NaN", "is not JSON");
  refused(ram, ram + ", " + ram, "names 'ram_read_bytes_per_s' twice");
  refused("\"write_share_of_read\": 0.5", "\"write_share_of_read\": 1.5", "disk: 'write_share_of_read' is 1.5, and must be a share from 0 to 1");
  refused("\"request_s\": 0.0001", "\"request_s\": 1e5", "'request_s' is 100000, which no machine has");
  refused("\"chunk_flops_per_s\": 400000000000.0", "\"chunk_flops_per_s\": 1e300", "'chunk_flops_per_s'");
  refused("\"format\": 1,", "\"format\": 1, \"doubt\": 5,", "'doubt' must be a text");
  refused("\"format\": 1,", "\"format\": 1, \"confirmed\": 1,", "'confirmed' must be true or false");
  refused("\"format\": 1,", "\"format\": 1, \"load\": {\"average\": -1, \"others_share\": 0},", "load: 'average'");
  refused("\"cache\": \"bf16\"", "\"cache\": " + std::string(100000, '['), "nested too deep");
  refused("\"format\": 1,", "\"format\": 1, \"load\": {\"average\": 1e9, \"others_share\": 0},", "load: 'average'");
  refused(fmt::format("\"method\": {}", kMeasuringMethod), "\"method\": 1.5", "'method' is 1.5, and must be a whole number");
  refused("\"compute\": \"f32\"", "\"compute\": \"int4\"", "'compute' is 'int4'");
}

TEST(HardwareProfile, RatesThatCannotBeAreRefusedByName) {
  const auto refused = [](const std::function<void(ComputeProfile&)>& change, const std::string& why) {
    HardwareProfile profile = with_gpu();
    change(*profile.gpu);
    try {
      profile_from_json(to_json(profile), "file.json");
      ADD_FAILURE() << "accepted: " << why;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("file.json: gpu"), testing::HasSubstr(why)));
    }
  };
  const auto rows = [&](std::vector<RatePoint> points, const std::string& why) {
    refused([&](ComputeProfile& gpu) { gpu.matmul.front().points = points; }, why);
  };
  rows({{0.5, 1e9}, {16, 1e10}}, "'rows_to_flops_per_s' has [0.5, 1000000000], which no machine has: sizes can be from 1");
  rows({{1e-300, 1e9}}, "sizes can be from 1");
  rows({{0, 1e9}}, "both above 0");
  rows({{1, 1e9}, {1e12, 1e10}}, "sizes can be from 1 to 1e+09");
  rows({{16, 1e10}, {1, 1e9}}, "sizes ascending");
  rows({{1, 1e9}, {1, 1e10}}, "sizes ascending");
  rows({{1, 1e3}, {16, 1e12}}, "'rows_to_flops_per_s' has [1, 1000] and [16, 1000000000000], which contradict each other");
  refused([](ComputeProfile& gpu) { gpu.attention.back().points = {{64, 1e3}, {1024, 1e13}}; }, "'context_to_bytes_per_s' has [64, 1000] and");
  refused([](ComputeProfile& gpu) { gpu.attention.back().points.front().x = 0.25; }, "'context_to_bytes_per_s' has [0.25,");
  refused([](ComputeProfile& gpu) { gpu.attention.back().queries_per_kv_head = 0.5; }, "'queries_per_kv_head' is 0.5");
  refused([](ComputeProfile& gpu) { gpu.matmul.front().width = 0.5; }, "'width' is 0.5");
  refused([](ComputeProfile& gpu) { gpu.matmul.push_back(gpu.matmul.front()); }, "compute 'f32', weights 'bf16', width 2048 is there twice");
  refused([](ComputeProfile& gpu) { gpu.attention.push_back(gpu.attention.front()); }, "cache 'bf16', queries_per_kv_head 1 is there twice");
}

TEST(HardwareProfile, ListsAreBounded) {
  const auto refusal = [](const std::function<void(ComputeProfile&)>& change) -> std::string {
    HardwareProfile profile = with_gpu();
    change(*profile.gpu);
    try {
      profile_from_json(to_json(profile), "file.json");
      return "none";
    } catch (const Error& error) {
      return error.what();
    }
  };
  const auto widths = [](int count) {
    return [=](ComputeProfile& gpu) {
      gpu.matmul.resize(1);
      for (int i = 1; i < count; ++i) gpu.matmul.push_back(gpu.matmul.front()), gpu.matmul.back().width = 10'000 + i;
    };
  };
  const auto rows = [](int count) {
    return [=](ComputeProfile& gpu) {
      gpu.matmul.front().points.clear();
      for (int i = 1; i <= count; ++i) gpu.matmul.front().points.push_back({static_cast<double>(i), 1e9});
    };
  };
  EXPECT_EQ(refusal(widths(1000)), "none");
  EXPECT_THAT(refusal(widths(1001)), testing::HasSubstr("file.json: gpu: 'matmul' has 1,001 entries; it may have 1,000"));
  EXPECT_EQ(refusal(rows(1000)), "none");
  EXPECT_THAT(refusal(rows(1001)), testing::HasSubstr("'rows_to_flops_per_s' has 1,001 entries"));
}

TEST(HardwareProfile, WrongTextIsRefused) {
  EXPECT_THROW(profile_from_json("[]", "x"), Error);
  EXPECT_THROW(profile_from_json("{", "x"), Error);
}

}  // namespace
}  // namespace flexgen::hardware_profile_test
