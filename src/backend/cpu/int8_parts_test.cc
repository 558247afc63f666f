// Products in integers with weights that have a scale for 32 columns, as MXFP4, Q4_0, Q8_0 and IQ4_NL are shipped.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "backend/kernels.h"
#include "backend/symmetric_quant.h"
#include "base/cores.h"
#include "tensor/code_format.h"

namespace flexgen::int8_parts_test {
namespace {

constexpr int64_t kRows = 70, kCut = 41;

/// Any codes, scales of about 1/64.
class Weight {
 public:
  Weight(DType dtype, int64_t cols, unsigned seed) : format_(mxfp4_format(cols)), codes_(static_cast<size_t>(kRows * row_bytes(dtype, cols))) {
    std::mt19937 random(seed);
    for (std::byte& byte : codes_) byte = static_cast<std::byte>(random() % 256);
    const auto power = [&] { return static_cast<std::byte>(118 + random() % 6); };
    if (is_blocked(dtype)) {
      const int64_t block = quant_block(dtype).bytes;
      for (size_t at = 0; at < codes_.size(); at += static_cast<size_t>(block)) {
        const uint16_t scale = f16_from_float((random() % 2 == 0 ? 1.0f : -1.0f) * static_cast<float>(1 + random() % 100) / 4096);
        if (dtype == DType::kMXFP4) codes_[at] = power();
        else std::memcpy(codes_.data() + at, &scale, sizeof scale);
      }
    } else {
      scales_.resize(static_cast<size_t>(kRows * format_.num_groups));
      for (std::byte& scale : scales_) scale = power();
    }
    view_ = {dtype, kRows, cols, {piece(dtype, cols, 0, kRows)}, is_blocked(dtype) ? nullptr : &format_};
    cut_ = view_;
    cut_.pieces = {piece(dtype, cols, 0, kCut), piece(dtype, cols, kCut, kRows - kCut)};
  }
  const WeightView& whole() const { return view_; }
  const WeightView& cut() const { return cut_; }
  /// All codes become those of this byte.
  void fill(std::byte codes) {
    const int64_t block = is_blocked(view_.dtype) ? quant_block(view_.dtype).bytes : 16, head = !is_blocked(view_.dtype)       ? 0
                                                                                                : view_.dtype == DType::kMXFP4 ? 1
                                                                                                                               : 2;
    for (size_t i = 0; i < codes_.size(); ++i)
      if (static_cast<int64_t>(i) % block >= head) codes_[i] = codes;
  }
  /// Where the scale of a part is, in types that keep it as a power of two.
  std::byte& power_of(int64_t row, int64_t part) {
    const int64_t parts = format_.num_groups;
    return view_.dtype == DType::kFp4 ? scales_[static_cast<size_t>(row * parts + part)]
                                      : codes_[static_cast<size_t>((row * parts + part) * quant_block(view_.dtype).bytes)];
  }

 private:
  WeightPiece piece(DType dtype, int64_t cols, int64_t first, int64_t count) const {
    WeightPiece made{codes_.data() + first * row_bytes(dtype, cols), count};
    if (!scales_.empty()) made.beside[kScales] = scales_.data() + first * format_.num_groups;
    return made;
  }

  CodeFormat format_;
  std::vector<std::byte> codes_, scales_;
  WeightView view_, cut_;
};

std::vector<float> random_inputs(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = float_from_bf16(bf16_from_float(normal(random)));
  return values;
}

std::vector<std::byte> as(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * (dtype == DType::kF32 ? 4 : 2));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = bf16_from_float(values[i]);
    if (dtype == DType::kF32) std::memcpy(bytes.data() + 4 * i, &values[i], 4);
    else std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

std::vector<float> product(Kernels& kernels, const std::vector<float>& x, int64_t num_rows, const WeightView& weight) {
  std::vector<float> y(static_cast<size_t>(num_rows * weight.rows));
  kernels.linear(as(kernels.act_dtype(), x).data(), num_rows, weight, {}, false, y.data());
  return y;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class Int8Parts : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, Int8Parts, testing::Values(DType::kFp4, DType::kMXFP4, DType::kQ4_0, DType::kQ8_0, DType::kIQ4_NL), [](const auto& info) {
  std::string name(dtype_name(info.param));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(Int8Parts, AgreeWithReferenceAndHaveTheSameBitsWhateverRowsCutsAndThreads) {
  auto reference = make_reference_kernels(true), plain = make_reference_kernels(false);
  for (const int64_t cols : {32, 96, 544, 1024}) {
    SCOPED_TRACE(cols);
    const Weight weight(GetParam(), cols, static_cast<unsigned>(cols));
    ASSERT_EQ(integer_group(weight.whole()), 32);
    constexpr int64_t kInputs = 61;
    const std::vector<float> x = random_inputs(kInputs * cols, 5), expected = product(*reference, x, kInputs, weight.whole());
    double size = 0;
    for (const float value : expected) size += static_cast<double>(value) * value;
    size = std::sqrt(size / static_cast<double>(expected.size()));
    EXPECT_FALSE(same_bits(expected, product(*plain, x, kInputs, weight.whole()))) << "inputs are not rounded";
    for (const CpuKernelOptions& options : {CpuKernelOptions{1, DType::kF32, true}, {3, DType::kF32, true}, {2, DType::kBF16, true}}) {
      if (options.compute_dtype == DType::kBF16 && !cpu_has_bf16()) continue;
      auto kernels = make_cpu_kernels(options);
      const std::vector<float> y = product(*kernels, x, kInputs, weight.whole());
      for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 2e-6 * size) << i;
      EXPECT_TRUE(same_bits(y, product(*kernels, x, kInputs, weight.cut())));
      std::vector<float> one_by_one;
      for (int64_t row = 0, count = 1; row < kInputs; row += count, count = std::min(count % 7 + 1, kInputs - row)) {
        const std::vector<float> some = product(*kernels, {x.begin() + row * cols, x.begin() + (row + count) * cols}, count, weight.cut());
        one_by_one.insert(one_by_one.end(), some.begin(), some.end());
      }
      EXPECT_TRUE(same_bits(y, one_by_one));
    }
  }
}

// Of the largest inputs and codes, in all of their signs.
TEST_P(Int8Parts, ExtremesDoNotOverflow) {
  constexpr int64_t kCols = 64;
  auto reference = make_reference_kernels(true), kernels = make_cpu_kernels({1, DType::kF32, true});
  for (const uint8_t code : {0x00, 0x77, 0x7f, 0x80, 0xff}) {
    Weight weight(GetParam(), kCols, 3);
    weight.fill(std::byte{code});
    for (const float input : {1.0f, -1.0f}) {
      const std::vector<float> x(kCols, input), y = product(*kernels, x, 1, weight.whole()), expected = product(*reference, x, 1, weight.whole());
      for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 1e-5 * std::abs(expected[i]) + 1e-6) << i << " of codes " << static_cast<int>(code);
    }
  }
}

TEST_P(Int8Parts, AScaleThatIsNoNumberIsSeenInItsRowAlone) {
  if (GetParam() != DType::kFp4) return;  // a GGUF's powers of two are all numbers
  Weight weight(GetParam(), 96, 4);
  weight.power_of(37, 2) = std::byte{0xff};
  const std::vector<float> y = product(*make_cpu_kernels({1, DType::kF32, true}), random_inputs(96 * 3, 9), 3, weight.whole());
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i % kRows == 37) << i;
}

}  // namespace
}  // namespace flexgen::int8_parts_test
