#include "backend/cpu/amx_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cpu/linear_amx.h"
#include "backend/cpu/linear_packed.h"
#include "backend/cpu/test_halves.h"
#include "tensor/group_quant.h"

namespace flexgen::amx_product_test {
namespace {

using amx_product::kBlockRows;
using amx_product::kTileRows;

std::vector<std::byte> packed_rows(const std::byte* x, int64_t num_rows, int64_t cols) {
  std::vector<std::byte> packed(static_cast<size_t>(2 * num_rows * cols) + 1, std::byte{7});
  for (int64_t piece = 0; piece < AmxRows::pack_pieces(num_rows, cols); ++piece) AmxRows::pack(x, num_rows, cols, piece, packed.data());
  EXPECT_EQ(packed.back(), std::byte{7}) << "written beyond the rows";
  return packed;
}

/// y [num_rows, kTileRows], x not packed.
std::vector<float> multiply(const std::byte* x, int64_t num_rows, const ProductTile& tile) {
  std::vector<float> y(static_cast<size_t>(num_rows * kTileRows));
  amx_product::multiply(packed_rows(x, num_rows, tile.cols).data(), num_rows, tile, y.data());
  return y;
}

/// Steps that are whole, one that is not, both.
constexpr int64_t kColumns[] = {2, 30, 32, 64, 100, 576, 1024, 1042, 3072};

TEST(AmxProduct, PacksRowsSideBySide) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  for (const int64_t cols : kColumns)
    for (const int64_t num_rows : {1, 5, 15, 16, 17, 40}) {
      const std::vector<uint16_t> x = random_halves(num_rows * cols, 4);
      const std::vector<std::byte> packed = packed_rows(bytes(x), num_rows, cols);
      const auto* at = reinterpret_cast<const uint16_t*>(packed.data());
      for (int64_t block = 0; block < num_rows; block += kBlockRows)
        for (int64_t k = 0; k < cols; k += 2)
          for (int64_t r = block; r < std::min(num_rows, block + kBlockRows); ++r)
            for (int64_t i = 0; i < 2; ++i) ASSERT_EQ(*at++, x[static_cast<size_t>(r * cols + k + i)]) << num_rows << " rows: " << r << " " << k + i;
    }
}

/// The order of sums that the header states.
float sum_of(const uint16_t* x, const uint16_t* w, int64_t cols) {
  float sum = 0;
  for (int64_t step = 0; step < cols; step += amx_product::kStep) {
    float even = 0, odd = 0;
    for (int64_t k = step; k < std::min(cols, step + amx_product::kStep); k += 2) {
      even = std::fma(float_from_bf16(w[k]), float_from_bf16(x[k]), even);
      odd = std::fma(float_from_bf16(w[k + 1]), float_from_bf16(x[k + 1]), odd);
    }
    sum += even + odd;
  }
  return sum;
}

TEST(AmxProduct, SumsInTheOrderItSays) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  constexpr int64_t kRows = 40;
  for (const int64_t cols : kColumns)
    for (const int64_t tile_rows : {kTileRows, int64_t{1}, kBlockRows, int64_t{19}}) {
      const std::vector<uint16_t> x = random_halves(kRows * cols, 1), w = random_halves(tile_rows * cols, 2);
      const std::vector<float> y = multiply(bytes(x), kRows, {bytes(w), cols, tile_rows});
      for (int64_t t = 0; t < kRows; ++t)
        for (int64_t r = 0; r < tile_rows; ++r)
          ASSERT_EQ(y[static_cast<size_t>(t * kTileRows + r)], sum_of(x.data() + t * cols, w.data() + r * cols, cols)) << cols << " columns: " << t << " " << r;
    }
}

TEST(AmxProduct, HasOneAnswerForAnyNumberOfRows) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  constexpr int64_t kRows = 70;
  for (const int64_t cols : kColumns)
    for (const int64_t tile_rows : {kTileRows, int64_t{9}}) {
      const std::vector<uint16_t> x = random_halves(kRows * cols, 1), w = random_halves(tile_rows * cols, 2);
      const ProductTile tile = {bytes(w), cols, tile_rows, bytes(w), std::ssize(w) * 2, true, true};
      const std::vector<float> all = multiply(bytes(x), kRows, tile);
      for (int64_t rows = 1; rows <= kRows; ++rows)
        for (const int64_t first : {int64_t{0}, kRows - rows}) {
          const std::vector<float> some = multiply(bytes(x) + 2 * first * cols, rows, tile);
          for (int64_t t = 0; t < rows; ++t)
            ASSERT_EQ(std::memcmp(some.data() + t * kTileRows, all.data() + (first + t) * kTileRows, static_cast<size_t>(tile_rows) * sizeof(float)), 0)
                << cols << " columns, " << rows << " rows from " << first << ": " << t;
        }
    }
}

/// What lies behind a tile, or behind the rows of x, is no part of it, be it NaN.
TEST(AmxProduct, ReadsNothingElse) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  constexpr uint16_t kNan = 0x7fff;
  for (const int64_t cols : kColumns)
    for (const int64_t rows : {1, 7, 16, 23, 32})
      for (const int64_t tile_rows : {int64_t{1}, int64_t{16}, int64_t{17}, kTileRows}) {
        std::vector<uint16_t> x = random_halves(rows * cols, 1), w = random_halves(tile_rows * cols, 2);
        x.resize(x.size() + 4096, kNan);
        w.resize(w.size() + 4096, kNan);
        const std::vector<float> y = multiply(bytes(x), rows, {bytes(w), cols, tile_rows});
        for (int64_t t = 0; t < rows; ++t)
          for (int64_t r = 0; r < tile_rows; ++r) ASSERT_FALSE(std::isnan(y[static_cast<size_t>(t * kTileRows + r)])) << cols << " columns: " << t << " " << r;
      }
}

/// W [rows, cols] of a type, cut in two pieces.
struct Weight {
  Weight(DType dtype, int64_t rows, int64_t cols) : bytes(static_cast<size_t>(rows * row_bytes(dtype, cols))) {
    const std::vector<uint16_t> values = random_halves(rows * cols, 2);
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < cols; ++k) row[static_cast<size_t>(k)] = float_from_bf16(values[static_cast<size_t>(r * cols + k)]);
      store_row(row.data(), cols, dtype, bytes.data() + r * row_bytes(dtype, cols));
    }
    const int64_t first = rows / 3;
    view = {dtype, rows, cols, {{bytes.data(), first}, {bytes.data() + first * row_bytes(dtype, cols), rows - first}}};
  }
  std::vector<std::byte> bytes;
  WeightView view;
};

/// Rows in chunks and rows alone: the same bits, whatever W is made of.
TEST(LinearAmx, ManyRowsGetWhatTheyGetAlone) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  constexpr int64_t kMost = 1100, kWeightRows = 333;
  WorkerTeam team(2);
  LinearAmx linear(team);
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kInt8, DType::kInt4})
    for (const int64_t cols : {2, 30, 512, 576, 1042}) {
      const std::vector<uint16_t> x = random_halves(kMost * cols, 1);
      const Weight weight(dtype, kWeightRows, cols);
      const std::vector<uint16_t> bias = random_halves(kWeightRows, 3);
      const WeightView bias_view{DType::kBF16, 1, kWeightRows, {{bytes(bias), 1}}};
      std::vector<float> alone(static_cast<size_t>(kMost * kWeightRows), 0.5f);
      for (int64_t t = 0; t < kMost; ++t) linear.run(bytes(x) + 2 * t * cols, 1, weight.view, bias_view, true, alone.data() + t * kWeightRows);
      for (const int64_t rows : {int64_t{64}, int64_t{65}, int64_t{96}, int64_t{241}, int64_t{512}, int64_t{513}, kMost}) {
        std::vector<float> together(static_cast<size_t>(rows * kWeightRows), 0.5f);
        linear.run(bytes(x), rows, weight.view, bias_view, true, together.data());
        ASSERT_EQ(std::memcmp(together.data(), alone.data(), together.size() * sizeof(float)), 0) << dtype_name(dtype) << ", " << rows << " rows of " << cols;
      }
    }
}

}  // namespace
}  // namespace flexgen::amx_product_test
