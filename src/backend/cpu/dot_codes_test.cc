#include "backend/cpu/dot_codes.h"

#include <gtest/gtest.h>

#include <cstring>
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
using test_code_weights::expect_product;
using test_code_weights::expect_same;
using test_code_weights::expect_the_bits;
using test_code_weights::for_odd_groups;
using test_code_weights::Kind;
using test_code_weights::kinds;
using test_code_weights::TestWeight;

/// The whole product of codes: bit for bit that of their bf16, for few rows and many, with short tiles, with parts of the columns that are not whole.
TEST(DotCodes, GivesTheBitsOfRowsOfBf16) {
  if (!code_tiles::is_supported()) GTEST_SKIP() << "needs AVX512-BF16 and AVX512-VBMI2";
  WorkerTeam team(2);
  LinearPacked<DotRows> linear(team);
  expect_the_bits(linear, {64, 192, 256, 320, 768, 1088, 2304}, {1, 2, 5, 8, 9, 11, 16, 17, 20, 24, 25, 33, 64, 130, 260});
}

/// Few rows, and many.
void expect_products(LinearPacked<DotRows>& linear, const TestWeight& weight, const std::string& what) {
  for (const int64_t count : {1, 17}) expect_product(linear, weight, count, what);
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
      expect_products(linear, weight, fmt::format("{}, scales of {}", kind.name(), byte));
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
        expect_products(linear, weight, fmt::format("{}, 2^({} - 127) for group {}", kind.name(), exponent, group));
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
    expect_products(linear, weight, kind.name());
  }
}

/// Groups of any parameters, infinite, tiny or NaN, likewise.
TEST(DotCodes, TakesAnyParameters) {
  if (!code_tiles::is_supported()) GTEST_SKIP() << "needs AVX512-BF16 and AVX512-VBMI2";
  constexpr int64_t kCols = 640;
  WorkerTeam team(1);
  LinearPacked<DotRows> linear(team);
  for_odd_groups(kCols, [&](DType dtype, const std::vector<std::byte>& codes, const std::string& what) {
    for (const int64_t count : {1, 17}) {
      const test_code_weights::Products products(linear, random_halves(count * kCols, 1), count, {dtype, kTileRows, kCols, {{codes.data(), kTileRows}}},
                                                 as_bf16(dtype, codes, kTileRows, kCols));
      expect_same(products.actual, products.expected, fmt::format("{}, {} rows", what, count));
    }
  });
}

}  // namespace
}  // namespace flexgen::dot_codes_test
