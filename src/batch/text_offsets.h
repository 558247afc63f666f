#pragma once
// TextOffsets: where each token begins in the text that is shown, in characters (code points), as the field text_offset of logprobs has it. A token that is not
// shown begins where the next one does; tokens that share a character all begin at it. Pure functions but for the class.

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace flexgen {

/// The same while tokens come: an offset is known once the text of its token is, so it may come later than the token. One thread.
class GrowingOffsets {
 public:
  /// `before`: as StreamDecoder's; these tokens have no offsets.
  GrowingOffsets(const Tokenizer& tokenizer, bool skip_special_tokens, std::span<const int32_t> before = {})
      : tokenizer_(tokenizer), skip_(skip_special_tokens), decoder_(tokenizer, skip_special_tokens, before), tokens_(before.begin(), before.end()),
        num_before_(before.size()) {}
  void add(int32_t token);
  /// After the last token: all are known.
  void finish();
  /// Of the first tokens, those that are known.
  const std::vector<int64_t>& known() const { return known_; }

 private:
  void take(std::string_view piece);

  const Tokenizer& tokenizer_;
  bool skip_;
  StreamDecoder decoder_;
  std::vector<int32_t> tokens_;
  size_t num_before_;
  std::vector<int64_t> known_;
  size_t context_ = 0;  ///< the token with which the last piece of text began
  int64_t offset_ = 0;  ///< where the next piece begins
};

/// Of tokens whose text is decode(tokens, skip_special_tokens), behind that of `before`: one a token.
std::vector<int64_t> text_offsets(const Tokenizer& tokenizer, std::span<const int32_t> tokens, bool skip_special_tokens, std::span<const int32_t> before = {});

/// Of tokens that encode() made of `text`, with `num_added` in front that are not in it. Where a token's text is not that of its place (an unknown token, a
/// normalizer), the tokens around it say where it must be.
std::vector<int64_t> text_offsets_in(const Tokenizer& tokenizer, std::span<const int32_t> tokens, std::string_view text, int64_t num_added);

}  // namespace flexgen
