#include "tensor/dtype.h"

#include <cstring>

namespace flexgen {

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "f32";
    case DType::kF16: return "f16";
    case DType::kBF16: return "bf16";
    case DType::kInt8: return "int8";
    case DType::kInt4: return "int4";
    case DType::kQ4_0: return "q4_0";
    case DType::kQ4_1: return "q4_1";
    case DType::kQ5_0: return "q5_0";
    case DType::kQ5_1: return "q5_1";
    case DType::kQ8_0: return "q8_0";
    case DType::kQ2_K: return "q2_k";
    case DType::kQ3_K: return "q3_k";
    case DType::kQ4_K: return "q4_k";
    case DType::kQ5_K: return "q5_k";
    case DType::kQ6_K: return "q6_k";
    case DType::kIQ4_NL: return "iq4_nl";
    case DType::kMXFP4: return "mxfp4";
    case DType::kIQ4_XS: return "iq4_xs";
    case DType::kFp8: return "fp8";
    case DType::kCodes8: return "int8-scaled";
    case DType::kPacked4: return "int4-packed";
    case DType::kPacked8: return "int8-packed";
    case DType::kGptq4: return "int4-gptq";
    case DType::kGptq8: return "int8-gptq";
    case DType::kAwq4: return "int4-awq";
    case DType::kFp4: return "fp4-scaled";
  }
  return "?";
}

float float_from_f16(uint16_t bits) {
  uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  uint32_t exponent = (bits >> 10) & 0x1fu;
  uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {
    float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  uint32_t wide = exponent == 31 ? 0xffu : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

uint16_t f16_from_float(float value) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {                        // below 2^-14: subnormal, in units of 2^-24
    float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    auto whole = static_cast<uint32_t>(scaled);
    float rest = scaled - static_cast<float>(whole);
    if (rest > 0.5f || (rest == 0.5f && (whole & 1u))) ++whole;
    return static_cast<uint16_t>(sign | whole);
  }
  uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

float load_float(const void* data, DType dtype, int64_t index) {
  const auto* bytes = static_cast<const char*>(data);
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, bytes + 4 * index, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, bytes + 2 * index, 2);
  return dtype == DType::kF16 ? float_from_f16(half) : float_from_bf16(half);
}

}  // namespace flexgen
