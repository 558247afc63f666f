// Matrix products at the shapes of real models, on the GPU: whether a row's result depends on how many rows came with it (bit for bit), and how long they take, with weights of
// 16 bits and in int4. Ends with status 2 if a result differs or a shape is refused, 1 where there is no GPU. `tools/gpu_check shapes` runs it.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "backend/cuda_status.h"
#include "backend/gpu_session.h"
#include "base/error.h"
#include "base/units.h"
#include "tensor/group_quant.h"

namespace flexgen {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostRows = 512;

/// Memory of the GPU, freed at the end.
struct Block {
  Block(GpuSession& gpu, int64_t bytes) : gpu(gpu), at(gpu.allocate(bytes)) {}
  ~Block() { gpu.device().deallocate(at); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  GpuSession& gpu;
  std::byte* at;
};

struct Shape {
  int64_t n, k;
  bool with_bias, accumulate;
};

/// Normal numbers, drawn from a pool of a million.
std::vector<uint16_t> halves(int64_t count, DType act, float scale, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<uint16_t> pool(1 << 20), out(static_cast<size_t>(count));
  for (auto& x : pool) x = act == DType::kBF16 ? bf16_from_float(normal(random)) : f16_from_float(normal(random));
  for (size_t i = 0; i < out.size(); ++i) out[i] = pool[(i * 2654435761u >> 7) % pool.size()];
  return out;
}

/// One weight of a shape with its input and its output.
class Product {
 public:
  Product(GpuSession& gpu, DType act, const Shape& shape)
      : gpu_(gpu), act_(act), shape_(shape), w_(gpu, 2 * shape.n * shape.k), x_(gpu, 2 * kMostRows * shape.k), bias_(gpu, 2 * shape.n),
        y_(gpu, 4 * kMostRows * shape.n) {
    const std::vector<uint16_t> w = halves(shape.n * shape.k, act, 0.02f, 1), x = halves(kMostRows * shape.k, act, 1, 2), bias = halves(shape.n, act, 1, 3);
    gpu.upload(w.data(), w_.at, 2 * shape.n * shape.k);
    gpu.upload(x.data(), x_.at, 2 * kMostRows * shape.k);
    gpu.upload(bias.data(), bias_.at, 2 * shape.n);
  }

  /// Whether every part of the rows gives the bits that all of them together give. Throws Error where the backend refuses the shape.
  bool same_bits() {
    bool same = true;
    const std::vector<float> whole = product(0, kMostRows);
    for (const int64_t rows : {1, 2, 7, 8, 16, 17, 33, 64, 100, 128, 129, 200, 256, 257, 400}) {
      for (const int64_t first : {int64_t{0}, (kMostRows - rows) / 2}) {
        const std::vector<float> part = product(first, rows);
        if (std::memcmp(part.data(), whole.data() + first * shape_.n, static_cast<size_t>(4 * rows * shape_.n)) == 0) continue;
        same = false;
        std::printf(" ROWS %ld FROM %ld DIFFER", static_cast<long>(rows), static_cast<long>(first));
      }
    }
    return same;
  }

  void print_times() {
    print_times(" 16 bits", {act_, shape_.n, shape_.k, {{w_.at, shape_.n}}});
    const int64_t row = row_bytes(DType::kInt4, shape_.k);
    std::vector<std::byte> codes(static_cast<size_t>(shape_.n * row));
    std::mt19937 random(5);
    std::normal_distribution<float> normal(0, 0.02f);
    std::vector<float> values(static_cast<size_t>(shape_.k));
    for (float& value : values) value = normal(random);
    store_row(values.data(), shape_.k, DType::kInt4, codes.data());
    for (int64_t r = 1; r < shape_.n; ++r) std::memcpy(codes.data() + r * row, codes.data(), static_cast<size_t>(row));
    const Block quantized(gpu_, shape_.n * row);
    gpu_.upload(codes.data(), quantized.at, shape_.n * row);
    print_times(" | int4", {DType::kInt4, shape_.n, shape_.k, {{quantized.at, shape_.n}}});
  }

 private:
  std::vector<float> product(int64_t first, int64_t rows) {
    const std::vector<float> start(static_cast<size_t>(kMostRows * shape_.n), 0.5f);
    gpu_.upload(start.data(), y_.at, 4 * kMostRows * shape_.n);
    const WeightView weight{act_, shape_.n, shape_.k, {{w_.at, shape_.n}}},
        bias = shape_.with_bias ? WeightView{act_, 1, shape_.n, {{bias_.at, 1}}} : WeightView{};
    gpu_.run([&] { gpu_.kernels().linear(x_.at + 2 * first * shape_.k, rows, weight, bias, shape_.accumulate, reinterpret_cast<float*>(y_.at)); });
    std::vector<float> y(static_cast<size_t>(rows * shape_.n));
    gpu_.download(y_.at, y.data(), 4 * rows * shape_.n);
    return y;
  }

  /// The best of three times ten products, after ten that do not count.
  void print_times(const char* what, const WeightView& weight) {
    for (const int64_t rows : {16, 64, 256, 512}) {
      double best = 1e9;
      for (int round = 0; round < 4; ++round) {
        const auto begin = Clock::now();
        gpu_.run([&] {
          for (int i = 0; i < 10; ++i) gpu_.kernels().linear(x_.at, rows, weight, {}, false, reinterpret_cast<float*>(y_.at));
        });
        if (round > 0) best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count() / 10);
      }
      std::printf("%s %ld rows %.0f us", rows == 16 ? what : ",", static_cast<long>(rows), 1e6 * best);
    }
  }

  GpuSession& gpu_;
  DType act_;
  Shape shape_;
  Block w_, x_, bias_, y_;
};

/// True if its bits are right. A shape that is refused is said, and counts as wrong.
bool check(GpuSession& gpu, DType act, const Shape& shape) {
  std::printf("%-4s n %6ld k %6ld%s%s:", std::string(dtype_name(act)).c_str(), static_cast<long>(shape.n), static_cast<long>(shape.k),
              shape.with_bias ? " bias" : "", shape.accumulate ? " add" : "");
  bool right = false;
  try {
    Product product(gpu, act, shape);
    right = product.same_bits();
    std::printf(" bits checked;");
    product.print_times();
  } catch (const Error& error) {
    right = false;
    std::printf(" REFUSED %s", error.what());
  }
  std::printf("\n");
  std::fflush(stdout);
  return right;
}

int check_all() {
  if (const CudaStatus status = cuda_status(); status.devices.empty()) {
    std::printf("gpu_shapes needs a GPU: %s\n", status.problem.c_str());
    return 1;
  }
  int wrong = 0;
  for (const DType act : {DType::kBF16, DType::kF16}) {
    if (const std::string why = why_not_tested(cuda_status(), act); !why.empty()) {
      std::printf("left out: %s: %s\n", std::string(dtype_name(act)).c_str(), why.c_str());
      continue;
    }
    GpuSession gpu(act);
    const bool f16 = act == DType::kF16;
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{4096, 4096},
                               {1024, 4096},
                               {14336, 4096},
                               {4096, 14336},
                               {7168, 7168},
                               {28672, 7168},
                               {7168, 28672},
                               {12568, 7168},
                               {57344, 4096},
                               {768, 768},
                               {3072, 768},
                               {1, 2048},
                               {8, 4096},
                               {60, 2048}}) {
      if (!check(gpu, act, {n, k, f16, f16 && n == 7168})) ++wrong;
    }
  }
  std::printf("gpu_shapes: %d differ or are refused\n", wrong);
  return wrong > 0 ? 2 : 0;
}

}  // namespace
}  // namespace flexgen

int main() {
  try {
    return flexgen::check_all();
  } catch (const std::exception& error) {
    std::printf("gpu_shapes: %s\n", error.what());
    return 1;
  }
}
