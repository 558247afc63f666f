// What patterns in Oniguruma's syntax match. The answers are PyPI tokenizers' (Split, "removed", inverted).

#include "text/oniguruma.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "io/test_folder.h"
#include "text/regex.h"

namespace flexgen::oniguruma_test {
namespace {

using testing::HasSubstr;

struct Case {
  std::string pattern, text;
  std::vector<std::string> found;
  friend std::ostream& operator<<(std::ostream& out, const Case& one) { return out << one.pattern; }
};
class OnigurumaTest : public testing::TestWithParam<Case> {};

TEST_P(OnigurumaTest, MatchesAsInOniguruma) {
  const Case& one = GetParam();
  std::vector<std::string> found;
  Regex(one.pattern, "test").for_each(one.text, [&](size_t begin, size_t end) {
    if (end > begin) found.push_back(one.text.substr(begin, end - begin));
  });
  EXPECT_EQ(found, one.found) << pcre_of_oniguruma(one.pattern, "test");
}

INSTANTIATE_TEST_SUITE_P(
    Patterns, OnigurumaTest,
    testing::Values(Case{R"( ?[^(\s|[.,!?…。，、।۔،])]+)", "Hi, (a|b) é.", {"Hi", "a", "b", " é"}}, Case{R"(\s+)", "a\u180e \u0085b", {" \u0085"}},
                    Case{R"([^\s\p{L}]+|\S\z)", "a\u180e b", {"\u180e", "b"}}, Case{R"([a[bc]]+)", "xabcd[", {"abc"}},
                    Case{R"([^a[bc]]+)", "xabcd]", {"x", "d]"}}, Case{R"([a[^b]]+)", "abcd", {"a", "cd"}},
                    Case{R"([a-z&&[^aeiou]]+)", "hello World", {"h", "ll", "rld"}}, Case{R"([^a-z&&[^aeiou]]+)", "hello World", {"e", "o Wo"}},
                    Case{R"([\w&&[^\d]]+)", "ab12_c-d", {"ab", "_c", "d"}}, Case{R"([a-z&&b-y&&[^m]]+)", "abmyz", {"b", "y"}},
                    Case{R"([[^a-c]&&[^x]]+)", "abcdxe", {"d", "e"}}, Case{R"([]a]+)", "a]b", {"a]"}}, Case{R"([a[-z]]+)", "a-mz", {"a-", "z"}},
                    Case{R"([^[:alpha:]&&[^ ]]+)", "ab 12!", {" 12!"}}, Case{R"(\p{N}{1,3})", "12345", {"123", "45"}},
                    Case{R"(\p{N}{1,3}+)", "12345", {"12345"}}, Case{R"(a{2}?)", "aaa", {"aa"}}, Case{R"(a{1,2}?)", "aaa", {"a", "a", "a"}},
                    Case{R"(a{,2}b)", "aaab b", {"aab", "b"}}, Case{R"((?:ab){2}+)", "ababababab", {"abababab"}}, Case{R"(x{,})", "x{,}", {"x{,}"}},
                    Case{R"(a{2,}+b)", "aaab", {"aaab"}}, Case{R"(^a)", "a\nab", {"a", "a"}}, Case{R"(\s++$|\s)", "a \n b  ", {" ", "\n", " ", "  "}},
                    Case{R"((?m:a.b))", "a\nb", {"a\nb"}}, Case{R"(a.b)", "a\nb a b", {"a b"}}, Case{R"((?mi)A.)", "a\n", {"a\n"}},
                    Case{R"((?i)a(?m:.))", "A\n", {"A\n"}}, Case{R"(\h+)", "12gFz", {"12", "F"}}, Case{R"(\H+)", "12gFz", {"g", "z"}},
                    Case{R"([\hx]+)", "12gx", {"12", "x"}}, Case{R"([\H]+)", "1g", {"g"}}, Case{R"(\v+)", "\013\014\n", {"\013"}},
                    Case{R"(\w+)", "foo_bar‿q éx ²Ⅷ一", {"foo_bar‿q", "éx", "²Ⅷ一"}}, Case{R"(\W+)", "a-‿²!", {"-", "!"}}, Case{R"(\b.)", "a‿b²", {"a"}},
                    Case{R"(a\B.)", "ab a-", {"ab"}}, Case{R"([^\W\d]+)", "ab1 c", {"ab", "c"}}, Case{R"([[:punct:]]+)", "$a£<b>。", {"$", "£<", ">。"}},
                    Case{R"([[:word:]]+)", "a‿²", {"a‿"}}, Case{R"([[:alnum:]]+)", "aⅧ²3", {"aⅧ", "3"}}, Case{R"([[:^upper:]]+)", "aBc", {"a", "c"}},
                    Case{R"(\p{Punct}+)", "$a£<b>", {}}, Case{R"(\p{^Word}+)", "a b", {" "}}, Case{R"(\P{Letter}+)", "a1b", {"1"}},
                    Case{R"(\p{Uppercase_Letter})", "aB", {"B"}}, Case{R"([\p{^Letter}&&[^1]]+)", "a12b", {"2"}}, Case{R"(\u4e00)", "一a", {"一"}},
                    Case{R"([\u4e00-\u9fff]+)", "一二a", {"一二"}}, Case{R"(\Qa\E)", "QaE a", {"QaE"}}, Case{R"((?<n>a)\k<n>)", "aab", {"aa"}},
                    Case{R"(\x{41}+)", "AAB", {"AA"}}, Case{R"([\x{41}-\x{43}]+)", "ABCD", {"ABC"}}, Case{R"([a\]\[b]+)", "a][bc", {"a][b"}},
                    Case{R"((a|b{2}+)+c)", "abbbbc", {"abbbbc"}}, Case{R"([a&b]+)", "a&b", {"a&b"}}, Case{R"(\p{Han}+)", "漢。字a", {"漢", "字"}},
                    Case{R"([\p{Hiragana}ー]+)", "あーい、", {"あーい"}}, Case{R"(\p{^Han}+)", "漢。a", {"。a"}}, Case{R"([[:space:]]+)", "a 　b", {" 　"}}));

TEST(Oniguruma, WhatMeansTheSameStaysAsItIs) {
  for (const char* pattern :
       {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
        R"((?<name>a|(?=b)(?<!c)d)++\k<name>*?)", R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)", "[一-龥ぁ-ん]+é{2,3}?", R"(\x{4e00}\P{Lu}a{1b})"})
    EXPECT_EQ(pcre_of_oniguruma(pattern, "test"), pattern);
}

TEST(Oniguruma, BrokenPatternsAreOneClearError) {
  for (const std::string& pattern : {std::string("[a"), std::string("[a[b]"), std::string("[["), std::string("[[:alpha:]"), "[" + std::string(200, '[') + "a",
                                     std::string("(?s:.)"), std::string("[\\")})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { pcre_of_oniguruma(pattern, "file"); }), HasSubstr("file: the pattern")) << pattern;
  for (const char* pattern : {"(", "(?", "\\", "\\p{", "\\p{Nothing}", "(?<", "\\u12", "(?~a)", ")"})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { Regex regex(pattern, "file"); }), HasSubstr("file: the pattern")) << pattern;
}

}  // namespace
}  // namespace flexgen::oniguruma_test
