#include "backend/cpu/matmul.h"

#include <algorithm>
#include <cstring>
#include <dnnl.hpp>

#include "backend/cpu/vector_ops.h"
#include "base/error.h"

namespace flexgen {
namespace {

constexpr int64_t kPanels[] = {256, 64, 32, 16};
constexpr int64_t kSinglePanel = 64;
/// Rows of W at a time: a chunk stays in the cache while all panels of x pass over it.
constexpr int64_t kChunkRows = 1024;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::memory::data_type dnnl_type(DType dtype) {
  return dtype == DType::kBF16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

}  // namespace

struct Matmul::Primitive {
  dnnl::matmul matmul;
  dnnl::memory x, w, y;
  dnnl::stream stream;
};

Matmul::Matmul(DType compute) : compute_(compute), element_(size_bytes(compute, 1)) {}
Matmul::~Matmul() = default;

int64_t Matmul::panel_rows(int64_t left) const {
  if (single_panel_) return kSinglePanel;
  if (left > 192) return 256;
  if (left > 32) return 64;
  return left > 16 ? 32 : 16;
}

void Matmul::panel(int64_t rows, const std::byte* x, const std::byte* w, int64_t n, int64_t k,
                   int64_t stride, bool accumulate, float* y) {
  auto& primitive = primitives_[{rows, n, k, stride, accumulate}];
  if (!primitive) {
    using dnnl::memory;
    memory::desc x_desc({rows, k}, dnnl_type(compute_), memory::dims{k, 1});
    memory::desc w_desc({k, n}, dnnl_type(compute_), memory::dims{1, k});
    memory::desc y_desc({rows, n}, memory::data_type::f32, memory::dims{stride, 1});
    dnnl::primitive_attr attributes;
    if (accumulate) {
      dnnl::post_ops post;
      post.append_sum(1.0f);
      attributes.set_post_ops(post);
    }
    const dnnl::engine& engine = cpu_engine();
    primitive = std::make_unique<Primitive>(
        Primitive{dnnl::matmul(dnnl::matmul::primitive_desc(
                      dnnl::matmul::desc(x_desc, w_desc, y_desc), attributes, engine)),
                  memory(x_desc, engine, nullptr), memory(w_desc, engine, nullptr),
                  memory(y_desc, engine, nullptr), dnnl::stream(engine)});
  }
  primitive->x.set_data_handle(const_cast<std::byte*>(x));
  primitive->w.set_data_handle(const_cast<std::byte*>(w));
  primitive->y.set_data_handle(y);
  primitive->matmul.execute(primitive->stream, {{DNNL_ARG_SRC, primitive->x},
                                                {DNNL_ARG_WEIGHTS, primitive->w},
                                                {DNNL_ARG_DST, primitive->y}});
  primitive->stream.wait();
}

void Matmul::panels(const std::byte* x, int64_t num_rows, const std::byte* w, int64_t n, int64_t k,
                    int64_t stride, bool accumulate, float* y) {
  for (int64_t first = 0; first < num_rows;) {
    const int64_t left = num_rows - first, rows = panel_rows(left);
    const std::byte* in = x + first * k * element_;
    float* out = y + first * stride;
    if (left >= rows) {
      panel(rows, in, w, n, k, stride, accumulate, out);
    } else {  // the last panel, filled up with zeros
      padded_x_.resize(static_cast<size_t>(rows * k * element_));
      std::memcpy(padded_x_.data(), in, static_cast<size_t>(left * k * element_));
      std::memset(padded_x_.data() + left * k * element_, 0,
                  static_cast<size_t>((rows - left) * k * element_));
      padded_y_.resize(static_cast<size_t>(rows * n));
      if (accumulate)
        for (int64_t t = 0; t < left; ++t)
          std::copy_n(out + t * stride, n, padded_y_.data() + t * n);
      panel(rows, padded_x_.data(), w, n, k, n, accumulate, padded_y_.data());
      for (int64_t t = 0; t < left; ++t) std::copy_n(padded_y_.data() + t * n, n, out + t * stride);
    }
    first += std::min(rows, left);
  }
}

void Matmul::check_bits(int64_t n, int64_t k) {
  if (!checked_.insert(k).second || single_panel_) return;
  constexpr int64_t kRows = 256;
  n = std::min(n, kChunkRows);
  std::vector<std::byte> x(static_cast<size_t>(kRows * k * element_)),
      w(static_cast<size_t>(n * k * element_));
  uint64_t state = 1;
  auto fill = [&](std::vector<std::byte>& data) {
    for (size_t i = 0; i < data.size() / static_cast<size_t>(element_); ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      float value = static_cast<float>(static_cast<int32_t>(state >> 32)) * 0x1p-31f;
      uint16_t half = bf16_from_float(value);
      if (compute_ == DType::kBF16)
        std::memcpy(data.data() + 2 * i, &half, 2);
      else
        std::memcpy(data.data() + 4 * i, &value, 4);
    }
  };
  fill(x);
  fill(w);
  std::vector<float> whole(static_cast<size_t>(kRows * n)), part(whole.size());
  panel(kRows, x.data(), w.data(), n, k, n, false, whole.data());
  for (int64_t rows : kPanels) {
    // The same rows in other panels, with W cut off the middle of a block.
    int64_t cut = n > 20 ? n - 17 : n;
    for (int64_t first = 0; first < kRows; first += rows) {
      const std::byte* in = x.data() + first * k * element_;
      panel(rows, in, w.data(), cut, k, n, false, part.data() + first * n);
      if (cut < n)
        panel(rows, in, w.data() + cut * k * element_, n - cut, k, n, false,
              part.data() + first * n + cut);
    }
    if (std::memcmp(whole.data(), part.data(), whole.size() * sizeof(float)) != 0)
      single_panel_ = true;
  }
}

const std::byte* Matmul::converted(const WeightView& weight, const std::byte* data, int64_t rows) {
  if (weight.dtype == compute_) return data;
  int64_t count = rows * weight.cols;
  converted_.resize(static_cast<size_t>(count * element_));
  convert_elements(data, weight.dtype, count, converted_.data(), compute_);
  return converted_.data();
}

void Matmul::run(const std::byte* x, int64_t num_rows, const WeightView& weight, bool accumulate,
                 float* y) {
  check_bits(weight.rows, weight.cols);
  int64_t at = 0;
  for (const WeightPiece& piece : weight.pieces)
    for (int64_t first = 0; first < piece.rows; first += kChunkRows) {
      int64_t rows = std::min(kChunkRows, piece.rows - first);
      const std::byte* w =
          converted(weight, piece.data + first * size_bytes(weight.dtype, weight.cols), rows);
      panels(x, num_rows, w, rows, weight.cols, weight.rows, accumulate, y + at);
      at += rows;
    }
}

}  // namespace flexgen
