#include "backend/cpu/float_product.h"

#include <gtest/gtest.h>

#include <hwy/aligned_allocator.h>
#include <hwy/targets.h>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace flexgen::float_product_test {
namespace {

using float_product::chunk_columns;
using float_product::kTileRows;

std::vector<float> random_floats(int64_t count, uint32_t seed) {
  std::minstd_rand random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random() % 65536) / 32768.0f - 1.0f;
  return values;
}

/// x [rows, cols] times kTileRows rows of W, of which `w_rows` are there, as LinearPacked does it.
std::vector<float> product(const std::vector<float>& x, int64_t rows, const std::vector<std::byte>& w, DType dtype, int64_t w_rows, int64_t cols) {
  auto chunk = hwy::MakeUniqueAligned<float_product::PackedChunk>();
  const auto y = hwy::AllocateAligned<float>(static_cast<size_t>(rows * kTileRows));
  for (int64_t first = 0, count = 0; first < cols; first += count) {
    count = chunk_columns(cols - first);
    float_product::pack_chunk(w.data(), dtype, cols, w_rows, first, count, w.data(), 100, chunk.get());
    float_product::multiply(x.data() + first, cols, rows, *chunk, count, first == 0, y.get());
  }
  return {y.get(), y.get() + rows * kTileRows};
}

TEST(FloatProduct, SumsInTheOrderThatTheHeaderStatesOnEveryInstructionSet) {
  for (const int64_t cols : {1, 8, 100, 256, 257, 300, 511, 576, 1000, 1536})
    for (const DType dtype : {DType::kF32, DType::kBF16})
      for (const int64_t w_rows : {kTileRows, int64_t{5}}) {
        constexpr int64_t kRows = 27;
        const std::vector<float> x = random_floats(kRows * cols, 1);
        std::vector<float> w = random_floats(w_rows * cols, 2);
        std::vector<std::byte> bytes(static_cast<size_t>(size_bytes(dtype, w_rows * cols)));
        for (size_t i = 0; i < w.size(); ++i) {
          if (dtype == DType::kBF16) {
            const uint16_t bits = bf16_from_float(w[i]);
            w[i] = float_from_bf16(bits);
            std::memcpy(bytes.data() + 2 * i, &bits, sizeof(bits));
          } else {
            std::memcpy(bytes.data() + 4 * i, &w[i], sizeof(float));
          }
        }
        std::vector<float> expected(static_cast<size_t>(kRows * kTileRows));
        for (int64_t t = 0; t < kRows; ++t)
          for (int64_t r = 0; r < w_rows; ++r) {
            float& sum = expected[static_cast<size_t>(t * kTileRows + r)];
            for (int64_t first = 0, count = 0; first < cols; first += count) {
              count = chunk_columns(cols - first);
              float part = 0;
              for (int64_t k = first; k < first + count; ++k) part = std::fma(x[static_cast<size_t>(t * cols + k)], w[static_cast<size_t>(r * cols + k)], part);
              sum = first == 0 ? part : sum + part;
            }
          }
        const int64_t targets = hwy::SupportedTargets();
        for (const int64_t mask : {targets, static_cast<int64_t>(HWY_AVX2 | HWY_STATIC_TARGET), static_cast<int64_t>(HWY_STATIC_TARGET)}) {
          if ((targets & mask) == 0) continue;
          hwy::SetSupportedTargetsForTest(targets & mask);
          hwy::GetChosenTarget().Update(hwy::SupportedTargets());
          for (const int64_t rows : {int64_t{1}, int64_t{2}, int64_t{3}, int64_t{7}, kRows}) {
            const std::vector<float> actual = product(x, rows, bytes, dtype, w_rows, cols);
            EXPECT_TRUE(std::equal(actual.begin(), actual.end(), expected.begin()))
                << cols << " columns, " << rows << " rows, " << dtype_name(dtype) << ", targets " << (targets & mask);
          }
        }
        hwy::SetSupportedTargetsForTest(0);
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
      }
}

TEST(FloatProduct, ChunksAreWholeOnesAndTwoHalvesAtTheEnd) {
  for (const auto& [left, count] : {std::pair<int64_t, int64_t>{1, 1}, {256, 256}, {257, 129}, {511, 256}, {512, 256}, {513, 256}, {4096, 256}})
    EXPECT_EQ(chunk_columns(left), count);
}

}  // namespace
}  // namespace flexgen::float_product_test
