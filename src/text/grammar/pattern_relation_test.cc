// Which patterns lie within which.

#include "text/grammar/pattern_relation.h"

#include <gtest/gtest.h>

#include "text/grammar/pattern.h"

namespace flexgen::pattern_relation_test {
namespace {

bool within(const char* inner, const char* outer) {
  return all_match(plain_pattern(inner, PatternPlace::kJsonString), plain_pattern(outer, PatternPlace::kJsonString));
}

TEST(PatternRelation, OfAllTexts) {
  struct Case {
    const char *inner, *outer;
    bool within;
  };
  for (const auto& [inner, outer, expected] : std::initializer_list<Case>{{"ab", "a?b", true},
                                                                          {"a?b", "ab", false},
                                                                          {"(ab){2,3}", "(ab)+", true},
                                                                          {"(ab)*", "(ab)+", false},
                                                                          {"[a-f]{3}", "[a-z]{1,3}", true},
                                                                          {"[a-f]{3}", "[a-z]{1,2}", false},
                                                                          {"a|b", "[ab]", true},
                                                                          {"^a$|^b$", "[ab]{0,1}?", true},
                                                                          {"x{2,}", "xx+", true},
                                                                          {"[0-9]\\.[0-9]", "\\d.\\d", true},
                                                                          {"[0-9].[0-9]", "\\d\\.\\d", false},
                                                                          {"(a(b|c)?)*d", "[a-d]+", true},
                                                                          {"[\\-\\]^]", "[\\]\\-^]", true},
                                                                          {"\\u0041", "A", true},
                                                                          {"[A\\u00e9]", "[A\\u00e9]", false},
                                                                          {"A", "[A\\u00e9]", true},
                                                                          {"", "a*", true},
                                                                          {"a{5000}", "a*", false}})
    EXPECT_EQ(within(inner, outer), expected) << inner << " in " << outer;
  EXPECT_TRUE(none_match("a+", "b+"));
  EXPECT_TRUE(none_match("ab", "(.*\\.).*"));
  EXPECT_FALSE(none_match("a*b", "[ab]{7}"));
}

}  // namespace
}  // namespace flexgen::pattern_relation_test
