#include "text/charsmap.h"

#include <utf8proc.h>

#include <cstring>

#include "base/error.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

constexpr size_t kMaxClusterBytes = 5;  ///< bytes of a cluster that is looked up whole

// A unit of darts-clone.
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t value_of(uint32_t unit) { return unit & 0x7fffffffu; }
uint32_t label_of(uint32_t unit) { return unit & 0x800000ffu; }
uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 0x200u) >> 6); }

/// Where the cluster of characters that a reader takes for one ends (UAX #29).
size_t end_of_cluster(std::string_view text, size_t at) {
  utf8proc_int32_t state = 0;
  for (size_t next = at + utf8_length(text, at); next < text.size(); next += utf8_length(text, next)) {
    if (utf8proc_grapheme_break_stateful(character_at(text, at), character_at(text, next), &state)) return next;
    at = next;
  }
  return text.size();
}

}  // namespace

Charsmap::Charsmap(std::string_view bytes, const std::string& source) {
  uint32_t trie_bytes = 0;
  if (bytes.size() >= sizeof trie_bytes) std::memcpy(&trie_bytes, bytes.data(), sizeof trie_bytes);
  const std::string_view rest = bytes.substr(std::min(bytes.size(), sizeof trie_bytes));
  if (trie_bytes < sizeof(uint32_t) || trie_bytes % sizeof(uint32_t) != 0 || trie_bytes > rest.size() ||
      sanitize_utf8(rest.substr(trie_bytes)) != rest.substr(trie_bytes))
    fail_user("{}: its table of characters is broken; fetch the file again", source);
  units_.resize(trie_bytes / sizeof(uint32_t));
  std::memcpy(units_.data(), rest.data(), trie_bytes);
  replacements_ = rest.substr(trie_bytes);
}

std::optional<std::string_view> Charsmap::find(std::string_view text) const {
  size_t place = offset_of(units_[0]);
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) break;
    place ^= byte;
    if (place >= units_.size() || label_of(units_[place]) != byte) break;
    const uint32_t unit = units_[place];
    place ^= offset_of(unit);
    if (!has_leaf(unit)) continue;
    if (place >= units_.size()) break;
    const size_t begin = value_of(units_[place]);
    if (begin > replacements_.size()) break;
    return std::string_view(replacements_).substr(begin, replacements_.find('\0', begin) - begin);
  }
  return std::nullopt;
}

std::optional<std::string> Charsmap::apply(std::string_view text, size_t limit) const {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = end_of_cluster(text, at);
    const auto whole = end - at <= kMaxClusterBytes ? find(text.substr(at, end - at)) : std::nullopt;
    if (whole) out += *whole;
    for (size_t next = at; !whole && next < end;) {
      const std::string_view character = text.substr(next, utf8_length(text, next));
      out += find(character).value_or(character);
      next += character.size();
      if (out.size() > limit) return std::nullopt;
    }
    if (out.size() > limit) return std::nullopt;
    at = end;
  }
  return out;
}

}  // namespace flexgen
