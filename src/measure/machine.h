#pragma once
// Machine: cores and memory of this machine as a job may use them, cgroups counted in. Any thread.

#include <cstdint>
#include <optional>
#include <string>

namespace flexgen {

/// The memory of this machine and of the process's cgroup, as it was when it was read.
struct MemoryStatus {
  int64_t total_bytes = 0;
  int64_t available_bytes = 0;                    ///< what a process could take now without swapping
  std::optional<int64_t> cgroup_limit_bytes;      ///< the tightest limit of the process's cgroup and those above
  std::optional<int64_t> cgroup_available_bytes;  ///< that limit less what is in use, page cache apart
  int cgroup_version = 0;                         ///< 0: none found

  /// The smaller of both.
  int64_t usable_bytes() const;
};

/// `root` stands before /proc and /sys: for tests.
MemoryStatus read_memory_status(const std::string& root = "");

/// What a process takes beyond --cpu-memory: code, libraries, threads' stacks, tables, the lines under way.
inline constexpr int64_t kFixedOverheadBytes = int64_t{150} << 20;

/// The same with a GPU: the driver's and cuBLASLt's code and tables too, and 24 MiB of arguments on their way.
inline constexpr int64_t kGpuOverheadBytes = int64_t{600} << 20;

/// --cpu-memory where the user gave none: 80% of what is usable, and room for what a process takes beyond it.
int64_t default_cpu_memory_bytes(const MemoryStatus& status, int64_t overhead_bytes = kFixedOverheadBytes);

/// Largest resident size of this process so far, bytes.
int64_t peak_rss_bytes();

/// The processors that this process may use, as it was when that was read.
struct CpuStatus {
  int cores = 1;                ///< that this process may run on: of the machine those that its affinity (taskset, cpusets) allows
  std::optional<double> quota;  ///< processors' worth of time that the process's cgroup, or one above, may use; none: no limit
  int asked = 0;                ///< OMP_NUM_THREADS, where someone set it; 0: nobody did

  /// How many threads compute where nobody says: at most one a core, and no more than the quota lets run at once.
  int threads() const;
};

/// `root` as above; affinity and environment are always this process's.
CpuStatus read_cpu_status(const std::string& root = "");

/// read_cpu_status().threads().
int default_threads();

}  // namespace flexgen
