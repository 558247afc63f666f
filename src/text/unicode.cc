#include "text/unicode.h"

#include <utf8proc.h>

#include <cstdlib>

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

void append_utf8(std::string& out, uint32_t codepoint) {
  utf8proc_uint8_t bytes[4];
  auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(codepoint), bytes);
  out.append(reinterpret_cast<char*>(bytes), static_cast<size_t>(n));
}

std::string normalize_unicode(const std::string& text, bool compose, bool compat) {
  int options = UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compat ? UTF8PROC_COMPAT : 0);
  utf8proc_uint8_t* result = nullptr;
  auto n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                        &result, static_cast<utf8proc_option_t>(options));
  FLEXGEN_CHECK(n >= 0, "utf8proc: {}", utf8proc_errmsg(n));
  std::string out(reinterpret_cast<char*>(result), static_cast<size_t>(n));
  std::free(result);
  return out;
}

}  // namespace flexgen
