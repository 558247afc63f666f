#pragma once
// For tests: a tokenizer of bytes and of the marks that chat templates have.

#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace flexgen {

/// Tokens 0 to 255 are bytes, 256 ends an answer, those from 257 on are marks: special tokens if they `are_special`.
class MarkedBytes : public Tokenizer {
 public:
  explicit MarkedBytes(bool are_special) : are_special_(are_special) {}
  std::vector<int32_t> encode(std::string_view text, bool) const override {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      size_t taken = 1;
      int32_t id = static_cast<unsigned char>(text.front());
      for (size_t i = 0; i < std::size(kMarks); ++i)
        if (text.starts_with(kMarks[i])) {
          id = 257 + static_cast<int32_t>(i);
          taken = kMarks[i].size();
        }
      ids.push_back(id);
      text.remove_prefix(taken);
    }
    return ids;
  }
  std::string decode(std::span<const int32_t>, bool) const override { return ""; }
  std::string token_text(int32_t token) const override {
    return token < 256 ? std::string(1, static_cast<char>(token)) : token < 257 ? "" : std::string(kMarks[token - 257]);
  }
  std::string token_bytes(int32_t token) const override { return token > 256 && are_special_ ? "" : token_text(token); }
  bool is_byte_token(int32_t) const override { return false; }
  int64_t vocab_size() const override { return 257 + std::ssize(kMarks); }
  std::span<const int32_t> prefix() const override { return {}; }
  std::optional<int32_t> eos() const override { return 256; }

 private:
  static constexpr std::string_view kMarks[] = {"<tool_call>",
                                                "</tool_call>",
                                                "[TOOL_CALLS]",
                                                "[ARGS]",
                                                "[CALL_ID]",
                                                "<|START_ACTION|>",
                                                "<|END_ACTION|>",
                                                "</think>",
                                                "<|channel|>",
                                                "<|message|>",
                                                "<|end|>",
                                                "<|start|>",
                                                "<|constrain|>",
                                                "<|END_THINKING|>",
                                                "<|tool_call|>",
                                                "<|/tool_call|>",
                                                "<seed:tool_call>",
                                                "</seed:tool_call>",
                                                "<arg_key>",
                                                "</arg_key>",
                                                "<arg_value>",
                                                "</arg_value>",
                                                "<minimax:tool_call>",
                                                "</minimax:tool_call>",
                                                "<|START_RESPONSE|>",
                                                "<|END_RESPONSE|>"};
  bool are_special_;
};

}  // namespace flexgen
