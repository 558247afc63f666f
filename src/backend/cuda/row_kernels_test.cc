// The kernels that read whole words give what those that read element by element do, bit for bit.

#include "backend/cuda/row_kernels.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tensor/group_quant.h"

namespace flexgen::row_kernels_test {
namespace {

struct alignas(16) Word {
  std::byte bytes[16];
};

/// Memory at 16 bytes.
class Memory {
 public:
  explicit Memory(int64_t bytes) : words_(static_cast<size_t>(bytes / 16 + 2)) {}
  std::byte* data() { return words_.data()->bytes; }

 private:
  std::vector<Word> words_;
};

template <typename Half>
void expect_groups_unpacked(DType dtype, int64_t cols, int64_t offset) {
  constexpr int64_t kRows = 3;
  const int64_t row = row_bytes(dtype, cols);
  Memory packed(kRows * row + 16), whole(kRows * cols * 2), single(kRows * cols * 2);
  std::byte* const rows = packed.data() + offset;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (int64_t r = 0; r < kRows; ++r) {
    std::vector<float> values(static_cast<size_t>(cols));
    for (float& value : values) value = normal(random) * (r == 2 ? 1e-3f : 3);
    if (r == 1) std::fill_n(values.begin(), 64, 0.5f);  // a scale of zero
    ASSERT_TRUE(quantize_row(values.data(), cols, dtype, rows + r * row));
  }
  const bool is_wide = (reinterpret_cast<uintptr_t>(rows) | static_cast<uintptr_t>(row)) % 8 == 0;
  launch(unpack_groups<Half>, {kRows}, 64, {}, rows, row, dtype, cols, is_wide, whole.data());
  launch(unpack_rows, {kRows}, 64, {}, rows, dtype, cols, single.data(), Half::kType, cols);
  EXPECT_EQ(0, std::memcmp(whole.data(), single.data(), static_cast<size_t>(kRows * cols * 2))) << dtype_name(dtype) << " " << cols << " at " << offset;
}

template <typename Half>
void expect_words_converted(DType from) {
  constexpr int64_t kCount = 1000;
  Memory x(4 * kCount), whole(2 * kCount), single(2 * kCount);
  std::mt19937 random(8);
  for (int64_t i = 0; i < kCount; ++i) store_element(x.data(), from, i, static_cast<float>(static_cast<int32_t>(random())) * (i % 7 == 0 ? 1e-12f : 1e-7f));
  store_element(x.data(), from, 17, not_a_number());
  store_element(x.data(), from, 18, minus_infinity());
  launch(convert_words<Half>, {2}, 64, {}, x.data(), from, kCount / 8, whole.data());
  launch(convert_elements, {2}, 64, {}, x.data(), from, int64_t{1}, kCount, single.data(), Half::kType, kCount);
  EXPECT_EQ(0, std::memcmp(whole.data(), single.data(), static_cast<size_t>(2 * kCount))) << dtype_name(from);
}

TEST(RowKernels, WholeGroupsUnpackAsElementsDo) {
  for (DType dtype : {DType::kInt4, DType::kInt8})
    for (int64_t cols : {64, 128, 320, 1024})
      for (int64_t offset : {0, 4, 8}) {
        expect_groups_unpacked<Bf16>(dtype, cols, offset);
        expect_groups_unpacked<F16>(dtype, cols, offset);
      }
}

TEST(RowKernels, WholeWordsConvertAsElementsDo) {
  for (DType from : {DType::kF32, DType::kF16, DType::kBF16}) {
    expect_words_converted<Bf16>(from);
    expect_words_converted<F16>(from);
  }
}

}  // namespace
}  // namespace flexgen::row_kernels_test
