// Drift: which lanes count, and what is done about them.

#include "plan/drift.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/config.h"
#include "plan/policy_sizes.h"

namespace flexgen::drift_test {
namespace {

TEST(Drift, LanesThatMatterAreTakenAsTheyAre) {
  const HardwareProfile hardware = HardwareProfile::generic();
  Stretch stretch;
  stretch.time_s = 100;
  stretch.busy[LaneKind::kDiskRead] = 90;
  stretch.expected[LaneKind::kDiskRead] = 80;
  stretch.busy[LaneKind::kCompute] = 50;
  stretch.expected[LaneKind::kCompute] = 55;
  stretch.busy[LaneKind::kDiskWrite] = 9;
  stretch.expected[LaneKind::kDiskWrite] = 1;  // nine times slower, and nobody waits for it
  EXPECT_FALSE(drift_of(hardware, {}, stretch));
  stretch.expected[LaneKind::kDiskRead] = 45;
  const auto drift = drift_of(hardware, {}, stretch);
  ASSERT_TRUE(drift);
  EXPECT_NEAR(drift->hardware.disk.read_bytes_per_s, hardware.disk.read_bytes_per_s / 2, 1);
  EXPECT_EQ(drift->hardware.disk.write_bytes_per_s, hardware.disk.write_bytes_per_s);
  EXPECT_EQ(drift->hardware.cpu.visit_s, hardware.cpu.visit_s);
  EXPECT_EQ(drift->factors[LaneKind::kDiskRead], 2);
  EXPECT_EQ(drift->factors[LaneKind::kDiskWrite], 1);
  EXPECT_EQ(drift->to_string(), "disk read takes 2.00 times what was expected");
}

TEST(Drift, LimitsStayWithinThePolicyAndNeverCostTime) {
  const auto model = Model::of_shape(parse_config(*shape_config_json("opt-1.3b"), "", "shape"), DType::kBF16);
  Workload rest;
  for (int i = 0; i < 100; ++i) rest.add(100, 16, false, false);
  Policy policy = policy_of_sizes(*model, rest, DType::kBF16, 20, 1, 2, 600);
  policy.weights = {0, 0.5, 0.5};
  policy.kv_cache = policy.activations = {0, 1, 0};
  HardwareProfile hardware = HardwareProfile::generic();
  const Precision precision = Precision::of(*model, DType::kF32, DType::kBF16);
  for (double disk : {2e8, 1e9, 5e9}) {
    hardware.disk.read_bytes_per_s = disk;
    const StepLimits limits = limits_for(*model, hardware, precision, policy, rest, {policy.max_rows, policy.micro_batch_size});
    EXPECT_LE(limits.max_rows, policy.max_rows);
    EXPECT_LE(limits.max_slots, policy.micro_batch_size);
    Policy limited = policy;
    limited.max_rows = limits.max_rows;
    limited.micro_batch_size = limits.max_slots;
    EXPECT_LE(predict(*model, hardware, precision, limited, rest).time_s, 1.02 * predict(*model, hardware, precision, policy, rest).time_s) << disk;
  }
  // Steps full of prompts would compute while the disk waits, and steps between them wait for the disk: fewer rows a step are better.
  hardware.disk.read_bytes_per_s = 6e8;
  EXPECT_LT(limits_for(*model, hardware, precision, policy, rest, {policy.max_rows, policy.micro_batch_size}).max_rows, policy.max_rows);
}

}  // namespace
}  // namespace flexgen::drift_test
