// The judge of every other backend: fp32 throughout, plain loops, one thread.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "backend/hadamard.h"
#include "backend/kernels.h"
#include "backend/routing.h"
#include "backend/sparse_positions.h"
#include "backend/symmetric_quant.h"
#include "base/error.h"
#include "tensor/code_format.h"
#include "tensor/group_quant.h"

namespace flexgen {
namespace {

float activation_value(float x, Activation activation) {
  switch (activation) {
    case Activation::kRelu: return std::max(x, 0.0f);
    case Activation::kReluSquared: return std::max(x, 0.0f) * std::max(x, 0.0f);
    case Activation::kGelu: return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
    case Activation::kGeluTanh: return 0.5f * x * (1.0f + std::tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case Activation::kSilu: return x / (1.0f + std::exp(-x));
  }
  return x;
}

/// Rows of a weight in pieces, as floats.
class Weight {
 public:
  explicit Weight(const WeightView& view) : view_(view) {}
  void read(int64_t row, float* out) const {
    for (const WeightPiece& piece : view_.pieces) {
      if (row < piece.rows) return read(piece, row, out);
      row -= piece.rows;
    }
    FLEXGEN_CHECK(false, "row outside the weight");
  }

 private:
  void read(const WeightPiece& piece, int64_t row, float* out) const {
    if (is_scaled(view_.dtype)) return decode_rows(*view_.format, view_.dtype, piece, row, 1, view_.cols, out);
    const std::byte* const data = piece.data + row * row_bytes(view_.dtype, view_.cols);
    for (int64_t column = 0; column < view_.cols; ++column) out[column] = load_in_row(data, view_.dtype, view_.cols, column);
  }

  const WeightView& view_;
};

class ReferenceKernels : public HostKernels {
 public:
  explicit ReferenceKernels(bool int8_products) : int8_products_(int8_products) {}

  std::string_view name() const override { return "reference"; }
  DType act_dtype() const override { return DType::kF32; }

  void gather_rows(std::span<const std::byte* const> rows, DType dtype, int64_t cols, bool accumulate, float* out) override {
    for (size_t t = 0; t < rows.size(); ++t)
      for (int64_t d = 0; d < cols; ++d) {
        float& value = out[static_cast<int64_t>(t) * cols + d];
        const float x = load_in_row(rows[t], dtype, cols, d);
        value = accumulate ? value + x : x;
      }
  }

  void layer_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule,
                  std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    std::copy_n(x, num_rows * cols, y);
    layer_norm_f32(y, num_rows, cols, weight, bias, rule);
  }

  void layer_norm_f32(float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const WeightView& bias, const NormRule& rule) override {
    for (int64_t t = 0; t < num_rows; ++t) {
      float* row = x + t * cols;
      double mean = 0, variance = 0;
      for (int64_t d = 0; d < cols; ++d) mean += row[d];
      mean /= static_cast<double>(cols);
      for (int64_t d = 0; d < cols; ++d) variance += (row[d] - mean) * (row[d] - mean);
      double scale = 1 / std::sqrt(variance / static_cast<double>(cols) + rule.epsilon);
      for (int64_t d = 0; d < cols; ++d)
        row[d] = static_cast<float>((row[d] - mean) * scale) * (weight.empty() ? 1 : rule.weight_offset + load_float(weight.data(), weight.dtype, d)) +
                 (bias.empty() ? 0.0f : load_float(bias.data(), bias.dtype, d));
    }
  }

  void rms_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight, const NormRule& rule, std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    std::copy_n(x, num_rows * cols, y);
    rms_norm_heads(y, num_rows, 1, cols, weight, rule);
  }

  void rms_norm_heads(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const WeightView& weight, const NormRule& rule) override {
    for (int64_t t = 0; t < num_rows * num_heads; ++t) {
      float* row = x + t * head_size;
      double square = 0;
      for (int64_t d = 0; d < head_size; ++d) square += static_cast<double>(row[d]) * row[d];
      double scale = 1 / std::sqrt(square / static_cast<double>(head_size) + rule.epsilon);
      for (int64_t d = 0; d < head_size; ++d)
        row[d] = static_cast<float>(row[d] * scale) * (weight.empty() ? 1 : rule.weight_offset + load_float(weight.data(), weight.dtype, d));
    }
  }

  bool convert_rows(const std::byte* rows, DType from, int64_t num_rows, int64_t cols, DType to, GroupRange range, std::byte* out) override {
    std::vector<float> row(static_cast<size_t>(cols));
    bool good = true;
    for (int64_t r = 0; r < num_rows; ++r) {
      if (is_quantized(from)) dequantize_row(rows + r * row_bytes(from, cols), from, cols, row.data());
      for (int64_t c = 0; c < cols && !is_quantized(from); ++c) row[static_cast<size_t>(c)] = load_float(rows, from, r * cols + c);
      std::byte* to_row = out + r * row_bytes(to, cols);
      if (is_quantized(to)) good &= quantize_row(row.data(), cols, to, to_row, range);
      else store_row(row.data(), cols, to, to_row);
    }
    return good;
  }

  void linear(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) override {
    const auto* in = reinterpret_cast<const float*>(x);
    std::vector<double> inputs(in, in + num_rows * weight.cols);
    if (const int64_t group = integer_group(weight); int8_products_ && group > 0) round_inputs(in, num_rows, weight.cols, group, inputs.data());
    Weight w(weight);
    std::vector<float> row(static_cast<size_t>(weight.cols));
    for (int64_t n = 0; n < weight.rows; ++n) {
      w.read(n, row.data());
      float offset = bias.empty() ? 0.0f : load_float(bias.data(), bias.dtype, n);
      for (int64_t t = 0; t < num_rows; ++t) {
        double sum = 0;
        for (int64_t k = 0; k < weight.cols; ++k) sum += inputs[static_cast<size_t>(t * weight.cols + k)] * row[static_cast<size_t>(k)];
        float& out = y[t * weight.rows + n];
        out = (accumulate ? out : 0.0f) + static_cast<float>(sum) + offset;
      }
    }
  }

  void activate(const float* x, int64_t count, Activation activation, std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    for (int64_t i = 0; i < count; ++i) y[i] = activation_value(x[i], activation);
  }

  void gated_activate(const float* gate, const float* up, int64_t count, Activation activation, std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    for (int64_t i = 0; i < count; ++i) y[i] = activation_value(gate[i], activation) * up[i];
  }

  void divided_activate(const float* x, int64_t num_rows, int64_t cols, Activation activation, const WeightView& divisors, std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    for (int64_t i = 0; i < num_rows * cols; ++i) y[i] = activation_value(x[i], activation) / load_float(divisors.data(), divisors.dtype, i % cols);
  }

  void clamped_gate(const GatedValues& x, int64_t count, const ClampedGate& rule, std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    for (int64_t i = 0; i < count; ++i) {
      float gate = x.gate[i * x.step], up = x.up[i * x.step];
      if (gate > rule.limit) gate = rule.limit;  // so that NaN stays
      if (std::abs(up) > rule.limit) up = std::copysign(rule.limit, up);
      y[i] = gate / (1.0f + std::exp(-rule.alpha * gate)) * (up + 1.0f);
    }
  }

  void to_act(const float* x, int64_t count, std::byte* out) override { std::copy_n(x, count, reinterpret_cast<float*>(out)); }

  void add_scaled(const float* x, int64_t count, float factor, float* y) override { add_row(x, count, factor, y); }
  void scale(float* x, int64_t count, float factor, float cap) override {
    for (int64_t i = 0; i < count; ++i) x[i] = cap == 0 ? factor * x[i] : cap * std::tanh(factor * x[i] / cap);
  }
  void clamp(float* x, int64_t count, float limit) override {
    for (int64_t i = 0; i < count; ++i) x[i] = std::abs(x[i]) > limit ? std::copysign(limit, x[i]) : x[i];  // so that NaN stays
  }
  void pick_columns(const float* x, int64_t num_rows, int64_t num_groups, int64_t group_width, int64_t first, int64_t width, float* out) override {
    for (int64_t group = 0; group < num_rows * num_groups; ++group) std::copy_n(x + group * group_width + first, width, out + group * width);
  }

  void rope(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size, const int32_t* positions, const RopeRule& rule) override {
    const auto half = std::ssize(rule.inverse_frequencies), first = rule.interleaved ? int64_t{2} : int64_t{1}, second = rule.interleaved ? int64_t{1} : half;
    for (int64_t t = 0; t < num_rows; ++t)
      for (int64_t i = 0; i < half; ++i) {
        float angle = static_cast<float>(positions[t]) * rule.inverse_frequencies[static_cast<size_t>(i)];
        float cosine = std::cos(angle) * rule.scale, sine = std::sin(angle) * rule.scale;
        for (int64_t head = 0; head < num_heads; ++head) {
          float* pair = x + (t * num_heads + head) * head_size + i * first;
          float a = pair[0], b = pair[second];
          pair[0] = a * cosine - b * sine;
          pair[second] = b * cosine + a * sine;
        }
      }
  }

  void largest(const float* x, int64_t num_rows, int64_t cols, std::span<const Draw> draws, int64_t first_id, Largest* out) override {
    for (int64_t t = 0; t < num_rows; ++t) {
      std::vector<float> row(x + t * cols, x + (t + 1) * cols);
      const auto bad = std::find_if(row.begin(), row.end(), [](float value) { return !(value < std::numeric_limits<float>::infinity()); });
      if (bad != row.end()) {
        out[t] = {std::numeric_limits<float>::quiet_NaN(), static_cast<int32_t>(bad - row.begin())};
        continue;
      }
      if (!draws.empty() && draws[static_cast<size_t>(t)].inverse_temperature > 0)
        for (size_t i = 0; i < row.size(); ++i)
          row[i] = drawn_value(draws[static_cast<size_t>(t)], static_cast<uint32_t>(first_id) + static_cast<uint32_t>(i), row[i]);
      const auto best = std::max_element(row.begin(), row.end());
      out[t] = {*best, static_cast<int32_t>(best - row.begin())};
    }
  }

  void hadamard(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size) override {
    for (int64_t i = 0; i < num_rows * num_heads; ++i) hadamard_transform(x + i * head_size, head_size);
  }

  void append_kv(const float* k, const float* v, std::span<const AttentionSlot> slots, const KvGeometry& g) override {
    for (const AttentionSlot& slot : slots)
      for (int64_t i = 0; i < slot.num_rows; ++i) {
        int64_t position = slot.past + i, row = slot.first_row + i;
        std::byte* page = slot.pages[position / g.page_tokens];
        for (int64_t head = 0; head < g.kv_heads; ++head) {
          int64_t from = (row * g.kv_heads + head) * g.head_size;
          store_row(k + from, g.head_size, g.dtype, page + g.row_offset(0, head, position));
          store_row(v + from, g.head_size, g.dtype, page + g.row_offset(1, head, position));
        }
      }
  }

  void attention(const float* q, std::span<const AttentionSlot> slots, const KvGeometry& g, const AttentionRule& rule, std::byte* out) override {
    for (const AttentionSlot& slot : slots)
      for (int64_t i = 0; i < slot.num_rows; ++i)
        for (int64_t head = 0; head < g.kv_heads; ++head) attend(q, slot, i, head, g, rule, reinterpret_cast<float*>(out));
  }

 private:
  /// x [num_rows, cols] as it comes back from int8.
  static void round_inputs(const float* x, int64_t num_rows, int64_t cols, int64_t group, double* out) {
    std::vector<int8_t> codes(static_cast<size_t>(cols));
    std::vector<float> scales(static_cast<size_t>(cols / group + 1));
    for (int64_t t = 0; t < num_rows; ++t) {
      quantize_symmetric(x + t * cols, cols, group, codes.data(), scales.data());
      for (int64_t k = 0; k < cols; ++k) out[t * cols + k] = static_cast<double>(codes[static_cast<size_t>(k)]) * scales[static_cast<size_t>(k / group)];
    }
  }

  /// Row i of the slot and the query heads of one kv head.
  static void attend(const float* q, const AttentionSlot& slot, int64_t i, int64_t head, const KvGeometry& g, const AttentionRule& rule, float* out) {
    const int64_t position = slot.past + i, visible = rule.visible(position), first = position + 1 - visible, group = g.query_heads / g.kv_heads;
    auto cached = [&](int64_t which, int64_t s, int64_t d) {
      const std::byte* page = slot.pages[(first + s) / g.page_tokens];
      return load_in_row(page + g.row_offset(which, head, first + s), g.dtype, g.head_size, d);
    };
    std::vector<std::vector<double>> weights;  // [group][visible]
    std::vector<double> maxima;                // [group], of the scores
    std::vector<float> shares(static_cast<size_t>(visible), 0);
    for (int64_t m = 0; m < group; ++m) {
      const float* query = q + ((slot.first_row + i) * g.query_heads + head * group + m) * g.head_size;
      auto& w = weights.emplace_back(static_cast<size_t>(visible));
      for (int64_t s = 0; s < visible; ++s) {
        double dot = 0;
        for (int64_t d = 0; d < g.head_size; ++d) dot += static_cast<double>(query[d]) * cached(0, s, d);
        double score = dot * rule.scale;
        if (rule.soft_cap != 0) score = rule.soft_cap * std::tanh(score / rule.soft_cap);
        if (!rule.slopes.empty()) score += static_cast<double>(rule.slopes[static_cast<size_t>(head * group + m)]) * static_cast<double>(first + s - position);
        w[static_cast<size_t>(s)] = score;
      }
      double maximum = -std::numeric_limits<double>::infinity(), sum = 0;
      for (double x : w) maximum = std::max(maximum, x);
      maxima.push_back(maximum);
      for (double& x : w) {
        x = std::exp(x - maximum);
        if (!std::isnan(x)) sum += x;  // the share of a NaN is one, so that it is chosen and seen
      }
      for (size_t s = 0; s < w.size(); ++s) shares[s] += static_cast<float>(w[s] / (sum > 0 ? sum : 1));
    }
    std::vector<int32_t> chosen(static_cast<size_t>(visible));
    std::iota(chosen.begin(), chosen.end(), 0);
    if (rule.is_sparse(slot, position)) choose_positions(shares, rule.kept(visible), &chosen);
    for (int64_t m = 0; m < group; ++m) {
      float* y = out + ((slot.first_row + i) * g.query_heads + head * group + m) * g.head_size;
      const auto& w = weights[static_cast<size_t>(m)];
      double sum = rule.sinks.empty() ? 0 : std::exp(rule.sinks[static_cast<size_t>(head * group + m)] - maxima[static_cast<size_t>(m)]);
      for (int32_t s : chosen) sum += w[static_cast<size_t>(s)];
      for (int64_t d = 0; d < g.head_size; ++d) {
        double mixed = 0;
        for (int32_t s : chosen) mixed += w[static_cast<size_t>(s)] * cached(1, s, d);
        y[d] = static_cast<float>(mixed / sum);
      }
    }
  }

  bool int8_products_;
};

}  // namespace

std::unique_ptr<Kernels> make_reference_kernels(bool int8_products) { return std::make_unique<ReferenceKernels>(int8_products); }

}  // namespace flexgen
