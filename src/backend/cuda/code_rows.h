#pragma once
// Matrices whose scales are tensors of their own (tensor/code_format.h), read by a GPU: (code - zero) * scale in fp32, of which the difference is exact, so bit for bit what the processor has. Device code.

#include "backend/cuda/block_rows.h"
#include "tensor/code_format.h"

namespace flexgen::inline FLEXGEN_SIDE {

/// Rows of a piece of such a matrix, from row `first` of the piece on.
struct CodesOnDevice {
  const std::byte* codes = nullptr;  ///< of the whole piece, as are those beside them
  const std::byte *scales = nullptr, *zeros = nullptr, *order = nullptr, *global = nullptr;
  CodeFormat format;
  int64_t first = 0, num_rows = 0, cols = 0;
  int64_t padded = 0;  ///< columns of the result, a multiple of 8; zero from `cols` on
};

/// Word `index` of words at any address.
FLEXGEN_CODE uint32_t word_of(const std::byte* words, int64_t index) {
  const std::byte* const at = words + 4 * index;
  if (reinterpret_cast<uintptr_t>(at) % 4 == 0) return load32(at);
  uint32_t word = 0;
  FLEXGEN_UNROLL
  for (int i = 0; i < 4; ++i) word |= static_cast<uint32_t>(at[i]) << 8 * i;
  return word;
}

/// Scale `index`, at any address.
FLEXGEN_CODE float scale_of(const std::byte* scales, ScaleType type, int64_t index) {
  switch (type) {
    case ScaleType::kF32: return std::bit_cast<float>(word_of(scales, index));
    case ScaleType::kF16: return half_at(scales + 2 * index);
    case ScaleType::kBF16: return Bf16::to_float(static_cast<uint32_t>(scales[2 * index]) | static_cast<uint32_t>(scales[2 * index + 1]) << 8);
    case ScaleType::kE4M3: return codes::e4m3_value(static_cast<uint8_t>(scales[index]));
    case ScaleType::kE8M0: return codes::e8m0_value(static_cast<uint8_t>(scales[index]));
  }
  return 0;
}

/// Which group a column is in; num_groups: one that is not there.
FLEXGEN_CODE int group_of_column(const CodesOnDevice& codes, int column) {
  const auto size = static_cast<int>(codes.format.scale_columns), groups = static_cast<int>(codes.format.num_groups);
  const int group = codes.format.has_order ? static_cast<int>(word_of(codes.order, column)) : -1;
  if (group == -1) return size == 0 ? 0 : column / size;
  return group < 0 || group >= groups ? groups : group;
}

/// What the codes of a row in a group stand for.
struct CodeScale {
  float zero, scale;
  FLEXGEN_CODE float value(float code) const { return (code - zero) * scale; }
};

// ---------------------------------------------------------------- codes that lie by rows

template <DType kType>
FLEXGEN_CODE CodeScale row_group_scale(const CodesOnDevice& codes, int64_t row, int group) {
  const CodeFormat& format = codes.format;
  if (group == format.num_groups) return {0, not_a_number()};
  CodeScale of{0, scale_of(codes.scales, format.scale_type, format.first_scale(row) + group)};
  if (format.has_global) {
    const float global = scale_of(codes.global, ScaleType::kF32, 0);
    of.scale = format.global_multiplies ? of.scale * global : of.scale / global;
  }
  if constexpr (kType == DType::kPacked4 || kType == DType::kPacked8) {
    constexpr int kPerWord = static_cast<int>(codes_per_word(kType)), kBits = 32 / kPerWord;
    of.zero = !format.has_zeros
                  ? (kBits == 4 ? 8.0f : 128.0f)
                  : static_cast<float>(word_of(codes.zeros, row / kPerWord * format.num_groups + group) >> kBits * static_cast<int>(row % kPerWord) &
                                       ((1u << kBits) - 1));
  }
  return of;
}

/// A code's number.
template <DType kType>
FLEXGEN_CODE float code_number(uint32_t code) {
  if constexpr (kType == DType::kFp8) return codes::e4m3_value(static_cast<uint8_t>(code));
  else if constexpr (kType == DType::kCodes8) return static_cast<float>(static_cast<int8_t>(code));
  else if constexpr (kType == DType::kFp4) return codes::e2m1_value(code);
  else return static_cast<float>(code);
}

/// Codes [first, first + count) of a row as numbers, up to 8; the rest is 0.
template <DType kType>
FLEXGEN_CODE void read_codes(const std::byte* row, int first, int count, float (&out)[8]) {
  constexpr bool kHalves = kType == DType::kPacked4 || kType == DType::kFp4;
  if (count == 8) {
    if constexpr (kHalves) {
      const uint32_t word = word_of(row + first / 2, 0);
      FLEXGEN_UNROLL
      for (int i = 0; i < 8; ++i) out[i] = code_number<kType>(word >> 4 * i & 15u);
    } else {
      const Words2 words = load_eight_bytes(row + first);
      FLEXGEN_UNROLL
      for (int i = 0; i < 8; ++i) out[i] = code_number<kType>(byte_of(words, i));
    }
    return;
  }
  FLEXGEN_UNROLL
  for (int i = 0; i < 8; ++i) {
    out[i] = 0;
    if (i >= count) continue;
    if constexpr (kHalves) out[i] = code_number<kType>(static_cast<uint32_t>(row[(first + i) / 2]) >> 4 * (i % 2) & 15u);
    else out[i] = code_number<kType>(static_cast<uint32_t>(row[first + i]));
  }
}

/// Rows as rows of Half, out [num_rows, padded] at 16 bytes. Grid: rows.
template <typename Half, DType kType>
FLEXGEN_KERNEL void unpack_code_rows(CodesOnDevice codes, std::byte* out) {
  const int64_t row = codes.first + block_x();
  const std::byte* const bytes = codes.codes + row * code_row_bytes(kType, codes.cols);
  std::byte* const to = out + block_x() * codes.padded * 2;
  const auto cols = static_cast<int>(codes.cols);
  for (int first = 8 * thread(); first < codes.padded; first += 8 * num_threads()) {
    const int count = cols - first < 8 ? (cols > first ? cols - first : 0) : 8;
    float values[8];
    read_codes<kType>(bytes, first, count, values);
    int group = -1;
    CodeScale scale{0, 0};
    FLEXGEN_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (i >= count) continue;
      const int own = group_of_column(codes, first + i);
      if (own != group) scale = row_group_scale<kType>(codes, row, own);
      group = own;
      values[i] = scale.value(values[i]);
    }
    store_eight<Half>(to + 2 * first, values);
  }
}

// ---------------------------------------------------------------- codes that lie by columns

inline constexpr int kCodeTile = 64;                   ///< rows and columns that a block turns together
inline constexpr int kCodeTileStride = kCodeTile + 8;  ///< elements, so that 16 bytes stay at 16

template <DType kType>
FLEXGEN_CODE CodeScale column_group_scale(const CodesOnDevice& codes, int64_t row, int group) {
  constexpr int kPerWord = static_cast<int>(codes_per_word(kType)), kBits = 32 / kPerWord;
  const CodeFormat& format = codes.format;
  if (group == format.num_groups) return {0, not_a_number()};
  uint32_t word = word_of(codes.zeros, group * (format.stored_rows / kPerWord) + row / kPerWord);
  if (format.zeros_less_one) word += kBits == 4 ? 0x11111111u : 0x01010101u;  // as a whole, as they were made
  const int in_word = static_cast<int>(row % kPerWord), place = kType == DType::kAwq4 ? in_word / 2 + in_word % 2 * 4 : in_word;
  return {static_cast<float>(word >> kBits * place & ((1u << kBits) - 1)), scale_of(codes.scales, format.scale_type, group * format.stored_rows + row)};
}

/// A word of GPTQ: codes of one row, the columns from `column` on, to `to`.
template <typename Half, DType kType>
FLEXGEN_CODE void unpack_row_word(const CodesOnDevice& codes, int64_t row, int column, uint16_t* to) {
  constexpr int kPerWord = static_cast<int>(codes_per_word(kType)), kBits = 32 / kPerWord;
  const uint32_t word = word_of(codes.codes, column / kPerWord * codes.format.stored_rows + row);
  int group = -1;
  CodeScale scale{0, 0};
  FLEXGEN_UNROLL
  for (int i = 0; i < kPerWord; ++i) {
    const int own = group_of_column(codes, column + i);
    if (own != group) scale = column_group_scale<kType>(codes, row, own);
    group = own;
    to[i] = Half::from_float(scale.value(static_cast<float>(word >> kBits * i & ((1u << kBits) - 1))));
  }
}

/// A word of AWQ: codes of one column, eight rows from `row` on.
template <typename Half>
FLEXGEN_CODE void unpack_column_word(const CodesOnDevice& codes, int64_t row, int column, uint16_t* to) {
  const uint32_t word = word_of(codes.codes, column * (codes.format.stored_rows / 8) + row / 8);
  const int group = group_of_column(codes, column);
  FLEXGEN_UNROLL
  for (int i = 0; i < 8; ++i)
    to[i * kCodeTileStride] =
        Half::from_float(column_group_scale<DType::kAwq4>(codes, row + i, group).value(static_cast<float>(word >> 4 * (i / 2 + i % 2 * 4) & 15u)));
}

/// As unpack_code_rows(); of AWQ `first` and num_rows are multiples of 8. Grid: tiles of rows, of columns.
template <typename Half, DType kType>
FLEXGEN_KERNEL void unpack_code_columns(CodesOnDevice codes, std::byte* out) {
  FLEXGEN_SHARED Words4 shared[kCodeTile * kCodeTileStride / 8];
  auto* const tile = reinterpret_cast<uint16_t*>(shared);
  constexpr bool kByColumn = kType == DType::kAwq4;
  constexpr int kPerWord = static_cast<int>(codes_per_word(kType)), kWords = kCodeTile * kCodeTile / kPerWord;
  const int64_t tile_row = block_x() * kCodeTile, tile_column = block_y() * kCodeTile;
  for (int i = thread(); i < kWords; i += num_threads()) {
    // Neighbours read neighbouring words, which go along rows.
    constexpr int kAlong = kByColumn ? kCodeTile / kPerWord : kCodeTile;
    const int row = i % kAlong * (kByColumn ? kPerWord : 1), column = i / kAlong * (kByColumn ? 1 : kPerWord);
    uint16_t* const to = tile + row * kCodeTileStride + column;
    if (tile_row + row >= codes.num_rows) continue;
    if (tile_column + column >= codes.cols)
      for (int j = 0; j < kPerWord; ++j) to[kByColumn ? j * kCodeTileStride : j] = 0;
    else if constexpr (kByColumn) unpack_column_word<Half>(codes, codes.first + tile_row + row, static_cast<int>(tile_column) + column, to);
    else unpack_row_word<Half, kType>(codes, codes.first + tile_row + row, static_cast<int>(tile_column) + column, to);
  }
  sync_block();
  for (int i = thread(); i < kCodeTile * kCodeTile / 8; i += num_threads()) {
    const int row = i / (kCodeTile / 8), column = i % (kCodeTile / 8) * 8;
    if (tile_row + row < codes.num_rows && tile_column + column < codes.padded)
      *reinterpret_cast<Words4*>(out + 2 * ((tile_row + row) * codes.padded + tile_column + column)) =
          *reinterpret_cast<const Words4*>(tile + row * kCodeTileStride + column);
  }
}

}  // namespace flexgen::inline FLEXGEN_SIDE
