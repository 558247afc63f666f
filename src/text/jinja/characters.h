#pragma once
// Texts as Python sees them: characters, not bytes. Texts are valid UTF-8. Pure functions.

#include <cstdint>
#include <string>
#include <string_view>

#include "text/unicode.h"

namespace flexgen::jinja {

/// Of the character at text[at].
size_t character_bytes(std::string_view text, size_t at);
uint32_t codepoint_at(std::string_view text, size_t at);
/// Where character `index` begins; the text's end for one behind the last.
size_t byte_of_character(std::string_view text, int64_t index);

/// str.isspace() of a character.
bool is_python_space(uint32_t codepoint);
/// Whether repr() writes the character as it is.
bool is_printable(uint32_t codepoint);

/// str.find() and str.rfind() in bytes, npos without: in linear time, which those of std::string_view are not. A template may look for any part in any text.
size_t find_text(std::string_view text, std::string_view part, size_t from = 0);
size_t rfind_text(std::string_view text, std::string_view part);

/// str.strip(): `chars` empty: blanks; else a step of the budget for each.
std::string_view strip(std::string_view text, std::string_view chars, bool left, bool right);

/// By Unicode's simple mappings (a letter becomes one letter).
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
/// The first letter large, the others small.
std::string capitalized(std::string_view text);
/// str.title(): each run of letters capitalized.
std::string titled(std::string_view text);

/// By Unicode's categories: L*, Nd, all others.
enum class CharacterClass { kLetter, kDigit, kOther };
CharacterClass class_of(uint32_t codepoint);
/// As Python's isdigit and isnumeric have them: more than decimal digits.
bool is_python_digit(uint32_t codepoint);
bool is_python_numeric(uint32_t codepoint);
bool is_upper(uint32_t codepoint);
bool is_lower(uint32_t codepoint);

}  // namespace flexgen::jinja
