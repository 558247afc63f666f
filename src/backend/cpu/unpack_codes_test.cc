#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "backend/cpu/vector_rows.h"
#include "tensor/code_format.h"
#include "tensor/group_quant.h"

namespace flexgen::unpack_codes_test {
namespace {

/// What float values are as bf16, bit for bit.
std::vector<uint16_t> rounded(const std::vector<float>& values) {
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) bits[i] = bf16_from_float(values[i]);
  return bits;
}

/// Every byte of codes, under each scale there is, the smallest, the largest and NaN among them, in groups of `columns`.
void expect_every_power(int64_t columns) {
  constexpr int64_t kRows = 256, kCols = 512;  // a row has a scale; a byte twice in it
  CodeFormat format = usual_format(DType::kFp4, kRows, kCols);
  format.scale_type = ScaleType::kE8M0;
  format.scale_columns = columns;
  format.num_groups = kCols / columns;
  format.has_global = false;
  std::vector<std::byte> codes(kRows * kCols / 2), scales(static_cast<size_t>(kRows * format.num_groups));
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::byte>(i % 256);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<std::byte>(i / static_cast<size_t>(format.num_groups));
  WeightPiece piece{codes.data(), kRows};
  piece.beside[kScales] = scales.data();
  std::vector<float> values(kRows * kCols);
  decode_rows(format, DType::kFp4, piece, 0, kRows, kCols, values.data());
  std::vector<uint16_t> unpacked(values.size());
  vector_rows::unpack_codes(format, DType::kFp4, piece, 0, kRows, kCols, DType::kBF16, unpacked.data());
  EXPECT_EQ(unpacked, rounded(values)) << "groups of " << columns;
}
TEST(UnpackCodes, FourBitsAreWhatTheyMeanTimesAnyPowerOfTwo) {
  for (const int64_t columns : {16, 32, 64}) expect_every_power(columns);
}

TEST(UnpackCodes, GroupsOfFourBitsAreSteps) {
  constexpr int64_t kCols = 3 * kQuantGroup + 7;
  const int64_t bytes = row_bytes(DType::kInt4, kCols);
  std::vector<std::byte> row(static_cast<size_t>(bytes));
  for (const auto& [scale, minimum] : {std::pair{3.7f, -1.3f}, {0.0f, 2.0f}, {1e-30f, 5.0f}, {2e4f, -3e38f}}) {
    for (size_t i = 0; i < row.size(); ++i) row[i] = static_cast<std::byte>(i * 37 + 11);
    for (int64_t group = 0; group * kQuantGroup < kCols; ++group) {
      const uint16_t parameters[2] = {bf16_from_float(scale), bf16_from_float(minimum)};
      std::memcpy(row.data() + (kCols + 1) / 2 + 4 * group, parameters, sizeof parameters);
    }
    std::vector<float> values(kCols);
    dequantize_row(row.data(), DType::kInt4, kCols, values.data());
    std::vector<uint16_t> unpacked(kCols);
    vector_rows::convert(row.data(), DType::kInt4, kCols, DType::kBF16, unpacked.data());
    EXPECT_EQ(unpacked, rounded(values)) << scale;
  }
}

}  // namespace
}  // namespace flexgen::unpack_codes_test
