#pragma once
// Symmetric int8 quantization of the inputs of a product, group by group as they come (per-token dynamic quantization: ZeroQuant, Yao et al. 2022): the
// plain statement that all backends agree with. Pure functions.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tensor/dtype.h"

namespace flexgen {

/// x [cols] -> codes [cols] and scales [ceil(cols / 64)]: in each group scale = max|x| / 127 and code = round_half_even(x * (127 / max|x|)), all in fp32; a value
/// comes back as code * scale. Zeros, and groups so small that 127 / max|x| is no finite number, have scale 0; a group that is not finite has scale NaN.
inline void quantize_symmetric(const float* x, int64_t cols, int8_t* codes, float* scales) {
  for (int64_t first = 0; first < cols; first += kQuantGroup) {
    const int64_t end = std::min(cols, first + kQuantGroup);
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
    scales[first / kQuantGroup] = scale;
  }
}

}  // namespace flexgen
