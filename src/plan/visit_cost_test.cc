// What a visit costs beside what was measured.

#include "plan/visit_cost.h"

#include <gtest/gtest.h>

#include "model/config.h"

namespace flexgen {
namespace {

TEST(VisitCost, AttentionBesideAGpuReadsNoFasterThanRam) {
  const auto model = Model::of_shape(parse_config(*shape_config_json("opt-1.3b"), "", "opt-1.3b"), DType::kBF16);
  HardwareProfile hardware = HardwareProfile::generic();
  hardware.gpu = hardware.cpu;
  hardware.cpu.attention = {{DType::kBF16, 1, {{64, 2e11}}, 1e12}};  // as measured within a large cache
  hardware.ram_read_bytes_per_s = 1e11;
  const Precision precision = Precision::of(*model, DType::kBF16, DType::kBF16);
  Policy policy;
  policy.compute_tier = Tier::kGpu;
  policy.attention_tier = Tier::kCpu;
  ComputeAmount whole;
  whole.rows = 64;
  whole.decode_context = 1024;
  whole.kv_read_bytes = whole.decode_kv_bytes = 5e9;
  EXPECT_NEAR(block_times(*model, hardware, precision, policy, whole).attention_s, 5e9 / 1e11, 1e-6);
  hardware.ram_read_bytes_per_s = 4e11;
  EXPECT_NEAR(block_times(*model, hardware, precision, policy, whole).attention_s, 5e9 / 2e11 + hardware.cpu.visit_s, 1e-6);
}

}  // namespace
}  // namespace flexgen
