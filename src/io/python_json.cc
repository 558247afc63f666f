#include "io/python_json.h"

#include <array>

namespace flexgen {

namespace {

/// `instead` of a number: a text between quotes, or another number.
template <typename Instead>
std::string with_python_numbers(std::string_view text, Instead instead) {
  static constexpr std::array<std::string_view, 3> kNumbers{"-Infinity", "Infinity", "NaN"};
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      out += c;
      if (c == '\\' && i + 1 < text.size()) out += text[++i];
      else if (c == '"') in_string = false;
      continue;
    }
    in_string = c == '"';
    std::string_view number;
    if (c == '-' || c == 'I' || c == 'N')
      for (std::string_view name : kNumbers)
        if (text.substr(i).starts_with(name)) number = name;
    if (number.empty()) {
      out += c;
      continue;
    }
    out += instead(number);
    i += number.size() - 1;
  }
  return out;
}

}  // namespace

std::string with_python_numbers_quoted(std::string_view text) {
  return with_python_numbers(text, [](std::string_view number) { return "\"" + std::string(number) + "\""; });
}

std::string with_large_numbers_for_python(std::string_view text) {
  return with_python_numbers(text, [](std::string_view number) { return number.front() == '-' ? "-1e308" : "1e308"; });
}

}  // namespace flexgen
