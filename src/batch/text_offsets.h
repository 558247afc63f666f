#pragma once
// TextOffsets: where each token begins in the text that is shown, in characters (code points), as the field text_offset of logprobs has it. A token that is not
// shown begins where the next one does; tokens that share a character all begin at it. Pure functions.

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace flexgen {

/// Of tokens whose text is decode(tokens, skip_special_tokens): one a token.
std::vector<int64_t> text_offsets(const Tokenizer& tokenizer, std::span<const int32_t> tokens, bool skip_special_tokens);

/// Of tokens that encode() made of `text`, with `num_added` in front that are not in it. Where a token's text is not that of its place (an unknown token, a
/// normalizer), the tokens around it say where it must be.
std::vector<int64_t> text_offsets_in(const Tokenizer& tokenizer, std::span<const int32_t> tokens, std::string_view text, int64_t num_added);

}  // namespace flexgen
