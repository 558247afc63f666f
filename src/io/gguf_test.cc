#include "io/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/test_folder.h"
#include "io/test_gguf.h"

namespace flexgen::gguf_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

GgufHead head_of(const std::string& path) { return read_gguf_head(*File::open(path, FileMode::kRead), true); }

TEST(Gguf, FieldsAndTensorsAreFound) {
  TestFolder folder;
  const std::string path = folder.put("m.gguf", TestGguf()
                                                    .text("general.architecture", "llama")
                                                    .number("llama.block_count", 7)
                                                    .real("llama.eps", 0.5f)
                                                    .flag("llama.flag", true)
                                                    .texts("tokens", {"a", std::string("\xff\0b", 3)})
                                                    .numbers<int32_t>("types", 5, {-1, 3})
                                                    .tensor("norm", {3}, 0, TestGguf::floats({1, 2, 3}))
                                                    .tensor("q", {64, 2}, 8, std::string(136, 'x'))
                                                    .bytes());
  EXPECT_TRUE(is_gguf(path));
  EXPECT_FALSE(is_gguf(folder.put("text", "GGU")));
  EXPECT_FALSE(is_gguf(folder.path()));
  const GgufHead head = head_of(path);
  EXPECT_EQ(gguf_text(head.metadata, "general.architecture", path), "llama");
  EXPECT_EQ(gguf_id_or(head.metadata, "llama.block_count", 1, path), 7);
  EXPECT_EQ(gguf_id_or(head.metadata, "llama.none", 1, path), 1);
  EXPECT_EQ(head.metadata["llama.eps"], 0.5);
  EXPECT_TRUE(gguf_flag_or(head.metadata, "llama.flag", false, path));
  EXPECT_THAT(head.metadata["tokens"], ElementsAre("a", std::string("\xff\0b", 3)));
  EXPECT_THAT(head.metadata["types"], ElementsAre(-1, 3));
  EXPECT_TRUE(gguf_metadata(path, false)["tokens"].empty());
  ASSERT_EQ(head.tensors.size(), 2u);
  EXPECT_THAT(head.tensors[1].shape, ElementsAre(2, 64));
  EXPECT_EQ(head.tensors[1].dtype, DType::kQ8_0);
  EXPECT_EQ(head.tensors[1].bytes, 136);
  EXPECT_EQ(head.tensors[1].offset, head.data_start + 32);
  float norm[3];
  File::open(path, FileMode::kRead)->read(head.tensors[0].offset, std::as_writable_bytes(std::span(norm)));
  EXPECT_EQ(norm[2], 3);
}

TEST(Gguf, EachBrokenFileHasItsOwnSentence) {
  const std::string good = TestGguf().text("a", "b").tensor("t", {32}, 2, std::string(18, 'x')).bytes();
  const auto with = [&](size_t at, const std::string& bytes) { return std::string(good).replace(at, bytes.size(), bytes); };
  const auto list_of = [](uint32_t type, uint64_t count) { return TestGguf::bits(type) + TestGguf::bits(count); };
  std::string nested;
  for (int i = 0; i < 5; ++i) nested += list_of(9, 1);
  struct Case {
    const char* what;
    std::string bytes, says;
  };
  const std::vector<Case> cases{
      {"no GGUF", "GGML" + good.substr(4), "is no GGUF"},
      {"version 1", with(4, TestGguf::bits(uint32_t{1})), "version 1"},
      {"the other end first", with(4, TestGguf::bits(uint32_t{0x03000000})), "least byte first"},
      {"truncated head", good.substr(0, 40), "truncated"},
      {"truncated data", good.substr(0, good.size() - 1), "the file is truncated"},
      {"a name that is too long", with(24, TestGguf::bits(~uint64_t{0})), "a text of 18446744073709551615 bytes"},
      {"too many tensors", with(8, TestGguf::bits(~uint64_t{0})), "18446744073709551615 tensors"},
      {"too many fields", with(16, TestGguf::bits(~uint64_t{0})), "broken"},
      {"unknown value", TestGguf().field("f", 13, "").bytes(), "unknown type 13"},
      {"no flag", TestGguf().field("f", 7, "\2").bytes(), "true or false"},
      {"long list", TestGguf().field("f", 9, list_of(0, uint64_t{1} << 60)).bytes(), "a list of 1152921504606846976 values"},
      {"nested lists", TestGguf().field("f", 9, nested + list_of(0, 0)).bytes(), "nested deeper"},
      {"a field twice", TestGguf().number("f", 1).number("f", 1).bytes(), "the field 'f' twice"},
      {"alignment", TestGguf().number("general.alignment", 12).bytes(), "general.alignment"},
      {"alignment of text", TestGguf().text("general.alignment", "32").bytes(), "general.alignment"},
      {"no dimensions", TestGguf().tensor("t", {}, 0, "").bytes(), "has 0 dimensions"},
      {"five dimensions", TestGguf().tensor("t", {1, 1, 1, 1, 1}, 0, "1234").bytes(), "has 5 dimensions"},
      {"size 0", TestGguf().tensor("t", {0}, 0, "").bytes(), "absurd shape"},
      {"2^64 elements", TestGguf().tensor("t", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, "").bytes(), "absurd shape"},
      {"half a block", TestGguf().tensor("t", {16}, 2, std::string(18, 'x')).bytes(), "blocks of 32"},
      {"unknown type", TestGguf().tensor("t", {1}, 99, "1234").bytes(), "the type 99"},
      {"a type that is not read", TestGguf().tensor("t", {256}, 16, std::string(66, 'x')).bytes(), "IQ2_XXS"},
      {"a tensor twice", TestGguf().tensor("t", {1}, 0, "1234").tensor("t", {1}, 0, "1234").bytes(), "the tensor 't' twice"},
      {"between alignments", TestGguf().tensor_at("t", {1}, 0, 4, "12341234").bytes(), "no multiple of 32"},
      {"overlap", TestGguf().tensor_at("t", {16}, 0, 0, std::string(64, 'x')).tensor_at("u", {1}, 0, 32, "").bytes(), "overlaps"},
      {"outside", TestGguf().tensor_at("t", {1}, 0, uint64_t{1} << 40, "1234").bytes(), "the file is truncated"},
      {"far outside", TestGguf().tensor_at("t", {1}, 0, ~uint64_t{0} - 31, "1234").bytes(), "lies at"},
  };
  TestFolder folder;
  for (const Case& bad : cases) {
    SCOPED_TRACE(bad.what);
    const std::string path = folder.put("bad.gguf", bad.bytes);
    const std::string message = error_of(ErrorKind::kUser, [&] { head_of(path); });
    EXPECT_THAT(message, HasSubstr(bad.says));
    EXPECT_THAT(message, HasSubstr("bad.gguf"));
  }
}

TEST(Gguf, AFieldOfAnotherKindIsNamed) {
  const nlohmann::json fields{{"text", "x"}, {"less", -1}, {"number", 1}};
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { gguf_text(fields, "number", "f"); }), HasSubstr("'number' is no text"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { gguf_text(fields, "none", "f"); }), HasSubstr("'none' is missing"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { gguf_id_or(fields, "less", 0, "f"); }), HasSubstr("'less'"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { gguf_flag_or(fields, "text", false, "f"); }), HasSubstr("'text'"));
}

TEST(Gguf, IdsOfNoTokensAreNone) {
  const auto id = [](const char* name, const nlohmann::json& value, const char* kind = "gpt2") {
    nlohmann::json metadata{{"tokenizer.ggml.model", kind}, {std::string("tokenizer.ggml.") + name, value}};
    return gguf_token_or_none(metadata, name, 5, "f");
  };
  EXPECT_EQ(id("eos_token_id", 4u), 4);
  EXPECT_EQ(id("eos_token_id", 5u), -1);
  EXPECT_EQ(id("eos_token_id", 4294967295u), -1);
  EXPECT_EQ(id("eos_token_id", ~uint64_t{0}), -1);
  EXPECT_EQ(gguf_token_or_none(nlohmann::json::object(), "eos_token_id", 5, "f"), -1);
  EXPECT_EQ(id("bos_token_id", 5u, "llama"), 1);
  EXPECT_EQ(id("eos_token_id", 5u, "llama"), 2);
  EXPECT_EQ(id("padding_token_id", 5u, "llama"), -1);
  EXPECT_EQ(gguf_token_or_none(nlohmann::json::object({{"tokenizer.ggml.model", "llama"}}), "eos_token_id", 2, "f"), -1);
  for (const nlohmann::json& wrong : {nlohmann::json(-1), nlohmann::json("4"), nlohmann::json(4.0)})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { id("eos_token_id", wrong); }), HasSubstr("'tokenizer.ggml.eos_token_id' is no whole number"));
}

TEST(Gguf, PartsAreOneCheckpoint) {
  TestFolder folder;
  const auto part = [&](uint32_t number, const char* tensor) {
    return TestGguf().text("general.architecture", "llama").number("split.count", 2).number("split.no", number).tensor(tensor, {1}, 0, "1234").bytes();
  };
  const std::string first = folder.put("m-00001-of-00002.gguf", part(0, "a"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { gguf_parts(first); }), HasSubstr("m-00002-of-00002.gguf is missing"));
  const std::string second = folder.put("m-00002-of-00002.gguf", part(1, "b"));
  EXPECT_THAT(gguf_parts(first), ElementsAre(first, second));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { gguf_parts(second); }), HasSubstr("give the first"));
  for (const char* none : {"m-00001-of-00000.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-00000-of-00000.gguf"})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { gguf_parts(none); }), HasSubstr("which there cannot be")) << none;
  EXPECT_THAT(gguf_parts("m-1-of-2.gguf"), ElementsAre("m-1-of-2.gguf"));
  nlohmann::json metadata;
  Checkpoint checkpoint = Checkpoint::open_gguf(first, &metadata);
  EXPECT_EQ(metadata["general.architecture"], "llama");
  ASSERT_TRUE(checkpoint.find("b"));
  EXPECT_EQ(checkpoint.find("b")->file, 1);
  EXPECT_EQ(checkpoint.fingerprint().size(), 32u);
  checkpoint.replace_each([](const std::string& name, const TensorLocation& at) {
    return name == "a" ? std::vector<NamedTensor>() : std::vector<NamedTensor>{{"model." + name, at}};
  });
  EXPECT_FALSE(checkpoint.find("a"));
  EXPECT_TRUE(checkpoint.find("model.b"));
  folder.put("m-00002-of-00002.gguf", part(1, "a"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { Checkpoint::open_gguf(first, &metadata); }), HasSubstr("another part too"));
  folder.put("m-00002-of-00002.gguf", part(0, "b"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { Checkpoint::open_gguf(first, &metadata); }), HasSubstr("part 1"));
}

}  // namespace
}  // namespace flexgen::gguf_test
