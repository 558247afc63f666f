#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "text/unicode.h"

namespace flexgen::tokenizer_test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path kShared = fs::path(FLEXGEN_SOURCE_DIR) / ".." / "shared";
const fs::path kFixtures = fs::path(FLEXGEN_SOURCE_DIR) / "tests" / "fixtures" / "tokenizers";

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

/// Cases split by lines "__ggml_vocab_test__" against lines of ids.
void check_expected(const char* tokenizer_name, const char* cases_name) {
  fs::path inputs = kShared / "tokenizers" / "expected" / (std::string(cases_name) + ".inp");
  if (!fs::exists(inputs)) GTEST_SKIP() << "no ../shared";
  // The cases are for the models' own vocabularies; the GPT-2 file adds tokens for runs of spaces to them (as CodeGen does).
  Json json = Json::parse(read(kShared / "tokenizers" / tokenizer_name / "tokenizer.json"));
  std::erase_if(json["added_tokens"].get_ref<Json::array_t&>(), [](const Json& token) { return !token["special"].get<bool>(); });
  auto tokenizer = Tokenizer::from_json(json.dump(), "tokenizer.json");
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::string all = read(inputs);
  std::istringstream expected(read(kShared / "tokenizers" / "expected" / (std::string(cases_name) + ".out")));
  int count = 0;
  for (size_t at = 0; at <= all.size(); ++count) {
    size_t end = std::min(all.find(separator, at), all.size());
    std::string text = all.substr(at, end - at), line;
    at = end + separator.size();
    ASSERT_TRUE(std::getline(expected, line));
    std::istringstream numbers(line);
    std::vector<int32_t> ids;
    for (int32_t id; numbers >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer->encode(text, false), ids) << "case " << count << ": '" << text << "'";
    if (at >= all.size()) break;
  }
  EXPECT_GT(count, 30);
}

TEST(Tokenizer, Gpt2AgreesWithTheExpectedIds) { check_expected("gpt2", "gpt-2"); }
TEST(Tokenizer, Llama2AgreesWithTheExpectedIds) { check_expected("llama2", "llama-spm"); }

TEST(Tokenizer, OptPutsItsEndTokenFirst) {
  if (!fs::exists(kShared / "tokenizers" / "opt")) GTEST_SKIP() << "no ../shared";
  auto tokenizer = Tokenizer::load((kShared / "tokenizers" / "opt").string());
  EXPECT_EQ(tokenizer->encode("Hello world", true), (std::vector<int32_t>{2, 31414, 232}));
  EXPECT_EQ(tokenizer->prefix_text(), "</s>");
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{2, 31414, 232}, true), "Hello world");
}

/// Each fixture: tokenizer.json, and cases.json made by PyPI tokenizers (tools/make_tokenizer_fixtures.py).
class Fixture : public testing::TestWithParam<std::string> {};

/// For texts that are a token the answer is looked up; it must be that of encoding and decoding.
TEST_P(Fixture, SpecialTokensOfATextAreThoseThatAreLeftOut) {
  auto tokenizer = Tokenizer::load((kFixtures / GetParam()).string());
  int with = 0;
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id)
    for (const std::string& text : {tokenizer->token_text(id), "a" + tokenizer->token_text(id)}) {
      const bool has = tokenizer->has_special_tokens(text);
      EXPECT_EQ(has, tokenizer->Tokenizer::has_special_tokens(text)) << text;
      with += has ? 1 : 0;
    }
  EXPECT_GT(with, 0);
}

TEST_P(Fixture, AgreesWithTheOracle) {
  auto tokenizer = Tokenizer::load((kFixtures / GetParam()).string());
  Json cases = Json::parse(read(kFixtures / GetParam() / "cases.json"));
  ASSERT_GT(cases.size(), 50u);
  for (const Json& c : cases) {
    auto text = c["text"].get<std::string>();
    auto ids = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->encode(text, true), ids) << c["text"];
    EXPECT_EQ(tokenizer->decode(ids, true), c["decoded"].get<std::string>()) << c["text"];
    StreamDecoder stream(*tokenizer);
    std::string pieces;
    for (int32_t id : ids) {
      std::string piece = stream.push(id);
      EXPECT_EQ(sanitize_utf8(piece), piece);
      pieces += piece;
    }
    EXPECT_EQ(pieces + stream.finish(), c["decoded"].get<std::string>()) << c["text"];
  }
}

std::vector<std::string> fixture_names() {
  std::vector<std::string> names;
  if (fs::exists(kFixtures))
    for (const auto& entry : fs::directory_iterator(kFixtures)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Fixture);
INSTANTIATE_TEST_SUITE_P(Tokenizers, Fixture, testing::ValuesIn(fixture_names()));

/// FLEXGEN_TOKENIZER_DIR and FLEXGEN_TOKENIZER_CASES: a large set of cases made on the spot (see the script).
TEST(Tokenizer, AgreesOnCasesFromOutside) {
  const char* directory = std::getenv("FLEXGEN_TOKENIZER_DIR");
  const char* cases_file = std::getenv("FLEXGEN_TOKENIZER_CASES");
  if (!directory || !cases_file) GTEST_SKIP() << "no FLEXGEN_TOKENIZER_DIR and FLEXGEN_TOKENIZER_CASES";
  auto tokenizer = Tokenizer::load(directory);
  Json cases = Json::parse(read(cases_file));
  int wrong = 0;
  for (const Json& c : cases) {
    bool same = tokenizer->encode(c["text"].get<std::string>(), true) == c["ids"].get<std::vector<int32_t>>() &&
                tokenizer->decode(c["ids"].get<std::vector<int32_t>>(), true) == c["decoded"].get<std::string>();
    if (!same && ++wrong <= 5) ADD_FAILURE() << c.dump();
  }
  EXPECT_EQ(wrong, 0) << "of " << cases.size();
}

/// FLEXGEN_TOKENIZER_FOLDERS: what tools/compare_tokenizers.py made. flexgen gives what transformers gave, or refuses.
TEST(Tokenizer, AgreesOnFoldersFromOutside) {
  const char* root = std::getenv("FLEXGEN_TOKENIZER_FOLDERS");
  if (!root) GTEST_SKIP() << "no FLEXGEN_TOKENIZER_FOLDERS";
  int folders = 0, wrong = 0, both_refuse = 0, more_lenient = 0;
  std::map<std::string, int> refusals;
  for (const auto& entry : fs::directory_iterator(root)) {
    Json expected = Json::parse(read(entry.path() / "cases.json"));
    ++folders;
    std::unique_ptr<Tokenizer> tokenizer;
    try {
      tokenizer = Tokenizer::load(entry.path().string());
    } catch (const Error& error) {
      if (expected.contains("error")) ++both_refuse;
      else ++refusals[std::string(error.what()).substr(entry.path().string().size(), 120)];
      continue;
    }
    if (expected.contains("error")) ++more_lenient;
    for (const Json& c : expected["cases"]) {
      auto text = c["text"].get<std::string>();
      auto ids = c["ids"].get<std::vector<int32_t>>();
      auto with = tokenizer->encode(text, true), without = tokenizer->encode(text, false);
      auto decoded = tokenizer->decode(ids, true);
      const bool same_text = c["decoded"].is_null() || c["decoded"] == decoded;  // null: where the two may differ
      if (with == ids && without == c["plain"].get<std::vector<int32_t>>() && same_text) continue;
      if (++wrong <= 10)
        ADD_FAILURE() << entry.path() << " " << expected["class"] << "\n"
                      << c.dump() << "\n"
                      << Json(with).dump() << "\n"
                      << Json(without).dump() << "\n"
                      << Json(decoded).dump(-1, ' ', false, Json::error_handler_t::replace);
      break;
    }
  }
  for (const auto& [what, count] : refusals) std::cout << count << " times refused alone: " << what << "\n";
  std::cout << folders << " folders, " << both_refuse << " refused by both, " << more_lenient << " by transformers alone\n";
  EXPECT_EQ(wrong, 0) << "of " << folders;
}

TEST(Tokenizer, BrokenFilesAreRefusedByName) {
  const std::string vocab = R"("vocab": {"a": 0, "b": 1, "ab": 2})";
  std::vector<std::pair<std::string, std::string>> table{
      {"", "not JSON"},
      {"[1]", "no JSON object"},
      {R"({"model": {"type": "WordPiece"}})", "WordPiece"},
      {R"({"model": {"type": "Unigram"}})", "vocab"},
      {R"({"model": {"type": "Unigram", "vocab": {"a": 0}}})", "vocab"},
      {R"({"model": {"type": "Unigram", "vocab": [["a", 0], ["b"]]}})", "piece 1"},
      {R"({"model": {"type": "Unigram", "vocab": [["a", "x"]]}})", "piece 0"},
      {R"({"model": {"type": "Unigram", "unk_id": 1, "vocab": [["a", 0]]}})", "unk_id is 1"},
      {R"({"model": {"type": "Unigram", "unk_id": -1, "vocab": [["a", 0]]}})", "unk_id"},
      {R"({"model": {"type": "WordLevel", )" + vocab + "}}", "unk_token"},
      {R"({"model": {"type": "BPE"}})", "vocab"},
      {R"({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}})", "-1"},
      {R"({"model": {"type": "BPE", "vocab": {"a": 1e99}, "merges": []}})", "id"},
      {R"({"model": {"type": "BPE", )" + vocab + R"(, "merges": ["a c"]}})", "lacks"},
      {R"({"model": {"type": "BPE", )" + vocab + R"(, "merges": ["ab"]}})", "two tokens"},
      {R"({"model": {"type": "BPE", )" + vocab + R"(, "merges": ["a b"]}, "normalizer": {"type": "StripAccents"}})", "StripAccents"},
      {R"({"model": {"type": "BPE", )" + vocab + R"(, "merges": ["a b"]}, "normalizer": {"type": "Strip", "strip_left": 1, "strip_right": true}})",
       "strip_left"},
      {R"({"model": {"type": "BPE", )" + vocab + R"(, "merges": []}, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}})",
       "pattern"},
      {R"({"model": {"type": "BPE", )" + vocab + R"(, "merges": []}, "post_processor": {"type": "Bert"}})", "Bert"},
      {R"({"model": {"type": "BPE", )" + vocab + R"(, "merges": []}, "added_tokens": [{"id": 99999999, "content": "x"}]})", "99999999"}};
  for (const auto& [json, what] : table) {
    try {
      Tokenizer::from_json(json, "tokenizer.json");
      ADD_FAILURE() << "accepted " << json;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    }
  }
}

TEST(Unicode, ReplacesInvalidBytes) {
  EXPECT_EQ(sanitize_utf8("a\xff"
                          "b"),
            "a\xef\xbf\xbd"
            "b");
  EXPECT_EQ(sanitize_utf8("\xe4\xbd"), "\xef\xbf\xbd");
  EXPECT_EQ(sanitize_utf8("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(sanitize_utf8("\xf0\x9f\xa6\x99"), "\xf0\x9f\xa6\x99");
}

}  // namespace
}  // namespace flexgen::tokenizer_test
