// Where tokens begin in the text that is shown: by the tokenizers' own rules, in characters.

#include "batch/text_offsets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace flexgen::text_offsets_test {
namespace {

using testing::ElementsAre;

/// Bytes fall back as in Llama's tokenizers; <unk>, <s> and <sep> are special.
std::unique_ptr<Tokenizer> byte_fallback() {
  std::string vocab = R"("<unk>":0,"<s>":1,"<sep>":2,"\u2581":3,"a":4,"b":5,"\u2581ab":6,"ab":7,"\u4e2d":8)";
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    vocab += ",\"" + std::string(name) + "\":" + std::to_string(9 + byte);
  }
  return Tokenizer::from_json(
      R"({"added_tokens":[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true},{"id":2,"content":"<sep>","special":true}],
    "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},{"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]},
    "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},
               {"type":"Strip","content":" ","start":1,"stop":0}]},
    "model":{"type":"BPE","byte_fallback":true,"unk_token":"<unk>","merges":["a b","\u2581 ab"],"vocab":{)" +
          vocab + "}}}",
      "test");
}
int32_t byte(int value) { return 9 + value; }

TEST(TextOffsets, SkippedTokensBeginWhereTheNextDoes) {
  const auto tokenizer = byte_fallback();
  const std::vector<int32_t> tokens{1, 6, 2, 7, 2, 2, 4};
  EXPECT_EQ(tokenizer->decode(tokens, true), "ababa");
  EXPECT_THAT(text_offsets(*tokenizer, tokens, true), ElementsAre(0, 0, 2, 2, 4, 4, 4));
  const std::string all = tokenizer->decode(tokens, false);
  const auto shown = text_offsets(*tokenizer, tokens, false);
  for (size_t i = 2; i < tokens.size(); ++i)
    EXPECT_EQ(all.substr(static_cast<size_t>(shown[i]), tokenizer->token_text(tokens[i]).size()), tokenizer->token_text(tokens[i])) << i;
}

TEST(TextOffsets, AnAnswerGoesOnWhereThePromptEnds) {
  const auto tokenizer = byte_fallback();
  const std::vector<int32_t> prompt{4, 5}, answer{6, byte(0xc3), byte(0xa9), 4};
  const std::string before = tokenizer->decode(prompt, true);
  std::vector<int32_t> both = prompt;
  both.insert(both.end(), answer.begin(), answer.end());
  const std::string text = tokenizer->decode(both, true).substr(before.size());
  ASSERT_TRUE(text.starts_with(" ")) << text;  // of an answer that is a text of its own it is left out
  const int64_t word = static_cast<int64_t>(text.find("\xc3\xa9"));
  EXPECT_THAT(text_offsets(*tokenizer, answer, true, end_of_prompt(*tokenizer, prompt, true)), ElementsAre(0, word, word, word + 1));
}

TEST(TextOffsets, BytesOfACharacterBeginAtIt) {
  const auto tokenizer = byte_fallback();
  // a 😀 é b, the two in the middle as bytes
  const std::vector<int32_t> tokens{4, byte(0xf0), byte(0x9f), byte(0x98), byte(0x80), byte(0xc3), byte(0xa9), 5, 8, 4};
  EXPECT_EQ(tokenizer->decode(tokens, true),
            "a\xf0\x9f\x98\x80\xc3\xa9"
            "b\xe4\xb8\xad"
            "a");
  EXPECT_THAT(text_offsets(*tokenizer, tokens, true), ElementsAre(0, 1, 1, 1, 1, 2, 2, 3, 4, 5));
}

TEST(TextOffsets, BytesThatAreNoCharacterAreOneEach) {
  const auto tokenizer = byte_fallback();
  const std::vector<int32_t> tokens{4, byte(0xe4), byte(0xb8), 5, byte(0xff)};
  EXPECT_EQ(tokenizer->decode(tokens, true),
            "a\xef\xbf\xbd\xef\xbf\xbd"
            "b\xef\xbf\xbd");
  EXPECT_THAT(text_offsets(*tokenizer, tokens, true), ElementsAre(0, 1, 2, 3, 4));
}

TEST(TextOffsets, LongRunsOfBytes) {
  const auto tokenizer = byte_fallback();
  std::vector<int32_t> tokens;
  for (int i = 0; i < 300; ++i) tokens.insert(tokens.end(), {byte(0xe4), byte(0xb8), byte(0xad)});
  const auto offsets = text_offsets(*tokenizer, tokens, true);
  ASSERT_EQ(offsets.size(), tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(offsets[i], static_cast<int64_t>(i / 3)) << i;
}

/// A byte-level tokenizer, whose tokens may hold parts of characters.
std::unique_ptr<Tokenizer> byte_level() {
  return Tokenizer::from_json(R"({"added_tokens":[{"id":9,"content":"<|end|>","special":true}],
    "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":false},"decoder":{"type":"ByteLevel"},
    "model":{"type":"BPE","merges":[],"vocab":{"a":0,"b":1,"\u00f0":2,"\u0141":3,"\u013a":4,"\u0122":5,"\u00c3":6,"\u00a9":7,"\u0120":8}}})",
                              "test");
}

TEST(TextOffsets, TokensThatShareACharacter) {
  const auto tokenizer = byte_level();
  const std::vector<int32_t> tokens = tokenizer->encode(
      "a\xf0\x9f\x98\x80"
      "b\xc3\xa9",
      false);
  ASSERT_EQ(tokenizer->decode(tokens, true),
            "a\xf0\x9f\x98\x80"
            "b\xc3\xa9");
  EXPECT_THAT(text_offsets(*tokenizer, tokens, true), ElementsAre(0, 1, 1, 1, 1, 2, 3, 3));
  // Cut off within a character, and a special token in the middle of one.
  EXPECT_THAT(text_offsets(*tokenizer, std::vector<int32_t>{0, 2, 3}, true), ElementsAre(0, 1, 1));
  EXPECT_THAT(text_offsets(*tokenizer, std::vector<int32_t>{0, 6, 9, 7, 1}, true), ElementsAre(0, 1, 1, 1, 2));
}

TEST(TextOffsets, InAPromptTheTextAsGivenCounts) {
  const auto tokenizer = byte_fallback();
  auto offsets = [&](const std::string& text, int64_t num_added) {
    std::vector<int32_t> tokens = tokenizer->encode(text, false);
    tokens.insert(tokens.begin(), static_cast<size_t>(num_added), 1);
    return text_offsets_in(*tokenizer, tokens, text, num_added);
  };
  EXPECT_THAT(offsets("ab ab", 1), ElementsAre(0, 0, 2));
  // Special tokens that are written out are part of the text, though no decoder would show them; one that was added is not.
  const std::string text = "<s>ab<sep>ab";
  const std::vector<int32_t> tokens = tokenizer->encode(text, false);
  const auto found = text_offsets_in(*tokenizer, tokens, text, 0);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] <= 2) {
      EXPECT_EQ(found[i], tokens[i] == 1 ? 0 : 5) << i;
    }
  }
  EXPECT_EQ(offsets(text, 1)[0], 0);
  EXPECT_EQ(offsets(text, 1)[1], 0);
  EXPECT_EQ(offsets(text, 1)[2], found[1]);
  EXPECT_THAT(offsets("a\xf0\x9f\x98\x80"
                      "b",
                      0)
                  .back(),
              2);
}

TEST(TextOffsets, AnUnknownTokenStandsForWhatIsThere) {
  const auto tokenizer = Tokenizer::from_json(R"({"added_tokens":[{"id":0,"content":"<unk>","special":true}],
    "model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"merges":[],"vocab":{"<unk>":0,"a":1,"b":2}}})",
                                              "test");
  const std::string text =
      "ab\xe4\xb8\xad\xf0\x9f\x98\x80"
      "ba\xe4\xb8\xad";
  const std::vector<int32_t> tokens = tokenizer->encode(text, false);
  ASSERT_EQ(tokens, (std::vector<int32_t>{1, 2, 0, 2, 1, 0}));
  EXPECT_THAT(text_offsets_in(*tokenizer, tokens, text, 0), ElementsAre(0, 1, 2, 4, 5, 6));
}

}  // namespace
}  // namespace flexgen::text_offsets_test
