#include "text/base64.h"

#include <cstdint>

namespace flexgen {
namespace {

constexpr std::string_view kBase64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

}  // namespace

std::optional<std::string> base64_bytes(const std::string& text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes;
  for (size_t at = 0; at < text.size(); at += 4) {
    const size_t padding =
        at + 4 < text.size() ? 0 : static_cast<size_t>(text[at + 3] == '=') + static_cast<size_t>(text[at + 3] == '=' && text[at + 2] == '=');
    uint32_t group = 0;
    for (size_t i = 0; i < 4; ++i) {
      const size_t digit = i + padding >= 4 ? 0 : kBase64Digits.find(text[at + i]);
      if (digit == std::string_view::npos) return std::nullopt;
      group = group << 6 | static_cast<uint32_t>(digit);
    }
    for (size_t i = 0; i + padding < 3; ++i) bytes += static_cast<char>(group >> (16 - 8 * i));
  }
  return bytes;
}

std::string base64_text(std::string_view bytes) {
  std::string text;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    uint32_t group = 0;
    for (size_t i = 0; i < 3; ++i) group = group << 8 | (at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0u);
    for (size_t i = 0; i < 4; ++i) text += at + i > bytes.size() ? '=' : kBase64Digits[(group >> (18 - 6 * i)) & 63];
  }
  return text;
}

}  // namespace flexgen
