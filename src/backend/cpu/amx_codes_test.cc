#include "backend/cpu/amx_codes.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <hwy/aligned_allocator.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/linear_amx.h"
#include "backend/cpu/test_codes.h"
#include "backend/cpu/test_halves.h"
#include "tensor/code_format.h"

namespace flexgen::amx_codes_test {
namespace {

using amx_product::kStep;
using amx_product::kTileRows;

constexpr DType kTypes[] = {DType::kInt4, DType::kInt8};

/// A type as it is shipped or made.
struct Kind {
  DType dtype;
  CodeFormat format = {};
  std::string name() const {
    return fmt::format("{}, scales of type {} for {} columns", dtype_name(dtype), static_cast<int>(format.scale_type), format.scale_columns);
  }
};
CodeFormat format_of(DType dtype, ScaleType scales, int64_t columns, int64_t scale_rows = 1) {
  CodeFormat format;
  format.scale_type = scales;
  format.scale_rows = scale_rows;
  format.scale_columns = columns;
  format.has_zeros = dtype == DType::kPacked4 && columns == 128;
  format.has_global = scales == ScaleType::kE4M3;
  return format;
}
std::vector<Kind> kinds() {
  std::vector<Kind> all{
      {DType::kFp4, format_of(DType::kFp4, ScaleType::kE8M0, 32)},        {DType::kFp4, format_of(DType::kFp4, ScaleType::kE4M3, 16)},
      {DType::kFp8, format_of(DType::kFp8, ScaleType::kF32, 128, 128)},   {DType::kFp8, format_of(DType::kFp8, ScaleType::kBF16, 0, 0)},
      {DType::kCodes8, format_of(DType::kCodes8, ScaleType::kF32, 0)},    {DType::kPacked4, format_of(DType::kPacked4, ScaleType::kBF16, 128)},
      {DType::kPacked4, format_of(DType::kPacked4, ScaleType::kF16, 32)}, {DType::kPacked8, format_of(DType::kPacked8, ScaleType::kBF16, 64)}};
  for (const DType dtype :
       {DType::kInt4, DType::kInt8, DType::kQ4_0, DType::kQ4_1, DType::kQ8_0, DType::kIQ4_NL, DType::kMXFP4, DType::kQ4_K, DType::kQ6_K, DType::kIQ4_XS})
    all.push_back({dtype});
  return all;
}

/// A weight of any codes and usual scales, in two pieces.
class TestWeight {
 public:
  TestWeight(const Kind& kind, int64_t rows, int64_t cols) : format_(kind.format), view_{kind.dtype, rows, cols, {}, nullptr} {
    const DType dtype = kind.dtype;
    const int64_t cut = rows > kTileRows ? kTileRows + kTileRows / 2 : rows / 2;
    const auto make = [&](int64_t count) {
      std::vector<std::byte>& codes = kept_.emplace_back(is_grouped(dtype) ? random_codes(dtype, count, cols) : random_bytes(count * row_bytes(dtype, cols)));
      if (is_blocked(dtype)) set_block_scales(codes);
      if (dtype == DType::kFp8) {
        // One NaN: of any codes each row would have some, and nothing to compare.
        for (std::byte& code : codes)
          if ((code & std::byte{0x7f}) == std::byte{0x7f}) code &= std::byte{0xfe};
        codes.front() = std::byte{0xff};
      }
      return WeightPiece{codes.data(), count};
    };
    kept_.reserve(16);
    format_.num_groups = format_.scale_columns == 0 ? 1 : (cols + format_.scale_columns - 1) / format_.scale_columns;
    for (const int64_t count : {cut, rows - cut}) {
      if (count == 0) continue;
      WeightPiece piece = make(count);
      for (size_t part = 0; is_scaled(dtype) && part < kNumCodeParts; ++part)
        if (const int64_t size = beside_bytes(format_, dtype, static_cast<CodePart>(part), count, cols); size > 0) piece.beside[part] = beside(part, size);
      view_.pieces.push_back(piece);
    }
    if (is_scaled(dtype)) view_.format = &format_;
  }

  const WeightView& view() const { return view_; }
  std::vector<std::byte>& scales() { return *scales_; }  ///< of the last piece
  std::vector<std::byte> as_bf16() const {
    std::vector<std::byte> rows(static_cast<size_t>(2 * view_.rows * view_.cols));
    std::vector<LinearTile> tiles;
    cut_tiles(view_, kTileRows, &tiles);
    for (const LinearTile& tile : tiles) convert_tile(tile, view_, DType::kBF16, rows.data() + 2 * tile.first_row * view_.cols);
    return rows;
  }

 private:
  std::vector<std::byte> random_bytes(int64_t count) {
    std::vector<std::byte> bytes(static_cast<size_t>(count));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_() >> 8);
    return bytes;
  }
  float random_scale() { return static_cast<float>(random_() % 1000 + 1) / 512; }
  const std::byte* beside(size_t part, int64_t size) {
    std::vector<std::byte> bytes = random_bytes(size);
    const auto set = [&]<typename T>(const auto& make) {
      for (int64_t i = 0; i < size / static_cast<int64_t>(sizeof(T)); ++i) {
        const T value = make(random_scale());
        std::memcpy(bytes.data() + i * static_cast<int64_t>(sizeof(T)), &value, sizeof value);
      }
    };
    if (part == kGlobal || (part == kScales && format_.scale_type == ScaleType::kF32)) set.template operator()<float>([](float x) { return x; });
    else if (part == kScales && format_.scale_type == ScaleType::kBF16) set.template operator()<uint16_t>([](float x) { return bf16_from_float(x); });
    else if (part == kScales && format_.scale_type == ScaleType::kF16) set.template operator()<uint16_t>([](float x) { return f16_from_float(x); });
    else if (part == kScales)
      set.template operator()<uint8_t>(
          [&](float) { return static_cast<uint8_t>(format_.scale_type == ScaleType::kE8M0 ? 110 + random_() % 30 : random_() % 126); });
    if (part == kScales) scales_ = &kept_.emplace_back(std::move(bytes));
    else kept_.push_back(std::move(bytes));
    return kept_.back().data();
  }
  /// Halves of every block that are scales or minima, or its exponent.
  void set_block_scales(std::vector<std::byte>& codes) {
    const DType dtype = view_.dtype;
    std::vector<int64_t> halves{0};
    if (dtype == DType::kQ4_1 || dtype == DType::kQ4_K) halves.push_back(2);
    if (dtype == DType::kQ6_K) halves = {208};
    for (int64_t block = 0; block < std::ssize(codes); block += quant_block(dtype).bytes) {
      if (dtype == DType::kMXFP4) codes[static_cast<size_t>(block)] = static_cast<std::byte>(110 + random_() % 30);
      else
        for (const int64_t at : halves) {
          const uint16_t half = f16_from_float(random_() % 9 == 0 ? 0 : random_scale() - 1);
          std::memcpy(codes.data() + block + at, &half, sizeof half);
        }
    }
  }

  std::minstd_rand random_{5};
  CodeFormat format_;
  WeightView view_;
  std::vector<std::vector<std::byte>> kept_;
  std::vector<std::byte>* scales_ = nullptr;
};

TEST(AmxCodes, UnpacksWhatConvertGives) {
  if (!amx_product::is_supported()) GTEST_SKIP() << "needs AMX";
  const auto chunk = hwy::MakeUniqueAligned<amx_product::TileChunk>();
  for (const Kind& kind : kinds())
    for (const int64_t cols : {256, 768, 1280})
      for (const int64_t num_rows : {int64_t{2}, int64_t{17}, 2 * kTileRows}) {
        const TestWeight weight(kind, num_rows, cols);
        ASSERT_TRUE(amx_product::takes_codes(weight.view())) << kind.name();
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
  const auto takes = [](Kind kind, int64_t cols) { return amx_product::takes_codes(TestWeight(kind, 2, cols).view()); };
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
