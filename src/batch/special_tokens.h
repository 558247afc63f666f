#pragma once
// SpecialTokens: prompts that begin with the tokenizer's own tokens (most often one, BOS): what commands say of texts that have them at the front already, as those do that were written out with a chat
// template, and where they stay as a prompt is cut.
// Any thread.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace flexgen {

/// How many tokens at the front are those that the tokenizer puts before a text: all of them, or 0.
int64_t count_prefix(const Tokenizer& tokenizer, std::span<const int32_t> tokens);

/// Whether tokens of encode(text, true) begin with the tokens that the tokenizer puts before a text, twice.
bool begins_with_two_prefixes(const Tokenizer& tokenizer, std::span<const int32_t> tokens);

/// Leaves the last `most` (at least 1) of a prompt's tokens. Where it begins with the tokenizer's prefix, whoever has put it there, that stays at the front, if there is room for another token.
/// Returns how many tokens stay at the front for that. `tokenizer` may be null: nobody knows of a prefix then.
int64_t cut_to_last(const Tokenizer* tokenizer, int64_t most, std::vector<int32_t>* tokens);

/// `who`: "the prompt"; `way_out`: how to have the prefix once.
void warn_of_two_prefixes(const Tokenizer& tokenizer, const std::string& who, const std::string& way_out = "give --no-special-tokens");

}  // namespace flexgen
