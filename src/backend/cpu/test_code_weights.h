#pragma once
// Weights of every type that code_tiles::takes(), and what is expected of products that read their codes, for tests.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu/code_tiles.h"
#include "backend/cpu/linear_tiles.h"
#include "backend/cpu/test_codes.h"
#include "backend/cpu/test_halves.h"
#include "tensor/code_format.h"

namespace flexgen::test_code_weights {

/// A type as it is shipped or made.
struct Kind {
  DType dtype;
  CodeFormat format = {};
  std::string name() const {
    return fmt::format("{}, scales of type {} for {} columns", dtype_name(dtype), static_cast<int>(format.scale_type), format.scale_columns);
  }
};
inline CodeFormat format_of(DType dtype, ScaleType scales, int64_t columns, int64_t scale_rows = 1) {
  CodeFormat format;
  format.scale_type = scales;
  format.scale_rows = scale_rows;
  format.scale_columns = columns;
  format.has_zeros = dtype == DType::kPacked4 && columns == 128;
  format.has_global = scales == ScaleType::kE4M3;
  return format;
}
inline std::vector<Kind> kinds() {
  std::vector<Kind> all{
      {DType::kFp4, format_of(DType::kFp4, ScaleType::kE8M0, 32)},          {DType::kFp4, format_of(DType::kFp4, ScaleType::kE8M0, 64)},
      {DType::kFp4, format_of(DType::kFp4, ScaleType::kE8M0, 16)},          {DType::kFp4, format_of(DType::kFp4, ScaleType::kE8M0, 32, 8)},
      {DType::kFp4, format_of(DType::kFp4, ScaleType::kE4M3, 16)},          {DType::kFp8, format_of(DType::kFp8, ScaleType::kF32, 128, 128)},
      {DType::kFp8, format_of(DType::kFp8, ScaleType::kBF16, 0, 0)},        {DType::kCodes8, format_of(DType::kCodes8, ScaleType::kF32, 0)},
      {DType::kPacked4, format_of(DType::kPacked4, ScaleType::kBF16, 128)}, {DType::kPacked4, format_of(DType::kPacked4, ScaleType::kF16, 32)},
      {DType::kPacked8, format_of(DType::kPacked8, ScaleType::kBF16, 64)}};
  for (const DType dtype :
       {DType::kInt4, DType::kInt8, DType::kQ4_0, DType::kQ4_1, DType::kQ8_0, DType::kIQ4_NL, DType::kMXFP4, DType::kQ4_K, DType::kQ6_K, DType::kIQ4_XS})
    all.push_back({dtype});
  return all;
}

/// A weight of any codes and usual scales, in two pieces.
class TestWeight {
 public:
  static constexpr int64_t kTileRows = code_tiles::kTileRows;
  TestWeight(const Kind& kind, int64_t rows, int64_t cols) : format_(kind.format), view_{kind.dtype, rows, cols, {}, nullptr} {
    const DType dtype = kind.dtype;
    // The first tile whole, the second short; where there is one more, whole too.
    const int64_t cut = rows > kTileRows ? kTileRows + kTileRows / 2 : rows / 2;
    const auto make = [&](int64_t count) {
      std::vector<std::byte>& codes = kept_.emplace_back(is_grouped(dtype) ? random_codes(dtype, count, cols) : random_bytes(count * row_bytes(dtype, cols)));
      codes_ = &codes;
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

  TestWeight(const TestWeight&) = delete;

  const WeightView& view() const { return view_; }
  std::vector<std::byte>& scales() { return *scales_; }  ///< of the last piece
  std::vector<std::byte>& codes() { return *codes_; }    ///< likewise
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
  std::vector<std::byte>*scales_ = nullptr, *codes_ = nullptr;
};

/// As ASSERT_EQ, any NaN for any other.
inline void expect_same(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& what) {
  for (size_t i = 0; i < expected.size(); ++i)
    if (std::isnan(expected[i])) ASSERT_TRUE(std::isnan(actual[i])) << what << ": " << i;
    else ASSERT_EQ(actual[i], expected[i]) << what << ": " << i;
}

/// x [count, K] times the weight: as it lies, and its rows [num_rows, K] of bf16 in `rows`.
struct Products {
  std::vector<float> actual, expected;

  template <class Linear>
  Products(Linear& linear, const std::vector<uint16_t>& x, int64_t count, const WeightView& weight, const std::vector<std::byte>& rows)
      : actual(static_cast<size_t>(count * weight.rows)), expected(actual.size()) {
    linear.run(bytes(x), count, weight, {}, false, actual.data());
    linear.run(bytes(x), count, {DType::kBF16, weight.rows, weight.cols, {{rows.data(), weight.rows}}}, {}, false, expected.data());
  }
};

/// The product of `count` rows with the weight is that of its rows of bf16.
template <class Linear>
void expect_product(Linear& linear, const TestWeight& weight, int64_t count, const std::string& what) {
  const Products products(linear, random_halves(count * weight.view().cols, 1), count, weight.view(), weight.as_bf16());
  expect_same(products.actual, products.expected, fmt::format("{}, {} rows", what, count));
}

/// Of every kind, bit for bit: three tiles and a short one, and `all_cols`, times each of `counts` rows.
template <class Linear>
void expect_the_bits(Linear& linear, std::initializer_list<int64_t> all_cols, std::initializer_list<int64_t> counts) {
  constexpr int64_t kRows = 3 * code_tiles::kTileRows + 7;
  for (const Kind& kind : kinds())
    for (const int64_t cols : all_cols) {
      if (is_blocked(kind.dtype) && cols % quant_block(kind.dtype).elements != 0) continue;
      const TestWeight weight(kind, kRows, cols);
      ASSERT_TRUE(code_tiles::takes(weight.view())) << kind.name();
      const std::vector<std::byte> rows = weight.as_bf16();
      const std::vector<uint16_t> x = random_halves(std::max(counts) * cols, 1);
      for (const int64_t count : counts) {
        const Products products(linear, x, count, weight.view(), rows);
        ASSERT_EQ(std::memcmp(products.actual.data(), products.expected.data(), products.actual.size() * sizeof(float)), 0)
            << kind.name() << ", " << count << " rows of " << cols;
      }
    }
}

/// use(dtype, codes, what) of tiles of `cols` >= 640 columns in int4 and int8, of which one group has parameters that are infinite, tiny or NaN.
template <class Use>
void for_odd_groups(int64_t cols, const Use& use) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  for (const DType dtype : {DType::kInt4, DType::kInt8})
    for (const int64_t row : {0, 31})
      for (const int64_t group : {0, 7, 8, 9})
        for (const auto& [scale, minimum] :
             {std::pair{0x1p-130f, 0.0f}, {0x1p120f, -0x1p-126f}, {0x1p127f, 0x1p-127f}, {3.0f, kInfinity}, {kNan, 1.0f}, {kInfinity, 2.0f}, {-0.0f, -0.0f}}) {
          std::vector<std::byte> codes = random_codes(dtype, code_tiles::kTileRows, cols);
          set_parameters(dtype, codes, row, cols, group, scale, minimum);
          use(dtype, codes, fmt::format("{}: {}, {}", dtype_name(dtype), scale, minimum));
        }
}

}  // namespace flexgen::test_code_weights
