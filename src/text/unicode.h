#pragma once
// UTF-8 for tokenizers: decoding that never fails, normalization. Pure functions.

#include <cstdint>
#include <string>
#include <string_view>

namespace flexgen {

/// Whether a code is half of a pair of surrogates in UTF-16, and so no character.
inline bool is_surrogate(uint32_t code) { return code >= 0xd800 && code < 0xe000; }
/// Length of the UTF-8 sequence at text[at] (1 to 4), or 0 if the bytes there are not valid UTF-8.
size_t utf8_length(std::string_view text, size_t at);
/// The first byte of a text that is not valid UTF-8; npos if all is.
size_t invalid_utf8_at(std::string_view text);
/// The same text with every invalid byte sequence replaced by U+FFFD (one a maximal invalid part, as browsers do).
std::string sanitize_utf8(std::string_view text);
/// How many bytes at the end of `text` are the beginning of a character whose rest may still come.
size_t incomplete_suffix(std::string_view text);
/// Whether the byte is within a character of valid UTF-8, behind its first byte.
inline bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }
/// Of valid UTF-8.
int64_t count_characters(std::string_view text);
void append_utf8(std::string& out, uint32_t codepoint);
/// The code point at text[at]. `text` is valid UTF-8.
int32_t character_at(std::string_view text, size_t at);
/// Whether the character at text[at] has Unicode's property White_Space. `text` is valid UTF-8.
bool is_space(std::string_view text, size_t at);
/// Each character as its lower case, by itself: no rule looks at its neighbours. `text` is valid UTF-8.
std::string lower_case(std::string_view text);
/// Without white space at its start and at its end, as asked for. `text` is valid UTF-8.
std::string strip_spaces(std::string_view text, bool at_start, bool at_end);
/// Unicode normalization; `compat` for NFKC / NFKD, `compose` for NFC / NFKC. `text` is valid UTF-8. n log n in the text,
/// also where it is all combining marks.
std::string normalize_unicode(const std::string& text, bool compose, bool compat);

}  // namespace flexgen
