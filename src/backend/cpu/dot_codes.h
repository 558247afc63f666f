#pragma once
// Quantized weights (code_tiles.h) for the products of dot_product.h: codes of the next columns become bf16 while those before are multiplied, so that rows of bf16 are never written. Pure functions, thread-safe; multiply_codes()
// only where code_tiles::is_supported().

#include <cstdint>

#include "backend/cpu/dot_shape.h"
#include "backend/cpu/product_tile.h"
#include "tensor/weight_view.h"

namespace flexgen::dot_product {

/// What multiply_codes() needs besides, one a thread.
struct CodeScratch {
  alignas(64) std::byte unpacked[4096];  ///< a pair of steps of 16 rows, as readers leave it
  alignas(64) uint32_t turned[32][16];   ///< the same, half turned
};

/// Whether rows of x are multiplied with a tile of the weight so: a whole one, of a type that gains by it.
bool takes_codes(const WeightView& weight, const ProductTile& tile);

/// As multiply(), of a tile that is taken, for what convert_tile() (linear_tiles.h) makes of it.
void multiply_codes(const Rows& x, DType dtype, const ProductTile& tile, Scratch& scratch, CodeScratch& codes, float* y);

}  // namespace flexgen::dot_product
