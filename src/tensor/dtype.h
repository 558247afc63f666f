#pragma once
// Element types of weights, cache and activations, with conversions to and from float. Pure functions.

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

namespace flexgen {

/// kInt8, kInt4: rows of codes in groups that share a scale and a minimum (tensor/group_quant.h), made here. From kQ4_0 on: rows of blocks as GGUF files
/// have them (tensor/block_formats.h), read only. From kFp8 on: codes whose scales are tensors of their own (tensor/code_format.h), read only.
enum class DType : uint8_t {
  // clang-format off
  kF32, kF16, kBF16, kInt8, kInt4, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K, kIQ4_NL, kMXFP4, kIQ4_XS,
  kFp8, kCodes8, kPacked4, kPacked8, kGptq4, kGptq8, kAwq4, kFp4
  // clang-format on
};
inline constexpr DType kLastBlockedDType = DType::kIQ4_XS, kLastDType = DType::kFp4;

inline constexpr int64_t kQuantGroup = 64;  ///< values that share a scale and a minimum

/// What the scale and minimum of a group are chosen by: its extremes, or the least squared error (tensor/group_quant.h).
enum class GroupRange : uint8_t { kMinMax, kMse };

/// Whether single elements have no place of their own, only whole rows.
inline constexpr bool is_quantized(DType dtype) { return dtype >= DType::kInt8; }
/// Quantized rows of the kinds that convert_rows() makes.
inline constexpr bool is_grouped(DType dtype) { return dtype == DType::kInt8 || dtype == DType::kInt4; }
/// Quantized rows of blocks.
inline constexpr bool is_blocked(DType dtype) { return dtype >= DType::kQ4_0 && dtype <= kLastBlockedDType; }
/// Codes whose scales are tensors of their own.
inline constexpr bool is_scaled(DType dtype) { return dtype > kLastBlockedDType; }
/// Quantized by others, and read only.
inline constexpr bool is_shipped(DType dtype) { return dtype > DType::kInt4; }

/// A block: so many elements in so many bytes. Rows hold whole blocks.
struct QuantBlock {
  int64_t elements, bytes;
};
inline constexpr int64_t kLongestBlock = 256;
/// Of a blocked type.
inline constexpr QuantBlock quant_block(DType dtype) {
  constexpr QuantBlock kShapes[]{{32, 18},   {32, 20},   {32, 22},   {32, 24}, {32, 34}, {256, 84}, {256, 110},
                                 {256, 144}, {256, 176}, {256, 210}, {32, 18}, {32, 17}, {256, 136}};
  return kShapes[static_cast<int>(dtype) - static_cast<int>(DType::kQ4_0)];
}

/// Bytes that `count` elements take, of any type but int8, int4 and those with scales of their own; of a blocked one they are whole blocks.
inline constexpr int64_t size_bytes(DType dtype, int64_t count) {
  if (is_blocked(dtype)) return count / quant_block(dtype).elements * quant_block(dtype).bytes;
  return count * (dtype == DType::kF32 ? 4 : 2);
}

/// Bytes that the codes of a row of `cols` elements take. (GPTQ's and AWQ's rows do not lie together: it is their share of the matrix.)
inline constexpr int64_t code_row_bytes(DType dtype, int64_t cols) {
  switch (dtype) {
    case DType::kPacked4: return (cols + 7) / 8 * 4;
    case DType::kPacked8: return (cols + 3) / 4 * 4;
    case DType::kGptq4:
    case DType::kAwq4:
    case DType::kFp4: return (cols + 1) / 2;
    default: return cols;
  }
}

/// Bytes that a row of `cols` elements takes, of any type; of one with scales of their own, its codes.
inline constexpr int64_t row_bytes(DType dtype, int64_t cols) {
  if (is_scaled(dtype)) return code_row_bytes(dtype, cols);
  if (!is_grouped(dtype)) return size_bytes(dtype, cols);
  const int64_t groups = (cols + kQuantGroup - 1) / kQuantGroup;
  return (dtype == DType::kInt4 ? (cols + 1) / 2 : cols) + 4 * groups;
}

/// "f32", "f16", "bf16", "int8", "int4", "q4_0", "q4_k", "fp8", "int4-gptq", ...
std::string_view dtype_name(DType dtype);

/// bfloat16 is the upper half of a float. Rounds to nearest even; NaN stays NaN.
inline constexpr uint16_t bf16_from_float(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline constexpr float float_from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

/// IEEE 754 binary16, all values including subnormals, infinities and NaN; rounds to nearest even.
uint16_t f16_from_float(float value);
float float_from_f16(uint16_t bits);

/// Element `index` of an array of unquantized `dtype` at `data` (no alignment needed).
float load_float(const void* data, DType dtype, int64_t index);

}  // namespace flexgen
