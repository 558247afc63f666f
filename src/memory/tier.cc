#include "memory/tier.h"

#include <charconv>
#include <cmath>

#include "base/error.h"

namespace flexgen {

Fractions Fractions::parse(std::string_view text, std::string_view flag) {
  auto refuse = [&] { fail_user("{} {}: give three percentages gpu:cpu:disk that add up to 100, like 0:40:60", flag, text); };
  std::array<double, 3> percent{};
  const char* at = text.data();
  const char* end = at + text.size();
  for (int i = 0; i < 3; ++i) {
    auto [rest, error] = std::from_chars(at, end, percent[i], std::chars_format::fixed);
    if (error != std::errc() || !(percent[i] >= 0 && percent[i] <= 100)) refuse();
    at = rest;
    if (i < 2 && (at == end || *at++ != ':')) refuse();
  }
  if (at != end || std::abs(percent[0] + percent[1] + percent[2] - 100) > 1e-6) refuse();
  return {percent[0] / 100, percent[1] / 100, percent[2] / 100};
}

std::string Fractions::to_string() const {
  auto percent = [](double share) { return std::round(share * 1000) / 10; };
  return fmt::format("{:g}:{:g}:{:g}", percent(gpu), percent(cpu), percent(disk));
}

}  // namespace flexgen
