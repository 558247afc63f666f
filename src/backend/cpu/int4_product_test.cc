#include "backend/cpu/int4_product.h"

#include <gtest/gtest.h>

#include <hwy/aligned_allocator.h>
#include <cstring>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "backend/cpu/linear_packed.h"
#include "backend/cpu/test_codes.h"

namespace flexgen::int4_product_test {
namespace {

using int4_product::kTileRows;

std::vector<std::byte> random_rows(int64_t num_rows, int64_t cols) {
  std::minstd_rand random(6);
  std::vector<uint16_t> values(static_cast<size_t>(num_rows * cols));
  for (uint16_t& value : values) value = bf16_from_float(static_cast<float>(random() % 65536) / 32768.0f - 1.0f);
  std::vector<std::byte> rows(2 * values.size());
  std::memcpy(rows.data(), values.data(), rows.size());
  return rows;
}

TEST(Int4Product, GivesTheBitsOfRowsOfBf16) {
  if (!int4_product::is_supported()) GTEST_SKIP() << "needs AVX512-BF16 and AVX512-VBMI";
  const auto actual = hwy::AllocateAligned<float>(dot_product::kMaxRows * kTileRows), expected = hwy::AllocateAligned<float>(dot_product::kMaxRows * kTileRows);
  const auto scratch = hwy::MakeUniqueAligned<DotRows::Scratch>();
  // One part of the columns, several, a part of one group.
  for (const int64_t cols : {64, 576, 1024, 1088, 2048, 4096, 4672}) {
    const std::vector<std::byte> codes = random_codes(DType::kInt4, kTileRows, cols), rows = as_bf16(DType::kInt4, codes, kTileRows, cols),
                                 x = random_rows(dot_product::kFewRows, cols);
    const ProductTile tile{codes.data(), cols, kTileRows, codes.data(), std::ssize(codes)};
    for (int64_t count = 1; int4_product::takes(count, tile); ++count) {
      std::vector<std::byte> packed = x;
      if (count > 1) dot_product::pack_rows(x.data(), count, cols, 0, packed.data());
      ASSERT_TRUE(int4_product::multiply({packed.data(), count, count > 1}, tile, actual.get()));
      dot_product::multiply({packed.data(), count, count > 1}, {rows.data(), cols, kTileRows}, scratch->product, expected.get());
      ASSERT_EQ(std::memcmp(actual.get(), expected.get(), static_cast<size_t>(count * kTileRows) * sizeof(float)), 0) << count << " rows of " << cols;
    }
  }
}

TEST(Int4Product, LeavesNumbersThatAreNotNormalToOthers) {
  if (!int4_product::is_supported()) GTEST_SKIP() << "needs AVX512-BF16 and AVX512-VBMI";
  constexpr int64_t kCols = 1152;  // its last group is the second of the second part
  const auto y = hwy::AllocateAligned<float>(kTileRows);
  const std::vector<std::byte> x = random_rows(1, kCols);
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const int64_t row : {0, 15, 16, 31})
    for (const int64_t group : {0, 15, 16, 17}) {
      const auto takes = [&](float scale, float minimum) {
        std::vector<std::byte> codes = random_codes(DType::kInt4, kTileRows, kCols);
        set_parameters(DType::kInt4, codes, row, kCols, group, scale, minimum);
        return int4_product::multiply({x.data(), 1, false}, {codes.data(), kCols, kTileRows}, y.get());
      };
      for (const auto& [scale, minimum] : {std::pair{0.0f, 0.0f}, {-0.0f, -0.0f}, {0x1p-100f, -0x1p-100f}, {-0x1.fcp100f, 0x1.fcp100f}})
        EXPECT_TRUE(takes(scale, minimum)) << row << " " << group << ": " << scale << " " << minimum;
      for (const float beyond : {0x1.fcp-101f, -0x1.fcp-101f, 0x1p-130f, 0x1p101f, -0x1p101f, infinity, nan}) {
        EXPECT_FALSE(takes(beyond, 0)) << row << " " << group << ": " << beyond;
        EXPECT_FALSE(takes(0, beyond)) << row << " " << group << ": " << beyond;
      }
    }
}

/// The whole product: tiles that go by codes, one with a group that must not, a short one; more rows than go by codes.
TEST(Int4Product, IsAPartOfProductsLikeAnyOther) {
  if (!int4_product::is_supported()) GTEST_SKIP() << "needs AVX512-BF16 and AVX512-VBMI";
  constexpr int64_t kRows = 3 * kTileRows + 7, kMostRows = 20;
  WorkerTeam team(2);
  LinearPacked<DotRows> linear(team);
  for (const int64_t cols : {640, 2112}) {
    std::vector<std::byte> codes = random_codes(DType::kInt4, kRows, cols);
    set_parameters(DType::kInt4, codes, kTileRows + 3, cols, 5, 0x1p110f, 0x1p-127f);
    const std::vector<std::byte> rows = as_bf16(DType::kInt4, codes, kRows, cols), x = random_rows(kMostRows, cols);
    for (int64_t count = 1; count <= kMostRows; ++count) {
      std::vector<float> actual(static_cast<size_t>(count * kRows)), expected(actual.size());
      linear.run(x.data(), count, {DType::kInt4, kRows, cols, {{codes.data(), kRows}}}, {}, false, actual.data());
      linear.run(x.data(), count, {DType::kBF16, kRows, cols, {{rows.data(), kRows}}}, {}, false, expected.data());
      ASSERT_EQ(std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(float)), 0) << count << " rows of " << cols;
    }
  }
}

}  // namespace
}  // namespace flexgen::int4_product_test
