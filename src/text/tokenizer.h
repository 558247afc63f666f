#pragma once
// Tokenizer: text to token ids and back, from a checkpoint's own files. Immutable after load; all const
// functions may be called from any thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace flexgen {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Loads tokenizer.json, or vocab.json + merges.txt, from a checkpoint directory, or what a GGUF holds. Throws Error{user} that
  /// names the file and the field for a broken or unsupported tokenizer.
  static std::unique_ptr<Tokenizer> load(const std::string& directory);

  /// The same from the text of a tokenizer.json; `source` is for messages. Exposed for the fuzz target.
  static std::unique_ptr<Tokenizer> from_json(const std::string& json, const std::string& source);

  /// Token ids of `text` (invalid UTF-8 becomes U+FFFD). add_special_tokens: apply the post-processor's template (bos).
  virtual std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const = 0;

  /// Text of `tokens`; special tokens are left out if skip_special_tokens. Always valid UTF-8: incomplete
  /// sequences become U+FFFD.
  virtual std::string decode(std::span<const int32_t> tokens, bool skip_special_tokens) const = 0;

  /// Whether a text has tokens that decode() leaves out where special tokens are skipped.
  virtual bool has_special_tokens(std::string_view text) const {
    const std::vector<int32_t> tokens = encode(text, false);
    return decode(tokens, true) != decode(tokens, false);
  }

  /// The piece of one token as text for logprobs output (may be a byte token: "<0xE4>"-like or U+FFFD).
  virtual std::string token_text(int32_t token) const = 0;

  /// The bytes that the token adds to a text in its middle, which may be part of a character; empty for special tokens, and for ids that are none.
  virtual std::string token_bytes(int32_t token) const { return is_byte_token(token) ? "" : token_text(token); }

  /// Whether the token is a single byte of a character ("<0xE4>"): its text depends on its neighbours.
  virtual bool is_byte_token(int32_t token) const = 0;

  virtual int64_t vocab_size() const = 0;
  /// The tokens that encode(text, true) puts before every text: most often one (BOS), or none. A text that brings its
  /// own (encode(text, false) begins with these tokens) gets them twice.
  virtual std::span<const int32_t> prefix() const = 0;
  /// How prefix() is written in a text.
  std::string prefix_text() const {
    std::string text;
    for (const int32_t token : prefix()) text += token_text(token);
    return text;
  }
  virtual std::optional<int32_t> eos() const = 0;
  /// "bos_token" and its like, as the checkpoint's files name them, and how each is written: what chat templates are given.
  virtual std::vector<std::pair<std::string, std::string>> special_tokens() const { return {}; }
};

/// Whether a checkpoint directory, or a GGUF, has any of the files that a tokenizer's vocabulary is kept in, of whatever kind.
bool has_tokenizer_files(const std::string& directory);

/// The last tokens of a prompt, as many as an answer's text may depend on: what decoders strip from the beginning of a text (the blank of SentencePiece's first
/// word) stays where the text goes on. None where the prompt ends within a character.
std::span<const int32_t> end_of_prompt(const Tokenizer& tokenizer, std::span<const int32_t> prompt, bool skip_special_tokens);

/// Decodes a growing token list piece by piece without ever emitting half a UTF-8 character. The pieces'
/// concatenation equals decode() of the whole list, without what is decoded of `before`. One thread.
class StreamDecoder {
 public:
  /// `before`: tokens that come first and are not given out, from end_of_prompt().
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true, std::span<const int32_t> before = {});
  /// The text that became certain with this token (may be empty).
  std::string push(int32_t token);
  /// What is left at the end (incomplete bytes as U+FFFD).
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::vector<int32_t> tokens_;
  size_t window_start_ = 0;  ///< tokens_ from here on are decoded together for context
  size_t emitted_ = 0;       ///< tokens_ before this one have been given out
};

}  // namespace flexgen
