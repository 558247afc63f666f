#pragma once
// Kernels that work row by row or element by element: embedding, norms, RoPE, Hadamard, activations, conversions, appending to the cache.
// A row is summed by one block of a fixed size in a fixed order, so its bits depend on the row alone. Device code.

#include "backend/cuda/cache_rows.h"

namespace flexgen::inline FLEXGEN_SIDE {

inline constexpr int kRowThreads = 256;  ///< of a block that owns a row; also of blocks over elements

FLEXGEN_CODE float activation_value(float x, Activation activation) {
  switch (activation) {
    case Activation::kRelu: return x < 0.0f ? 0.0f : x;  // fmaxf() would swallow NaN
    case Activation::kReluSquared: return x < 0.0f ? 0.0f : x * x;
    case Activation::kGelu: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case Activation::kGeluTanh: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case Activation::kSilu: return x / (1.0f + expf(-x));
  }
  return x;
}

/// out[t] = (accumulate ? out[t] : 0) + rows[t]. Grid: T.
FLEXGEN_KERNEL void gather(const std::byte* const* rows, DType dtype, int64_t cols, bool accumulate, float* out) {
  const std::byte* row = rows[block_x()];
  float* to = out + block_x() * cols;
  for (int64_t d = thread(); d < cols; d += num_threads()) to[d] = (accumulate ? to[d] : 0.0f) + load_in_any_row(row, dtype, cols, d);
}

/// LayerNorm of row block_x() of x to the same row of out, which may be x; a null weight is none. The variance is that of the deviations, in a second pass.
FLEXGEN_KERNEL void layer_normalize(const float* x, int64_t cols, const std::byte* weight, DType weight_type, const std::byte* bias, DType bias_type,
                                    float epsilon, float weight_offset, std::byte* out, DType out_type) {
  FLEXGEN_SHARED float shared[kWarp];
  x += block_x() * cols;
  float sum = 0;
  for (int64_t d = thread(); d < cols; d += num_threads()) sum += x[d];
  const float mean = reduce_block<false>(sum, shared) / static_cast<float>(cols);
  float square = 0;
  for (int64_t d = thread(); d < cols; d += num_threads()) square += (x[d] - mean) * (x[d] - mean);
  const float scale = 1 / sqrtf(reduce_block<false>(square, shared) / static_cast<float>(cols) + epsilon);
  for (int64_t d = thread(); d < cols; d += num_threads()) {
    const float shift = bias == nullptr ? 0.0f : load_element(bias, bias_type, d);
    const float factor = weight == nullptr ? 1.0f : weight_offset + load_element(weight, weight_type, d);
    store_element(out, out_type, block_x() * cols + d, (x[d] - mean) * scale * factor + shift);
  }
}

/// RMSNorm of vector block_x() of `cols` elements, to the same place in out, which may be x; a null weight is none.
FLEXGEN_KERNEL void rms_normalize(const float* x, int64_t cols, const std::byte* weight, DType weight_type, float epsilon, float weight_offset, std::byte* out,
                                  DType out_type) {
  FLEXGEN_SHARED float shared[kWarp];
  x += block_x() * cols;
  float square = 0;
  for (int64_t d = thread(); d < cols; d += num_threads()) square += x[d] * x[d];
  const float scale = 1 / sqrtf(reduce_block<false>(square, shared) / static_cast<float>(cols) + epsilon);
  for (int64_t d = thread(); d < cols; d += num_threads())
    store_element(out, out_type, block_x() * cols + d, x[d] * scale * (weight == nullptr ? 1.0f : weight_offset + load_element(weight, weight_type, d)));
}

/// out = activation(gate) * up, or activation(gate) where up is null.
FLEXGEN_KERNEL void activate_elements(const float* gate, const float* up, int64_t count, Activation activation, std::byte* out, DType out_type) {
  for_elements(count, [&](int64_t i) {
    const float x = activation_value(gate[i], activation);
    store_element(out, out_type, i, up == nullptr ? x : x * up[i]);
  });
}

/// out = activation(x) over divisors, row by row of `cols` elements.
FLEXGEN_KERNEL void divide_activated(const float* x, int64_t count, int64_t cols, Activation activation, const std::byte* divisors, DType divisor_type,
                                     std::byte* out, DType out_type) {
  for_elements(count, [&](int64_t i) { store_element(out, out_type, i, activation_value(x[i], activation) / load_element(divisors, divisor_type, i % cols)); });
}

/// out = the clamped gate of x (ClampedGate).
FLEXGEN_KERNEL void clamp_gates(GatedValues x, int64_t count, ClampedGate rule, std::byte* out, DType out_type) {
  for_elements(count, [&](int64_t i) {
    float gate = x.gate[i * x.step], up = x.up[i * x.step];
    if (gate > rule.limit) gate = rule.limit;
    if (fabsf(up) > rule.limit) up = up > 0 ? rule.limit : -rule.limit;
    store_element(out, out_type, i, gate / (1.0f + expf(-rule.alpha * gate)) * (up + 1.0f));
  });
}

/// out = x, from one unquantized type to another, row by row with a stride each; columns beyond `cols` up to `out_stride` become zero.
FLEXGEN_KERNEL void convert_elements(const std::byte* x, DType from, int64_t num_rows, int64_t cols, std::byte* out, DType to, int64_t out_stride) {
  for_elements(num_rows * out_stride, [&](int64_t i) {
    const int64_t row = i / out_stride, column = i - row * out_stride;
    store_element(out, to, i, column < cols ? load_element(x, from, row * cols + column) : 0.0f);
  });
}

/// Rows of a quantized type as elements of another; as above. Grid: rows.
FLEXGEN_KERNEL void unpack_rows(const std::byte* x, DType from, int64_t cols, std::byte* out, DType to, int64_t out_stride) {
  const std::byte* row = x + block_x() * row_bytes(from, cols);
  for (int64_t column = thread(); column < out_stride; column += num_threads())
    store_element(out, to, block_x() * out_stride + column, column < cols ? load_in_any_row(row, from, cols, column) : 0.0f);
}

/// Eight elements of an unquantized type from the eight at `at`, which lie at 16 bytes.
FLEXGEN_CODE void load_eight(const std::byte* at, DType dtype, float (&out)[8]) {
  const Words4 words = load128(at);
  if (dtype == DType::kF32) {
    const Words4 rest = load128(at + 16);
    FLEXGEN_UNROLL
    for (int i = 0; i < 4; ++i) {
      out[i] = std::bit_cast<float>(words.word[i]);
      out[4 + i] = std::bit_cast<float>(rest.word[i]);
    }
    return;
  }
  FLEXGEN_UNROLL
  for (int i = 0; i < 8; ++i) {
    const uint32_t half = words.word[i / 2] >> 16 * (i % 2) & 0xffffu;
    out[i] = dtype == DType::kBF16 ? Bf16::to_float(half) : F16::to_float(half);
  }
}

template <typename Half>
FLEXGEN_CODE void store_eight(std::byte* at, const float (&values)[8]) {
  Words4 words;
  FLEXGEN_UNROLL
  for (int i = 0; i < 4; ++i) words.word[i] = Half::pack(values[2 * i], values[2 * i + 1]);
  *reinterpret_cast<Words4*>(at) = words;
}

/// convert_elements() to Half of 8 num_eights elements in a row, both sides at 16 bytes.
template <typename Half>
FLEXGEN_KERNEL void convert_words(const std::byte* x, DType from, int64_t num_eights, std::byte* out) {
  const int64_t step = from == DType::kF32 ? 32 : 16;
  for_elements(num_eights, [&](int64_t i) {
    float values[8];
    load_eight(x + i * step, from, values);
    store_eight<Half>(out + 16 * i, values);
  });
}

/// The values of eight codes, a byte each.
template <typename Half>
FLEXGEN_CODE void store_codes(std::byte* at, Words2 codes, GroupScale scale) {
  float values[8];
  FLEXGEN_UNROLL
  for (int i = 0; i < 8; ++i) values[i] = scale.value(codes.word[i / 4] >> 8 * (i % 4) & 0xffu);
  store_eight<Half>(at, values);
}

/// unpack_rows() of int4 or int8 to Half, of whole groups, without padding; x, rows of `stride` bytes, at 4 bytes, at 8 if is_wide, and out at 16. A thread reads 8 bytes of codes at a
/// time and the scale of their group once; of int4 these are two stretches of 8 elements, 32 apart. Grid: rows.
template <typename Half>
FLEXGEN_KERNEL void unpack_groups(const std::byte* x, int64_t stride, DType from, int64_t cols, bool is_wide, std::byte* out) {
  const std::byte* const row = x + block_x() * stride;
  std::byte* const to = out + block_x() * cols * 2;
  const bool is_int4 = from == DType::kInt4;
  const int num_codes = static_cast<int>(is_int4 ? cols / 2 : cols), group_shift = is_int4 ? 5 : 6;  // bytes of a group's codes
  const std::byte* const parameters = row + num_codes;
  for (int first = 8 * thread(); first < num_codes; first += 8 * num_threads()) {
    Words2 codes;
    if (is_wide) codes = load64(row + first);
    else codes = {load32(row + first), load32(row + first + 4)};
    const int group = first >> group_shift;
    const GroupScale scale = read_group_scale_word(parameters + 4 * group);
    std::byte* const at = to + 2 * (group * static_cast<int>(kQuantGroup) + first - (group << group_shift));
    if (!is_int4) {
      store_codes<Half>(at, codes, scale);
      continue;
    }
    store_codes<Half>(at, {codes.word[0] & 0x0f0f0f0fu, codes.word[1] & 0x0f0f0f0fu}, scale);
    store_codes<Half>(at + 64, {codes.word[0] >> 4 & 0x0f0f0f0fu, codes.word[1] >> 4 & 0x0f0f0f0fu}, scale);
  }
}

/// Rows of an unquantized type as rows of a quantized one; *is_bad becomes 1 if one is not finite. Grid: rows; a group of 64 a warp.
FLEXGEN_KERNEL void quantize_rows(const std::byte* x, DType from, int64_t cols, std::byte* out, DType to, uint32_t* is_bad) {
  FLEXGEN_SHARED float values[kRowThreads / kWarp][kQuantGroup];
  std::byte* row = out + block_x() * row_bytes(to, cols);
  for (int64_t group = warp(); group * kQuantGroup < cols; group += num_threads() / kWarp) {
    const int64_t first = group * kQuantGroup;
    const int count = static_cast<int>(cols - first < kQuantGroup ? cols - first : kQuantGroup);
    for (int i = lane(); i < count; i += kWarp) values[warp()][i] = load_element(x, from, block_x() * cols + first + i);
    sync_warp();
    if (!quantize_group(values[warp()], count, to, row + (to == DType::kInt4 ? first / 2 : first), row + code_bytes(to, cols) + 4 * group) && lane() == 0)
      *is_bad = 1;
    sync_warp();
  }
}

/// y += factor * x.
FLEXGEN_KERNEL void add_scaled_elements(const float* x, int64_t count, float factor, float* y) {
  for_elements(count, [&](int64_t i) { y[i] += factor * x[i]; });
}

/// In place: factor * x, capped unless `cap` is 0.
FLEXGEN_KERNEL void scale_elements(float* x, int64_t count, float factor, float cap) {
  for_elements(count, [&](int64_t i) { x[i] = cap == 0 ? factor * x[i] : cap * tanhf(factor * x[i] / cap); });
}

/// In place: x within [-limit, limit]; NaN stays.
FLEXGEN_KERNEL void clamp_elements(float* x, int64_t count, float limit) {
  for_elements(count, [&](int64_t i) {
    if (fabsf(x[i]) > limit) x[i] = x[i] > 0 ? limit : -limit;
  });
}

/// out [groups, width] = columns [first, first + width) of x [groups, group_width].
FLEXGEN_KERNEL void pick_elements(const float* x, int64_t num_groups, int64_t group_width, int64_t first, int64_t width, float* out) {
  for_elements(num_groups * width, [&](int64_t i) {
    const int64_t group = i / width;
    out[i] = x[group * group_width + first + (i - group * width)];
  });
}

/// RoPE in place: x [T, heads, H], of each head `half` pairs: neighbours if interleaved, else `half` apart. Grid: T.
FLEXGEN_KERNEL void rotate(float* x, int num_heads, int head_size, int half, bool interleaved, const int32_t* positions, const float* inverse_frequencies,
                           float scale) {
  const auto position = static_cast<float>(positions[block_x()]);
  x += block_x() * num_heads * head_size;
  for (int i = thread(); i < num_heads * half; i += num_threads()) {
    const int head = i / half, pair = i - head * half;
    // The product is rounded to float before its cosine is taken, as Hugging Face does.
    const float angle = position * inverse_frequencies[pair];
    const float cosine = cosf(angle) * scale, sine = sinf(angle) * scale;
    float* row = x + static_cast<int64_t>(head) * head_size;
    float *first = row + (interleaved ? 2 * pair : pair), *second = first + (interleaved ? 1 : half);
    const float a = *first, b = *second;
    *first = a * cosine - b * sine;
    *second = b * cosine + a * sine;
  }
}

/// The larger of two; of those that are alike the first. NaN is never larger.
FLEXGEN_CODE Largest larger(Largest a, Largest b) { return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a; }

/// As drawn_value() (backend/gumbel.h).
FLEXGEN_CODE float drawn_value_of(const Draw& draw, uint32_t id, float logit) {
  return logit * draw.inverse_temperature - logf(-log1pf(-fraction_of(token_bits(draw, id))));
}

/// The largest of row block_x() of x [T, cols], where draws (null: none) say so of what is drawn. Grid: T.
FLEXGEN_KERNEL void find_largest(const float* x, int64_t cols, const Draw* draws, uint32_t first_id, Largest* out) {
  FLEXGEN_SHARED float values[kWarp];
  FLEXGEN_SHARED int32_t places[kWarp];
  x += block_x() * cols;
  const Draw draw = draws == nullptr ? Draw() : draws[block_x()];
  Largest best{minus_infinity(), 0x7fffffff};
  for (int64_t d = thread(); d < cols; d += num_threads()) {
    float value = -minus_infinity();  // of what is not finite, and of nothing else
    if (x[d] < value) value = fminf(draw.inverse_temperature > 0 ? drawn_value_of(draw, first_id + static_cast<uint32_t>(d), x[d]) : x[d], largest_float());
    best = larger(best, {value, static_cast<int32_t>(d)});
  }
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float value = shuffle_xor(best.value, mask);
    best = larger(best, {value, shuffle_xor(best.at, mask)});
  }
  if (lane() == 0) {
    values[warp()] = best.value;
    places[warp()] = best.at;
  }
  sync_block();
  if (thread() > 0) return;
  for (int other = 1; other < num_threads() / kWarp; ++other) best = larger(best, {values[other], places[other]});
  if (best.value > largest_float()) best.value -= best.value;
  out[block_x()] = best;
}

inline constexpr int kLargestHadamard = 1024;

/// The fast Walsh-Hadamard transform of vector block_x() of `size` elements, in place (backend/hadamard.h).
FLEXGEN_KERNEL void transform_hadamard(float* x, int size) {
  FLEXGEN_SHARED float values[kLargestHadamard];
  x += block_x() * size;
  for (int i = thread(); i < size; i += num_threads()) values[i] = x[i];
  for (int half = 1; half < size; half *= 2) {
    sync_block();
    for (int i = thread(); i < size / 2; i += num_threads()) {
      const int low = i / half * 2 * half + i % half;
      const float a = values[low], b = values[low + half];
      values[low] = a + b;
      values[low + half] = a - b;
    }
  }
  sync_block();
  const float factor = 1 / sqrtf(static_cast<float>(size));
  for (int i = thread(); i < size; i += num_threads()) x[i] = values[i] * factor;
}

/// A new row of a slot.
struct NewRow {
  int32_t slot = 0, row = 0;  ///< row within the slot
};

/// New keys and values of rows[block_x()] into their slots' pages, quantized on the way. Grid: (rows, 2 G).
FLEXGEN_KERNEL void append_rows(const float* k, const float* v, const SlotOnDevice* slots, const NewRow* rows, CacheOnDevice cache) {
  FLEXGEN_SHARED uint32_t is_bad;
  const NewRow task = rows[block_x()];
  const SlotOnDevice slot = slots[task.slot];
  const int which = static_cast<int>(block_y()) % 2, head = static_cast<int>(block_y()) / 2, size = cache.head_size;
  const float* from = (which == 0 ? k : v) + (static_cast<int64_t>(slot.first_row + task.row) * cache.kv_heads + head) * size;
  std::byte* to = cache.row(slot.first_page, which, head, slot.past + task.row);
  if (!is_quantized(cache.dtype)) {
    for (int i = thread(); i < size; i += num_threads()) store_element(to, cache.dtype, i, from[i]);
    return;
  }
  if (thread() == 0) is_bad = 0;
  sync_block();
  for (int group = warp(); group * static_cast<int>(kQuantGroup) < size; group += num_threads() / kWarp) {
    const int first = group * static_cast<int>(kQuantGroup), rest = size - first;
    const int count = rest < static_cast<int>(kQuantGroup) ? rest : static_cast<int>(kQuantGroup);
    if (!quantize_group(from + first, count, cache.dtype, to + (cache.dtype == DType::kInt4 ? first / 2 : first),
                        to + code_bytes(cache.dtype, size) + 4 * group) &&
        lane() == 0)
      is_bad = 1;
  }
  sync_block();
  // Values that are not finite have no codes; they stay visible as NaN.
  if (is_bad != 0)
    for (int64_t i = thread(); i < cache.row_bytes; i += num_threads()) to[i] = std::byte{0xff};
}

}  // namespace flexgen::inline FLEXGEN_SIDE
