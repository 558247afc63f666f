#pragma once
// The row-wise and element-wise arithmetic of the cpu backend in SIMD, picked at run time for the
// machine. Each function works in the calling thread on the rows it is given; an element's bits do
// not depend on its position. Pure functions, thread-safe.

#include <cstdint>

#include "backend/kernels.h"
#include "tensor/code_format.h"

namespace flexgen::vector_rows {

/// dst[i] = src[i] in another element type; narrowing rounds to nearest even. No alignment needed. Of a quantized type (tensor/group_quant.h)
/// `count` elements are one whole row; only a blocked type can become int8 or int4. False if a value that was to be quantized was not finite.
bool convert(const void* src, DType src_dtype, int64_t count, DType dst_dtype, void* dst, GroupRange range = GroupRange::kMinMax);
/// Rows [first, first + num_rows) of a piece of a matrix with scales of its own as rows of an unquantized type.
void unpack_codes(const CodeFormat& format, DType dtype, const WeightPiece& piece, int64_t first, int64_t num_rows, int64_t cols, DType to, void* out);
/// out[i] += row[i].
void add(const void* row, DType dtype, int64_t count, float* out);

/// y [rows, cols] with rows of y_stride = (accumulate ? y : 0) + x [rows, cols] with rows of
/// x_stride + bias; bias f32 [cols] or null.
void add_product(const float* x, int64_t x_stride, int64_t num_rows, int64_t cols, const float* bias, bool accumulate, float* y, int64_t y_stride);

/// x [rows, cols] -> out [rows, cols] of `dtype`, which may be x itself if f32. weight, bias f32
/// [cols]; bias may be null.
void layer_norm(const float* x, int64_t num_rows, int64_t cols, const float* weight, const float* bias, float epsilon, DType dtype, void* out);
void rms_norm(const float* x, int64_t num_rows, int64_t cols, const float* weight, float epsilon, DType dtype, void* out);

/// out = activation(x), times `up` unless that is null.
void activate(const float* x, const float* up, int64_t count, Activation activation, DType dtype, void* out);

/// As Kernels::clamped_gate().
void clamped_gate(const GatedValues& x, int64_t count, const ClampedGate& rule, DType dtype, void* out);

/// y += factor * x.
void add_scaled(const float* x, int64_t count, float factor, float* y);
/// As Kernels::scale().
void scale(float* x, int64_t count, float factor, float cap);
/// As Kernels::clamp().
void clamp(float* x, int64_t count, float limit);

/// Rotates the heads of one row: of x [num_heads, head_size] the first 2 * half elements of each, in place by cosine and sine [half]; pairs are
/// neighbours if interleaved, else `half` apart.
void rotate(float* x, int64_t num_heads, int64_t head_size, int64_t half, bool interleaved, const float* cosine, const float* sine);

/// Where the largest of `count` > 0 values is, the first of those that are alike; NaN counts as large as +infinity, so that either is found.
int64_t largest_at(const float* x, int64_t count);
/// As Kernels::largest() of one row.
Largest largest(const float* x, int64_t count, const Draw& draw, int64_t first_id);
/// The sum of e^(x[i] - maximum): e^ and a few of them together in fp32, the sum of those in fp64: a relative error of 1e-6 at most.
double sum_of_exp(const float* x, int64_t count, float maximum);

/// The instruction set chosen, as Highway names it.
const char* target_name();

}  // namespace flexgen::vector_rows
