#include "measure/lane_peaks.h"

#include <algorithm>
#include <vector>

#include "backend/cpu/memory_read.h"
#include "base/clock.h"
#include "base/cores.h"
#include "base/units.h"
#include "measure/job_memory.h"
#include "measure/measured_weight.h"

namespace flexgen {
namespace {

using Clock = std::chrono::steady_clock;

/// Seconds a call takes, the best of several tries.
template <typename Call>
double best_time(Call call) {
  call();
  double best = 1e9;
  for (auto start = Clock::now(); seconds_since(start) < 0.3;) {
    auto begin = Clock::now();
    call();
    best = std::min(best, seconds_since(begin));
  }
  return best;
}

double matmul_peak(const Model& model, Kernels& kernels, int64_t num_rows) {
  double flops = 0, seconds = 0;
  for (const WeightUse& use : model.layers()[1].uses) {
    const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
    if (weight.always_resident) continue;
    int64_t rows = std::min<int64_t>(use.rows, 4096);
    const MeasuredWeight w(weight.dtype, rows, weight.cols);
    const JobMemory x(4 * num_rows * weight.cols), y(4 * num_rows * rows);
    double best = best_time([&] { kernels.linear(x.data(), num_rows, w.view(), {}, false, reinterpret_cast<float*>(y.data())); });
    double work = 2.0 * num_rows * static_cast<double>(weight.cols);
    flops += work * static_cast<double>(use.rows);
    seconds += best * static_cast<double>(use.rows) / static_cast<double>(rows);
  }
  return flops / seconds;
}

double ram_peak() {
  constexpr int64_t kBytes = 128 * kMiB;
  const JobMemory memory(kBytes);
  WorkerTeam team(usable_cores());
  double best = 1e9;
  for (auto start = Clock::now(); seconds_since(start) < 0.6;) best = std::min(best, read_from_memory_s(team, memory.data(), kBytes));
  return static_cast<double>(kBytes) / best;
}

double disk_write_peak(FileSystem& files, const std::string& directory) {
  constexpr int64_t kBlock = 8 * kMiB, kSlots = 8, kBlocks = 96;
  const JobMemory memory(kBlock * kSlots);
  std::string path = directory + "/flexgen-write-peak.tmp";
  std::shared_ptr<File> file = files.open(path, FileMode::kSpill);
  file->preallocate(kBlock * kBlocks);
  DiskLane lane("peak", nullptr, {});
  double best = 1e9;
  for (int round = 0; round < 2; ++round) {
    auto start = Clock::now();
    for (int64_t n = 0; n < kBlocks; ++n) {
      Work work;
      work.transfers.push_back({file, true, n * kBlock, memory.data() + (n % kSlots) * kBlock, kBlock, {}});
      lane.submit(std::move(work));
    }
    lane.drain();
    best = std::min(best, seconds_since(start));
  }
  return static_cast<double>(kBlock * kBlocks) / best;
}

bool reads_disk(LaneKind kind) { return kind == LaneKind::kDiskRead || kind == LaneKind::kDiskLookup; }

}  // namespace

double measure_disk_read(const Model& model, FileSystem& files, double time_s, double share) {
  constexpr int64_t kBlock = 8 * kMiB, kSlots = 8;
  const JobMemory memory(kBlock * kSlots);
  DiskLane lane("peak", nullptr, {});
  double bytes = 0;
  Event events[kSlots];
  auto start = Clock::now();
  int64_t n = 0;
  for (const std::string& path : model.files()) {
    std::shared_ptr<File> file = files.open(path, FileMode::kReadDirect);
    int64_t size = round_down(file->size(), kDirectAlignment);
    int64_t from = round_down(static_cast<int64_t>(share * static_cast<double>(size)), kDirectAlignment);
    for (int64_t at = from; at < size && seconds_since(start) < time_s; at += kBlock, ++n) {
      Event& slot = events[n % kSlots];
      slot.wait();
      Work work;
      int64_t count = std::min(kBlock, size - at);
      work.transfers.push_back({file, false, at, memory.data() + (n % kSlots) * kBlock, count, {}});
      slot = lane.submit(std::move(work));
      bytes += static_cast<double>(count);
    }
  }
  lane.drain();
  return bytes / seconds_since(start);
}

LanePeaks measure_peaks(Engine& engine, FileSystem& files, double disk_time_s, const std::string& write_directory) {
  const Model& model = engine.model();
  Kernels& kernels = engine.kernels();
  LanePeaks peaks;
  if (engine.device()) peaks.device = measure_device_peaks(*engine.device(), model, kernels, engine.gpu_plan_bytes());
  else peaks.matmul_flops_per_s = std::max(matmul_peak(model, kernels, 256), matmul_peak(model, kernels, 1024));
  peaks.ram_read_bytes_per_s = ram_peak();
  peaks.disk_read_bytes_per_s = measure_disk_read(model, files, disk_time_s, 0);
  if (!write_directory.empty()) peaks.disk_write_bytes_per_s = disk_write_peak(files, write_directory);
  return peaks;
}

void settle_peaks(LanePeaks& peaks, const RunReport& report, double again, double allowed) {
  peaks.disk_read_bytes_per_s = std::max(peaks.disk_read_bytes_per_s, again);
  for (const LaneReport& lane : report.lanes) {
    if (lane.kind == LaneKind::kCompute && lane.stats.busy_s > 0) {
      double& peak = peaks.memory_bytes_per_s();
      peak = std::max(peak, (report.work.weight_read_bytes + report.work.own_kv_read_bytes()) / lane.stats.busy_s);
    }
    if (lane.stats.busy_s < 1) continue;
    double* peak = lane.kind == LaneKind::kDiskWrite ? &peaks.disk_write_bytes_per_s : reads_disk(lane.kind) ? &peaks.disk_read_bytes_per_s : nullptr;
    if (peak) *peak = std::max(*peak, static_cast<double>(lane.stats.bytes) / lane.stats.busy_s);
  }
  if (allowed > 0)
    for (double* peak : {&peaks.disk_read_bytes_per_s, &peaks.disk_write_bytes_per_s}) *peak = std::min(*peak, allowed);
}

std::string Bound::busiest() const {
  if (seconds() == compute_s) return "compute";
  if (seconds() == memory_s) return "memory read";
  for (auto [time_s, name] : {std::pair{h2d_s, "h2d"}, {d2h_s, "d2h"}, {cpu_s, "cpu"}})
    if (time_s > 0 && seconds() == time_s) return name;
  return seconds() == disk_read_s ? "disk read" : "disk write";
}

Bound bound_of(const RunReport& report, const LanePeaks& peaks) {
  Bound bound;
  const double memory = peaks.memory_bytes_per_s();
  bound.cpu_s = report.work.beside_kv_read_bytes / peaks.ram_read_bytes_per_s;
  const double kv_s = report.work.own_kv_read_bytes() / memory;
  bound.compute_s = report.work.linear_flops / peaks.compute_flops_per_s() + kv_s;
  bound.memory_s = report.work.weight_read_bytes / memory + kv_s;
  for (const LaneReport& lane : report.lanes) {
    if (peaks.device && (lane.kind == LaneKind::kH2d || lane.kind == LaneKind::kH2dSmall)) bound.h2d_s += lane.stats.bytes / peaks.device->h2d_bytes_per_s;
    if (peaks.device && lane.kind == LaneKind::kD2h) bound.d2h_s += lane.stats.bytes / peaks.device->d2h_bytes_per_s;
    if (lane.kind == LaneKind::kDiskWrite && peaks.disk_write_bytes_per_s > 0) bound.disk_write_s += lane.stats.bytes / peaks.disk_write_bytes_per_s;
    if (reads_disk(lane.kind)) bound.disk_read_s += lane.stats.bytes / peaks.disk_read_bytes_per_s;
  }
  return bound;
}

std::string bound_table(const LanePeaks& peaks, const Bound& bound, const RunReport& report) {
  std::string text =
      fmt::format("measured peaks: matmul {:.1f} GFLOP/s, RAM read {:.1f} GB/s, disk read {:.2f} GB/s, disk write {:.2f} GB/s\n",
                  peaks.compute_flops_per_s() / 1e9, peaks.ram_read_bytes_per_s / 1e9, peaks.disk_read_bytes_per_s / 1e9, peaks.disk_write_bytes_per_s / 1e9);
  std::string device_part;
  if (peaks.device) {
    text += fmt::format("of the GPU: memory {:.1f} GB/s, h2d {:.2f} GB/s, d2h {:.2f} GB/s\n", peaks.device->memory_bytes_per_s / 1e9,
                        peaks.device->h2d_bytes_per_s / 1e9, peaks.device->d2h_bytes_per_s / 1e9);
    device_part = fmt::format(", h2d {}, d2h {}, cpu {}", format_duration(bound.h2d_s), format_duration(bound.d2h_s), format_duration(bound.cpu_s));
  }
  return text + fmt::format("bound {} ({}; compute {}, memory read {}, disk read {}, disk write {}{}), efficiency {:.3f}\n", format_duration(bound.seconds()),
                            bound.busiest(), format_duration(bound.compute_s), format_duration(bound.memory_s), format_duration(bound.disk_read_s),
                            format_duration(bound.disk_write_s), device_part, bound.seconds() / report.elapsed_s);
}

}  // namespace flexgen
