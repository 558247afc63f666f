#include "tensor/block_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tensor/group_quant.h"

namespace flexgen::block_formats_test {
namespace {

/// As tools/make_block_hashes.py mixes.
uint64_t mixed(uint64_t number) {
  uint64_t z = (number + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

struct Expected {
  DType dtype;
  std::vector<int64_t> halves;  ///< where a block has the halves that scale it
  uint64_t hash;
};
/// Printed by tools/make_block_hashes.py.
const std::vector<Expected>& expected() {
  static const std::vector<Expected> table{
      {DType::kQ4_0, {0}, 0xbc4713c2eb87fbd9},    {DType::kQ4_1, {0, 2}, 0x5aaa694d16123fb5}, {DType::kQ5_0, {0}, 0x32e128e7b03eebd9},
      {DType::kQ5_1, {0, 2}, 0xe782e8469f596c5d}, {DType::kQ8_0, {0}, 0x4492ac151e4740d9},    {DType::kQ2_K, {80, 82}, 0x55c0b525a97b8328},
      {DType::kQ3_K, {108}, 0xdcea53bb04beadde},  {DType::kQ4_K, {0, 2}, 0xbeb758bb3b14d135}, {DType::kQ5_K, {0, 2}, 0x575585c35a0d6fcc},
      {DType::kQ6_K, {208}, 0x3fad0f742492f87e},  {DType::kIQ4_NL, {0}, 0x9ddc4b680e819999},  {DType::kMXFP4, {}, 0xafb0da84bde223d9},
      {DType::kIQ4_XS, {0}, 0x6f5f1ab21e0b06c2}};
  return table;
}

TEST(BlockFormats, EveryBitPatternIsWhatPyPiGgufMakesOfIt) {
  constexpr uint64_t kBlocks = 65536;
  for (const Expected& format : expected()) {
    SCOPED_TRACE(dtype_name(format.dtype));
    const QuantBlock shape = quant_block(format.dtype);
    std::vector<std::byte> block(static_cast<size_t>(shape.bytes));
    std::vector<float> values(static_cast<size_t>(shape.elements));
    uint64_t hash = 0, element = 0;
    for (uint64_t number = 0; number < kBlocks; ++number) {
      for (size_t i = 0; i < block.size(); ++i) block[i] = static_cast<std::byte>(mixed(number * block.size() + i));
      uint64_t factor = 1;
      for (int64_t at : format.halves) {
        block[static_cast<size_t>(at)] = static_cast<std::byte>(number * factor);
        block[static_cast<size_t>(at) + 1] = static_cast<std::byte>((number * factor) >> 8);
        factor = 40503;
      }
      if (format.halves.empty()) block[0] = static_cast<std::byte>(number);
      dequantize_row(block.data(), format.dtype, shape.elements, values.data());
      for (float value : values) hash += (uint64_t{std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value)} + 1) * mixed(element++);
    }
    EXPECT_EQ(hash, format.hash) << std::hex << hash;
  }
}

TEST(BlockFormats, ARowIsItsBlocksAndAnElementIsFoundInIt) {
  for (const Expected& format : expected()) {
    SCOPED_TRACE(dtype_name(format.dtype));
    const QuantBlock shape = quant_block(format.dtype);
    const int64_t cols = 3 * shape.elements;
    EXPECT_EQ(row_bytes(format.dtype, cols), 3 * shape.bytes);
    EXPECT_EQ(size_bytes(format.dtype, 2 * cols), 6 * shape.bytes);
    std::vector<std::byte> row(static_cast<size_t>(3 * shape.bytes));
    for (size_t i = 0; i < row.size(); ++i) row[i] = static_cast<std::byte>(mixed(i) & 0x3f);  // finite
    std::vector<float> whole(static_cast<size_t>(cols)), one(static_cast<size_t>(shape.elements));
    dequantize_row(row.data(), format.dtype, cols, whole.data());
    for (int64_t number = 0; number < 3; ++number) {
      dequantize_row(row.data() + number * shape.bytes, format.dtype, shape.elements, one.data());
      for (int64_t i = 0; i < shape.elements; ++i) {
        EXPECT_EQ(whole[static_cast<size_t>(number * shape.elements + i)], one[static_cast<size_t>(i)]);
        EXPECT_EQ(load_in_row(row.data(), format.dtype, cols, number * shape.elements + i), one[static_cast<size_t>(i)]);
      }
    }
  }
}

}  // namespace
}  // namespace flexgen::block_formats_test
