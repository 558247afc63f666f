#include "io/checked_json.h"

#include <gtest/gtest.h>

#include <ctime>

#include "base/error.h"

namespace flexgen::checked_json_test {
namespace {

TEST(CheckedJson, TakesLinearTimeInWhatItReads) {
  for (const char* item : {"{}", "[]", "{\"a\":[1]}", "1", "\"x\""}) {
    const auto seconds = [&](size_t bytes) {
      std::string text = "[";
      while (text.size() < bytes) text += std::string(item) + ",";
      text.back() = ']';
      const std::clock_t start = std::clock();
      EXPECT_TRUE(parse_checked_json(text, 8, "file", "it").is_array());
      return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    };
    const double part = seconds(250 << 10);
    EXPECT_LT(seconds(2 << 20), 40 * part + 0.5) << item;
  }
}

TEST(CheckedJson, DepthIsBounded) {
  EXPECT_THROW(parse_checked_json(std::string(1000000, '[') + std::string(1000000, ']'), 64, "file", "it"), Error);
  EXPECT_TRUE(nests_deeper("[[[1]]]", 2));
  EXPECT_FALSE(nests_deeper("[[[1]]]", 3));
  EXPECT_FALSE(nests_deeper(R"(["[[[[", "\"[[[", {"{{{{": [1], "b": [2]}])", 3));
  EXPECT_TRUE(nests_deeper(std::string(1000000, '{'), 64));
}

}  // namespace
}  // namespace flexgen::checked_json_test
