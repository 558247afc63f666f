#pragma once
// The GPT-2 byte alphabet: every byte as a printable character. Pure functions.

#include <optional>
#include <string>
#include <string_view>

namespace flexgen {

std::string bytes_to_alphabet(std::string_view bytes);
/// None if a character is not of the alphabet.
std::optional<std::string> alphabet_to_bytes(std::string_view text);

}  // namespace flexgen
