#pragma once
// Tier: where bytes rest. Fractions: how one kind of tensor is spread over the tiers. Pure data.

#include <array>
#include <string>
#include <string_view>

namespace flexgen {

enum class Tier { kGpu = 0, kCpu = 1, kDisk = 2 };
inline constexpr int kNumTiers = 3;

/// Shares of a tensor kind in gpu, cpu and disk; they add up to 1.
struct Fractions {
  double gpu = 0, cpu = 1, disk = 0;

  bool operator==(const Fractions&) const = default;
  /// "0:40:60": percentages for gpu, cpu and disk that add up to 100. Throws Error{user} naming `flag`.
  static Fractions parse(std::string_view text, std::string_view flag);
  /// "0:40:60", with at most one decimal.
  std::string to_string() const;
};

}  // namespace flexgen
