// Grammars over tokens: byte by byte, byte-level and SentencePiece tokens, schemas that are refused by name.

#include "text/grammar/grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/grammar/json_schema.h"
#include "text/regex.h"

namespace flexgen::grammar_test {
namespace {

using Kind = GrammarSpec::Kind;

/// Tokens 0 to 255 are bytes, 256 ends an answer, 257 is "\"a" of two bytes.
class Bytes : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text, bool) const override {
    std::vector<int32_t> ids;
    for (unsigned char c : text) ids.push_back(c);
    return ids;
  }
  std::string decode(std::span<const int32_t> tokens, bool) const override {
    std::string text;
    for (int32_t token : tokens) text += token_bytes(token);
    return text;
  }
  std::string token_text(int32_t token) const override { return token_bytes(token); }
  std::string token_bytes(int32_t token) const override { return token < 256 ? std::string(1, static_cast<char>(token)) : token == 257 ? "\"a" : ""; }
  bool is_byte_token(int32_t) const override { return false; }
  int64_t vocab_size() const override { return 258; }
  std::span<const int32_t> prefix() const override { return {}; }
  std::optional<int32_t> eos() const override { return 256; }
};

class Grammars : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
    compiler = GrammarCompiler::create(tokenizer, 260, {256}, 1 << 20);  // the model has two entries more than the tokenizer
  }
  /// Whether the text is an answer; each token must have been in the mask before it.
  bool takes(const GrammarSpec& spec, std::string_view text) {
    auto matcher = compiler->start(spec);
    std::vector<int32_t> tokens = tokenizer.encode(text, false);
    tokens.push_back(256);
    for (int32_t token : tokens) {
      const TokenMask mask = matcher->mask();
      EXPECT_FALSE(may_come(mask, 258) || may_come(mask, 259));
      const bool allowed = may_come(mask, token);
      EXPECT_EQ(matcher->accept(token), allowed);
      if (!allowed) return false;
    }
    EXPECT_TRUE(matcher->ended());
    return true;
  }
  static GrammarSpec schema(std::string_view json, bool any_whitespace = true) { return {Kind::kJsonSchema, honoured_schema(json), {}, any_whitespace}; }

  Bytes tokenizer;
  std::unique_ptr<GrammarCompiler> compiler;
};

TEST_F(Grammars, FollowAChoiceToItsEnd) {
  const GrammarSpec spec{Kind::kChoice, "", {"yes", "überfällig", "a\"\\\n"}};
  EXPECT_TRUE(takes(spec, "yes"));
  EXPECT_TRUE(takes(spec, "überfällig"));
  EXPECT_TRUE(takes(spec, "a\"\\\n"));
  EXPECT_FALSE(takes(spec, "ye"));
  EXPECT_FALSE(takes(spec, "yess"));
  for (unsigned char c = 1; c < 0x80; ++c) {
    const std::string text = std::string(1, static_cast<char>(c)) + "a7" + static_cast<char>(c);
    EXPECT_TRUE(takes({Kind::kChoice, "", {text, "x"}}, text)) << int{c};
  }
  EXPECT_TRUE(takes({Kind::kChoice, "", {std::string("a\0b", 3)}}, std::string("a\0b", 3)));
}

TEST_F(Grammars, FollowARegexAndAGrammar) {
  EXPECT_TRUE(takes({Kind::kRegex, "[A-Z]{2}-[0-9]+", {}}, "AB-12"));
  EXPECT_FALSE(takes({Kind::kRegex, "[A-Z]{2}-[0-9]+", {}}, "AB-"));
  EXPECT_TRUE(takes({Kind::kEbnf, "root ::= \"(\" root \")\" | \"x\"", {}}, "((x))"));
  EXPECT_FALSE(takes({Kind::kEbnf, "root ::= \"(\" root \")\" | \"x\"", {}}, "((x)"));
}

/// Every text of up to five of three letters, by PCRE2 too.
TEST_F(Grammars, FollowPatternsThatRepeatAndLeaveOut) {
  for (const std::string pattern : {"(ab+)?c", "(ab*)?c", "(a+b)?c", "a?b?c?", "((a|b)c?)?a", "(a|bc*){2,}", "(a|bc*){1,}b", "(ab?){0,}c", "(a+|bc)*a",
                                    "(a?b){2}", "(ab+){0,2}c", "(a(b+c)?)+", "[ab]{1,3}c?", "(a*)?b", "(a|b+){3,}c", "(a{1,2}b)?a{2,}", "(c|a?)+b"}) {
    const Regex judge("\\A(?:" + pattern + ")\\z", "test");
    const GrammarSpec alone{Kind::kRegex, pattern, {}}, inside = schema(R"({"type": "string", "pattern": "^)" + pattern + R"($"})");
    std::vector<std::string> texts{""};
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::string text = texts[i];
      bool expected = false;
      judge.for_each(text, [&](size_t, size_t) { expected = true; });
      EXPECT_EQ(takes(alone, text), expected) << pattern << " " << text;
      EXPECT_EQ(takes(inside, '"' + text + '"'), expected) << pattern << " in JSON, " << text;
      if (text.size() < 5)
        for (const char letter : {'a', 'b', 'c'}) texts.push_back(text + letter);
    }
  }
}

/// Texts of up to two characters that are marks in a pattern, in JSON or in xgrammar's grammars, by PCRE2 too.
TEST_F(Grammars, FollowPatternsWithEscapes) {
  const std::vector<std::string> characters{"a",  "b",    "A",    "7", "^", "-",      "]",      "\\",     "\"", "\t",
                                            "\n", "\x01", "\x7f", " ", "é", "\u041b", "\ue000", "\uffff", "😀"};
  std::vector<std::string> texts{""};
  for (const std::string& first : characters) {
    texts.push_back(first);
    for (const std::string& second : characters) texts.push_back(first + second);
  }
  // The second is how PCRE2 writes it, where that differs.
  const std::pair<std::string, std::string> patterns[] = {{R"(\x41b)", ""},
                                                          {R"(\x41[\x62])", ""},
                                                          {R"([\x30-\x39a]{1,2})", ""},
                                                          {R"([\x01a]b)", ""},
                                                          {R"([\x7fa]{2})", ""},
                                                          {R"(\u00e9a|[\u00e9A]b)", R"(\x{e9}a|[\x{e9}A]b)"},
                                                          {R"([\^a]+)", ""},
                                                          {R"([\^-b])", ""},
                                                          {R"([\^])", ""},
                                                          {R"([a\-\]]{2})", ""},
                                                          {R"([^\^-b]{2})", ""},
                                                          {R"([\\"])", ""},
                                                          {R"([\n\ta]{2})", ""},
                                                          {R"(\t|\n7|\cA)", ""},
                                                          {R"([^a"]{2})", ""},
                                                          {R"([^a]b?)", ""},
                                                          {R"(\ud83d\ude00a?|[\ud83d\ude00b]{2})", R"(\x{1f600}a?|[\x{1f600}b]{2})"},
                                                          {R"([^\ue000-\u{1f600}]{2})", R"([^\x{e000}-\x{1f600}]{2})"},
                                                          {R"((?i)[^a]A)", ""},
                                                          {R"([^a]{0,200})", ""},
                                                          {R"(\]|-a|"7)", ""}};
  for (const auto& [pattern, in_pcre] : patterns) {
    const Regex judge("\\A(?:" + (in_pcre.empty() ? pattern : in_pcre) + ")\\z", "test");
    const GrammarSpec alone{Kind::kRegex, pattern, {}};
    std::optional<GrammarSpec> inside;
    try {
      inside = schema(nlohmann::json{{"type", "string"}, {"pattern", pattern}}.dump());
    } catch (const Error&) {
    }
    for (const std::string& text : texts) {
      bool expected = false;
      judge.for_each(text, [&](size_t, size_t) { expected = true; });
      EXPECT_EQ(takes(alone, text), expected) << pattern << " " << text;
      const bool is_json = std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == '"' || c == '\\'; });
      if (inside) {
        EXPECT_EQ(takes(*inside, '"' + text + '"'), expected && is_json) << pattern << " in JSON, " << text;
      }
    }
  }
}

/// C0 80 and its like, and halves of pairs.
TEST_F(Grammars, HaveNoTextsThatAreNotUtf8) {
  const std::vector<GrammarSpec> specs{{Kind::kRegex, ".", {}},
                                       {Kind::kRegex, "[^a]{1,200}", {}},
                                       schema(R"({"type": "string", "pattern": "."})"),
                                       schema(R"({"type": "string", "pattern": "^[^a]{1,200}$"})"),
                                       schema(R"({"type": "string", "pattern": "\\D"})"),
                                       schema(R"({"type": "string"})"),
                                       schema(R"({"type": "string", "maxLength": 3})"),
                                       schema(R"({"type": "string", "maxLength": 300})")};
  for (const GrammarSpec& spec : specs)
    for (const std::string text :
         {"\xc0\x80", "\xed\xa0\x80\xed\xb0\x80", "\xc1\xa1", "\xe0\x80\xa1", "\xf0\x80\x80\xa1", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf4\x90\x80\x80"})
      EXPECT_FALSE(takes(spec, spec.kind == Kind::kRegex ? text : '"' + text + '"')) << spec.text << " " << testing::PrintToString(text);
}

/// Where an option has no type, values of others fit it too.
TEST_F(Grammars, RefuseOneOfThatSeveralOptionsFit) {
  for (const char* json :
       {R"({"oneOf": [{"minLength": 1, "maxLength": 2}, {"type": "integer"}]})", R"({"oneOf": [{"maxLength": 2}, {"type": "boolean"}]})",
        R"({"oneOf": [{"type": "null"}, {"properties": {"a": {}}}]})", R"({"oneOf": [{"anyOf": [{"minimum": 2}, {"type": "null"}]}, {"type": "string"}]})",
        R"({"oneOf": [{"maxItems": 2}, {"maxLength": 2}]})", R"({"oneOf": [{}, {"type": "null"}]})"})
    try {
      check_grammar(schema(json));
      ADD_FAILURE() << json;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("oneOf")) << json;
    }
  // Told apart by a property, whatever else they fit.
  const GrammarSpec kinds =
      schema(R"({"oneOf": [{"properties": {"k": {"const": 1}}, "required": ["k"]}, {"properties": {"k": {"const": 2}}, "required": ["k"]}]})");
  EXPECT_TRUE(takes(kinds, R"({"k": 2})"));
}

/// Numbers between bounds are written with six decimals at most.
TEST_F(Grammars, WriteNoNumberBeyondItsBounds) {
  for (const char* bounds : {R"("exclusiveMinimum": 0, "exclusiveMaximum": 1e-9)", R"("minimum": 1e-9, "maximum": 2e-9)",
                             R"("exclusiveMinimum": 0, "exclusiveMaximum": 1e-6)", R"("exclusiveMinimum": 0, "maximum": 1e-7)",
                             R"("minimum": 0.1234567, "maximum": 0.12345675)", R"("exclusiveMinimum": 1.0000001, "exclusiveMaximum": 1.0000002)",
                             R"("minimum": -2e-7, "exclusiveMaximum": 0)", R"("minimum": 2, "maximum": 1)", R"("minimum": 3, "exclusiveMaximum": 3)"})
    EXPECT_THROW(check_grammar(schema(std::string(R"({"type": "object", "properties": {"a": {"type": "number", )") + bounds + "}}}")), Error) << bounds;
  const auto number = [](const std::string& bounds) { return schema(R"({"type": "number", )" + bounds + "}"); };
  EXPECT_TRUE(takes(number(R"("minimum": 1e-6, "maximum": 1e-6)"), "0.000001"));
  EXPECT_TRUE(takes(number(R"("exclusiveMinimum": 1, "exclusiveMaximum": 1.000002)"), "1.000001"));
  EXPECT_TRUE(takes(number(R"("minimum": 0.3, "maximum": 0.3)"), "0.3"));
  EXPECT_TRUE(takes(number(R"("minimum": 123456789012.5, "maximum": 123456789013)"), "123456789013"));
  EXPECT_FALSE(takes(number(R"("minimum": 1e-9)"), "0.000000"));
  EXPECT_FALSE(takes(number(R"("minimum": 1.0000005)"), "1.000000"));
  EXPECT_FALSE(takes(number(R"("maximum": -1e-9)"), "-0.000000"));
  EXPECT_FALSE(takes(number(R"("exclusiveMaximum": 1e-9, "minimum": -1)"), "0.000001"));
}

/// As generators write the types of fields.
TEST_F(Grammars, FollowFormats) {
  struct Case {
    const char *rest, *taken, *not_taken;
  };
  for (const Case& one :
       {Case{R"("type": "string", "format": "uri", "minLength": 1, "maxLength": 2083)", R"("https://a.example.org:80/b/c?d=e&f=")",
             R"("https://a.example.org/b c")"},
        Case{R"("format": "uri")", R"("http://ab.cd")", R"("http://ab")"}, Case{R"("format": "hostname")", R"("a-b.example.org")", R"("-b.example.org")"},
        Case{R"("format": "ipv6")", R"("0:0:0:0:0:0:0:1")", R"("0:0:0:0:0:0:0:12345")"}, Case{R"("format": "duration")", R"("P1DT2H30M")", R"("P1DT2H30S")"},
        Case{R"("format": "duration")", R"("PT5S")", R"("P")"}, Case{R"("format": "date", "minLength": 10)", R"("2024-01-31")", R"("2024-02-31")"},
        Case{R"("format": "password", "maxLength": 2)", R"("ab")", R"("abc")"}, Case{R"("type": "integer", "format": "int32")", "-2147483647", "2147483648"},
        Case{R"("type": "integer", "format": "int64", "minimum": 5)", "123456789012345", "4"},
        Case{R"("type": ["integer", "null"], "format": "int32", "exclusiveMaximum": 3)", "2", "3"},
        Case{R"("type": "number", "format": "double", "maximum": 1)", "0.5", "1.5"}}) {
    const GrammarSpec spec = schema(std::string("{") + one.rest + "}");
    EXPECT_TRUE(takes(spec, one.taken)) << one.rest;
    EXPECT_FALSE(takes(spec, one.not_taken)) << one.rest;
  }
  for (const char* rest : {R"("format": "date", "minLength": 11)", R"("format": "uuid", "maxLength": 35)", R"("format": "email", "maxLength": 50)",
                           R"("format": "date", "pattern": "^[0-9]{4}$")", R"("format": "email", "pattern": "(")", R"("type": "number", "format": "int32")",
                           R"("type": "integer", "format": "double")", R"("type": "integer", "format": "int32", "exclusiveMaximum": 3000000000)",
                           R"("type": "integer", "format": 3)", R"("type": "boolean", "format": "date")"})
    EXPECT_THROW(check_grammar(schema(std::string("{") + rest + "}")), Error) << rest;
}

/// As tools write optional fields and unions of classes.
TEST_F(Grammars, FollowReferencesOfOneOf) {
  const std::string kinds =
      R"("$defs": {"Cat": {"type": "object", "properties": {"kind": {"const": "cat", "type": "string"}, "lives": {"type": "integer"}}, "required": ["kind"]},
      "Dog": {"type": "object", "properties": {"kind": {"enum": ["dog", "wolf"]}}, "required": ["kind"]}, "Pet": {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}})";
  const GrammarSpec optional = schema(R"({"oneOf": [{"$ref": "#/$defs/Cat"}, {"type": "null"}], )" + kinds + "}");
  EXPECT_TRUE(takes(optional, "null"));
  EXPECT_TRUE(takes(optional, R"({"kind": "cat", "lives": 7})"));
  EXPECT_FALSE(takes(optional, R"({"kind": "dog"})"));
  const GrammarSpec told = schema(
      R"({"oneOf": [{"$ref": "#/$defs/Cat"}, {"type": "null"}, {"$ref": "#/$defs/Dog"}], "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat"}}, )" +
      kinds + "}");
  for (const char* pet : {"null", R"({"kind": "cat"})", R"({"kind": "wolf"})"}) EXPECT_TRUE(takes(told, pet)) << pet;
  EXPECT_FALSE(takes(told, R"({"kind": "wolf", "lives": 7})"));
  EXPECT_TRUE(takes(schema(R"({"oneOf": [{"$ref": "#/$defs/Pet"}, {"type": "integer"}], )" + kinds + "}"), R"({"kind": "wolf"})"));
}

/// Names and values of schemas, and of schemas of functions, come as they are.
TEST_F(Grammars, WriteTextsOfSchemasAsTheyAre) {
  const auto answer_of = [&](const GrammarSpec& spec) {
    auto matcher = compiler->start(spec);
    std::string text;
    while (!may_come(matcher->mask(), 256) && text.size() < 1000) {
      int32_t token = 0;
      while (token < 256 && !may_come(matcher->mask(), token)) ++token;
      if (!matcher->accept(token)) break;
      text += static_cast<char>(token);
    }
    return text;
  };
  std::vector<std::string> texts{"\u00e9a7", "\u041bf\u00ff0", "a\"\\b\"", "/d\\n", "\ue000a", "😀1", std::string("\0a", 2) + "7"};
  for (unsigned char c = 1; c < 0x80; ++c) texts.push_back(std::string(1, static_cast<char>(c)) + "a7" + static_cast<char>(c));
  for (const std::string& text : texts) {
    const nlohmann::json value{{text, {text, {{"k" + text, text}}}}};
    const nlohmann::json object{{"type", "object"}, {"properties", {{text, {{"enum", {value}}}}}}, {"required", {text}}}, expected{{text, value}};
    const GrammarSpec as_schema = schema(object.dump(), false);
    EXPECT_EQ(nlohmann::json::parse(answer_of(as_schema), nullptr, false), expected) << text;
    const nlohmann::json inside{{"type", "json_schema"}, {"json_schema", nlohmann::json::parse(as_schema.text)}, {"max_whitespace_cnt", 1}};
    const nlohmann::json row{{"type", "sequence"}, {"elements", {{{"type", "const_string"}, {"value", text}}, inside}}};
    const std::string answer = answer_of({Kind::kStructure, row.dump(), {}});
    ASSERT_TRUE(answer.starts_with(text)) << text << ": " << answer;
    EXPECT_EQ(nlohmann::json::parse(answer.substr(text.size()), nullptr, false), expected) << text;
  }
  for (const char* number : {"9223372036854775807", "-9223372036854775808", "9007199254740993"})
    EXPECT_EQ(answer_of(schema(fmt::format(R"({{"const": {}}})", number))), number);
  // With the fewest digits, as models have seen them.
  for (const auto& [given, written] : std::initializer_list<std::pair<const char*, const char*>>{{"0.1", "0.1"},
                                                                                                 {"0.70", "0.7"},
                                                                                                 {"1.1", "1.1"},
                                                                                                 {"-99.99", "-99.99"},
                                                                                                 {"0.30000000000000004", "0.30000000000000004"},
                                                                                                 {"100.0", "100"},
                                                                                                 {"123456789012345.6", "123456789012345.6"},
                                                                                                 {"0.0001", "0.0001"},
                                                                                                 {"0.00001", "1e-05"},
                                                                                                 {"1e21", "1e+21"},
                                                                                                 {"1.7976931348623157e308", "1.7976931348623157e+308"},
                                                                                                 {"5e-324", "5e-324"}}) {
    EXPECT_EQ(answer_of(schema(fmt::format(R"({{"const": {}}})", given))), written);
    EXPECT_EQ(answer_of(schema(fmt::format(R"({{"enum": [{{"a": [{}]}}]}})", given), false)), fmt::format(R"({{"a":[{}]}})", written));
  }
  const GrammarSpec shares = schema(R"({"enum": [0.1, 0.2, 0.7]})");
  for (const char* share : {"0.1", "0.2", "0.7"}) EXPECT_TRUE(takes(shares, share)) << share;
  for (const char* share : {"0.69999999999999996", "0.10", "0.3"}) EXPECT_FALSE(takes(shares, share)) << share;
}

/// xgrammar would take it for the end.
TEST_F(Grammars, RefuseNulBytesOfGrammars) {
  for (const std::string& grammar : {"root ::= \"a\"" + std::string(1, '\0') + " | \"b\"", "root ::= \"a\" # c" + std::string(1, '\0') + "\n\"b\""}) try {
      check_grammar({Kind::kEbnf, grammar, {}});
      ADD_FAILURE() << grammar;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("of the grammar is a NUL byte"));
    }
  EXPECT_TRUE(takes({Kind::kEbnf, R"(root ::= "a\u0000b" [\u0000])", {}}, std::string("a\0b\0", 4)));
}

/// Of a whole text that must match, anchors of alternatives say nothing.
TEST_F(Grammars, FollowAnchorsOfAlternatives) {
  for (const GrammarSpec& spec : {GrammarSpec{Kind::kRegex, "^a$|^(bc)$|d$", {}}, schema(R"({"type": "string", "pattern": "^a$|^(bc)$|d$"})")}) {
    const std::string quote = spec.kind == Kind::kRegex ? "" : "\"";
    for (const char* text : {"a", "bc", "d"}) EXPECT_TRUE(takes(spec, quote + text + quote)) << text;
    for (const char* text : {"", "b", "abc", "ad"}) EXPECT_FALSE(takes(spec, quote + text + quote)) << text;
  }
}

/// Those that xgrammar would take for others.
TEST_F(Grammars, RefuseEscapesOfGrammars) {
  for (const char* grammar : {R"(root ::= "\x41b")", R"(root ::= [\x00-\x1fa])", R"(root ::= "\ud83d\ude00")", R"(root ::= [^\udc00])",
                              R"(root ::= "\U00110000")", "root ::= \"a\" # \"\nb ::= \"\\\"\\x411\""})
    try {
      check_grammar({Kind::kEbnf, grammar, {}});
      ADD_FAILURE() << grammar;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("the escape \\")) << grammar;
    }
  EXPECT_TRUE(takes({Kind::kEbnf, "root ::= \"\\x41\" [\\x42-\\x43\\]\"] \"\\u00e9a\\U0001f600\" # \\x411", {}}, "A\"éa😀"));
}

TEST_F(Grammars, RefuseCountsThatTakeTooLong) {
  const auto grammar = [](int count) {
    std::string text = "root ::= \"{9999}\"";
    for (int i = 1; i <= count; ++i) text += fmt::format(" | [a-z]{{{}}} \"x\"", i);
    return GrammarSpec{Kind::kEbnf, text + " # {9999}", {}};
  };
  EXPECT_NO_THROW(check_grammar(grammar(127)));
  EXPECT_THROW(check_grammar(grammar(128)), Error);
}

/// All texts of up to three of the letters 'a' to 'y' and a blank, the shortest first; then an end token.
class Words : public Tokenizer {
 public:
  Words() {
    words_.emplace_back();
    for (size_t i = 0; words_.size() <= kWords; ++i)
      for (const char c : std::string("abcdefghijklmnopqrstuvwxy ")) words_.push_back(words_[i] + c);
    words_.erase(words_.begin());
    words_.resize(kWords);
  }
  std::vector<int32_t> encode(std::string_view text, bool) const override {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(c - 'a');
    return ids;
  }
  std::string decode(std::span<const int32_t>, bool) const override { return ""; }
  std::string token_text(int32_t token) const override { return token_bytes(token); }
  std::string token_bytes(int32_t token) const override { return static_cast<size_t>(token) < kWords ? words_[static_cast<size_t>(token)] : ""; }
  bool is_byte_token(int32_t) const override { return false; }
  int64_t vocab_size() const override { return kWords + 1; }
  std::span<const int32_t> prefix() const override { return {}; }
  std::optional<int32_t> eos() const override { return static_cast<int32_t>(kWords); }

 private:
  static constexpr size_t kWords = 26 + 26 * 26 + 26 * 26 * 26;
  std::vector<std::string> words_;
};

/// Each letter may go on with a word, or begin another one, so there are 2^40 ways.
TEST_F(Grammars, MasksOfPatternsThatReadATextInManyWaysAreFast) {
  const Words words;
  const std::string text(40, 'a');
  const std::vector<int32_t> tokens = words.encode(text, false);
  const auto of_words = GrammarCompiler::create(words, words.vocab_size(), {*words.eos()}, 1 << 20);
  const auto start = std::chrono::steady_clock::now();
  for (const char* pattern : {R"((\w+\s?)*x)", "((a|b|ab)+c?)*x", "(([a-z]+ ?)+,?)+x"}) {
    const auto matcher = of_words->start({Kind::kRegex, pattern, {}});
    for (const int32_t token : tokens) {
      EXPECT_TRUE(may_come(matcher->mask(), token)) << pattern;
      ASSERT_TRUE(matcher->accept(token)) << pattern;
    }
    EXPECT_FALSE(may_come(matcher->mask(), *words.eos())) << pattern;
    ASSERT_TRUE(matcher->accept('x' - 'a')) << pattern;
    EXPECT_TRUE(may_come(matcher->mask(), *words.eos())) << pattern;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Texts that differ in their bounds alone share what is written out.
TEST_F(Grammars, OfManyLengthsTakeTheTimeOfOne) {
  const Words words;
  const auto of_words = GrammarCompiler::create(words, words.vocab_size(), {*words.eos()}, 1 << 20);
  const auto lengths = [](int count) {
    std::string text;
    for (int i = 0; i < count; ++i)
      text += fmt::format(R"({}"p{}": {{"type": "string", "minLength": {}, "maxLength": {}}})", i > 0 ? ", " : "", i, i % 2, 128 + 17 * i);
    return schema("{\"type\": \"object\", \"properties\": {" + text + "}}");
  };
  const double one = seconds_of([&] { of_words->start(lengths(1)); }), many = seconds_of([&] { of_words->start(lengths(32)); });
  EXPECT_LT(many, 8 * one + 1) << "it was 32 times " << one << " s";
}

/// Written out, 4000 characters took 15 s.
TEST_F(Grammars, LongRepetitionsOfPatternsAreCheckedSoon) {
  EXPECT_LT(seconds_of([] { check_grammar(schema(R"({"type": "string", "pattern": "^.{0,4000}$"})")); }), 2);
}

TEST_F(Grammars, FollowASchema) {
  const GrammarSpec spec = schema(R"({"type": "object", "properties": {"z": {"type": "integer"}, "a": {"enum": ["é", null]}}, "required": ["z", "a"]})");
  EXPECT_TRUE(takes(spec, R"({"z": 1, "a": "é"})"));
  EXPECT_TRUE(takes(spec, "{\n  \"z\":-3,\n  \"a\": null}"));
  EXPECT_FALSE(takes(spec, R"({"a": null, "z": 1})")) << "properties come in the schema's order";
  EXPECT_FALSE(takes(spec, R"({"z": 1.5, "a": null})"));
  EXPECT_FALSE(takes(spec, R"({"z": 1, "a": null, "b": 1})"));
  EXPECT_FALSE(takes(schema(R"({"type": "array", "items": {"type": "null"}})", false), "[null,null]"));
  EXPECT_TRUE(takes(schema(R"({"type": "array", "items": {"type": "null"}})", false), "[null, null]"));
  EXPECT_FALSE(takes(schema(R"({"type": "string", "maxLength": 5})"), "\"a\x10\"")) << "control characters are escaped in JSON";
  EXPECT_TRUE(takes({Kind::kJsonObject, "", {}}, R"({"k": [1, {"l": "\u00e9"}]})"));
  EXPECT_FALSE(takes({Kind::kJsonObject, "", {}}, "[1]"));
}

TEST_F(Grammars, MaskTokensOfSeveralBytes) {
  auto matcher = compiler->start({Kind::kChoice, "", {"\"abc"}});
  EXPECT_TRUE(may_come(matcher->mask(), 257));
  EXPECT_TRUE(matcher->accept(257));
  EXPECT_FALSE(may_come(matcher->mask(), 257));
  EXPECT_TRUE(may_come(matcher->mask(), 'b'));
}

/// Bytes, and tokens of several that begin or end within characters, as byte-level tokenizers have them.
class Pieces : public Bytes {
 public:
  std::string token_bytes(int32_t token) const override { return token < 257 ? Bytes::token_bytes(token) : kPieces[static_cast<size_t>(token - 257)]; }
  int64_t vocab_size() const override { return 257 + std::ssize(kPieces); }

 private:
  const std::vector<std::string> kPieces{"\xb6lf",       "\xb6\xd0", "\xd0\xb0\xd1",     "\x80\xd0\xb0", "\xb8\xad\xe4", "\xb8\xad\"",
                                         "\xad\n",       "\xad\xad", "\x98\x80\xf0",     "\x80x",        "\xe4\xb8",     "\xf0\x9f",
                                         "\x9f\x98\x80", "a\xd0",    "\xd0\xb0\xd0\xb0", "\xb0\xd0\xb0"};
};

/// In the mask are the tokens that can come, and no others.
TEST_F(Grammars, MasksHoldWithinCharacters) {
  const Pieces pieces;
  const int64_t vocab = pieces.vocab_size();
  const auto of_pieces = GrammarCompiler::create(pieces, vocab, {256}, 1 << 20);
  const std::vector<GrammarSpec> specs{{Kind::kRegex, "[а-я]{1,200}", {}},
                                       {Kind::kRegex, "[\\u4e00-\\u9fff]{0,3000}1", {}},
                                       {Kind::kRegex, "[а-я]*", {}},
                                       {Kind::kRegex, "([а-я]{0,200},){0,200}", {}},
                                       {Kind::kRegex, "[\U0001f600-\U0001f64f]{200}", {}},
                                       {Kind::kRegex, ".{0,300}", {}},
                                       {Kind::kEbnf, "root ::= \"a\" [а-я中]{0,300}", {}},
                                       schema(R"({"type": "string", "maxLength": 300})"),
                                       schema(R"({"type": "string", "pattern": "^[^a]{0,200}$"})"),
                                       schema(R"({"type": "string", "pattern": "^[\\u0430-\\u044f]{1,200}$"})")};
  for (const GrammarSpec& spec : specs)
    for (const std::string start :
         {"\xd0", "а", "а\xd1", "\xe4", "\xe4\xb8", "中\xe4\xb8", "\xf0", "\xf0\x9f\x98", "😀\xf0\x9f", "a\xd0", "aа\xe4\xb8", "\"\xe4\xb8", "\"а\xf0\x9f"}) {
      const auto at_start = [&]() -> std::unique_ptr<GrammarMatcher> {
        auto matcher = of_pieces->start(spec);
        for (const unsigned char byte : start)
          if (!matcher->accept(byte)) return nullptr;
        return matcher;
      };
      const auto matcher = at_start();
      if (!matcher) continue;
      const TokenMask mask = matcher->mask();
      for (int32_t token = 0; token < vocab; ++token)
        EXPECT_EQ(may_come(mask, token), at_start()->accept(token)) << spec.text << ": " << token << " behind " << testing::PrintToString(start);
    }
}

/// Bytes, and tokens that go on behind a text or end with it.
class Endings : public Bytes {
 public:
  std::string token_bytes(int32_t token) const override { return token < 257 ? Bytes::token_bytes(token) : kEndings[static_cast<size_t>(token - 257)]; }
  int64_t vocab_size() const override { return 257 + std::ssize(kEndings); }

 private:
  const std::vector<std::string> kEndings{"bb", "bbb",  "bbbbbbb", "b\"",  "bbb\"", "\", ",    "\"}", "b\"}", "bb\", \"",
                                          "bx", "bbbx", "xb",      "bxbb", "by",    "bxbbbbb", "bé",  "\xc3", "\xa9x"};
};

/// Ranges of many lengths share rules. In the mask are the tokens that can come, and no others, near the least and the most of each.
TEST_F(Grammars, MasksHoldAtTheEndsOfLengths) {
  const Endings endings;
  const int64_t vocab = endings.vocab_size();
  const auto of_endings = GrammarCompiler::create(endings, vocab, {256}, 1 << 20);
  const GrammarSpec lengths = schema(
      R"({"type": "object", "properties": {"a": {"type": "string", "maxLength": 130}, "b": {"type": "string", "minLength": 4, "maxLength": 200},
      "c": {"type": "string", "maxLength": 9}, "d": {"type": "string", "minLength": 131, "maxLength": 140}, "e": {"type": "string", "minLength": 133},
      "f": {"type": "string", "maxLength": 128}}})",
      false);
  const GrammarSpec letters{
      Kind::kEbnf, R"(root ::= [a-c]{0,140} "x" [a-c]{3,150} "x" | [a-c]{5,170} "y" | [a-c]{132,} "x" | "z" [a-c]{0,139} [xy] | "w" [a-c]{0,140})", {}};
  const std::pair<const GrammarSpec*, std::string> starts[] = {{&lengths, R"({"a": ")"}, {&lengths, R"({"a": "", "b": ")"},
                                                               {&lengths, R"({"c": ")"}, {&lengths, R"({"d": ")"},
                                                               {&lengths, R"({"e": ")"}, {&lengths, R"({"f": ")"},
                                                               {&letters, ""},           {&letters, "x"},
                                                               {&letters, "z"},          {&letters, "w"}};
  for (const auto& [spec, start] : starts)
    for (const int count : {0, 1, 3, 4, 5, 7, 8, 9, 10, 125, 127, 128, 129, 130, 131, 133, 138, 139, 140, 148, 150, 168, 170, 197, 200}) {
      const auto at_start = [&]() -> std::unique_ptr<GrammarMatcher> {
        auto matcher = of_endings->start(*spec);
        for (const unsigned char byte : start + std::string(static_cast<size_t>(count), 'b'))
          if (!matcher->accept(byte)) return nullptr;
        return matcher;
      };
      auto matcher = at_start();
      if (!matcher) continue;
      const TokenMask mask = matcher->mask();
      for (int32_t token = 0; token < vocab; ++token) {
        if (token < 256 && std::string_view("bdxy\",\xc3").find(static_cast<char>(token)) == std::string_view::npos) continue;
        const bool comes = matcher->accept(token);
        EXPECT_EQ(may_come(mask, token), comes) << testing::PrintToString(endings.token_bytes(token)) << " behind " << start << " and " << count
                                                << " characters";
        if (comes) matcher = at_start();
      }
    }
}

/// Bytes, and tokens of two ASCII characters each.
class Pairs : public Bytes {
 public:
  std::string token_bytes(int32_t token) const override {
    if (token < 257) return Bytes::token_bytes(token);
    const auto pair = static_cast<size_t>(token - 257);
    return {kCharacters[pair / kCharacters.size()], kCharacters[pair % kCharacters.size()]};
  }
  int64_t vocab_size() const override { return 257 + static_cast<int64_t>(kCharacters.size() * kCharacters.size()); }

 private:
  static constexpr std::string_view kCharacters = "abxyz09 .,\n-_AZ";
};

/// Classes of what may not come have characters beyond ASCII, whose low bytes may be those of others.
TEST_F(Grammars, MasksHoldBeforeClassesOfManyCharacters) {
  const Pairs pairs;
  const int64_t vocab = pairs.vocab_size();
  const auto of_pairs = GrammarCompiler::create(pairs, vocab, {256}, 1 << 20);
  std::vector<int32_t> taken;
  for (const char* pattern : {"[^a]{129}", "[^\\n]{1,200}", "\\S{1,129}", "[^,]{1,200},", "\\w?\\W*a", "[a-z]?[^a-z]*x", "(\\w|)\\W*a", "[^.]{130}\\."}) {
    const auto matcher = of_pairs->start({Kind::kRegex, pattern, {}});
    for (int step = 0; step < 4; ++step) {
      const TokenMask mask = matcher->mask();
      int32_t next = -1;
      for (int32_t token = 0; token < vocab; ++token) {
        const auto tried = of_pairs->start({Kind::kRegex, pattern, {}});
        for (const int32_t before : taken) ASSERT_TRUE(tried->accept(before));
        const bool comes = tried->accept(token);
        EXPECT_EQ(may_come(mask, token), comes) << pattern << ": " << testing::PrintToString(pairs.token_bytes(token)) << " behind " << taken.size()
                                                << " tokens";
        if (comes && token > 256 && (token % 7 == step || next < 0)) next = token;
      }
      if (next < 0) break;
      ASSERT_TRUE(matcher->accept(next));
      taken.push_back(next);
    }
    taken.clear();
  }
}

TEST(JsonSchema, IsRefusedByTheNameOfWhatCannotBeHonoured) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"not": {}})", "'not'"},
      {R"({"not": {"minLength": 2}})", "'not'"},
      {R"({"type": "string", "not": {"const": "a"}})", "'not' of values"},
      {R"({"if": {"minLength": 2}})", "'if'"},
      {R"({"if": {"properties": {"a": {"minimum": 2}}}})", "'if'"},
      {R"({"type": "array", "uniqueItems": true})", "'uniqueItems'"},
      {R"({"type": "array", "uniqueItems": true, "items": {"type": "string", "maxLength": 3}})", "'uniqueItems'"},
      {R"({"oneOf": [{"type": "object", "properties": {"k": {"const": 1}}, "required": ["k"]}, {"type": "object", "properties": {"z": {}}}]})", "'oneOf'"},
      {R"({"oneOf": [{"format": "password"}, {"type": "integer"}]})", "'oneOf'"},
      {R"({"oneOf": [{"properties": {"k": {"const": "x"}}, "required": ["k"]}, {"properties": {"b": {"enum": [1]}}}]})", "'oneOf'"},
      {R"({"oneOf": [{"properties": {"k": {"const": "x"}}}, {"properties": {"a": {}}, "required": ["a"]}]})", "'oneOf'"},
      {R"({"type": "array", "contains": {}})", "'contains'"},
      {R"({"type": "object", "properties": {"a": {"type": "array", "items": {"frobnicate": 1}}}})", "at properties/a/items: 'frobnicate'"},
      {R"({"type": "object", "dependentRequired": []})", "'dependentRequired'"},
      {R"({"$ref": "http://x/y"})", "http://x/y"},
      {R"({"$ref": "#/$defs/a"})", "#/$defs/a"},
      {R"({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})", "leads to itself"},
      {R"({"$ref": "#", "type": "object"})", "without an end"},
      {R"({"$ref": "#", "minProperties": 1})", "leads to itself"},
      {R"({"type": "object", "required": ["a"], "additionalProperties": false})", "'a'"},
      {R"({"type": "object", "required": ["a"], "properties": {"a": false}})", "'a', which may not come"},
      {R"({"type": "string", "format": "iri"})", "'format'"},
      {R"({"allOf": [{"pattern": "a"}, {"pattern": "b"}]})", "'pattern' of two parts"},
      {R"({"allOf": [{"type": "string"}, {"type": "object"}]})", "no value fits"},
      {R"({"properties": {"x": {"allOf": [{"additionalProperties": false}, {"required": ["a"]}]}}})", "at properties/x: no value fits"},
      {R"({"allOf": [{"unevaluatedProperties": true}, {"required": ["a"]}]})", "'unevaluatedProperties' in a part"},
      {R"({"type": "object", "properties": {"xa": {}}, "patternProperties": {"^x": {}}})", "speaks of 'xa'"},
      {R"({"type": "string", "minLength": 1, "nullable": 1})", "'nullable'"},
      {R"({"anyOf": [{"type": "string"}], "nullable": true})", "'nullable' is supported beside 'type'"},
      {R"({"enum": [1, 2], "minimum": 3})", "'enum' has no value that fits 'minimum'"},
      {R"({"type": "integer", "enum": [1, "a"]})", "'enum'"},
      {R"({"type": "string", "maxLength": 1000000000})", "'maxLength'"},
      {R"({"type": "str"})", "'type'"},
      {R"([1])", "array"},
      {R"({"type": "string", "pattern": "é"})", "'pattern'"},
      {R"({"minLength": 1, "minItems": 1})", "beside keywords"},
      {"{", "not JSON"},
      {"false", "false"},
      {R"({"type": ["string", "null"], "minimum": 1})", "'minimum' with these types"},
      {R"({"const": 12345678901234567890123})", "12345678901234567890123"},
      {R"({"enum": [-9223372036854775809]})", "64 bits"},
      {R"({"enum": [1, 18446744073709551615]})", "'enum' has a whole number beyond"},
      {R"({"const": {"a": [9223372036854775808]}})", "'const' has a whole number beyond"},
      {R"({"type": ["integer", "number"], "multipleOf": 5, "minimum": 0})", "'multipleOf' with the type number"},
      {R"({"type": ["number", "string", "integer"], "multipleOf": 5})", "'multipleOf' with the type number"},
      {R"({"type": "string", "pattern": "^a\\tb$"})", "'pattern' cannot be followed: at byte 3 of the pattern: '\"', '\\' and control"},
      {R"({"type": "object", "patternProperties": {"\\u0022": {}}})", "'patternProperties' cannot be followed"},
      {R"({"type": "object", "propertyNames": {"pattern": "[\\x00-\\x1f]"}})", "at propertyNames: 'pattern' cannot be followed"}};
  for (const auto& [json, part] : cases) {
    try {
      honoured_schema(json);
      ADD_FAILURE() << json;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(part)) << json;
    }
  }
  EXPECT_THROW(honoured_schema(std::string(100'000, '[')), Error);
  // Which of two would count?
  EXPECT_THROW(honoured_schema(R"({"type": "string", "type": "integer"})"), Error);
  EXPECT_THROW(honoured_schema(R"({"const": 1e999})"), Error);
}

TEST(JsonSchema, WhatTakesTooLongToCompileIsRefused) {
  const auto properties = [](int count, const auto& schema) {
    std::string text;
    for (int i = 0; i < count; ++i) text += fmt::format(R"({}"p{}": {})", i > 0 ? ", " : "", i, schema(i));
    return "{\"type\": \"object\", \"properties\": {" + text + "}";
  };
  const auto string_to = [](int most) { return fmt::format(R"({{"type": "string", "maxLength": {}}})", most); };
  const auto string_from = [](int least) { return fmt::format(R"({{"type": "string", "minLength": {0}, "maxLength": {0}}})", least); };
  EXPECT_NO_THROW(honoured_schema(properties(1000, string_to) + "}"));
  EXPECT_NO_THROW(honoured_schema(properties(40, string_from) + "}"));
  EXPECT_NO_THROW(honoured_schema(properties(1000, [&](int) { return string_from(100); }) + "}"));
  EXPECT_NO_THROW(honoured_schema(properties(1000, [&](int i) { return string_from(129 + i); }) + "}"));
  EXPECT_THROW(honoured_schema(properties(1100, [&](int i) { return fmt::format(R"({{"type": "string", "minLength": {}}})", 129 + i); }) + "}"), Error);
  try {
    honoured_schema(properties(50, string_from) + "}");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("at properties/p45: the different 'minLength' up to 128 come to more than 1024 characters together"));
  }
  const auto anything = [](int) { return "{}"; };
  for (const char* count : {R"(, "minProperties": 50})", R"(, "maxProperties": 50})"}) {
    EXPECT_THROW(honoured_schema(properties(100, anything) + count), Error) << count;
    EXPECT_NO_THROW(honoured_schema(properties(60, anything) + count)) << count;
  }
  EXPECT_NO_THROW(honoured_schema(properties(100, anything) + R"(, "minProperties": 1})"));
}

TEST(JsonSchema, PatternsAreBoundedTogether) {
  const auto schema_of = [](int count, const auto& text) {
    std::string all;
    for (int i = 0; i < count; ++i) all += fmt::format(R"({}"p{}": {})", i > 0 ? ", " : "", i, text(i));
    return "{\"type\": \"object\", \"properties\": {" + all + "}}";
  };
  const auto counted = [](int i) { return fmt::format(R"({{"pattern": "^[a-z]{{{}}}$"}})", 2000 + i); };
  const auto plain = [](int i) { return fmt::format(R"({{"pattern": "{}{}"}})", std::string(500, 'a'), i); };
  const auto same = [](int i) { return fmt::format(R"({{"type": "string", "title": "{0}", "x-number": {0}, "pattern": "a{{8000}}"}})", i); };
  const auto names = [](int i) { return fmt::format(R"({{"patternProperties": {{"a{{400}}": {{"const": {}}}}}}})", i); };
  EXPECT_NO_THROW(honoured_schema(schema_of(4, counted)));
  EXPECT_NO_THROW(honoured_schema(schema_of(16, plain)));
  EXPECT_NO_THROW(honoured_schema(schema_of(100, same))) << "one pattern";
  EXPECT_NO_THROW(honoured_schema(schema_of(20, names)));
  for (const std::string& schema : {schema_of(5, counted), schema_of(17, plain), schema_of(21, names)}) EXPECT_THROW(honoured_schema(schema), Error);
  try {
    honoured_schema(schema_of(5, counted));
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::HasSubstr("at properties/p4: 'pattern' and the patterns before it have more than 8192 characters"),
                                             testing::HasSubstr("give several the same")));
  }
  double characters = 0;
  EXPECT_NO_THROW(honoured_schema(schema_of(4, counted), &characters));
  EXPECT_EQ(characters, 2000 + 2001 + 2002 + 2003);
  EXPECT_THROW(honoured_schema(schema_of(1, counted), &characters), Error) << "together with the schemas before it";
}

TEST(JsonSchema, KeepsTheOrderAndNarrowsWhatIsOpen) {
  EXPECT_EQ(honoured_schema(R"({"properties": {"b": true, "a": {"minLength": 1}}})"),
            R"({"properties":{"b":{},"a":{"minLength":1,"type":"string"}},"type":"object","additionalProperties":false})");
  EXPECT_EQ(honoured_schema(R"({"oneOf": [{"type": "string"}, {"enum": [1, null]}]})"), R"({"anyOf":[{"type":"string"},{"enum":[1,null]}]})");
  EXPECT_EQ(honoured_schema(R"({"oneOf": [{"type": "integer"}, {"const": 1.5}]})"), R"({"anyOf":[{"type":"integer"},{"const":1.5}]})");
  EXPECT_THROW(honoured_schema(R"({"oneOf": [{"type": "integer"}, {"const": 1.0}]})"), Error) << "1.0 is an integer";
  EXPECT_EQ(honoured_schema(R"({"oneOf": [{"type": ["string", "null"]}, {"anyOf": [{"const": 1}, {"type": "boolean"}]}]})"),
            R"({"anyOf":[{"anyOf":[{"type":"string"},{"type":"null"}]},{"anyOf":[{"const":1},{"type":"boolean"}]}]})");
  for (const char* fitting : {R"({"oneOf": [{"$ref": "#/$defs/A"}, {"type": "null"}], "$defs": {"A": {"minLength": 1}}})",
                              R"({"oneOf": [{"$ref": "#/$defs/A"}, {"type": "number"}], "$defs": {"A": {"type": ["integer", "string"]}}})",
                              R"({"type": "object", "properties": {"a": {"oneOf": [{"$ref": "#"}, {"type": ["object", "null"]}]}}})"})
    EXPECT_THROW(honoured_schema(fitting), Error) << "two may fit: " << fitting;
  EXPECT_THAT(
      honoured_schema(R"({"oneOf": [{"$ref": "#/$defs/A"}, {"type": "null"}], "$defs": {"A": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/A"}]}}})"),
      testing::HasSubstr(R"("anyOf":[{"$ref")"))
      << "a schema that leads to itself";
  for (const char* nowhere : {"#/oneOf/99999999999999999999999", "#/oneOf/01", "#/oneOf/-", "#/oneOf/x", "#/a~2", "a"})
    EXPECT_THROW(honoured_schema(fmt::format(R"({{"oneOf": [{{"$ref": "{}"}}, {{"type": "null"}}]}})", nowhere)), Error) << nowhere;
  EXPECT_EQ(honoured_schema(R"({"minLength": 2.0, "maxLength": 3e0})"), R"({"minLength":2,"maxLength":3,"type":"string"})");
  EXPECT_THROW(honoured_schema(R"({"minLength": 2.5})"), Error);
  EXPECT_EQ(honoured_schema(R"({"type": ["array", "null"]})"), R"({"anyOf":[{"type":"array","items":{}},{"type":"null"}]})");
  EXPECT_EQ(honoured_schema(R"({"type": ["string", "number", "integer", "null"], "title": "t", "maximum": 5, "maxLength": 3})"),
            R"({"title":"t","anyOf":[{"type":"string","maxLength":3},{"type":"number","maximum":5},{"type":"integer","maximum":5},{"type":"null"}]})")
      << "each keyword speaks of its type";
  EXPECT_EQ(
      honoured_schema(R"({"type": ["array", "null"], "items": {"type": ["object", "null"], "properties": {"a": true}}})"),
      R"({"anyOf":[{"type":"array","items":{"anyOf":[{"type":"object","properties":{"a":{}},"additionalProperties":false},{"type":"null"}]}},{"type":"null"}]})");
  for (const char* number : {"9223372036854775807", "-9223372036854775808", "1.5", "1e+300"}) {
    const std::string schema = fmt::format(R"({{"const":{},"title":"12345678901234567890123"}})", number);
    EXPECT_EQ(honoured_schema(schema), schema);
  }
}

TEST(JsonSchema, NarrowsBoundsOfWholeNumbersThatAreTooLong) {
  EXPECT_EQ(honoured_schema(R"({"type":"integer","minimum":-9007199254740991,"maximum":9007199254740991})"),
            R"({"type":"integer","minimum":-999999999999999,"maximum":999999999999999})");
  EXPECT_EQ(honoured_schema(R"({"type":"integer","exclusiveMinimum":-9223372036854775808,"exclusiveMaximum":18446744073709551615})"),
            R"({"type":"integer","exclusiveMinimum":-1000000000000000,"exclusiveMaximum":1000000000000000})");
  EXPECT_EQ(honoured_schema(R"({"type":"integer","format":"uint32","minimum":0})"), R"({"type":"integer","minimum":0,"maximum":4294967295})");
  EXPECT_EQ(honoured_schema(R"({"type":"integer","format":"uint"})"), R"({"type":"integer","minimum":0,"maximum":999999999999999})");
  EXPECT_EQ(honoured_schema(R"({"type":"integer","format":"uint8","exclusiveMinimum":0})"), R"({"type":"integer","exclusiveMinimum":0,"maximum":255})");
  for (const char* none : {R"({"type":"integer","minimum":9007199254740991})", R"({"type":"integer","maximum":-1e16})", R"({"type":"number","maximum":1e16})",
                           R"({"type":"integer","format":"uint","exclusiveMinimum":-5})"})
    EXPECT_THROW(honoured_schema(none), Error) << none;
}

TEST(JsonSchema, LeavesOutWhatSaysTheSameTwice) {
  EXPECT_EQ(honoured_schema(R"({"const":"cat","enum":["cat","dog"],"type":"string"})"), R"({"const":"cat"})");
  EXPECT_EQ(honoured_schema(R"({"enum":["","ab","é",3],"minLength":1,"maxLength":1})"), R"({"enum":["é",3]})");
  EXPECT_EQ(honoured_schema(R"({"enum":[1,2,"a",3.5,4],"exclusiveMinimum":1,"maximum":3.5})"), R"({"enum":[2,"a",3.5]})");
  EXPECT_EQ(honoured_schema(R"({"type":"string","anyOf":[{"const":"a"},{"enum":["b"]},{"minLength":3}]})"),
            R"({"anyOf":[{"const":"a"},{"enum":["b"]},{"minLength":3,"type":"string"}]})");
  EXPECT_EQ(honoured_schema(R"({"type":"number","oneOf":[{"type":"integer","maximum":1},{"const":2.5}]})"),
            R"({"anyOf":[{"type":"integer","maximum":1},{"const":2.5}]})");
  EXPECT_EQ(honoured_schema(R"({"type":"object","oneOf":[{"$ref":"#/$defs/A"}],"$defs":{"A":{"type":"object","properties":{"a":{"type":"null"}}}}})"),
            R"({"anyOf":[{"$ref":"#/$defs/d1"}],"$defs":{"d1":{"type":"object","properties":{"a":{"type":"null"}},"additionalProperties":false}}})");
  EXPECT_EQ(honoured_schema(R"({"type":"array","items":[{"type":"null"}],"additionalItems":false})"),
            R"({"type":"array","items":false,"prefixItems":[{"type":"null"}]})");
  for (const auto& [json, part] : {std::pair{R"({"const":"cat","enum":["dog"]})", "'const' has a value that is not in the 'enum'"},
                                   std::pair{R"({"const":"cat","maxLength":2})", "'const' has no value of the length"},
                                   std::pair{R"({"type":"string","anyOf":[{"const":1}]})", "no value fits"}})
    try {
      honoured_schema(json);
      ADD_FAILURE() << json;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(part)) << json;
    }
}

TEST_F(Grammars, FollowLengthsBesidePatterns) {
  const auto fits = [&](const char* fields, const std::string& text) {
    return takes(schema(fmt::format(R"({{"type":"string",{}}})", fields)), '"' + text + '"');
  };
  for (const char* fields : {R"("pattern":"^[a-z]+$","minLength":2,"maxLength":3)", R"("pattern":"[a-z]{0,3}?","minLength":2)",
                             R"("pattern":"^[a-z]{2,3}$","minLength":1)", R"("pattern":"^(aa|bbb|[b-z][a-z](b|c)?|[a-z]{2})$","maxLength":3,"minLength":2)"}) {
    for (const char* text : {"aa", "bbb"}) EXPECT_TRUE(fits(fields, text)) << fields;
    for (const char* text : {"", "a", "bbbb", "A1"}) EXPECT_FALSE(fits(fields, text)) << fields << text;
  }
  EXPECT_TRUE(fits(R"("pattern":"\\u00e9*","minLength":2)", "ééé"));
  EXPECT_FALSE(fits(R"("pattern":"\\u00e9*","minLength":2)", "é"));
  EXPECT_TRUE(fits(R"("pattern":"^[\\[\\]$]*$","minLength":1,"maxLength":2)", "]$"));
  EXPECT_FALSE(fits(R"("pattern":"^[\\[\\]$]*$","minLength":1,"maxLength":2)", "]$["));
  for (const char* fields : {R"("pattern":"^[a-z]+[0-9]$","minLength":3)", R"("pattern":"a|b*","maxLength":2)", R"("pattern":"a{5}","maxLength":2)",
                             R"("pattern":"(ab)+","maxLength":9)"})
    EXPECT_THROW(fits(fields, ""), Error) << fields;
}

/// As tools and people write them: each schema with answers that it lets through, and others.
TEST_F(Grammars, FollowKeywordsThatStandTogether) {
  struct Case {
    const char* schema;
    std::vector<const char*> taken, not_taken;
  };
  const std::vector<Case> cases{
      {R"({"$ref":"#/$defs/A","type":"object","description":"d","$defs":{"A":{"type":"object","properties":{"a":{"type":"null"}}}}})",
       {R"({"a":null})"},
       {R"("")"}},
      {R"({"$ref":"#/$defs/A","required":["b"],"properties":{"b":{"type":"null"}},"$defs":{"A":{"type":"object","properties":{"a":{"type":"null"}},"required":["a"]}}})",
       {R"({"b":null,"a":null})"},
       {R"({"b":null})", R"({"a":null})"}},
      {R"({"allOf":[{"$ref":"#/definitions/A"},{"properties":{"b":{"enum":[1,2]}},"required":["b"]}],"definitions":{"A":{"properties":{"a":{"type":"null"},"b":{"type":"integer","const":2}}}}})",
       {R"({"a":null,"b":2})", R"({"b":2})"},
       {R"({"b":1})", R"({"a":null})"}},
      {R"({"allOf":[{"properties":{"a":{"type":"null"}},"additionalProperties":false},{"properties":{"a":{},"b":{}}}]})",
       {R"({"a":null})", "{}"},
       {R"({"b":1})", R"({"a":1})"}},
      {R"({"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"}},"anyOf":[{"required":["a"]},{"required":["b"]}]})",
       {R"({"a":null})", R"({"b":null})", R"({"a":null,"b":null})"},
       {"{}"}},
      {R"({"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"}},"oneOf":[{"required":["a"]},{"required":["b"]}]})",
       {R"({"a":null})", R"({"b":null})"},
       {"{}", R"({"a":null,"b":null})"}},
      {R"({"type":"object","properties":{"k":{"enum":["x","y"]},"n":{"type":"null"}},"required":["k"],"if":{"properties":{"k":{"const":"x"}}},"then":{"required":["n"]}})",
       {R"({"k":"x","n":null})", R"({"k":"y"})"},
       {R"({"k":"x"})"}},
      {R"({"properties":{"a":{"type":"null"},"b":{"type":"null"}},"dependentRequired":{"a":["b"]}})",
       {"{}", R"({"b":null})", R"({"a":null,"b":null})"},
       {R"({"a":null})"}},
      {R"({"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"}},"not":{"required":["b"]}})", {"{}", R"({"a":null})"}, {R"({"b":null})"}},
      {R"({"enum":["a","b","c"],"not":{"enum":["b"]}})", {R"("a")", R"("c")"}, {R"("b")"}},
      {R"({"type":["string","null","integer"],"not":{"type":"string"},"maximum":5})", {"null", "5"}, {R"("a")"}},
      {R"({"type":"object","required":["x"],"additionalProperties":{"type":"null"}})", {R"({"x":null})"}, {"{}", R"({"x":1})"}},
      {R"({"type":"object","propertyNames":{"enum":["a","b"]},"additionalProperties":{"type":"null"},"required":["a"]})",
       {R"({"a":null,"b":null})"},
       {R"({"b":null})", R"({"c":null})"}},
      {R"({"type":"object","propertyNames":{"maxLength":3},"additionalProperties":false})", {"{}"}, {R"({"a":1})"}},
      {R"({"type":"object","properties":{"a":{"type":"null"}},"patternProperties":{"^x-":{"type":"string"}}})", {R"({"a":null})"}, {R"({"x-a":1})"}},
      {R"({"type":"object","properties":{"a":{"type":"null"}},"unevaluatedProperties":false})", {R"({"a":null})", "{}"}, {R"({"b":1})"}},
      {R"({"type":"string","nullable":true,"maxLength":1})", {"null", R"("a")"}, {R"("aa")", "1"}},
      {R"({"$ref":"#/$defs/a~1b%20~0","$defs":{"a/b ~":{"type":"null"}}})", {"null"}, {"1"}},
      {R"({"$id":"https://x.y/z.json","$ref":"https://x.y/z.json#/$defs/a","$defs":{"a":{"type":"null"},"unused":{"frobnicate":1}}})", {"null"}, {"1"}},
      {R"({"type":"array","items":{"$ref":"#/prefixItems/0"},"prefixItems":[{"type":"null"}]})", {"[null, null]"}, {"[1]"}},
      {R"({"type":"object","properties":{"n":{"allOf":[{"$ref":"#"},{"required":["v"]}]},"v":{"type":"null"}}})",
       {R"({"n":{"n":{"v":null},"v":null}})", "{}"},
       {R"({"n":{}})"}},
      {R"({"oneOf":[{"const":"a","x-y":1},{"const":"b"},{"type":"null"},{"enum":[1,2]}]})", {R"("a")", "null", "2"}, {"3"}},
      {R"({"oneOf":[{"allOf":[{"$ref":"#/$defs/P"},{"properties":{"k":{"const":"a"}}}]},{"allOf":[{"$ref":"#/$defs/P"},{"properties":{"k":{"const":"b"}}}]}],"$defs":{"P":{"type":"object","properties":{"k":{"type":"string"}},"required":["k"]}}})",
       {R"({"k":"a"})", R"({"k":"b"})"},
       {R"({"k":"c"})", "{}"}},
      {R"({"oneOf":[{"type":"object","properties":{"k":{"const":"a"},"n":{"type":"null"}}},{"type":"object","properties":{"k":{"const":"b"}}},{"type":"null"}]})",
       {R"({"k":"a","n":null})", R"({"k":"b"})", "null"},
       {"{}", R"({"n":null})"}},
      {R"({"oneOf":[{"type":"object","properties":{"A":{"type":"null"}},"required":["A"],"additionalProperties":false},{"type":"object","properties":{"B":{"type":"null"}},"required":["B"]},{"enum":["C"]}]})",
       {R"({"A":null})", R"({"B":null})", R"("C")"},
       {"{}", R"({"A":null,"B":null})"}},
      {R"({"type":"array","uniqueItems":true,"minItems":1,"items":{"$ref":"#/$defs/I"},"$defs":{"I":{"enum":["a","b",1]}}})",
       {R"(["a"])", R"(["a",1])", R"(["a","b",1])"},
       {"[]", R"(["a","a"])"}},
      {R"({"type":"integer","minimum":1.5,"exclusiveMaximum":3.5})", {"2", "3"}, {"1", "4"}},
      {R"({"type":"array","prefixItems":[{"type":"null"},{"type":"integer"}],"maxItems":1})", {"[]", "[null]"}, {"[null, 1]"}},
      {R"({"type":"string","format":"email","maxLength":100})", {R"("a@b.org")"}, {R"("a@b")"}},
      {R"({"type":"string","format":"uuid","pattern":"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}|00000000-0000-0000-0000-000000000000)$"})",
       {R"("01234567-89ab-4def-8123-456789abcdef")"},
       {R"("01234567-89ab-0def-8123-456789abcdef")"}},
      {R"({"type":"string","format":"email","pattern":"^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$"})",
       {R"("a.b@c.org")"},
       {R"("a@b.c")", R"(".a@b.org")"}},
      {R"({"type":"string","format":"date-time","pattern":"^(?:\\d{4}-\\d{2}-\\d{2})T(?:(?:[01]\\d|2[0-3]):[0-5]\\d(?::[0-5]\\d(?:\\.\\d+)?)?(?:Z))$"})",
       {R"("2024-01-31T10:00:00Z")", R"("2024-01-31T10:00:00.123Z")"},
       {R"("2024-01-31T10:00:00+01:00")", R"("2024-02-31T10:00:00Z")", R"("2024-01-31T10:00Z")"}},
  };
  for (const auto& [json, taken, not_taken] : cases) {
    GrammarSpec spec;
    try {
      spec = schema(json);
    } catch (const Error& error) {
      ADD_FAILURE() << error.what() << ": " << json;
      continue;
    }
    for (const char* text : taken) EXPECT_TRUE(takes(spec, text)) << text << " by " << json;
    for (const char* text : not_taken) EXPECT_FALSE(takes(spec, text)) << text << " by " << json;
  }
}

/// What lies within itself comes to an end, or is refused soon.
TEST(JsonSchema, PartsThatReferToEachOtherAreBounded) {
  for (const char* json :
       {R"({"allOf":[{"$ref":"#/$defs/a"},{"minProperties":1}],"$defs":{"a":{"type":"object","anyOf":[{"$ref":"#/$defs/a"},{"required":["x"]}]}}})",
        R"({"$ref":"#/$defs/a","minProperties":1,"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/a"}]}}})"})
    EXPECT_THROW(honoured_schema(json), Error) << json;
  EXPECT_NO_THROW(honoured_schema(
      R"({"allOf":[{"$ref":"#/$defs/a"},{"properties":{"x":{"required":["y"]}}}],"$defs":{"a":{"properties":{"x":{"allOf":[{"$ref":"#/$defs/b"},{"minProperties":1}]}}},"b":{"properties":{"x":{"$ref":"#/$defs/a"},"y":{}}}}})"));
  std::string many;
  for (int i = 0; i < 12; ++i) many += fmt::format(R"({}{{"anyOf":[{{"required":["a{}"]}},{{"required":["b{}"]}}]}})", i > 0 ? "," : "", i, i);
  EXPECT_THROW(honoured_schema("{\"type\":\"object\",\"allOf\":[" + many + "]}"), Error) << "4096 options";
}

TEST(JsonSchema, WhatComesToMuchMoreThanItSaysIsRefusedSoon) {
  const auto repeated = [](int count, const std::string& text) {
    std::string all;
    for (int i = 0; i < count; ++i) all += (i > 0 ? "," : "") + text;
    return all;
  };
  std::string sets;
  for (int i = 0; i < 40; ++i)
    sets += fmt::format(R"({}"p{}":{{"uniqueItems":true,"items":{{"enum":["{}",1,2,3,4,5,6,7]}}}})", i > 0 ? "," : "", i, std::string(1000, 'a'));
  const auto numbered = [](int count, const auto& text) {
    std::string all;
    for (int i = 0; i < count; ++i) all += (i > 0 ? "," : "") + text(i);
    return all;
  };
  const std::string required = numbered(8000, [](int i) { return fmt::format(R"({{"required":["n{}"]}})", i); });
  const std::string values = numbered(3000, [](int i) { return fmt::format(R"("{}")", i); });
  const std::string options = numbered(2500, [](int i) { return fmt::format(R"({{"allOf":[{{"$ref":"#/$defs/v"}},{{"enum":["{}",1]}}]}})", i); });
  for (const auto& [json, why] : {std::pair(R"({"minProperties":1,"anyOf":[{"$ref":"#"},{"enum":[)" + repeated(80'000, "[]") + "]}]}", "together"),
                                  std::pair("{\"properties\":{" + sets + "}}", "at properties/p8: 'uniqueItems' and those before it"),
                                  std::pair("{\"allOf\":[" + required + "]}", "it says too much together"),
                                  std::pair("{\"anyOf\":[" + options + "],\"$defs\":{\"v\":{\"enum\":[" + values + "]}}}", "it says too much together")}) {
    const auto begin = std::chrono::steady_clock::now();
    try {
      honoured_schema(json);
      ADD_FAILURE() << json.substr(0, 80);
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(why));
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20)) << json.substr(0, 80);
  }
}

TEST(JsonSchema, AnIdentityOfAPartIsRefused) {
  for (const char* json : {R"({"allOf":[{"$id":"http://x/y","type":"object"},{"minProperties":1}]})",
                           R"({"type":"object","minProperties":1,"$ref":"#/$defs/a","$defs":{"a":{"$id":"http://x/y","properties":{"b":{}}}}})",
                           R"({"allOf":[{"properties":{"a":{"type":"string"}}},{"properties":{"a":{"$id":"http://x/y","minLength":1}}}]})"})
    try {
      honoured_schema(json);
      ADD_FAILURE() << json;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("'$id' in a part of a schema")) << json;
    }
  EXPECT_NO_THROW(honoured_schema(R"({"$id":"http://x/y","allOf":[{"type":"object"},{"properties":{"a":{"anyOf":[{"type":"null"},{"$ref":"#"}]}}}]})"));
}

TEST_F(Grammars, AllowNullsOfPropertiesOfAnyName) {
  for (const char* name : {"default", "example", "examples", "const", "enum", "nullable", "properties"}) {
    const std::string text = fmt::format(R"({{"type":"object","properties":{{"{0}":{{"type":"string","nullable":true}}}},"required":["{0}"]}})", name);
    EXPECT_TRUE(takes(schema(text, false), fmt::format(R"({{"{}": null}})", name))) << name;
  }
  EXPECT_TRUE(takes(schema(R"({"type":"object","enum":[{"type":"string","nullable":true}]})", false), R"({"type":"string","nullable":true})"));
}

/// What a reference to the schema itself allows is what the rest of it does.
TEST_F(Grammars, HaveATypeBesideWhatRefersToItself) {
  for (const char* json :
       {R"({"properties":{"a":{"type":"string","allOf":[{"$ref":"#/$defs/x"}]}},"$defs":{"x":{"allOf":[{"$ref":"#/$defs/x"},{"enum":["b",1]}]}}})",
        R"({"properties":{"a":{"type":"string","anyOf":[{"allOf":[{"$ref":"#/$defs/x"},{"$ref":"#/$defs/x"}]}]}},"$defs":{"x":{"enum":["b",1]}}})"}) {
    try {
      EXPECT_FALSE(takes(schema(json, false), R"({"a": 1})")) << json;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("leads to itself")) << json;
    }
  }
}

/// A choice that names what told two options apart, as neither names the other's.
TEST_F(Grammars, LeaveOptionsApartThatALaterChoiceNamesMoreOf) {
  const char* one_of = R"({"oneOf":[{"properties":{"a":{"type":"integer"}},"required":["a"]},{"properties":{"b":{"type":"integer"}},"required":["b"]}]})";
  const char* choice = R"({"anyOf":[{"properties":{"a":{},"b":{}}},{"properties":{"c":{}}}]})";
  const char* types = R"({"anyOf":[{"type":["string","object"]},{"type":["string","object"],"minProperties":1}]})";
  const std::string typed = std::string(one_of).insert(1, R"("type":"object",)");
  for (const std::string& json : {fmt::format(R"({{"allOf":[{},{}]}})", typed, choice), fmt::format(R"({{"allOf":[{},{}]}})", one_of, choice),
                                  fmt::format(R"({{"allOf":[{{"anyOf":[{}]}},{}]}})", one_of, choice), fmt::format(R"({{"allOf":[{},{}]}})", one_of, types)}) {
    const GrammarSpec spec = schema(json, false);
    for (const char* text : {R"({"a": 1})", R"({"b": 2})"}) EXPECT_TRUE(takes(spec, text)) << text << " by " << json;
    for (const char* text : {R"({"a": 1, "b": 2})", R"({"b": 2, "a": 1})", "{}", R"("")"}) EXPECT_FALSE(takes(spec, text)) << text << " by " << json;
  }
}

TEST_F(Grammars, CompareValuesAsSchemasDo) {
  EXPECT_FALSE(takes(schema(R"({"enum":[{"a":1,"b":2},"x"],"not":{"const":{"b":2.0,"a":1}}})", false), R"({"a":1,"b":2})"));
  EXPECT_TRUE(takes(schema(R"({"allOf":[{"enum":[{"a":1,"b":2},"x"]},{"const":{"b":2,"a":1}}]})", false), R"({"a":1,"b":2})"));
  EXPECT_TRUE(takes(schema(R"({"enum":[-1,2],"not":{"const":18446744073709551615}})"), "-1"));
  EXPECT_FALSE(
      takes(schema(R"({"type":"array","uniqueItems":true,"items":{"enum":[{"a":1,"b":2},{"b":2,"a":1}]}})", false), R"([{"a":1,"b":2}, {"b":2,"a":1}])"));
  for (const char* json : {R"({"oneOf":[{"const":{"a":1,"b":2}},{"const":{"b":2,"a":1}}]})", R"({"enum":[5],"minimum":18446744073709551615})",
                           R"({"allOf":[{"enum":[-1]},{"enum":[18446744073709551615]}]})"})
    EXPECT_THROW(honoured_schema(json), Error) << json;
}

TEST_F(Grammars, FollowTuplesOfDraft7) {
  const GrammarSpec spec = schema(R"({"type":"array","items":[{"type":"integer"},{"type":"boolean"}],"minItems":2,"maxItems":2})", false);
  EXPECT_TRUE(takes(spec, "[1, true]"));
  for (const char* text : {"[1]", "[true, 1]", "[1, true, 1]"}) EXPECT_FALSE(takes(spec, text)) << text;
}

TEST(JsonSchema, ThatOnlyValuesWithoutAnEndFitIsRefused) {
  for (
      const char* json :
      {R"({"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]})", R"({"type": "array", "minItems": 1, "items": {"$ref": "#"}})",
       R"({"type": "array", "minItems": 1, "prefixItems": [{"$ref": "#"}]})",
       R"({"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1})",
       R"({"type": "object", "properties": {"n": {"$ref": "#"}}, "minProperties": 1})", R"({"anyOf": [{"$ref": "#"}]})",
       R"({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"type": "array", "minItems": 2, "prefixItems": [{}], "items": {"$ref": "#/$defs/a"}}}})"})
    try {
      honoured_schema(json);
      ADD_FAILURE() << json;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("without an end")) << json;
    }
  for (const char* json : {R"({"type": "object", "properties": {"n": {"$ref": "#"}, "m": {}}, "required": ["m"], "minProperties": 1})",
                           R"({"type": "array", "items": {"$ref": "#"}})", R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})",
                           R"({"type": ["object", "null"], "properties": {"n": {"$ref": "#"}}, "required": ["n"]})",
                           R"({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]}, "b": {"enum": [1]}}})"})
    EXPECT_NO_THROW(honoured_schema(json)) << json;
  // A chain of definitions in any order.
  std::string chain = R"({"$ref": "#/$defs/d0", "$defs": {)";
  for (int i = 0; i < 1500; ++i) chain += fmt::format(R"("d{}": {{"properties": {{"n": {{"$ref": "#/$defs/d{}"}}}}, "required": ["n"]}}, )", i, i + 1);
  EXPECT_NO_THROW(honoured_schema(chain + R"("d1500": {"type": "null"}}})"));
}

/// What tokens of the two common kinds add to a text.
TEST(TokenBytes, AreThoseOfTheVocabulary) {
  const auto levels =
      Tokenizer::from_json(R"({"model": {"type": "BPE", "vocab": {"a": 0, "Ġ": 1, "Ã": 2, "©": 3}, "merges": []}, "decoder": {"type": "ByteLevel"},
    "added_tokens": [{"id": 4, "content": "<s>", "special": true}]})",
                           "t");
  EXPECT_EQ(levels->token_bytes(1), " ");
  EXPECT_EQ(levels->token_bytes(2), "\xc3");
  EXPECT_EQ(levels->token_bytes(3), "\xa9");
  EXPECT_EQ(levels->token_bytes(4), "");
  const auto pieces = Tokenizer::from_json(R"({"model": {"type": "BPE", "vocab": {"a": 0, "▁a": 1, "<0xC3>": 2}, "merges": [], "byte_fallback": true},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}})",
                                           "t");
  EXPECT_EQ(pieces->token_bytes(1), " a");
  EXPECT_EQ(pieces->token_bytes(2), "\xc3");
}

}  // namespace
}  // namespace flexgen::grammar_test
