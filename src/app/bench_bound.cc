#include "app/bench_bound.h"

#include <algorithm>

namespace flexgen {

double lane_bytes(const RunReport& report, const std::string& name) {
  for (const LaneReport& lane : report.lanes)
    if (lane.name == name) return lane.stats.bytes;
  return 0;
}

void raise_to_lanes(const RunReport& report, Peaks* peaks) {
  for (const LaneReport& lane : report.lanes) {
    if (lane.stats.busy_s < 0.1) continue;  // too short to be called a speed
    double reached = lane.stats.bytes / lane.stats.busy_s;
    if (lane.name == "disk read") peaks->disk_read_bytes_per_s = std::max(peaks->disk_read_bytes_per_s, reached);
    if (lane.name == "disk write") peaks->disk_write_bytes_per_s = std::max(peaks->disk_write_bytes_per_s, reached);
  }
}

std::vector<ResourceTime> resource_times(const RunReport& report, const Peaks& peaks) {
  std::vector<ResourceTime> times{
      {"disk read", lane_bytes(report, "disk read") + lane_bytes(report, "disk lookup"), peaks.disk_read_bytes_per_s, 0},
      {"disk write", lane_bytes(report, "disk write"), peaks.disk_write_bytes_per_s, 0},
      {"compute", report.work.linear_flops + report.work.attention_flops, peaks.flops_per_s, 0},
      {"memory", report.work.kv_read_bytes, peaks.memory_read_bytes_per_s, 0},
  };
  for (ResourceTime& time : times)
    if (time.work > 0 && time.peak_per_s > 0) time.time_s = time.work / time.peak_per_s;
  return times;
}

double efficiency(const RunReport& report, const std::vector<ResourceTime>& times) {
  double bound_s = 0;
  for (const ResourceTime& time : times) bound_s = std::max(bound_s, time.time_s);
  return report.elapsed_s > 0 ? bound_s / report.elapsed_s : 0;
}

}  // namespace flexgen
