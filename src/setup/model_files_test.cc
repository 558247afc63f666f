#include "setup/model_files.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "io/test_folder.h"

namespace flexgen::model_files_test {
namespace {

namespace fs = std::filesystem;

class ModelFiles : public testing::Test {
 protected:
  std::string put(const std::string& name) {
    fs::create_directories((folder_.path() / name).parent_path());
    return folder_.put(name, "{}");
  }
  std::string at(const std::string& name) const { return folder_.file(name); }
  bool is_own(const std::string& name) const { return is_model_file(at("m"), at(name)); }

  TestFolder folder_;
};

TEST_F(ModelFiles, AreKnownByTheirNames) {
  put("m/config.json");
  fs::create_directory_symlink(at("m"), at("link"));
  for (const char* own : {"m/config.json", "m/tokenizer.json", "m/model-00001-of-00002.safetensors", "m/model.safetensors.index.json", "m/tokenizer.model",
                          "m/merges.txt", "m/chat_template.jinja", "m/additional_chat_templates/tools.jinja", "m/parts/model.safetensors", "m/../m/config.json",
                          "link/config.json", "link/generation_config.json"})
    EXPECT_TRUE(is_own(own)) << own;
  // Answers may lie beside the model.
  for (const char* other :
       {"m/answers.jsonl", "m/answers.jsonl.job", "m/errors.txt", "m/runs/summary.json", "config.json", "mm/config.json", "m", "no/such/config.json"})
    EXPECT_FALSE(is_own(other)) << other;
  EXPECT_FALSE(is_model_file(at("m"), "/dev/null"));
}

TEST_F(ModelFiles, AreKnownByLinks) {
  put("m/config.json");
  put("m/additional_chat_templates/tools.jinja");
  const std::string answers = put("m/answers.jsonl"), blob = put("blobs/1234");
  fs::create_symlink(blob, at("m/model.safetensors"));
  fs::create_symlink(at("m/config.json"), at("soft"));
  fs::create_hard_link(at("m/config.json"), at("hard"));
  fs::create_hard_link(at("m/additional_chat_templates/tools.jinja"), at("template"));
  fs::create_symlink(at("m/tokenizer.json"), at("not_there_yet"));
  fs::create_symlink(at("soft"), at("softer"));
  fs::create_symlink(answers, at("other"));
  for (const char* own : {"blobs/1234", "soft", "softer", "hard", "template", "not_there_yet"}) EXPECT_TRUE(is_own(own)) << own;
  EXPECT_FALSE(is_own("other"));
  fs::create_symlink("circle", at("circle"));
  EXPECT_FALSE(is_own("circle"));
}

TEST_F(ModelFiles, OfAGgufAreItsParts) {
  const std::string first = put("g-00001-of-00002.gguf"), second = put("g-00002-of-00002.gguf"), other = put("other.gguf");
  fs::create_hard_link(second, at("hard"));
  for (const std::string& own : {first, second, at("hard")}) EXPECT_TRUE(is_model_file(first, own)) << own;
  EXPECT_FALSE(is_model_file(other, at("hard")));
  EXPECT_FALSE(is_model_file(other, at("config.json")));
}

// doctor and merge name no model, and other commands may be given files of another one.
TEST_F(ModelFiles, OfModelsThatNobodyNames) {
  put("m/config.json");
  const std::string code = put("code/config.json"), weights = put("m/model.safetensors"), gguf = put("other.gguf");
  put("n/config.json");
  for (const std::string& model : {std::string(), at("n"), gguf}) {
    for (const std::string& own : {weights, gguf, at("m/config.json"), at("m/tokenizer.json"), at("m/additional_chat_templates/a.jinja")})
      EXPECT_TRUE(is_model_file(model, own)) << model << own;
    for (const std::string& other : {code, at("code/summary.json"), at("m/answers.jsonl"), at("m/runs/a.json"), at("new.gguf")})
      EXPECT_FALSE(is_model_file(model, other)) << model << other;
  }
}

}  // namespace
}  // namespace flexgen::model_files_test
