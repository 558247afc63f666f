// Weights whose scales are tensors of their own: every code and every scale against their oracles (tools/make_code_hashes.py); cuts and parts of rows.

#include "tensor/code_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace flexgen::code_format_test {
namespace {

constexpr int64_t kRows = 65536;

/// As tools/make_code_hashes.py mixes.
uint64_t mixed(uint64_t number) {
  uint64_t z = (number + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

using Bytes = std::vector<std::byte>;
void add_word(Bytes* bytes, uint32_t word, size_t size = 4) {
  for (size_t i = 0; i < size; ++i) bytes->push_back(static_cast<std::byte>(word >> (8 * i)));
}
Bytes random_words(int64_t count, uint64_t first = 0) {
  Bytes words;
  for (int64_t i = 0; i < count; ++i) add_word(&words, static_cast<uint32_t>(mixed(first + static_cast<uint64_t>(i))));
  return words;
}
Bytes numbers(int64_t count, size_t size) {
  Bytes bytes;
  for (int64_t i = 0; i < count; ++i) add_word(&bytes, static_cast<uint32_t>(i), size);
  return bytes;
}

/// A matrix with its tensors.
struct Matrix {
  DType dtype = DType::kFp8;
  int64_t rows = 0, cols = 0;
  CodeFormat format = {};
  Bytes codes = {};
  std::array<Bytes, kNumCodeParts> beside = {};

  WeightPiece piece() const {
    WeightPiece piece{codes.data(), rows};
    for (size_t part = 0; part < beside.size(); ++part) piece.beside[part] = beside[part].empty() ? nullptr : beside[part].data();
    return piece;
  }
  std::vector<float> decoded(int64_t first, int64_t count) const {
    std::vector<float> values(static_cast<size_t>(count * cols));
    decode_rows(format, dtype, piece(), first, count, cols, values.data());
    return values;
  }
  uint64_t hash() const {
    uint64_t hash = 0, element = 0;
    for (int64_t first = 0; first < rows; first += 4096)
      for (float value : decoded(first, std::min<int64_t>(4096, rows - first)))
        hash += (uint64_t{std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value)} + 1) * mixed(element++);
    return hash;
  }
};

/// Rows of all codes, a scale each.
Matrix with_every_scale(DType dtype, ScaleType type, Bytes row, int64_t cols) {
  const bool is_byte = scale_bytes(type) == 1;
  Matrix m{dtype, is_byte ? 256 : kRows, cols, {.scale_type = type}};
  for (int64_t r = 0; r < m.rows; ++r) m.codes.insert(m.codes.end(), row.begin(), row.end());
  m.beside[kScales] = type == ScaleType::kF32 ? random_words(m.rows) : numbers(m.rows, static_cast<size_t>(scale_bytes(type)));
  return m;
}

/// Words that hold all codes of so many bits in order.
Bytes every_code(int64_t bits) {
  Bytes bytes;
  for (int64_t code = 0; code < 1 << bits; ++code) {
    if (bits == 8) bytes.push_back(static_cast<std::byte>(code));
    else if (code % 2 == 0) bytes.push_back(static_cast<std::byte>(code | (code + 1) << 4));
  }
  return bytes;
}

Matrix packed(int64_t bits) { return with_every_scale(bits == 4 ? DType::kPacked4 : DType::kPacked8, ScaleType::kBF16, every_code(bits), 1 << bits); }

Matrix packed_with_zeros(int64_t bits) {
  Matrix m = packed(bits);
  m.format.has_zeros = true;
  m.beside[kZeros] = random_words(kRows * bits / 32);
  return m;
}

Matrix packed_with_order(int64_t bits) {
  Matrix m = packed(bits);
  m.rows = kRows / 4;
  m.format.num_groups = 4;
  m.format.scale_columns = m.cols / 4;
  m.format.has_order = true;
  for (int64_t column = 0; column < m.cols; ++column)
    add_word(&m.beside[kOrder], column == 5 ? 4 : static_cast<uint32_t>(mixed(static_cast<uint64_t>(column))) & 3u);
  return m;
}

Matrix gptq(int64_t bits, bool first_form, bool ordered) {
  const int64_t groups = ordered ? 2 : 1;
  Matrix m{bits == 4 ? DType::kGptq4 : DType::kGptq8,
           kRows,
           1 << bits,
           {.scale_type = ScaleType::kF16, .scale_columns = (1 << bits) / groups, .num_groups = groups, .stored_rows = kRows}};
  m.format.has_zeros = true;
  m.format.zeros_less_one = first_form;
  const Bytes codes = every_code(bits);
  for (size_t word = 0; word < codes.size() / 4; ++word)
    for (int64_t row = 0; row < kRows; ++row)
      m.codes.insert(m.codes.end(), codes.begin() + static_cast<int64_t>(4 * word), codes.begin() + static_cast<int64_t>(4 * word + 4));
  m.beside[kScales] = numbers(kRows, 2);
  for (int64_t row = kRows; ordered && row-- > 0;) add_word(&m.beside[kScales], static_cast<uint32_t>(row), 2);
  m.beside[kZeros] = random_words(groups * kRows * bits / 32);
  m.format.has_order = ordered;
  for (int64_t column = 0; ordered && column < m.cols; ++column) add_word(&m.beside[kOrder], static_cast<uint32_t>(mixed(static_cast<uint64_t>(column))) & 1u);
  return m;
}

Matrix awq() {
  Matrix m{DType::kAwq4, kRows, 16, {.scale_type = ScaleType::kF16, .scale_columns = 8, .num_groups = 2, .stored_rows = kRows, .has_zeros = true}};
  m.codes = random_words(16 * kRows / 8);
  m.beside[kScales] = numbers(kRows, 2);
  for (int64_t row = kRows; row-- > 0;) add_word(&m.beside[kScales], static_cast<uint32_t>(row), 2);
  m.beside[kZeros] = random_words(2 * kRows / 8, 12345);
  return m;
}

Matrix fp4(ScaleType type, float factor) {
  Matrix m = with_every_scale(DType::kFp4, type, numbers(256, 1), 512);
  m.format.has_global = factor != 0;
  if (factor != 0) add_word(&m.beside[kGlobal], std::bit_cast<uint32_t>(factor));
  return m;
}

TEST(CodeFormat, EveryCodeAndScaleIsWhatItsOracleMakesOfIt) {
  const auto fp8 = [](ScaleType type) { return [=] { return with_every_scale(DType::kFp8, type, numbers(256, 1), 256); }; };
  const std::map<std::string, std::function<Matrix()>> matrices{
      {"fp8 f32", fp8(ScaleType::kF32)},
      {"fp8 f16", fp8(ScaleType::kF16)},
      {"fp8 bf16", fp8(ScaleType::kBF16)},
      {"fp8 e4m3", fp8(ScaleType::kE4M3)},
      {"fp8 e8m0", fp8(ScaleType::kE8M0)},
      {"codes8 bf16", [] { return with_every_scale(DType::kCodes8, ScaleType::kBF16, numbers(256, 1), 256); }},
      {"fp4 e4m3 0", [] { return fp4(ScaleType::kE4M3, 1); }},
      {"fp4 e4m3 1", [] { return fp4(ScaleType::kE4M3, static_cast<float>(448 * 6 / 3.7)); }},
      {"fp4 e4m3 2", [] { return fp4(ScaleType::kE4M3, 1e-3f); }},
      {"fp4 e8m0", [] { return fp4(ScaleType::kE8M0, 0); }},
      {"packed4", [] { return packed(4); }},
      {"packed4 zeros", [] { return packed_with_zeros(4); }},
      {"packed4 order", [] { return packed_with_order(4); }},
      {"packed8", [] { return packed(8); }},
      {"packed8 zeros", [] { return packed_with_zeros(8); }},
      {"packed8 order", [] { return packed_with_order(8); }},
      {"gptq4 first", [] { return gptq(4, true, false); }},
      {"gptq4 second", [] { return gptq(4, false, false); }},
      {"gptq4 order", [] { return gptq(4, true, true); }},
      {"gptq8 first", [] { return gptq(8, true, false); }},
      {"gptq8 second", [] { return gptq(8, false, false); }},
      {"gptq8 order", [] { return gptq(8, true, true); }},
      {"awq4", awq}};
  // Printed by tools/make_code_hashes.py.
  const std::map<std::string, uint64_t> expected{
      {"fp8 f32", 0x968ef31e989085e5},       {"fp8 f16", 0xae1744a5afea155e},      {"fp8 bf16", 0xa0b901734043045e},      {"fp8 e4m3", 0xba89870782b0fc11},
      {"fp8 e8m0", 0x09666837970f5c11},      {"codes8 bf16", 0x5657d8b0f9f0035e},  {"fp4 e4m3 0", 0x6e544f6a4f6f3907},    {"fp4 e4m3 1", 0xd00b09bab5e79e56},
      {"fp4 e4m3 2", 0xde5ac3df24ad9003},    {"fp4 e8m0", 0x5d9c3201f7ef3907},     {"packed4", 0x24503b2ada72d180},       {"packed4 zeros", 0x6e9a30784af49180},
      {"packed4 order", 0x2afad695eb4948be}, {"packed8", 0x2ad315fb6eb7975e},      {"packed8 zeros", 0x2cbdd911e728025e}, {"packed8 order", 0xcd5e21cacba76b12},
      {"gptq4 first", 0xf4562b74e7684b80},   {"gptq4 second", 0xe8571749812c6f80}, {"gptq4 order", 0x690518a03c57db80},   {"gptq8 first", 0x6809b5a25978461e},
      {"gptq8 second", 0x50f11ca78ea67a7e},  {"gptq8 order", 0xc8841536dfedb15e},  {"awq4", 0x138fd88cd4faf180}};
  ASSERT_EQ(matrices.size(), expected.size());
  for (const auto& [name, make] : matrices) EXPECT_EQ(make().hash(), expected.at(name)) << name;
}

/// A row has the same elements whichever rows are read with it, and whichever block of rows and columns has its scale.
TEST(CodeFormat, BlocksOfRowsAndColumnsHaveTheirScales) {
  constexpr int64_t kHeight = 70, kWidth = 300;  // the last blocks are not whole
  Matrix m{DType::kFp8, kHeight, kWidth, {.scale_type = ScaleType::kF32, .scale_rows = 32, .scale_columns = 128, .num_groups = 3}};
  for (int64_t i = 0; i < kHeight * kWidth; ++i) m.codes.push_back(static_cast<std::byte>(mixed(static_cast<uint64_t>(i)) % 0x7f));
  std::vector<float> scales;
  for (int i = 0; i < 9; ++i) add_word(&m.beside[kScales], std::bit_cast<uint32_t>(scales.emplace_back(0.1f * static_cast<float>(i + 1))));
  const std::vector<float> all = m.decoded(0, kHeight);
  for (int64_t row = 0; row < kHeight; ++row) {
    const std::vector<float> alone = m.decoded(row, 1);
    for (int64_t column = 0; column < kWidth; ++column) {
      const float value = codes::e4m3_value(std::to_integer<uint8_t>(m.codes[static_cast<size_t>(row * kWidth + column)])) *
                          scales[static_cast<size_t>(row / 32 * 3 + column / 128)];
      ASSERT_EQ(alone[static_cast<size_t>(column)], value) << row << " " << column;
      ASSERT_EQ(all[static_cast<size_t>(row * kWidth + column)], value) << row << " " << column;
    }
  }
}

TEST(CodeFormat, OneScaleMayBeForAll) {
  Matrix m{DType::kCodes8, 3, 5, {.scale_type = ScaleType::kBF16, .scale_rows = 0}};
  m.codes = numbers(15, 1);
  add_word(&m.beside[kScales], bf16_from_float(0.5f), 2);
  const std::vector<float> values = m.decoded(0, 3);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], 0.5f * static_cast<float>(i));
}

TEST(CodeFormat, TypesAreTold) {
  for (int i = 0; i <= static_cast<int>(kLastDType); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(is_scaled(dtype), dtype >= DType::kFp8);
    EXPECT_NE(dtype_name(dtype), "?");
    EXPECT_LE(is_blocked(dtype) + is_scaled(dtype) + is_grouped(dtype), 1);
  }
  EXPECT_EQ(row_bytes(DType::kPacked4, 9), 8);
  EXPECT_EQ(row_bytes(DType::kPacked8, 9), 12);
  EXPECT_EQ(row_bytes(DType::kFp4, 16), 8);
}

}  // namespace
}  // namespace flexgen::code_format_test
