// Tokenizers and texts that are made to take all memory or all time. Each is refused or done with soon; "soon" is generous, as
// what these tests guard against takes minutes to years.

#include <gtest/gtest.h>

#include <ctime>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "text/charsmap.h"
#include "text/regex.h"
#include "text/token_matcher.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace flexgen::hostile_tokenizer_test {
namespace {

using Json = nlohmann::json;

/// Letters a to z and what the test puts in.
Json letters() {
  Json tokenizer;
  Json vocab;
  for (char c = 'a'; c <= 'z'; ++c) vocab[std::string(1, c)] = c - 'a';
  vocab[" "] = 26;
  tokenizer["model"] = {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}};
  return tokenizer;
}

Json added(int id, const std::string& content, Json flags = Json::object()) {
  Json token = {{"id", id}, {"content", content}, {"normalized", false}, {"special", false}};
  token.update(flags);
  return token;
}

std::unique_ptr<Tokenizer> make(const Json& json) { return Tokenizer::from_json(json.dump(), "tokenizer.json"); }

void expect_error(const std::string& what, const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "no error; expected '" << what << "'";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    EXPECT_LT(std::string(error.what()).size(), 1000u);
  }
}

class HostileTokenizer : public testing::Test {
 protected:
  void SetUp() override { start_ = std::clock(); }
  void TearDown() override {
    const double taken_s = static_cast<double>(std::clock() - start_) / CLOCKS_PER_SEC;
    EXPECT_LT(taken_s, 60) << "it should take about a second of processor time";
  }
  std::clock_t start_ = 0;
};

TEST_F(HostileTokenizer, NestingIsBounded) {
  for (const char* field : {"normalizer", "pre_tokenizer", "decoder", "post_processor", "unknown"}) {
    std::string deep = "null";
    std::string open, close;
    for (int i = 0; i < 100'000; ++i) {
      open += R"({"type":"Sequence","normalizers":[)";
      close += "]}";
    }
    const std::string whole = letters().dump();
    expect_error("nested",
                 [&] { Tokenizer::from_json(whole.substr(0, whole.size() - 1) + ",\"" + field + "\":" + open + deep + close + "}", "tokenizer.json"); });
  }
}

TEST_F(HostileTokenizer, DoublingStepsAreRefused) {
  const Json doubling = {{"type", "Replace"}, {"pattern", {{"String", "e"}}}, {"content", "ee"}};
  const Json by_regex = {{"type", "Replace"}, {"pattern", {{"Regex", "."}}}, {"content", "eeeeeeee"}};
  for (const Json& step : {doubling, by_regex})
    for (const char* field : {"normalizer", "decoder"}) {
      Json json = letters();
      json[field] = {{"type", "Sequence"}, {std::string(field) + "s", std::vector<Json>(40, step)}};
      expect_error("Replace", [&] { make(json); });
    }
  Json bytes = letters();
  bytes["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::vector<Json>(40, Json{{"type", "ByteLevel"}})}};
  auto tokenizer = make(bytes);
  expect_error("longer than", [&] { tokenizer->encode("häh", true); });
  Json many = letters();
  many["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::vector<Json>(100'000, Json{{"type", "NFC"}})}};
  expect_error("steps", [&] { make(many); });
}

TEST_F(HostileTokenizer, LongPrefixesAreRefused) {
  Json json = letters();
  json["normalizer"] = {{"type", "Prepend"}, {"prepend", std::string(10'000'000, 'x')}};
  json["added_tokens"] = Json::array({added(27, "<s>", {{"normalized", true}})});
  expect_error("before every text", [&] { make(json); });
  // A short one before each of very many pieces.
  json["normalizer"]["prepend"] = std::string(1000, 'x');
  json["added_tokens"] = Json::array({added(27, "z")});
  auto tokenizer = make(json);
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "az";
  expect_error("longer than", [&] { tokenizer->encode(text, true); });
  EXPECT_EQ(tokenizer->encode("azb", false).size(), 2003u);
}

TEST_F(HostileTokenizer, TemplatesAreBounded) {
  Json json = letters();
  const Json token = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json specials = {{"<s>", {{"id", "<s>"}, {"ids", std::vector<int>(100, 3)}, {"tokens", std::vector<std::string>(100, "d")}}}};
  std::vector<Json> parts(100'000, token);
  parts.push_back(text);
  json["post_processor"] = {{"type", "TemplateProcessing"}, {"single", parts}, {"special_tokens", specials}};
  expect_error("template", [&] { make(json); });
  json["post_processor"]["single"] = Json::array({token, text});
  EXPECT_EQ(make(json)->encode("a", true).size(), 101u);
  for (const Json& single : {Json::array({token}), Json::array({text, token, text}), Json::array({Json{{"Sequence", {{"id", "B"}}}}})}) {
    json["post_processor"]["single"] = single;
    expect_error("template", [&] { make(json); });
  }
  for (const Json& id : {Json(-1), Json(1e9), Json("x"), Json(uint64_t{1} << 63), Json(nullptr)}) {
    json["post_processor"] = {
        {"type", "TemplateProcessing"}, {"single", Json::array({token, text})}, {"special_tokens", {{"<s>", {{"ids", Json::array({id})}}}}}};
    expect_error("has the id", [&] { make(json); });
  }
}

TEST_F(HostileTokenizer, ManyAddedTokensAreFoundInOnePass) {
  Json json = letters();
  json["added_tokens"] = Json::array();
  for (int i = 0; i < 50'000; ++i) json["added_tokens"].push_back(added(27 + i, "aaaaaaaaaaaaaaaa" + std::to_string(i)));
  json["added_tokens"].push_back(added(60'000, "b" + std::string(500'000, 'a')));  // all but the first letter is there at each place
  auto tokenizer = make(json);
  std::string text(2'000'000, 'a');
  EXPECT_EQ(tokenizer->encode(text, false).size(), text.size());
  EXPECT_EQ(tokenizer->encode("aaaaaaaaaaaaaaaa77", false), std::vector<int32_t>{27 + 77});
}

TEST_F(HostileTokenizer, StripsWalkSpacesOnce) {
  Json json = letters();
  json["added_tokens"] = Json::array({added(27, "  ", {{"rstrip", true}, {"lstrip", true}}), added(28, " ", {{"lstrip", true}, {"single_word", true}})});
  auto tokenizer = make(json);
  tokenizer->encode(std::string(4'000'000, ' '), false);
}

TEST_F(HostileTokenizer, LongTextsOfOneLetter) {
  Json json = letters();
  Json& vocab = json["model"]["vocab"];
  std::string token = "a";
  for (int i = 0; i < 16; ++i) {
    json["model"]["merges"].push_back(Json::array({token, token}));
    token += token;
    vocab[token] = 27 + i;
  }
  auto tokenizer = make(json);
  const std::string text(1 << 21, 'a');
  auto ids = tokenizer->encode(text, false);
  EXPECT_EQ(ids, std::vector<int32_t>(32, 42));
  EXPECT_EQ(tokenizer->decode(ids, false).size(), text.size() + 31);  // no decoder: spaces between
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  make(json)->encode(std::string(1 << 21, ' '), false);
  make(json)->encode(std::string(1 << 21, '\xff'), false);
}

/// Pieces that begin alike: each place of a text begins all of them.
TEST_F(HostileTokenizer, LongUnigramPiecesAreLinearOrRefused) {
  Json json;
  Json pieces = Json::array({Json::array({"<unk>", 0})});
  for (int length = 1; length <= 200; ++length) pieces.push_back(Json::array({std::string(static_cast<size_t>(length), 'a'), -10 - 0.01 * length}));
  json["model"] = {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", pieces}};
  const std::string text(200'000, 'a');
  EXPECT_EQ(make(json)->encode(text, false).size(), text.size() / 200);
  for (int length = 300; length <= 8000; length += 100)
    json["model"]["vocab"].push_back(Json::array({std::string(static_cast<size_t>(length), 'a') + "b", -1}));
  expect_error("too many steps", [&] { make(json)->encode(text, false); });
  EXPECT_EQ(make(json)->encode(std::string(300, 'a') + "b", false).size(), 1u);
  // Nothing is known: one token for all.
  EXPECT_EQ(make(json)->encode(std::string(4'000'000, 'x'), false), std::vector<int32_t>{0});
  // Many pieces, sorted once.
  Json many = Json::array();
  for (int i = 0; i < 300'000; ++i) many.push_back(Json::array({std::string(100, 'a') + std::to_string(i), -i}));
  json["model"]["vocab"] = many;
  json["model"]["byte_fallback"] = true;
  EXPECT_EQ(make(json)->encode(std::string(100, 'a') + "299999", false), std::vector<int32_t>{299'999});
}

TEST_F(HostileTokenizer, TablesOfCharactersAreChecked) {
  const auto apply = [](std::initializer_list<uint32_t> units, const std::string& replacements, const std::string& text, size_t limit) {
    std::string bytes;
    auto add = [&](uint32_t word) { bytes.append(reinterpret_cast<const char*>(&word), sizeof word); };
    add(static_cast<uint32_t>(4 * units.size()));
    for (uint32_t unit : units) add(unit);
    return Charsmap(bytes + replacements, "x").apply(text, limit);
  };
  for (const char* broken : {"", "abc", "\x08\x01\x01\x01", "\x03\x01\x01\x01yyyyyyyyyyyyy"}) expect_error("table", [&] { Charsmap(broken, "x"); });
  expect_error("table", [&] { apply({0}, "\xff", "a", 10); });
  EXPECT_EQ(apply({0xffffffff}, "b", "a", 10), "a");  // an offset behind the end
  EXPECT_EQ(apply({0, 0, 0}, "b", "\x01\x02", 10), "\x01\x02");
  // "\x01" at place 1 with its leaf at 1 ^ 2, whose value is where the replacement begins.
  const uint32_t leaf = 1u << 8, two = 2u << 10;
  EXPECT_EQ(apply({0, 1 | leaf | two, 0, 0x80000001}, "cb", "a\x01z", 10), "abz");
  EXPECT_EQ(apply({0, 1 | leaf | two, 0, 0x80000009}, "cb", "a\x01z", 10), "a\x01z");
  EXPECT_EQ(apply({0, 1 | leaf | two, 0, 0x80000000}, std::string(1000, 'b'), std::string(1'000'000, '\x01'), 100'000), std::nullopt);
  // One cluster of a million marks.
  std::string marks = "e";
  for (int i = 0; i < 1'000'000; ++i) marks += "\u0301";
  EXPECT_EQ(apply({0}, "", marks, marks.size()), marks);
  Json json = letters();
  json["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "AA="}};
  expect_error("Base64", [&] { make(json); });
  json["normalizer"]["precompiled_charsmap"] = "";
  expect_error("table", [&] { make(json); });
}

TEST_F(HostileTokenizer, WordsThatNobodyKnows) {
  Json json = letters();
  json["model"] = {{"type", "WordLevel"}, {"vocab", {{"a", 0}, {"b", 1}}}, {"unk_token", "<unk>"}};
  json["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  EXPECT_EQ(make(json)->encode(" a\u3000b a", false), (std::vector<int32_t>{0, 1, 0}));
  expect_error("'ab'", [&] { make(json)->encode("a ab", false); });
  json["model"]["unk_token"] = "b";
  EXPECT_EQ(make(json)->encode(std::string(4'000'000, 'x'), false), std::vector<int32_t>{1});
  json["model"] = {{"type", "Unigram"}, {"vocab", Json::array({Json::array({"a", -1})})}};
  EXPECT_EQ(make(json)->encode("aa", false), (std::vector<int32_t>{0, 0}));
  expect_error("'x'", [&] { make(json)->encode("ax", false); });
}

// Some files name the empty text, which no text needs.
TEST_F(HostileTokenizer, AnUnknownTokenThatIsNoneIsToldWhereItIsNeeded) {
  Json json = letters();
  for (const char* unknown : {"", "<unk>"}) {
    json["model"]["unk_token"] = unknown;
    EXPECT_EQ(make(json)->encode("ab", false), (std::vector<int32_t>{0, 1}));
    expect_error("'é'", [&] { make(json)->encode("aéb", false); });
    expect_error(std::string("unk_token '") + unknown + "'", [&] { make(json)->encode("é", false); });
  }
}

TEST_F(HostileTokenizer, ChainsOfMergesAreLogarithmic) {
  // Each merge makes the next one possible: a + b, ab + c, ...
  Json json = letters();
  std::string left = "a";
  for (int i = 1; i < 26; ++i) {
    std::string right(1, static_cast<char>('a' + i));
    json["model"]["merges"].push_back(Json::array({left, right}));
    left += right;
    json["model"]["vocab"][left] = 26 + i;
  }
  auto tokenizer = make(json);
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "abcdefghijklmnopqrstuvwxyz";
  EXPECT_EQ(tokenizer->encode(text, false).size(), 100'000u);
}

TEST_F(HostileTokenizer, PatternsThatTakeForeverEndWithAnError) {
  Json json = letters();
  for (const char* pattern : {"(a+)+b", "(a|a)*b", "(a|aa)+$b", "(a*)*b", "^(([a-z])+.)+[A-Z]([a-z])+$"}) {
    json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
    auto tokenizer = make(json);
    expect_error("too", [&] { tokenizer->encode(std::string(5000, 'a') + "cb", false); });
  }
  // No backtracking, but each place reads to the end of the text. (Of a single letter PCRE2 remembers how far it has read.)
  json["pre_tokenizer"]["pattern"]["Regex"] = "(a|x)*+b";
  auto tokenizer = make(json);
  expect_error("too", [&] { tokenizer->encode(std::string(2'000'000, 'a') + "cb", false); });
  for (const char* pattern : {"(", "((((a{1000}){1000}){1000}){1000})", "\\C", "[[:nothing:]]"}) {
    json["pre_tokenizer"]["pattern"]["Regex"] = pattern;
    expect_error("pattern", [&] { make(json); });
  }
}

TEST_F(HostileTokenizer, MarksInTheWrongOrderAreSorted) {
  // U+0301 has the class 230, U+0327 has 202: each pair is the wrong way round.
  std::string text = "a";
  for (int i = 0; i < 500'000; ++i) text += "\xcc\x81\xcc\xa7";
  const std::string sorted = normalize_unicode(text, false, false);
  EXPECT_EQ(sorted.size(), text.size());
  EXPECT_EQ(sorted.substr(0, 5), "a\xcc\xa7\xcc\xa7");
  normalize_unicode(text, true, true);
  EXPECT_EQ(normalize_unicode("e\xcc\x81\xef\xac\x81", true, true),
            "\xc3\xa9"
            "fi");
  EXPECT_EQ(normalize_unicode("\xea\xb0\x81", false, false), "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8");
}

TEST_F(HostileTokenizer, IdsAreChecked) {
  for (const Json& id : {Json(-1), Json(1e9), Json(uint64_t{1} << 63), Json("1"), Json(nullptr), Json(9'000'000)}) {
    Json json = letters();
    json["model"]["vocab"]["far"] = id;
    expect_error("id", [&] { make(json); });
  }
  Json twice = letters();
  twice["model"]["vocab"]["another"] = 3;
  expect_error("one id", [&] { make(twice); });
  Json same_key = letters();
  std::string text = same_key.dump();
  text.replace(text.find("\"a\":0"), 5, "\"a\":0,\"a\":1");
  expect_error("twice", [&] { Tokenizer::from_json(text, "tokenizer.json"); });
  Json dropout = letters();
  dropout["model"]["dropout"] = 0.1;
  expect_error("dropout", [&] { make(dropout); });
}

TEST_F(HostileTokenizer, AMarkBeforeATextWhoseStartIsDroppedIsRefused) {
  Json json = letters();
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array({{{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}}})}};
  json["normalizer"] = {{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}};
  make(json);
  json["normalizer"]["strip_left"] = true;
  expect_error("prepend_scheme", [&] { make(json); });
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array({{{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", ""}}})}};
  expect_error("prepend_scheme", [&] { make(json); });
  json["pre_tokenizer"]["pretokenizers"][0]["prepend_scheme"] = "always";
  make(json);
}

TEST_F(HostileTokenizer, EmptyPatternsAndContents) {
  Json json = letters();
  json["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "x"}};
  expect_error("empty", [&] { make(json); });
  json["normalizer"]["pattern"] = {{"Regex", "b*"}};
  EXPECT_EQ(make(json)->encode("acb", false).size(), 5u);  // x a x c x, as PyPI tokenizers
  json["normalizer"]["pattern"] = {{"String", "a"}};
  json["normalizer"]["content"] = "";
  json["added_tokens"] = Json::array({added(27, "aa", {{"normalized", true}}), added(28, "")});
  EXPECT_TRUE(make(json)->encode("aaaa", false).empty());
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "xx"}};
  expect_error("replacement", [&] { make(json); });
}

TEST(TokenMatcher, FindsTheLeftmostThenTheLongest) {
  TokenMatcher matcher;
  for (const char* pattern : {"ab", "abcd", "bcdef", "c", "ab"}) matcher.add(pattern);
  matcher.finish();
  std::vector<std::tuple<size_t, size_t, size_t>> found;
  matcher.for_each("xabcdefabc", [&](size_t begin, size_t end, size_t pattern) { found.emplace_back(begin, end, pattern); });
  EXPECT_EQ(found, (std::vector<std::tuple<size_t, size_t, size_t>>{{1, 5, 1}, {7, 9, 0}, {9, 10, 3}}));
}

TEST(Regex, EmptyMatchesAsInOniguruma) {
  auto matches = [](const char* pattern, const char* text) {
    std::vector<std::pair<size_t, size_t>> found;
    Regex(pattern, "test").for_each(text, [&](size_t begin, size_t end) { found.emplace_back(begin, end); });
    return found;
  };
  using Found = std::vector<std::pair<size_t, size_t>>;
  EXPECT_EQ(matches("b*", "abbc"), (Found{{0, 0}, {1, 3}, {4, 4}}));
  EXPECT_EQ(matches("(?=b)", "abb"), (Found{{1, 1}, {2, 2}}));
  EXPECT_EQ(matches("x", "abc"), Found{});
  EXPECT_EQ(matches("", "\xc3\xa4"), (Found{{0, 0}, {2, 2}}));
}

}  // namespace
}  // namespace flexgen::hostile_tokenizer_test
