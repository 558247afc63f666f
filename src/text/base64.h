#pragma once
// Base64 (RFC 4648, padded), as tokenizer files have bytes in it. Pure functions.

#include <optional>
#include <string>
#include <string_view>

namespace flexgen {

/// The bytes of a text; nothing if it is no Base64.
std::optional<std::string> base64_bytes(const std::string& text);
std::string base64_text(std::string_view bytes);

}  // namespace flexgen
