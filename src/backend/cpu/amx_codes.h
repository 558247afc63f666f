#pragma once
// Quantized weights for AMX's products (amx_product.h): int4 and int8 (tensor/group_quant.h), and most types that files are shipped with. What codes mean is made in registers, a chunk of columns at a time, and lies in
// the nearest cache when the tile registers read it: whole rows of bf16 would go to the second cache and come back. Pure functions, thread-safe; only where amx_product::is_supported(), but takes_codes().

#include <cstdint>

#include "backend/cpu/amx_product.h"
#include "backend/cpu/product_tile.h"
#include "tensor/weight_view.h"

namespace flexgen::amx_product {

/// Whether the weight's rows can be unpacked in chunks: they consist of whole groups, in order.
bool takes_codes(const WeightView& weight);

/// As copy_chunk(), of a tile of a weight that is taken: bit for bit the bf16 of convert_tile() (linear_tiles.h), but that numbers which are not normal may be zero, as they are for the products. `first` and `count` are
/// multiples of kQuantGroup.
void unpack_chunk(const ProductTile& tile, DType dtype, int64_t first, int64_t count, TileChunk* chunk);

/// As multiply(), of a tile of a weight that is taken, for num_rows <= 2 * kBlockRows.
void multiply_codes(const std::byte* x, int64_t num_rows, DType dtype, const ProductTile& tile, TileChunk* scratch, float* y);

}  // namespace flexgen::amx_product
