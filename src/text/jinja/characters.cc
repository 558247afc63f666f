#include "text/jinja/characters.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "text/jinja/budget.h"
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

size_t find_text(std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (part.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return found ? static_cast<size_t>(static_cast<const char*>(found) - text.data()) : std::string_view::npos;
}

size_t rfind_text(std::string_view text, std::string_view part) {
  const std::string turned(text.rbegin(), text.rend()), turned_part(part.rbegin(), part.rend());
  const size_t at = find_text(turned, turned_part);
  return at == std::string_view::npos ? at : text.size() - at - part.size();
}

std::string_view strip(std::string_view text, std::string_view chars, bool left, bool right) {
  step(static_cast<int64_t>(chars.size()));
  std::unordered_set<uint32_t> known;
  for (size_t at = 0; at < chars.size(); at += character_bytes(chars, at)) known.insert(codepoint_at(chars, at));
  const auto goes = [&](size_t at) {
    const uint32_t c = codepoint_at(text, at);
    return chars.empty() ? is_python_space(c) : known.contains(c);
  };
  while (left && !text.empty()) {
    const size_t bytes = character_bytes(text, 0);
    if (!goes(0)) break;
    text.remove_prefix(bytes);
  }
  while (right && !text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && is_continuation(text[at])) --at;
    if (!goes(at)) break;
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

namespace {

struct Range {
  uint32_t first, last;
};

// Unicode's Numeric_Type, which utf8proc does not tell: Digit, as superscripts and numbers in circles have it, and Numeric of what is a letter (CJK).
// clang-format off
constexpr Range kDigitsBesideDecimals[] = {
    {0xb2, 0xb3}, {0xb9, 0xb9}, {0x1369, 0x1371}, {0x19da, 0x19da}, {0x2070, 0x2070}, {0x2074, 0x2079}, {0x2080, 0x2089}, {0x2460, 0x2468},
    {0x2474, 0x247c}, {0x2488, 0x2490}, {0x24ea, 0x24ea}, {0x24f5, 0x24fd}, {0x24ff, 0x24ff}, {0x2776, 0x277e}, {0x2780, 0x2788}, {0x278a, 0x2792},
    {0x10a40, 0x10a43}, {0x10e60, 0x10e68}, {0x11052, 0x1105a}, {0x1f100, 0x1f10a}};
constexpr Range kNumericLetters[] = {
    {0x3405, 0x3405}, {0x3483, 0x3483}, {0x382a, 0x382a}, {0x3b4d, 0x3b4d}, {0x4e00, 0x4e00}, {0x4e03, 0x4e03}, {0x4e07, 0x4e07}, {0x4e09, 0x4e09},
    {0x4e5d, 0x4e5d}, {0x4e8c, 0x4e8c}, {0x4e94, 0x4e94}, {0x4e96, 0x4e96}, {0x4ebf, 0x4ec0}, {0x4edf, 0x4edf}, {0x4ee8, 0x4ee8}, {0x4f0d, 0x4f0d},
    {0x4f70, 0x4f70}, {0x5104, 0x5104}, {0x5146, 0x5146}, {0x5169, 0x5169}, {0x516b, 0x516b}, {0x516d, 0x516d}, {0x5341, 0x5341}, {0x5343, 0x5345},
    {0x534c, 0x534c}, {0x53c1, 0x53c4}, {0x56db, 0x56db}, {0x58f1, 0x58f1}, {0x58f9, 0x58f9}, {0x5e7a, 0x5e7a}, {0x5efe, 0x5eff}, {0x5f0c, 0x5f0e},
    {0x5f10, 0x5f10}, {0x62fe, 0x62fe}, {0x634c, 0x634c}, {0x67d2, 0x67d2}, {0x6f06, 0x6f06}, {0x7396, 0x7396}, {0x767e, 0x767e}, {0x8086, 0x8086},
    {0x842c, 0x842c}, {0x8cae, 0x8cae}, {0x8cb3, 0x8cb3}, {0x8d30, 0x8d30}, {0x9621, 0x9621}, {0x9646, 0x9646}, {0x964c, 0x964c}, {0x9678, 0x9678},
    {0x96f6, 0x96f6}, {0xf96b, 0xf96b}, {0xf973, 0xf973}, {0xf978, 0xf978}, {0xf9b2, 0xf9b2}, {0xf9d1, 0xf9d1}, {0xf9d3, 0xf9d3}, {0xf9fd, 0xf9fd},
    {0x20001, 0x20001}, {0x20064, 0x20064}, {0x200e2, 0x200e2}, {0x20121, 0x20121}, {0x2092a, 0x2092a}, {0x20983, 0x20983}, {0x2098c, 0x2098c},
    {0x2099c, 0x2099c}, {0x20aea, 0x20aea}, {0x20afd, 0x20afd}, {0x20b19, 0x20b19}, {0x22390, 0x22390}, {0x22998, 0x22998}, {0x23b1b, 0x23b1b},
    {0x2626d, 0x2626d}, {0x2f890, 0x2f890}};
// clang-format on

template <size_t kCount>
bool is_in(const Range (&ranges)[kCount], uint32_t c) {
  return std::any_of(std::begin(ranges), std::end(ranges), [&](const Range& range) { return range.first <= c && c <= range.last; });
}

}  // namespace

bool is_python_digit(uint32_t codepoint) { return class_of(codepoint) == CharacterClass::kDigit || is_in(kDigitsBesideDecimals, codepoint); }

bool is_python_numeric(uint32_t codepoint) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(codepoint));
  const bool is_number = category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
  return is_number || is_in(kNumericLetters, codepoint);
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
