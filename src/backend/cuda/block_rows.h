#pragma once
// Rows of blocks as GGUF files have them (tensor/block_formats.h), read by a GPU: eight elements a thread, each as the processor has it, bit for bit, since products of scales and codes are exact in
// fp32. Blocks lie at any address. Device code.

#include "backend/cuda/row_kernels.h"

namespace flexgen::inline FLEXGEN_SIDE {

/// Eight bytes at any address.
FLEXGEN_CODE Words2 load_eight_bytes(const std::byte* at) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  if (address % 8 == 0) return load64(at);
  Words2 words{};
  if (address % 2 == 0) {
    FLEXGEN_UNROLL
    for (int i = 0; i < 4; ++i) words.word[i / 2] |= static_cast<uint32_t>(load16(at + 2 * i)) << 16 * (i % 2);
    return words;
  }
  FLEXGEN_UNROLL
  for (int i = 0; i < 8; ++i) words.word[i / 4] |= static_cast<uint32_t>(at[i]) << 8 * (i % 4);
  return words;
}
FLEXGEN_CODE uint32_t byte_of(Words2 words, int i) { return words.word[i / 4] >> 8 * (i % 4) & 0xffu; }

FLEXGEN_CODE int byte_at(const std::byte* at) { return static_cast<int>(*at); }
FLEXGEN_CODE float half_at(const std::byte* at) { return F16::to_float(static_cast<uint32_t>(at[0]) | static_cast<uint32_t>(at[1]) << 8); }

/// Where the codes of a block of 32 halves of bytes begin.
FLEXGEN_CODE constexpr int codes_at(DType dtype) {
  switch (dtype) {
    case DType::kMXFP4: return 1;
    case DType::kQ4_1: return 4;
    case DType::kQ5_0: return 6;
    case DType::kQ5_1: return 8;
    default: return 2;
  }
}

/// Of iq4_nl and iq4_xs, and twice e2m1's, whose -0 is 0 here.
FLEXGEN_CODE float iq4_nl_value(uint32_t code) {
  const uint64_t values = code < 8 ? 0xf6eaddcfbfad9881u : 0x7159453526190d01u;  // a byte each
  return static_cast<float>(static_cast<int8_t>(values >> 8 * (code & 7u)));
}
FLEXGEN_CODE float mxfp4_value(uint32_t code) {
  const int magnitude = static_cast<int>(0xc8643210u >> 4 * (code & 7u) & 15u);
  return static_cast<float>(code < 8 ? magnitude : -magnitude);
}

/// Elements [first, first + 8) of a block of 32 halves of bytes; `first` is a multiple of 8 here and below.
template <DType kType>
FLEXGEN_CODE void read_short_block(const std::byte* block, int first, float (&out)[8]) {
  constexpr bool kHasMinimum = kType == DType::kQ4_1 || kType == DType::kQ5_1, kHasHigh = kType == DType::kQ5_0 || kType == DType::kQ5_1;
  const Words2 codes = load_eight_bytes(block + codes_at(kType) + first % 16);
  const int shift = first / 16 * 4;
  float scale, minimum = 0;
  if constexpr (kType == DType::kMXFP4) {
    const auto exponent = static_cast<uint32_t>(block[0]);
    scale = std::bit_cast<float>(exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23);
  } else {
    scale = half_at(block);
    if constexpr (kHasMinimum) minimum = half_at(block + 2);
  }
  const uint32_t high = kHasHigh ? static_cast<uint32_t>(block[(kHasMinimum ? 4 : 2) + first / 8]) : 0u;
  FLEXGEN_UNROLL
  for (int i = 0; i < 8; ++i) {
    const uint32_t code = (byte_of(codes, i) >> shift & 15u) | (high >> i & 1u) << 4;
    if constexpr (kType == DType::kMXFP4) out[i] = scale * mxfp4_value(code);
    else if constexpr (kType == DType::kIQ4_NL) out[i] = scale * iq4_nl_value(code);
    else if constexpr (kHasMinimum) out[i] = scale * static_cast<float>(code) + minimum;
    else out[i] = scale * static_cast<float>(static_cast<int>(code) - (kHasHigh ? 16 : 8));
  }
}

/// Elements of a block of q4_k or q5_k: eight parts of 32, whose scales and minimums have 6 bits each.
template <DType kType>
FLEXGEN_CODE void read_wide_parts(const std::byte* block, int first, float (&out)[8]) {
  const int part = first / 32;
  const std::byte* const packed = block + 4;
  const int s = part < 4 ? byte_at(packed + part) & 63 : (byte_at(packed + part + 4) & 15) | (byte_at(packed + part - 4) >> 6) << 4;
  const int t = part < 4 ? byte_at(packed + part + 4) & 63 : byte_at(packed + part + 4) >> 4 | (byte_at(packed + part) >> 6) << 4;
  const float scale = half_at(block) * static_cast<float>(s), minimum = half_at(block + 2) * static_cast<float>(t);
  const Words2 codes = load_eight_bytes(block + (kType == DType::kQ5_K ? 48 : 16) + part / 2 * 32 + first % 32);
  const Words2 high = kType == DType::kQ5_K ? load_eight_bytes(block + 16 + first % 32) : Words2{};
  const int shift = part % 2 * 4;
  FLEXGEN_UNROLL
  for (int i = 0; i < 8; ++i)
    out[i] = scale * static_cast<float>(static_cast<int>((byte_of(codes, i) >> shift & 15u) | (byte_of(high, i) >> part & 1u) << 4)) - minimum;
}

/// Elements of a block of iq4_xs: eight parts of 32, whose scales have four bits in a byte of two and two bits in a word of all.
FLEXGEN_CODE void read_table_parts(const std::byte* block, int first, float (&out)[8]) {
  const int part = first / 32, shift = first % 32 / 16 * 4;
  const int low = byte_at(block + 4 + part / 2) >> part % 2 * 4 & 15, high = byte_at(block + 2 + part / 4) >> part % 4 * 2 & 3;
  const float scale = half_at(block) * static_cast<float>((low | high << 4) - 32);
  const Words2 codes = load_eight_bytes(block + 8 + part * 16 + first % 16);
  FLEXGEN_UNROLL
  for (int i = 0; i < 8; ++i) out[i] = scale * iq4_nl_value(byte_of(codes, i) >> shift & 15u);
}

/// Elements of a block of q2_k, q3_k or q6_k: sixteen parts of 16.
template <DType kType>
FLEXGEN_CODE void read_narrow_parts(const std::byte* block, int first, float (&out)[8]) {
  const int part = first / 16, within = first % 32, shift = part % 8 / 2 * 2;  // of two bits
  if constexpr (kType == DType::kQ2_K) {
    const float scale = half_at(block + 80) * static_cast<float>(byte_at(block + part) & 15),
                minimum = half_at(block + 82) * static_cast<float>(byte_at(block + part) >> 4);
    const Words2 codes = load_eight_bytes(block + 16 + part / 8 * 32 + within);
    FLEXGEN_UNROLL
    for (int i = 0; i < 8; ++i) out[i] = scale * static_cast<float>(byte_of(codes, i) >> shift & 3u) - minimum;
  } else if constexpr (kType == DType::kQ3_K) {
    const std::byte* const packed = block + 96;
    const int low = part < 8 ? byte_at(packed + part) & 15 : byte_at(packed + part - 8) >> 4, high = byte_at(packed + 8 + part % 4) >> (part / 4 * 2) & 3;
    const float scale = half_at(block + 108) * static_cast<float>((low | high << 4) - 32);
    const Words2 codes = load_eight_bytes(block + 32 + part / 8 * 32 + within), mask = load_eight_bytes(block + within);
    FLEXGEN_UNROLL
    for (int i = 0; i < 8; ++i)
      out[i] = scale * static_cast<float>(static_cast<int>(byte_of(codes, i) >> shift & 3u) - static_cast<int>((byte_of(mask, i) >> part / 2 & 1u) ^ 1u) * 4);
  } else {
    static_assert(kType == DType::kQ6_K);
    const float scale = half_at(block + 208) * static_cast<float>(static_cast<int8_t>(block[192 + part]));
    const int stretch = part % 8 / 2;  // of 32, four in half a block: 64 bytes of low halves, and 32 bytes with two bits for each stretch
    const Words2 low = load_eight_bytes(block + part / 8 * 64 + stretch % 2 * 32 + within), high = load_eight_bytes(block + 128 + part / 8 * 32 + within);
    FLEXGEN_UNROLL
    for (int i = 0; i < 8; ++i)
      out[i] = scale * static_cast<float>(static_cast<int>((byte_of(low, i) >> stretch / 2 * 4 & 15u) | (byte_of(high, i) >> shift & 3u) << 4) - 32);
  }
}

/// Elements [first, first + 8) of a row.
template <DType kType>
FLEXGEN_CODE void read_blocks(const std::byte* row, int first, float (&out)[8]) {
  constexpr QuantBlock kBlock = quant_block(kType);
  const std::byte* const block = row + first / static_cast<int>(kBlock.elements) * kBlock.bytes;
  const int within = first % static_cast<int>(kBlock.elements);
  if constexpr (kType == DType::kQ8_0) {
    const float scale = half_at(block);
    const Words2 codes = load_eight_bytes(block + 2 + within);
    FLEXGEN_UNROLL
    for (int i = 0; i < 8; ++i) out[i] = scale * static_cast<float>(static_cast<int8_t>(byte_of(codes, i)));
  } else if constexpr (kBlock.elements == 32) {
    read_short_block<kType>(block, within, out);
  } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    read_wide_parts<kType>(block, within, out);
  } else if constexpr (kType == DType::kIQ4_XS) {
    read_table_parts(block, within, out);
  } else {
    read_narrow_parts<kType>(block, within, out);
  }
}

/// Rows of blocks as rows of Half, out at 16 bytes. Grid: rows.
template <typename Half, DType kType>
FLEXGEN_KERNEL void unpack_blocks(const std::byte* x, int64_t cols, std::byte* out) {
  const std::byte* const row = x + block_x() * row_bytes(kType, cols);
  std::byte* const to = out + block_x() * cols * 2;
  for (int first = 8 * thread(); first < cols; first += 8 * num_threads()) {
    float values[8];
    read_blocks<kType>(row, first, values);
    store_eight<Half>(to + 2 * first, values);
  }
}

/// gather() of rows of blocks. Grid: T.
template <DType kType>
FLEXGEN_KERNEL void gather_blocks(const std::byte* const* rows, int64_t cols, bool accumulate, float* out) {
  const std::byte* const row = rows[block_x()];
  float* const to = out + block_x() * cols;
  for (int first = 8 * thread(); first < cols; first += 8 * num_threads()) {
    float values[8];
    read_blocks<kType>(row, first, values);
    FLEXGEN_UNROLL
    for (int i = 0; i < 8; ++i) to[first + i] = (accumulate ? to[first + i] : 0.0f) + values[i];
  }
}

}  // namespace flexgen::inline FLEXGEN_SIDE
