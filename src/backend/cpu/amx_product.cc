#include "backend/cpu/amx_product.h"

#include "base/error.h"

namespace flexgen::amx_product {

#if !defined(__x86_64__) || !defined(__linux__)

namespace {
[[noreturn]] void refuse() { FLEXGEN_CHECK(false, "no AMX on this kind of machine"); }
}  // namespace
bool is_supported() { return false; }
void pack_block(const std::byte*, int64_t, int64_t, std::byte*) { refuse(); }
void multiply(const std::byte*, int64_t, const ProductTile&, float*) { refuse(); }
void pack_padded_block(const std::byte*, int64_t, int64_t, std::byte*) { refuse(); }
void copy_chunk(const ProductTile&, int64_t, int64_t, TileChunk*) { refuse(); }
void add_chunk(const std::byte*, const std::byte*, const TileChunk&, int64_t, bool, const Ahead&, const Ahead&, BlockSums*) { refuse(); }
void turn(const BlockSums&, int64_t, const ProductOut&) { refuse(); }
void begin_chunks() { refuse(); }
void end_chunks() { refuse(); }

#endif

}  // namespace flexgen::amx_product

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "backend/cpu/amx_tile_inl.h"

namespace flexgen::amx_product {
namespace {

using dot_product::EvenFetch;

/// CPUID's leaf 7: AMX-BF16 and AMX-TILE.
bool has_instructions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kNeeded = 1u << 22 | 1u << 24;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kNeeded) == kNeeded && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
}

/// Linux gives a process the tile registers' 8 KiB of state when it asks for them (ARCH_REQ_XCOMP_PERM, arch/x86/include/uapi/asm/prctl.h).
bool ask_system() {
  constexpr long kAsk = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
}

}  // namespace

bool is_supported() {
  static const bool supported = has_instructions() && ask_system();
  return supported;
}

}  // namespace flexgen::amx_product

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen::amx_product {
namespace {

/// The columns past the last whole step: zeros follow them.
struct LastStep {
  alignas(64) std::byte w[kTileRows * kStepBytes];
  alignas(64) std::byte x[2][kStepBytes / 4 * kBlockRows * 4];
};

/// A row's last columns and zeros after them.
void copy_last(const std::byte* from, int64_t bytes, std::byte* to, int64_t room) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
  std::memset(to + bytes, 0, static_cast<size_t>(room - bytes));
}

template <bool kTwoBlocks>
void multiply_blocks(const Blocks& blocks, const ProductTile& tile, EvenFetch& fetch, int64_t first_step, int64_t all_steps, float* y) {
  const int64_t w_stride = 2 * tile.cols, steps = tile.cols / kStep, rest = tile.cols % kStep;
  const std::byte *w0 = tile.rows, *w1 = tile.num_rows > kBlockRows ? tile.rows + kBlockRows * w_stride : tile.rows, *x0 = blocks.x0, *x1 = blocks.x1;
  const int64_t x0_stride = 4 * blocks.rows0, x1_stride = 4 * blocks.rows1;
  clear<kSums00>();
  clear<kSums10>();
  if constexpr (kTwoBlocks) {
    clear<kSums01>();
    clear<kSums11>();
  }
  for (int64_t step = 0; step < steps; ++step) {
    add_step<kTwoBlocks>(w0, w1, w_stride, x0, x0_stride, x1, x1_stride);
    fetch.reach(first_step + step + 1, all_steps);
    w0 += kStepBytes;
    w1 += kStepBytes;
    x0 += kStep / 2 * x0_stride;
    x1 += kStep / 2 * x1_stride;
  }
  if (rest > 0) {
    LastStep last;
    for (int64_t r = 0; r < tile.num_rows; ++r) copy_last(tile.rows + r * w_stride + steps * kStepBytes, 2 * rest, last.w + r * kStepBytes, kStepBytes);
    copy_last(x0, rest / 2 * x0_stride, last.x[0], kStep / 2 * x0_stride);
    if constexpr (kTwoBlocks) copy_last(x1, rest / 2 * x1_stride, last.x[1], kStep / 2 * x1_stride);
    add_step<kTwoBlocks>(last.w, tile.num_rows > kBlockRows ? last.w + kBlockRows * kStepBytes : last.w, kStepBytes, last.x[0], x0_stride, last.x[1],
                         x1_stride);
  }
  write_sums<kSums00, kSums10>(blocks.rows0, y);
  if constexpr (kTwoBlocks) write_sums<kSums01, kSums11>(blocks.rows1, y + kBlockRows * kTileRows);
}

/// Pairs of columns [pair, pair + count), count <= 16, of num_rows <= 16 rows: v[i] is pair i of each row, zero where there is none.
HWY_INLINE void read_pairs(const std::byte* x, int64_t num_rows, int64_t cols, int64_t pair, int64_t count, __m512i (&v)[16]) {
  const auto there = static_cast<__mmask16>((1u << count) - 1);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = i < num_rows ? _mm512_maskz_loadu_epi32(there, x + 2 * i * cols + 4 * pair) : _mm512_setzero_si512();
  dot_product::transpose(v);
}

}  // namespace

void pack_block(const std::byte* x, int64_t num_rows, int64_t cols, std::byte* packed) {
  const int64_t pairs = cols / 2;
  if (num_rows == 1) return static_cast<void>(std::memcpy(packed, x, static_cast<size_t>(2 * cols)));
  const auto rows = static_cast<__mmask16>((1u << num_rows) - 1);
  for (int64_t pair = 0; pair < pairs; pair += 16) {
    const int64_t count = std::min<int64_t>(16, pairs - pair);
    __m512i v[16];
    read_pairs(x, num_rows, cols, pair, count, v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i)
      if (i < count) _mm512_mask_storeu_epi32(packed + (pair + i) * 4 * num_rows, rows, v[i]);
  }
}

void pack_padded_block(const std::byte* x, int64_t num_rows, int64_t cols, std::byte* packed) {
  const int64_t pairs = cols / 2;
  for (int64_t pair = 0; pair < pairs; pair += 16) {
    __m512i v[16];
    read_pairs(x, num_rows, cols, pair, std::min<int64_t>(16, pairs - pair), v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_store_si512(packed + (pair + i) * 4 * kBlockRows, v[i]);
  }
}

void copy_chunk(const ProductTile& tile, int64_t first, int64_t count, TileChunk* chunk) {
  const int64_t whole = count / kStep, rest = count % kStep;
  const auto part = static_cast<__mmask32>((uint64_t{1} << rest) - 1);
  for (int64_t r = 0; r < kTileRows; ++r) {
    const std::byte* from = tile.rows + 2 * (r * tile.cols + first);
    std::byte* to = chunk->w + r * kStepBytes;
    const bool is_there = r < tile.num_rows;
    for (int64_t step = 0; step < whole; ++step, from += kStepBytes, to += kTileRows * kStepBytes)
      _mm512_store_si512(to, is_there ? _mm512_loadu_si512(from) : _mm512_setzero_si512());
    if (rest > 0) _mm512_store_si512(to, is_there ? _mm512_maskz_loadu_epi16(part, from) : _mm512_setzero_si512());
  }
}

void begin_chunks() { set_shapes(shapes_of(kTileRows, kBlockRows, kBlockRows)); }
void end_chunks() { release(); }

namespace {

/// Asks memory for what comes, evenly over so many steps.
class StepFetch {
 public:
  StepFetch(const Ahead& ahead, int64_t num_steps)
      : lines_(ahead.data, ahead.bytes, ahead.rows, ahead.stride), each_(ceil_div(ceil_div(ahead.bytes, 64) * ahead.rows, num_steps)) {}
  HWY_INLINE void step() {
    for (int64_t i = 0; i < each_; ++i) lines_.one();
  }

 private:
  dot_product::Fetch lines_;
  int64_t each_;
};

}  // namespace

void add_chunk(const std::byte* x0, const std::byte* x1, const TileChunk& chunk, int64_t num_steps, bool is_first, const Ahead& x_ahead, const Ahead& w_ahead,
               BlockSums* sums) {
  constexpr int64_t kSumStride = sizeof(float) * kBlockRows, kXStep = 4 * kBlockRows * kStep / 2;
  if (is_first) {
    clear<kSums00>();
    clear<kSums10>();
    clear<kSums01>();
    clear<kSums11>();
  } else {
    load<kSums00>(sums->sums[kSums00], kSumStride);
    load<kSums10>(sums->sums[kSums10], kSumStride);
    load<kSums01>(sums->sums[kSums01], kSumStride);
    load<kSums11>(sums->sums[kSums11], kSumStride);
  }
  StepFetch x_fetch(x_ahead, num_steps), w_fetch(w_ahead, num_steps);
  const std::byte* w = chunk.w;
  for (int64_t step = 0; step < num_steps; ++step) {
    add_step<true>(w, w + kBlockRows * kStepBytes, kStepBytes, x0, 4 * kBlockRows, x1, 4 * kBlockRows);
    x_fetch.step();
    w_fetch.step();
    w += kTileRows * kStepBytes;
    x0 += kXStep;
    x1 += kXStep;
  }
  store<kSums00>(sums->sums[kSums00], kSumStride);
  store<kSums10>(sums->sums[kSums10], kSumStride);
  store<kSums01>(sums->sums[kSums01], kSumStride);
  store<kSums11>(sums->sums[kSums11], kSumStride);
}

void turn(const BlockSums& sums, int64_t num_rows, const ProductOut& out) {
  for (int block = 0; block < 2; ++block) {
    const int64_t rows = std::min<int64_t>(kBlockRows, num_rows - block * kBlockRows);
    for (int half = 0; half < 2; ++half) {
      const auto columns = static_cast<__mmask16>((1u << std::clamp<int64_t>(out.tile_rows - half * kBlockRows, 0, kBlockRows)) - 1);
      const __m512 bias = out.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(columns, out.bias + half * kBlockRows);
      float* y = out.y + block * kBlockRows * out.stride + half * kBlockRows;
      __m512i v[16];
      load_turned(sums.sums[2 * block + half], v);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (i >= rows) break;
        __m512 sum = reinterpret_cast<__m512>(v[i]);
        if (out.bias != nullptr) sum = _mm512_add_ps(sum, bias);
        if (out.accumulate) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(columns, y), sum);
        _mm512_mask_storeu_ps(y, columns, sum);
        y += out.stride;
      }
    }
  }
}

void multiply(const std::byte* x, int64_t num_rows, const ProductTile& tile, float* y) {
  EvenFetch fetch(tile);
  const int64_t steps = tile.cols / kStep, pairs = ceil_div(num_rows, 2 * kBlockRows);
  int64_t shaped0 = -1, shaped1 = -1;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const int64_t row = pair * 2 * kBlockRows, rows0 = std::min(kBlockRows, num_rows - row), rows1 = std::min(kBlockRows, num_rows - row - rows0);
    const std::byte* const x0 = x + row * 2 * tile.cols;
    const Blocks blocks{x0, x0 + rows0 * 2 * tile.cols, rows0, rows1};
    if (rows0 != shaped0 || rows1 != shaped1) {
      set_shapes(shapes_of(tile.num_rows, rows0, rows1));
      shaped0 = rows0, shaped1 = rows1;
    }
    float* const out = y + row * kTileRows;
    if (rows1 > 0) multiply_blocks<true>(blocks, tile, fetch, pair * steps, pairs * steps, out);
    else multiply_blocks<false>(blocks, tile, fetch, pair * steps, pairs * steps, out);
  }
  release();
}

}  // namespace flexgen::amx_product
HWY_POP_ATTRIBUTES
#endif
