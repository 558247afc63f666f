#pragma once
// LaneTimes: seconds of each lane that plans have a time for. Pure data.

#include <algorithm>
#include <array>

#include "schedule/lanes.h"

namespace flexgen {

struct LaneTimes {
  std::array<double, kNumPlannedLanes> seconds{};
  double& operator[](LaneKind kind) { return seconds[static_cast<size_t>(kind)]; }
  double operator[](LaneKind kind) const { return seconds[static_cast<size_t>(kind)]; }
  LaneKind busiest() const { return static_cast<LaneKind>(std::max_element(seconds.begin(), seconds.end()) - seconds.begin()); }
};

}  // namespace flexgen
