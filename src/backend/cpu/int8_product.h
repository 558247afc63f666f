#pragma once
// Int8Product: products of rows of int8 codes with rows of int4 or int8 weights in integer arithmetic, in SIMD picked at run time for the machine.
// LinearInt8 (linear_int8.h) cuts a whole product into these. Pure functions, thread-safe.
//
// Inputs are quantized as they come, row by row, symmetrically in groups of 64 (per-token dynamic quantization: ZeroQuant, Yao et al. 2022; here with the
// weights' groups): backend/symmetric_quant.h is the plain statement. With codes q, steps s and minima m of the weights, codes p and scales r of the inputs,
//     y = sum over groups of  r * (s * sum(p * q) + m * sum(p)),
// the inner sums exact in integers, the outer one in fp32 in the order of the groups. Types with a scale for 32 columns and no minima (MXFP4, Q4_0, Q8_0, IQ4_NL) have groups of these, "parts",
// and a code z that means zero:
//     y = sum over parts of  (r * s) * (sum(p * q) - z * sum(p))

#include <cstdint>

#include "backend/cpu/linear_tiles.h"
#include "backend/symmetric_quant.h"
#include "tensor/dtype.h"
#include "tensor/weight_view.h"

namespace flexgen::int8_product {

inline constexpr int64_t kTileRows = 32;       ///< rows of W that are packed together
inline constexpr int64_t kChunkColumns = 512;  ///< columns packed at a time: those of a tile stay in the nearest cache
inline constexpr int64_t kPart = kIntegerPart;
inline constexpr int64_t kChunkGroups = kChunkColumns / kQuantGroup;
inline constexpr int64_t kChunkParts = kChunkColumns / kPart;

/// Rows of inputs as codes. Of row t and group g of `group` columns: codes at (t * num_groups + g) * group, zeros past the last column; the rest at t * num_groups + g.
struct QuantizedRows {
  int8_t* codes = nullptr;
  float* scales = nullptr;
  float* offsets = nullptr;   ///< groups: scale * sum of the codes
  int32_t* starts = nullptr;  ///< parts: -zero * sum of the codes
  int64_t num_groups = 0;
  int64_t group = kQuantGroup;  ///< or kPart
  int32_t zero = 0;             ///< parts: the code of W that means zero
};

/// Of a type in parts, the code that means zero.
int32_t zero_of(DType dtype);

/// x [num_rows, cols] of an unquantized type, to row `first_row` and on of `out`. A group that is not finite has scale NaN.
void quantize_rows(const std::byte* x, DType dtype, int64_t num_rows, int64_t cols, const QuantizedRows& out, int64_t first_row);

/// kTileRows rows of W, kChunkColumns columns of them, as multiply() reads them: four columns of each row side by side, rows next to each other.
struct PackedTile {
  alignas(64) uint8_t codes[2 * kChunkColumns * kTileRows];  ///< [group, plane, 16 (of parts 8) fours of columns, row, 4]; a plane has half a byte of each code
  alignas(64) float steps[kChunkParts * kTileRows];          ///< [group, row]
  alignas(64) float minima[kChunkGroups * kTileRows];
};

/// Packs groups [first_group, first_group + num_groups), num_groups <= kChunkGroups, of the `num_rows` <= kTileRows rows at `rows`, `dtype` kInt4 or kInt8;
/// rows that are not there become zeros. `next`, `next_bytes`: what to fetch from memory
/// meanwhile, for a later call (in the order in which it lies: memory is slow at anything else).
void pack_tile(const std::byte* rows, DType dtype, int64_t cols, int64_t num_rows, int64_t first_group, int64_t num_groups, const std::byte* next,
               int64_t next_bytes, PackedTile* tile);

/// The same of parts [first, first + count), count <= kChunkParts, of a tile of such a weight.
void pack_parts(const WeightView& weight, const LinearTile& rows, int64_t first, int64_t count, const std::byte* next, int64_t next_bytes, PackedTile* tile);

/// y [num_rows, kTileRows] f32, 64-byte aligned = (is_first ? 0 : y) + rows [first_row, ...) of x, the groups or parts that `tile` holds, times the tile's rows.
void multiply(const QuantizedRows& x, int64_t first_row, int64_t num_rows, const PackedTile& tile, DType dtype, int64_t first_group, int64_t num_groups,
              bool is_first, float* y);

}  // namespace flexgen::int8_product
