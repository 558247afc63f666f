#include "backend/cpu/int4_product.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "tensor/dtype.h"

namespace flexgen::int4_product {

bool takes(int64_t num_rows, const ProductTile& tile) {
  return tile.num_rows == kTileRows && tile.cols % kQuantGroup == 0 && dot_product::uses_tile_as_read(num_rows, tile.cols);
}

#if !defined(__x86_64__)

bool is_supported() { return false; }
bool multiply(const dot_product::Rows&, const ProductTile&, float*) { FLEXGEN_CHECK(false, "no look-ups of int4 on this kind of machine"); }

#else

bool is_supported() {
  static const bool machine = dot_product::is_supported() && __builtin_cpu_supports("avx512vbmi");
  return machine;
}

#endif

}  // namespace flexgen::int4_product

#if defined(__x86_64__)
#include "backend/cpu/dot_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi")
namespace flexgen::int4_product {
namespace {

using dot_product::kLanes;

static_assert(kQuantGroup == 64 && kTileRows == 2 * kLanes);
constexpr int64_t kPartGroups = dot_product::sum_columns(1 << 20) / kQuantGroup;  ///< of a part of the columns, at most
static_assert(kPartGroups == kLanes);
constexpr int64_t kHalfGroup = kQuantGroup / 2;  ///< columns in the lower halves of a group's bytes, and in the upper ones

/// What the codes of a part's groups mean: step * code + minimum.
struct Parameters {
  alignas(64) float step[kPartGroups][kTileRows], minimum[kPartGroups][kTileRows];
};

/// Those of groups [first, first + count) of each row; false: see multiply().
bool read_parameters(const ProductTile& tile, int64_t first, int64_t count, Parameters* out) {
  const int64_t row_bytes = flexgen::row_bytes(DType::kInt4, tile.cols);
  const std::byte* at = tile.rows + tile.cols / 2 + 4 * first;
  const auto there = static_cast<__mmask16>((1u << count) - 1);
  bool good = true;
  for (int64_t row = 0; row < kTileRows; row += kLanes, at += kLanes * row_bytes) {
    __m512i v[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) v[i] = _mm512_maskz_loadu_epi32(there, at + i * row_bytes);
    dot_product::transpose(v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      good &= dot_product::are_normal(v[i]);
      const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(v[i], 16));
      const __mmask16 has_step = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_NEQ_UQ);
      _mm512_store_ps(out->step[i] + row, _mm512_maskz_div_ps(has_step, _mm512_set1_ps(1), scale));
      _mm512_store_ps(out->minimum[i] + row, _mm512_castsi512_ps(_mm512_and_si512(v[i], _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
    }
  }
  return good;
}

using Bytes = std::array<uint8_t, 64>;

/// Where a table takes its byte 16 * row + code from: the lower or the upper one of what the code means in that row, of [code, row] bf16 in two vectors.
constexpr Bytes table_bytes(int upper) {
  Bytes at{};
  for (int row = 0; row < 4; ++row)
    for (int code = 0; code < 16; ++code) at[static_cast<size_t>(16 * row + code)] = static_cast<uint8_t>(2 * (code * 4 + row) + upper);
  return at;
}
/// Of each byte of Group::codes, which of eight rows it is of, where look-ups want that.
constexpr Bytes row_bits() {
  Bytes bits{};
  for (int i = 0; i < 64; ++i) bits[static_cast<size_t>(i)] = static_cast<uint8_t>((4 * (i / 16) + i % 8 / 2) % 8 << 4);
  return bits;
}
alignas(64) constexpr Bytes kLowerBytes = table_bytes(0), kUpperBytes = table_bytes(1), kRowBits = row_bits();
/// The codes, each for four rows.
alignas(64) constexpr float kCodes[4][16] = {{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3},
                                             {4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7},
                                             {8, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 10, 11, 11, 11, 11},
                                             {12, 12, 12, 12, 13, 13, 13, 13, 14, 14, 14, 14, 15, 15, 15, 15}};

HWY_INLINE __m512i bytes_of(const Bytes& bytes) { return _mm512_load_si512(bytes.data()); }

/// 32 bytes of two rows. (A broadcast is a load alone, an insertion takes a place of the look-ups.)
HWY_INLINE __m512i two_rows(const std::byte* first, const std::byte* second) {
  const __m256i above = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first)), below = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second));
  return _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(above), 0xf0, below);
}

/// Of four rows, in each 128 bits, eight words become columns, two of them in a vector.
HWY_INLINE void turn_words(__m512i& r0, __m512i& r1, __m512i& r2, __m512i& r3) {
  const __m512i a = _mm512_unpacklo_epi16(r0, r1), b = _mm512_unpacklo_epi16(r2, r3);
  const __m512i c = _mm512_unpackhi_epi16(r0, r1), e = _mm512_unpackhi_epi16(r2, r3);
  r0 = _mm512_unpacklo_epi32(a, b);
  r1 = _mm512_unpackhi_epi32(a, b);
  r2 = _mm512_unpacklo_epi32(c, e);
  r3 = _mm512_unpackhi_epi32(c, e);
}

/// What codes [8 * eight, 8 * eight + 8) of four rows mean, in bf16.
HWY_INLINE __m512i meanings(int eight, __m512 steps, __m512 minima) {
  const __m512 first = _mm512_fmadd_ps(_mm512_load_ps(kCodes[2 * eight]), steps, minima),
               next = _mm512_fmadd_ps(_mm512_load_ps(kCodes[2 * eight + 1]), steps, minima);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(next, first));
}

/// Bytes `at` of the tables of sixteen rows: of the first eight in the lower half, of the others in the upper one.
HWY_INLINE __m512i look_up(const __m512i (&tables)[4], __m512i at) {
  constexpr __mmask64 kFirst = 0xffffffffu;
  const __m512i first = _mm512_mask2_permutex2var_epi8(tables[0], at, kFirst, tables[1]);
  return _mm512_mask2_permutex2var_epi8(tables[2], first, ~kFirst, tables[3]);
}

/// A group of 64 columns of 16 rows.
struct Group {
  __m512i lower[4], upper[4];  ///< tables of four rows each: the lower bytes of what codes mean, the upper ones
  __m512i codes[8];            ///< bytes 4i to 4i + 3 of each row: in each 128 bits two of four rows, then the next two

  HWY_INLINE Group(const std::byte* at, int64_t row_bytes, const float* step, const float* minimum) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512 steps = _mm512_broadcast_f32x4(_mm_load_ps(step + 4 * i)), minima = _mm512_broadcast_f32x4(_mm_load_ps(minimum + 4 * i));
      const __m512i first = meanings(0, steps, minima), second = meanings(1, steps, minima);
      lower[i] = _mm512_permutex2var_epi8(first, bytes_of(kLowerBytes), second);
      upper[i] = _mm512_permutex2var_epi8(first, bytes_of(kUpperBytes), second);
    }
    __m512i above[4], below[4];  // rows i and 4 + i, 8 + i and 12 + i
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      above[i] = two_rows(at + i * row_bytes, at + (4 + i) * row_bytes);
      below[i] = two_rows(at + (8 + i) * row_bytes, at + (12 + i) * row_bytes);
    }
    turn_words(above[0], above[1], above[2], above[3]);
    turn_words(below[0], below[1], below[2], below[3]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      codes[i] = _mm512_shuffle_i32x4(above[i], below[i], 0x88);
      codes[4 + i] = _mm512_shuffle_i32x4(above[i], below[i], 0xdd);
    }
  }

  /// What codes in the lower four bits of each byte mean: two pairs of columns of each row.
  HWY_INLINE void unpack(__m512i bytes, __m512i (&pairs)[2]) const {
    constexpr int kLowFourOrRow = 0xea;  // (a & b) | c
    const __m512i at = _mm512_ternarylogic_epi32(bytes, _mm512_set1_epi8(15), bytes_of(kRowBits), kLowFourOrRow);
    const __m512i low = look_up(lower, at), high = look_up(upper, at);
    pairs[0] = _mm512_unpacklo_epi8(low, high);
    pairs[1] = _mm512_unpackhi_epi8(low, high);
  }
};

/// Adds a group of kHalves times 16 rows from `half` on, times kRows packed rows of x from its columns on.
template <int kRows, int kHalves>
HWY_INLINE void add_group(const std::byte* x, const std::byte* codes, int64_t row_bytes, const float* step, const float* minimum,
                          __m512 (&sums)[kHalves][kRows]) {
  constexpr int64_t kOther = (kHalves - 1) * kLanes;
  const Group groups[2] = {Group(codes, row_bytes, step, minimum), Group(codes + kOther * row_bytes, row_bytes, step + kOther, minimum + kOther)};
#pragma GCC unroll 2
  for (int upper = 0; upper < 2; ++upper)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      __m512i pairs[kHalves][2];
#pragma GCC unroll 2
      for (int half = 0; half < kHalves; ++half) {
        const __m512i bytes = groups[half].codes[i];
        groups[half].unpack(upper == 0 ? bytes : _mm512_srli_epi16(bytes, 4), pairs[half]);
      }
#pragma GCC unroll 2
      for (int pair = 0; pair < 2; ++pair, x += 4 * kRows)
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 2
          for (int half = 0; half < kHalves; ++half)
            sums[half][m] = _mm512_dpbf16_ps(sums[half][m], dot_product::pair_of_all(x + 4 * m), reinterpret_cast<__m512bh>(pairs[half][pair]));
    }
}

/// kRows packed rows of x times the tile. Of few rows both halves of the tile's go together, as sums of one would wait for themselves; sums of more have no room in registers.
template <int kRows>
bool multiply_tile(const std::byte* x, const ProductTile& tile, float* y) {
  constexpr int kHalves = kRows <= 2 ? 2 : 1;
  const int64_t row_bytes = flexgen::row_bytes(DType::kInt4, tile.cols), num_groups = tile.cols / kQuantGroup,
                of_part = dot_product::sum_columns(tile.cols) / kQuantGroup;
  const int64_t steps = num_groups * 2 / kHalves;
  dot_product::EvenFetch fetch(tile);
  Parameters parameters;
  for (int64_t begin = 0, step = 0; begin < num_groups; begin += of_part) {
    const int64_t end = std::min(num_groups, begin + of_part);
    if (!read_parameters(tile, begin, end - begin, &parameters)) return false;
    for (int64_t row = 0; row < kTileRows; row += kHalves * kLanes) {
      __m512 sums[kHalves][kRows];
      for (auto& half : sums)
        for (__m512& sum : half) sum = _mm512_setzero_ps();
      for (int64_t group = begin; group < end; ++group) {
        fetch.reach(++step, steps);
        add_group<kRows, kHalves>(x + 2 * group * kQuantGroup * kRows, tile.rows + row * row_bytes + group * kHalfGroup, row_bytes,
                                  parameters.step[group - begin] + row, parameters.minimum[group - begin] + row, sums);
      }
      for (int half = 0; half < kHalves; ++half)
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m) {
          float* const to = y + m * kTileRows + row + half * kLanes;
          _mm512_store_ps(to, begin == 0 ? sums[half][m] : _mm512_add_ps(_mm512_load_ps(to), sums[half][m]));
        }
    }
  }
  return true;
}

}  // namespace

bool multiply(const dot_product::Rows& x, const ProductTile& tile, float* y) {
  bool good = false;
  dot_product::with_constant<dot_product::kFewRows>(x.count, [&](auto rows) { good = multiply_tile<rows>(x.data, tile, y); });
  return good;
}

}  // namespace flexgen::int4_product
HWY_POP_ATTRIBUTES
#endif
