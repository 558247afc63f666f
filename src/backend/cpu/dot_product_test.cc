#include "backend/cpu/dot_product.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <hwy/aligned_allocator.h>
#include <random>
#include <vector>

namespace flexgen::dot_product_test {
namespace {

using dot_product::kTileRows;

std::vector<uint16_t> random_halves(int64_t count, uint32_t seed) {
  std::minstd_rand random(seed);
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (uint16_t& value : values) value = bf16_from_float(static_cast<float>(random() % 65536) / 32768.0f - 1.0f);
  return values;
}

TEST(DotProduct, PacksPairsOfColumnsSideBySide) {
  constexpr int64_t kCols = 100, kFirst = 20, kCount = 48;
  for (const int64_t num_rows : {kTileRows, int64_t{11}}) {
    const std::vector<uint16_t> w = random_halves(num_rows * kCols, 3);
    auto chunk = hwy::MakeUniqueAligned<dot_product::PackedChunk>();
    dot_product::pack_chunk(reinterpret_cast<const std::byte*>(w.data()), kCols, num_rows, kFirst, kCount, nullptr, 0, chunk.get());
    for (int64_t r = 0; r < kTileRows; ++r)
      for (int64_t k = 0; k < kCount; ++k) {
        const uint32_t pair = chunk->w[k / 2 * kTileRows + r];
        ASSERT_EQ(static_cast<uint16_t>(k % 2 == 0 ? pair : pair >> 16), r < num_rows ? w[static_cast<size_t>(r * kCols + kFirst + k)] : 0) << r << " " << k;
      }
  }
}

TEST(DotProduct, SumsWhatItSays) {
  if (!dot_product::is_supported()) GTEST_SKIP() << "needs AVX512-BF16";
  constexpr int64_t kCols = 1104, kRows = 13;
  const std::vector<uint16_t> x = random_halves(kRows * kCols, 1), w = random_halves(kTileRows * kCols, 2);
  auto chunk = hwy::MakeUniqueAligned<dot_product::PackedChunk>();
  const auto y = hwy::AllocateAligned<float>(static_cast<size_t>(kRows * kTileRows));
  for (int64_t first = 0; first < kCols; first += dot_product::kMaxChunk) {
    const int64_t count = std::min(dot_product::kMaxChunk, kCols - first);
    dot_product::pack_chunk(reinterpret_cast<const std::byte*>(w.data()), kCols, kTileRows, first, count, nullptr, 0, chunk.get());
    dot_product::multiply(reinterpret_cast<const std::byte*>(x.data() + first), kCols, kRows, *chunk, count, first == 0, y.get());
  }
  for (int64_t t = 0; t < kRows; ++t)
    for (int64_t r = 0; r < kTileRows; ++r) {
      double sum = 0;
      for (int64_t k = 0; k < kCols; ++k) sum += static_cast<double>(float_from_bf16(x[static_cast<size_t>(t * kCols + k)])) * float_from_bf16(w[static_cast<size_t>(r * kCols + k)]);
      EXPECT_NEAR(y[static_cast<size_t>(t * kTileRows + r)], sum, 1e-4 * std::sqrt(kCols)) << t << " " << r;
    }
}

}  // namespace
}  // namespace flexgen::dot_product_test
