#pragma once
// TimedLanes: when each lane is free, for the cost model. Work is submitted in the executor's order, starts once its lane is free and what it waits for is there, and is done at the time that is returned. Times
// in seconds from the start of the run. One thread.

#include <algorithm>
#include <utility>

#include "plan/hardware_profile.h"
#include "plan/lane_times.h"
#include "plan/visit_cost.h"
#include "schedule/policy.h"

namespace flexgen {

class TimedLanes {
 public:
  TimedLanes(const HardwareProfile& hardware, const Policy& policy)
      : hardware_(hardware), disk_slows_compute_(policy.buffers > 1 && !policy.on_gpu()), write_wait_s_(write_wait_s(hardware.disk, policy)) {}

  /// The host thread submits nothing before.
  void wait_until(double time_s) { host_s_ = std::max(host_s_, time_s); }
  /// When all that was submitted to the lane that computes is done.
  double computed_s() const { return compute_free_s_; }
  double compute(double time_s, double after_s) {
    if (disk_slows_compute_) time_s += hardware_.disk.compute_slowdown * std::exchange(unpaid_disk_s_, 0);
    return occupy(LaneKind::kCompute, compute_free_s_, time_s, after_s);
  }
  /// Of the processor beside a GPU.
  double use_cpu(double time_s, double after_s) { return occupy(LaneKind::kCpu, cpu_free_s_, time_s, after_s); }

  /// When a read that waits for nothing would start.
  double next_read_s() const { return std::max(read_free_s_, host_s_); }
  double read(double bytes, double after_s) {
    double time_s = hardware_.disk.request_s + bytes / hardware_.disk.read_bytes_per_s;
    unpaid_disk_s_ += time_s;
    time_s += hardware_.disk.write_share_of_read * std::exchange(unpaid_write_s_, 0);
    read_bytes_ += bytes;
    return occupy(LaneKind::kDiskRead, read_free_s_, time_s, after_s);
  }
  double write(double bytes, double after_s) {
    const double time_s = hardware_.disk.request_s + bytes / hardware_.disk.write_bytes_per_s;
    unpaid_disk_s_ += time_s;
    unpaid_write_s_ += time_s;
    write_bytes_ += bytes;
    // The lane is free meanwhile.
    return occupy(LaneKind::kDiskWrite, write_free_s_, time_s, after_s) + write_wait_s_;
  }
  /// So many small reads, of `bytes` in all.
  double look_up(double reads, double bytes) {
    read_bytes_ += bytes;
    return occupy(LaneKind::kDiskLookup, lookup_free_s_, hardware_.disk.request_s + reads * hardware_.disk.lookup_s, 0);
  }
  /// Between RAM and a GPU.
  double copy_up(double bytes, double after_s) {
    if (bytes <= 0) return after_s;
    return occupy(LaneKind::kH2d, h2d_free_s_, hardware_.copy_s + bytes / hardware_.h2d_bytes_per_s, after_s);
  }
  double copy_down(double bytes, double after_s) {
    if (bytes <= 0) return after_s;
    return occupy(LaneKind::kD2h, d2h_free_s_, hardware_.copy_s + bytes / hardware_.d2h_bytes_per_s, after_s);
  }
  /// Up, without queueing behind the large copies; it takes its share of the bus from them.
  double copy_up_small(double bytes, double after_s) {
    const double time_s = hardware_.copy_s + bytes / hardware_.h2d_bytes_per_s;
    h2d_free_s_ += time_s;
    return occupy(LaneKind::kH2d, h2d_small_free_s_, time_s, after_s);
  }

  /// When all is done.
  double done_s() const { return std::max({compute_free_s_, write_free_s_, read_free_s_, h2d_free_s_, d2h_free_s_, cpu_free_s_, host_s_}); }
  double read_bytes() const { return read_bytes_; }
  double write_bytes() const { return write_bytes_; }
  const LaneTimes& busy() const { return busy_; }

 private:
  double occupy(LaneKind kind, double& free_s, double time_s, double after_s) {
    free_s = std::max({free_s, host_s_, after_s}) + time_s;
    busy_[kind] += time_s;
    return free_s;
  }

  const HardwareProfile& hardware_;
  bool disk_slows_compute_;  ///< with a single buffer they take turns
  double write_wait_s_;
  double host_s_ = 0, compute_free_s_ = 0, read_free_s_ = 0, write_free_s_ = 0, lookup_free_s_ = 0;
  double h2d_free_s_ = 0, h2d_small_free_s_ = 0, d2h_free_s_ = 0, cpu_free_s_ = 0;
  double unpaid_disk_s_ = 0;   ///< disk time that compute has not been slowed down for yet
  double unpaid_write_s_ = 0;  ///< write time that reading has not been slowed down for yet
  double read_bytes_ = 0, write_bytes_ = 0;
  LaneTimes busy_;
};

}  // namespace flexgen
