// What a visit costs beside what was measured.

#include "plan/visit_cost.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "model/config.h"
#include "schedule/expert_hits.h"

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

/// An expert's products are started one after the other, so a unit of many small ones takes longer than its bytes and FLOPs.
TEST(VisitCost, ExpertsAreStartedOneByOne) {
  const auto model = Model::of_shape(
      parse_config(
          R"({"model_type": "qwen3_moe", "hidden_size": 1024, "num_hidden_layers": 1, "intermediate_size": 512, "moe_intermediate_size": 64, "head_dim": 64,
    "num_attention_heads": 16, "num_key_value_heads": 2, "num_experts": 32, "num_experts_per_tok": 4, "vocab_size": 1000, "max_position_embeddings": 64})",
          "", "config.json"),
      DType::kBF16);
  const auto unit = std::find_if(model->layers().begin(), model->layers().end(), [](const LayerSpec& layer) { return layer.kind == LayerKind::kExperts; });
  ASSERT_GT(unit->num_experts, 8);
  HardwareProfile hardware = HardwareProfile::uniform(1e12, 1e11, 1e9, 1e9);
  hardware.gpu = gpu_of(1e13, 5e11);
  hardware.gpu->visit_s = 1e-3;
  const Precision precision = Precision::of(*model, DType::kBF16, DType::kBF16);
  Policy policy;
  policy.compute_tier = policy.attention_tier = Tier::kGpu;
  auto starts = [&](double rows, double hit_share) {
    const double products_s =
        hardware.gpu->matmul_s(precision.compute, precision.weights, precision.width, product_rows(*unit, rows), unit->linear_flops_per_row * rows / hit_share);
    return (outer_visit_time_s(hardware, precision, policy, *unit, rows, hit_share) - products_s) / 1e-3;
  };
  const auto all = static_cast<double>(unit->num_experts);
  EXPECT_NEAR(starts(2000, 1), kVisitsOfAnExpert * all, 1e-6 * all);
  // Of one row an eighth of the experts, and of the units that have one, one at least.
  EXPECT_NEAR(starts(1, 1), std::max(1.0, kVisitsOfAnExpert * all / 8), 1e-6 * all);
  const double hit = unit_hit_share(*model, *unit, 1);
  EXPECT_NEAR(starts(1, hit), std::max(1.0, kVisitsOfAnExpert * all / 8 / hit), 1e-6 * all);
  const LayerSpec& attention = model->layers()[1];
  ASSERT_EQ(attention.kind, LayerKind::kBlock);
  EXPECT_NEAR(outer_visit_time_s(hardware, precision, policy, attention, 100) -
                  hardware.gpu->matmul_s(precision.compute, precision.weights, precision.width, 100, attention.linear_flops_per_row * 100),
              1e-3, 1e-9);
}

/// gpt-oss as it is shipped: attention in 16 bits, experts in four, which are unpacked for each product.
TEST(VisitCost, ExpertsHaveAWeightTypeOfTheirOwn) {
  const auto model = Model::of_shape(parse_config(*shape_config_json("gpt-oss-20b"), "", "gpt-oss-20b"), DType::kBF16);
  const Precision precision = Precision::of(*model, DType::kBF16, DType::kBF16);
  EXPECT_EQ(precision.weights, DType::kBF16);
  EXPECT_EQ(precision.experts, DType::kFp4);
  EXPECT_EQ(Precision::of(*Model::of_shape(parse_config(*shape_config_json("opt-1.3b"), "", "opt-1.3b"), DType::kBF16), DType::kBF16, DType::kBF16).experts,
            std::nullopt);
  HardwareProfile hardware = HardwareProfile::uniform(1e12, 1e11, 1e9, 1e9);
  const Policy policy;
  auto seconds = [&](LayerKind kind) {
    const auto layer = std::find_if(model->layers().begin(), model->layers().end(), [&](const LayerSpec& each) { return each.kind == kind; });
    return outer_visit_time_s(hardware, precision, policy, *layer, 256);
  };
  const double experts_s = seconds(LayerKind::kExperts), head_s = seconds(LayerKind::kHead);
  hardware.cpu.matmul.push_back({DType::kF32, DType::kFp4, {{1, 1e11}, {2, 1e11}}});
  EXPECT_GT(seconds(LayerKind::kExperts), 8 * experts_s);
  EXPECT_EQ(seconds(LayerKind::kHead), head_s);
}

}  // namespace
}  // namespace flexgen
