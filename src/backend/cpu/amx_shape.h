#pragma once
// What AMX's products of bf16 (amx_product.h) take at a time.

#include <cstdint>

namespace flexgen::amx_product {

inline constexpr int64_t kTileRows = 32;   ///< rows of W that go through together: two registers
inline constexpr int64_t kBlockRows = 16;  ///< rows of x in a register
inline constexpr int64_t kStep = 32;       ///< columns in a register

}  // namespace flexgen::amx_product
