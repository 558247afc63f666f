#include "backend/cpu/amx_codes.h"

#include <gtest/gtest.h>
#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <cstring>
#include <string>
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
using test_code_weights::expect_product;
using test_code_weights::expect_same;
using test_code_weights::expect_the_bits;
using test_code_weights::for_odd_groups;
using test_code_weights::Kind;
using test_code_weights::kinds;
using test_code_weights::TestWeight;

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
  WorkerTeam team(1);
  LinearAmx linear(team);
  for (const Kind& kind : kinds()) {
    if (!is_scaled(kind.dtype)) continue;
    TestWeight weight(kind, 2 * kTileRows, 256);
    for (int64_t byte = 0; byte < 256; ++byte) {
      std::fill(weight.scales().begin(), weight.scales().end(), static_cast<std::byte>(byte));
      expect_product(linear, weight, 1, fmt::format("{}, scales of {}", kind.name(), byte));
    }
  }
}

/// Groups of any parameters, infinite, tiny or NaN: the product of the tile is that of its bf16.
TEST(AmxCodes, TakesAnyParameters) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  constexpr int64_t kCols = 640;
  const auto chunk = hwy::MakeUniqueAligned<amx_product::TileChunk>();
  const std::vector<uint16_t> x = random_halves(kCols, 1);
  for_odd_groups(kCols, [&](DType dtype, const std::vector<std::byte>& codes, const std::string& what) {
    const std::vector<std::byte> rows = as_bf16(dtype, codes, kTileRows, kCols);
    std::vector<float> actual(kTileRows), expected(kTileRows);
    amx_product::multiply_codes(bytes(x), 1, dtype, {codes.data(), kCols, kTileRows}, chunk.get(), actual.data());
    amx_product::multiply(bytes(x), 1, {rows.data(), kCols, kTileRows}, expected.data());
    expect_same(actual, expected, what);
  });
}

/// The whole product of codes: bit for bit that of their bf16, for few rows and many, with short tiles.
TEST(AmxCodes, GivesTheBitsOfRowsOfBf16) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  WorkerTeam team(2);
  LinearAmx linear(team);
  expect_the_bits(linear, {256, 320, 768, 2304}, {1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 100, 130});
}

}  // namespace
}  // namespace flexgen::amx_codes_test
