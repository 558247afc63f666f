#pragma once
// Sizes and durations as people write and read them: "6GiB", "1.5 GB/s", "2m 10s". Pure functions.

#include <cstdint>
#include <string>
#include <string_view>

namespace flexgen {

inline constexpr int64_t kKiB = 1024;
inline constexpr int64_t kMiB = 1024 * kKiB;
inline constexpr int64_t kGiB = 1024 * kMiB;

/// Bytes in `text`: a decimal number and a unit out of B, K/KiB, M/MiB, G/GiB, T/TiB (powers of 1024) and
/// KB, MB, GB, TB (powers of 1000); no unit means bytes. Throws Error{user} on anything else, on
/// negative values and on overflow.
int64_t parse_size_bytes(std::string_view text);

/// "6.00 GiB", "512 KiB", "17 B".
std::string format_bytes(int64_t bytes);

/// "1d 02h", "2h 05m", "2m 10s", "3.2 s", "12 ms".
std::string format_duration(double seconds);

/// 1234567 -> "1,234,567".
std::string format_count(int64_t count);

inline constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline constexpr int64_t round_up(int64_t a, int64_t grain) { return ceil_div(a, grain) * grain; }
inline constexpr int64_t round_down(int64_t a, int64_t grain) { return a / grain * grain; }

}  // namespace flexgen
