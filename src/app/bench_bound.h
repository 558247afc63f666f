#pragma once
// BenchBound: the lower bound of a run's time, from the work it did and the speeds its resources reach. Pure functions.

#include <string>
#include <vector>

#include "engine/engine.h"

namespace flexgen {

/// What each resource does at best, measured in the same run.
struct Peaks {
  double disk_read_bytes_per_s = 0, disk_write_bytes_per_s = 0;
  double memory_read_bytes_per_s = 0;
  double flops_per_s = 0;
};

struct ResourceTime {
  std::string resource;
  double work = 0;       ///< bytes or FLOPs
  double peak_per_s = 0;
  double time_s = 0;     ///< work / peak; 0 if there was no work
};

/// Bytes that the lane of this name moved.
double lane_bytes(const RunReport& report, const std::string& name);

/// Raises a peak to what a lane reached while it was busy: a lane cannot be faster than its peak.
void raise_to_lanes(const RunReport& report, Peaks* peaks);

/// Disk read, disk write, compute, memory. No schedule can take less than the longest of them.
std::vector<ResourceTime> resource_times(const RunReport& report, const Peaks& peaks);

/// The longest of `times`, over the time the run took; 0 if that is unknown.
double efficiency(const RunReport& report, const std::vector<ResourceTime>& times);

}  // namespace flexgen
