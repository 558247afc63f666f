#include "tensor/code_format.h"

#include <algorithm>

namespace flexgen {

CodeFormat usual_format(DType dtype, int64_t rows, int64_t cols) {
  CodeFormat format;
  format.scale_type = dtype == DType::kFp8   ? ScaleType::kF32
                      : dtype == DType::kFp4 ? ScaleType::kE4M3
                      : is_transposed(dtype) ? ScaleType::kF16
                                             : ScaleType::kBF16;
  format.scale_rows = dtype == DType::kFp8 ? 128 : 1;
  format.scale_columns = dtype == DType::kCodes8 ? 0 : dtype == DType::kFp4 ? 16 : 128;
  format.num_groups = format.scale_columns == 0 ? 1 : (cols + format.scale_columns - 1) / format.scale_columns;
  format.stored_rows = is_transposed(dtype) ? rows : 0;
  format.has_zeros = is_transposed(dtype);
  format.has_global = dtype == DType::kFp4;
  return format;
}

CodeFormat mxfp4_format(int64_t cols) {
  constexpr int64_t kColumns = 32;
  return {.scale_type = ScaleType::kE8M0, .scale_columns = kColumns, .num_groups = (cols + kColumns - 1) / kColumns};
}

int64_t beside_bytes(const CodeFormat& format, DType dtype, CodePart part, int64_t rows, int64_t cols) {
  const int64_t per_word = codes_per_word(dtype);
  switch (part) {
    case kScales: return (format.scale_rows == 0 ? 1 : (rows + format.scale_rows - 1) / format.scale_rows) * format.num_groups * scale_bytes(format.scale_type);
    case kZeros: return format.has_zeros ? (rows + per_word - 1) / per_word * format.num_groups * 4 : 0;
    case kOrder: return format.has_order ? 4 * cols : 0;
    case kGlobal: return format.has_global ? 4 : 0;
    case kNumCodeParts: break;
  }
  return 0;
}

void decode_rows(const CodeFormat& format, DType dtype, const WeightPiece& piece, int64_t first, int64_t num_rows, int64_t cols, float* out) {
  codes::with_codes(dtype, [&]<DType kType>() {
    codes::unpack_rows<kType>(format, piece, first, num_rows, cols,
                              [&](int64_t row, int64_t column, int64_t count, const float* values) { std::copy_n(values, count, out + row * cols + column); });
  });
}

}  // namespace flexgen
