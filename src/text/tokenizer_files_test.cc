// Folders whose tokenizer files say things in many ways, against what transformers 5 made of them
// (tests/fixtures/tokenizer_folders.json, by tools/make_tokenizer_fixtures.py); and refusals that name the field.

#include "text/tokenizer_files.h"

#include <gtest/gtest.h>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/test_folder.h"
#include "text/tokenizer.h"

namespace flexgen::tokenizer_files_test {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path kFixtures = fs::path(FLEXGEN_SOURCE_DIR) / "tests" / "fixtures";

void write_tokenizer(const TestFolder& folder, const Json& tokenizer, bool whole) {
  if (whole) {
    folder.put("tokenizer.json", tokenizer.dump());
    return;
  }
  folder.put("vocab.json", tokenizer["model"]["vocab"].dump());
  std::string merges = "#version: 0.2\n";
  for (const Json& merge : tokenizer["model"]["merges"]) merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  folder.put("merges.txt", merges);
}

Json base_tokenizer(const std::string& name) { return Json::parse(read_whole((kFixtures / "tokenizers" / name / "tokenizer.json").string())); }

std::string pieces_of(const std::string& name) { return read_whole((kFixtures / "pieces" / (name + ".model")).string()); }

Json folders() { return Json::parse(read_whole((kFixtures / "tokenizer_folders.json").string())); }

class TokenizerFolder : public testing::TestWithParam<size_t> {};

TEST_P(TokenizerFolder, GivesWhatTransformersGives) {
  const Json expected = folders()[GetParam()];
  SCOPED_TRACE(expected["name"].get<std::string>());
  TestFolder folder;
  if (expected["form"] == "pieces") {
    folder.put("tokenizer.model", pieces_of(expected["base"]));
  } else if (expected["form"] != "tekken") {
    Json tokenizer_json = base_tokenizer(expected["base"]);
    tokenizer_json.merge_patch(expected["patch"]);
    write_tokenizer(folder, tokenizer_json, expected["form"] == "whole");
  }
  for (const auto& [name, content] : expected["files"].items()) folder.put(name, content.dump());
  auto tokenizer = Tokenizer::load(folder.path().string());
  for (const Json& c : expected["cases"]) {
    auto ids = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->encode(c["text"].get<std::string>(), true), ids) << c["text"];
    EXPECT_EQ(tokenizer->decode(ids, true), c["decoded"].get<std::string>()) << c["text"];
    StreamDecoder stream(*tokenizer);
    std::string pieces;
    for (int32_t id : ids) pieces += stream.push(id);
    EXPECT_EQ(pieces + stream.finish(), c["decoded"].get<std::string>()) << c["text"];
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, TokenizerFolder, testing::Range<size_t>(0, folders().size()));

void expect_refused(const TestFolder& folder, const std::string& what) {
  try {
    Tokenizer::load(folder.path().string());
    ADD_FAILURE() << "loaded; expected '" << what << "'";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
  }
}

TEST(TokenizerFiles, RefusesWhatItCannotDoByName) {
  struct Case {
    const char *base, *form, *file, *content, *what;
  };
  const Case table[] = {{"gpt2-like", "parts", "tokenizer_config.json", R"({"tokenizer_class": "WhisperTokenizer"})", "WhisperTokenizer"},
                        {"gpt2-like", "parts", "tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})", "save_pretrained"},
                        {"gpt2-like", "parts", "tokenizer_config.json", R"({"tokenizer_class": "PreTrainedTokenizerFast"})", "save_pretrained"},
                        {"gpt2-like", "parts", "tokenizer_config.json", R"({"tokenizer_class": "MyTokenizer"})", "save_pretrained"},
                        {"gpt2-like", "parts", "tokenizer_config.json", R"({"tokenizer_class": 3})", "tokenizer_class"},
                        {"gpt2-like", "parts", "config.json", R"({"model_type": "llama"})", "save_pretrained"},
                        {"gpt2-like", "parts", "tokenizer.model", "x", "tokenizer.model"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"tokenizer_class": "BertTokenizerFast"})", "BertTokenizer"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"tokenizer_class": "BartTokenizer"})", "BartTokenizer"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"tokenizer_class": "MobileBertTokenizerFast"})", "MobileBertTokenizer"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"auto_map": {"AutoTokenizer": ["a.B", null]}})", "auto_map"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"fix_mistral_regex": true})", "fix_mistral_regex"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"fast_tokenizer_files": ["tokenizer.4.0.0.json"]})", "fast_tokenizer_files"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"added_tokens_decoder": [1]})", "added_tokens_decoder"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "a"}}})", "added_tokens_decoder"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"added_tokens_decoder": {"-1": {"content": "a"}}})", "added_tokens_decoder"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"added_tokens_decoder": {"500": "a"}})", "content"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"bos_token": 3})", "bos_token"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"extra_special_tokens": "x"})", "extra_special_tokens"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"a_token": "<new1>", "b_token": "<new2>"})", "save_pretrained"},
                        {"gpt2-like", "whole", "tokenizer_config.json", R"({"bos_token": "a", "bos_token": "b"})", "bos_token"},
                        {"gpt2-like", "whole", "added_tokens.json", R"({"x": -3})", "-3"},
                        {"gpt2-like", "whole", "special_tokens_map.json", "[]", "special_tokens_map.json"}};
  for (const Case& c : table) {
    SCOPED_TRACE(c.content);
    TestFolder folder;
    write_tokenizer(folder, base_tokenizer(c.base), c.form == std::string("whole"));
    folder.put(c.file, c.content);
    expect_refused(folder, c.what);
  }
  TestFolder folder;
  folder.put("tokenizer.model", "x");
  expect_refused(folder, "tokenizer.model");
}

// A file that is there and cannot be read is not one that is missing.
TEST(TokenizerFiles, LinksThatLeadNowhereAreToldByName) {
  for (const char* name : {"tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"})
    for (const char* target : {"nowhere", name}) {
      SCOPED_TRACE(name);
      TestFolder folder;
      write_tokenizer(folder, base_tokenizer("gpt2-like"), true);
      std::filesystem::create_symlink(target, std::filesystem::path(folder.path()) / name);
      expect_refused(folder, name);
    }
}

// json.load takes NaN and Infinity, which some tools write.
TEST(TokenizerFiles, NumbersThatPythonAloneReadsAreHarmlessWhereNothingIsRead) {
  TestFolder folder;
  write_tokenizer(folder, base_tokenizer("gpt2-like"), true);
  const std::vector<int32_t> ids = Tokenizer::load(folder.path().string())->encode("Hello NaN", true);
  folder.put("tokenizer_config.json", R"({"model_max_length": Infinity, "padding": NaN, "note": "\"NaN"})");
  folder.put("config.json", R"({"model_type": "llama", "attention_dropout": NaN, "x": -Infinity})");
  EXPECT_EQ(Tokenizer::load(folder.path().string())->encode("Hello NaN", true), ids);
  folder.put("tokenizer_config.json", R"({"bos_token": NaN})");
  expect_refused(folder, "bos_token");
}

TEST(TokenizerFiles, PhiThreesClassIsLlamas) {
  const Json llama = [] {
    for (const Json& entry : folders())
      if (entry["files"].contains("tokenizer_config.json") && entry["files"]["tokenizer_config.json"].value("tokenizer_class", Json()) == "LlamaTokenizer" &&
          entry["form"] == "whole")
        return entry;
    return Json();
  }();
  ASSERT_TRUE(llama.is_object());
  TestFolder folder;
  Json tokenizer_json = base_tokenizer(llama["base"]);
  tokenizer_json.merge_patch(llama["patch"]);
  write_tokenizer(folder, tokenizer_json, true);
  for (const auto& [name, content] : llama["files"].items()) folder.put(name, content.dump());
  Json config = llama["files"]["tokenizer_config.json"];
  config["tokenizer_class"] = "Phi3TokenizerFast";
  folder.put("tokenizer_config.json", config.dump());
  const auto tokenizer = Tokenizer::load(folder.path().string());
  for (const Json& c : llama["cases"]) EXPECT_EQ(tokenizer->encode(c["text"].get<std::string>(), true), c["ids"].get<std::vector<int32_t>>()) << c["text"];
}

TEST(TokenizerFiles, PiecesThatCannotBeReadAreToldByName) {
  const std::string good = pieces_of("llama");
  const std::pair<std::string, const char*> table[] = {{"", "no model of SentencePiece"},
                                                       {"hello", "no model of SentencePiece"},
                                                       {good.substr(0, good.size() / 2), "no model of SentencePiece"},
                                                       {good + good, "is there twice"},
                                                       {"version https://git-lfs.github.com/spec/v1\noid sha256:46\nsize 499723\n", "git lfs pull"},
                                                       {"IQ== 0\nIg== 1\n", "tiktoken"}};
  for (const auto& [content, what] : table) {
    TestFolder folder;
    folder.put("tokenizer.model", content);
    folder.put("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
    expect_refused(folder, what);
    expect_refused(folder, "tokenizer.model");
  }
  TestFolder folder;
  folder.put("tokenizer.model", good);
  folder.put("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  expect_refused(folder, "save_pretrained");
}

TEST(TokenizerFiles, BrokenTekkenFilesAreToldByName) {
  const char* const good =
      R"({"config": {"pattern": "x", "default_num_special_tokens": 1}, "special_tokens": [{"rank": 0, "token_str": "<s>"}], "vocab": [{"token_bytes": "YQ=="}]})";
  for (const auto& [patch, what] :
       std::initializer_list<std::pair<const char*, const char*>>{{R"({"config": null})", "config"},
                                                                  {R"({"config": {"pattern": null}})", "pattern"},
                                                                  {R"({"config": {"pattern": "("}})", "pattern"},
                                                                  {R"({"vocab": 3})", "vocab"},
                                                                  {R"({"vocab": [{"token_bytes": "Y"}]})", "Base64"},
                                                                  {R"({"vocab": [{"token_bytes": "Y==="}]})", "Base64"},
                                                                  {R"({"vocab": [{"token_bytes": ""}]})", "Base64"},
                                                                  {R"({"vocab": [{"token_bytes": "YQ=="}, {"token_bytes": "YQ=="}]})", "twice"},
                                                                  {R"({"special_tokens": null})", "special_tokens"},
                                                                  {R"({"special_tokens": [{"rank": 1, "token_str": "<s>"}]})", "ranks"},
                                                                  {R"({"config": {"default_num_special_tokens": 0}})", "more special tokens"},
                                                                  {R"({"config": {"default_vocab_size": -1}})", "default_vocab_size"},
                                                                  {R"({"config": {"default_vocab_size": 0}})", "default_vocab_size"}}) {
    SCOPED_TRACE(patch);
    Json json = Json::parse(good);
    json.merge_patch(Json::parse(patch));
    TestFolder folder;
    folder.put("tekken.json", json.dump());
    expect_refused(folder, what);
    expect_refused(folder, "tekken.json");
  }
  TestFolder folder;
  folder.put("tekken.json", good);
  EXPECT_EQ(Tokenizer::load(folder.path().string())->encode("<s>a<s>", true), (std::vector<int32_t>{0, 1, 0}));
  folder.put("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  expect_refused(folder, "save_pretrained");
}

TEST(TokenizerFiles, PointersOfGitLfsAreToldInEveryFile) {
  for (const char* name :
       {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"}) {
    SCOPED_TRACE(name);
    TestFolder folder;
    const bool parts = name == std::string("vocab.json") || name == std::string("merges.txt");
    write_tokenizer(folder, base_tokenizer("gpt2-like"), !parts);
    if (parts) folder.put("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
    folder.put(name, "version https://git-lfs.github.com/spec/v1\noid sha256:46\nsize 1345\n");
    expect_refused(folder, "git lfs pull");
    expect_refused(folder, name);
  }
}

TEST(TokenizerFiles, WarnsWhereTheFilesContradictEachOther) {
  TestFolder folder;
  write_tokenizer(folder, base_tokenizer("llama3-like"), true);
  folder.put("tokenizer_config.json", R"({"tokenizer_class": "GPT2TokenizerFast", "added_tokens_decoder": {}})");
  TokenizerFiles files = read_tokenizer_files(folder.path().string());
  ASSERT_EQ(files.warnings.size(), 1u);
  EXPECT_NE(files.warnings[0].find("pre_tokenizer"), std::string::npos) << files.warnings[0];
  // The class brings the same steps as the file: nothing to say.
  TestFolder same;
  write_tokenizer(same, base_tokenizer("gpt2-like"), true);
  same.put("tokenizer_config.json", R"({"tokenizer_class": "GPT2TokenizerFast"})");
  EXPECT_TRUE(read_tokenizer_files(same.path().string()).warnings.empty());
}

}  // namespace
}  // namespace flexgen::tokenizer_files_test
