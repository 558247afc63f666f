#include "text/byte_level.h"

#include <array>
#include <unordered_map>

#include "text/unicode.h"

namespace flexgen {
namespace {

/// Printable Latin-1 stands for itself, the other bytes for U+0100 and up in order.
const std::array<std::string, 256>& alphabet() {
  static const std::array<std::string, 256> table = [] {
    std::array<std::string, 256> result;
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
      append_utf8(result[byte], printable ? byte : next++);
    }
    return result;
  }();
  return table;
}

}  // namespace

std::string bytes_to_alphabet(std::string_view bytes) {
  std::string out;
  for (char c : bytes) out += alphabet()[static_cast<unsigned char>(c)];
  return out;
}

std::optional<std::string> alphabet_to_bytes(std::string_view text) {
  static const std::unordered_map<std::string, char> reverse = [] {
    std::unordered_map<std::string, char> map;
    for (size_t byte = 0; byte < 256; ++byte) map[alphabet()[byte]] = static_cast<char>(byte);
    return map;
  }();
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t length = utf8_length(text, at);
    if (length == 0) return std::nullopt;
    auto found = reverse.find(std::string(text.substr(at, length)));
    if (found == reverse.end()) return std::nullopt;
    out += found->second;
    at += length;
  }
  return out;
}

}  // namespace flexgen
