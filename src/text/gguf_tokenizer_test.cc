#include "text/gguf_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>

#include "io/test_folder.h"
#include "io/test_gguf.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace flexgen::gguf_tokenizer_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TestGguf byte_level(const std::string& pre, uint32_t begin_and_end = 7) {
  TestGguf gguf;
  gguf.text("general.architecture", "llama")
      .text("tokenizer.ggml.model", "gpt2")
      .text("tokenizer.ggml.pre", pre)
      .texts("tokenizer.ggml.tokens", {"a", "b", "Ġ", "ab", "Ġab", "1", "11", "<|end|>", "<tool>"})
      .numbers<int32_t>("tokenizer.ggml.token_type", 5, {1, 1, 1, 1, 1, 1, 1, 3, 4})
      .texts("tokenizer.ggml.merges", {"a b", "Ġ ab", "1 1"})
      .number("tokenizer.ggml.bos_token_id", begin_and_end)
      .number("tokenizer.ggml.eos_token_id", begin_and_end);
  return gguf;
}

TestGguf pieces(uint32_t begin = 1, uint32_t end = 2) {
  TestGguf gguf;
  gguf.text("general.architecture", "llama")
      .text("tokenizer.ggml.model", "llama")
      .texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "<0x21>", "▁", "a", "b", "ab", "▁a", "▁ab"})
      .numbers<int32_t>("tokenizer.ggml.token_type", 5, {2, 3, 3, 6, 1, 1, 1, 1, 1, 1})
      .numbers<float>("tokenizer.ggml.scores", 6, {0, 0, 0, 0, -9, -9, -9, -3, -2, -1})
      .number("tokenizer.ggml.bos_token_id", begin)
      .number("tokenizer.ggml.eos_token_id", end)
      .number("tokenizer.ggml.unknown_token_id", 0);
  return gguf;
}

TEST(GgufTokenizer, BytesAndMerges) {
  TestFolder folder;
  const auto tokenizer = Tokenizer::load(folder.put("m.gguf", byte_level("smollm").bytes()));
  EXPECT_THAT(tokenizer->encode("ab ab<|end|>11<tool>", true), ElementsAre(3, 4, 7, 5, 5, 8));  // digits stand alone
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{3, 4, 7, 8}, true), "ab ab<tool>");
  EXPECT_EQ(tokenizer->eos(), 7);
  EXPECT_TRUE(tokenizer->prefix().empty());
  EXPECT_TRUE(has_tokenizer_files(folder.file("m.gguf")));
  const auto words = Tokenizer::load(folder.put("m.gguf", byte_level("llama-bpe").bytes()));
  EXPECT_THAT(words->encode("ab11", true), ElementsAre(7, 3, 6));  // begins texts where no field says otherwise
  const auto plain = Tokenizer::load(folder.put("m.gguf", byte_level("llama-bpe").flag("tokenizer.ggml.add_bos_token", false).bytes()));
  EXPECT_THAT(plain->encode("ab11", true), ElementsAre(3, 6));
}

/// A tokenizer of byte-level pieces that splits texts as `pre` says.
TestGguf split_as(const char* pre, const std::vector<std::string>& tokens, const std::vector<std::string>& merges) {
  TestGguf gguf;
  gguf.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre).texts("tokenizer.ggml.tokens", tokens).texts("tokenizer.ggml.merges", merges);
  return gguf;
}

std::unique_ptr<Tokenizer> loaded(const TestGguf& gguf) {
  TestFolder folder;
  return Tokenizer::load(folder.put("m.gguf", gguf.bytes()));
}

// gpt-oss's split begins a stretch where small letters become large, and takes digits by threes.
TEST(GgufTokenizer, StretchesOfLetters) {
  const auto encode = [](const char* pre, const char* text) {
    return loaded(split_as(pre, {"a", "B", "aB", "1", "11", "1111", "'", "s", "'s", "as", "a's", "Bs", "B's"}, {"a B", "1 1", "11 11", "' s", "a 's", "B 's"}))
        ->encode(text, false);
  };
  EXPECT_THAT(encode("gpt-4o", "aB1111"), ElementsAre(0, 1, 4, 3, 3));
  EXPECT_THAT(encode("gpt-4o", "a's"), ElementsAre(10));  // what a word ends with stays with it
  EXPECT_THAT(encode("glm4", "aB1111"), ElementsAre(2, 4, 3, 3));
  EXPECT_THAT(encode("glm4", "a's"), ElementsAre(0, 8));
  EXPECT_THAT(encode("qwen2", "aB1111"), ElementsAre(2, 3, 3, 3, 3));
}

// DeepSeek's: patterns one after the other, each for what those before it have left.
TEST(GgufTokenizer, SplitsInSeveralSteps) {
  const auto encode = [](const char* pre, const char* text) {
    return loaded(split_as(pre, {"a", ",", "Ġ", "Ġa", "a,", "1", "11", "Ċ", "ĊĊ", ",Ċ", "ä", "½", "ł", "aä", "Ã", "©", "aÃ", "×", "Ĳ", "©×"},
                           {"Ġ a", "a ,", "1 1", "Ċ Ċ", ", Ċ", "a ä", "a Ã", "© ×"}))
        ->encode(text, false);
  };
  EXPECT_THAT(encode("deepseek-coder", " a,11"), ElementsAre(3, 1, 5, 5));
  EXPECT_THAT(encode("deepseek-llm", " a,11"), ElementsAre(3, 1, 6));
  EXPECT_THAT(encode("deepseek-llm", "a\n\n1"), ElementsAre(0, 7, 7, 5));
  for (const char* pre : {"deepseek-coder", "deepseek-llm"})
    EXPECT_THAT(encode(pre, "a\xe4\xbd\xa0"), ElementsAre(0, 10, 11, 12));                   // what is Asian stands apart
  EXPECT_THAT(encode("deepseek-coder", "a\xc3\xa9\xd7\x90"), ElementsAre(16, 19, 18));       // any letter
  EXPECT_THAT(encode("deepseek-llm", "a\xc3\xa9\xd7\x90"), ElementsAre(0, 14, 15, 17, 18));  // those of ASCII (":-~" has them), those with capitals, others
  EXPECT_THAT(encode("deepseek-v3", " a,11"), ElementsAre(3, 1, 6));
  EXPECT_THAT(encode("deepseek-v3", "a,\n1111"), ElementsAre(0, 9, 6, 5, 5));       // digits by threes
  EXPECT_THAT(encode("deepseek-v3", "a\xe4\xbd\xa0"), ElementsAre(0, 10, 11, 12));  // what is Chinese stands apart
  EXPECT_THAT(encode("deepseek-v3", "a\xc3\xa9\xd7\x90"), ElementsAre(16, 19, 18));
  EXPECT_THAT(encode("seed-coder", "a,\n11"), ElementsAre(0, 1, 7, 5, 5));
  EXPECT_THAT(encode("qwen2", "a,\n11"), ElementsAre(0, 9, 5, 5));
  EXPECT_THAT(encode("viking", "a,\n11"), ElementsAre(0, 9, 5, 5));  // what is no word is together
  EXPECT_THAT(encode("minerva-7b", "a,\n11"), ElementsAre(0, 1, 7, 5, 5));
}

// Other names of splits, as llama.cpp has them.
TEST(GgufTokenizer, SplitsHaveSeveralNames) {
  const auto encode = [](const char* pre) {
    TestGguf gguf =
        split_as(pre, {"a", "B", "aB", "1", "11", "1111", "'", "S", "'S", "BS", "B'S", "aaa", "<s>"}, {"a B", "1 1", "11 11", "' S", "B S", "B 'S"});
    return loaded(gguf.number("tokenizer.ggml.bos_token_id", 12))->encode("aB1111B'Saaa", true);
  };
  std::set<std::vector<int32_t>> all;
  for (const auto& [name, others] :
       std::initializer_list<std::pair<const char*, std::vector<const char*>>>{{"gpt-2", {"phi-2", "exaone4", "mellum", "gigachat", "trillion", "a.x-4.0"}},
                                                                               {"llama-bpe", {"falcon3", "pixtral", "midm-2.0"}},
                                                                               {"qwen2", {"kormo", "megrez", "hunyuan", "solar-open", "grok-2"}},
                                                                               {"deepseek-v3", {"hunyuan-dense", "joyai-llm"}},
                                                                               {"gpt-4o", {"llama4", "kanana2"}}}) {
    for (const char* other : others) EXPECT_EQ(encode(other), encode(name)) << other;
    EXPECT_TRUE(all.insert(encode(name)).second) << name << " splits as another";
  }
}

// Converters write an id that is no token's where a model lacks the token.
TEST(GgufTokenizer, IdsOfNoTokensAreNone) {
  TestFolder folder;
  TokenizerFiles files = read_gguf_tokenizer(folder.put("m.gguf", byte_level("llama-bpe", ~0u)
                                                                      .number("tokenizer.ggml.unknown_token_id", 9)
                                                                      .number("tokenizer.ggml.seperator_token_id", 9)
                                                                      .number("tokenizer.ggml.padding_token_id", ~0u)
                                                                      .bytes()));
  EXPECT_TRUE(files.special_tokens.empty());
  EXPECT_EQ(files.eos, "");
  EXPECT_EQ(files.begin_token, "");
  ASSERT_EQ(files.warnings.size(), 5u);
  EXPECT_THAT(files.warnings[2], HasSubstr("'tokenizer.ggml.unknown_token_id' is 9, and there are 9 tokens; taken for one that is not there"));
  EXPECT_THAT(files.warnings[4], HasSubstr("'tokenizer.ggml.padding_token_id' is 4294967295"));
  // SentencePiece's own begin and end texts all the same.
  const std::string path = folder.put("m.gguf", pieces(10, ~0u).bytes());
  const auto tokenizer = Tokenizer::load(path);
  EXPECT_THAT(tokenizer->encode("ab", true), ElementsAre(1, 9));
  EXPECT_EQ(tokenizer->eos(), 2);
  files = read_gguf_tokenizer(path);
  ASSERT_EQ(files.warnings.size(), 2u);
  EXPECT_THAT(files.warnings[0], HasSubstr("'tokenizer.ggml.bos_token_id' is 10, and there are 10 tokens; '<s>' is taken"));
}

TEST(GgufTokenizer, TokensWithoutTextOrTypeAreTokens) {
  TestFolder folder;
  TestGguf gguf;
  gguf.text("tokenizer.ggml.model", "gpt2")
      .text("tokenizer.ggml.pre", "gpt-2")
      .texts("tokenizer.ggml.tokens", {"a", "", "b", "", "ab"})
      .numbers<int32_t>("tokenizer.ggml.token_type", 5, {0, 1, 0, 5, 0})
      .texts("tokenizer.ggml.merges", {"a b"});
  const auto tokenizer = Tokenizer::load(folder.put("m.gguf", gguf.bytes()));
  EXPECT_THAT(tokenizer->encode("aab", false), ElementsAre(0, 4));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{4, 1, 3}, false), "ab[EMPTY_1][EMPTY_3]");
}

TEST(GgufTokenizer, PiecesMergeByScore) {
  TestFolder folder;
  const auto tokenizer = Tokenizer::load(folder.put("m.gguf", pieces().bytes()));
  EXPECT_THAT(tokenizer->encode("ab!", true), ElementsAre(1, 9, 3));
  EXPECT_THAT(tokenizer->encode(" ab", false), ElementsAre(4, 9));  // its own blank, and the text's
  EXPECT_THAT(tokenizer->encode("ab</s>ab", false), ElementsAre(9, 2, 9));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{1, 9, 3, 9}, true), "ab! ab");
  const auto bare =
      Tokenizer::load(folder.put("m.gguf", pieces().flag("tokenizer.ggml.add_space_prefix", false).flag("tokenizer.ggml.add_bos_token", false).bytes()));
  EXPECT_THAT(bare->encode("ab ab", true), ElementsAre(7, 9));
  EXPECT_EQ(bare->decode(std::vector<int32_t>{9}, true), " ab");
}

TEST(GgufTokenizer, ChatTemplates) {
  TestFolder folder;
  const auto load = [&](const TestGguf& gguf) { return ChatTemplate::load(folder.put("m.gguf", gguf.bytes()), {{"eos_token", "<|end|>"}}); };
  EXPECT_EQ(load(byte_level("smollm")), nullptr);
  const auto chat = load(byte_level("smollm")
                             .text("tokenizer.chat_template", "{{ messages[0].content + eos_token }}")
                             .texts("tokenizer.chat_templates", {"tool_use"})
                             .text("tokenizer.chat_template.tool_use", "tools"));
  ASSERT_TRUE(chat);
  Conversation conversation;
  conversation.messages = jinja::make_list({jinja::make_dict({{"role", "user"}, {"content", "hi"}})});
  EXPECT_EQ(chat->render(conversation, 0), "hi<|end|>");
}

TEST(GgufTokenizer, WhatIsNotKnownIsRefusedByName) {
  TestFolder folder;
  const auto refusal = [&](const TestGguf& gguf) { return error_of(ErrorKind::kUser, [&] { Tokenizer::load(folder.put("m.gguf", gguf.bytes())); }); };
  EXPECT_THAT(refusal(byte_level("chameleon")), HasSubstr("'tokenizer.ggml.pre' is 'chameleon'"));
  const auto with = [](const char* model) { return TestGguf().text("tokenizer.ggml.model", model); };
  EXPECT_THAT(refusal(with("bert").texts("tokenizer.ggml.tokens", {"a"})), HasSubstr("'tokenizer.ggml.model' is 'bert'"));
  EXPECT_THAT(refusal(with("gpt2")), HasSubstr("'tokenizer.ggml.tokens' is missing"));
  EXPECT_THAT(refusal(with("llama").texts("tokenizer.ggml.tokens", {"a", "a"})), HasSubstr("'a' is there twice"));
  EXPECT_THAT(refusal(with("llama").texts("tokenizer.ggml.tokens", {"a"}).numbers<int32_t>("tokenizer.ggml.token_type", 5, {1, 1})), HasSubstr("token_type"));
  EXPECT_THAT(refusal(with("llama").texts("tokenizer.ggml.tokens", {"a"}).numbers<int32_t>("tokenizer.ggml.token_type", 5, {9})), HasSubstr("unknown type 9"));
  EXPECT_THAT(refusal(with("llama").texts("tokenizer.ggml.tokens", {"a"}).numbers<float>("tokenizer.ggml.scores", 6, {1, 2})), HasSubstr("scores"));
  EXPECT_THAT(
      refusal(with("llama").texts("tokenizer.ggml.tokens", {"a"}).numbers<float>("tokenizer.ggml.scores", 6, {1}).text("tokenizer.ggml.bos_token_id", "a")),
      HasSubstr("bos_token_id"));
}

}  // namespace
}  // namespace flexgen::gguf_tokenizer_test
