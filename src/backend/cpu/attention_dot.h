#pragma once
// Attention with bf16 dot products (AVX512-BF16), over bf16 and int4 keys and values where they lie: twice the products of fp32 per
// instruction, and int4 codes become factors without being unpacked to rows first. Pure functions of their task; thread-safe.

#include "backend/cpu/attention.h"

namespace flexgen {

/// Whether attend_dot() can do tasks of this geometry on this machine. A property of the model and the machine alone, so that all rows of a
/// sequence are computed by the same arithmetic.
bool attention_dot_fits(const KvGeometry& geometry, DType out_dtype);
/// As attention_scratch_floats() and attend(). q and the softmax's weights are rounded to bf16, all sums are fp32.
int64_t attention_dot_scratch_floats(const AttentionTask& task);
void attend_dot(const AttentionTask& task, float* scratch);
/// As attention_scores().
void attention_dot_scores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch);

}  // namespace flexgen
