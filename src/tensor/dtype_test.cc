#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>

namespace flexgen::dtype_test {
namespace {

TEST(DType, EveryHalfSurvivesTheWayToFloatAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    auto half = static_cast<uint16_t>(bits);
    float f16 = float_from_f16(half), bf16 = float_from_bf16(half);
    if (!std::isnan(f16)) EXPECT_EQ(f16_from_float(f16), half);
    else EXPECT_TRUE(std::isnan(float_from_f16(f16_from_float(f16))));
    if (!std::isnan(bf16)) EXPECT_EQ(bf16_from_float(bf16), half);
    else EXPECT_TRUE(std::isnan(float_from_bf16(bf16_from_float(bf16))));
  }
}

TEST(DType, RoundsToNearestEven) {
  EXPECT_EQ(bf16_from_float(1.0f + 0x1p-8f), 0x3f80);            // half way, even below
  EXPECT_EQ(bf16_from_float(1.0f + 0x1p-8f + 0x1p-7f), 0x3f82);  // half way, even above
  EXPECT_EQ(f16_from_float(1.0f + 0x1p-11f), 0x3c00);
  EXPECT_EQ(f16_from_float(1.0f + 0x1p-11f + 0x1p-10f), 0x3c02);
  EXPECT_EQ(f16_from_float(0x1p-25f), 0);
  EXPECT_EQ(f16_from_float(0x1.8p-25f), 1);
  EXPECT_EQ(f16_from_float(65519.0f), 0x7bff);
  EXPECT_EQ(f16_from_float(65520.0f), 0x7c00);
}

}  // namespace
}  // namespace flexgen::dtype_test
