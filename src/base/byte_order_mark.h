#pragma once
// The byte order mark that editors put before a text in UTF-8: no part of it. Pure functions.

#include <string>
#include <string_view>

namespace flexgen {

inline constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

inline std::string_view without_byte_order_mark(std::string_view text) {
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  return text;
}
inline void drop_byte_order_mark(std::string* text) {
  if (text->starts_with(kByteOrderMark)) text->erase(0, kByteOrderMark.size());
}

}  // namespace flexgen
