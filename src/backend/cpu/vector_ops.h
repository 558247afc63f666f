#pragma once
// The element-wise, normalizing and attending operations of the cpu backend in SIMD: Highway,
// compiled for several instruction sets, the best one chosen at run time. All run in the caller's
// thread and its OpenMP team.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "backend/kernels.h"

namespace flexgen {

/// out[i] = in[i] in another element type. Large arrays use all threads.
void convert_elements(const std::byte* in, DType from, int64_t count, std::byte* out, DType to);
/// One row: out = in * scale * weight (+ bias), where in may equal out if out_dtype is f32.
void scale_shift_row(const float* in, float mean, float scale, const WeightView& weight,
                     const WeightView& bias, int64_t cols, std::byte* out, DType out_dtype);
/// Sum and sum of squares of a row around `center`.
void row_moments(const float* in, int64_t cols, float center, float* sum, float* squares);
/// out = activation(x) (* up, if not null).
void activate_elements(const float* x, const float* up, int64_t count, Activation activation,
                       std::byte* out, DType dtype);
/// Online-softmax attention of `num_rows` tokens of one slot, one kv head; see
/// Kernels::attention().
void attend(const float* q, const AttentionSlot& slot, int64_t first_token, int64_t num_tokens,
            int64_t kv_head, const KvGeometry& geometry, float scale, int64_t window,
            std::byte* out, DType out_dtype);
/// The instruction set that Highway chose.
std::string vector_target_name();

}  // namespace flexgen
