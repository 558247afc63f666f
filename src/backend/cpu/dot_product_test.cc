#include "backend/cpu/dot_product.h"

#include <gtest/gtest.h>

#include <hwy/aligned_allocator.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <dnnl.hpp>
#include <vector>

#include "backend/cpu/amx_product.h"
#include "backend/cpu/linear_packed.h"
#include "backend/cpu/test_halves.h"

namespace flexgen::dot_product_test {
namespace {

using dot_product::kTileRows;

TEST(DotProduct, PacksPairsOfColumnsSideBySide) {
  if (!dot_product::is_supported()) GTEST_SKIP() << "needs AVX512-BF16";
  constexpr int64_t kCols = 100, kFirst = 20;
  for (const int64_t count : {48, 64, 70})
    for (const int64_t num_rows : {kTileRows, int64_t{11}, int64_t{17}}) {
      const std::vector<uint16_t> w = random_halves(num_rows * kCols, 3);
      auto chunk = hwy::MakeUniqueAligned<dot_product::PackedChunk>();
      dot_product::pack_chunk({bytes(w), kCols, num_rows, nullptr, 0}, kFirst, count, chunk.get());
      for (int64_t r = 0; r < kTileRows; ++r)
        for (int64_t k = 0; k < count; ++k) {
          const uint32_t pair = chunk->w[k / 2 * kTileRows + r];
          ASSERT_EQ(static_cast<uint16_t>(k % 2 == 0 ? pair : pair >> 16), r < num_rows ? w[static_cast<size_t>(r * kCols + kFirst + k)] : 0) << r << " " << k;
        }
    }
}

std::vector<std::byte> packed_rows(const std::byte* x, int64_t num_rows, int64_t cols) {
  std::vector<std::byte> packed(static_cast<size_t>(2 * num_rows * cols) + 1, std::byte{7});
  for (int64_t piece = 0; piece < dot_product::num_block_pairs(num_rows, cols); ++piece) dot_product::pack_rows(x, num_rows, cols, piece, packed.data());
  EXPECT_EQ(packed.back(), std::byte{7}) << "written beyond the rows";
  return packed;
}

/// Rows of x times a tile, as LinearPacked does it.
void multiply(const std::byte* x, int64_t num_rows, const ProductTile& tile, DotRows::Scratch& scratch, float* y) {
  if (DotRows::packing(num_rows, tile.cols) == RowPacking::kNone) return DotRows::multiply(x, num_rows, DType::kBF16, tile, scratch, y);
  DotRows::multiply(packed_rows(x, num_rows, tile.cols).data(), num_rows, DType::kBF16, tile, scratch, y);
}

TEST(DotProduct, BlocksHaveAllRowsAndNoneHasAFew) {
  for (const int64_t cols : {64, 4096})
    for (int64_t num_rows = 1; num_rows <= dot_product::kMaxRows; ++num_rows) {
      const dot_product::RowBlocks blocks(num_rows, cols);
      EXPECT_EQ(blocks.first(0), 0);
      EXPECT_EQ(blocks.first(blocks.count()), num_rows);
      if (dot_product::uses_tile_as_read(num_rows, cols)) {
        EXPECT_EQ(blocks.count(), 1) << num_rows;
        continue;
      }
      for (int64_t block = 0; block < blocks.count(); ++block) {
        const int64_t rows = blocks.first(block + 1) - blocks.first(block);
        EXPECT_LE(rows, dot_product::kBlockRows) << num_rows;
        EXPECT_GE(rows, dot_product::kBlockRows / 2) << num_rows;
      }
    }
}

TEST(DotProduct, PacksRowsSideBySide) {
  if (!dot_product::is_supported()) GTEST_SKIP() << "needs AVX512-BF16";
  for (const int64_t cols : {2, 100, 128, 300, 2050})
    for (const int64_t num_rows : {1, 5, 8, 9, 16, 17, 24, 29}) {
      const std::vector<uint16_t> x = random_halves(num_rows * cols, 4);
      const std::vector<std::byte> packed = packed_rows(bytes(x), num_rows, cols);
      const dot_product::RowBlocks blocks(num_rows, cols);
      const auto* at = reinterpret_cast<const uint16_t*>(packed.data());
      for (int64_t chunk = 0; chunk < cols; chunk += dot_product::kMaxChunk)
        for (int64_t block = 0; block < blocks.count(); ++block)
          for (int64_t k = chunk; k < std::min(cols, chunk + dot_product::kMaxChunk); k += 2)
            for (int64_t r = blocks.first(block); r < blocks.first(block + 1); ++r)
              for (int64_t i = 0; i < 2; ++i) ASSERT_EQ(*at++, x[static_cast<size_t>(r * cols + k + i)]) << num_rows << " rows: " << r << " " << k + i;
    }
}

/// Columns of one part and of several, of one strip and of two, that fill steps and chunks and that do not.
constexpr int64_t kColumns[] = {2, 64, 100, 576, 1024, 1042, 1104, 3072, 4384};

TEST(DotProduct, SumsWhatItSays) {
  if (!dot_product::is_supported()) GTEST_SKIP() << "needs AVX512-BF16";
  constexpr int64_t kRows = 16;
  for (const int64_t cols : kColumns) {
    const std::vector<uint16_t> x = random_halves(kRows * cols, 1), w = random_halves(kTileRows * cols, 2);
    const auto y = hwy::AllocateAligned<float>(static_cast<size_t>(kRows * kTileRows));
    auto scratch = hwy::MakeUniqueAligned<DotRows::Scratch>();
    multiply(bytes(x), kRows, {bytes(w), cols, kTileRows, nullptr, 0}, *scratch, y.get());
    for (int64_t t = 0; t < kRows; ++t)
      for (int64_t r = 0; r < kTileRows; ++r) {
        double sum = 0;
        for (int64_t k = 0; k < cols; ++k)
          sum += static_cast<double>(float_from_bf16(x[static_cast<size_t>(t * cols + k)])) * float_from_bf16(w[static_cast<size_t>(r * cols + k)]);
        ASSERT_NEAR(y[static_cast<size_t>(t * kTileRows + r)], sum, 1e-4 * std::sqrt(cols)) << cols << ": " << t << " " << r;
      }
  }
}

TEST(DotProduct, HasOneAnswerForAnyNumberOfRows) {
  if (!dot_product::is_supported()) GTEST_SKIP() << "needs AVX512-BF16";
  constexpr int64_t kRows = 70;
  auto scratch = hwy::MakeUniqueAligned<DotRows::Scratch>();
  const auto all = hwy::AllocateAligned<float>(static_cast<size_t>(kRows * kTileRows)),
             some = hwy::AllocateAligned<float>(static_cast<size_t>(kRows * kTileRows));
  for (const int64_t cols : kColumns)
    for (const int64_t tile_rows : {kTileRows, int64_t{9}}) {
      const std::vector<uint16_t> x = random_halves(kRows * cols, 1), w = random_halves(tile_rows * cols, 2);
      const ProductTile tile = {bytes(w), cols, tile_rows, bytes(w), std::ssize(w) * 2, true, true};
      multiply(bytes(x), kRows, tile, *scratch, all.get());
      for (int64_t rows = 1; rows <= kRows; ++rows)
        for (const int64_t first : {int64_t{0}, kRows - rows}) {
          multiply(bytes(x) + 2 * first * cols, rows, tile, *scratch, some.get());
          ASSERT_EQ(std::memcmp(some.get(), all.get() + first * kTileRows, static_cast<size_t>(rows * kTileRows) * sizeof(float)), 0)
              << cols << " columns, " << rows << " rows from " << first;
        }
    }
}

/// The order of sums is oneDNN's in panels of 64 rows, as of version 2.6; where it is not, Linear sees it and uses oneDNN, which is slower.
TEST(DotProduct, GivesTheBitsOfOneDnn) {
  if (!dot_product::is_supported()) GTEST_SKIP() << "needs AVX512-BF16";
  if (amx_product::is_supported()) GTEST_SKIP() << "oneDNN uses AMX here, which adds in another order";
  using dnnl::memory;
  constexpr int64_t kPanel = 64, kPanels = 2, kRows = kPanel + 6;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  auto scratch = hwy::MakeUniqueAligned<DotRows::Scratch>();
  const auto ours = hwy::AllocateAligned<float>(static_cast<size_t>(kRows * kTileRows)),
             theirs = hwy::AllocateAligned<float>(static_cast<size_t>(kPanels * kPanel * kTileRows));
  for (const int64_t cols : {64, 528, 576, 1024, 1040, 1536, 4096, 4354, 11008, 14336}) {
    std::vector<uint16_t> x = random_halves(kPanels * kPanel * cols, 1), w = random_halves(kTileRows * cols, 2);
    const memory::desc x_desc({kPanel, cols}, memory::data_type::bf16, memory::format_tag::ab),
        w_desc({cols, kTileRows}, memory::data_type::bf16, memory::format_tag::ba);
    const memory::desc y_desc({kPanel, kTileRows}, memory::data_type::f32, memory::format_tag::ab);
    for (int64_t row = 0; row < kPanels * kPanel; row += kPanel)
      dnnl::matmul(dnnl::matmul::primitive_desc(dnnl::matmul::desc(x_desc, w_desc, y_desc), engine))
          .execute(stream, {{DNNL_ARG_SRC, memory(x_desc, engine, x.data() + row * cols)},
                            {DNNL_ARG_WEIGHTS, memory(w_desc, engine, w.data())},
                            {DNNL_ARG_DST, memory(y_desc, engine, theirs.get() + row * kTileRows)}});
    stream.wait();
    for (int64_t rows = 1; rows <= kRows; ++rows) {
      multiply(bytes(x), rows, {bytes(w), cols, kTileRows, nullptr, 0, true}, *scratch, ours.get());
      EXPECT_EQ(std::memcmp(ours.get(), theirs.get(), static_cast<size_t>(rows * kTileRows) * sizeof(float)), 0) << rows << " rows of " << cols;
    }
  }
}

}  // namespace
}  // namespace flexgen::dot_product_test
