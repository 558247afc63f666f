#pragma once
// Rows of int4 and int8 (tensor/group_quant.h) for tests of products that read codes.

#include <cstring>
#include <random>
#include <vector>

#include "backend/cpu/vector_rows.h"
#include "tensor/dtype.h"

namespace flexgen {

/// cols % kQuantGroup == 0.
inline void set_parameters(DType dtype, std::vector<std::byte>& rows, int64_t row, int64_t cols, int64_t group, float scale, float minimum) {
  const uint16_t parameters[2] = {bf16_from_float(scale), bf16_from_float(minimum)};
  std::memcpy(rows.data() + row * row_bytes(dtype, cols) + (dtype == DType::kInt4 ? cols / 2 : cols) + 4 * group, parameters, sizeof parameters);
}

/// Rows of any codes in groups of any usual range, some of one value, some of zeros. cols % kQuantGroup == 0.
inline std::vector<std::byte> random_codes(DType dtype, int64_t num_rows, int64_t cols) {
  std::minstd_rand random(5);
  std::vector<std::byte> rows(static_cast<size_t>(num_rows * row_bytes(dtype, cols)));
  for (std::byte& byte : rows) byte = static_cast<std::byte>(random() >> 8);
  for (int64_t row = 0; row < num_rows; ++row)
    for (int64_t group = 0; group < cols / kQuantGroup; ++group) {
      const auto scale = random() % 9 == 0 ? 0 : static_cast<float>(random() % 1000 + 1) / 4, minimum = static_cast<float>(random() % 255) / 100 - 1.27f;
      set_parameters(dtype, rows, row, cols, group, scale, random() % 9 == 0 ? 0 : minimum);
    }
  return rows;
}

inline std::vector<std::byte> as_bf16(DType dtype, const std::vector<std::byte>& codes, int64_t num_rows, int64_t cols) {
  std::vector<std::byte> rows(static_cast<size_t>(2 * num_rows * cols));
  for (int64_t row = 0; row < num_rows; ++row)
    vector_rows::convert(codes.data() + row * row_bytes(dtype, cols), dtype, cols, DType::kBF16, rows.data() + 2 * row * cols);
  return rows;
}

}  // namespace flexgen
