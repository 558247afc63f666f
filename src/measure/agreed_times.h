#pragma once
// Measuring until two rounds agree: one alone may have been disturbed, and nothing would say so. One thread.

#include <cstddef>
#include <functional>
#include <vector>

namespace flexgen {

/// Times within this factor count as the same.
inline constexpr double kAgree = 1.2;

/// What was measured: of each thing the mean of its two shortest times, or the median where these do not agree.
struct AgreedTimes {
  std::vector<double> times_s;
  double apart = 1;    ///< by which factor the two shortest times of one thing differ; the largest of all things
  bool agreed = true;  ///< for every thing
};

/// Times of `count` things, each by measure_s(i) in seconds, round after round, so that what disturbs one is over by
/// its next turn. A thing is measured until its two shortest times agree, at most `most_rounds` times (two at least):
/// what disturbs makes slower, never faster. Its time is then their mean, or else the middle one of all.
AgreedTimes agreed_times(size_t count, const std::function<double(size_t)>& measure_s, double agree = kAgree, int most_rounds = 6);

}  // namespace flexgen
