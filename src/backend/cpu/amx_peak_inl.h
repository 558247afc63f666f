#pragma once
// The most that products of bf16 by AMX can do, for benchmarks: for .cc files that run it where amx_product::is_supported().

#include "backend/cpu/amx_tile_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen::amx_product {

inline constexpr int64_t kPeakSteps = 4;  ///< so many have rows of W and x in the nearest cache
inline constexpr int64_t kPeakBytes = kPeakSteps * 2 * kTileRows * kStepBytes;
inline constexpr double kFlopsOfStep = 2.0 * kTileRows * 2 * kBlockRows * kStep;

/// Multiplies `repeats` times kPeakSteps steps of a tile of W and two blocks of x, kPeakBytes in all; where `loads` is false, the registers as they are. Eight registers hold no more than four
/// sums, so each product needs a load: without loads no product can be had.
inline void repeat_products(const std::byte* data, int64_t repeats, bool loads) {
  set_shapes(shapes_of(kTileRows, kBlockRows, kBlockRows));
  for (int64_t i = 0; i < repeats; ++i)
    for (int64_t step = 0; step < kPeakSteps; ++step) {
      const std::byte *w = data + step * kTileRows * kStepBytes, *x = w + kPeakBytes / 2;
      if (loads) {
        load<kX0>(x, kStepBytes);
        load<kW0>(w, kStepBytes);
        load<kW1>(w + kBlockRows * kStepBytes, kStepBytes);
        load<kX1>(x + kBlockRows * kStepBytes, kStepBytes);
      }
      add_loaded<true>();
    }
  release();
}

}  // namespace flexgen::amx_product
HWY_POP_ATTRIBUTES
