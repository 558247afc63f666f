#pragma once
// For tests and fuzz targets: a tokenizer whose tokens are bytes. Immutable; any thread.

#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace flexgen {

/// Token = byte; 256 is bos, put first if asked for.
class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(bool with_bos = false) : with_bos_(with_bos) {}
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override {
    std::vector<int32_t> tokens;
    if (with_bos_ && add_special_tokens) tokens.push_back(256);
    if (with_bos_ && text.starts_with("<s>")) {
      tokens.push_back(256);
      text.remove_prefix(3);
    }
    for (char c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }
  std::string decode(std::span<const int32_t> tokens, bool skip_special_tokens) const override {
    std::string text;
    for (int32_t token : tokens)
      if (token != 256 || !skip_special_tokens) text += token_text(token);
    return text;
  }
  std::string token_text(int32_t token) const override { return token == 256 ? "<s>" : std::string(1, static_cast<char>(token)); }
  bool is_byte_token(int32_t) const override { return false; }
  int64_t vocab_size() const override { return 257; }
  std::span<const int32_t> prefix() const override { return std::span(kBos).first(with_bos_ ? 1 : 0); }
  std::optional<int32_t> eos() const override { return std::nullopt; }

 private:
  static constexpr int32_t kBos[] = {256};
  bool with_bos_;
};

}  // namespace flexgen
