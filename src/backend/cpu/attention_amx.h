#pragma once
// Attention with AMX's products of bf16, over bf16 keys and values where they lie. Pure functions of their task; thread-safe.

#include "backend/cpu/attention.h"

namespace flexgen {

/// Whether attend_amx() can do tasks of this geometry on this machine. A property of the model and the machine alone.
bool attention_amx_fits(const KvGeometry& geometry, DType out_dtype);
/// As attention_scratch_floats(), attend() and attention_scores(). q and the softmax's weights are rounded to bf16, all sums are fp32, in amx_product.h's order: over 32 elements of a head, over 32 positions.
int64_t attention_amx_scratch_floats(const AttentionTask& task);
void attend_amx(const AttentionTask& task, float* scratch);
void attention_amx_scores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch);

}  // namespace flexgen
