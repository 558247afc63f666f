#pragma once
// SpecialTokens: what commands say of texts that have the tokenizer's own token at the front already, as those do that were written out with a chat template.
// Any thread.

#include <cstdint>
#include <span>
#include <string>

#include "text/tokenizer.h"

namespace flexgen {

/// Whether tokens of encode(text, true) begin with the token that the tokenizer puts before a text, twice.
bool begins_with_two_bos(const Tokenizer& tokenizer, std::span<const int32_t> tokens);

/// `who`: "the prompt"; `way_out`: how to have it once.
void warn_of_two_bos(const Tokenizer& tokenizer, const std::string& who, const std::string& way_out = "give --no-special-tokens");

}  // namespace flexgen
