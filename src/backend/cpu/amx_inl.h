#pragma once
// AMX's tile registers (Intel SDM): shapes, loads, stores, products of bf16. For .cc files that run it where amx_product::is_supported().

#include <array>
#include <cstdint>

#include "backend/cpu/dot_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen::amx_product {

// GCC 12's own intrinsics tell the compiler neither which bytes they read nor that they must stay between stores.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0;
  std::array<uint8_t, 14> reserved{};
  std::array<uint16_t, 16> row_bytes{};
  std::array<uint8_t, 16> rows{};
};
static_assert(sizeof(TileShapes) == 64);
HWY_INLINE void set_shapes(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
HWY_INLINE void release() { asm volatile("tilerelease"); }
template <int kRegister>
HWY_INLINE void clear() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kRegister));
}
template <int kRegister>
HWY_INLINE void load(const void* data, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(kRegister), "r"(data), "r"(stride) : "memory");
}
/// The same of what is used once, so that it does not drive the rest out of the nearest cache.
template <int kRegister>
HWY_INLINE void load_once(const void* data, int64_t stride) {
  asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0" : : "i"(kRegister), "r"(data), "r"(stride) : "memory");
}
template <int kRegister>
HWY_INLINE void store(void* data, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(kRegister), "r"(data), "r"(stride) : "memory");
}
template <int kSums, int kW, int kX>
HWY_INLINE void add_products() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kW), "i"(kX));
}

/// Sums [16, 16] turned: v[i] is column i.
HWY_INLINE void load_turned(const float (&sums)[256], __m512i (&v)[16]) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = _mm512_load_si512(sums + 16 * i);
  dot_product::transpose(v);
}
/// The first num_rows of them become rows of 16 floats, `stride` floats apart.
HWY_INLINE void turn_sums(const float (&sums)[256], int64_t num_rows, int64_t stride, float* y) {
  __m512i v[16];
  load_turned(sums, v);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i)
    if (i < num_rows) _mm512_storeu_si512(y + i * stride, v[i]);
}

}  // namespace flexgen::amx_product
HWY_POP_ATTRIBUTES
