#include "backend/cpu/amx_codes.h"

#include <gtest/gtest.h>
#include <hwy/aligned_allocator.h>

#include <cstring>
#include <limits>
#include <vector>

#include "backend/cpu/linear_amx.h"
#include "backend/cpu/test_codes.h"
#include "backend/cpu/test_halves.h"

namespace flexgen::amx_codes_test {
namespace {

using amx_product::kStep;
using amx_product::kTileRows;

constexpr DType kTypes[] = {DType::kInt4, DType::kInt8};

TEST(AmxCodes, UnpacksWhatConvertGives) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  const auto chunk = hwy::MakeUniqueAligned<amx_product::TileChunk>();
  for (const DType dtype : kTypes)
    for (const int64_t cols : {64, 576, 1152})
      for (const int64_t num_rows : {int64_t{1}, int64_t{17}, kTileRows}) {
        const std::vector<std::byte> codes = random_codes(dtype, num_rows, cols), rows = as_bf16(dtype, codes, num_rows, cols);
        const int64_t columns = amx_product::chunk_columns(cols);
        for (int64_t first = 0; first < cols; first += columns) {
          const int64_t count = std::min(columns, cols - first);
          std::memset(chunk->w, 0x77, sizeof chunk->w);
          amx_product::unpack_chunk({codes.data(), cols, num_rows}, dtype, first, count, chunk.get());
          for (int64_t r = 0; r < kTileRows; ++r)
            for (int64_t k = 0; k < count; ++k) {
              uint16_t expected = 0, actual;
              if (r < num_rows) std::memcpy(&expected, rows.data() + 2 * (r * cols + first + k), 2);
              std::memcpy(&actual, chunk->w + ((k / kStep * kTileRows + r) * kStep + k % kStep) * 2, 2);
              ASSERT_EQ(actual, expected) << dtype_name(dtype) << ", " << cols << " columns: row " << r << ", column " << first + k;
            }
        }
      }
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

/// The whole product of codes: bit for bit that of their bf16, for few rows and many, with a short tile at the end.
TEST(AmxCodes, GivesTheBitsOfRowsOfBf16) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  constexpr int64_t kRows = 3 * kTileRows + 7, kMost = 130;
  WorkerTeam team(2);
  LinearAmx linear(team);
  for (const DType dtype : kTypes)
    for (const int64_t cols : {64, 640, 2112}) {
      const std::vector<std::byte> codes = random_codes(dtype, kRows, cols), rows = as_bf16(dtype, codes, kRows, cols);
      const std::vector<uint16_t> x = random_halves(kMost * cols, 1);
      for (const int64_t count : {1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 100, 130}) {
        std::vector<float> actual(static_cast<size_t>(count * kRows)), expected(actual.size());
        linear.run(bytes(x), count, {dtype, kRows, cols, {{codes.data(), kRows}}}, {}, false, actual.data());
        linear.run(bytes(x), count, {DType::kBF16, kRows, cols, {{rows.data(), kRows}}}, {}, false, expected.data());
        ASSERT_EQ(std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(float)), 0) << dtype_name(dtype) << ", " << count << " rows of " << cols;
      }
    }
}

}  // namespace
}  // namespace flexgen::amx_codes_test
