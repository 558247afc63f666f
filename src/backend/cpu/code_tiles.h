#pragma once
// Tiles of quantized weights whose codes become bf16 in registers, a few columns at a time, on their way into a product (amx_codes.h, dot_codes.h): whole rows of bf16 would go to the second cache and come back. Pure
// functions, thread-safe.

#include <cstdint>

#include "tensor/weight_view.h"

namespace flexgen::code_tiles {

inline constexpr int64_t kTileRows = 32;  ///< rows of W that go through together
inline constexpr int64_t kStep = 32;      ///< columns that become a vector; they are read in pairs of steps

/// Whether this machine has the instructions that look codes up.
bool is_supported();

/// Whether the weight's rows can be unpacked in pairs of steps: int4 and int8 (tensor/group_quant.h), and most types that files are shipped with, where rows consist of whole groups, in order.
bool takes(const WeightView& weight);

}  // namespace flexgen::code_tiles
