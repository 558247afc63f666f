#include "batch/special_tokens.h"

#include "base/log.h"

namespace flexgen {

bool begins_with_two_bos(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  return tokens.size() > 1 && tokenizer.bos() == tokens[0] && tokens[1] == tokens[0];
}

int64_t cut_to_last(const Tokenizer* tokenizer, int64_t most, std::vector<int32_t>* tokens) {
  if (tokens->empty()) return 0;
  const int64_t kept = tokenizer && tokenizer->bos() == tokens->front() && most > 1 ? 1 : 0;
  if (std::ssize(*tokens) > most) tokens->erase(tokens->begin() + kept, tokens->end() - (most - kept));
  return kept;
}

void warn_of_two_bos(const Tokenizer& tokenizer, const std::string& who, const std::string& way_out) {
  spdlog::warn("{} begins with '{}', which the tokenizer puts before a text too, so the model sees it twice; take it out of the text, or {}", who,
               tokenizer.bos_text(), way_out);
}

}  // namespace flexgen
