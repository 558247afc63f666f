#pragma once
// Blocks of quantized weights as GGUF files have them (ggml's types, PyPI gguf's `quants` is the judge): plain loops that every backend shares, compiled for each kind of processor. Every product of a scale and a code is exact in fp32, so all ways of computing give the same bits. Pure functions.
//
// q is a code, d and m are scale and minimum in fp16, s and t whole numbers that scale them for a part of a block of 256:
//     q4_0 d (q - 8)   q4_1 d q + m   q5_0 d (q - 16)   q5_1 d q + m   q8_0 d q   iq4_nl d table[q]   mxfp4 2^(e - 128) table[q]   (32 elements)
//     q2_k, q4_k, q5_k d s q - m t   q3_k, q6_k d s q   iq4_xs d s table[q]   (256 elements; parts of 16, of q4_k, q5_k and iq4_xs 32)

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"

namespace flexgen::blocks {

#define FLEXGEN_BLOCK_CODE [[gnu::always_inline]] inline

FLEXGEN_BLOCK_CODE float half_at(const uint8_t* p) { return float_from_f16(static_cast<uint16_t>(p[0] | p[1] << 8)); }

/// What half of e2m1's steps are worth in a block of mxfp4 with the exponent e.
FLEXGEN_BLOCK_CODE float mxfp4_step(uint32_t e) { return std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23); }

/// value_of() each of the codes of 32 elements in 16 bytes, the low halves of which are the first 16; with 16 times bit i of `high` added.
template <typename ValueOf>
FLEXGEN_BLOCK_CODE void halves(const uint8_t* codes, uint32_t high, float* out, const ValueOf& value_of) {
  for (int i = 0; i < 16; ++i) {
    out[i] = value_of(static_cast<int>((codes[i] & 15u) | (high >> i & 1u) << 4));
    out[i + 16] = value_of(static_cast<int>((codes[i] >> 4) | (high >> (i + 16) & 1u) << 4));
  }
}
FLEXGEN_BLOCK_CODE uint32_t word_at(const uint8_t* p) {
  uint32_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

/// Scale and minimum of part `i` of 8 in q4_k and q5_k: 6 bits each.
FLEXGEN_BLOCK_CODE void scale_and_minimum(const uint8_t* packed, int i, float* scale, float* minimum) {
  const int s = i < 4 ? packed[i] & 63 : (packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4;
  const int t = i < 4 ? packed[i + 4] & 63 : packed[i + 4] >> 4 | (packed[i] >> 6) << 4;
  *scale = static_cast<float>(s);
  *minimum = static_cast<float>(t);
}

/// 32 elements of a block of 256.
struct Part {
  float scale, minimum;
  const uint8_t* codes;
};
/// Part `i` of 8 in q4_k: scale q - minimum, q the lower halves of 32 bytes where `i` is even, the upper ones where it is odd.
FLEXGEN_BLOCK_CODE Part q4_k_part(const uint8_t* p, int i) {
  Part part{0, 0, p + 16 + i / 2 * 32};
  scale_and_minimum(p + 4, i, &part.scale, &part.minimum);
  part.scale *= half_at(p);
  part.minimum *= half_at(p + 2);
  return part;
}

/// Part `i` of 8 in iq4_xs: scale table[q], q the halves of 16 bytes, the lower ones first; the scale has 6 bits, lower and upper ones apart.
FLEXGEN_BLOCK_CODE Part iq4_xs_part(const uint8_t* p, int i) {
  const int low = p[4 + i / 2] >> i % 2 * 4 & 15, high = (p[2] | p[3] << 8) >> 2 * i & 3;
  return {half_at(p) * static_cast<float>((low | high << 4) - 32), 0, p + 8 + 16 * i};
}

/// Whether a block's elements are 16 values at most, which its codes of four bits choose from.
constexpr bool has_sixteen_values(DType dtype) { return dtype == DType::kQ4_0 || dtype == DType::kQ4_1 || dtype == DType::kIQ4_NL || dtype == DType::kMXFP4; }

inline constexpr float kNonLinear[16]{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};  ///< iq4_nl's and iq4_xs's
inline constexpr float kTwiceE2m1[16]{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};                   ///< mxfp4's; e2m1's -0 is 0

/// use(codes, value_of) for such a block: the 16 bytes of its codes, and what a code means.
template <DType kType, typename Use>
FLEXGEN_BLOCK_CODE void with_values(const uint8_t* p, const Use& use) {
  if constexpr (kType == DType::kQ4_0) {
    use(p + 2, [d = half_at(p)](int q) { return d * static_cast<float>(q - 8); });
  } else if constexpr (kType == DType::kQ4_1) {
    use(p + 4, [d = half_at(p), m = half_at(p + 2)](int q) { return d * static_cast<float>(q) + m; });
  } else if constexpr (kType == DType::kIQ4_NL) {
    use(p + 2, [d = half_at(p)](int q) { return d * kNonLinear[q]; });
  } else {
    static_assert(kType == DType::kMXFP4);
    use(p + 1, [d = mxfp4_step(p[0])](int q) { return d * kTwiceE2m1[q]; });
  }
}

/// What each code of such a block means, [16]; returns its codes.
template <DType kType>
FLEXGEN_BLOCK_CODE const uint8_t* sixteen_values(const uint8_t* p, float* values) {
  const uint8_t* codes = nullptr;
  with_values<kType>(p, [&](const uint8_t* at, const auto& value_of) {
    codes = at;
    for (int q = 0; q < 16; ++q) values[q] = value_of(q);
  });
  return codes;
}

template <DType kType>
FLEXGEN_BLOCK_CODE void unpack(const uint8_t* p, float* out) {
  if constexpr (has_sixteen_values(kType)) {
    with_values<kType>(p, [&](const uint8_t* codes, const auto& value_of) { halves(codes, 0, out, value_of); });
  } else if constexpr (kType == DType::kQ5_0) {
    halves(p + 6, word_at(p + 2), out, [d = half_at(p)](int q) { return d * static_cast<float>(q - 16); });
  } else if constexpr (kType == DType::kQ5_1) {
    halves(p + 8, word_at(p + 4), out, [d = half_at(p), m = half_at(p + 2)](int q) { return d * static_cast<float>(q) + m; });
  } else if constexpr (kType == DType::kQ8_0) {
    const float d = half_at(p);
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(p[2 + i]));
  } else if constexpr (kType == DType::kQ2_K) {
    const float d = half_at(p + 80), m = half_at(p + 82);
    for (int part = 0; part < 16; ++part) {
      const float scale = d * static_cast<float>(p[part] & 15), minimum = m * static_cast<float>(p[part] >> 4);
      const uint8_t* codes = p + 16 + part / 8 * 32 + part % 2 * 16;
      const int shift = part % 8 / 2 * 2;
      for (int i = 0; i < 16; ++i) out[part * 16 + i] = scale * static_cast<float>(codes[i] >> shift & 3) - minimum;
    }
  } else if constexpr (kType == DType::kQ3_K) {
    const float d = half_at(p + 108);
    const uint8_t* packed = p + 96;
    for (int part = 0; part < 16; ++part) {
      const int low = part < 8 ? packed[part] & 15 : packed[part - 8] >> 4, high = packed[8 + part % 4] >> (part / 4 * 2) & 3;
      const float scale = d * static_cast<float>((low | high << 4) - 32);
      const uint8_t *codes = p + 32 + part / 8 * 32 + part % 2 * 16, *mask = p + part % 2 * 16;
      const int shift = part % 8 / 2 * 2, bit = part / 2;
      for (int i = 0; i < 16; ++i) out[part * 16 + i] = scale * static_cast<float>((codes[i] >> shift & 3) - ((mask[i] >> bit & 1) ^ 1) * 4);
    }
  } else if constexpr (kType == DType::kQ4_K) {
    for (int part = 0; part < 8; ++part) {
      const Part of = q4_k_part(p, part);
      const int shift = part % 2 * 4;
      for (int i = 0; i < 32; ++i) out[part * 32 + i] = of.scale * static_cast<float>(of.codes[i] >> shift & 15) - of.minimum;
    }
  } else if constexpr (kType == DType::kQ5_K) {
    const float d = half_at(p), m = half_at(p + 2);
    for (int part = 0; part < 8; ++part) {
      float scale, minimum;
      scale_and_minimum(p + 4, part, &scale, &minimum);
      scale *= d;
      minimum *= m;
      const uint8_t *codes = p + 48 + part / 2 * 32, *high = p + 16;
      const int shift = part % 2 * 4;
      for (int i = 0; i < 32; ++i) out[part * 32 + i] = scale * static_cast<float>((codes[i] >> shift & 15) | (high[i] >> part & 1) << 4) - minimum;
    }
  } else if constexpr (kType == DType::kIQ4_XS) {
    for (int part = 0; part < 8; ++part) {
      const Part of = iq4_xs_part(p, part);
      halves(of.codes, 0, out + part * 32, [&](int q) { return of.scale * kNonLinear[q]; });
    }
  } else {
    static_assert(kType == DType::kQ6_K);
    const float d = half_at(p + 208);
    for (int part = 0; part < 16; ++part) {
      const float scale = d * static_cast<float>(static_cast<int8_t>(p[192 + part]));
      // Of each half block: 64 bytes of low halves, 32 bytes with two bits for each of four stretches of 32.
      const int stretch = part % 8 / 2, within = part % 2 * 16;
      const uint8_t *low = p + part / 8 * 64 + stretch % 2 * 32 + within, *high = p + 128 + part / 8 * 32 + within;
      const int shift = stretch / 2 * 4, high_shift = stretch * 2;
      for (int i = 0; i < 16; ++i) out[part * 16 + i] = scale * static_cast<float>(((low[i] >> shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
    }
  }
}

#undef FLEXGEN_BLOCK_CODE

/// Calls use.operator()<dtype>() for a blocked type.
template <typename Use>
[[gnu::always_inline]] inline void with_format(DType dtype, const Use& use) {
  switch (dtype) {
    case DType::kQ4_0: return use.template operator()<DType::kQ4_0>();
    case DType::kQ4_1: return use.template operator()<DType::kQ4_1>();
    case DType::kQ5_0: return use.template operator()<DType::kQ5_0>();
    case DType::kQ5_1: return use.template operator()<DType::kQ5_1>();
    case DType::kQ8_0: return use.template operator()<DType::kQ8_0>();
    case DType::kQ2_K: return use.template operator()<DType::kQ2_K>();
    case DType::kQ3_K: return use.template operator()<DType::kQ3_K>();
    case DType::kQ4_K: return use.template operator()<DType::kQ4_K>();
    case DType::kQ5_K: return use.template operator()<DType::kQ5_K>();
    case DType::kQ6_K: return use.template operator()<DType::kQ6_K>();
    case DType::kIQ4_NL: return use.template operator()<DType::kIQ4_NL>();
    case DType::kMXFP4: return use.template operator()<DType::kMXFP4>();
    case DType::kIQ4_XS: return use.template operator()<DType::kIQ4_XS>();
    default: return;
  }
}

}  // namespace flexgen::blocks
