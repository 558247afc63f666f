#include "backend/cpu/attention_kernel.h"

#include "backend/cpu/attention_amx.h"
#include "backend/cpu/attention_codes.h"
#include "backend/cpu/attention_dot.h"

namespace flexgen {

const AttentionKernel& attention_kernel(const KvGeometry& geometry, DType out_dtype) {
  // Tiles of 16 queries, and keys that are turned for enough of them.
  static constexpr AttentionKernel kAmx{attention_amx_scratch_floats, attend_amx, attention_amx_scores, {192, 192, 16}};
  static constexpr AttentionKernel kDot{attention_dot_scratch_floats, attend_dot, attention_dot_scores, {}};
  static constexpr AttentionKernel kCodes{attention_codes_scratch_floats, attend_codes, attention_codes_scores, {}};
  static constexpr AttentionKernel kFloats{attention_scratch_floats, attend, attention_scores, {}};
  if (attention_amx_fits(geometry, out_dtype)) return kAmx;
  if (attention_dot_fits(geometry, out_dtype)) return kDot;
  return attention_codes_fits(geometry) ? kCodes : kFloats;
}

}  // namespace flexgen
