// Patterns are written in one way. What answers xgrammar then lets through: grammar_test.cc.

#include "text/grammar/pattern.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace flexgen::grammar_test {
namespace {

std::string in_answer(std::string_view pattern) { return plain_pattern(pattern, PatternPlace::kAnswer); }
std::string in_json(std::string_view pattern) { return plain_pattern(pattern, PatternPlace::kJsonString); }

TEST(Patterns, AreWrittenInOneWay) {
  EXPECT_EQ(in_answer(R"(^(?:foo|b-r){2,3}?x*[a-z]+$)"), R"(^(?:foo|b-r){2,3}?x*[a-z]+$)");
  EXPECT_EQ(in_answer(R"((?<year>\d{4})(?P<_m1>\w)(a))"), R"((?:[0-9]{4})(?:[0-9A-Z_a-z])(a))");
  EXPECT_EQ(in_answer(R"(\x41b\u00e9a\.\-\#\cA])"), "Ab\\u00e9a\\.-#\x01\\]");
  EXPECT_EQ(in_answer(R"([\x30-\x39a])"), "[0-9a]");
  EXPECT_EQ(in_answer(R"([\^a])"), R"([a\^])") << "not all but a";
  EXPECT_EQ(in_answer(R"([\^-b])"), R"([_-b\^])");
  EXPECT_EQ(in_answer(R"([\^])"), R"(\^)");
  EXPECT_EQ(in_answer(R"([-\]\\b-])"), R"([\-\\\]b])");
  EXPECT_EQ(in_answer("[\\n\\0é]"), "[\\0\\n\\u00e9]");
  EXPECT_EQ(in_answer(R"(\ud83d\ude00[\ud83d\ude00-\u{1f602}])"), R"(\u{1f600}[\u{1f600}-\u{1f602}])");
  EXPECT_EQ(in_answer("."), R"([\0-\ud7ff\ue000-\u{10ffff}])");
  EXPECT_EQ(in_answer("^a$|^b$|(c)$|^(d)$"), "^a|b|(c)|(d)$");
  EXPECT_EQ(in_answer("a^$|(b$|^c)|d"), "a^|(b$|^c)|d") << "which xgrammar refuses";
  EXPECT_EQ(in_answer("a*?b+?c??d{2}?(e+)*"), "a*?b+?c??d{2}?(e+)*");
  EXPECT_EQ(in_answer("[[:][a:]"), "[:\\[][:a]");
  EXPECT_EQ(in_json(R"([\x00-\x7f])"), R"([ !#-\[\]-\u007f])");
  EXPECT_EQ(in_json(R"([^"\\])"), R"([ !#-\[\]-\ud7ff\ue000-\u{10ffff}])");
  EXPECT_EQ(in_json(R"((?i)a1[^b])").substr(0, 16), R"([Aa]1[ !#-AC-\[\)");
}

TEST(Patterns, ThatCannotBeFollowedAreRefused) {
  const std::pair<const char*, const char*> cases[] = {{R"(a\x4)", "byte 2 of the pattern: \\x needs 2 hexadecimal digits"},
                                                       {R"(\x{41})", "\\x needs"},
                                                       {R"(\07)", "octal"},
                                                       {R"([\07])", "octal"},
                                                       {R"((a)\1)", "references back"},
                                                       {R"([\1])", "references back"},
                                                       {R"(\k<a>)", "references back"},
                                                       {R"(\udc00)", "surrogates"},
                                                       {R"(\ud83d)", "surrogates"},
                                                       {R"(\ud83da)", "surrogates"},
                                                       {R"(\ud83d\u0041)", "surrogates"},
                                                       {R"([\ud800-\udfff])", "surrogates"},
                                                       {R"(\u{d83d}\u{de00})", "surrogates"},
                                                       {R"(\U0000d83d)", "surrogates"},
                                                       {R"(\u{110000})", "10FFFF"},
                                                       {R"(\Uffffffff)", "10FFFF"},
                                                       {R"(\u{0000041})", "one to six"},
                                                       {R"(\u{})", "one to six"},
                                                       {R"(\u{41)", "one to six"},
                                                       {R"(\u04)", "\\u needs 4"},
                                                       {R"(\c1)", "\\c needs a letter"},
                                                       {R"(\bx)", "bounds of words"},
                                                       {R"(\pL)", "classes of Unicode"},
                                                       {R"(\Ax)", "the escape \\A"},
                                                       {R"([]a])", "a class without characters"},
                                                       {R"([^])", "a class without characters"},
                                                       {R"([b-a])", "a range"},
                                                       {R"([a-\d])", "a range"},
                                                       {R"([^\0-\u{10ffff}])", "no character"},
                                                       {R"([a)", "'[' has no"},
                                                       {R"([a\)", "nothing follows"},
                                                       {R"(a\)", "nothing follows"},
                                                       {R"(a{,3})", "'{' begins no repetition"},
                                                       {R"(a{1,2,3})", "'{' begins no repetition"},
                                                       {R"(a{1)", "'{' begins no repetition"},
                                                       {"a?+", "byte 3 of the pattern: what is repeated is repeated again"},
                                                       {"a{2}+", "repeated again"},
                                                       {"a++", "repeated again"},
                                                       {"a*{2}", "repeated again"},
                                                       {"a{2}{3}", "repeated again"},
                                                       {"a*??", "repeated again"},
                                                       {"[[:alpha:]]", "a class by name"},
                                                       {"[^0[:^space:]]", "a class by name"},
                                                       {R"((?=a))", "ahead or back"},
                                                       {R"((?<!a))", "ahead or back"},
                                                       {R"(a(?i)b)", "'(?' begins no group"},
                                                       {R"((?<a)", "no end"},
                                                       {"a\xff", "byte 2 of the pattern: it is not UTF-8"}};
  for (const auto& [pattern, part] : cases)
    for (const auto read : {in_answer, in_json}) try {
        ADD_FAILURE() << pattern << " is " << read(pattern);
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr(part)) << pattern;
      }
  // What JSON escapes.
  for (const char* pattern : {R"(a\tb)", R"(a\u0022b)", R"(a\x22)", "\"", R"(\\)", R"(\n)", R"(\e)", R"(\0)", R"(\cA)", R"([\b])", R"([\x00-\x1f])",
                              R"([\x22])", R"(["\\])", R"(a|[\t\n])", R"(\U0000001f)"}) {
    EXPECT_NO_THROW(in_answer(pattern)) << pattern;
    try {
      ADD_FAILURE() << pattern << " is " << in_json(pattern);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("as JSON escapes them")) << pattern;
    }
  }
}

/// Alternatives of so many lengths: what [a-z]{1}x|[a-z]{2}x|... means.
std::string lengths(int count) {
  std::string pattern;
  for (int i = 1; i <= count; ++i) pattern += fmt::format("{}[a-z]{{{}}}x", i > 1 ? "|" : "", i);
  return pattern;
}

TEST(Patterns, OfDeepGroupsAreRefused) {
  const auto nested = [](int depth, const std::string& close) {
    std::string pattern(static_cast<size_t>(depth), '(');
    pattern += 'a';
    for (int i = 0; i < depth; ++i) pattern += close;
    return pattern;
  };
  EXPECT_NO_THROW(in_answer(nested(250, "){1}")));
  EXPECT_THROW(in_answer(nested(251, ")")), Error);
  EXPECT_THROW(in_json(nested(50000, "){0}")), Error);
  EXPECT_EQ(in_answer("a)(b){2}"), "a)(b){2}") << "which xgrammar refuses";
}

TEST(Patterns, SayHowLongTheyAre) {
  const auto size = [](const std::string& pattern) {
    double characters = -1;
    plain_pattern(pattern, PatternPlace::kJsonString, &characters);
    return characters;
  };
  EXPECT_EQ(size(""), 0);
  EXPECT_EQ(size("^ab+[c-e]\\d.$"), 5);
  EXPECT_EQ(size("(?:(ab){10}c){300}|d{2,}"), 6303);
  EXPECT_EQ(size("((a{1,}){1,}){1,}"), 8) << "each is copied, and its copy comes any number of times";
}

TEST(Patterns, ThatTakeTooLongToCompileAreRefused) {
  EXPECT_NO_THROW(in_answer(lengths(127))) << "8128 counts";
  EXPECT_THROW(in_answer(lengths(128)), Error);
  EXPECT_NO_THROW(in_answer(".{1,100000}a{99999999999999999999}")) << "each counts 256";
  std::string fields, others;
  for (int i = 0; i < 100; ++i) {
    fields += fmt::format("f{}: (?:[a-z]{{1,3}} ){{1,200}}\n", i);
    others += fmt::format("(?:[a-z]{{1,3}} {}){{1,200}}\n", i);
  }
  EXPECT_NO_THROW(in_answer(fields)) << "the same each time";
  EXPECT_THROW(in_answer(others), Error);
  EXPECT_NO_THROW(in_json("^a{4096}$"));
  EXPECT_NO_THROW(in_json("(?:(ab){10}c){300}")) << "6300 characters";
  for (const char* pattern : {"^a{40000}$", "((a{100}){100}){4}", "(?:(ab){10}c){400}", "a{5000}|b{5000}", "a{99999999999999999999}"})
    EXPECT_THROW(in_json(pattern), Error) << pattern;
}

}  // namespace
}  // namespace flexgen::grammar_test
