#pragma once
// How rows of codes become bf16 in registers, a pair of steps (64 columns) at a time: for .cc files of products that run where code_tiles::is_supported(). A reader of each type has
//     read(pair, count)          what the codes of pairs [pair, pair + count) mean, count <= kReadPairs, for all rows of the tile
//     unpack(look_up, row, pair, i, to)   pair `pair`, the i-th of those read last, of a row: 32 columns at `to`, the next 32 at `to + kNextStep`
// What is unpacked is bit for bit the bf16 of convert_tile() (linear_tiles.h), but that a bf16 which is not normal may be zero, as it is for the products. The instruction that rounds to bf16 takes tiny floats for zero, which
// rounding may make normal: where scales are so small, codes are unpacked one by one.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "backend/cpu/code_tiles.h"
#include "backend/cpu/dot_inl.h"
#include "base/error.h"
#include "tensor/block_formats.h"
#include "tensor/code_format.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx512vbmi2")
namespace flexgen::code_tiles {

inline constexpr int64_t kStepBytes = 2 * kStep, kPair = 2 * kStep;
inline constexpr int64_t kReadPairs = 8;  ///< whose parameters are read together
/// Bytes from a row's columns [32 * i, 32 * i + 32) to the next ones of a chunk.
inline constexpr int64_t kNextStep = kTileRows * kStepBytes;
static_assert(kQuantGroup == kPair);

HWY_INLINE __m256i load_32(const std::byte* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
HWY_INLINE __m128i load_16(const std::byte* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }
HWY_INLINE __m512 signed_numbers(__m128i codes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes)); }
HWY_INLINE __m512 unsigned_numbers(__m128i codes) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes)); }

/// 32 floats as bf16.
HWY_INLINE void put(__m512 first, __m512 second, std::byte* to) { _mm512_store_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first))); }

/// What codes of four bits mean, by two scales.
HWY_INLINE __m512i table_of(__m512 first, __m512 second) { return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)); }

using Bytes = std::array<uint8_t, 64>;
/// Each of `count` bytes from `first` on so many times, and again from there.
constexpr Bytes repeated(int times, int first, int count) {
  Bytes at{};
  for (int i = 0; i < 64; ++i) at[static_cast<size_t>(i)] = static_cast<uint8_t>(first + i / times % count);
  return at;
}
alignas(64) inline constexpr Bytes kTwiceFirst = repeated(2, 0, 32), kTwiceSecond = repeated(2, 32, 32), kTwiceTwice = repeated(2, 0, 16),
                                   kFourTimes = repeated(4, 0, 16);
HWY_INLINE __m512i bytes_of(const Bytes& bytes) { return _mm512_load_si512(bytes.data()); }

/// What codes of four bits are looked up with. Made before a loop over rows: the compiler would make constants anew for each of them, with the instructions that look up.
struct LookUp {
  /// Where words are found: in the first half of a table, in the second, or columns 0 to 15 in the first and the others in the second.
  __m512i in_first, in_second, in_both;
  __m512i code_bits;

  HWY_INLINE LookUp()
      : in_first(kept(_mm512_set1_epi16(0x0100))), in_second(kept(_mm512_set1_epi16(0x2120))),
        in_both(kept(_mm512_inserti64x4(_mm512_set1_epi16(0x0100), _mm256_set1_epi16(0x2120), 1))), code_bits(kept(_mm512_set1_epi16(0x1e1e))) {}

  /// What codes mean by a table of 32 words: bits 1 to 4 of both bytes of a word are its code. (A look-up of words takes twice as long as one of bytes.)
  HWY_INLINE __m512i operator()(__m512i codes, __m512i where, __m512i table) const {
    constexpr int kAndOr = 0xea;  // (a & b) | c
    return _mm512_permutexvar_epi8(_mm512_ternarylogic_epi32(codes, code_bits, where, kAndOr), table);
  }

 private:
  static HWY_INLINE __m512i kept(__m512i constant) {
    asm("" : "+v"(constant));
    return constant;
  }
};
/// How far words of two equal bytes are turned to the left, so that a byte's lower or upper four bits are where look_up() wants them.
inline constexpr int kTurnLower = 1, kTurnUpper = 13;

HWY_INLINE __m512 numbers_from(float first) {
  return _mm512_add_ps(_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_ps(first));
}

/// What codes of e2m1 mean.
HWY_INLINE __m512 e2m1_numbers() { return _mm512_setr_ps(0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0f, -0.5, -1, -1.5, -2, -3, -4, -6); }

/// Halves at `at`; the first is lane 0.
HWY_INLINE __m512 halves_at(const std::byte* at, int bytes) {
  uint32_t bits = 0;
  std::memcpy(&bits, at, static_cast<size_t>(bytes));
  return _mm512_cvtph_ps(_mm256_castsi128_si256(_mm_cvtsi32_si128(static_cast<int>(bits))));
}
HWY_INLINE __m512 half_everywhere(const std::byte* at) { return _mm512_broadcastss_ps(_mm512_castps512_ps128(halves_at(at, 2))); }

/// int4 and int8: step * code + minimum.
template <bool kFourBits>
class GroupReader {
 public:
  GroupReader(const ProductTile& tile, DType dtype)
      : num_rows_(tile.num_rows), row_bytes_(row_bytes(dtype, tile.cols)), codes_(tile.rows), parameters_(tile.rows + (kFourBits ? tile.cols / 2 : tile.cols)) {
  }

  HWY_INLINE void read(int64_t pair, int64_t count) {
    const auto there = static_cast<__mmask8>((1u << count) - 1);
    const std::byte* at = parameters_ + 4 * pair;
    are_normal_ = true;
    for (int64_t row = 0; row < num_rows_; ++row, at += row_bytes_) {
      const __m256i both = _mm256_maskz_loadu_epi32(there, at);
      const __m256 scale = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
      const __mmask8 has_step = _mm256_cmp_ps_mask(scale, _mm256_setzero_ps(), _CMP_NEQ_UQ);
      _mm256_store_ps(step_[row], _mm256_maskz_div_ps(has_step, _mm256_set1_ps(1), scale));
      _mm256_store_ps(minimum_[row], _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))));
      are_normal_ &= dot_product::are_normal(_mm512_zextsi256_si512(both));
    }
  }
  /// Pairs `pair` and `pair + 1`, of codes of four bits: one table of both.
  HWY_INLINE void unpack_two(const LookUp& look_up, int64_t row, int64_t pair, int64_t i, std::byte* to) const requires kFourBits {
    if (HWY_UNLIKELY(!are_normal_)) {
      for (int64_t p = 0; p < 2; ++p) unpack(look_up, row, pair + p, i + p, to + p * 2 * kNextStep);
      return;
    }
    const __m512 numbers = numbers_from(0);
    const __m512i table = table_of(_mm512_fmadd_ps(numbers, _mm512_set1_ps(step_[row][i]), _mm512_set1_ps(minimum_[row][i])),
                                   _mm512_fmadd_ps(numbers, _mm512_set1_ps(step_[row][i + 1]), _mm512_set1_ps(minimum_[row][i + 1])));
    const __m512i codes = _mm512_loadu_si512(codes_ + row * row_bytes_ + pair * kPair / 2);
    look_up_pair(look_up, codes, 0, table, to);
    look_up_pair(look_up, codes, 1, table, to + 2 * kNextStep);
  }
  HWY_INLINE void unpack(const LookUp& look_up, int64_t row, int64_t pair, int64_t i, std::byte* to) const {
    const std::byte* codes = codes_ + row * row_bytes_ + pair * (kFourBits ? kPair / 2 : kPair);
    const float step = step_[row][i], minimum = minimum_[row][i];
    if (HWY_UNLIKELY(!are_normal_)) return unpack_any(codes, step, minimum, to);
    const __m512 steps = _mm512_set1_ps(step), minima = _mm512_set1_ps(minimum);
    if constexpr (kFourBits) {
      const __m512 meanings = _mm512_fmadd_ps(numbers_from(0), steps, minima);
      const __m512i table = table_of(meanings, meanings);
      look_up_pair(look_up, _mm512_castsi256_si512(load_32(codes)), 0, table, to);
    } else {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half, codes += kStep, to += kNextStep) put(sixteen(codes, steps, minima), sixteen(codes + 16, steps, minima), to);
    }
  }

 private:
  /// What the codes in bytes [32 * half, 32 * half + 32) mean by half `half` of the table: their lower four bits, then the upper ones.
  static HWY_INLINE void look_up_pair(const LookUp& look_up, __m512i codes, int half, __m512i table, std::byte* to) {
    const __m512i twice = _mm512_permutexvar_epi8(bytes_of(half == 0 ? kTwiceFirst : kTwiceSecond), codes);
    const __m512i where = half == 0 ? look_up.in_first : look_up.in_second;
    _mm512_store_si512(to, look_up(_mm512_slli_epi16(twice, 1), where, table));
    _mm512_store_si512(to + kNextStep, look_up(_mm512_srli_epi16(twice, 3), where, table));
  }
  static HWY_INLINE __m512 sixteen(const std::byte* codes, __m512 step, __m512 minimum) {
    return _mm512_fmadd_ps(unsigned_numbers(load_16(codes)), step, minimum);
  }
  /// The same of any parameters.
  static HWY_NOINLINE void unpack_any(const std::byte* codes, float step, float minimum, std::byte* to) {
    for (int64_t i = 0; i < kQuantGroup; ++i) {
      const auto byte = static_cast<unsigned>(codes[kFourBits ? i % kStep : i]);
      const unsigned code = !kFourBits ? byte : i < kStep ? byte & 15 : byte >> 4;
      const uint16_t value = bf16_from_float(std::fma(static_cast<float>(code), step, minimum));
      std::memcpy(to + i / kStep * kNextStep + i % kStep * 2, &value, sizeof value);
    }
  }

  int64_t num_rows_, row_bytes_;
  const std::byte *codes_, *parameters_;
  alignas(32) float step_[kTileRows][kReadPairs], minimum_[kTileRows][kReadPairs];
  bool are_normal_;  ///< all that codes may mean
};

/// Codes whose scales are tensors of their own: (code - zero) * scale, of `kWidth` columns at a time, which have one scale.
template <DType kType, int64_t kWidth>
class ScaledReader {
 public:
  ScaledReader(const ProductTile& tile, DType) : tile_(tile), row_bytes_(row_bytes(kType, tile.cols)) {}

  HWY_INLINE void read(int64_t pair, int64_t count) {
    const CodeFormat& format = *tile_.format;
    const int64_t column = pair * kPair, parts = count * kParts, first = format.group_of(column);
    int64_t group_of[kReadPairs * kParts];  // of each part, from the first
    for (int64_t part = 0; part < parts; ++part) group_of[part] = format.group_of(column + part * kWidth) - first;
    const int64_t groups = group_of[parts - 1] + 1;
    are_normal_ = true;
    for (int64_t row = 0; row < tile_.num_rows; ++row) {
      const int64_t of_piece = tile_.piece_row + row;
      if (format.scale_type == ScaleType::kE8M0 && !format.has_global) {
        read_powers(of_piece, first, groups, scales_[row]);
      } else {
        codes::row_scales(format, *tile_.piece, of_piece, first, groups, scales_[row]);
        for (int64_t group = 0; group < groups; ++group) are_normal_ &= !(std::abs(scales_[row][group]) < kLeastScale) || scales_[row][group] == 0;
      }
      if constexpr (has_zeros())
        for (int64_t group = 0; group < groups; ++group) zeros_[row][group] = codes::row_zero<kType>(format, *tile_.piece, of_piece, first + group);
      if (groups == parts) continue;
      // Backwards, as a part's group has no larger number than the part.
      for (int64_t part = parts - 1; part >= 0; --part) {
        scales_[row][part] = scales_[row][group_of[part]];
        if constexpr (has_zeros()) zeros_[row][part] = zeros_[row][group_of[part]];
      }
    }
  }
  HWY_INLINE void unpack(const LookUp& look_up, int64_t row, int64_t pair, int64_t i, std::byte* to) const {
    const std::byte* codes = tile_.rows + row * row_bytes_ + pair * kPair * kBits / 8;
    constexpr int64_t kBytes = kStep * kBits / 8;
    const int64_t part = i * kParts;
    if (HWY_UNLIKELY(!are_normal_)) return unpack_any(codes, row, part, to);
    if constexpr (kBits == 8) {
#pragma GCC unroll 2
      for (int64_t half = 0; half < 2; ++half, codes += kBytes, to += kNextStep)
        put(meaning(sixteen_numbers(codes), row, part + half), meaning(sixteen_numbers(codes + 16), row, part + half), to);
    } else if constexpr (kWidth == kStep) {
      const __m512i table = table_of(meaning(numbers(), row, part), meaning(numbers(), row, part + 1));
      _mm512_store_si512(to, look_up(four_bits(codes), look_up.in_first, table));
      _mm512_store_si512(to + kNextStep, look_up(four_bits(codes + kBytes), look_up.in_second, table));
    } else {
#pragma GCC unroll 2
      for (int64_t half = 0; half < 2; ++half, codes += kBytes, to += kNextStep) {
        const __m512i table = table_of(meaning(numbers(), row, part + 2 * half), meaning(numbers(), row, part + 2 * half + 1));
        _mm512_store_si512(to, look_up(four_bits(codes), look_up.in_both, table));
      }
    }
  }

 private:
  static constexpr int64_t kBits = kType == DType::kFp4 || kType == DType::kPacked4 ? 4 : 8, kParts = kPair / kWidth;
  static_assert(kWidth == kStep || (kBits == 4 && 2 * kWidth == kStep));
  /// Times the smallest code, which is more than 2^-10, and more than 2^-126.
  static constexpr float kLeastScale = 0x1p-100f;
  static constexpr bool has_zeros() { return kType == DType::kPacked4 || kType == DType::kPacked8; }

  /// A pair of any scales.
  HWY_NOINLINE void unpack_any(const std::byte* codes, int64_t row, int64_t part, std::byte* to) const {
    float values[kPair];
    flexgen::codes::row_codes<kType>(reinterpret_cast<const uint8_t*>(codes), 0, kPair, values);
    for (int64_t i = 0; i < kPair; ++i) {
      const int64_t at = part + i / kWidth;
      const float zero = has_zeros() ? zeros_[row][at] : 0;
      const uint16_t value = bf16_from_float((values[i] - zero) * scales_[row][at]);
      std::memcpy(to + i / kStep * kNextStep + i % kStep * 2, &value, sizeof value);
    }
  }

  /// As codes::row_scales(), of scales that are powers of two, which nothing rounds.
  HWY_INLINE void read_powers(int64_t row, int64_t first, int64_t count, float* out) const {
    const std::byte* at = tile_.piece->beside[kScales] + tile_.format->first_scale(row) + first;
    for (int64_t i = 0; i < count; i += 16) {
      const auto there = static_cast<__mmask16>((1u << std::min<int64_t>(16, count - i)) - 1);
      const __m512i exponents = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(there, at + i));
      __m512i bits = _mm512_slli_epi32(exponents, 23);
      bits = _mm512_mask_mov_epi32(bits, _mm512_testn_epi32_mask(exponents, exponents), _mm512_set1_epi32(0x00400000));
      bits = _mm512_mask_mov_epi32(bits, _mm512_cmpeq_epi32_mask(exponents, _mm512_set1_epi32(0xff)), _mm512_set1_epi32(0x7fc00000));
      _mm512_mask_storeu_epi32(out + i, there, bits);
    }
  }

  /// Of 16 bytes the lower four bits and the upper ones in turns.
  static HWY_INLINE __m512i four_bits(const std::byte* codes) {
    const __m512i four_times = _mm512_permutexvar_epi8(bytes_of(kFourTimes), _mm512_castsi128_si512(load_16(codes)));
    return _mm512_shldv_epi16(four_times, four_times, _mm512_set1_epi32(kTurnUpper << 16 | kTurnLower));
  }
  static HWY_INLINE __m512 numbers() { return kType == DType::kFp4 ? e2m1_numbers() : numbers_from(0); }
  /// Sixteen codes of eight bits.
  static HWY_INLINE __m512 sixteen_numbers(const std::byte* codes) {
    if constexpr (kType == DType::kCodes8) return signed_numbers(load_16(codes));
    if constexpr (kType == DType::kPacked8) return unsigned_numbers(load_16(codes));
    // As codes::e4m3_value().
    const __m512i wide = _mm512_cvtepu8_epi32(load_16(codes));
    const __m512i magnitude = _mm512_and_si512(wide, _mm512_set1_epi32(0x7f)), sign = _mm512_slli_epi32(_mm512_xor_si512(wide, magnitude), 24);
    const __mmask16 is_small = _mm512_cmplt_epu32_mask(magnitude, _mm512_set1_epi32(8)), is_nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
    const __m512i bits =
        _mm512_add_epi32(_mm512_slli_epi32(magnitude, 20), _mm512_mask_blend_epi32(is_small, _mm512_set1_epi32(120 << 23), _mm512_set1_epi32(121 << 23)));
    const __m512 value = _mm512_castsi512_ps(bits), smallest = _mm512_castsi512_ps(_mm512_set1_epi32(0x3c800000));
    const __m512i result = _mm512_castps_si512(_mm512_mask_sub_ps(value, is_small, value, smallest));
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_mask_or_epi32(result, is_nan, result, _mm512_set1_epi32(0x7fc00000)), sign));
  }
  HWY_INLINE __m512 meaning(__m512 codes, int64_t row, int64_t part) const {
    if constexpr (has_zeros()) codes = _mm512_sub_ps(codes, _mm512_set1_ps(zeros_[row][part]));
    return _mm512_mul_ps(codes, _mm512_set1_ps(scales_[row][part]));
  }

  const ProductTile& tile_;
  int64_t row_bytes_;
  alignas(64) float scales_[kTileRows][kReadPairs * kParts];
  float zeros_[has_zeros() ? kTileRows : 1][kReadPairs * kParts];
  bool are_normal_ = true;  ///< all that codes of the scales read last may mean, but zero
};

/// 16 bytes of codes of four bits: the lower halves, then the upper ones.
HWY_INLINE __m512i lower_then_upper(const std::byte* codes) {
  const __m512i twice = _mm512_permutexvar_epi8(bytes_of(kTwiceTwice), _mm512_castsi128_si512(load_16(codes)));
  return _mm512_shldv_epi16(twice, twice, _mm512_inserti64x4(_mm512_set1_epi16(kTurnLower), _mm256_set1_epi16(kTurnUpper), 1));
}

/// Rows of GGUF's blocks (tensor/block_formats.h), whose scales lie with the codes: nothing is read before.
template <DType kType>
class BlockRows {
 public:
  BlockRows(const ProductTile& tile, DType) : rows_(tile.rows), row_bytes_(row_bytes(kType, tile.cols)) {}
  HWY_INLINE void read(int64_t, int64_t) {}

 protected:
  static constexpr int64_t kBytes = quant_block(kType).bytes;
  HWY_INLINE const std::byte* block(int64_t row, int64_t index) const { return rows_ + row * row_bytes_ + index * kBytes; }

 private:
  const std::byte* rows_;
  int64_t row_bytes_;
};

/// Blocks of 32.
template <DType kType>
class BlockReader : public BlockRows<kType> {
 public:
  using BlockRows<kType>::BlockRows;

  HWY_INLINE void unpack(const LookUp& look_up, int64_t row, int64_t pair, int64_t, std::byte* to) const {
    const std::byte* block = this->block(row, 2 * pair);
    if constexpr (kType == DType::kQ8_0) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half, block += kBytes, to += kNextStep) {
        const __m512 scale = half_everywhere(block);
        put(sixteen(block + 2, scale), sixteen(block + 18, scale), to);
      }
    } else {
      // One table of both blocks.
      const __m512i table = table_of(meanings(block), meanings(block + kBytes));
      _mm512_store_si512(to, look_up(lower_then_upper(block + kBytes - 16), look_up.in_first, table));
      _mm512_store_si512(to + kNextStep, look_up(lower_then_upper(block + 2 * kBytes - 16), look_up.in_second, table));
    }
  }

 private:
  using BlockRows<kType>::kBytes;
  static_assert(quant_block(kType).elements == kStep && (kType == DType::kQ8_0 || blocks::has_sixteen_values(kType)));

  static HWY_INLINE __m512 sixteen(const std::byte* codes, __m512 scale) { return _mm512_mul_ps(signed_numbers(load_16(codes)), scale); }
  /// Of the sixteen codes.
  static HWY_INLINE __m512 meanings(const std::byte* block) {
    if constexpr (kType == DType::kQ4_0) return _mm512_mul_ps(numbers_from(-8), half_everywhere(block));
    if constexpr (kType == DType::kQ4_1) return _mm512_add_ps(_mm512_mul_ps(numbers_from(0), half_everywhere(block)), half_everywhere(block + 2));
    if constexpr (kType == DType::kIQ4_NL) return _mm512_mul_ps(_mm512_loadu_ps(blocks::kNonLinear), half_everywhere(block));
    return _mm512_mul_ps(_mm512_loadu_ps(blocks::kTwiceE2m1), _mm512_set1_ps(blocks::mxfp4_step(std::to_integer<uint8_t>(block[0]))));
  }
};

/// Blocks of 256, a quarter at a time: q4_k, q6_k and iq4_xs.
template <DType kType>
class QuarterReader : public BlockRows<kType> {
 public:
  using BlockRows<kType>::BlockRows;

  HWY_INLINE void unpack(const LookUp& look_up, int64_t row, int64_t pair, int64_t, std::byte* to) const {
    const std::byte* block = this->block(row, pair / 4);
    const auto quarter = static_cast<int>(pair % 4);
    if constexpr (kType == DType::kQ4_K) {
      // d and dmin; two parts share 32 bytes.
      const __m128 both = _mm512_castps512_ps128(halves_at(block, 4));
      const float scale = _mm_cvtss_f32(both), minimum = _mm_cvtss_f32(_mm_movehdup_ps(both));
      const __m512i table = table_of(part_meanings(block, 2 * quarter, scale, minimum), part_meanings(block, 2 * quarter + 1, scale, minimum));
      const __m512i twice = _mm512_permutexvar_epi8(bytes_of(kTwiceFirst), _mm512_castsi256_si512(load_32(block + 16 + quarter * 32)));
      _mm512_store_si512(to, look_up(_mm512_slli_epi16(twice, 1), look_up.in_first, table));
      _mm512_store_si512(to + kNextStep, look_up(_mm512_srli_epi16(twice, 3), look_up.in_second, table));
    } else if constexpr (kType == DType::kIQ4_XS) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(block);
      const blocks::Part first = blocks::iq4_xs_part(bytes, 2 * quarter), second = blocks::iq4_xs_part(bytes, 2 * quarter + 1);
      const __m512 values = _mm512_loadu_ps(blocks::kNonLinear);
      const __m512i table = table_of(_mm512_mul_ps(values, _mm512_set1_ps(first.scale)), _mm512_mul_ps(values, _mm512_set1_ps(second.scale)));
      const std::byte* codes = block + 8 + quarter * 32;
      _mm512_store_si512(to, look_up(lower_then_upper(codes), look_up.in_first, table));
      _mm512_store_si512(to + kNextStep, look_up(lower_then_upper(codes + 16), look_up.in_second, table));
    } else {
      // The lower four bits of codes in 128 bytes, the upper two in 64, scales of 16 columns, d.
      const __m512 scales = _mm512_mul_ps(signed_numbers(load_16(block + 192)), half_everywhere(block + 208));
      const __m256i upper = load_32(block + 128 + quarter / 2 * 32);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half, to += kNextStep) {
        __m256i lower = load_32(block + quarter / 2 * 64 + half * 32);
        if (quarter % 2 == 1) lower = _mm256_srli_epi16(lower, 4);
        const int shift = quarter % 2 * 4 + half * 2;
        const __m256i high = _mm256_slli_epi16(_mm256_and_si256(_mm256_srl_epi16(upper, _mm_cvtsi32_si128(shift)), _mm256_set1_epi8(3)), 4);
        const __m256i code = _mm256_sub_epi8(_mm256_or_si256(_mm256_and_si256(lower, _mm256_set1_epi8(15)), high), _mm256_set1_epi8(32));
        const int part = 4 * quarter + 2 * half;
        put(sixteen(_mm256_castsi256_si128(code), scales, part), sixteen(_mm256_extracti128_si256(code, 1), scales, part + 1), to);
      }
    }
  }

 private:
  static_assert(kType == DType::kQ4_K || kType == DType::kQ6_K || kType == DType::kIQ4_XS);

  static HWY_INLINE __m512 part_meanings(const std::byte* block, int part, float scale, float minimum) {
    float of_part, least;
    blocks::scale_and_minimum(reinterpret_cast<const uint8_t*>(block) + 4, part, &of_part, &least);
    return _mm512_sub_ps(_mm512_mul_ps(_mm512_set1_ps(of_part * scale), numbers_from(0)), _mm512_set1_ps(least * minimum));
  }
  static HWY_INLINE __m512 sixteen(__m128i codes, __m512 scales, int part) {
    return _mm512_mul_ps(signed_numbers(codes), _mm512_permutexvar_ps(_mm512_set1_epi32(part), scales));
  }
};

/// use(reader) of the tile's type.
template <class Use>
void with_reader(const ProductTile& tile, DType dtype, const Use& use) {
  const auto with = [&]<class Reader>(std::type_identity<Reader>) {
    Reader reader(tile, dtype);
    use(reader);
  };
  const auto with_width = [&]<DType kType>() {
    return tile.format->scale_columns == kStep / 2 ? with(std::type_identity<ScaledReader<kType, kStep / 2>>())
                                                   : with(std::type_identity<ScaledReader<kType, kStep>>());
  };
  switch (dtype) {
    case DType::kInt4: return with(std::type_identity<GroupReader<true>>());
    case DType::kInt8: return with(std::type_identity<GroupReader<false>>());
    case DType::kQ4_0: return with(std::type_identity<BlockReader<DType::kQ4_0>>());
    case DType::kQ4_1: return with(std::type_identity<BlockReader<DType::kQ4_1>>());
    case DType::kQ8_0: return with(std::type_identity<BlockReader<DType::kQ8_0>>());
    case DType::kIQ4_NL: return with(std::type_identity<BlockReader<DType::kIQ4_NL>>());
    case DType::kMXFP4: return with(std::type_identity<BlockReader<DType::kMXFP4>>());
    case DType::kIQ4_XS: return with(std::type_identity<QuarterReader<DType::kIQ4_XS>>());
    case DType::kQ4_K: return with(std::type_identity<QuarterReader<DType::kQ4_K>>());
    case DType::kQ6_K: return with(std::type_identity<QuarterReader<DType::kQ6_K>>());
    case DType::kFp8: return with(std::type_identity<ScaledReader<DType::kFp8, kStep>>());
    case DType::kCodes8: return with(std::type_identity<ScaledReader<DType::kCodes8, kStep>>());
    case DType::kPacked8: return with(std::type_identity<ScaledReader<DType::kPacked8, kStep>>());
    case DType::kFp4: return with_width.template operator()<DType::kFp4>();
    case DType::kPacked4: return with_width.template operator()<DType::kPacked4>();
    default: FLEXGEN_CHECK(false, "{} is not unpacked here", dtype_name(dtype));
  }
}

}  // namespace flexgen::code_tiles
HWY_POP_ATTRIBUTES
