#pragma once
// Symmetric int8 quantization of the inputs of a product, group by group as they come (per-token dynamic quantization: ZeroQuant, Yao et al. 2022): the
// plain statement that all backends agree with. Pure functions.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tensor/code_format.h"
#include "tensor/weight_view.h"

namespace flexgen {

inline constexpr int64_t kIntegerPart = 32;

/// Columns of inputs that share a scale where they meet this weight in integers: as many as its own groups have, 64 of int8 and int4, and 32 of types whose codes are whole numbers (or
/// halves of them) around one that means zero. 0: it is not multiplied in integers.
inline int64_t integer_group(DType dtype, const CodeFormat* format) {
  switch (dtype) {
    case DType::kInt8:
    case DType::kInt4: return kQuantGroup;
    case DType::kQ4_0:
    case DType::kQ8_0:
    case DType::kIQ4_NL:
    case DType::kMXFP4: return kIntegerPart;
    case DType::kFp4:
      return format && format->scale_columns == kIntegerPart && format->scale_rows == 1 && !format->has_global && !format->has_order ? kIntegerPart
                                                                                                                                     : 0;  // gpt-oss's MXFP4
    default: return 0;
  }
}
inline int64_t integer_group(const WeightView& weight) { return integer_group(weight.dtype, weight.format); }

/// x [cols] -> codes [cols] and scales [ceil(cols / group)]: in each group scale = max|x| / 127 and code = round_half_even(x * (127 / max|x|)), all in fp32; a value
/// comes back as code * scale. Zeros, and groups so small that 127 / max|x| is no finite number, have scale 0; a group that is not finite has scale NaN.
inline void quantize_symmetric(const float* x, int64_t cols, int64_t group, int8_t* codes, float* scales) {
  for (int64_t first = 0; first < cols; first += group) {
    const int64_t end = std::min(cols, first + group);
    float largest = 0;
    bool finite = true;
    for (int64_t i = first; i < end; ++i) {
      finite &= std::isfinite(x[i]);
      largest = std::max(largest, std::abs(x[i]));
    }
    float inverse = 127.0f / largest, scale = largest / 127.0f;
    if (!std::isfinite(inverse)) inverse = scale = 0;
    if (!finite) inverse = 0, scale = NAN;
    for (int64_t i = first; i < end; ++i) codes[i] = static_cast<int8_t>(inverse == 0 ? 0.0f : std::nearbyint(x[i] * inverse));
    scales[first / group] = scale;
  }
}

}  // namespace flexgen
