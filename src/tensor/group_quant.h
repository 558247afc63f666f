#pragma once
// Group-wise quantization of rows (FlexGen: Sheng et al., ICML 2023, section 5): the plain statement of the format that
// all kernels agree with. Pure functions.
//
// A row of `cols` values is cut into groups of 64 (the last may be shorter). A group of values x has, both rounded to bf16,
//     minimum = min(x),  scale = levels / (max(x) - min(x)),  levels = 15 (int4) or 255 (int8),
// and codes q = round_half_even(clamp((x - minimum) * scale, 0, levels)) in fp32; a value comes back as minimum + q * (1 / scale).
// Where max = min, or nearly so that the scale would be no finite bf16, scale = 0 and every value comes back as the minimum.
//
// That is GroupRange::kMinMax. GroupRange::kMse puts other ends low, high in the places of min(x), max(x): those with the least squared error of a
// search (the clipping range of OmniQuant: Shao et al., ICLR 2024, its two ends apart, found as GPTQ's code does: by trying). With unit = 0.04 * (max - min),
// low = min + i * unit, high = max - j * unit for i, j in 0..4; then, twice, unit is halved and low + a * unit, high + b * unit for a, b in -1..1 around
// the best are tried. Of equal errors the earlier counts, so that it is never worse than kMinMax. All in fp32, each operation rounded by itself; the
// squares of a group are summed in 16 lanes, i mod 16, and these by adding the upper half to the lower four times: every backend makes the same bytes.
//
// In memory: the codes of all groups, then for each group its scale and its minimum (2 bytes each). int8 takes a byte a code. An int4
// group of n values takes ceil(n / 2) bytes: byte i has code i in its low half and code i + ceil(n / 2) in its high half (0 if there is none).

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace flexgen {

/// Quantizes x [cols] to a row of `dtype` (kInt8 or kInt4), row_bytes(dtype, cols) bytes at `out`. False, and nothing of use
/// in `out`, if a value is infinite or NaN, or a group spans more than a float holds.
bool quantize_row(const float* x, int64_t cols, DType dtype, std::byte* out, GroupRange range = GroupRange::kMinMax);
/// The other way, of any quantized type: out [cols] f32.
void dequantize_row(const std::byte* row, DType dtype, int64_t cols, float* out);

/// Element `column` of a row of any type.
float load_in_row(const std::byte* row, DType dtype, int64_t cols, int64_t column);
/// Writes x [cols] as a row of any type but a blocked one. A quantized row that is not finite comes back as NaN throughout.
void store_row(const float* x, int64_t cols, DType dtype, std::byte* out);

}  // namespace flexgen
