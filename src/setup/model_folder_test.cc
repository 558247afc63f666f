// What may stand after --model, and what is said of everything else.

#include "setup/model_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>

#include "io/test_folder.h"

namespace flexgen::model_folder_test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class ModelFolder : public testing::Test {
 protected:
  std::string put(const std::string& name, const std::string& text = "{}") {
    fs::create_directories((folder_.path() / name).parent_path());
    return folder_.put(name, text);
  }
  std::string at(const std::string& name) const { return folder_.file(name); }
  std::string find(const std::string& model, const std::string& revision = "") const { return find_model_folder(model, revision, at("hub")); }
  std::string refusal(const std::string& model, const std::string& revision = "") const {
    return error_of(ErrorKind::kUser, [&] { find(model, revision); });
  }
  /// A cache entry with two snapshots, of which main is the second.
  void put_entry() {
    put("hub/models--me--tiny/snapshots/1111aaaa/config.json");
    put("hub/models--me--tiny/snapshots/2222bbbb/config.json");
    put("hub/models--me--tiny/refs/main", "2222bbbb");
    put("hub/models--me--tiny/refs/v1.0", "1111aaaa\n");
  }
  TestFolder folder_;
};

TEST_F(ModelFolder, AFolderIsItself) {
  put("m/config.json");
  EXPECT_EQ(find(at("m")), at("m"));
  EXPECT_EQ(find(at("m/")), at("m/"));
  EXPECT_EQ(model_name_of(at("m/")), "m");
  EXPECT_EQ(model_name_of(at("m/../m")), "m");
  EXPECT_THAT(refusal(at("m"), "main"), HasSubstr("--revision main"));
}

TEST_F(ModelFolder, HubIdsAndCacheRootsAreFoundInTheLocalCache) {
  put_entry();
  const std::string main = at("hub/models--me--tiny/snapshots/2222bbbb"), old = at("hub/models--me--tiny/snapshots/1111aaaa");
  EXPECT_EQ(find("me/tiny"), main);
  EXPECT_EQ(find("https://huggingface.co/me/tiny"), main);
  EXPECT_EQ(find("hf://me/tiny"), main);
  EXPECT_EQ(find("me/tiny/"), main);
  EXPECT_EQ(find("https://huggingface.co/me/tiny/tree/v1.0"), old);
  EXPECT_EQ(find("hf://me/tiny@v1.0"), old);
  // As people copy them.
  for (const char* address : {"huggingface.co/me/tiny", "https://www.huggingface.co/me/tiny/", "https://huggingface.co/me/tiny?library=transformers#usage",
                              "https://hf.co/me/tiny/blob/main/config.json", "models--me--tiny"})
    EXPECT_EQ(find(address), main) << address;
  EXPECT_EQ(find("https://huggingface.co/me/tiny/resolve/v1.0/model.safetensors?download=true"), old);
  EXPECT_EQ(find("me/tiny@v1.0", "v1.0"), old);
  EXPECT_EQ(find(at("hub/models--me--tiny")), main);
  EXPECT_EQ(find("me/tiny", "v1.0"), old);
  EXPECT_EQ(find("me/tiny", "1111aaaa"), old);
  EXPECT_EQ(find("me/tiny", "1111"), old);
  EXPECT_EQ(find(old), old);
  EXPECT_EQ(model_name_of(main), "me/tiny");
}

TEST_F(ModelFolder, ACacheThatHasNotWhatIsAskedFor) {
  put_entry();
  EXPECT_THAT(refusal("me/tiny", "v2"), AllOf(HasSubstr("'v2'"), HasSubstr("main, v1.0")));
  EXPECT_THAT(refusal("me/tiny", "../../x"), HasSubstr("not the name of a branch"));
  put("hub/models--me--tiny/refs/gone", "3333cccc");
  EXPECT_THAT(refusal("me/tiny", "gone"), AllOf(HasSubstr("refs/gone says '3333cccc'"), HasSubstr("2222bbbb"), Not(HasSubstr("it has"))));
  EXPECT_THAT(refusal("me/tiny@v1.0", "main"), HasSubstr("names another one, v1.0"));
  EXPECT_THAT(refusal("me/other"), AllOf(HasSubstr("downloads nothing"), HasSubstr("hf download me/other"), Not(HasSubstr("did you mean"))));
  EXPECT_THAT(refusal("me/Tinny"), HasSubstr("did you mean me/tiny? flexgen downloads nothing"));
  EXPECT_THAT(refusal("opt-6.7b"), HasSubstr("plan and bench know it as a shape"));
  EXPECT_THAT(refusal("gpt2"), HasSubstr("hf download gpt2"));
  EXPECT_THAT(refusal("./no/such"), AllOf(HasSubstr("no such folder"), Not(HasSubstr("hf download"))));
  EXPECT_THAT(error_of(ErrorKind::kUser, [] { find_model_folder("me/tiny", "", ""); }), HasSubstr("no Hub cache"));
  fs::create_directories(at("hub/models--me--empty/snapshots"));
  EXPECT_THAT(refusal("me/empty"), HasSubstr("not finished"));
  fs::create_directories(at("hub/models--me--begun/blobs"));
  EXPECT_THAT(refusal("me/begun"), HasSubstr("not finished"));
  EXPECT_THAT(refusal(at("hub/models--me--begun/")), HasSubstr("not finished"));
  EXPECT_THAT(refusal(at("")), HasSubstr("Hub cache"));
  EXPECT_THAT(refusal(at("hub")), AllOf(HasSubstr("Hub cache"), HasSubstr("models--me--")));
}

TEST_F(ModelFolder, PathsAsPeopleWriteThem) {
  put("with blank/config.json");
  EXPECT_EQ(find(at("with blank")), at("with blank"));
  EXPECT_EQ(find(at("with blank///")), at("with blank///"));
  EXPECT_EQ(model_name_of(at("with blank///")), "with blank");
  fs::create_directory_symlink(at("with blank"), at("link"));
  EXPECT_EQ(find(at("link")), at("link"));
  put("x.gguf", "GGUF");
  EXPECT_EQ(find(at("x.gguf/")), at("x.gguf"));
  // Links to nothing, or in a circle: no missing folders.
  fs::create_symlink(at("nowhere"), at("dangling"));
  fs::create_symlink(at("circle"), at("circle"));
  fs::create_directories(at("half"));
  fs::create_symlink(at("blobs/1"), at("half/config.json"));
  const auto io_error = [&](const std::string& name) { return error_of(ErrorKind::kIo, [&] { find(at(name)); }); };
  EXPECT_THAT(io_error("dangling"), HasSubstr("a link to a file that is not there"));
  EXPECT_THAT(io_error("half"), HasSubstr("half/config.json: it is a link to a file that is not there"));
  EXPECT_THAT(io_error("circle"), HasSubstr("circle"));
  EXPECT_THAT(io_error(std::string(300, 'a')), HasSubstr("too long"));
  ASSERT_EQ(mkfifo(at("pipe").c_str(), 0600), 0);
  EXPECT_THAT(refusal(at("pipe")), HasSubstr("neither a folder nor a file"));
  const char* home = getenv("HOME");
  const std::string before = home ? home : "";
  setenv("HOME", folder_.path().c_str(), 1);
  EXPECT_EQ(find("~/with blank"), at("with blank"));
  EXPECT_EQ(find("~/x.gguf"), at("x.gguf"));
  EXPECT_THAT(refusal("~/none"), HasSubstr(at("none")));
  EXPECT_THAT(refusal("~other/none"), HasSubstr("~other/none: there is no such folder"));
  setenv("HOME", before.c_str(), 1);
}

TEST_F(ModelFolder, ShapesAndConfigFilesAreForCommandsWithoutWeights) {
  put("m/config.json");
  EXPECT_EQ(find_model_or_shape("opt-6.7b", ""), "opt-6.7b");
  EXPECT_EQ(find_model_or_shape(at("m/config.json"), ""), at("m/config.json"));
  EXPECT_EQ(find_model_or_shape(at("m"), ""), at("m"));
  put("x.gguf", "GGUF");
  const auto said = [](const std::string& model, const std::string& revision) {
    return error_of(ErrorKind::kUser, [&] { find_model_or_shape(model, revision); });
  };
  EXPECT_EQ(find_model_or_shape(at("x.gguf"), ""), at("x.gguf"));
  EXPECT_TRUE(is_checkpoint(at("x.gguf")));
  EXPECT_TRUE(is_checkpoint(at("m")));
  EXPECT_FALSE(is_checkpoint("opt-6.7b"));
  EXPECT_THAT(said(at("x.gguf"), "main"), HasSubstr("is a file and has no revisions"));
  EXPECT_THAT(said("opt-6.8b", ""), AllOf(HasSubstr("hf download"), HasSubstr("did you mean opt-6.7b?")));
  EXPECT_THAT(said("opt-6.7b", "main"), HasSubstr("--revision main: opt-6.7b is a shape"));
  EXPECT_THAT(said(at("m/config.json"), "main"), HasSubstr("is a file and has no revisions"));
}

TEST_F(ModelFolder, AnEntryWithoutRefsMeansItsOnlySnapshot) {
  put("hub/models--tiny/snapshots/abc/config.json");
  EXPECT_EQ(find("tiny"), at("hub/models--tiny/snapshots/abc"));
  put("hub/models--tiny/snapshots/def/config.json");
  EXPECT_THAT(refusal("tiny"), HasSubstr("abc, def"));
}

TEST_F(ModelFolder, EachOtherThingHasItsOwnSentence) {
  struct Other {
    std::vector<std::pair<std::string, std::string>> files;
    std::string model;
    std::vector<std::string> says;
  };
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:46\nsize 1345\n";
  for (const Other& other : std::vector<Other>{
           {{{"x.gguf", "GGML"}}, "x.gguf", {"does not begin as one"}},
           {{{"pointer.gguf", pointer}}, "pointer.gguf", {"git lfs pull"}},
           {{{"lora/adapter_config.json", R"({"base_model_name_or_path": "me/base"})"}}, "lora", {"adapter (LoRA)", "me/base", "merge_and_unload"}},
           {{{"lora2/adapter_config.json", "no json"}}, "lora2", {"adapter (LoRA)"}},
           {{{"meta/params.json", "{}"}, {"meta/consolidated.00.pth", ""}}, "meta", {"Meta's or Mistral's own layout"}},
           {{{"ggufs/a.Q4_0.gguf", "GGUF"}}, "ggufs", {"a.Q4_0.gguf", "give the file itself"}},
           {{{"diffusers/model_index.json", "{}"}}, "diffusers", {"diffusers"}},
           {{{"above/inner/config.json", "{}"}}, "above", {"above/inner does"}},
           {{{"file/config.json", "{}"}, {"file/model.safetensors", ""}}, "file/model.safetensors", {"give its folder, --model"}},
           {{{"file/config.json", "{}"}}, "file/config.json", {"give its folder"}},
           {{{"alone/model.safetensors", ""}}, "alone/model.safetensors", {"weights alone"}},
           {{{"torch/model.pt", ""}}, "torch/model.pt", {"PyTorch", "save_pretrained"}},
           {{{"m.tar.gz", ""}}, "m.tar.gz", {"archive"}},
           {{{"text.txt", "hello"}}, "text.txt", {"is a file"}},
           {{{"notes/readme.md", ""}}, "notes", {"no config.json"}},
       }) {
    for (const auto& [name, text] : other.files) put(name, text);
    SCOPED_TRACE(other.model);
    for (const std::string& part : other.says) EXPECT_THAT(refusal(at(other.model)), HasSubstr(part));
  }
  fs::create_directories(at("nothing"));
  EXPECT_THAT(refusal(at("nothing")), HasSubstr("is empty"));
  EXPECT_THAT(refusal(""), HasSubstr("empty"));
}

TEST_F(ModelFolder, TheEnvironmentSaysWhereTheCacheIs) {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) unsetenv(name);
  const char* home = getenv("HOME");
  const std::string before = home ? home : "";
  setenv("HOME", "/h", 1);
  EXPECT_EQ(hub_cache_from_environment(), "/h/.cache/huggingface/hub");
  setenv("XDG_CACHE_HOME", "/x", 1);
  EXPECT_EQ(hub_cache_from_environment(), "/x/huggingface/hub");
  setenv("HF_HOME", "/hf", 1);
  EXPECT_EQ(hub_cache_from_environment(), "/hf/hub");
  setenv("HF_HOME", "~/hf", 1);
  EXPECT_EQ(hub_cache_from_environment(), "/h/hf/hub");
  setenv("HF_HUB_CACHE", "/c", 1);
  EXPECT_EQ(hub_cache_from_environment(), "/c");
  for (const char* name : {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) unsetenv(name);
  setenv("HOME", before.c_str(), 1);
}

}  // namespace
}  // namespace flexgen::model_folder_test
