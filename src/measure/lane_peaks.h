#pragma once
// LanePeaks: what this machine's resources give, measured in the same run as the job they are compared with. Needs little memory.

#include <optional>
#include <string>

#include "engine/engine.h"
#include "measure/device_peaks.h"

namespace flexgen {

struct LanePeaks {
  double matmul_flops_per_s = 0;  ///< the model's own matrices, weights from RAM, at the best of some numbers of rows
  double ram_read_bytes_per_s = 0;
  double disk_read_bytes_per_s = 0;                  ///< the checkpoint's own files through the disk read lane
  double disk_write_bytes_per_s = 0;                 ///< 0 if not measured
  std::optional<DevicePeaks> device = std::nullopt;  ///< where a GPU computes; matmul_flops_per_s is not measured then

  // Of the tier that computes.
  double compute_flops_per_s() const { return device ? device->matmul_flops_per_s : matmul_flops_per_s; }
  double& memory_bytes_per_s() { return device ? device->memory_bytes_per_s : ram_read_bytes_per_s; }
  double memory_bytes_per_s() const { return device ? device->memory_bytes_per_s : ram_read_bytes_per_s; }
};

/// Takes a few seconds. The disk is read for about `disk_time_s`. `write_directory` empty: writes are not measured.
inline constexpr double kPeakTimeS = 3;  ///< how long a disk is measured for
/// Of the tier that computes. Before prepare(): of a GPU's memory it takes what is the plan's.
LanePeaks measure_peaks(Engine& engine, FileSystem& files, double disk_time_s, const std::string& write_directory);

/// Direct reads of the checkpoint's files, from `share` (0 to 1) of each on, for about `time_s`. Bytes/s.
double measure_disk_read(const Model& model, FileSystem& files, double time_s, double share);

/// A disk's speed is not one number: host caches and other guests change it from one second to the next. The peak to judge a run by is the best
/// speed seen: before the run, after it (`again`), or by the run's own lane while it was busy.
/// A job that may have no more than `allowed` bytes/s (0: all) of a disk is judged by that. A memory's peak too is the best seen, before the run or by its products: these may read faster
/// than what measures it, and a small layer lies in caches.
void settle_peaks(LanePeaks& peaks, const RunReport& report, double again, double allowed);

/// How long each of a machine's resources is busy with a job's work at its peak, in seconds: no run is faster than the busiest.
struct Bound {
  double compute_s = 0, disk_read_s = 0, disk_write_s = 0;
  double memory_s = 0;                     ///< of the tier that computes: a layer's weights once for its visits in turn, keys and values
  double h2d_s = 0, d2h_s = 0, cpu_s = 0;  ///< with a GPU: the bus, and attention on the processor beside it
  double seconds() const { return std::max({compute_s, memory_s, disk_read_s, disk_write_s, h2d_s, d2h_s, cpu_s}); }
  std::string busiest() const;
};

/// The least time that the work of a run takes at the peaks: the busiest resource's time.
Bound bound_of(const RunReport& report, const LanePeaks& peaks);

/// The peaks, the bound and how near the run came to it, as lines for a person.
std::string bound_table(const LanePeaks& peaks, const Bound& bound, const RunReport& report);

}  // namespace flexgen
