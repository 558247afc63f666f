#pragma once
// Codes of e2m1 whose scales are powers of two (OCP Microscaling Formats 1.0: MXFP4, as safetensors and as GGUF have it), for dot_codes.cc: what codes mean without a scale is the same for all rows, so codes are turned,
// which are a quarter of the bytes, and looked up as the product wants them; a scale is added to the exponents.

#include <array>

#include "backend/cpu/code_readers_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi,avx512vbmi2")
namespace flexgen::code_tiles {

/// Whether a tile's codes are such, each 32 columns with a scale of their own. `dtype` one that takes().
inline bool has_powers(DType dtype, const CodeFormat* format) {
  return dtype == DType::kMXFP4 ||
         (dtype == DType::kFp4 && format->scale_type == ScaleType::kE8M0 && !format->has_global && format->scale_columns == kStep && format->scale_rows == 1);
}

/// 16 stretches of 16 bytes, as four words each: turned[j] is word j of all. part(i) is stretch i.
template <class Part>
HWY_INLINE void turn_stretches(const Part& part, __m512i (&turned)[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    __m512i v = _mm512_castsi128_si512(part(i));
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, part(4 + i));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, part(8 + i));
    turned[i] = _mm512_mask_broadcast_i32x4(v, 0xf000, part(12 + i));
  }
  dot_product::turn_four(turned[0], turned[1], turned[2], turned[3]);
}

/// Reads codes of a tile of kFp4 or kMXFP4 that has_powers(); the tile must outlive it. For one thread.
template <DType kType>
class PowerReader {
 public:
  explicit PowerReader(const ProductTile& tile) : tile_(tile), row_bytes_(row_bytes(kType, tile.cols)) {}

  /// Scales of pairs of steps [pair, pair + count), count <= kReadPairs. False: not all that codes of these may mean is normal, and others have to unpack them.
  HWY_INLINE bool read(int64_t pair, int64_t count) {
    first_step_ = 2 * pair;
    bool is_usual = true;
    const auto there = static_cast<__mmask16>((1u << 2 * count) - 1);
    for (int64_t half = 0; half < 2; ++half) {
      __m512i words[4];
      turn_stretches([&](int64_t i) { return scales(half * 16 + i, there); }, words);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        constexpr uint8_t kLeast = flexgen::codes::kLeastUsualPower, kRange = flexgen::codes::kMostUsualPower - kLeast;
        is_usual &= _mm512_cmpgt_epu8_mask(_mm512_sub_epi8(words[j], _mm512_set1_epi8(kLeast)), _mm512_set1_epi8(static_cast<char>(kRange))) == 0;
#pragma GCC unroll 4
        for (int b = 0; b < 4; ++b) {
          const __m512i both = _mm512_shuffle_epi8(words[j], _mm512_set4_epi32(at_byte(12 + b), at_byte(8 + b), at_byte(4 + b), at_byte(b)));
          exponents_[4 * j + b][half] = _mm512_slli_epi16(_mm512_sub_epi16(both, _mm512_set1_epi16(127)), 7);
        }
      }
    }
    return is_usual;
  }

  /// Codes of a step of 16 rows.
  HWY_INLINE void codes(int64_t half, int64_t step, __m512i (&words)[4]) const {
    const std::byte* const at = tile_.rows + half * 16 * row_bytes_ + step * kBytes + (kBytes - 16);
    turn_stretches([&](int64_t i) { return load_16(at + i * row_bytes_); }, words);
  }
  /// Which pair of the step's columns place `byte` of word `word` is.
  static constexpr int64_t pair_at(int64_t word, int64_t byte) { return kType == DType::kFp4 ? 4 * word + byte : 2 * word + byte % 2 + byte / 2 * 8; }
  /// What the two codes at place `byte` of a word mean: a pair of columns of 16 rows.
  HWY_INLINE __m512i meanings(const LookUp& look_up, __m512i word, int64_t byte, int64_t half, int64_t step) const {
    const __m512i codes = _mm512_multishift_epi64_epi8(bytes_of(kPlaces[static_cast<size_t>(byte)]), word);
    const __m512i unscaled = look_up(codes, look_up.in_first, values());
    return _mm512_mask_add_epi16(unscaled, _mm512_test_epi16_mask(codes, _mm512_set1_epi16(0x000e)), unscaled, exponents_[step - first_step_][half]);
  }

 private:
  /// Of 32 columns; codes come last.
  static constexpr int64_t kBytes = kType == DType::kFp4 ? 16 : 17;

  /// The scales of a row's steps, 1 where there is none.
  HWY_INLINE __m128i scales(int64_t row, __mmask16 there) const {
    const __m128i one = _mm_set1_epi8(127);
    if constexpr (kType == DType::kFp4)
      return _mm_mask_loadu_epi8(one, there, tile_.piece->beside[kScales] + tile_.format->first_scale(tile_.piece_row + row) + first_step_);
    alignas(16) uint8_t of_steps[16] = {};
    const std::byte* at = tile_.rows + row * row_bytes_ + first_step_ * kBytes;
    for (int i = 0; i < 16; ++i)
      if (there >> i & 1) of_steps[i] = std::to_integer<uint8_t>(at[i * kBytes]);
    return _mm_mask_mov_epi8(one, there, _mm_load_si128(reinterpret_cast<const __m128i*>(of_steps)));
  }
  /// Shuffles byte `b` to both words of four bytes.
  static constexpr int at_byte(int b) { return static_cast<int>(0x80008000u | static_cast<unsigned>(b) << 16 | static_cast<unsigned>(b)); }
  /// Where the codes of places 0 to 3 begin in two words, less a bit, as look-ups want them: the first code's bits for two bytes, the second's for two.
  static constexpr std::array<Bytes, 4> places() {
    std::array<Bytes, 4> all{};
    for (int byte = 0; byte < 4; ++byte)
      for (int i = 0; i < 64; ++i) {
        const int second = i % 4 / 2;
        const int bit = kType == DType::kFp4 ? 8 * byte + 4 * second : byte % 2 * 16 + byte / 2 * 4 + 8 * second;
        all[static_cast<size_t>(byte)][static_cast<size_t>(i)] = static_cast<uint8_t>((i % 8 / 4 * 32 + bit + 63) % 64);
      }
    return all;
  }
  alignas(64) static constexpr std::array<Bytes, 4> kPlaces = places();
  static HWY_INLINE __m512i values() {
    // GGUF's are twice the values of half the scales.
    const __m512 values = kType == DType::kFp4 ? e2m1_numbers() : _mm512_mul_ps(_mm512_loadu_ps(blocks::kTwiceE2m1), _mm512_set1_ps(0.5f));
    return table_of(values, values);
  }

  const ProductTile& tile_;
  int64_t row_bytes_, first_step_ = 0;
  __m512i exponents_[2 * kReadPairs][2];  ///< of a step and half of the rows, what is added to both bf16 of a lane
};

}  // namespace flexgen::code_tiles
HWY_POP_ATTRIBUTES
