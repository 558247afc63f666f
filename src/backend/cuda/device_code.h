#pragma once
// The vocabulary kernels are written in: natural CUDA under nvcc, and under a host compiler the same words on an emulated block of
// threads (block_emulator.h), so that every kernel's logic runs, unchanged, in tests on machines without a GPU.
// What the emulator cannot show: speed, and races that no order of the threads it tries brings out.
// Threads: code in kernels runs in many; launch() is for the thread that owns the stream.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "tensor/dtype.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define FLEXGEN_SIDE on_device
#define FLEXGEN_KERNEL static __global__
#define FLEXGEN_CODE __device__ __forceinline__
#define FLEXGEN_RARE static __device__ __noinline__  // not worth its place in every loop
#define FLEXGEN_SHARED __shared__
#define FLEXGEN_UNROLL _Pragma("unroll")
#define FLEXGEN_ROLLED _Pragma("unroll 1")
#define FLEXGEN_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)  // of a block, and of blocks that an SM is to hold
#else
#include "backend/cuda/block_emulator.h"
#define FLEXGEN_SIDE on_host
#define FLEXGEN_KERNEL inline
#define FLEXGEN_CODE inline
#define FLEXGEN_SHARED static thread_local  // one block runs at a time in a host thread
#define FLEXGEN_RARE inline
#define FLEXGEN_UNROLL
#define FLEXGEN_ROLLED
#define FLEXGEN_BOUNDS(threads, blocks)
#endif

namespace flexgen::inline FLEXGEN_SIDE {

inline constexpr int kWarp = 32;

/// How many blocks of threads a kernel is launched in.
struct Grid {
  int64_t x = 1, y = 1, z = 1;
};

#if defined(__CUDACC__)

using Stream = cudaStream_t;

FLEXGEN_CODE int thread() { return static_cast<int>(threadIdx.x); }
FLEXGEN_CODE int num_threads() { return static_cast<int>(blockDim.x); }
FLEXGEN_CODE int64_t block_x() { return blockIdx.x; }
FLEXGEN_CODE int64_t block_y() { return blockIdx.y; }
FLEXGEN_CODE int64_t block_z() { return blockIdx.z; }
FLEXGEN_CODE int64_t num_blocks_x() { return gridDim.x; }
FLEXGEN_CODE void sync_block() { __syncthreads(); }
FLEXGEN_CODE void sync_warp() { __syncwarp(); }
FLEXGEN_CODE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
FLEXGEN_CODE int32_t shuffle_xor(int32_t value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
FLEXGEN_CODE float shuffle(float value, int lane) { return __shfl_sync(0xffffffffu, value, lane); }
FLEXGEN_CODE bool any_in_warp(bool value) { return __any_sync(0xffffffffu, value) != 0; }
FLEXGEN_CODE void add_to(uint32_t* counter, uint32_t value) { atomicAdd(counter, value); }

/// Enqueues a kernel with `threads` a block. What goes wrong in a launch is found by cudaGetLastError(), which the caller asks.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, int threads, Stream stream, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
  kernel<<<blocks, static_cast<unsigned>(threads), 0, stream>>>(static_cast<Parameters>(arguments)...);
}

#else

/// Stands in for cudaStream_t: emulated kernels are over when launch() returns.
struct Stream {};

inline int thread() { return emulator::thread(); }
inline int num_threads() { return emulator::num_threads(); }
inline int64_t block_x() { return emulator::block().x; }
inline int64_t block_y() { return emulator::block().y; }
inline int64_t block_z() { return emulator::block().z; }
inline int64_t num_blocks_x() { return emulator::grid().x; }
inline void sync_block() { emulator::sync_block(); }
inline void sync_warp() { emulator::any_in_warp(false); }
inline float shuffle_xor(float value, int mask) { return emulator::shuffle(value, (emulator::thread() ^ mask) % kWarp); }
inline int32_t shuffle_xor(int32_t value, int mask) { return std::bit_cast<int32_t>(shuffle_xor(std::bit_cast<float>(value), mask)); }
inline float shuffle(float value, int lane) { return emulator::shuffle(value, lane); }
inline bool any_in_warp(bool value) { return emulator::any_in_warp(value); }
inline void add_to(uint32_t* counter, uint32_t value) { *counter += value; }

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), Grid grid, int threads, Stream, Arguments... arguments) {
  emulator::run_grid({grid.x, grid.y, grid.z}, threads, [&] { kernel(static_cast<Parameters>(arguments)...); });
}

#endif

FLEXGEN_CODE int lane() { return thread() % kWarp; }
FLEXGEN_CODE int warp() { return thread() / kWarp; }

/// Calls body(i) for the elements of a grid-wide loop.
template <typename Body>
FLEXGEN_CODE void for_elements(int64_t count, Body body) {
  for (int64_t i = block_x() * num_threads() + thread(); i < count; i += num_blocks_x() * num_threads()) body(i);
}

FLEXGEN_CODE float not_a_number() { return std::bit_cast<float>(0x7fc00000u); }
FLEXGEN_CODE float minus_infinity() { return std::bit_cast<float>(0xff800000u); }
FLEXGEN_CODE float largest_float() { return std::bit_cast<float>(0x7f7fffffu); }
FLEXGEN_CODE bool is_finite(float x) { return (std::bit_cast<uint32_t>(x) & 0x7f800000u) != 0x7f800000u; }

/// The sum of the values of four lanes, 4 i to 4 i + 3, in each of them: these have parts of one row of a tensor core's result.
FLEXGEN_CODE float sum_of_four(float value) {
  value += shuffle_xor(value, 1);
  return value + shuffle_xor(value, 2);
}
FLEXGEN_CODE float maximum_of_four(float value) {
  value = fmaxf(value, shuffle_xor(value, 1));
  return fmaxf(value, shuffle_xor(value, 2));
}

/// The sum of the lanes' values, in every lane; always added in the same order.
FLEXGEN_CODE float sum_of_warp(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
FLEXGEN_CODE float maximum_of_warp(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
  return value;
}

/// The same over a block of up to 32 warps; `shared` holds 32 floats and may be used again after the next sync_block().
template <bool kMaximum>
FLEXGEN_CODE float reduce_block(float value, float* shared) {
  value = kMaximum ? maximum_of_warp(value) : sum_of_warp(value);
  sync_block();
  if (lane() == 0) shared[warp()] = value;
  sync_block();
  value = lane() < num_threads() / kWarp ? shared[lane()] : kMaximum ? minus_infinity() : 0.0f;
  return kMaximum ? maximum_of_warp(value) : sum_of_warp(value);
}

// ---------------------------------------------------------------- 16-bit floats

/// The two 16-bit types that tensor cores multiply: conversions as tensor/dtype.h has them (NaN payloads apart).
struct Bf16 {
  static constexpr DType kType = DType::kBF16;
  static FLEXGEN_CODE float to_float(uint32_t low16) { return std::bit_cast<float>(low16 << 16); }
  static FLEXGEN_CODE uint16_t from_float(float x) { return static_cast<uint16_t>(pack(x, 0)); }
  /// Two values in one register, `low` in the low half.
  static FLEXGEN_CODE uint32_t pack(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    return bf16_from_float(low) | static_cast<uint32_t>(bf16_from_float(high)) << 16;
#endif
  }
};

/// The other one, with the same members.
struct F16 {
  static constexpr DType kType = DType::kF16;
  static FLEXGEN_CODE float to_float(uint32_t low16) {
#if defined(__CUDACC__)
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<unsigned short>(low16)));
    return x;
#else
    return float_from_f16(static_cast<uint16_t>(low16));
#endif
  }
  static FLEXGEN_CODE uint16_t from_float(float x) {
#if defined(__CUDACC__)
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    return f16_from_float(x);
#endif
  }
  static FLEXGEN_CODE uint32_t pack(float low, float high) { return from_float(low) | static_cast<uint32_t>(from_float(high)) << 16; }
};

/// Reads of any alignment that the type has by itself, and of 4, 8 and 16 bytes where the address allows.
FLEXGEN_CODE uint16_t load16(const std::byte* at) { return *reinterpret_cast<const uint16_t*>(at); }
FLEXGEN_CODE uint32_t load32(const std::byte* at) { return *reinterpret_cast<const uint32_t*>(at); }
/// 8 bytes that are read or written at once.
struct alignas(8) Words2 {
  uint32_t word[2];
};
/// 16 bytes that are read or written at once.
struct alignas(16) Words4 {
  uint32_t word[4];
};
FLEXGEN_CODE Words2 load64(const std::byte* at) { return *reinterpret_cast<const Words2*>(at); }
FLEXGEN_CODE Words4 load128(const std::byte* at) { return *reinterpret_cast<const Words4*>(at); }

// Copies from global to shared memory that a thread does not wait for (cp.async; before Ampere they are over when they return). A thread groups those it
// started with close_copies(), and waits for all of its groups but the newest kLater with wait_for_copies(); others see them after a barrier.

/// 16 bytes, both ends at 16; `is_there` false: zeros, and nothing is read.
FLEXGEN_CODE void start_copy16(std::byte* to, const std::byte* from, bool is_there = true) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "l"(from), "r"(is_there ? 16 : 0)
               : "memory");
#else
  *reinterpret_cast<Words4*>(to) = is_there ? load128(from) : Words4{};
#endif
}
/// 4 bytes at 4.
FLEXGEN_CODE void start_copy4(std::byte* to, const std::byte* from, bool is_there) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))), "l"(from), "r"(is_there ? 4 : 0)
               : "memory");
#else
  *reinterpret_cast<uint32_t*>(to) = is_there ? load32(from) : 0u;
#endif
}
FLEXGEN_CODE void close_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kLater>
FLEXGEN_CODE void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kLater) : "memory");
#endif
}

/// 1 / x to the last bit but one; 0 where that is below 2^-126.
FLEXGEN_CODE float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1 / x;
#endif
}

/// 2^x to the last bits; 0 below 2^-126.
FLEXGEN_CODE float power_of_2(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

/// Bytes of the 8 that lie in `low` and `high`, as the digits of `selector` name them, lowest first.
template <uint32_t kSelector>
FLEXGEN_CODE uint32_t pick_bytes(uint32_t low, uint32_t high) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(low, high, kSelector);
#else
  const uint64_t both = low | static_cast<uint64_t>(high) << 32;
  uint32_t picked = 0;
  for (uint32_t i = 0; i < 4; ++i) picked |= static_cast<uint32_t>(both >> 8 * ((kSelector >> 4 * i) & 7u) & 0xffu) << 8 * i;
  return picked;
#endif
}

/// A float that lies at 2 bytes past its alignment, as a checkpoint's may.
FLEXGEN_CODE float load_unaligned_float(const std::byte* at) {
  return std::bit_cast<float>(static_cast<uint32_t>(load16(at)) | static_cast<uint32_t>(load16(at + 2)) << 16);
}

/// Element `index` of an array of an unquantized type.
FLEXGEN_CODE float load_element(const std::byte* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) {
    const std::byte* at = data + 4 * index;
    return reinterpret_cast<uintptr_t>(at) % 4 == 0 ? *reinterpret_cast<const float*>(at) : load_unaligned_float(at);
  }
  const uint16_t half = load16(data + 2 * index);
  return dtype == DType::kBF16 ? Bf16::to_float(half) : F16::to_float(half);
}

/// Writes element `index` of an array of an unquantized type; f32 at its alignment.
FLEXGEN_CODE void store_element(std::byte* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    reinterpret_cast<float*>(data)[index] = value;
  } else {
    reinterpret_cast<uint16_t*>(data)[index] = dtype == DType::kBF16 ? Bf16::from_float(value) : F16::from_float(value);
  }
}

}  // namespace flexgen::inline FLEXGEN_SIDE
