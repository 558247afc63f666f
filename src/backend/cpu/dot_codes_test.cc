#include "backend/cpu/dot_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "backend/cpu/code_tiles.h"
#include "backend/cpu/linear_packed.h"
#include "backend/cpu/test_code_weights.h"
#include "backend/cpu/test_codes.h"
#include "backend/cpu/test_halves.h"

namespace flexgen::dot_codes_test {
namespace {

using dot_product::kTileRows;
using test_code_weights::Kind;
using test_code_weights::kinds;
using test_code_weights::TestWeight;

/// The whole product of codes: bit for bit that of their bf16, for few rows and many, with short tiles, with parts of the columns that are not whole.
TEST(DotCodes, GivesTheBitsOfRowsOfBf16) {
  if (!code_tiles::is_supported()) GTEST_SKIP() << "needs AVX512-BF16 and AVX512-VBMI2";
  constexpr int64_t kRows = 3 * kTileRows + 7, kMost = 260;
  WorkerTeam team(2);
  LinearPacked<DotRows> linear(team);
  for (const Kind& kind : kinds())
    for (const int64_t cols : {64, 192, 256, 320, 768, 1088, 2304}) {
      if (is_blocked(kind.dtype) && cols % quant_block(kind.dtype).elements != 0) continue;
      const TestWeight weight(kind, kRows, cols);
      ASSERT_TRUE(code_tiles::takes(weight.view())) << kind.name();
      const std::vector<std::byte> rows = weight.as_bf16();
      const std::vector<uint16_t> x = random_halves(kMost * cols, 1);
      for (const int64_t count : {1, 2, 5, 8, 9, 11, 16, 17, 20, 24, 25, 33, 64, 130, 260}) {
        std::vector<float> actual(static_cast<size_t>(count * kRows)), expected(actual.size());
        linear.run(bytes(x), count, weight.view(), {}, false, actual.data());
        linear.run(bytes(x), count, {DType::kBF16, kRows, cols, {{rows.data(), kRows}}}, {}, false, expected.data());
        ASSERT_EQ(std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(float)), 0) << kind.name() << ", " << count << " rows of " << cols;
      }
    }
}

/// As EXPECT_EQ, any NaN for any other.
void expect_same(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& what) {
  for (size_t i = 0; i < expected.size(); ++i)
    if (std::isnan(expected[i])) ASSERT_TRUE(std::isnan(actual[i])) << what << ": " << i;
    else ASSERT_EQ(actual[i], expected[i]) << what << ": " << i;
}

/// The product of x [count, K] with the weight is that of rows of bf16.
void expect_product(LinearPacked<DotRows>& linear, const TestWeight& weight, const std::string& what) {
  const WeightView& view = weight.view();
  const std::vector<std::byte> rows = weight.as_bf16();
  for (const int64_t count : {1, 17}) {
    const std::vector<uint16_t> x = random_halves(count * view.cols, 1);
    std::vector<float> actual(static_cast<size_t>(count * view.rows)), expected(actual.size());
    linear.run(bytes(x), count, view, {}, false, actual.data());
    linear.run(bytes(x), count, {DType::kBF16, view.rows, view.cols, {{rows.data(), view.rows}}}, {}, false, expected.data());
    expect_same(actual, expected, fmt::format("{}, {} rows", what, count));
  }
}

/// 48 rows in the first piece, and two whole tiles in the second.
constexpr int64_t kRowsOfTwoTiles = 7 * kTileRows / 2;

/// Scales of every byte, infinite, tiny or NaN.
TEST(DotCodes, TakesAnyScales) {
  if (!code_tiles::is_supported()) GTEST_SKIP() << "needs AVX512-BF16 and AVX512-VBMI2";
  WorkerTeam team(1);
  LinearPacked<DotRows> linear(team);
  for (const Kind& kind : kinds()) {
    if (!is_scaled(kind.dtype)) continue;
    TestWeight weight(kind, kRowsOfTwoTiles, 256);
    for (int64_t byte = 0; byte < 256; ++byte) {
      std::fill(weight.scales().begin(), weight.scales().end(), static_cast<std::byte>(byte));
      expect_product(linear, weight, fmt::format("{}, scales of {}", kind.name(), byte));
    }
  }
}

/// One scale alone, in columns that are read when some have been multiplied.
TEST(DotCodes, TakesAnyPowerOfTwo) {
  if (!code_tiles::is_supported()) GTEST_SKIP() << "needs AVX512-BF16 and AVX512-VBMI2";
  constexpr int64_t kCols = 1088, kGroup = 33, kGroups = kCols / 32;
  WorkerTeam team(1);
  LinearPacked<DotRows> linear(team);
  for (const int exponent : {0, 1, 2, 252, 253, 254, 255}) {
    for (const Kind& kind : kinds()) {
      const bool is_block = kind.dtype == DType::kMXFP4;
      if (!is_block && kind.name() != kinds().front().name()) continue;
      TestWeight weight(kind, kRowsOfTwoTiles, kCols);
      for (const int64_t group : {int64_t{0}, kGroup}) {
        if (is_block) weight.codes()[static_cast<size_t>((5 * kGroups + group) * 17)] = static_cast<std::byte>(exponent);
        else weight.scales()[static_cast<size_t>(5 * kGroups + group)] = static_cast<std::byte>(exponent);
        expect_product(linear, weight, fmt::format("{}, 2^({} - 127) for group {}", kind.name(), exponent, group));
      }
    }
  }
}

/// A scale times a code that is less than the least normal number, and rounds to it.
TEST(DotCodes, TinyNumbersRoundAsElsewhere) {
  if (!code_tiles::is_supported()) GTEST_SKIP() << "needs AVX512-BF16 and AVX512-VBMI2";
  WorkerTeam team(1);
  LinearPacked<DotRows> linear(team);
  for (const Kind& kind : kinds()) {
    const ScaleType type = kind.format.scale_type;
    if (!is_scaled(kind.dtype) || (type != ScaleType::kF32 && type != ScaleType::kBF16)) continue;
    TestWeight weight(kind, kRowsOfTwoTiles, 256);
    // 1.75 times 0x0049 of bf16 is such, and 1 times 0x007fffff.
    const uint32_t scale = type == ScaleType::kF32 ? 0x007fffffu : 0x00490049u;
    for (size_t at = 0; at + 4 <= weight.scales().size(); at += 4) std::memcpy(weight.scales().data() + at, &scale, sizeof scale);
    if (weight.scales().size() < 4) std::memcpy(weight.scales().data(), &scale, weight.scales().size());
    expect_product(linear, weight, kind.name());
  }
}

/// Groups of any parameters, infinite, tiny or NaN, likewise.
TEST(DotCodes, TakesAnyParameters) {
  if (!code_tiles::is_supported()) GTEST_SKIP() << "needs AVX512-BF16 and AVX512-VBMI2";
  constexpr int64_t kCols = 640;
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  WorkerTeam team(1);
  LinearPacked<DotRows> linear(team);
  for (const DType dtype : {DType::kInt4, DType::kInt8})
    for (const int64_t row : {0, 31})
      for (const int64_t group : {0, 7, 8, 9})
        for (const auto& [scale, minimum] :
             {std::pair{0x1p-130f, 0.0f}, {0x1p120f, -0x1p-126f}, {0x1p127f, 0x1p-127f}, {3.0f, kInfinity}, {kNan, 1.0f}, {kInfinity, 2.0f}, {-0.0f, -0.0f}}) {
          std::vector<std::byte> codes = random_codes(dtype, kTileRows, kCols);
          set_parameters(dtype, codes, row, kCols, group, scale, minimum);
          const std::vector<std::byte> rows = as_bf16(dtype, codes, kTileRows, kCols);
          for (const int64_t count : {1, 17}) {
            const std::vector<uint16_t> x = random_halves(count * kCols, 1);
            std::vector<float> actual(static_cast<size_t>(count * kTileRows)), expected(actual.size());
            linear.run(bytes(x), count, {dtype, kTileRows, kCols, {{codes.data(), kTileRows}}}, {}, false, actual.data());
            linear.run(bytes(x), count, {DType::kBF16, kTileRows, kCols, {{rows.data(), kTileRows}}}, {}, false, expected.data());
            expect_same(actual, expected, fmt::format("{}: {}, {}, {} rows", dtype_name(dtype), scale, minimum, count));
          }
        }
}

}  // namespace
}  // namespace flexgen::dot_codes_test
