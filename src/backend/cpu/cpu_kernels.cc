// The cpu backend: oneDNN for products in bf16, Highway for the rest, a WorkerTeam for threads.

#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cpu/attention_kernel.h"
#include "backend/cpu/attention_sparse.h"
#include "backend/cpu/cpu_features.h"
#include "backend/cpu/linear.h"
#include "backend/cpu/linear_int8.h"
#include "backend/cpu/linear_packed.h"
#include "backend/cpu/vector_rows.h"
#include "backend/cpu/worker_team.h"
#include "backend/hadamard.h"
#include "backend/kernels.h"
#include "backend/routing.h"
#include "backend/symmetric_quant.h"
#include "base/cores.h"
#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

/// Elements below which waking the team costs more than it saves.
constexpr int64_t kElementsPerUnit = 16384;

class CpuKernels : public HostKernels {
 public:
  CpuKernels(DType compute_dtype, int num_threads, bool int8_products)
      : act_dtype_(compute_dtype), team_(num_threads), linear_float_(team_), sparse_(static_cast<size_t>(num_threads)) {
    if (compute_dtype != DType::kF32) linear_ = std::make_unique<Linear>(team_);
    if (int8_products) linear_int8_ = std::make_unique<LinearInt8>(team_);
  }

  std::string_view name() const override { return "cpu"; }
  DType act_dtype() const override { return act_dtype_; }
  std::string arithmetic() const override { return cpu_arithmetic(act_dtype_); }

  void gather_rows(std::span<const std::byte* const> rows, DType dtype, int64_t cols, bool accumulate, float* out) override {
    for_rows(static_cast<int64_t>(rows.size()), cols, [&](int64_t first, int64_t count) {
      for (int64_t t = first; t < first + count; ++t) {
        const std::byte* row = rows[static_cast<size_t>(t)];
        if (accumulate) {
          vector_rows::add(row, dtype, cols, out + t * cols);
        } else {
          vector_rows::convert(row, dtype, cols, DType::kF32, out + t * cols);
        }
      }
    });
  }

  bool convert_rows(const std::byte* rows, DType from, int64_t num_rows, int64_t cols, DType to, GroupRange range, std::byte* out) override {
    std::atomic<bool> good = true;
    for_rows(num_rows, cols, [&](int64_t first, int64_t count) {
      for (int64_t r = first; r < first + count; ++r)
        if (!vector_rows::convert(rows + r * row_bytes(from, cols), from, cols, to, out + r * row_bytes(to, cols), range)) good = false;
    });
    return good;
  }

  void layer_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule,
                  std::byte* out) override {
    layer_norm_to(x, num_rows, cols, weight, bias, rule, act_dtype_, out);
  }

  void layer_norm_f32(float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule) override {
    layer_norm_to(x, num_rows, cols, weight, bias, rule, DType::kF32, reinterpret_cast<std::byte*>(x));
  }

  void rms_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const NormRule& rule, std::byte* out) override {
    const float* scale = floats_of(weight, cols, weight_, rule.weight_offset);
    for_rows(num_rows, cols, [&](int64_t first, int64_t count) {
      vector_rows::rms_norm(x + first * cols, count, cols, scale, rule.epsilon, act_dtype_, out + size_bytes(act_dtype_, first * cols));
    });
  }

  void rms_norm_heads(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const WeightView& weight, const NormRule& rule) override {
    const float* scale = floats_of(weight, head_size, weight_, rule.weight_offset);
    for_rows(num_rows * num_heads, head_size, [&](int64_t first, int64_t count) {
      float* rows = x + first * head_size;
      vector_rows::rms_norm(rows, count, head_size, scale, rule.epsilon, DType::kF32, rows);
    });
  }

  void linear(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) override {
    if (linear_int8_ && integer_group(weight) > 0) return linear_int8_->run(x, act_dtype_, num_rows, weight, bias, accumulate, y);
    if (linear_) linear_->run(x, num_rows, weight, bias, accumulate, y);
    else linear_float_.run(x, num_rows, weight, bias, accumulate, y);
  }

  /// Rows are made floats a panel at a time, as no memory plan knows of them.
  void route(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, float* logits) override {
    if (act_dtype_ == DType::kF32 || weight.dtype != DType::kF32) return linear(x, num_rows, weight, bias, false, logits);
    const int64_t cols = weight.cols;
    float_rows_.resize(static_cast<size_t>(std::min(num_rows, kMaxProductRows) * cols));
    for (int64_t row = 0; row < num_rows; row += kMaxProductRows) {
      const int64_t count = std::min(kMaxProductRows, num_rows - row);
      for_rows(count, cols, [&](int64_t first, int64_t some) {
        vector_rows::convert(x + size_bytes(act_dtype_, (row + first) * cols), act_dtype_, some * cols, DType::kF32, float_rows_.data() + first * cols);
      });
      linear_float_.run(reinterpret_cast<const std::byte*>(float_rows_.data()), count, weight, bias, false, logits + row * weight.rows);
    }
  }

  void activate(const float* x, int64_t count, Activation activation, std::byte* out) override { gated_activate(x, nullptr, count, activation, out); }

  void gated_activate(const float* gate, const float* up, int64_t count, Activation activation, std::byte* out) override {
    for_rows(count, 1, [&](int64_t first, int64_t length) {
      vector_rows::activate(gate + first, up == nullptr ? nullptr : up + first, length, activation, act_dtype_, out + size_bytes(act_dtype_, first));
    });
  }

  void divided_activate(const float* x, int64_t num_rows, int64_t cols, Activation activation, const WeightView& divisors, std::byte* out) override {
    floats_of(divisors, cols, weight_);
    for (float& value : weight_) value = 1 / value;
    for_rows(num_rows, cols, [&](int64_t first, int64_t count) {
      for (int64_t t = first; t < first + count; ++t)
        vector_rows::activate(x + t * cols, weight_.data(), cols, activation, act_dtype_, out + size_bytes(act_dtype_, t * cols));
    });
  }

  void clamped_gate(const GatedValues& x, int64_t count, const ClampedGate& rule, std::byte* out) override {
    for_rows(count, 2,
             [&](int64_t first, int64_t length) { vector_rows::clamped_gate(x.from(first), length, rule, act_dtype_, out + size_bytes(act_dtype_, first)); });
  }

  void to_act(const float* x, int64_t count, std::byte* out) override {
    for_rows(count, 1,
             [&](int64_t first, int64_t length) { vector_rows::convert(x + first, DType::kF32, length, act_dtype_, out + size_bytes(act_dtype_, first)); });
  }

  void add_scaled(const float* x, int64_t count, float factor, float* y) override {
    for_rows(count, 1, [&](int64_t first, int64_t length) { vector_rows::add_scaled(x + first, length, factor, y + first); });
  }

  void scale(float* x, int64_t count, float factor, float cap) override {
    for_rows(count, 1, [&](int64_t first, int64_t length) { vector_rows::scale(x + first, length, factor, cap); });
  }

  void clamp(float* x, int64_t count, float limit) override {
    for_rows(count, 1, [&](int64_t first, int64_t length) { vector_rows::clamp(x + first, length, limit); });
  }

  void pick_columns(const float* x, int64_t num_rows, int64_t num_groups, int64_t group_width, int64_t first, int64_t width, float* out) override {
    for_rows(num_rows * num_groups, width, [&](int64_t from, int64_t count) {
      for (int64_t group = from; group < from + count; ++group) std::copy_n(x + group * group_width + first, width, out + group * width);
    });
  }

  void rope(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const int32_t* positions, const RopeRule& rule) override {
    const std::span<const float> inverse_frequencies = rule.inverse_frequencies;
    const auto half = std::ssize(inverse_frequencies);
    const float scale = rule.scale;
    cosine_.resize(static_cast<size_t>(num_rows * half));
    sine_.resize(static_cast<size_t>(num_rows * half));
    for_rows(num_rows, num_heads * head_size, [&](int64_t first, int64_t count) {
      for (int64_t t = first; t < first + count; ++t) {
        float* cosine = cosine_.data() + t * half;
        float* sine = sine_.data() + t * half;
        for (int64_t i = 0; i < half; ++i) {
          // The product is rounded to float before its cosine is taken, as Hugging Face does.
          float angle = static_cast<float>(positions[t]) * inverse_frequencies[static_cast<size_t>(i)];
          cosine[i] = std::cos(angle) * scale;
          sine[i] = std::sin(angle) * scale;
        }
        vector_rows::rotate(x + t * num_heads * head_size, num_heads, head_size, half, rule.interleaved, cosine, sine);
      }
    });
  }

  void largest(const float* x, int64_t num_rows, int64_t cols, std::span<const Draw> draws, int64_t first_id, Largest* out) override {
    for_rows(num_rows, cols, [&](int64_t first, int64_t count) {
      for (int64_t t = first; t < first + count; ++t)
        out[t] = vector_rows::largest(x + t * cols, cols, draws.empty() ? Draw() : draws[static_cast<size_t>(t)], first_id);
    });
  }

  void hadamard(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size) override {
    for_rows(num_rows * num_heads, head_size, [&](int64_t first, int64_t count) {
      for (int64_t i = first; i < first + count; ++i) hadamard_transform(x + i * head_size, head_size);
    });
  }

  void append_kv(const float* k, const float* v, std::span<const AttentionSlot> slots, const KvGeometry& g) override {
    auto append_row = [&](const AttentionSlot& slot, int64_t i) {
      const int64_t position = slot.past + i;
      std::byte* page = slot.pages[position / g.page_tokens];
      for (int64_t head = 0; head < g.kv_heads; ++head) {
        const int64_t from = ((slot.first_row + i) * g.kv_heads + head) * g.head_size;
        for (int64_t which : {0, 1}) {
          std::byte* to = page + g.row_offset(which, head, position);
          // Values that are not finite have no codes; they stay visible as NaN.
          if (!vector_rows::convert((which == 0 ? k : v) + from, DType::kF32, g.head_size, g.dtype, to))
            std::memset(to, 0xff, static_cast<size_t>(row_bytes(g.dtype, g.head_size)));
        }
      }
    };
    std::vector<std::pair<const AttentionSlot*, int64_t>> rows;
    for (const AttentionSlot& slot : slots)
      for (int64_t i = 0; i < slot.num_rows; ++i) rows.emplace_back(&slot, i);
    for_rows(static_cast<int64_t>(rows.size()), 2 * g.kv_heads * g.head_size, [&](int64_t first, int64_t count) {
      for (int64_t r = first; r < first + count; ++r) append_row(*rows[static_cast<size_t>(r)].first, rows[static_cast<size_t>(r)].second);
    });
  }

  void attention(const float* q, std::span<const AttentionSlot> slots, const KvGeometry& geometry, const AttentionRule& rule, std::byte* out) override {
    AttentionTask all{.q = q, .geometry = &geometry, .rule = rule, .out_dtype = act_dtype_, .out = out};
    const AttentionKernel& kernel = attention_kernel(geometry, act_dtype_);
    attention_plan_.make(all, kernel.task_size, team_.size(), slots);
    const std::span<const AttentionTask> tasks = attention_plan_.tasks();
    int64_t floats = 0;
    for (const AttentionTask& task : tasks) floats = std::max(floats, round_up(kernel.scratch_floats(task), 16));
    if (const int64_t total = floats * team_.size(); total > attention_scratch_size_) {
      attention_scratch_ = hwy::AllocateAligned<float>(static_cast<size_t>(total));
      attention_scratch_size_ = total;
    }
    double flops = 0;
    for (const AttentionSlot& slot : slots)
      flops += 4.0 * static_cast<double>(geometry.query_heads * geometry.head_size * slot.num_rows) * static_cast<double>(slot.past + slot.num_rows);
    team_.run(team_.workers_for(flops), std::ssize(tasks), [&](int64_t task, int worker) {
      const AttentionTask& mine = tasks[static_cast<size_t>(task)];
      if (mine.sparse) return sparse_[static_cast<size_t>(worker)].attend(mine);
      kernel.attend(mine, attention_scratch_.get() + worker * floats);
    });
  }

 protected:
  void share_rows(int64_t num_rows, int64_t cols, const std::function<void(int64_t, int64_t)>& work) override { for_rows(num_rows, cols, work); }
  void add_row(const float* x, int64_t cols, float factor, float* y) override { vector_rows::add_scaled(x, cols, factor, y); }

 private:
  /// Calls work(first, count) on stretches of rows that cover [0, num_rows), in parallel if there
  /// is enough.
  template <typename Work>
  void for_rows(int64_t num_rows, int64_t cols, const Work& work) {
    const int64_t units = std::clamp<int64_t>(num_rows * cols / kElementsPerUnit, 1, 4 * int64_t{team_.size()});
    const int64_t rows = ceil_div(num_rows, units);
    team_.run(team_.size(), units, [&](int64_t unit, int) {
      const int64_t first = unit * rows, count = std::min(rows, num_rows - first);
      if (count > 0) work(first, count);
    });
  }

  void layer_norm_to(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule, DType dtype,
                     std::byte* out) {
    const float* scale = floats_of(weight, cols, weight_, rule.weight_offset);
    const float* shift = bias.empty() ? nullptr : floats_of(bias, cols, bias_);
    for_rows(num_rows, cols, [&](int64_t first, int64_t count) {
      vector_rows::layer_norm(x + first * cols, count, cols, scale, shift, rule.epsilon, dtype, out + size_bytes(dtype, first * cols));
    });
  }

  static const float* floats_of(const WeightView& vector, int64_t count, std::vector<float>& buffer, float offset = 0) {
    buffer.resize(static_cast<size_t>(count));
    if (vector.empty()) {  // no weight
      std::fill(buffer.begin(), buffer.end(), 1.0f);
      return buffer.data();
    }
    vector_rows::convert(vector.data(), vector.dtype, count, DType::kF32, buffer.data());
    if (offset != 0)
      for (float& value : buffer) value += offset;
    return buffer.data();
  }

  DType act_dtype_;
  WorkerTeam team_;
  LinearPacked<FloatRows> linear_float_;     ///< of fp32; of routers too where the others are in bf16
  std::unique_ptr<Linear> linear_;           ///< of bf16; null: products are in fp32
  std::unique_ptr<LinearInt8> linear_int8_;  ///< null: quantized weights are unpacked for the others
  std::vector<float> weight_, bias_, cosine_, sine_;
  std::vector<float> float_rows_;  ///< [at most kMaxProductRows, K], for route()
  AttentionPlan attention_plan_;
  std::vector<AttentionSparse> sparse_;  ///< a worker
  hwy::AlignedFreeUniquePtr<float[]> attention_scratch_;
  int64_t attention_scratch_size_ = 0;
};

}  // namespace

std::unique_ptr<Kernels> make_cpu_kernels(const CpuKernelOptions& options) {
  if (options.compute_dtype == DType::kF16) fail_user("the cpu backend computes in bf16 or f32, not in f16");
  if (options.compute_dtype == DType::kBF16 && !cpu_has_bf16()) fail_user("this machine does not multiply bf16 (it has {}): compute in f32", cpu_features());
  if (options.num_threads < 0) fail_user("{} threads: give a positive number, or 0 for all cores", options.num_threads);
  int num_threads = options.num_threads > 0 ? options.num_threads : usable_cores();
  return std::make_unique<CpuKernels>(options.compute_dtype, num_threads, options.int8_products);
}

}  // namespace flexgen
