// The format against its statement in NumPy (tools/make_quant_fixtures.py), and its promises over random rows.

#include "tensor/group_quant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

namespace flexgen::group_quant_test {
namespace {

template <typename T>
std::vector<T> from_hex(const std::string& hex) {
  std::vector<T> values(hex.size() / 2 / sizeof(T));
  auto* bytes = reinterpret_cast<unsigned char*>(values.data());
  for (size_t i = 0; i < hex.size() / 2; ++i) bytes[i] = static_cast<unsigned char>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return values;
}

TEST(GroupQuant, AgreesWithNumPyBitForBit) {
  std::ifstream file(std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/quant/rows.json");
  const auto cases = nlohmann::json::parse(file);
  ASSERT_GE(cases.size(), 140u);
  for (const auto& item : cases) {
    const DType dtype = item["bits"] == 4 ? DType::kInt4 : DType::kInt8;
    const auto x = from_hex<float>(item["x"]);
    const auto cols = static_cast<int64_t>(x.size());
    const auto expected = from_hex<std::byte>(item["packed"]);
    ASSERT_EQ(static_cast<int64_t>(expected.size()), row_bytes(dtype, cols));
    std::vector<std::byte> packed(expected.size(), std::byte{0xee});
    const GroupRange range = item["range"] == "mse" ? GroupRange::kMse : GroupRange::kMinMax;
    ASSERT_TRUE(quantize_row(x.data(), cols, dtype, packed.data(), range));
    EXPECT_EQ(packed, expected) << item["range"] << dtype_name(dtype) << " " << cols;
    const auto back = from_hex<float>(item["back"]);
    std::vector<float> values(x.size());
    float largest = 0;
    for (float value : x) largest = std::max(largest, std::abs(value));
    dequantize_row(packed.data(), dtype, cols, values.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(values[i], back[i], 1e-6f * largest + 1e-44f) << i;
  }
}

TEST(GroupQuant, ErrorIsAtMostHalfAStepAndRounding) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 300; ++round) {
    const auto cols = static_cast<int64_t>(1 + random() % 300);
    const DType dtype = round % 2 ? DType::kInt4 : DType::kInt8;
    const float levels = round % 2 ? 15 : 255, size = std::exp2(static_cast<float>(random() % 41) - 20);
    std::vector<float> x(static_cast<size_t>(cols)), back(x.size());
    for (float& value : x) value = size * normal(random);
    std::vector<std::byte> packed(static_cast<size_t>(row_bytes(dtype, cols)));
    ASSERT_TRUE(quantize_row(x.data(), cols, dtype, packed.data()));
    dequantize_row(packed.data(), dtype, cols, back.data());
    for (int64_t first = 0; first < cols; first += kQuantGroup) {
      const auto begin = x.begin() + first, end = x.begin() + std::min(cols, first + kQuantGroup);
      const auto [least, most] = std::minmax_element(begin, end);
      // Half a step, what bf16 loses of the minimum, and of the scale over the whole range.
      const float bound = 0.5f * (*most - *least) / levels + std::abs(*least) / 256 + (*most - *least) / 200;
      for (auto i = begin; i != end; ++i) EXPECT_LE(std::abs(*i - back[static_cast<size_t>(i - x.begin())]), bound);
    }
  }
}

TEST(GroupQuant, TheSearchIsNeverWorseAndPaysForGroupsWithTails) {
  std::mt19937 random(5);
  std::student_t_distribution<float> tails(4);
  double all[2] = {};
  for (int round = 0; round < 200; ++round) {
    const auto cols = static_cast<int64_t>(1 + random() % 64);
    std::vector<float> x(static_cast<size_t>(cols)), back(x.size());
    for (float& value : x) value = tails(random);
    std::vector<std::byte> packed(static_cast<size_t>(row_bytes(DType::kInt4, cols)));
    double error[2] = {};
    for (int range = 0; range < 2; ++range) {
      ASSERT_TRUE(quantize_row(x.data(), cols, DType::kInt4, packed.data(), range ? GroupRange::kMse : GroupRange::kMinMax));
      dequantize_row(packed.data(), DType::kInt4, cols, back.data());
      for (size_t i = 0; i < x.size(); ++i) error[range] += std::pow(static_cast<double>(x[i]) - back[i], 2);
      all[range] += error[range];
    }
    EXPECT_LE(error[1], error[0] * 1.00001);
  }
  EXPECT_LT(all[1], 0.85 * all[0]);
}

TEST(GroupQuant, ConstantsComeBackExactly) {
  for (float value : {0.0f, -0.0f, 1.0f, -3.5f, 0.0078125f, 1e-40f}) {
    const float exact = float_from_bf16(bf16_from_float(value));
    std::vector<float> x(100, exact), back(100);
    std::vector<std::byte> packed(static_cast<size_t>(row_bytes(DType::kInt4, 100)));
    for (GroupRange range : {GroupRange::kMinMax, GroupRange::kMse}) {
      ASSERT_TRUE(quantize_row(x.data(), 100, DType::kInt4, packed.data(), range));
      dequantize_row(packed.data(), DType::kInt4, 100, back.data());
      EXPECT_EQ(back, x);
    }
  }
}

TEST(GroupQuant, SingleElementsAreThoseOfTheRow) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  for (int64_t cols : {1, 33, 64, 129, 200})
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kInt8, DType::kInt4}) {
      std::vector<float> x(static_cast<size_t>(cols)), back(x.size());
      for (float& value : x) value = normal(random);
      std::vector<std::byte> row(static_cast<size_t>(row_bytes(dtype, cols)));
      store_row(x.data(), cols, dtype, row.data());
      if (is_quantized(dtype)) dequantize_row(row.data(), dtype, cols, back.data());
      for (int64_t i = 0; i < cols; ++i)
        EXPECT_EQ(load_in_row(row.data(), dtype, cols, i), is_quantized(dtype) ? back[static_cast<size_t>(i)] : load_float(row.data(), dtype, i));
    }
}

TEST(GroupQuant, RefusesWhatIsNotFinite) {
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    std::vector<float> x(130, 1.0f);
    x[100] = bad;
    std::vector<std::byte> packed(static_cast<size_t>(row_bytes(DType::kInt8, 130)));
    EXPECT_FALSE(quantize_row(x.data(), 130, DType::kInt8, packed.data()));
  }
  std::vector<float> nothing(130, INFINITY);
  std::vector<std::byte> row(static_cast<size_t>(row_bytes(DType::kInt4, 130)));
  store_row(nothing.data(), 130, DType::kInt4, row.data());
  for (int64_t i = 0; i < 130; ++i) EXPECT_TRUE(std::isnan(load_in_row(row.data(), DType::kInt4, 130, i)));
  std::vector<float> x{-3e38f, 3e38f};
  std::vector<std::byte> packed(static_cast<size_t>(row_bytes(DType::kInt4, 2)));
  EXPECT_FALSE(quantize_row(x.data(), 2, DType::kInt4, packed.data()));
}

}  // namespace
}  // namespace flexgen::group_quant_test
