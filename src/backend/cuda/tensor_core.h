#pragma once
// The tensor core instruction the kernels use, with the register layout that PTX gives it ("Matrix Fragments for mma.m16n8k16").
// Of lane l, with row = l / 4 and pair = l % 4:
//     a [16, 16]: a[0] holds (row, 2 pair + {0, 1}), a[1] the same of row + 8, a[2] (row, 2 pair + 8 + {0, 1}), a[3] the same of row + 8;
//     b [16, 8]:  b[0] holds (2 pair + {0, 1}, column row), b[1] (2 pair + 8 + {0, 1}, column row);
//     d [16, 8]:  d[0], d[1] hold (row, 2 pair + {0, 1}), d[2], d[3] the same of row + 8.
// And what brings matrices from shared memory into these registers.
// Device code: all 32 lanes of a warp together.

#include "backend/cuda/device_code.h"

namespace flexgen::inline FLEXGEN_SIDE {

#if defined(__CUDACC__)

/// d += a b, 16-bit factors, sums in fp32.
template <typename Half>
FLEXGEN_CODE void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  if constexpr (Half::kType == DType::kBF16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  // Turing multiplies fp16 alone, in halves of K; its kernels are never asked for bf16 (cuda_device.cu refuses).
  if constexpr (Half::kType == DType::kF16) {
    for (int half = 0; half < 2; ++half)
      asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                   : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                   : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  } else {
    __trap();
  }
#endif
}

/// Four matrices of 8 x 8 from shared memory: lane 8 i + r says where row r of matrix i is, 16 bytes at 16. Of matrix i a lane gets the elements 2 pair + {0, 1} of
/// row `row` (kTurned: of column `row`, rows 2 pair + {0, 1}).
template <bool kTurned>
FLEXGEN_CODE void load_matrices(const std::byte* row, uint32_t (&out)[4]) {
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTurned)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
}

#else

template <typename Half>
inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Mine {
    float* d;
    const uint32_t *a, *b;
  } mine{d, a, b};
  emulator::together(&mine, [](void* const* lanes) {
    float left[16][16], right[16][8];
    for (int l = 0; l < kWarp; ++l) {
      const auto& from = *static_cast<const Mine*>(lanes[l]);
      const int row = l / 4, pair = l % 4;
      for (int i = 0; i < 2; ++i) {
        for (int r = 0; r < 4; ++r) left[row + 8 * (r % 2)][2 * pair + i + 8 * (r / 2)] = Half::to_float((from.a[r] >> 16 * i) & 0xffffu);
        for (int r = 0; r < 2; ++r) right[2 * pair + i + 8 * r][row] = Half::to_float((from.b[r] >> 16 * i) & 0xffffu);
      }
    }
    float sums[16][8];
    auto for_results = [&](auto body) {
      for (int l = 0; l < kWarp; ++l)
        for (int i = 0; i < 4; ++i) body(sums[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2], static_cast<const Mine*>(lanes[l])->d[i]);
    };
    for_results([](float& sum, float& d) { sum = d; });
    for (int row = 0; row < 16; ++row)
      for (int k = 0; k < 16; ++k)
        for (int column = 0; column < 8; ++column) sums[row][column] += left[row][k] * right[k][column];
    for_results([](float& sum, float& d) { d = sum; });
  });
}

template <bool kTurned>
inline void load_matrices(const std::byte* row, uint32_t (&out)[4]) {
  struct Mine {
    const std::byte* row;
    uint32_t* out;
  } mine{row, out};
  emulator::together(&mine, [](void* const* lanes) {
    auto element = [&](int matrix, int r, int column) -> uint32_t { return load16(static_cast<const Mine*>(lanes[8 * matrix + r])->row + 2 * column); };
    for (int l = 0; l < kWarp; ++l)
      for (int matrix = 0; matrix < 4; ++matrix) {
        const int row = l / 4, pair = 2 * (l % 4);
        static_cast<const Mine*>(lanes[l])->out[matrix] =
            kTurned ? element(matrix, pair, row) | element(matrix, pair + 1, row) << 16 : element(matrix, row, pair) | element(matrix, row, pair + 1) << 16;
      }
  });
}

#endif

}  // namespace flexgen::inline FLEXGEN_SIDE
