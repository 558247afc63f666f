#include "text/word_level.h"

#include "base/error.h"
#include "io/checked_json.h"

namespace flexgen {

WordLevel::WordLevel(std::unordered_map<std::string, int32_t> vocab, std::string unknown, std::string source)
    : vocab_(std::move(vocab)), unknown_(std::move(unknown)), source_(std::move(source)) {}

std::optional<int32_t> WordLevel::find(const std::string& token) const {
  auto found = vocab_.find(token);
  return found == vocab_.end() ? std::nullopt : std::optional(found->second);
}

void WordLevel::for_each(const std::function<void(const std::string&, int32_t)>& take) const {
  for (const auto& [text, id] : vocab_) take(text, id);
}

void WordLevel::encode(std::string_view word, std::vector<int32_t>& out) const {
  if (word.empty()) return;
  const std::string text(word);
  std::optional<int32_t> id = find(text);
  if (!id) id = find(unknown_);
  if (!id)
    fail_user("{}: the word '{}' of the text is not in the vocabulary, and neither is the unk_token '{}'", source_, printable(text), printable(unknown_));
  out.push_back(*id);
}

}  // namespace flexgen
