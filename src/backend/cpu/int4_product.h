#pragma once
// Int4Product: products of few rows of bf16 with rows of weights in int4 (tensor/group_quant.h). What codes mean is looked up in registers and multiplied there, by AVX512-VBMI and AVX512-BF16: written to memory
// as rows of bf16 first and read again, they would take twice as long. Pure functions, thread-safe; multiply() only where is_supported().

#include <cstdint>

#include "backend/cpu/dot_product.h"
#include "backend/cpu/product_tile.h"

namespace flexgen::int4_product {

using dot_product::kTileRows;

/// Whether this machine has the instructions.
bool is_supported();

/// Whether `num_rows` rows of x may be multiplied with the tile: whole tiles of whole groups, and so few rows that they go through them as they are read.
bool takes(int64_t num_rows, const ProductTile& tile);

/// y [x.count, kTileRows] f32, 64-byte aligned = x, packed if more than one row, times the tile's rows of int4: bit for bit what dot_product::multiply() gives with them as bf16. False, and nothing of use in y, if
/// some group's parameters are so small or so large (beyond 2^-100, 2^100) that what its codes mean may be no normal number.
bool multiply(const dot_product::Rows& x, const ProductTile& tile, float* y);

}  // namespace flexgen::int4_product
