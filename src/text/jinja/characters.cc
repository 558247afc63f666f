#include "text/jinja/characters.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/unicode.h"

namespace flexgen::jinja {
namespace {

template <typename Map>
std::string mapped(std::string_view text, Map map) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size(); at += character_bytes(text, at)) map(out, codepoint_at(text, at));
  return out;
}

constexpr uint32_t kSharpS = 0xdf;

/// The one common letter whose large form is two.
void append_upper(std::string& out, uint32_t codepoint) {
  if (codepoint == kSharpS) out += "SS";
  else append_utf8(out, static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(codepoint))));
}

void append_title(std::string& out, uint32_t codepoint) {
  if (codepoint == kSharpS) out += "Ss";
  else append_utf8(out, static_cast<uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(codepoint))));
}

void append_lower(std::string& out, uint32_t codepoint) { append_utf8(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(codepoint)))); }

bool cased(uint32_t codepoint) {
  return is_upper(codepoint) || is_lower(codepoint) || utf8proc_category(static_cast<utf8proc_int32_t>(codepoint)) == UTF8PROC_CATEGORY_LT;
}

}  // namespace

size_t character_bytes(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const size_t bytes = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  return std::min(bytes, text.size() - at);
}

uint32_t codepoint_at(std::string_view text, size_t at) {
  const size_t bytes = character_bytes(text, at);
  const auto lead = static_cast<unsigned char>(text[at]);
  if (bytes == 1) return lead;
  uint32_t codepoint = lead & (0xffu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) codepoint = codepoint << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3f);
  return codepoint;
}

size_t byte_of_character(std::string_view text, int64_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += character_bytes(text, at);
  return at;
}

bool is_python_space(uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_printable(uint32_t codepoint) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(codepoint))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return codepoint == ' ';
    default: return true;
  }
}

std::string_view strip(std::string_view text, std::string_view chars, bool left, bool right) {
  const auto goes = [&](size_t at, size_t bytes) {
    return chars.empty() ? is_python_space(codepoint_at(text, at)) : chars.find(text.substr(at, bytes)) != std::string_view::npos;
  };
  while (left && !text.empty()) {
    const size_t bytes = character_bytes(text, 0);
    if (!goes(0, bytes)) break;
    text.remove_prefix(bytes);
  }
  while (right && !text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && is_continuation(text[at])) --at;
    if (!goes(at, text.size() - at)) break;
    text = text.substr(0, at);
  }
  return text;
}

std::string to_upper(std::string_view text) { return mapped(text, append_upper); }
std::string to_lower(std::string_view text) { return mapped(text, append_lower); }

std::string capitalized(std::string_view text) {
  if (text.empty()) return "";
  std::string out;
  append_title(out, codepoint_at(text, 0));
  return out + to_lower(text.substr(character_bytes(text, 0)));
}

std::string titled(std::string_view text) {
  bool inside = false;
  return mapped(text, [&](std::string& out, uint32_t codepoint) {
    if (inside) append_lower(out, codepoint);
    else append_title(out, codepoint);
    inside = cased(codepoint);
  });
}

CharacterClass class_of(uint32_t codepoint) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(codepoint))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return CharacterClass::kLetter;
    case UTF8PROC_CATEGORY_ND: return CharacterClass::kDigit;
    default: return CharacterClass::kOther;
  }
}

bool is_upper(uint32_t codepoint) { return utf8proc_category(static_cast<utf8proc_int32_t>(codepoint)) == UTF8PROC_CATEGORY_LU; }
bool is_lower(uint32_t codepoint) { return utf8proc_category(static_cast<utf8proc_int32_t>(codepoint)) == UTF8PROC_CATEGORY_LL; }

}  // namespace flexgen::jinja
