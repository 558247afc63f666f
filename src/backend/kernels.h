#pragma once
// Kernels: the coarse operations a transformer layer is made of, one implementation a backend.
// Every function does its work in the calling thread (a lane's thread) and that thread's worker team, and
// has finished (or, on a GPU, enqueued) it when it returns. Not for two threads at once.
//
// One answer: a row of a result depends on that row's inputs alone, bit for bit: not on how many rows
// are in the call, nor on where a weight is cut into pieces, nor on how a sequence is cut into chunks.
//
// Shapes: T tokens packed in a visit, B slots, S context, D hidden, A query heads, G kv heads, H head size,
// F ffn, V vocab. All matrices row-major and dense unless a leading dimension is given.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "backend/gumbel.h"
#include "tensor/dtype.h"
#include "tensor/weight_view.h"

namespace flexgen {

/// How keys and values of one sequence and one layer lie in memory: pages of `page_tokens` tokens, each
/// page [2 (keys, values), G, page_tokens] rows of H elements of `dtype`.
struct KvGeometry {
  DType dtype = DType::kBF16;
  int64_t query_heads = 0;  ///< A
  int64_t kv_heads = 0;     ///< G, divides A
  int64_t head_size = 0;    ///< H
  int64_t page_tokens = 0;

  /// Where in its page the key (which = 0) or value (1) of a position of a kv head is.
  int64_t row_offset(int64_t which, int64_t head, int64_t position) const {
    return ((which * kv_heads + head) * page_tokens + position % page_tokens) * row_bytes(dtype, head_size);
  }
  int64_t page_bytes() const { return 2 * kv_heads * page_tokens * row_bytes(dtype, head_size); }
};

/// The new tokens of one slot in a visit: rows [first_row, first_row + num_rows) of the packed [T, ...]
/// matrices stand at positions [past, past + num_rows) of the sequence.
struct AttentionSlot {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t past = 0;                   ///< tokens already in the cache
  std::byte* const* pages = nullptr;  ///< page p holds positions [p * page_tokens, (p + 1) * page_tokens); null where the window hides all of it from all rows
  /// Rows at this position and later are sparse where the rule asks for it: generated tokens. Prompts are read densely.
  int64_t dense_until = std::numeric_limits<int64_t>::max();
  /// Positions from 0 on that lie in the same pages as those of the slot before it in the visit: whole pages, at most `past` of either. They may be read once for both.
  int64_t shared = 0;
};

/// What a row attends to, and how its scores are made: cap(scale * q.k) + slope * (position of the key - its own).
struct AttentionRule {
  float scale = 1;      ///< multiplies q.k (1/sqrt(H))
  int64_t window = 0;   ///< the last positions alone; 0: all
  double sparsity = 1;  ///< of sparse rows: the share of positions whose values are used, in (0, 1]; 1: all
  float soft_cap = 0;   ///< scores x become soft_cap * tanh(x / soft_cap) (Gemma 2); 0: they stay
  /// ALiBi (Press et al. 2022): [A], added to scores per position; empty: none. Not for sparse rows. In RAM, also for a GPU.
  std::span<const float> slopes = {};
  /// Attention sinks (Xiao et al. 2024; learned, as in gpt-oss): [A], a score of each query head that joins its softmax and goes with no value; empty: none. Which positions sparse
  /// rows choose does not depend on them. In RAM, also for a GPU.
  std::span<const float> sinks = {};

  bool is_sparse(const AttentionSlot& slot, int64_t position) const { return sparsity < 1 && position >= slot.dense_until; }
  /// Positions that a row at `position` sees.
  int64_t visible(int64_t position) const { return window > 0 && window <= position ? window : position + 1; }
  /// Of so many, those a sparse row uses the values of: its own, and the share of the others.
  int64_t kept(int64_t num_visible) const { return 1 + static_cast<int64_t>(std::ceil(static_cast<double>(num_visible - 1) * sparsity)); }
};

/// The largest of a row, and where it is. A row that holds a NaN or +infinity has no largest: its value is NaN, and `at` is the first of these.
struct Largest {
  float value = 0;
  int32_t at = 0;
};

/// max(x, 0); its square; GELU (Hendrycks and Gimpel 2016), exact and by tanh; x * sigmoid(x).
enum class Activation { kRelu, kReluSquared, kGelu, kGeluTanh, kSilu };

/// gpt-oss's gate: of a gate g and what it gates, u:  g sigmoid(alpha g) (u + 1),  g at most `limit`, u from -limit to limit.
struct ClampedGate {
  float alpha = 1.702f;
  float limit = 7;
};

/// Gates and what they gate, f32: element i of both is `step` after the one before.
struct GatedValues {
  const float *gate, *up;
  int64_t step = 1;  ///< 2: they are pairs, [count, 2]
  static GatedValues pairs(const float* x) { return {x, x + 1, 2}; }
  GatedValues from(int64_t first) const { return {gate + first * step, up + first * step, step}; }
};

/// How a norm scales: its weights, plus what a checkpoint has taken off them.
struct NormRule {
  float epsilon = 1e-5f;
  float weight_offset = 0;  ///< added to every weight: 1 where they are stored less one (Gemma, Nemotron)
  NormRule(float epsilon_of_norm, float offset = 0) : epsilon(epsilon_of_norm), weight_offset(offset) {}  // an epsilon alone is a rule
};

/// RoPE (Su et al. 2021): which elements of a head are turned by which angles.
struct RopeRule {
  std::span<const float> inverse_frequencies;  ///< [R/2], in RAM: the first R elements of a head are turned, the others stay
  float scale = 1;                             ///< of cosine and sine
  bool interleaved = false;                    ///< pairs are (2i, 2i + 1), as in the paper; else (i, i + R/2), as Llama's checkpoints have them
};

/// How a router's logits become the scores that experts are chosen by.
enum class RouterScore {
  kSoftmax,
  kSigmoid,
  kSparseMixer,  ///< the logits themselves; the weight of each of two choices is softmax over the logits near it (Liu et al. 2024)
};

/// Which experts of a mixture a row uses, and with which weights, by its router's logits.
struct RouterRule {
  int64_t num_experts = 0;      ///< E; 0: the model is no mixture
  int64_t experts_per_row = 0;  ///< k
  RouterScore score = RouterScore::kSoftmax;
  float nearness = 0;       ///< of kSparseMixer: a logit s is near the largest, m, up to (m - s) / max(|s|, m)
  bool normalized = false;  ///< a row's weights are divided by their sum
  float scale = 1;          ///< and then multiplied by this
  /// Experts e in groups of E / num_groups, one after the other: a row's are of the groups_per_row groups whose two largest scores, biased, have the largest sums (DeepSeek-V3, 2024).
  /// At most 64 groups, of at least two experts. Not with kSparseMixer.
  int64_t num_groups = 1, groups_per_row = 1;
};

/// One of the experts that a row uses.
struct ExpertChoice {
  int32_t expert = 0;
  float weight = 0;
};

/// One of the rows that use an expert.
struct WeightedRow {
  int32_t row = 0;
  float weight = 0;
};

class Kernels {
 public:
  virtual ~Kernels() = default;

  virtual std::string_view name() const = 0;
  /// Element type of the inputs of linear(): what norms, activations and attention write.
  virtual DType act_dtype() const = 0;
  /// What decides how they round, where that goes by the machine: "bf16 by AMX, sums by AVX512, version 1". Empty: they round alike everywhere.
  virtual std::string arithmetic() const { return ""; }

  /// out[t] = (accumulate ? out[t] : 0) + rows[t] for T = rows.size() rows of `cols` elements of `dtype`;
  /// out [T, cols] f32. Embedding lookup: the rows may lie anywhere.
  virtual void gather_rows(std::span<const std::byte* const> rows, DType dtype, int64_t cols, bool accumulate, float* out) = 0;

  /// x [T, D] f32 -> out [T, D] act; weight [D] or empty, which is 1, bias [D] or empty; LayerNorm (Ba et al. 2016), variance over D.
  virtual void layer_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule,
                          std::byte* out) = 0;
  /// The same, in place on f32 (post-norm models keep the normalized residual stream).
  virtual void layer_norm_f32(float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule) = 0;
  /// x [T, D] f32 -> out [T, D] act; x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich 2019).
  virtual void rms_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const NormRule& rule, std::byte* out) = 0;
  /// In place on x f32 with rows of `row_stride` elements: each row holds `num_heads` vectors of `head_size`,
  /// each normalized by itself with weight [head_size] (Qwen3's q and k norm); no weight: by nothing but its length.
  virtual void rms_norm_heads(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const WeightView& weight, const NormRule& rule) = 0;

  /// y [T, N] f32 = (accumulate ? y : 0) + x [T, K] act * W^T + bias; W [N, K] any dtype, quantized ones too, bias [N] or
  /// empty. The reduction over K is in fp32 (Kernels of 16-bit backends may round W to bf16 first). Kernels made with int8_products
  /// quantize rows of x to int8 first where W has an integer_group() (backend/symmetric_quant.h), and sum in integers within a group.
  virtual void linear(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) = 0;
  /// logits [T, N] f32 = x [T, K] act * W^T + bias, of a router, as linear(). Two logits that are nearly equal decide which experts a row uses, so Kernels of 16 bits may keep W in fp32 where it is stored so.
  virtual void route(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, float* logits) {
    linear(x, num_rows, weight, bias, false, logits);
  }

  /// Rows [num_rows, cols] of an unquantized or a blocked type as rows of another, which is not blocked; `range` is for quantized ones. False if one that was to be quantized is not
  /// finite. Every backend makes the same bytes.
  virtual bool convert_rows(const std::byte* rows, DType from, int64_t num_rows, int64_t cols, DType to, GroupRange range, std::byte* out) = 0;

  /// out [T, N] act = activation(x [T, N] f32).
  virtual void activate(const float* x, int64_t count, Activation activation, std::byte* out) = 0;
  /// out [T, F] act = activation(gate [T, F]) * up [T, F].
  virtual void gated_activate(const float* gate, const float* up, int64_t count, Activation activation, std::byte* out) = 0;
  /// out [T, F] act = activation(x [T, F] f32) over divisors [F], column by column.
  virtual void divided_activate(const float* x, int64_t num_rows, int64_t cols, Activation activation, const WeightView& divisors, std::byte* out) = 0;
  /// out [count] act of gates and what they gate, f32. NaN stays NaN.
  virtual void clamped_gate(const GatedValues& x, int64_t count, const ClampedGate& rule, std::byte* out) = 0;
  /// out act = x f32, element by element.
  virtual void to_act(const float* x, int64_t count, std::byte* out) = 0;
  /// y += factor * x, both [count] f32.
  virtual void add_scaled(const float* x, int64_t count, float factor, float* y) = 0;
  /// In place: x [count] f32 becomes factor * x; with a `cap` other than 0, cap * tanh(factor * x / cap).
  virtual void scale(float* x, int64_t count, float factor, float cap) = 0;
  /// In place: x [count] f32 is held within [-limit, limit]. NaN stays NaN.
  virtual void clamp(float* x, int64_t count, float limit) = 0;
  /// out [T, G, width] f32 = of x [T, G, group_width] f32 the columns [first, first + width) of each group: a part of what one product of a matrix with
  /// q, k and v in turn has made.
  virtual void pick_columns(const float* x, int64_t num_rows, int64_t num_groups, int64_t group_width, int64_t first, int64_t width, float* out) = 0;

  /// Rotates x [T, num_heads, H] f32 in place. positions [T]: angle = position * inverse_frequency.
  virtual void rope(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const int32_t* positions, const RopeRule& rule) = 0;

  /// out[t] = the largest of the row x[t], x [T, cols] f32, and the first place where it is; -infinity is a value like others. draws [T], or none: of rows
  /// that are drawn, drawn_value() of each element, whose ids are first_id, first_id + 1, ...
  virtual void largest(const float* x, int64_t num_rows, int64_t cols, std::span<const Draw> draws, int64_t first_id, Largest* out) = 0;

  /// Of logits [T, E] f32, which are changed, and a bias [E] of any type or none, which is added to the scores for the choice alone: the experts of each row, [T, k], the best first
  /// (choose_experts_of_row() in backend/routing.h). `choices` lie in RAM, also for a GPU, which is done with all that was enqueued when this returns.
  virtual void choose_experts(float* logits, int64_t num_rows, const WeightView& bias, const RouterRule& rule, ExpertChoice* choices) = 0;
  /// out [rows, D] act = these rows of x [T, D] act, packed. `rows` lie in RAM, as in add_rows().
  virtual void pick_rows(const std::byte* x, std::span<const WeightedRow> rows, int64_t cols, std::byte* out) = 0;
  /// Of y [T, D] f32 each of these rows += its weight times its row of x [rows, D] f32. No row is there twice.
  virtual void add_rows(const float* x, std::span<const WeightedRow> rows, int64_t cols, float* y) = 0;
  /// y[t] += factor * sigmoid(gates[t]) * x[t], both [T, D] f32.
  virtual void add_gated_rows(const float* x, int64_t num_rows, int64_t cols, const float* gates, float factor, float* y) = 0;

  /// Multiplies each of the vectors of `head_size` (a power of two) in x [T, num_heads, H] f32 by the Hadamard matrix over sqrt(H), in place: spreads
  /// outliers over all elements, and keeps every q.k if both are rotated (QuaRot: Ashkboos et al. 2024).
  virtual void hadamard(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size) = 0;

  /// Writes the new keys and values into the slots' pages. k, v [T, G, H] f32.
  virtual void append_kv(const float* k, const float* v, std::span<const AttentionSlot> slots, const KvGeometry& geometry) = 0;
  /// Each new token attends to its slot's positions up to and including its own, as the rule says; the pages
  /// already hold the new tokens. q [T, A, H] f32; out [T, A, H] act. Softmax in fp32. A sparse row (FlexGen, section 5) scores all
  /// positions and then attends to those alone that choose_positions() (backend/sparse_positions.h) takes for each kv head.
  virtual void attention(const float* q, std::span<const AttentionSlot> slots, const KvGeometry& geometry, const AttentionRule& rule, std::byte* out) = 0;
};

/// fp32 throughout, plain loops: the judge of every other backend.
std::unique_ptr<Kernels> make_reference_kernels(bool int8_products = false);

/// What the kernels of the processor compute with.
struct CpuKernelOptions {
  int num_threads = 0;                 ///< 0: all cores
  DType compute_dtype = DType::kBF16;  ///< kBF16 needs cpu_has_bf16(); kF32 else
  bool int8_products = false;          ///< see Kernels::linear
};
/// oneDNN for products in bf16, Highway for the rest. Throws Error{user} if the compute dtype is not to be had.
std::unique_ptr<Kernels> make_cpu_kernels(const CpuKernelOptions& options);
/// Whether this machine multiplies bf16 natively (AVX512-BF16 or AMX).
bool cpu_has_bf16();
/// One line for `doctor`: the instruction sets that oneDNN and Highway chose.
std::string cpu_features();

/// Part of Kernels::arithmetic() where there is any. Goes up by one with every change of kernels that changes bits of answers, on whatever machine: jobs that were
/// begun before are then refused.
inline constexpr int kArithmeticVersion = 1;
/// ", and ..." what makes a processor whose kernels' arithmetic() is `now` round as `wanted` says; empty: nothing does.
std::string how_to_round_as(const std::string& wanted, const std::string& now);

}  // namespace flexgen
