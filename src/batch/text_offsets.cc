#include "batch/text_offsets.h"

#include <algorithm>
#include <optional>
#include <string>

#include "text/unicode.h"

namespace flexgen {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";
/// An unknown token stands for no more characters than that.
constexpr size_t kFarthest = 256;

bool is_valid(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(text, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

/// Characters that two texts have in common at the front.
int64_t common_characters(std::string_view a, std::string_view b) {
  const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
  auto size = static_cast<size_t>(end - a.begin());
  while (size > 0 && ((size < a.size() && is_continuation(a[size])) || (size < b.size() && is_continuation(b[size])))) --size;
  return count_characters(a.substr(0, size));
}

/// The offsets of tokens that become certain together.
class Group {
 public:
  Group(const Tokenizer& tokenizer, std::span<const int32_t> tokens, bool skip) : tokenizer_(tokenizer), tokens_(tokens), skip_(skip) {}

  /// Tokens [first, end), whose text is `text` behind that of [context, first); it begins at `offset`.
  void add(size_t context, size_t first, size_t end, std::string_view text, int64_t offset, std::vector<int64_t>& out) const {
    out.push_back(offset);
    if (end - first == 1) return;
    if (add_bytes(first, end, text, offset, out)) return;
    const size_t before = decode(context, first).size();
    std::string now = decode(context, first + 1);
    for (size_t i = first + 1; i < end; ++i) {
      int64_t known = now.size() > before ? common_characters(std::string_view(now).substr(before), text) : 0;
      std::string next = decode(context, i + 1);
      if (known > 0 && next == now && now.ends_with(kReplacement)) --known;  // more of what became no character
      out.push_back(std::max(out.back(), offset + known));
      now = std::move(next);
    }
  }

 private:
  std::string decode(size_t first, size_t end) const { return tokenizer_.decode(tokens_.subspan(first, end - first), skip_); }

  /// A run of single bytes, however long, and at most one token behind it. out.back() is the first one's.
  bool add_bytes(size_t first, size_t end, std::string_view text, int64_t offset, std::vector<int64_t>& out) const {
    std::string bytes;
    for (size_t i = first; i < end; ++i) {
      if (!tokenizer_.is_byte_token(tokens_[i])) {
        if (i + 1 < end) return false;
        break;
      }
      bytes += static_cast<char>(std::stoi(tokenizer_.token_text(tokens_[i]).substr(3, 2), nullptr, 16));
    }
    const bool valid = is_valid(bytes);
    std::string shown = valid ? bytes : "";
    for (size_t i = 0; !valid && i < bytes.size(); ++i) shown += kReplacement;
    if (!text.starts_with(shown)) return false;
    for (size_t i = 1; i < end - first; ++i) {
      // The character that byte i is part of.
      const bool shared = valid && i < bytes.size() && is_continuation(bytes[i]);
      out.push_back(shared ? out.back() : offset + (valid ? count_characters(std::string_view(bytes).substr(0, i)) : static_cast<int64_t>(i)));
    }
    return true;
  }

  const Tokenizer& tokenizer_;
  std::span<const int32_t> tokens_;
  bool skip_;
};

std::u32string characters_of(std::string_view text) {
  std::u32string out;
  for (size_t at = 0; at < text.size();) {
    size_t end = at + 1;
    while (end < text.size() && is_continuation(text[end])) ++end;
    char32_t character = 0;  // any number that tells characters apart
    for (; at < end; ++at) character = character << 8 | static_cast<unsigned char>(text[at]);
    out += character;
  }
  return out;
}

}  // namespace

void GrowingOffsets::take(std::string_view piece) {
  const size_t first = num_before_ + known_.size();
  Group(tokenizer_, tokens_, skip_).add(context_, first, tokens_.size(), piece, offset_, known_);
  offset_ += count_characters(piece);
  context_ = first;
}

void GrowingOffsets::add(int32_t token) {
  tokens_.push_back(token);
  if (const std::string piece = decoder_.push(token); !piece.empty()) take(piece);
}

void GrowingOffsets::finish() {
  const std::string piece = decoder_.finish();
  if (num_before_ + known_.size() < tokens_.size()) take(piece);
}

std::vector<int64_t> text_offsets(const Tokenizer& tokenizer, std::span<const int32_t> tokens, bool skip_special_tokens, std::span<const int32_t> before) {
  GrowingOffsets offsets(tokenizer, skip_special_tokens, before);
  for (const int32_t token : tokens) offsets.add(token);
  offsets.finish();
  return offsets.known();
}

std::vector<int64_t> text_offsets_in(const Tokenizer& tokenizer, std::span<const int32_t> tokens, std::string_view text, int64_t num_added) {
  std::vector<int64_t> out(static_cast<size_t>(num_added), 0);
  tokens = tokens.subspan(static_cast<size_t>(num_added));
  const std::vector<int64_t> own = text_offsets(tokenizer, tokens, false);
  const std::string decoded = tokenizer.decode(tokens, false);
  if (decoded == text) {
    out.insert(out.end(), own.begin(), own.end());
    return out;
  }
  const std::u32string from = characters_of(decoded), to = characters_of(text);
  size_t at = 0;
  bool lost = false;  // the token before covers some characters from `at` on
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto begin = static_cast<size_t>(own[i]), end = i + 1 < own.size() ? static_cast<size_t>(own[i + 1]) : from.size();
    const std::u32string piece = from.substr(begin, end - begin);
    if (piece.empty()) {
      out.push_back(static_cast<int64_t>(at));
      continue;
    }
    // Right here, or behind a blank that the tokenizer has dropped, or behind what an unknown token stands for.
    size_t found = std::u32string::npos, size = piece.size();
    if (lost) {
      const std::u32string near = to.substr(0, std::min(to.size(), at + kFarthest));
      found = near.find(piece, at + 1);
      if (found == std::u32string::npos && piece[0] == U' ') found = near.find(piece.data() + 1, at + 1, --size);
    } else if (to.compare(at, piece.size(), piece) == 0) {
      found = at;
    } else if (at < to.size() && to[at] == U' ' && to.compare(at + 1, piece.size(), piece) == 0) {
      found = at + 1;
    } else if (piece[0] == U' ' && to.compare(at, piece.size() - 1, piece, 1) == 0) {  // or before one that it has added
      found = at;
      --size;
    }
    out.push_back(static_cast<int64_t>(lost && found != std::u32string::npos ? found : at));
    if (found != std::u32string::npos) {
      at = found + size;
      lost = false;
    } else if (const int32_t token = tokens[i]; tokenizer.decode({&token, 1}, true).empty()) {
      lost = lost || at < to.size();
    } else {
      at = std::min(to.size(), at + piece.size());
      lost = false;
    }
  }
  return out;
}

}  // namespace flexgen
