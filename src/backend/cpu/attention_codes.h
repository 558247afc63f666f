#pragma once
// Attention over int8 and int4 keys and values where they lie, in integers: codes times queries and weights of 16 bits, whole heads without
// unpacking them (any machine; AVX2 does four times the products of fp32 a cycle). Pure functions of their task; thread-safe.

#include "backend/cpu/attention.h"

namespace flexgen {

/// Whether attend_codes() can do tasks of this geometry on this machine. A property of the model and the machine alone.
bool attention_codes_fits(const KvGeometry& geometry);
/// As attention_scratch_floats(), attend() and attention_scores(). A query is rounded to multiples of a 32767th of its largest element, the
/// softmax's weights times the values' steps to multiples of a 32767th of the largest in each span of 64 positions; sums within a group or a span are exact.
int64_t attention_codes_scratch_floats(const AttentionTask& task);
void attend_codes(const AttentionTask& task, float* scratch);
void attention_codes_scores(const AttentionTask& task, int64_t head, int64_t first, float* out, int64_t out_stride, float* scratch);

}  // namespace flexgen
