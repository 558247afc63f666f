#include "setup/dtype_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/units.h"
#include "io/test_texts.h"

namespace flexgen::dtype_choice_test {
namespace {

std::unique_ptr<Model> opt_1_3b() { return Model::of_shape(parse_config(*shape_config_json("opt-1.3b"), "", "opt-1.3b"), DType::kBF16); }

Workload short_answers() {
  Workload workload;
  for (int i = 0; i < 200; ++i) workload.add(64, 8, false, false);
  return workload;
}

EngineOptions with_memory(int64_t cpu_bytes) {
  EngineOptions options;
  options.budgets.cpu_bytes = cpu_bytes;
  return options;
}

DtypeChoice choice_of(const std::vector<DtypePair>& pairs, int64_t cpu_bytes, double disk_bytes_per_s) {
  HardwareProfile hardware = HardwareProfile::generic();
  hardware.disk.read_bytes_per_s = disk_bytes_per_s;
  return choose_dtypes(with_memory(cpu_bytes), pairs, opt_1_3b, short_answers(), hardware);
}

TEST(DtypeChoice, FewerBytesWhereTheDiskIsTheBottleneck) {
  const DtypeChoice choice = choice_of({{"int4", "auto"}, {"auto", "auto"}, {"int8", "auto"}}, 600 * kMiB, 0.2e9);
  EXPECT_EQ(choice.types.weights, "int4");
  ASSERT_EQ(choice.judged.size(), 3U);
  EXPECT_EQ(choice.judged[0].types.weights, "auto");  // the widest first
  EXPECT_GT(choice.judged[0].time_s, 2 * choice.judged[2].time_s);
  EXPECT_THAT(choice_text(choice), testing::HasSubstr("auto and auto"));
}

TEST(DtypeChoice, TheWidestWhereNothingIsGained) {
  // All weights stay in RAM: a narrower cache of these short sequences saves nothing worth a change of answers.
  const DtypeChoice choice = choice_of({{"auto", "int4"}, {"auto", "int8"}, {"auto", "bf16"}}, 16 * kGiB, 2e9);
  EXPECT_EQ(choice.types.kv_cache, "bf16");
}

TEST(DtypeChoice, WhatDoesNotFitIsNoChoice) {
  const DtypeChoice choice = choice_of({{"auto", "auto"}, {"int4", "int4"}}, 90 * kMiB, 2e9);
  EXPECT_EQ(choice.types.weights, "int4");
  EXPECT_EQ(choice.judged[0].time_s, 0);
  EXPECT_THROW(choice_of({{"auto", "auto"}, {"int4", "int4"}}, kMiB, 2e9), Error);
}

TEST(DtypeChoice, WhatIsNotMultipliedInIntegersIsNotSaidToBeTooLarge) {
  EngineOptions options = with_memory(16 * kGiB);
  options.matmul_dtype = "int8";
  const DtypeChoice choice = choose_dtypes(options, {{"auto", "auto"}, {"int4", "auto"}}, opt_1_3b, short_answers(), HardwareProfile::generic());
  EXPECT_EQ(choice.types.weights, "int4");
  EXPECT_THAT(choice_text(choice), testing::HasSubstr("auto and auto is not for --matmul-dtype int8"));
}

TEST(DtypeChoice, EveryPairIsMeasuredOnce) {
  EngineFlags flags;
  flags.weight_dtype = "bf16,int4";
  flags.kv_cache_dtype = "auto,int4";
  const std::vector<DtypePair> pairs = allowed_dtypes(flags);
  ASSERT_EQ(pairs.size(), 4U);
  const MeasuredTypes types = types_to_measure({}, *opt_1_3b(), pairs);
  EXPECT_EQ(types.matmul.size(), 2U);
  EXPECT_EQ(types.caches.size(), 2U);
  EXPECT_THAT(types.widths, testing::ElementsAre(2048));
}

TEST(DtypeChoice, AProfileLacksATypeInAnotherWidth) {
  const HardwareProfile profile = HardwareProfile::uniform(1e12, 1e10, 1e9, 1e9);  // bf16 weights in f32, of the usual width
  auto lacking = [&](int64_t width) { return missing_types(profile, {{{DType::kF32, DType::kBF16}}, {DType::kBF16}, {width}}).matmul.size(); };
  EXPECT_EQ(lacking(measured_width(12288)), 0U);
  EXPECT_EQ(lacking(measured_width(1800)), 0U);
  EXPECT_EQ(lacking(measured_width(768)), 1U);
}

TEST(DtypeChoice, AnyHiddenSizeHasABlockToMeasure) {
  for (int64_t hidden = 16; hidden <= 16384; hidden += 16) {
    const int64_t width = measured_width(static_cast<double>(hidden));
    EXPECT_EQ(width % 128, 0) << hidden;
    EXPECT_GE(width, std::min<int64_t>(hidden, 2048));
    EXPECT_LE(width, std::min<int64_t>(hidden + 127, 2048));
  }
}

}  // namespace
}  // namespace flexgen::dtype_choice_test
