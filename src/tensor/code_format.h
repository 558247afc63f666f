#pragma once
// Matrices whose codes, scales and zero points are tensors of their own, as checkpoints in safetensors are shipped: FP8 (DeepSeek, ModelOpt),
// compressed-tensors, GPTQ, AWQ (docs/formats.md). Plain loops that every backend shares, compiled for each kind of processor. Pure functions.
//
// Element (row, column) of a matrix [rows, cols] is
//     (code - zero) * scale
// in fp32; the difference is exact, so all ways of computing give the same bits. What lies where, of G = num_groups scales a row and N = stored_rows:
//     kFp8      e4m3 [rows, cols]; scales [rows / scale_rows, G]
//     kCodes8   int8 [rows, cols]; likewise
//     kFp4      e2m1 [rows, cols / 2], the lower half of a byte first; scales [rows, G], with `has_global` each divided by one for all, or with
//                          `global_multiplies` multiplied by it
//     kPacked4, kPacked8   words [rows, cols / 8 or 4], the lowest bits first; scales [rows, G]; zeros, words [rows / 8 or 4, G] likewise along rows,
//                          or 8 and 128; order [cols], or none
//     kGptq4, kGptq8       words [cols / 8 or 4, N], likewise along columns; scales [G, N]; zeros, words [G, N / 8 or 4] along rows, in GPTQ's first
//                          form less one; order [cols], or none
//     kAwq4     words [cols, N / 8], of each 8 rows in the order 0 2 4 6 1 3 5 7 from the lowest bits on; scales [G, N]; zeros, words [G, N / 8] likewise
// `order` says of each column which group it is in. A column of a group that is not there is NaN.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/weight_view.h"

namespace flexgen {

/// The element type of scales; kE8M0 is a power of two (OCP Microscaling Formats 1.0).
enum class ScaleType : uint8_t { kF32, kF16, kBF16, kE4M3, kE8M0 };
inline constexpr int64_t scale_bytes(ScaleType type) { return type == ScaleType::kF32 ? 4 : type == ScaleType::kF16 || type == ScaleType::kBF16 ? 2 : 1; }

/// How the tensors of a matrix belong together.
struct CodeFormat {
  ScaleType scale_type = ScaleType::kF32;
  int64_t scale_rows = 1;     ///< rows that have their scales in common; 0: all
  int64_t scale_columns = 0;  ///< columns of a group; 0: all
  int64_t num_groups = 1;
  int64_t stored_rows = 0;  ///< kGptq4, kGptq8, kAwq4: of the whole tensor
  bool has_zeros = false, has_order = false, has_global = false;
  bool global_multiplies = false;  ///< Model Optimizer's
  bool zeros_less_one = false;     ///< GPTQ's first form

  /// Where the scales of a row of a piece begin.
  constexpr int64_t first_scale(int64_t row) const { return (scale_rows == 0 ? 0 : row / scale_rows) * num_groups; }
  constexpr int64_t group_of(int64_t column) const { return scale_columns == 0 ? 0 : column / scale_columns; }
};

/// Whether a row's codes do not lie together, so that such a matrix is never cut.
inline constexpr bool is_transposed(DType dtype) { return dtype == DType::kGptq4 || dtype == DType::kGptq8 || dtype == DType::kAwq4; }
/// Codes in a word of 32 bits; 1 where they are none of words.
inline constexpr int64_t codes_per_word(DType dtype) {
  switch (dtype) {
    case DType::kPacked4:
    case DType::kGptq4:
    case DType::kAwq4: return 8;
    case DType::kPacked8:
    case DType::kGptq8: return 4;
    default: return 1;
  }
}

namespace codes {

#define FLEXGEN_SCALED_CODE [[gnu::always_inline]] inline

// Without branches, so that loops of these become vectors: a number whose exponent bits are 0 is read with a leading one, which is then taken off.

/// OCP FP8 E4M3: no infinities, 0x7f and 0xff are NaN.
FLEXGEN_SCALED_CODE constexpr float e4m3_value(uint8_t code) {
  const uint32_t magnitude = code & 0x7fu, sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t small = magnitude < 8 ? 0xffffffffu : 0u, nan = magnitude == 0x7fu ? 0x7fc00000u : 0u;
  const uint32_t bits = (magnitude << 20) + (120u << 23) + (small & 1u << 23);
  const float value = std::bit_cast<float>(bits) - std::bit_cast<float>(small & 0x3c800000u);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | nan | sign);
}

/// OCP FP4 E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
FLEXGEN_SCALED_CODE constexpr float e2m1_value(uint32_t code) {
  const uint32_t magnitude = code & 7u, small = magnitude < 2 ? 0xffffffffu : 0u;
  const uint32_t bits = (magnitude << 22) + (126u << 23) + (small & 1u << 23);
  const float value = std::bit_cast<float>(bits) - std::bit_cast<float>(small & 0x3f800000u);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | (code & 8u) << 28);
}

/// OCP E8M0: 2^(code - 127); 0xff is NaN.
FLEXGEN_SCALED_CODE constexpr float e8m0_value(uint8_t code) {
  return std::bit_cast<float>(code == 0 ? 0x00400000u : code == 0xffu ? 0x7fc00000u : static_cast<uint32_t>(code) << 23);
}

/// Codes of powers whose products with all of e2m1 but 0 are normal: of 0.5 and of 6 times them the exponent bits are neither 0 nor all ones.
inline constexpr uint8_t kLeastUsualPower = 2, kMostUsualPower = 252;

FLEXGEN_SCALED_CODE uint32_t word_at(const std::byte* words, int64_t index) {
  uint32_t word;
  std::memcpy(&word, words + 4 * index, sizeof word);
  return word;
}

/// Of bf16.
FLEXGEN_SCALED_CODE float half_value(const std::byte* halves, int64_t index) {
  uint16_t bits;
  std::memcpy(&bits, halves + 2 * index, sizeof bits);
  return float_from_bf16(bits);
}

FLEXGEN_SCALED_CODE float scale_at(const std::byte* scales, ScaleType type, int64_t index) {
  switch (type) {
    case ScaleType::kF32: return std::bit_cast<float>(word_at(scales, index));
    case ScaleType::kF16: return load_float(scales, DType::kF16, index);
    case ScaleType::kBF16: return half_value(scales, index);
    case ScaleType::kE4M3: return e4m3_value(std::to_integer<uint8_t>(scales[index]));
    case ScaleType::kE8M0: return e8m0_value(std::to_integer<uint8_t>(scales[index]));
  }
  return 0;
}

/// The group that `order` has a column in; -1 in it: none was chosen, and groups follow each other. num_groups: one that is not there.
FLEXGEN_SCALED_CODE int64_t ordered_group(const CodeFormat& format, const std::byte* order, int64_t column) {
  const auto group = static_cast<int32_t>(word_at(order, column));
  if (group == -1) return format.group_of(column);
  return group < 0 || group >= format.num_groups ? format.num_groups : group;
}

/// Scale of group `group` of a row of a piece; codes that lie by rows.
FLEXGEN_SCALED_CODE float row_scale(const CodeFormat& format, const WeightPiece& piece, int64_t row, int64_t group) {
  const float scale = scale_at(piece.beside[kScales], format.scale_type, format.first_scale(row) + group);
  if (!format.has_global) return scale;
  const float global = scale_at(piece.beside[kGlobal], ScaleType::kF32, 0);
  return format.global_multiplies ? scale * global : scale / global;
}

/// Scales of groups [first, first + count) of it: a loop for each type, as a vector wants.
FLEXGEN_SCALED_CODE void row_scales(const CodeFormat& format, const WeightPiece& piece, int64_t row, int64_t first, int64_t count, float* out) {
  const int64_t at = format.first_scale(row) + first;
  auto fill = [&](auto type) {
    for (int64_t i = 0; i < count; ++i) out[i] = scale_at(piece.beside[kScales], decltype(type)::value, at + i);
  };
  switch (format.scale_type) {
    case ScaleType::kF32: fill(std::integral_constant<ScaleType, ScaleType::kF32>()); break;
    case ScaleType::kF16: fill(std::integral_constant<ScaleType, ScaleType::kF16>()); break;
    case ScaleType::kBF16: fill(std::integral_constant<ScaleType, ScaleType::kBF16>()); break;
    case ScaleType::kE4M3: fill(std::integral_constant<ScaleType, ScaleType::kE4M3>()); break;
    case ScaleType::kE8M0: fill(std::integral_constant<ScaleType, ScaleType::kE8M0>()); break;
  }
  if (!format.has_global) return;
  const float global = scale_at(piece.beside[kGlobal], ScaleType::kF32, 0);
  if (format.global_multiplies)
    for (int64_t i = 0; i < count; ++i) out[i] *= global;
  else
    for (int64_t i = 0; i < count; ++i) out[i] /= global;
}

/// Zero point likewise.
template <DType kType>
FLEXGEN_SCALED_CODE float row_zero(const CodeFormat& format, const WeightPiece& piece, int64_t row, int64_t group) {
  if constexpr (kType == DType::kPacked4 || kType == DType::kPacked8) {
    constexpr int64_t kPerWord = codes_per_word(kType), kBits = 32 / kPerWord;
    if (!format.has_zeros) return kBits == 4 ? 8.0f : 128.0f;
    const uint32_t word = word_at(piece.beside[kZeros], row / kPerWord * format.num_groups + group);
    return static_cast<float>(static_cast<int32_t>(word >> (kBits * (row % kPerWord)) & ((1u << kBits) - 1)));
  } else {
    return 0;
  }
}

/// Code `column` of a row as a number.
template <DType kType>
FLEXGEN_SCALED_CODE float row_code(const uint8_t* row, int64_t column) {
  if constexpr (kType == DType::kFp8) return e4m3_value(row[column]);
  else if constexpr (kType == DType::kCodes8) return static_cast<float>(static_cast<int8_t>(row[column]));
  else if constexpr (kType == DType::kPacked8) return static_cast<float>(row[column]);
  else if constexpr (kType == DType::kPacked4) return static_cast<float>(row[column / 2] >> (column % 2 * 4) & 15);
  else return e2m1_value(row[column / 2] >> (column % 2 * 4) & 15u);
}

/// Codes [first, first + count) of a row as numbers; `first` is even.
template <DType kType>
FLEXGEN_SCALED_CODE void row_codes(const uint8_t* row, int64_t first, int64_t count, float* out) {
  if constexpr (kType == DType::kPacked4 || kType == DType::kFp4) {
    const uint8_t* bytes = row + first / 2;
    for (int64_t i = 0; i < count / 2; ++i) {
      const uint32_t low = bytes[i] & 15u, high = bytes[i] >> 4;
      out[2 * i] = kType == DType::kFp4 ? e2m1_value(low) : static_cast<float>(static_cast<int32_t>(low));
      out[2 * i + 1] = kType == DType::kFp4 ? e2m1_value(high) : static_cast<float>(static_cast<int32_t>(high));
    }
    if (count % 2 != 0) out[count - 1] = row_code<kType>(row, first + count - 1);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = row_code<kType>(row, first + i);
  }
}

/// put(as, column, count, values) for parts of a row of a piece, in order; codes that lie by rows.
template <DType kType, typename Put>
FLEXGEN_SCALED_CODE void unpack_row(const CodeFormat& format, const WeightPiece& piece, int64_t row, int64_t as, int64_t cols, const Put& put) {
  constexpr int64_t kSpan = 256;
  alignas(64) float values[kSpan];
  const auto* bytes = reinterpret_cast<const uint8_t*>(piece.data) + row * row_bytes(kType, cols);
  if (format.has_order) {
    for (int64_t first = 0; first < cols; first += kSpan) {
      const int64_t count = first + kSpan < cols ? kSpan : cols - first;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t group = ordered_group(format, piece.beside[kOrder], first + i);
        values[i] = group == format.num_groups
                        ? std::numeric_limits<float>::quiet_NaN()
                        : (row_code<kType>(bytes, first + i) - row_zero<kType>(format, piece, row, group)) * row_scale(format, piece, row, group);
      }
      put(as, first, count, values);
    }
    return;
  }
  const int64_t size = format.scale_columns == 0 ? cols : format.scale_columns;
  for (int64_t first = 0; first < cols; first += kSpan) {
    const int64_t count = first + kSpan < cols ? kSpan : cols - first;
    row_codes<kType>(bytes, first, count, values);
    for (int64_t from = 0, end = 0; from < count; from = end) {
      const int64_t group = (first + from) / size;
      end = (group + 1) * size - first < count ? (group + 1) * size - first : count;
      const float zero = row_zero<kType>(format, piece, row, group), scale = row_scale(format, piece, row, group);
      for (int64_t i = from; i < end; ++i) values[i] = (values[i] - zero) * scale;
    }
    put(as, first, count, values);
  }
}

/// Where of a word's codes that of a row is, in AWQ's order.
FLEXGEN_SCALED_CODE int64_t awq_place(int64_t row) { return row % 8 / 2 + row % 2 * 4; }

/// Zero point of a row in a group, of types that lie by columns.
template <DType kType>
FLEXGEN_SCALED_CODE float column_zero(const CodeFormat& format, const WeightPiece& piece, int64_t row, int64_t group) {
  constexpr int64_t kPerWord = codes_per_word(kType), kBits = 32 / kPerWord;
  uint32_t word = word_at(piece.beside[kZeros], group * (format.stored_rows / kPerWord) + row / kPerWord);
  if (format.zeros_less_one) word += kBits == 4 ? 0x11111111u : 0x01010101u;  // as a whole, as they were made
  const int64_t place = kType == DType::kAwq4 ? awq_place(row) : row % kPerWord;
  return static_cast<float>(static_cast<int32_t>(word >> (kBits * place) & ((1u << kBits) - 1)));
}

inline constexpr int64_t kColumnPart = 64, kRowPart = 16;  ///< columns, and rows of them, that are unpacked together

/// Words of columns [column, column + count) of some rows, up to kRowPart, copied together, as each lies in a place far from the next.
template <DType kType>
FLEXGEN_SCALED_CODE void column_words(const CodeFormat& format, const WeightPiece& piece, int64_t first, int64_t num_rows, int64_t column, int64_t count,
                                      uint32_t* words) {
  constexpr int64_t kPerWord = codes_per_word(kType);
  if constexpr (kType == DType::kAwq4) {
    const int64_t stride = format.stored_rows / kPerWord, begin = first / kPerWord, end = (first + num_rows + kPerWord - 1) / kPerWord;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t at = begin; at < end; ++at) words[(at - begin) * kColumnPart + i] = word_at(piece.data, (column + i) * stride + at);
  } else {
    for (int64_t i = 0; i < count / kPerWord; ++i)
      for (int64_t row = 0; row < num_rows; ++row) words[i * kRowPart + row] = word_at(piece.data, (column / kPerWord + i) * format.stored_rows + first + row);
  }
}

/// Of these the codes of row first + row.
template <DType kType>
FLEXGEN_SCALED_CODE void column_codes(const uint32_t* words, int64_t first, int64_t row, int64_t count, float* values) {
  constexpr int64_t kPerWord = codes_per_word(kType), kBits = 32 / kPerWord;
  constexpr uint32_t kMask = (1u << kBits) - 1;
  if constexpr (kType == DType::kAwq4) {
    const uint32_t* const of_row = words + ((first + row) / kPerWord - first / kPerWord) * kColumnPart;
    const auto shift = static_cast<uint32_t>(kBits * awq_place(first + row));
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(static_cast<int32_t>(of_row[i] >> shift & kMask));
  } else {
    for (int64_t i = 0; i < count; i += kPerWord) {
      const uint32_t word = words[i / kPerWord * kRowPart + row];
      for (int64_t j = 0; j < kPerWord; ++j) values[i + j] = static_cast<float>(static_cast<int32_t>(word >> (kBits * j) & kMask));
    }
  }
}

/// Scales and zero points of rows [first, first + num_rows) of a piece, [G, num_rows]; types that lie by columns.
template <DType kType>
FLEXGEN_SCALED_CODE void column_groups(const CodeFormat& format, const WeightPiece& piece, int64_t first, int64_t num_rows, float* scales, float* zeros) {
  for (int64_t group = 0; group < format.num_groups; ++group)
    for (int64_t row = 0; row < num_rows; ++row) {
      scales[group * num_rows + row] = scale_at(piece.beside[kScales], format.scale_type, group * format.stored_rows + first + row);
      zeros[group * num_rows + row] = column_zero<kType>(format, piece, first + row, group);
    }
}

/// put(row, column, count, values) for parts of rows [first, first + num_rows) of a piece, `row` counted from the first; types that lie by columns.
template <DType kType, typename Put>
FLEXGEN_SCALED_CODE void unpack_columns(const CodeFormat& format, const WeightPiece& piece, int64_t first, int64_t num_rows, int64_t cols, const Put& put) {
  const int64_t groups = format.num_groups, size = format.scale_columns == 0 ? cols : format.scale_columns;
  std::vector<float> all_scales(static_cast<size_t>((groups + 1) * num_rows), std::numeric_limits<float>::quiet_NaN()), all_zeros(all_scales.size(), 0.0f);
  float *const scales = all_scales.data(), *const zeros = all_zeros.data();
  column_groups<kType>(format, piece, first, num_rows, scales, zeros);
  alignas(64) float values[kColumnPart];
  uint32_t words[(kRowPart / 4 + 1) * kColumnPart];  // of 16 rows 16 or 8 words of each row, or 3 of each column
  int64_t group_at[kColumnPart];                     // where in scales and zeros a column's group begins
  for (int64_t column = 0; column < cols; column += kColumnPart) {
    const int64_t count = column + kColumnPart < cols ? kColumnPart : cols - column;
    for (int64_t i = 0; i < count && format.has_order; ++i) group_at[i] = ordered_group(format, piece.beside[kOrder], column + i) * num_rows;
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t part = row / kRowPart * kRowPart;
      if (row == part) column_words<kType>(format, piece, first + part, num_rows - part < kRowPart ? num_rows - part : kRowPart, column, count, words);
      column_codes<kType>(words, first + part, row - part, count, values);
      if (format.has_order) {
        for (int64_t i = 0; i < count; ++i) values[i] = (values[i] - zeros[group_at[i] + row]) * scales[group_at[i] + row];
      } else {
        for (int64_t from = 0, end = 0; from < count; from = end) {
          const int64_t group = (column + from) / size, at = group * num_rows + row;
          end = (group + 1) * size - column < count ? (group + 1) * size - column : count;
          const float zero = zeros[at], scale = scales[at];
          for (int64_t i = from; i < end; ++i) values[i] = (values[i] - zero) * scale;
        }
      }
      put(row, column, count, values);
    }
  }
}

/// put(row, column, count, values) for parts of rows [first, first + num_rows) of a piece, `row` counted from the first.
template <DType kType, typename Put>
FLEXGEN_SCALED_CODE void unpack_rows(const CodeFormat& format, const WeightPiece& piece, int64_t first, int64_t num_rows, int64_t cols, const Put& put) {
  if constexpr (is_transposed(kType)) {
    unpack_columns<kType>(format, piece, first, num_rows, cols, put);
  } else {
    for (int64_t row = 0; row < num_rows; ++row) unpack_row<kType>(format, piece, first + row, row, cols, put);
  }
}

#undef FLEXGEN_SCALED_CODE

/// Calls use.operator()<dtype>() for a type with scales of its own.
template <typename Use>
[[gnu::always_inline]] inline void with_codes(DType dtype, const Use& use) {
  switch (dtype) {
    case DType::kFp8: return use.template operator()<DType::kFp8>();
    case DType::kCodes8: return use.template operator()<DType::kCodes8>();
    case DType::kPacked4: return use.template operator()<DType::kPacked4>();
    case DType::kPacked8: return use.template operator()<DType::kPacked8>();
    case DType::kGptq4: return use.template operator()<DType::kGptq4>();
    case DType::kGptq8: return use.template operator()<DType::kGptq8>();
    case DType::kAwq4: return use.template operator()<DType::kAwq4>();
    case DType::kFp4: return use.template operator()<DType::kFp4>();
    default: return;
  }
}

}  // namespace codes

/// The format that matrices of a type most often have, for those who measure: one scale for 128 columns, of FP8 for 128 x 128, of FP4 for 16.
CodeFormat usual_format(DType dtype, int64_t rows, int64_t cols);
/// That of kFp4 in gpt-oss: a power of two for 32 columns.
CodeFormat mxfp4_format(int64_t cols);
/// Bytes of a tensor beside the codes of a whole matrix; 0: there is none.
int64_t beside_bytes(const CodeFormat& format, DType dtype, CodePart part, int64_t rows, int64_t cols);

/// Rows [first, first + num_rows) of a piece of such a matrix as floats, out [num_rows, cols].
void decode_rows(const CodeFormat& format, DType dtype, const WeightPiece& piece, int64_t first, int64_t num_rows, int64_t cols, float* out);

}  // namespace flexgen
