// Stop strings: in what the reader sees, across tokens and characters, and in special tokens that nobody sees.

#include "generation/answer_text.h"

#include <gtest/gtest.h>

#include <map>

namespace flexgen::answer_text_test {
namespace {

/// Tokens by text; <...> is special, <0xNN> a byte.
class PieceTokenizer : public Tokenizer {
 public:
  int32_t id(const std::string& text) const {
    const auto [place, is_new] = ids_.try_emplace(text, static_cast<int32_t>(texts_.size()));
    if (is_new) texts_.push_back(text);
    return place->second;
  }
  bool is_special(int32_t token) const { return token_text(token).front() == '<' && !is_byte_token(token); }
  std::vector<int32_t> encode(std::string_view, bool) const override { return {}; }
  std::string decode(std::span<const int32_t> tokens, bool skip) const override {
    std::string out, bytes;
    auto flush = [&] {
      // As ByteFallback does: a run of bytes is a text or it is none.
      bool whole = true;
      for (size_t at = 0, length = 0; at < bytes.size() && whole; at += length) {
        const auto lead = static_cast<unsigned char>(bytes[at]);
        length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        whole = at + length <= bytes.size() && (lead < 0x80 || lead >= 0xc0);
      }
      if (whole) out += bytes;
      else
        for (size_t i = 0; i < bytes.size(); ++i) out += "\xef\xbf\xbd";
      bytes.clear();
    };
    for (int32_t token : tokens) {
      if (skip && is_special(token)) continue;
      if (is_byte_token(token)) {
        bytes += static_cast<char>(std::stoi(token_text(token).substr(3, 2), nullptr, 16));
        continue;
      }
      flush();
      out += token_text(token);
    }
    flush();
    return out;
  }
  std::string token_text(int32_t token) const override { return texts_.at(static_cast<size_t>(token)); }
  bool is_byte_token(int32_t token) const override { return token_text(token).starts_with("<0x"); }
  int64_t vocab_size() const override { return static_cast<int64_t>(texts_.size()); }
  std::span<const int32_t> prefix() const override { return {}; }
  std::optional<int32_t> eos() const override { return std::nullopt; }

 private:
  mutable std::map<std::string, int32_t> ids_;
  mutable std::vector<std::string> texts_;
};

struct Answer {
  std::string text, found;
  size_t tokens = 0;  ///< taken until then
  friend bool operator==(const Answer&, const Answer&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Answer& of) { return out << "'" << of.text << "' by '" << of.found << "' after " << of.tokens; }
};

Answer answer(const std::vector<std::string>& pieces, SamplingParams params, bool last_ends = false) {
  PieceTokenizer tokenizer;
  AnswerText text(tokenizer, params);
  Answer result;
  for (const std::string& piece : pieces) {
    const bool ends = last_ends && ++result.tokens == pieces.size();
    if (!last_ends) ++result.tokens;
    if (ends ? text.add_last(tokenizer.id(piece)) : text.add(tokenizer.id(piece))) break;
  }
  result.found = text.found();
  result.text = text.take();
  return result;
}

SamplingParams stop_at(std::vector<std::string> stops) {
  SamplingParams params;
  params.stop = std::move(stops);
  return params;
}

TEST(AnswerText, StopsWithinAndAcrossTokens) {
  EXPECT_EQ(answer({"a", "b", "c"}, stop_at({})), (Answer{"abc", "", 3}));
  EXPECT_EQ(answer({"one.two", "x"}, stop_at({"."})), (Answer{"one", ".", 1}));  // in the first token
  EXPECT_EQ(answer({".", "x"}, stop_at({"."})), (Answer{"", ".", 1}));
  EXPECT_EQ(answer({"on", "e E", "N", "D of", "x"}, stop_at({"END"})), (Answer{"one ", "END", 4}));
  EXPECT_EQ(answer({"aa", "aab", "x"}, stop_at({"aaab"})), (Answer{"a", "aaab", 2}));
  EXPECT_EQ(answer({"EN", "X", "END"}, stop_at({"END"})), (Answer{"ENX", "END", 3}));
  EXPECT_EQ(answer({"x y", " z"}, stop_at({"z", "y", "x y"})), (Answer{"", "x y", 1}));  // the first place
}

/// As SentencePiece's decoders, which leave out the blank before the first word of a text.
class StripsFirstBlank : public PieceTokenizer {
 public:
  std::string decode(std::span<const int32_t> tokens, bool skip) const override {
    const std::string text = PieceTokenizer::decode(tokens, skip);
    return text.starts_with(' ') ? text.substr(1) : text;
  }
};

TEST(AnswerText, GoesOnWhereThePromptEnds) {
  const StripsFirstBlank tokenizer;
  const auto answer = [&](const std::vector<int32_t>& prompt, bool afresh, const std::vector<std::string>& stop) {
    SamplingParams params;
    params.answers_afresh = afresh;
    params.stop = stop;
    AnswerText text(tokenizer, params, prompt);
    for (const char* piece : {"  ", " return", " x"})
      if (text.add(tokenizer.id(piece))) break;
    return text.take();
  };
  std::vector<int32_t> prompt;
  for (const char* piece : {" def", " f", "(", "a", ")", ":", " a", " b"}) prompt.push_back(tokenizer.id(piece));
  EXPECT_EQ(answer(prompt, false, {}), "   return x");
  EXPECT_EQ(answer(prompt, false, {"  return"}), " ");
  EXPECT_EQ(answer(prompt, true, {}), "  return x");  // of a conversation
  EXPECT_EQ(answer({}, false, {}), "  return x");
  EXPECT_EQ(answer({tokenizer.id("a"), tokenizer.id("<0xE4>")}, false, {}), "  return x");  // within a character
  EXPECT_EQ(answer({tokenizer.id("<s>")}, false, {}), "  return x");
}

TEST(AnswerText, StopsAcrossCharactersOfSeveralBytes) {
  EXPECT_EQ(answer({"a", "<0xE4>", "<0xB8>", "<0xAD>", "<0xE5>"}, stop_at({"中"})), (Answer{"a", "中", 4}));
  EXPECT_EQ(answer({"a", "<0xE4>", "<0xB8>", "<0xAD>", "b"}, stop_at({"中b"})), (Answer{"a", "中b", 5}));
  EXPECT_EQ(answer({"a", "<0x0A>", "<0x0A>", "b"}, stop_at({"\n"})), (Answer{"a", "\n", 2}));  // not a token later
  EXPECT_EQ(answer({"a", "<0x0A>"}, stop_at({"\n\n"})), (Answer{"a\n", "", 2}));
  EXPECT_EQ(answer({"a", "<0xE4>", "<0xB8>"}, stop_at({"x"})), (Answer{"a\xef\xbf\xbd\xef\xbf\xbd", "", 3}));
  EXPECT_EQ(answer({"😀", "é"}, stop_at({"é"})), (Answer{"😀", "é", 2}));
}

TEST(AnswerText, SpecialTokensThatNobodySeesStopToo) {
  EXPECT_EQ(answer({"a", "<end>", "b"}, stop_at({"<end>"})), (Answer{"a", "<end>", 2}));
  EXPECT_EQ(answer({"<end>", "b"}, stop_at({"<end>"})), (Answer{"", "<end>", 1}));
  EXPECT_EQ(answer({"a", "b\n", "<end>", "c"}, stop_at({"\n<end>"})), (Answer{"ab", "\n<end>", 3}));
  EXPECT_EQ(answer({"<sep>", "a", "<sep>", "b", "<end>"}, stop_at({"b<end>"})), (Answer{"a", "b<end>", 5}));
  EXPECT_EQ(answer({"a", "<sep>", "b", "c"}, stop_at({"<sep>b"})), (Answer{"a", "<sep>b", 3}));
  EXPECT_EQ(answer({"a", "<sep>", "<end>", "c"}, stop_at({"<sep><end>"})), (Answer{"a", "<sep><end>", 3}));
  EXPECT_EQ(answer({"a", "<0xE4>", "<0xB8>", "<0xAD>", "<end>", "x"}, stop_at({"中x"})), (Answer{"a", "中x", 6}));
  // Single bytes become text with the token behind them, here a special one.
  EXPECT_EQ(answer({"a", "<0x0A>", "<end>", "b"}, stop_at({"\n<end>"})), (Answer{"a", "\n<end>", 3}));
  EXPECT_EQ(answer({"a", "<0xE4>", "<0xB8>", "<0xAD>", "<end>", "x"}, stop_at({"中<end>"})), (Answer{"a", "中<end>", 5}));
  // What the reader sees counts as before, and a part of what nobody sees does not.
  EXPECT_EQ(answer({"a", "<sep>", "b", "c"}, stop_at({"ab"})), (Answer{"", "ab", 3}));
  EXPECT_EQ(answer({"a", "<sep>", "b"}, stop_at({">b", "<", "sep"})), (Answer{"ab", "", 3}));
  SamplingParams shown = stop_at({">b"});
  shown.skip_special_tokens = false;
  EXPECT_EQ(answer({"a", "<sep>", "b"}, shown), (Answer{"a<sep", ">b", 3}));
}

TEST(AnswerText, TheEndTokenIsLeftOutYetStopStringsMayEndInIt) {
  EXPECT_EQ(answer({"a", "b", "<eos>"}, stop_at({}), true), (Answer{"ab", "", 3}));
  EXPECT_EQ(answer({"a", "b", "<eos>"}, stop_at({"b<eos>"}), true), (Answer{"a", "b<eos>", 3}));
  EXPECT_EQ(answer({"a", "<eos>"}, stop_at({"<eos>"}), true), (Answer{"a", "<eos>", 2}));
  EXPECT_EQ(answer({"a", "<0x0A>", "<eos>"}, stop_at({"\n<eos>"}), true), (Answer{"a", "\n<eos>", 3}));
  SamplingParams shown = stop_at({"b"});
  shown.skip_special_tokens = false;
  EXPECT_EQ(answer({"a", "<eos>"}, shown, true), (Answer{"a", "", 2}));
  EXPECT_EQ(answer({"a", "b"}, stop_at({"b"}), true), (Answer{"a", "", 2}));  // a stop token that is text
}

TEST(AnswerText, WhatIsSettledStays) {
  PieceTokenizer tokenizer;
  for (const std::vector<std::string>& stops : {std::vector<std::string>{}, {"END"}, {"b\n<end>", "x"}, {"中<end>"}}) {
    const SamplingParams params = stop_at(stops);
    AnswerText text(tokenizer, params);
    std::vector<std::string> settled;
    for (const char* piece : {"a😀", "E", "N", "<sep>", "b\n", "<0xE4>", "<0xB8>", "<0xAD>", "<end>", "c", "EN", "D"}) {
      if (text.add(tokenizer.id(piece))) break;
      settled.emplace_back(text.settled());
    }
    const std::string whole = text.take();
    EXPECT_GT(settled.back().size(), 0u);
    for (const std::string& part : settled) {
      EXPECT_TRUE(whole.starts_with(part)) << "'" << part << "' of '" << whole << "'";
      EXPECT_TRUE(part.size() == whole.size() || (static_cast<unsigned char>(whole[part.size()]) & 0xc0) != 0x80) << "a part of a character: " << part;
    }
  }
  const SamplingParams no_stops = stop_at({});
  AnswerText text(tokenizer, no_stops);
  text.add(tokenizer.id("ab"));
  EXPECT_EQ(text.settled(), "ab") << "nothing is held back without stop strings";
}

TEST(AnswerText, MayIncludeWhatEndedIt) {
  SamplingParams params = stop_at({"END", "<end>"});
  params.include_stop = true;
  EXPECT_EQ(answer({"a E", "NDx"}, params), (Answer{"a END", "END", 2}));
  EXPECT_EQ(answer({"a", "<end>"}, params), (Answer{"a<end>", "<end>", 2}));
  EXPECT_EQ(answer({"a", "b"}, params, true), (Answer{"ab", "", 2}));
  EXPECT_EQ(answer({"a", "<eos>"}, params, true), (Answer{"a", "", 2}));
}

TEST(AnswerText, NothingStopsBeforeTheLeastTokens) {
  SamplingParams params = stop_at({"b"});
  params.min_tokens = 2;
  EXPECT_EQ(answer({"a", "b", "c", "b"}, params), (Answer{"abc", "b", 4}));
  params.stop = {"bc"};
  EXPECT_EQ(answer({"a", "b", "c"}, params), (Answer{"a", "bc", 3}));  // it ends behind them
}

}  // namespace
}  // namespace flexgen::answer_text_test
