#include "backend/cpu/amx_codes.h"

#include <gtest/gtest.h>
#include <hwy/aligned_allocator.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/cpu/code_tiles.h"
#include "backend/cpu/linear_amx.h"
#include "backend/cpu/test_code_weights.h"
#include "backend/cpu/test_codes.h"
#include "backend/cpu/test_halves.h"
#include "tensor/code_format.h"

namespace flexgen::amx_codes_test {
namespace {

using amx_product::kStep;
using amx_product::kTileRows;
using test_code_weights::format_of;
using test_code_weights::Kind;
using test_code_weights::kinds;
using test_code_weights::TestWeight;

constexpr DType kTypes[] = {DType::kInt4, DType::kInt8};

TEST(AmxCodes, UnpacksWhatConvertGives) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  const auto chunk = hwy::MakeUniqueAligned<amx_product::TileChunk>();
  for (const Kind& kind : kinds())
    for (const int64_t cols : {256, 768, 1280})
      for (const int64_t num_rows : {int64_t{2}, int64_t{17}, 2 * kTileRows}) {
        const TestWeight weight(kind, num_rows, cols);
        ASSERT_TRUE(code_tiles::takes(weight.view())) << kind.name();
        const std::vector<std::byte> rows = weight.as_bf16();
        std::vector<LinearTile> tiles;
        cut_tiles(weight.view(), kTileRows, &tiles);
        const int64_t columns = amx_product::chunk_columns(cols);
        for (const LinearTile& tile : tiles)
          for (int64_t first = 0; first < cols; first += columns) {
            const int64_t count = std::min(columns, cols - first);
            std::memset(chunk->w, 0x77, sizeof chunk->w);
            amx_product::unpack_chunk(product_tile(tile, weight.view()), kind.dtype, first, count, chunk.get());
            for (int64_t r = 0; r < kTileRows; ++r)
              for (int64_t k = 0; k < count; ++k) {
                uint16_t expected = 0, actual;
                if (r < tile.num_rows) std::memcpy(&expected, rows.data() + 2 * ((tile.first_row + r) * cols + first + k), 2);
                std::memcpy(&actual, chunk->w + ((k / kStep * kTileRows + r) * kStep + k % kStep) * 2, 2);
                ASSERT_EQ(actual, expected) << kind.name() << ", " << cols << " columns: row " << tile.first_row + r << ", column " << first + k;
              }
          }
      }
}

/// Scales of every byte, infinite, tiny or NaN: the product is that of rows of bf16.
TEST(AmxCodes, TakesAnyScales) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  constexpr int64_t kCols = 256, kRows = 2 * kTileRows;
  const std::vector<uint16_t> x = random_halves(kCols, 1);
  WorkerTeam team(1);
  LinearAmx linear(team);
  for (const Kind& kind : kinds()) {
    if (!is_scaled(kind.dtype)) continue;
    TestWeight weight(kind, kRows, kCols);
    for (int64_t byte = 0; byte < 256; ++byte) {
      std::fill(weight.scales().begin(), weight.scales().end(), static_cast<std::byte>(byte));
      const std::vector<std::byte> rows = weight.as_bf16();
      float actual[kRows], expected[kRows];
      linear.run(bytes(x), 1, weight.view(), {}, false, actual);
      linear.run(bytes(x), 1, {DType::kBF16, kRows, kCols, {{rows.data(), kRows}}}, {}, false, expected);
      for (int64_t r = 0; r < kRows; ++r) {
        if (std::isnan(expected[r])) ASSERT_TRUE(std::isnan(actual[r])) << kind.name() << ", scales of " << byte << ": " << r;
        else ASSERT_EQ(actual[r], expected[r]) << kind.name() << ", scales of " << byte << ": " << r;
      }
    }
  }
}

TEST(AmxCodes, LeavesWhatHasNoWholeGroups) {
  const auto takes = [](Kind kind, int64_t cols) { return code_tiles::takes(TestWeight(kind, 2, cols).view()); };
  EXPECT_TRUE(takes({DType::kFp4, format_of(DType::kFp4, ScaleType::kE8M0, 32)}, 320));
  EXPECT_FALSE(takes({DType::kFp4, format_of(DType::kFp4, ScaleType::kE8M0, 32)}, 352)) << "half a pair of steps";
  EXPECT_FALSE(takes({DType::kPacked4, format_of(DType::kPacked4, ScaleType::kF16, 24)}, 192));
  EXPECT_FALSE(takes({DType::kCodes8, format_of(DType::kCodes8, ScaleType::kF16, 16)}, 192));
  Kind ordered{DType::kPacked4, format_of(DType::kPacked4, ScaleType::kF16, 32)};
  ordered.format.has_order = true;
  EXPECT_FALSE(takes(ordered, 320)) << "columns are in groups of any order";
  EXPECT_FALSE(takes({DType::kQ5_K}, 512));
}

/// Groups of any parameters, infinite, tiny or NaN: the product of the tile is that of its bf16.
TEST(AmxCodes, TakesAnyParameters) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  constexpr int64_t kCols = 640;
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  const auto chunk = hwy::MakeUniqueAligned<amx_product::TileChunk>();
  const std::vector<uint16_t> x = random_halves(kCols, 1);
  for (const DType dtype : kTypes)
    for (const int64_t row : {0, 31})
      for (const int64_t group : {0, 7, 8, 9})
        for (const auto& [scale, minimum] :
             {std::pair{0x1p-130f, 0.0f}, {0x1p120f, -0x1p-126f}, {0x1p127f, 0x1p-127f}, {3.0f, kInfinity}, {kNan, 1.0f}, {kInfinity, 2.0f}, {-0.0f, -0.0f}}) {
          std::vector<std::byte> codes = random_codes(dtype, kTileRows, kCols);
          set_parameters(dtype, codes, row, kCols, group, scale, minimum);
          const std::vector<std::byte> rows = as_bf16(dtype, codes, kTileRows, kCols);
          float actual[kTileRows], expected[kTileRows];
          amx_product::multiply_codes(bytes(x), 1, dtype, {codes.data(), kCols, kTileRows}, chunk.get(), actual);
          amx_product::multiply(bytes(x), 1, {rows.data(), kCols, kTileRows}, expected);
          for (int64_t r = 0; r < kTileRows; ++r) {
            if (std::isnan(expected[r])) ASSERT_TRUE(std::isnan(actual[r])) << dtype_name(dtype) << " " << scale << " " << minimum << ": " << r;
            else ASSERT_EQ(actual[r], expected[r]) << dtype_name(dtype) << " " << scale << " " << minimum << ": " << r;
          }
        }
}

/// The whole product of codes: bit for bit that of their bf16, for few rows and many, with short tiles.
TEST(AmxCodes, GivesTheBitsOfRowsOfBf16) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  constexpr int64_t kRows = 3 * kTileRows + 7, kMost = 130;
  WorkerTeam team(2);
  LinearAmx linear(team);
  for (const Kind& kind : kinds())
    for (const int64_t cols : {256, 320, 768, 2304}) {
      if (is_blocked(kind.dtype) && cols % quant_block(kind.dtype).elements != 0) continue;
      const TestWeight weight(kind, kRows, cols);
      const std::vector<std::byte> rows = weight.as_bf16();
      const std::vector<uint16_t> x = random_halves(kMost * cols, 1);
      for (const int64_t count : {1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 100, 130}) {
        std::vector<float> actual(static_cast<size_t>(count * kRows)), expected(actual.size());
        linear.run(bytes(x), count, weight.view(), {}, false, actual.data());
        linear.run(bytes(x), count, {DType::kBF16, kRows, cols, {{rows.data(), kRows}}}, {}, false, expected.data());
        ASSERT_EQ(std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(float)), 0) << kind.name() << ", " << count << " rows of " << cols;
      }
    }
}

}  // namespace
}  // namespace flexgen::amx_codes_test
