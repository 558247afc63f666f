#include "backend/cpu/code_tiles.h"

#include <gtest/gtest.h>

#include "backend/cpu/test_code_weights.h"

namespace flexgen::code_tiles_test {
namespace {

using test_code_weights::format_of;
using test_code_weights::Kind;
using test_code_weights::TestWeight;

TEST(CodeTiles, LeavesWhatHasNoWholeGroups) {
  const auto takes = [](Kind kind, int64_t cols) { return code_tiles::takes(TestWeight(kind, 2, cols).view()); };
  EXPECT_TRUE(takes({DType::kFp4, format_of(DType::kFp4, ScaleType::kE8M0, 32)}, 320));
  EXPECT_FALSE(takes({DType::kFp4, format_of(DType::kFp4, ScaleType::kE8M0, 32)}, 352)) << "half a pair of steps";
  EXPECT_FALSE(takes({DType::kPacked4, format_of(DType::kPacked4, ScaleType::kF16, 24)}, 192));
  EXPECT_FALSE(takes({DType::kCodes8, format_of(DType::kCodes8, ScaleType::kF16, 16)}, 192));
  Kind ordered{DType::kPacked4, format_of(DType::kPacked4, ScaleType::kF16, 32)};
  ordered.format.has_order = true;
  EXPECT_FALSE(takes(ordered, 320)) << "columns are in groups of any order";
  EXPECT_FALSE(takes({DType::kQ5_K}, 512));
}

}  // namespace
}  // namespace flexgen::code_tiles_test
