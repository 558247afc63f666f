#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace flexgen {
namespace {

/// What the first byte promises: length and the bounds of the second byte (RFC 3629's table); 0 if it is no first byte.
size_t promised(unsigned char first, unsigned char* low, unsigned char* high) {
  *low = 0x80;
  *high = 0xbf;
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return 2;
  if (first >= 0xe0 && first <= 0xef) {
    if (first == 0xe0) *low = 0xa0;
    if (first == 0xed) *high = 0x9f;
    return 3;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    if (first == 0xf0) *low = 0x90;
    if (first == 0xf4) *high = 0x8f;
    return 4;
  }
  return 0;
}

/// Bytes at text[at] that are right so far, and whether they are a whole character.
size_t valid_part(std::string_view text, size_t at, bool* whole, bool* ran_out) {
  unsigned char low, high;
  size_t length = promised(static_cast<unsigned char>(text[at]), &low, &high);
  *whole = *ran_out = false;
  if (length == 0) return 0;
  size_t n = 1;
  for (; n < length; ++n) {
    if (at + n == text.size()) {
      *ran_out = true;
      return n;
    }
    auto byte = static_cast<unsigned char>(text[at + n]);
    if (byte < (n == 1 ? low : 0x80) || byte > (n == 1 ? high : 0xbf)) return n;
  }
  *whole = true;
  return n;
}

}  // namespace

size_t utf8_length(std::string_view text, size_t at) {
  bool whole, ran_out;
  size_t n = valid_part(text, at, &whole, &ran_out);
  return whole ? n : 0;
}

size_t invalid_utf8_at(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t length = static_cast<unsigned char>(text[at]) < 0x80 ? 1 : utf8_length(text, at);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

std::string sanitize_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    bool whole, ran_out;
    size_t n = valid_part(text, at, &whole, &ran_out);
    if (whole) out.append(text.substr(at, n));
    else out += "\xef\xbf\xbd";
    at += n == 0 ? 1 : n;
  }
  return out;
}

size_t incomplete_suffix(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0) == 0x80) continue;
    bool whole, ran_out;
    valid_part(text, text.size() - back, &whole, &ran_out);
    return ran_out ? back : 0;
  }
  return 0;
}

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); });
}

void append_utf8(std::string& out, uint32_t codepoint) {
  utf8proc_uint8_t bytes[4];
  auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(codepoint), bytes);
  out.append(reinterpret_cast<char*>(bytes), static_cast<size_t>(n));
}

int32_t character_at(std::string_view text, size_t at) {
  utf8proc_int32_t c = 0;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at, static_cast<utf8proc_ssize_t>(text.size() - at), &c);
  return c;
}

bool is_space(std::string_view text, size_t at) {
  const int32_t c = character_at(text, at);
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
         c == 0x202f || c == 0x205f || c == 0x3000;
}

std::string lower_case(std::string_view text) {
  constexpr int32_t kCapitalIWithDot = 0x130;  // the one character whose lower case is two
  // Capitals of Unicode 16 and 17, which utf8proc may not know yet: ranges, and how far their small letters are.
  struct Capitals {
    int32_t first, last, distance;
  };
  constexpr Capitals kNewer[]{
      {0x1c89, 0x1c89, 1}, {0xa7cb, 0xa7cb, 0x264 - 0xa7cb}, {0xa7cc, 0xa7cc, 1},      {0xa7ce, 0xa7ce, 1},     {0xa7d2, 0xa7d2, 1}, {0xa7d4, 0xa7d4, 1},
      {0xa7da, 0xa7da, 1}, {0xa7dc, 0xa7dc, 0x19b - 0xa7dc}, {0x10d50, 0x10d65, 0x20}, {0x16ea0, 0x16eb8, 0x1b}};
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size(); at += std::max<size_t>(1, utf8_length(text, at))) {
    const int32_t c = character_at(text, at);
    const auto* newer = std::find_if(std::begin(kNewer), std::end(kNewer), [&](const Capitals& range) { return c >= range.first && c <= range.last; });
    if (c == kCapitalIWithDot) out += "i\u0307";
    else append_utf8(out, static_cast<uint32_t>(newer == std::end(kNewer) ? utf8proc_tolower(c) : c + newer->distance));
  }
  return out;
}

std::string strip_spaces(std::string_view text, bool at_start, bool at_end) {
  while (at_start && !text.empty() && is_space(text, 0)) text.remove_prefix(utf8_length(text, 0));
  while (at_end && !text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && is_continuation(text[last])) --last;
    if (!is_space(text, last)) break;
    text = text.substr(0, last);
  }
  return std::string(text);
}

std::string normalize_unicode(const std::string& text, bool compose, bool compat) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; })) return text;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compat ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t point = 0;
    auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at, static_cast<utf8proc_ssize_t>(text.size() - at), &point);
    FLEXGEN_CHECK(n > 0, "utf8proc: {}", utf8proc_errmsg(n));
    at += static_cast<size_t>(n);
    utf8proc_int32_t parts[32];
    int last_boundclass = 0;
    auto count = utf8proc_decompose_char(point, parts, 32, options, &last_boundclass);
    FLEXGEN_CHECK(count >= 0 && count <= 32, "utf8proc: {} parts of U+{:04X}", count, point);
    points.insert(points.end(), parts, parts + count);
  }
  // utf8proc_decompose() would sort marks by bubbling, n^2 in a run of them.
  auto mark_class = [](utf8proc_int32_t point) { return utf8proc_get_property(point)->combining_class; };
  for (auto run = points.begin(); run != points.end();) {
    if (mark_class(*run) == 0) {
      ++run;
      continue;
    }
    auto end = std::find_if(run, points.end(), [&](utf8proc_int32_t point) { return mark_class(point) == 0; });
    std::stable_sort(run, end, [&](auto a, auto b) { return mark_class(a) < mark_class(b); });
    run = end;
  }
  if (compose) {
    auto n = utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()), options);
    FLEXGEN_CHECK(n >= 0, "utf8proc: {}", utf8proc_errmsg(n));
    points.resize(static_cast<size_t>(n));
  }
  std::string out;
  out.reserve(text.size());
  for (utf8proc_int32_t point : points) append_utf8(out, static_cast<uint32_t>(point));
  return out;
}

}  // namespace flexgen
