// Folders whose tokenizer files say things in many ways, against what transformers 5 made of them
// (tests/fixtures/tokenizer_folders.json, by tools/make_tokenizer_fixtures.py); and refusals that name the field.

#include "text/tokenizer_files.h"

#include <fmt/format.h>
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
  const Case table[] = {
      {"gpt2-like", "parts", "tokenizer_config.json", R"({"tokenizer_class": "WhisperTokenizer"})", "WhisperTokenizer"},
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
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"fast_tokenizer_files": ["tokenizer.4.0.0.json"]})", "fast_tokenizer_files"},
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"added_tokens_decoder": [1]})", "added_tokens_decoder"},
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "a"}}})", "added_tokens_decoder"},
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"added_tokens_decoder": {"-1": {"content": "a"}}})", "added_tokens_decoder"},
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"added_tokens_decoder": {"500": "a"}})", "content"},
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"bos_token": 3})", "bos_token"},
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"extra_special_tokens": "x"})", "extra_special_tokens"},
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"a_token": "<new1>", "b_token": "<new2>"})", "save_pretrained"},
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"extra_special_tokens": {"b": "<new1>", "a": "<new2>"}})", "save_pretrained"},
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"model_specific_special_tokens": {"b": "<new1>", "a": "<new2>"}})", "save_pretrained"},
      {"gpt2-like", "whole", "tokenizer_config.json", R"({"model_specific_special_tokens": ["a"]})", "model_specific_special_tokens"},
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

TEST(TokenizerFiles, ManyTokensAreReadInOnePass) {
  constexpr int kMany = 200'000;
  Json names, listed, decoder, fresh = Json::array();
  for (int i = 0; i < kMany; ++i) {
    const std::string content = fmt::format("<|{:09}|>", i);
    names[fmt::format("a{}_token", i)] = content;
    listed[content] = 1000 + i;
    decoder[std::to_string(1000 + i)] = {{"content", content}, {"special", true}};
    fresh.push_back(content);
  }
  Json named = names;
  named["added_tokens_decoder"] = decoder;
  const auto size_with = [](const char* file, const Json& content, const Json& config) {
    TestFolder folder;
    write_tokenizer(folder, base_tokenizer("llama3-like"), true);
    folder.put("tokenizer_config.json", config.dump());
    folder.put(file, content.dump());
    return Tokenizer::load(folder.path().string())->vocab_size();
  };
  const int64_t before = size_with("tokenizer_config.json", Json::object(), Json::object());
  EXPECT_EQ(size_with("tokenizer_config.json", named, named), before + kMany);
  EXPECT_EQ(size_with("tokenizer_config.json", {{"extra_special_tokens", fresh}}, Json::object()), before + kMany);
  EXPECT_EQ(size_with("added_tokens.json", listed, {{"extra_special_tokens", fresh}}), before + kMany);
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

/// A byte-level BPE of so many tokens, the last of them added ones, whose steps are `pre_tokenizer`.
std::string large_tokenizer(const Json& pre_tokenizer, size_t size = 100'001, size_t added = 0) {
  Json json{{"pre_tokenizer", pre_tokenizer}, {"added_tokens", Json::array()}};
  Json& model = json["model"] = {{"type", "BPE"}, {"vocab", Json::object()}, {"merges", {"a B", "Ġ a", "1 1"}}};
  size_t id = 0;
  for (const char* text : {"a", "B", "1", "Ġ", "aB", "Ġa", "11", "▁"}) model["vocab"][text] = id++;
  for (; id < size - added; ++id) model["vocab"]["x" + std::to_string(id)] = id;
  for (; id < size; ++id) json["added_tokens"].push_back({{"id", id}, {"content", "<t" + std::to_string(id) + ">"}, {"special", true}});
  return json.dump();
}

const Json kWords{{"type", "Split"}, {"pattern", {{"Regex", R"(\p{L}+|[^\p{L}]+)"}}}, {"behavior", "Isolated"}, {"invert", false}},
    kBytes{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}},
    kWordsOfBytes{{"type", "Sequence"}, {"pretokenizers", Json::array({kWords, kBytes})}};
constexpr const char* kMends = R"({"tokenizer_class": "PreTrainedTokenizerFast", "fix_mistral_regex": true})";

// What transformers 5.24 made of these folders.
TEST(TokenizerFiles, SplitsOfMistralsModelsAreMendedWhereTransformersMendsThem) {
  TestFolder folder;
  folder.put("tokenizer.json", large_tokenizer(kWordsOfBytes));
  folder.put("tokenizer_config.json", kMends);
  folder.put("config.json", R"({"model_type": "mistral", "transformers_version": "4.57.3"})");
  EXPECT_EQ(Tokenizer::load(folder.path().string())->encode("aB11 a", true), (std::vector<int32_t>{0, 1, 2, 2, 5}));
  const auto mended = [&] { return read_tokenizer_files(folder.path().string()).json["pre_tokenizer"] != kWordsOfBytes; };
  for (const auto& [config, expected] :
       std::initializer_list<std::pair<const char*, bool>>{{R"({"model_type": "mistral"})", true},
                                                           {R"({"model_type": "mistral3", "transformers_version": null})", true},
                                                           {R"({"transformers_version": "4.42.0.dev0"})", true},
                                                           {R"({"model_type": "mistral", "transformers_version": "5.0.0.dev0"})", true},
                                                           {R"({"model_type": "mistral", "transformers_version": "5.0.0rc1"})", true},
                                                           {R"({"model_type": "mistral", "transformers_version": "5"})", false},
                                                           {R"({"model_type": "mistral", "transformers_version": "5.0.0"})", false},
                                                           {R"({"model_type": "mistral", "transformers_version": "5.1.0.dev0"})", false},
                                                           {R"({"model_type": "mistral", "transformers_version": "5.10.0"})", false},
                                                           {R"({"model_type": "llama"})", false},
                                                           {R"({"model_type": "ministral3"})", false}}) {
    folder.put("config.json", config);
    EXPECT_EQ(mended(), expected) << config;
  }
  folder.put("config.json", R"({"model_type": "mistral", "transformers_version": "new"})");
  expect_refused(folder, "transformers_version");
  folder.put("config.json", R"({"model_type": "mistral"})");
  folder.put("tokenizer.json", large_tokenizer(kWordsOfBytes, 100'000, 1));
  EXPECT_FALSE(mended());
  folder.put("tokenizer.json", large_tokenizer(kWordsOfBytes, 100'001, 1));
  EXPECT_TRUE(mended());
  folder.put("tokenizer_config.json", R"({"tokenizer_class": "PreTrainedTokenizerFast", "fix_mistral_regex": false})");
  EXPECT_FALSE(mended());
  folder.put("tokenizer_config.json", kMends);
  std::filesystem::remove(std::filesystem::path(folder.path()) / "config.json");
  EXPECT_FALSE(mended());
}

TEST(TokenizerFiles, AMendedSplitComesFirst) {
  TestFolder folder;
  folder.put("tokenizer_config.json", kMends);
  folder.put("config.json", R"({"model_type": "mistral"})");
  const Json metaspace{{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}, {"split", false}},
      gpt2{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  const auto sequence = [](const Json& steps) { return Json{{"type", "Sequence"}, {"pretokenizers", steps}}; };
  for (const auto& [steps, ids] : std::initializer_list<std::pair<Json, std::vector<int32_t>>>{{gpt2, {0, 1, 2, 2, 5}},
                                                                                               {metaspace, {0, 1, 2, 2, 5}},  // bytes in its stead
                                                                                               {nullptr, {4, 6, 0}},
                                                                                               {kWords, {0, 1, 2, 2, 0}},
                                                                                               {sequence(Json::array({metaspace})), {0, 1, 2, 2, 0}}}) {
    folder.put("tokenizer.json", large_tokenizer(steps));
    EXPECT_EQ(Tokenizer::load(folder.path().string())->encode("aB11 a", true), ids) << steps;
  }
  folder.put("tokenizer.json", large_tokenizer(sequence(Json::array())));
  expect_refused(folder, "no first step");
  // A class brings other steps, and they are mended as well.
  folder.put("config.json", R"({"hidden_size": 3})");
  folder.put("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer", "fix_mistral_regex": true})");
  folder.put("tokenizer.json", large_tokenizer(kWordsOfBytes));
  EXPECT_EQ(Tokenizer::load(folder.path().string())->encode("aB11 a", true), (std::vector<int32_t>{0, 1, 2, 2, 5}));
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

/// As Python reads it; the model's reader warns.
TEST(TokenizerFiles, OfAFieldOfConfigJsonThatComesTwiceTheLastCounts) {
  TestFolder folder;
  write_tokenizer(folder, base_tokenizer("gpt2-like"), true);
  folder.put("tokenizer_config.json", R"({"tokenizer_class": "GPT2TokenizerFast"})");
  folder.put("config.json", R"({"model_type": 3, "model_type": "gpt2"})");
  EXPECT_TRUE(read_tokenizer_files(folder.path().string()).warnings.empty());
}

}  // namespace
}  // namespace flexgen::tokenizer_files_test
