#include "text/added_tokens.h"

#include <algorithm>

#include "text/regex.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

/// As Rust's regex defines \w, wider than PCRE2's.
bool is_word_character(std::string_view text, size_t at) {
  static const Regex word(R"(\A[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])", "word");
  bool found = false;
  const size_t length = utf8_length(text, at);
  if (length > 0) word.for_each(text.substr(at, length), [&](size_t, size_t) { found = true; });
  return found;
}

size_t character_before(std::string_view text, size_t at) {
  while (at > 0 && is_continuation(text[--at])) {
  }
  return at;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word_character(text, character_before(text, begin))) return false;
  return end == text.size() || !is_word_character(text, end);
}

}  // namespace

std::optional<int32_t> AddedTokens::add(const AddedToken& token, int64_t model_size, const FindInModel& find_in_model) {
  if (token.content.empty()) return std::nullopt;
  if (token.special) special_.insert(token.content);
  std::optional<int32_t> id = find(token.content);
  if (!id) id = find_in_model(token.content);
  if (!id) {
    const int64_t above = tokens_.empty() ? 0 : int64_t{tokens_.rbegin()->first} + 1;
    id = static_cast<int32_t>(std::max(model_size, above));
  }
  ids_[token.content] = *id;
  tokens_[*id] = token;
  return id;
}

std::optional<int32_t> AddedTokens::find(const std::string& content) const {
  auto found = ids_.find(content);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

void AddedTokens::finish(const std::function<std::string(const std::string&)>& normalize) {
  for (const auto& [id, token] : tokens_) {
    const std::string content = token.normalized ? normalize(token.content) : token.content;
    if (content.empty()) continue;
    (token.normalized ? normalized_ : raw_).add(content);
    (token.normalized ? normalized_ids_ : raw_ids_).push_back(id);
  }
  raw_.finish();
  normalized_.finish();
}

void AddedTokens::scan(const TokenMatcher& matcher, const std::vector<int32_t>& ids, std::string_view text, bool skip_special, const OnText& on_text,
                       const OnToken& on_token) const {
  size_t done = 0;
  size_t spaces_begin = 0, spaces_end = 0;  // the run that rstrip walked last, so that none is walked twice
  matcher.for_each(text, [&](size_t begin, size_t end, size_t pattern) {
    const int32_t id = ids[pattern];
    const AddedToken& token = tokens_.at(id);
    if (skip_special && is_special(token.content)) return;
    if (token.single_word && !stands_alone(text, begin, end)) return;
    if (token.lstrip)
      while (begin > done) {
        const size_t back = character_before(text, begin);
        if (back < done || !is_space(text, back)) break;
        begin = back;
      }
    if (token.rstrip) {
      if (end < spaces_begin || end >= spaces_end) {
        spaces_begin = spaces_end = end;
        while (spaces_end < text.size() && is_space(text, spaces_end)) spaces_end += utf8_length(text, spaces_end);
      }
      end = spaces_end;
    }
    if (begin > done) on_text(done, begin);
    on_token(id);
    done = end;
  });
  if (done < text.size()) on_text(done, text.size());
}

}  // namespace flexgen
