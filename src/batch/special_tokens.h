#pragma once
// SpecialTokens: prompts that begin with the tokenizer's own token (BOS): what commands say of texts that have it at the front already, as those do that were written out with a chat
// template, and where it stays as a prompt is cut.
// Any thread.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace flexgen {

/// Whether tokens of encode(text, true) begin with the token that the tokenizer puts before a text, twice.
bool begins_with_two_bos(const Tokenizer& tokenizer, std::span<const int32_t> tokens);

/// Leaves the last `most` (at least 1) of a prompt's tokens. A BOS that it begins with, whoever has put it there, stays as the first of them, if there is room for another token.
/// Returns how many tokens stay at the front for that. `tokenizer` may be null: nobody knows of a BOS then.
int64_t cut_to_last(const Tokenizer* tokenizer, int64_t most, std::vector<int32_t>* tokens);

/// `who`: "the prompt"; `way_out`: how to have it once.
void warn_of_two_bos(const Tokenizer& tokenizer, const std::string& who, const std::string& way_out = "give --no-special-tokens");

}  // namespace flexgen
