#pragma once
// Codes of int4 and int8 (tensor/group_quant.h) for AMX's products (amx_product.h). What they mean is made in registers, a chunk of columns at a time, and lies in the nearest cache when the tile registers read it:
// whole rows of bf16 would go to the second cache and come back. Pure functions, thread-safe; only where amx_product::is_supported(), but takes_codes().

#include <cstdint>

#include "backend/cpu/amx_product.h"
#include "backend/cpu/product_tile.h"
#include "tensor/dtype.h"

namespace flexgen::amx_product {

/// Whether rows of so many columns of the type can be unpacked in chunks: they consist of whole groups.
bool takes_codes(DType dtype, int64_t cols);

/// As copy_chunk(), of a tile of a type that is taken: bit for bit the bf16 of vector_rows::convert(), but that numbers which are not normal may be zero, as they are for the products. `first` and `count` are multiples
/// of kQuantGroup.
void unpack_chunk(const ProductTile& tile, DType dtype, int64_t first, int64_t count, TileChunk* chunk);

/// As multiply(), of a tile of a type that is taken, for num_rows <= 2 * kBlockRows.
void multiply_codes(const std::byte* x, int64_t num_rows, DType dtype, const ProductTile& tile, TileChunk* scratch, float* y);

}  // namespace flexgen::amx_product
