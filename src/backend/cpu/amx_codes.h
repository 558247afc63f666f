#pragma once
// Quantized weights (code_tiles.h) for AMX's products (amx_product.h). What codes mean is made in registers, a chunk of columns at a time, and lies in the nearest cache when the tile registers read it. Pure functions,
// thread-safe; only where amx_product::is_supported().

#include <cstdint>

#include "backend/cpu/amx_product.h"
#include "backend/cpu/product_tile.h"
#include "tensor/dtype.h"

namespace flexgen::amx_product {

/// As copy_chunk(), of a tile of a weight that code_tiles::takes(), as code_readers_inl.h has it. `first` and `count` are multiples of kQuantGroup.
void unpack_chunk(const ProductTile& tile, DType dtype, int64_t first, int64_t count, TileChunk* chunk);

/// As multiply(), of a tile of a weight that is taken, for num_rows <= 2 * kBlockRows.
void multiply_codes(const std::byte* x, int64_t num_rows, DType dtype, const ProductTile& tile, TileChunk* scratch, float* y);

}  // namespace flexgen::amx_product
