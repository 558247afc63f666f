#include "text/bpe.h"

#include <algorithm>
#include <queue>

#include "base/error.h"
#include "io/checked_json.h"
#include "text/unicode.h"

namespace flexgen {

Bpe::Bpe(std::unordered_map<std::string, int32_t> vocab, const std::vector<std::pair<std::string, std::string>>& merges, const BpeOptions& options,
         const std::string& source)
    : vocab_(std::move(vocab)), options_(options), source_(source) {
  int32_t rank = 0;
  for (const auto& [left, right] : merges) {
    auto a = find(left), b = find(right), merged = find(left + right);
    if (!a || !b || !merged)
      fail_user("{}: the merge '{}' + '{}' names a token that the vocabulary lacks; the file is broken, fetch it again", source, left, right);
    merges_[key(*a, *b)] = Merge{rank++, *merged};  // of two equal ones the last counts, as in PyPI tokenizers
  }
  if (options_.unknown_token) unknown_ = find(*options_.unknown_token);
  if (options_.byte_fallback)
    for (int byte = 0; byte < 256; ++byte) byte_tokens_.push_back(find(fmt::format("<0x{:02X}>", byte)).value_or(-1));
}

std::optional<int32_t> Bpe::find(const std::string& token) const {
  auto found = vocab_.find(token);
  if (found == vocab_.end()) return std::nullopt;
  return found->second;
}

void Bpe::for_each(const std::function<void(const std::string&, int32_t)>& take) const {
  for (const auto& [text, id] : vocab_) take(text, id);
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& out) const {
  if (word.empty()) return;
  if (options_.ignore_merges)
    if (auto whole = find(std::string(word))) {
      out.push_back(*whole);
      return;
    }
  struct Symbol {
    int32_t token, previous, next;
    bool gone;
  };
  std::vector<Symbol> symbols;
  auto add = [&](int32_t token) {
    auto index = static_cast<int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({token, index - 1, -1, false});
  };
  // As PyPI tokenizers: an unknown character waits for a known one, so that bytes that follow it come before it.
  bool unknown_waits = false;
  auto flush = [&] {
    if (unknown_waits) add(*unknown_);
    unknown_waits = false;
  };
  for (size_t at = 0; at < word.size();) {
    size_t length = std::max<size_t>(1, utf8_length(word, at));
    std::string_view character = word.substr(at, length);
    at += length;
    if (auto token = find(std::string(character))) {
      flush();
      add(*token);
      continue;
    }
    bool bytes =
        !byte_tokens_.empty() && std::all_of(character.begin(), character.end(), [&](char c) { return byte_tokens_[static_cast<unsigned char>(c)] >= 0; });
    if (bytes) {
      for (char c : character) add(byte_tokens_[static_cast<unsigned char>(c)]);
    } else if (unknown_) {
      if (!options_.fuse_unknown) flush();
      unknown_waits = true;
    } else if (options_.unknown_token) {
      fail_user("{}: the character '{}' of the text is not in the vocabulary, and neither is the unk_token '{}'", source_, printable(character),
                printable(*options_.unknown_token));
    }
  }
  flush();

  struct Candidate {
    int32_t rank, position, result;
    bool operator<(const Candidate& other) const {  // the heap gives the lowest rank, leftmost first
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  std::priority_queue<Candidate> heap;
  auto consider = [&](int32_t position) {
    if (position < 0 || symbols[static_cast<size_t>(position)].next < 0) return;
    const Symbol& left = symbols[static_cast<size_t>(position)];
    auto merge = merges_.find(key(left.token, symbols[static_cast<size_t>(left.next)].token));
    if (merge != merges_.end()) heap.push({merge->second.rank, position, merge->second.result});
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<int32_t>(i));
  while (!heap.empty()) {
    Candidate best = heap.top();
    heap.pop();
    Symbol& left = symbols[static_cast<size_t>(best.position)];
    if (left.gone || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    auto merge = merges_.find(key(left.token, right.token));
    if (merge == merges_.end() || merge->second.result != best.result) continue;  // stale
    left.token = best.result;
    right.gone = true;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.position;
    consider(left.previous);
    consider(best.position);
  }
  for (int32_t i = symbols.empty() ? -1 : 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) out.push_back(symbols[static_cast<size_t>(i)].token);
}

}  // namespace flexgen
