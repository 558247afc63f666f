#pragma once
// Weights of every type that code_tiles::takes(), for tests of products that read codes.

#include <fmt/format.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/code_tiles.h"
#include "backend/cpu/linear_tiles.h"
#include "backend/cpu/test_codes.h"
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

}  // namespace flexgen::test_code_weights
