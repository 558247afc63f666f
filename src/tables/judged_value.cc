#include "tables/judged_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <utility>
#include <vector>

#include "tables/table_reader.h"
#include "text/jinja/json_values.h"
#include "text/jinja/print.h"

namespace flexgen {
namespace {

constexpr size_t kDoubleDigits = 17;        // that tell any two doubles apart
constexpr int64_t kMostExponent = 1 << 30;  // beyond all that JSON can be read with
constexpr int64_t kMostZeros = 40;          // that a whole number is written with

/// digits * 10^exponent, without zeros at its ends; 0 has no digits.
struct Decimal {
  bool negative = false;
  std::string digits;
  int64_t exponent = 0;
};

Decimal decimal_of(std::string_view text) {
  Decimal number;
  if (text.starts_with('-')) {
    number.negative = true;
    text.remove_prefix(1);
  }
  const size_t e = std::min(text.find_first_of("eE"), text.size());
  if (e < text.size()) {
    std::string_view exponent = text.substr(e + 1);
    if (exponent.starts_with('+')) exponent.remove_prefix(1);
    const auto [end, error] = std::from_chars(exponent.data(), exponent.data() + exponent.size(), number.exponent);
    if (error != std::errc()) number.exponent = exponent.starts_with('-') ? -kMostExponent : kMostExponent;
    number.exponent = std::clamp(number.exponent, -kMostExponent, kMostExponent);
  }
  const std::string_view mantissa = text.substr(0, e);
  const size_t point = std::min(mantissa.find('.'), mantissa.size());
  number.digits = mantissa.substr(0, point);
  if (point < mantissa.size()) {
    number.digits += mantissa.substr(point + 1);
    number.exponent -= static_cast<int64_t>(mantissa.size() - point - 1);
  }
  number.digits.erase(0, std::min(number.digits.find_first_not_of('0'), number.digits.size()));
  const size_t kept = number.digits.find_last_not_of('0') + 1;  // 0 where there is none
  number.exponent += static_cast<int64_t>(number.digits.size() - kept);
  number.digits.resize(kept);
  return number;
}

/// The shortest decimal of the double nearest to it.
Decimal nearest_double(const Decimal& number) {
  const std::string text = fmt::format("{}e{}", number.digits, number.exponent);
  double value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);  // which leaves 0 for what is too small
  if (value == 0 || !std::isfinite(value)) return number;
  char shortest[32];
  const char* const end = std::to_chars(std::begin(shortest), std::end(shortest), value, std::chars_format::scientific).ptr;
  Decimal nearest = decimal_of({shortest, static_cast<size_t>(end - shortest)});
  nearest.negative = number.negative;
  return nearest;
}

void add_json(const jinja::Value& value, std::string& out) {
  if (const jinja::List* list = value.list()) {
    out += '[';
    for (const jinja::Value& item : list->items) {
      add_json(item, out);
      out += ',';
    }
    out += ']';
  } else if (const jinja::Dict* dict = value.dict()) {
    std::vector<std::pair<std::string, const jinja::Value*>> members;
    for (const auto& [name, member] : dict->items()) members.emplace_back(jinja::to_json(name, {}), &member);
    std::sort(members.begin(), members.end());
    out += '{';
    for (const auto& [name, member] : members) {
      out += name + ":";
      add_json(*member, out);
      out += ',';
    }
    out += '}';
  } else if (value.large()) {
    out += judged_number(value.large()->digits);
  } else {
    out += jinja::to_json(value, {});
  }
}

}  // namespace

std::string judged_number(std::string_view digits) {
  Decimal number = decimal_of(digits);
  if (number.exponent < 0 && number.digits.size() <= kDoubleDigits) number = nearest_double(number);
  if (number.digits.empty()) return "0";
  const std::string written = (number.negative ? "-" : "") + number.digits;
  if (number.exponent >= 0 && number.exponent <= kMostZeros) return written + std::string(static_cast<size_t>(number.exponent), '0');
  return fmt::format("{}e{}", written, number.exponent);
}

std::string judged_json(const jinja::Value& value) {
  std::string text;
  add_json(value, text);
  return text;
}

std::string judged_text(const jinja::Value& value) {
  if (value.none()) return "";
  return value.text() ? without_blanks(value.text()->bytes) : judged_json(value);
}

std::string judged_answer(const std::string& answer) {
  try {
    const jinja::Value value = jinja::parse_json_value(answer, kMaxRowValues, nullptr, jinja::Digits::kAsWritten);
    if (!value.text()) return judged_json(value);
  } catch (const jinja::Failure&) {
    // Then it is letters, as a text is.
  }
  return " " + answer;  // which no value of JSON is written as
}

std::string without_blanks(const std::string& text) {
  constexpr const char* kBlanks = " \t\r\n\f\v";
  const size_t begin = text.find_first_not_of(kBlanks);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

}  // namespace flexgen
