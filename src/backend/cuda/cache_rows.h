#pragma once
// Rows of the KV cache and of quantized matrices as kernels see them: where a row is, reading a lane's share of it into tensor core
// registers, writing it. Bit for bit the format of tensor/group_quant.h. Device code; plain arithmetic of one thread but for quantize_group().

#include "backend/cuda/device_code.h"
#include "backend/kernels.h"

namespace flexgen::inline FLEXGEN_SIDE {

/// A slot as it is uploaded; its pages are pages[first_page ...].
struct SlotOnDevice {
  int32_t first_row = 0, num_rows = 0, past = 0, first_page = 0;
};

/// How rows of the cache are read.
enum class RowKind {
  kHalf,  ///< elements of the act type, in words of 8 and 16 bytes
  kInt4,  ///< codes, in words of 4 bytes
  kInt8,
  kAny,  ///< any other type, head size or alignment: element by element
};

/// Whether rows of this kind have codes, of `dtype` where it may have any.
FLEXGEN_CODE constexpr bool has_codes(RowKind kind, DType dtype) { return kind == RowKind::kAny ? is_quantized(dtype) : kind != RowKind::kHalf; }

/// The cache of one layer for the slots of a visit.
struct CacheOnDevice {
  std::byte* const* pages = nullptr;
  DType dtype = DType::kBF16;
  int query_heads = 0, kv_heads = 0, head_size = 0;
  int page_tokens = 0;
  int page_shift = -1;  ///< log2(page_tokens), or -1 if it is no power of two
  int64_t row_bytes = 0;

  FLEXGEN_CODE std::byte* row(int first_page, int which, int head, int position) const {
    int page, in_page;
    if (page_shift >= 0) {
      page = position >> page_shift;
      in_page = position & (page_tokens - 1);
    } else {
      page = position / page_tokens;
      in_page = position - page * page_tokens;
    }
    return pages[first_page + page] + (static_cast<int64_t>(which * kv_heads + head) * page_tokens + in_page) * row_bytes;
  }
};

/// What the codes of a group of a row stand for.
struct GroupScale {
  float step, minimum;
  FLEXGEN_CODE float value(uint32_t code) const { return fmaf(static_cast<float>(code), step, minimum); }
};

/// Those of two positions that follow one another.
struct alignas(16) TwoScales {
  GroupScale scale[2];
};

FLEXGEN_CODE GroupScale group_scale(uint32_t scale_bits, uint32_t minimum_bits) {
  const float scale = Bf16::to_float(scale_bits);
  return {scale == 0 ? 0.0f : 1 / scale, Bf16::to_float(minimum_bits)};
}

/// Both in a word, the scale in its low half; the step is right but for its last bit.
FLEXGEN_CODE GroupScale fast_group_scale(uint32_t both) {
  const float scale = Bf16::to_float(both & 0xffffu);
  return {scale == 0 ? 0.0f : reciprocal(scale), Bf16::to_float(both >> 16)};
}

/// `parameters`: the scale and the minimum of a group, 2 bytes each, which lie anywhere: rows of odd sizes exist.
FLEXGEN_CODE GroupScale read_group_scale(const std::byte* parameters) {
  auto at = [&](int i) { return static_cast<uint32_t>(parameters[i]); };
  return group_scale(at(0) | at(1) << 8, at(2) | at(3) << 8);
}
/// The same where they lie at 4 bytes.
FLEXGEN_CODE GroupScale read_group_scale_word(const std::byte* parameters) {
  const uint32_t both = load32(parameters);
  return group_scale(both & 0xffffu, both >> 16);
}

FLEXGEN_CODE int64_t code_bytes(DType dtype, int64_t cols) { return dtype == DType::kInt4 ? (cols + 1) / 2 : cols; }

/// Element `column` of a row of any type.
FLEXGEN_RARE float load_in_any_row(const std::byte* row, DType dtype, int64_t cols, int64_t column) {
  if (!is_quantized(dtype)) return load_element(row, dtype, column);
  const int64_t group = column / kQuantGroup, first = group * kQuantGroup, i = column - first;
  const int64_t count = cols - first < kQuantGroup ? cols - first : kQuantGroup;
  const GroupScale scale = read_group_scale(row + code_bytes(dtype, cols) + 4 * group);
  if (dtype == DType::kInt8) return scale.value(static_cast<uint32_t>(row[first + i]));
  const int64_t half = (count + 1) / 2;
  const auto byte = static_cast<uint32_t>(row[first / 2 + (i < half ? i : i - half)]);
  return scale.value(i < half ? byte & 15u : byte >> 4);
}

// A lane's share of a group of 64 elements. Sums over the head may be taken in any order that queries and keys agree on, and columns of values may
// be dealt out in any way that the writing of the result knows of; these are such that a lane reads whole words, of int4 codes too. Codes are multiplied as they
// are, which 16 bits hold exactly, and scales and minimums are applied in fp32: to sums of keys' codes, and to the softmax weights of values.

/// Element j (of 16) of the share that lane `pair` (of 4) has of a key.
FLEXGEN_CODE constexpr int key_element(int pair, int j) { return (j < 8 ? 0 : 32) + 8 * pair + j % 8; }
/// Element j (of 8) of the share that lane `row` (of 8) has of a value.
FLEXGEN_CODE constexpr int value_element(int row, int j) { return (j < 4 ? 0 : 32) + 4 * row + j % 4; }

/// Codes are multiplied less this, so that a step's rounding weighs half as much.
FLEXGEN_CODE constexpr float code_center(DType dtype) { return dtype == DType::kInt4 ? 8.0f : 128.0f; }

/// Code `i` of a group of `count`, whose codes start at `codes`.
FLEXGEN_CODE uint32_t code_of(const std::byte* codes, DType dtype, int count, int i) {
  if (dtype == DType::kInt8) return static_cast<uint32_t>(codes[i]);
  const int half = (count + 1) / 2;
  return i < half ? static_cast<uint32_t>(codes[i]) & 15u : static_cast<uint32_t>(codes[i - half]) >> 4;
}

/// Element `at` of group `group`, of a quantized row its code less code_center(); zero beyond the row.
FLEXGEN_RARE float load_alone(const std::byte* row, DType dtype, int head_size, int group, int at) {
  const int rest = head_size - 64 * group, count = rest < 64 ? rest : 64;
  if (at >= count) return 0;
  if (!is_quantized(dtype)) return load_element(row, dtype, 64 * group + at);
  return static_cast<float>(code_of(row + (dtype == DType::kInt4 ? 32 : 64) * group, dtype, count, at)) - code_center(dtype);
}

/// The elements `element(j)` of group `group` as pairs of Half, as load_alone() gives them.
template <typename Half, int kCount, typename Element>
FLEXGEN_CODE void load_share_slowly(const std::byte* row, DType dtype, int head_size, int group, Element element, uint32_t (&out)[kCount]) {
  FLEXGEN_UNROLL
  for (int i = 0; i < kCount; ++i)
    out[i] = Half::pack(load_alone(row, dtype, head_size, group, element(2 * i)), load_alone(row, dtype, head_size, group, element(2 * i + 1)));
}

/// Byte kByte of two words as a pair of Half, less `center`.
template <typename Half, int kByte>
FLEXGEN_CODE uint32_t pair_of_bytes(uint32_t low, uint32_t high, float center) {
  // 2^23 and a whole number: the number is the low bits.
  constexpr uint32_t kSelector = 0x7440u | kByte;
  auto code = [&](uint32_t word) { return std::bit_cast<float>(pick_bytes<kSelector>(word, 0x4b000000u)) - (8388608.0f + center); };
  return Half::pack(code(low), code(high));
}

/// Four codes, a byte each, less code_center() as two pairs of Half, which holds them exactly.
template <typename Half>
FLEXGEN_CODE void unpack_codes(uint32_t codes, DType dtype, uint32_t* out) {
  out[0] = pair_of_bytes<Half, 0>(codes, codes >> 8, code_center(dtype));
  out[1] = pair_of_bytes<Half, 2>(codes, codes >> 8, code_center(dtype));
}

/// What the elements that load_*_share() gives of a row's group stand for: times step plus minimum; itself where the cache is not quantized. Row null, or a group beyond it: zeros.
template <RowKind kKind>
FLEXGEN_CODE GroupScale scale_of_group(const std::byte* row, const CacheOnDevice& cache, int group) {
  if (row == nullptr || 64 * group >= cache.head_size) return {0, 0};
  if (!has_codes(kKind, cache.dtype)) return {1, 0};
  const std::byte* parameters = row + code_bytes(cache.dtype, cache.head_size) + 4 * group;
  GroupScale scale = kKind != RowKind::kAny ? fast_group_scale(load32(parameters)) : read_group_scale(parameters);
  scale.minimum = fmaf(code_center(cache.dtype), scale.step, scale.minimum);
  return scale;
}

/// The share of lane `pair` of a key's group: elements, of quantized rows codes less code_center(). Row null: zeros.
template <typename Half, RowKind kKind>
FLEXGEN_CODE void load_key_share(const std::byte* row, const CacheOnDevice& cache, int group, int pair, uint32_t (&out)[8]) {
  if (row == nullptr) {
    for (uint32_t& both : out) both = 0;
  } else if constexpr (kKind == RowKind::kAny) {
    load_share_slowly<Half>(
        row, cache.dtype, cache.head_size, group, [&](int j) { return key_element(pair, j); }, out);
  } else if constexpr (kKind == RowKind::kHalf) {
    for (int i = 0; i < 2; ++i) {
      const Words4 words = load128(row + 128 * group + 64 * i + 16 * pair);
      for (int j = 0; j < 4; ++j) out[4 * i + j] = words.word[j];
    }
  } else if constexpr (kKind == RowKind::kInt4) {
    for (int i = 0; i < 2; ++i) {
      const uint32_t codes = load32(row + 32 * group + 8 * pair + 4 * i);
      unpack_codes<Half>(codes & 0x0f0f0f0fu, cache.dtype, out + 2 * i);
      unpack_codes<Half>((codes >> 4) & 0x0f0f0f0fu, cache.dtype, out + 4 + 2 * i);
    }
  } else {
    for (int i = 0; i < 4; ++i) unpack_codes<Half>(load32(row + 64 * group + 32 * (i / 2) + 8 * pair + 4 * (i % 2)), cache.dtype, out + 2 * i);
  }
}

/// The share of lane `lane_row` of a value's group, likewise.
template <typename Half, RowKind kKind>
FLEXGEN_CODE void load_value_share(const std::byte* row, const CacheOnDevice& cache, int group, int lane_row, uint32_t (&out)[4]) {
  if (row == nullptr) {
    for (uint32_t& both : out) both = 0;
  } else if constexpr (kKind == RowKind::kAny) {
    load_share_slowly<Half>(
        row, cache.dtype, cache.head_size, group, [&](int j) { return value_element(lane_row, j); }, out);
  } else if constexpr (kKind == RowKind::kHalf) {
    for (int i = 0; i < 2; ++i) {
      const Words2 words = load64(row + 128 * group + 64 * i + 8 * lane_row);
      out[2 * i] = words.word[0];
      out[2 * i + 1] = words.word[1];
    }
  } else if constexpr (kKind == RowKind::kInt4) {
    const uint32_t codes = load32(row + 32 * group + 4 * lane_row);
    unpack_codes<Half>(codes & 0x0f0f0f0fu, cache.dtype, out);
    unpack_codes<Half>((codes >> 4) & 0x0f0f0f0fu, cache.dtype, out + 2);
  } else {
    for (int i = 0; i < 2; ++i) unpack_codes<Half>(load32(row + 64 * group + 32 * i + 4 * lane_row), cache.dtype, out + 2 * i);
  }
}

/// Quantizes one group of `count` values x by the 32 lanes of a warp together; `codes` and `parameters` as in tensor/group_quant.h. False, and nothing
/// written, if it is not finite.
FLEXGEN_CODE bool quantize_group(const float* x, int count, DType dtype, std::byte* codes, std::byte* parameters) {
  const float levels = dtype == DType::kInt4 ? 15.0f : 255.0f;
  float smallest = x[0], largest = x[0];
  bool finite = true;
  for (int i = lane(); i < count; i += kWarp) {
    finite &= is_finite(x[i]);
    smallest = fminf(smallest, x[i]);
    largest = fmaxf(largest, x[i]);
  }
  largest = maximum_of_warp(largest);
  smallest = -maximum_of_warp(-smallest);
  for (int i = 0; i < count && smallest == 0; ++i)  // of zeros of both signs the format keeps the first
    if (x[i] == 0) {
      smallest = x[i];
      break;
    }
  if (any_in_warp(!finite || !is_finite(largest - smallest))) return false;
  uint16_t scale_bits = bf16_from_float(levels / (largest - smallest));
  if (!is_finite(Bf16::to_float(scale_bits))) scale_bits = 0;
  const uint16_t minimum_bits = bf16_from_float(smallest);
  const float scale = Bf16::to_float(scale_bits), minimum = Bf16::to_float(minimum_bits);
  auto code = [&](int i) { return i < count ? static_cast<uint32_t>(rintf(fminf(fmaxf((x[i] - minimum) * scale, 0.0f), levels))) : 0u; };
  if (dtype == DType::kInt8) {
    for (int i = lane(); i < count; i += kWarp) codes[i] = static_cast<std::byte>(code(i));
  } else {
    const int half = (count + 1) / 2;
    for (int i = lane(); i < half; i += kWarp) codes[i] = static_cast<std::byte>(code(i) | code(i + half) << 4);
  }
  if (lane() == 0) {
    parameters[0] = static_cast<std::byte>(scale_bits & 0xffu);
    parameters[1] = static_cast<std::byte>(scale_bits >> 8);
    parameters[2] = static_cast<std::byte>(minimum_bits & 0xffu);
    parameters[3] = static_cast<std::byte>(minimum_bits >> 8);
  }
  return true;
}

}  // namespace flexgen::inline FLEXGEN_SIDE
