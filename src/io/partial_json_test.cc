#include "io/partial_json.h"

#include <gtest/gtest.h>

namespace flexgen::partial_json_test {
namespace {

TEST(PartialJson, MembersAreLeftOut) {
  constexpr std::string_view kNames[] = {"b", "c"};
  EXPECT_EQ(parse_json_without(kNames, R"({"a": [{"b": [1, {"a": 2}], "a": "b"}, "c"], "c": {}, "d": {"b": 1, "e": null}})", "it").dump(),
            R"({"a":[{"a":"b"},"c"],"d":{"e":null}})");
  EXPECT_THROW(parse_json_without(kNames, R"({"b": [1})", "it"), Error);
  EXPECT_THROW(parse_json_without(kNames, std::string_view("{}\0", 3), "it"), Error);
}

}  // namespace
}  // namespace flexgen::partial_json_test
