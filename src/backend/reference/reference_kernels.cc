// The judge of every other backend: fp32 throughout, plain loops, one thread.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/kernels.h"
#include "base/error.h"
#include "tensor/group_quant.h"

namespace flexgen {
namespace {

float activation_value(float x, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return std::max(x, 0.0f);
    case Activation::kGelu:
      return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f));
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + std::tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case Activation::kSilu:
      return x / (1.0f + std::exp(-x));
  }
  return x;
}

/// Element (row, column) of a weight in pieces.
class Weight {
 public:
  explicit Weight(const WeightView& view) : view_(view) {}
  float at(int64_t row, int64_t column) const {
    for (const WeightPiece& piece : view_.pieces) {
      if (row < piece.rows) return load_in_row(piece.data + row * row_bytes(view_.dtype, view_.cols), view_.dtype, view_.cols, column);
      row -= piece.rows;
    }
    FLEXGEN_CHECK(false, "row outside the weight");
  }

 private:
  const WeightView& view_;
};

class ReferenceKernels : public Kernels {
 public:
  std::string_view name() const override { return "reference"; }
  DType act_dtype() const override { return DType::kF32; }

  void gather_rows(std::span<const std::byte* const> rows, DType dtype, int64_t cols,
                   bool accumulate, float* out) override {
    for (size_t t = 0; t < rows.size(); ++t)
      for (int64_t d = 0; d < cols; ++d) {
        float& value = out[static_cast<int64_t>(t) * cols + d];
        value = (accumulate ? value : 0.0f) + load_in_row(rows[t], dtype, cols, d);
      }
  }

  void layer_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight,
                  const WeightView& bias, float epsilon, std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    std::copy_n(x, num_rows * cols, y);
    layer_norm_f32(y, num_rows, cols, weight, bias, epsilon);
  }

  void layer_norm_f32(float* x, int64_t num_rows, int64_t cols, const WeightView& weight,
                      const WeightView& bias, float epsilon) override {
    for (int64_t t = 0; t < num_rows; ++t) {
      float* row = x + t * cols;
      double mean = 0, variance = 0;
      for (int64_t d = 0; d < cols; ++d) mean += row[d];
      mean /= static_cast<double>(cols);
      for (int64_t d = 0; d < cols; ++d) variance += (row[d] - mean) * (row[d] - mean);
      double scale = 1 / std::sqrt(variance / static_cast<double>(cols) + epsilon);
      for (int64_t d = 0; d < cols; ++d)
        row[d] = static_cast<float>((row[d] - mean) * scale) *
                     load_float(weight.data(), weight.dtype, d) +
                 (bias.empty() ? 0.0f : load_float(bias.data(), bias.dtype, d));
    }
  }

  void rms_norm(const float* x, int64_t num_rows, int64_t cols, const WeightView& weight,
                float epsilon, std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    std::copy_n(x, num_rows * cols, y);
    rms_norm_heads(y, num_rows, 1, cols, weight, epsilon);
  }

  void rms_norm_heads(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size,
                      const WeightView& weight, float epsilon) override {
    for (int64_t t = 0; t < num_rows * num_heads; ++t) {
      float* row = x + t * head_size;
      double square = 0;
      for (int64_t d = 0; d < head_size; ++d) square += static_cast<double>(row[d]) * row[d];
      double scale = 1 / std::sqrt(square / static_cast<double>(head_size) + epsilon);
      for (int64_t d = 0; d < head_size; ++d)
        row[d] = static_cast<float>(row[d] * scale) * load_float(weight.data(), weight.dtype, d);
    }
  }

  bool convert_rows(const std::byte* rows, DType from, int64_t num_rows, int64_t cols, DType to, std::byte* out) override {
    std::vector<float> row(static_cast<size_t>(cols));
    bool good = true;
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) row[static_cast<size_t>(c)] = load_float(rows, from, r * cols + c);
      std::byte* to_row = out + r * row_bytes(to, cols);
      if (is_quantized(to)) good &= quantize_row(row.data(), cols, to, to_row);
      else store_row(row.data(), cols, to, to_row);
    }
    return good;
  }

  void linear(const std::byte* x, int64_t num_rows, const WeightView& weight,
              const WeightView& bias, bool accumulate, float* y) override {
    const auto* in = reinterpret_cast<const float*>(x);
    Weight w(weight);
    std::vector<float> row(static_cast<size_t>(weight.cols));
    for (int64_t n = 0; n < weight.rows; ++n) {
      for (int64_t k = 0; k < weight.cols; ++k) row[static_cast<size_t>(k)] = w.at(n, k);
      float offset = bias.empty() ? 0.0f : load_float(bias.data(), bias.dtype, n);
      for (int64_t t = 0; t < num_rows; ++t) {
        double sum = 0;
        for (int64_t k = 0; k < weight.cols; ++k)
          sum += static_cast<double>(in[t * weight.cols + k]) * row[static_cast<size_t>(k)];
        float& out = y[t * weight.rows + n];
        out = (accumulate ? out : 0.0f) + static_cast<float>(sum) + offset;
      }
    }
  }

  void activate(const float* x, int64_t count, Activation activation, std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    for (int64_t i = 0; i < count; ++i) y[i] = activation_value(x[i], activation);
  }

  void gated_activate(const float* gate, const float* up, int64_t count, Activation activation,
                      std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    for (int64_t i = 0; i < count; ++i) y[i] = activation_value(gate[i], activation) * up[i];
  }

  void to_act(const float* x, int64_t count, std::byte* out) override {
    std::copy_n(x, count, reinterpret_cast<float*>(out));
  }

  void rope(float* x, int64_t num_rows, int64_t num_heads, int64_t head_size,
            const int32_t* positions, std::span<const float> inverse_frequencies,
            float scale) override {
    int64_t half = head_size / 2;
    for (int64_t t = 0; t < num_rows; ++t)
      for (int64_t i = 0; i < half; ++i) {
        float angle =
            static_cast<float>(positions[t]) * inverse_frequencies[static_cast<size_t>(i)];
        float cosine = std::cos(angle) * scale, sine = std::sin(angle) * scale;
        for (int64_t head = 0; head < num_heads; ++head) {
          float* row = x + (t * num_heads + head) * head_size;
          float a = row[i], b = row[i + half];
          row[i] = a * cosine - b * sine;
          row[i + half] = b * cosine + a * sine;
        }
      }
  }

  void append_kv(const float* k, const float* v, std::span<const AttentionSlot> slots,
                 const KvGeometry& g) override {
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

  void attention(const float* q, std::span<const AttentionSlot> slots, const KvGeometry& g,
                 float scale, int64_t window, std::byte* out) override {
    auto* y = reinterpret_cast<float*>(out);
    int64_t group = g.query_heads / g.kv_heads;
    std::vector<double> weights;
    for (const AttentionSlot& slot : slots)
      for (int64_t i = 0; i < slot.num_rows; ++i)
        for (int64_t head = 0; head < g.query_heads; ++head) {
          int64_t last = slot.past + i,
                  first = window > 0 ? std::max<int64_t>(0, last - window + 1) : 0;
          int64_t row = ((slot.first_row + i) * g.query_heads + head) * g.head_size;
          auto cached = [&](int64_t which, int64_t position, int64_t d) {
            const std::byte* page = slot.pages[position / g.page_tokens];
            return load_in_row(page + g.row_offset(which, head / group, position), g.dtype, g.head_size, d);
          };
          weights.assign(static_cast<size_t>(last - first + 1), 0);
          double maximum = -INFINITY, sum = 0;
          for (int64_t s = first; s <= last; ++s) {
            double dot = 0;
            for (int64_t d = 0; d < g.head_size; ++d)
              dot += static_cast<double>(q[row + d]) * cached(0, s, d);
            weights[static_cast<size_t>(s - first)] = dot * scale;
            maximum = std::max(maximum, dot * scale);
          }
          for (double& w : weights) sum += w = std::exp(w - maximum);
          for (int64_t d = 0; d < g.head_size; ++d) {
            double mixed = 0;
            for (int64_t s = first; s <= last; ++s)
              mixed += weights[static_cast<size_t>(s - first)] * cached(1, s, d);
            y[row + d] = static_cast<float>(mixed / sum);
          }
        }
  }
};

}  // namespace

std::unique_ptr<Kernels> make_reference_kernels() { return std::make_unique<ReferenceKernels>(); }

}  // namespace flexgen
