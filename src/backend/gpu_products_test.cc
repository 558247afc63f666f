// Products of real models' shapes on a GPU: what a row gives, and that it is the same in whatever company and wherever the matrix is cut. Needs a GPU.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#include "backend/cuda_status.h"
#include "backend/device.h"
#include "backend/staged_kernels.h"
#include "base/error.h"
#include "base/units.h"
#include "tensor/group_quant.h"

namespace flexgen::gpu_products_test {
namespace {

struct alignas(16) Word {
  std::byte bytes[16];
};
std::byte* bytes_in(std::vector<Word>& words) { return words.data()->bytes; }

struct Shape {
  int64_t n, k;
  DType dtype;
  bool has_bias;
};

class GpuProducts : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (const std::string why = why_not_tested(cuda_status(), GetParam()); !why.empty()) GTEST_SKIP() << why;
  }
};

/// Rows of no pattern: some random ones of the type, in turn.
std::vector<Word> random_matrix(std::mt19937& random, int64_t rows, int64_t cols, DType dtype) {
  constexpr int64_t kDistinct = 61;
  const int64_t row = row_bytes(dtype, cols), distinct = std::min(kDistinct, rows);
  std::vector<Word> words(static_cast<size_t>(ceil_div(rows * row, 16)));
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(cols));
  for (int64_t r = 0; r < distinct; ++r) {
    for (float& value : values) value = normal(random);
    store_row(values.data(), cols, dtype, bytes_in(words) + r * row);
  }
  for (int64_t r = distinct; r < rows; ++r) std::memcpy(bytes_in(words) + r * row, bytes_in(words) + r % distinct * row, static_cast<size_t>(row));
  return words;
}

void expect_sums(const Shape& shape, DType act, const std::byte* x, const std::byte* weight, const std::vector<float>& bias, int64_t rows,
                 const std::vector<float>& y) {
  std::vector<float> w(static_cast<size_t>(shape.k));
  for (int64_t i = 0; i < 40; ++i) {
    const int64_t t = i * 131 % rows, n = (i * 7919 + shape.n - 1) % shape.n;
    const std::byte* row = weight + n * row_bytes(shape.dtype, shape.k);
    for (int64_t k = 0; k < shape.k; ++k) w[static_cast<size_t>(k)] = load_in_row(row, shape.dtype, shape.k, k);
    double sum = shape.has_bias ? bias[static_cast<size_t>(n)] : 0, square = 0;
    for (int64_t k = 0; k < shape.k; ++k) {
      const double term = static_cast<double>(load_float(x, act, t * shape.k + k)) * w[static_cast<size_t>(k)];
      sum += term;
      square += term * term;
    }
    ASSERT_NEAR(sum, y[static_cast<size_t>(t * shape.n + n)], 0x1p-7 * std::sqrt(square)) << "row " << t << ", column " << n;
  }
}

TEST_P(GpuProducts, RowsOfRealShapesAreTheSameInAnyCompanyAndCut) {
  const DType act = GetParam();
  const auto kernels = make_staged_kernels(make_cuda_device(0), act);
  constexpr int64_t kRows = 300;
  std::mt19937 random(11);
  for (const Shape& shape : {Shape{4096, 4096, act, false},
                             {14336, 4096, act, false},
                             {28672, 8192, act, false},
                             {8192, 28672, act, true},
                             {57344, 8192, act, false},
                             {50272, 7168, act, false},
                             {7168, 28672, DType::kInt4, true},
                             {28672, 7168, DType::kInt8, true},
                             {1001, 768, act, true}}) {
    SCOPED_TRACE(fmt::format("{} x {} {}", shape.n, shape.k, dtype_name(shape.dtype)));
    std::vector<Word> x = random_matrix(random, kRows, shape.k, act), w = random_matrix(random, shape.n, shape.k, shape.dtype);
    std::vector<float> bias_values(static_cast<size_t>(shape.n));
    for (float& value : bias_values) value = static_cast<float>(random() % 100) / 16;
    WeightView bias, whole{shape.dtype, shape.n, shape.k, {{bytes_in(w), shape.n}}}, cut = whole;
    if (shape.has_bias) bias = {DType::kF32, 1, shape.n, {{reinterpret_cast<const std::byte*>(bias_values.data()), 1}}};
    const int64_t first = shape.n / 3 + 5;
    cut.pieces = {{bytes_in(w), first}, {bytes_in(w) + first * row_bytes(shape.dtype, shape.k), shape.n - first}};
    std::vector<float> y(static_cast<size_t>(kRows * shape.n)), part;
    kernels->linear(bytes_in(x), kRows, whole, bias, false, y.data());
    expect_sums(shape, act, bytes_in(x), bytes_in(w), bias_values, kRows, y);
    for (const auto& [row, count, is_cut] :
         {std::tuple<int64_t, int64_t, bool>{0, kRows, true}, {299, 1, false}, {17, 1, true}, {5, 33, false}, {101, 7, true}}) {
      part.assign(static_cast<size_t>(count * shape.n), 0);
      kernels->linear(bytes_in(x) + size_bytes(act, row * shape.k), count, is_cut ? cut : whole, bias, false, part.data());
      ASSERT_EQ(0, std::memcmp(y.data() + row * shape.n, part.data(), part.size() * sizeof(float))) << count << " rows from " << row << (is_cut ? ", cut" : "");
    }
  }
}

/// More rows than an algorithm is tried with are multiplied in parts.
TEST_P(GpuProducts, ManyRowsAreTheSameAsFew) {
  const DType act = GetParam();
  const auto kernels = make_staged_kernels(make_cuda_device(0), act);
  constexpr int64_t kRows = 5000;
  std::mt19937 random(12);
  for (const Shape& shape : {Shape{1024, 768, act, false}, {1001, 768, act, false}, {12288, 4096, act, false}}) {
    SCOPED_TRACE(fmt::format("{} x {}", shape.n, shape.k));
    std::vector<Word> x = random_matrix(random, kRows, shape.k, act), w = random_matrix(random, shape.n, shape.k, act);
    const WeightView weight{act, shape.n, shape.k, {{bytes_in(w), shape.n}}};
    std::vector<float> y(static_cast<size_t>(kRows * shape.n)), part;
    kernels->linear(bytes_in(x), kRows, weight, {}, false, y.data());
    expect_sums(shape, act, bytes_in(x), bytes_in(w), {}, kRows, y);
    for (const auto& [row, count] : {std::pair<int64_t, int64_t>{4999, 1}, {4000, 513}, {1001, 2000}, {3, 4100}}) {
      part.assign(static_cast<size_t>(count * shape.n), 0);
      kernels->linear(bytes_in(x) + size_bytes(act, row * shape.k), count, weight, {}, false, part.data());
      ASSERT_EQ(0, std::memcmp(y.data() + row * shape.n, part.data(), part.size() * sizeof(float))) << count << " rows from " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Gpu, GpuProducts, testing::Values(DType::kBF16, DType::kF16));

}  // namespace
}  // namespace flexgen::gpu_products_test
