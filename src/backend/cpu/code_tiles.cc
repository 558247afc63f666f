#include "backend/cpu/code_tiles.h"

#include "backend/cpu/dot_product.h"
#include "tensor/code_format.h"

namespace flexgen::code_tiles {

bool is_supported() {
#if defined(__x86_64__)
  static const bool machine = dot_product::is_supported() && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
  return machine;
#else
  return false;
#endif
}

bool takes(const WeightView& weight) {
  if (weight.cols % kQuantGroup != 0) return false;
  switch (weight.dtype) {
    case DType::kInt4:
    case DType::kInt8:
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ8_0:
    case DType::kIQ4_NL:
    case DType::kMXFP4:
    case DType::kIQ4_XS:
    case DType::kQ4_K:
    case DType::kQ6_K: return true;
    case DType::kFp8:
    case DType::kCodes8:
    case DType::kFp4:
    case DType::kPacked4:
    case DType::kPacked8: {
      const CodeFormat& format = *weight.format;
      const int64_t size = format.scale_columns;
      const bool is_short = size == kStep / 2 && (weight.dtype == DType::kFp4 || weight.dtype == DType::kPacked4);
      return !format.has_order && (is_short || size % kStep == 0) && format.group_of(weight.cols - 1) < format.num_groups;
    }
    default: return false;
  }
}

}  // namespace flexgen::code_tiles
