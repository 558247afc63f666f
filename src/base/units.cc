#include "base/units.h"

#include <cctype>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace flexgen {

int64_t parse_size_bytes(std::string_view text) {
  auto refuse = [&] { fail_user("'{}' is not a size; write it like 6GiB, 512MiB, 1.5TB or a number of bytes", text); };
  double number = 0;
  const char* end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !(number >= 0)) refuse();
  while (rest != end && *rest == ' ') ++rest;
  std::string unit;
  for (; rest != end; ++rest) unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*rest)));

  double scale = 1;
  if (!unit.empty() && unit != "b") {
    static constexpr std::string_view kPrefixes = "kmgtp";
    size_t power = kPrefixes.find(unit[0]);
    if (power == std::string_view::npos) refuse();
    std::string_view suffix = std::string_view(unit).substr(1);
    double base = suffix == "b" ? 1000.0 : 1024.0;
    if (!suffix.empty() && suffix != "b" && suffix != "ib") refuse();
    scale = std::pow(base, static_cast<double>(power + 1));
  }
  double bytes = number * scale;
  if (!(bytes < 9.0e18)) refuse();
  return static_cast<int64_t>(std::llround(bytes));
}

std::string format_bytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (std::abs(value) >= 1024 && unit < 5) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", bytes);
  int digits = std::abs(value) >= 100 ? 0 : std::abs(value) >= 10 ? 1 : 2;
  return fmt::format("{:.{}f} {}", value, digits, kUnits[unit]);
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0)) return "?";
  if (seconds < 1) return fmt::format("{:.0f} ms", seconds * 1e3);
  if (seconds < 60) return fmt::format("{:.1f} s", seconds);
  auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{}m {:02}s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{}h {:02}m", whole / 3600, whole % 3600 / 60);
  return fmt::format("{}d {:02}h", whole / 86400, whole % 86400 / 3600);
}

std::string format_count(int64_t count) {
  std::string digits = std::to_string(count);
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > (count < 0 ? 1 : 0); at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

}  // namespace flexgen
