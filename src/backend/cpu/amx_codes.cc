#include "backend/cpu/amx_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace flexgen::amx_product {

bool takes_codes(DType dtype, int64_t cols) { return (dtype == DType::kInt4 || dtype == DType::kInt8) && cols % kQuantGroup == 0; }

#if !defined(__x86_64__) || !defined(__linux__)

void unpack_chunk(const ProductTile&, DType, int64_t, int64_t, TileChunk*) { FLEXGEN_CHECK(false, "no AMX on this kind of machine"); }
void multiply_codes(const std::byte*, int64_t, DType, const ProductTile&, TileChunk*, float*) { FLEXGEN_CHECK(false, "no AMX on this kind of machine"); }

#endif

}  // namespace flexgen::amx_product

#if defined(__x86_64__) && defined(__linux__)
#include "backend/cpu/amx_tile_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace flexgen::amx_product {
namespace {

static_assert(kQuantGroup == 2 * kStep && kMaxChunkColumns % kQuantGroup == 0);
constexpr int64_t kParameterGroups = 8;  ///< whose parameters are read together
/// Bytes from a row's columns [32 * i, 32 * i + 32) to the next ones of a chunk.
constexpr int64_t kNextStep = kTileRows * kStepBytes;

/// A tile's codes and what they mean.
struct Codes {
  Codes(const ProductTile& tile, DType dtype)
      : num_rows(tile.num_rows), row_bytes(flexgen::row_bytes(dtype, tile.cols)), codes(tile.rows),
        parameters(tile.rows + (dtype == DType::kInt4 ? tile.cols / 2 : tile.cols)) {}
  int64_t num_rows, row_bytes;
  const std::byte *codes, *parameters;
};

/// What the codes of groups mean: step * code + minimum.
struct Parameters {
  alignas(32) float step[kTileRows][kParameterGroups], minimum[kTileRows][kParameterGroups];
  bool are_normal;  ///< whatever the codes

  /// Those of groups [first, first + count), count <= kParameterGroups.
  HWY_INLINE void read(const Codes& from, int64_t first, int64_t count) {
    const auto there = static_cast<__mmask8>((1u << count) - 1);
    const std::byte* at = from.parameters + 4 * first;
    are_normal = true;
    for (int64_t row = 0; row < from.num_rows; ++row, at += from.row_bytes) {
      const __m256i pairs = _mm256_maskz_loadu_epi32(there, at);
      const __m256 scale = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
      const __mmask8 has_step = _mm256_cmp_ps_mask(scale, _mm256_setzero_ps(), _CMP_NEQ_UQ);
      _mm256_store_ps(step[row], _mm256_maskz_div_ps(has_step, _mm256_set1_ps(1), scale));
      _mm256_store_ps(minimum[row], _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))));
      are_normal &= dot_product::are_normal(_mm512_zextsi256_si512(pairs));
    }
  }
};

HWY_INLINE __m512i load_32(const std::byte* at) { return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))); }

/// A group of int4: 32 columns at `to`, the next 32 one step further.
HWY_INLINE void unpack_int4(const std::byte* codes, float step, float minimum, std::byte* to) {
  const __m512 meanings = _mm512_fmadd_ps(_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_ps(step), _mm512_set1_ps(minimum));
  const __m512i table = _mm512_castsi256_si512(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(meanings)));
  const __m512i both = load_32(codes);
  _mm512_store_si512(to, _mm512_permutexvar_epi16(_mm512_and_si512(both, _mm512_set1_epi16(15)), table));
  _mm512_store_si512(to + kNextStep, _mm512_permutexvar_epi16(_mm512_srli_epi16(both, 4), table));
}

HWY_INLINE __m512 sixteen_values(const std::byte* codes, __m512 step, __m512 minimum) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)))), step, minimum);
}

/// The same of int8.
HWY_INLINE void unpack_int8(const std::byte* codes, float step, float minimum, std::byte* to) {
  const __m512 steps = _mm512_set1_ps(step), minima = _mm512_set1_ps(minimum);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i, codes += kStep, to += kNextStep) {
    const __m512 first = sixteen_values(codes, steps, minima), second = sixteen_values(codes + 16, steps, minima);
    _mm512_store_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
  }
}

/// The same of any parameters.
HWY_NOINLINE void unpack_group(const std::byte* codes, bool four_bits, float step, float minimum, std::byte* to) {
  for (int64_t i = 0; i < kQuantGroup; ++i) {
    const auto byte = static_cast<unsigned>(codes[four_bits ? i % kStep : i]);
    const unsigned code = !four_bits ? byte : i < kStep ? byte & 15 : byte >> 4;
    const uint16_t value = bf16_from_float(std::fma(static_cast<float>(code), step, minimum));
    std::memcpy(to + i / kStep * kNextStep + i % kStep * 2, &value, sizeof value);
  }
}

/// Group `group` of all rows, whose parameters are number `i`: two steps of a chunk at `to`.
template <bool kFourBits>
HWY_INLINE void unpack_column(const Codes& from, int64_t group, const Parameters& parameters, int64_t i, std::byte* to) {
  constexpr int64_t kGroupBytes = kFourBits ? kQuantGroup / 2 : kQuantGroup;
  const std::byte* codes = from.codes + group * kGroupBytes;
  for (int64_t row = 0; row < from.num_rows; ++row, codes += from.row_bytes, to += kStepBytes) {
    const float step = parameters.step[row][i], minimum = parameters.minimum[row][i];
    if (HWY_UNLIKELY(!parameters.are_normal)) unpack_group(codes, kFourBits, step, minimum, to);
    else if constexpr (kFourBits) unpack_int4(codes, step, minimum, to);
    else unpack_int8(codes, step, minimum, to);
  }
}

/// Zeros where a tile has no rows, in two steps of a chunk.
HWY_INLINE void clear_rest(int64_t num_rows, std::byte* to) {
  for (int64_t row = num_rows; row < kTileRows; ++row)
    for (int64_t step = 0; step < 2; ++step) _mm512_store_si512(to + row * kStepBytes + step * kNextStep, _mm512_setzero_si512());
}

template <bool kFourBits>
void unpack_groups(const Codes& from, int64_t first, int64_t count, std::byte* to) {
  Parameters parameters;
  for (int64_t group = 0; group < count; ++group, to += 2 * kNextStep) {
    if (group % kParameterGroups == 0) parameters.read(from, first + group, std::min(kParameterGroups, count - group));
    unpack_column<kFourBits>(from, first + group, parameters, group % kParameterGroups, to);
    clear_rest(from.num_rows, to);
  }
}

/// Two blocks of x, or one, times the tile. A group is unpacked while the one before is multiplied, each in its half of the room.
template <bool kFourBits, bool kTwoBlocks>
void multiply_groups(const Blocks& blocks, const Codes& from, int64_t num_groups, dot_product::EvenFetch& fetch, std::byte* room, float* y) {
  const int64_t x0_stride = 4 * blocks.rows0, x1_stride = 4 * blocks.rows1;
  const std::byte *x0 = blocks.x0, *x1 = blocks.x1;
  clear<kSums00>();
  clear<kSums10>();
  if constexpr (kTwoBlocks) {
    clear<kSums01>();
    clear<kSums11>();
  }
  for (int half = 0; half < 2; ++half) clear_rest(from.num_rows, room + half * 2 * kNextStep);
  Parameters parameters;
  for (int64_t group = 0; group <= num_groups; ++group) {
    if (group < num_groups) {
      if (group % kParameterGroups == 0) parameters.read(from, group, std::min(kParameterGroups, num_groups - group));
      unpack_column<kFourBits>(from, group, parameters, group % kParameterGroups, room + group % 2 * 2 * kNextStep);
      fetch.reach(group + 1, num_groups);
    }
    if (group == 0) continue;
    const std::byte* w = room + (group - 1) % 2 * 2 * kNextStep;
    for (int step = 0; step < 2; ++step, w += kNextStep) {
      add_step<kTwoBlocks>(w, w + kBlockRows * kStepBytes, kStepBytes, x0, x0_stride, x1, x1_stride);
      x0 += kStep / 2 * x0_stride;
      x1 += kStep / 2 * x1_stride;
    }
  }
  write_sums<kSums00, kSums10>(blocks.rows0, y);
  if constexpr (kTwoBlocks) write_sums<kSums01, kSums11>(blocks.rows1, y + kBlockRows * kTileRows);
}

}  // namespace

void unpack_chunk(const ProductTile& tile, DType dtype, int64_t first, int64_t count, TileChunk* chunk) {
  const auto unpack = dtype == DType::kInt4 ? unpack_groups<true> : unpack_groups<false>;
  unpack(Codes(tile, dtype), first / kQuantGroup, count / kQuantGroup, chunk->w);
}

void multiply_codes(const std::byte* x, int64_t num_rows, DType dtype, const ProductTile& tile, TileChunk* scratch, float* y) {
  const int64_t rows0 = std::min(kBlockRows, num_rows), rows1 = num_rows - rows0;
  const Blocks blocks{x, x + rows0 * 2 * tile.cols, rows0, rows1};
  set_shapes(shapes_of(kTileRows, rows0, rows1));
  const bool four_bits = dtype == DType::kInt4;
  const auto multiply = rows1 > 0 ? (four_bits ? multiply_groups<true, true> : multiply_groups<false, true>)
                                  : (four_bits ? multiply_groups<true, false> : multiply_groups<false, false>);
  dot_product::EvenFetch fetch(tile);
  multiply(blocks, Codes(tile, dtype), tile.cols / kQuantGroup, fetch, scratch->w, y);
  release();
}

}  // namespace flexgen::amx_product
HWY_POP_ATTRIBUTES
#endif
