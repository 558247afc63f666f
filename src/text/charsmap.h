#pragma once
// Charsmap: the table by which SentencePiece replaces characters before anything else (nmt_nfkc and the like), looked up as PyPI tokenizers does. Immutable; any thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace flexgen {

class Charsmap {
 public:
  /// `bytes`: the size of a double array trie (Aoe 1989, as darts-clone packs it), the trie, and the replacements, each ended by a zero. Throws Error{user} naming `source`
  /// for what is no such table.
  Charsmap(std::string_view bytes, const std::string& source);

  /// Each cluster of characters of up to 5 bytes replaced, or else each of its characters, where the table has one that it begins with. Nothing if that is more than
  /// `limit` bytes. `text` is valid UTF-8.
  std::optional<std::string> apply(std::string_view text, size_t limit) const;

 private:
  /// What stands for a text that begins with an entry of the table, the shortest.
  std::optional<std::string_view> find(std::string_view text) const;

  std::vector<uint32_t> units_;  ///< of the trie
  std::string replacements_;
};

}  // namespace flexgen
