#include "batch/special_tokens.h"

#include <algorithm>

#include "base/log.h"

namespace flexgen {

int64_t count_prefix(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  const std::span<const int32_t> prefix = tokenizer.prefix();
  return prefix.size() <= tokens.size() && std::equal(prefix.begin(), prefix.end(), tokens.begin()) ? std::ssize(prefix) : 0;
}

bool begins_with_two_prefixes(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  const auto once = static_cast<size_t>(count_prefix(tokenizer, tokens));
  return once > 0 && count_prefix(tokenizer, tokens.subspan(once)) > 0;
}

int64_t cut_to_last(const Tokenizer* tokenizer, int64_t most, std::vector<int32_t>* tokens) {
  const int64_t prefix = tokenizer ? count_prefix(*tokenizer, *tokens) : 0, kept = most > prefix ? prefix : 0;
  if (std::ssize(*tokens) > most) tokens->erase(tokens->begin() + kept, tokens->end() - (most - kept));
  return kept;
}

void warn_of_two_prefixes(const Tokenizer& tokenizer, const std::string& who, const std::string& way_out) {
  spdlog::warn("{} begins with '{}', which the tokenizer puts before a text too, so the model sees that twice; take it out of the text, or {}", who,
               tokenizer.prefix_text(), way_out);
}

}  // namespace flexgen
