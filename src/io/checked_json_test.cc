#include "io/checked_json.h"

#include <gmock/gmock.h>
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

TEST(CheckedJson, TheLastOfSeveralCountsIfAsked) {
  std::vector<std::string> twice;
  const nlohmann::json json = parse_checked_json(R"({"a": {"b": 1}, "c": 3, "a": {"d": [1], "d": 2}, "c": null})", 8, "file", "it", "", &twice);
  EXPECT_EQ(json, nlohmann::json::parse(R"({"a": {"d": 2}, "c": null})"));
  EXPECT_THAT(twice, testing::ElementsAre("a", "d", "c"));
  EXPECT_EQ(said_of_twice({"a", "b\n"}), "it names 'a', 'b\\x0a' twice; the last counts, as in transformers");
  EXPECT_THAT(said_of_twice({"1", "2", "3", "4", "5", "6", "7"}), testing::HasSubstr("'5' and 2 more twice;"));
}

TEST(CheckedJson, NulEndsNoText) {
  using namespace std::string_literals;
  const auto why_not = [](const std::string& text) -> std::string {
    try {
      parse_checked_json(text, 8, "file", "it");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  for (const std::string& text : {"{\"a\":1}\0"s, "{\"a\":1}\0{\"b\":2}"s, "{\"a\":1\0}"s, "{\"a\":\0001}"s}) {
    EXPECT_THAT(why_not(text), testing::HasSubstr(fmt::format("at byte {}: a NUL byte", text.find('\0') + 1)));
    EXPECT_TRUE(json_or_none(text).is_discarded());
    EXPECT_THROW(parse_json(text, "it"), Error);
  }
  EXPECT_THAT(why_not("{\"a\":}\0"s), testing::HasSubstr("(at byte 6)"));  // what is wrong first
  EXPECT_THAT(why_not("{\"a\":1,\"a\":2}\0"s), testing::HasSubstr("twice"));
  EXPECT_EQ(why_not(R"({"a":"\u0000"})"), "");
  EXPECT_EQ(json_or_none("[1]").size(), 1u);
}

}  // namespace
}  // namespace flexgen::checked_json_test
