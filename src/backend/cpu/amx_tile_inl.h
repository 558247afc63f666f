#pragma once
// What a tile of W and one or two blocks of x are in AMX's registers: for the .cc files of amx_product.h and amx_codes.h.

#include <algorithm>

#include "backend/cpu/amx_inl.h"
#include "backend/cpu/amx_shape.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen::amx_product {

inline constexpr int64_t kStepBytes = 2 * kStep;

/// What a tile register holds, by its number. Sums: rows of W by rows of x.
enum Register : uint8_t { kSums00 = 0, kSums10 = 1, kSums01 = 2, kSums11 = 3, kW0 = 4, kW1 = 5, kX0 = 6, kX1 = 7 };

/// One or two blocks of x, the first with `rows0` rows, packed one after the other.
struct Blocks {
  const std::byte *x0, *x1;
  int64_t rows0, rows1;
};

/// For a tile and one or two blocks of x with so many rows.
inline TileShapes shapes_of(int64_t tile_rows, int64_t rows0, int64_t rows1) {
  TileShapes shapes;
  // A register has one row at least: where a tile has none for the second, it reads the first row again, for nobody.
  const auto w0 = static_cast<uint8_t>(std::min(tile_rows, kBlockRows)), w1 = static_cast<uint8_t>(std::max<int64_t>(1, tile_rows - kBlockRows));
  const auto x0 = static_cast<uint16_t>(4 * rows0), x1 = static_cast<uint16_t>(4 * std::max<int64_t>(1, rows1));
  const auto set = [&](Register which, uint8_t rows, uint16_t bytes) { shapes.rows[which] = rows, shapes.row_bytes[which] = bytes; };
  set(kSums00, w0, x0);
  set(kSums10, w1, x0);
  set(kSums01, w0, x1);
  set(kSums11, w1, x1);
  set(kW0, w0, kStepBytes);
  set(kW1, w1, kStepBytes);
  set(kX0, kStep / 2, x0);
  set(kX1, kStep / 2, x1);
  return shapes;
}

/// What the registers hold of W times what they hold of x.
template <bool kTwoBlocks>
HWY_INLINE void add_loaded() {
  add_products<kSums00, kW0, kX0>();
  add_products<kSums10, kW1, kX0>();
  if constexpr (kTwoBlocks) {
    add_products<kSums01, kW0, kX1>();
    add_products<kSums11, kW1, kX1>();
  }
}

template <bool kTwoBlocks>
HWY_INLINE void add_step(const std::byte* w0, const std::byte* w1, int64_t w_stride, const std::byte* x0, int64_t x0_stride, const std::byte* x1,
                         int64_t x1_stride) {
  load<kX0>(x0, x0_stride);
  load_once<kW0>(w0, w_stride);
  load_once<kW1>(w1, w_stride);
  if constexpr (kTwoBlocks) load<kX1>(x1, x1_stride);
  add_loaded<kTwoBlocks>();
}

template <int kRegister0, int kRegister1>
HWY_INLINE void write_sums(int64_t num_rows, float* y) {
  constexpr int64_t kStride = 4 * kBlockRows;
  alignas(64) float sums[256];
  store<kRegister0>(sums, kStride);
  turn_sums(sums, num_rows, kTileRows, y);
  store<kRegister1>(sums, kStride);
  turn_sums(sums, num_rows, kTileRows, y + kBlockRows);
}

}  // namespace flexgen::amx_product
HWY_POP_ATTRIBUTES
