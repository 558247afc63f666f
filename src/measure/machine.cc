#include "measure/machine.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>

#include "base/cores.h"

namespace flexgen {
namespace {

/// The number after `name` in a file of "name number" or "name: number kB" lines.
std::optional<int64_t> field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key, unit;
    int64_t value = 0;
    if (!(words >> key >> value)) continue;
    if (key != name && key != name + ":") continue;
    return words >> unit && unit == "kB" ? value * 1024 : value;
  }
  return std::nullopt;
}

/// The number a file holds; none for "max" and for v1's huge "no limit".
std::optional<int64_t> number_in_file(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  int64_t value = 0;
  if (!(file >> text)) return std::nullopt;
  auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value >= std::numeric_limits<int64_t>::max() / 2) return std::nullopt;
  return value;
}

struct CgroupFiles {
  const char *limit, *high, *usage, *inactive, *active;
};
constexpr CgroupFiles kV2{"memory.max", "memory.high", "memory.current", "inactive_file", "active_file"};
constexpr CgroupFiles kV1{"memory.limit_in_bytes", "none", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"};

/// Calls look(directory) from the group up to the mount; in a container the path of the host may not exist, then the mount itself counts.
void walk_up(const std::string& mount, std::string group, const std::function<void(const std::string&)>& look) {
  std::error_code error;
  if (group == "/" || !std::filesystem::exists(mount + group, error)) group = "";
  for (;;) {
    look(mount + group + "/");
    if (group.empty()) return;
    size_t slash = group.rfind('/');
    group.resize(slash == std::string::npos ? 0 : slash);
  }
}

/// Calls found(controllers, group) for each hierarchy that the process is in; controllers are ",cpu,cpuacct,", or ",," for version 2.
void for_each_cgroup(const std::string& root, const std::function<void(const std::string&, const std::string&)>& found) {
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "hierarchy:controllers:path"
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    found("," + line.substr(first + 1, second - first - 1) + ",", line.substr(second + 1));
  }
}

void read_cgroup(const std::string& mount, const std::string& group, const CgroupFiles& files, int version, MemoryStatus* status) {
  walk_up(mount, group, [&](const std::string& directory) {
    std::optional<int64_t> limit = number_in_file(directory + files.limit);
    // From here on the kernel slows a process down until it hardly runs.
    if (const auto high = number_in_file(directory + files.high); high && (!limit || *high < *limit)) limit = high;
    if (limit && (status->total_bytes == 0 || *limit <= status->total_bytes)) {
      status->cgroup_version = version;
      int64_t used = number_in_file(directory + files.usage).value_or(0);
      int64_t cache = field(directory + "memory.stat", files.inactive).value_or(0) + field(directory + "memory.stat", files.active).value_or(0);
      int64_t available = std::max<int64_t>(0, *limit - std::max<int64_t>(0, used - cache));
      status->cgroup_limit_bytes = std::min(*limit, status->cgroup_limit_bytes.value_or(*limit));
      status->cgroup_available_bytes = std::min(available, status->cgroup_available_bytes.value_or(available));
    }
  });
}

/// Processors' worth of time that a group may use: version 2's "150000 100000", or version 1's two files; "max" and -1 are no limit.
std::optional<double> quota_of(const std::string& directory) {
  double quota = 0, period = 0;
  if (std::ifstream file(directory + "cpu.max"); file >> quota >> period) return quota > 0 && period > 0 ? std::optional(quota / period) : std::nullopt;
  std::ifstream(directory + "cpu.cfs_quota_us") >> quota;
  std::ifstream(directory + "cpu.cfs_period_us") >> period;
  return quota > 0 && period > 0 ? std::optional(quota / period) : std::nullopt;
}

}  // namespace

int64_t MemoryStatus::usable_bytes() const { return std::min(available_bytes, cgroup_available_bytes.value_or(available_bytes)); }

MemoryStatus read_memory_status(const std::string& root) {
  MemoryStatus status;
  status.total_bytes = field(root + "/proc/meminfo", "MemTotal").value_or(0);
  status.available_bytes = field(root + "/proc/meminfo", "MemAvailable").value_or(status.total_bytes);
  for_each_cgroup(root, [&](const std::string& controllers, const std::string& group) {
    if (controllers == ",,") read_cgroup(root + "/sys/fs/cgroup", group, kV2, 2, &status);
    else if (controllers.find(",memory,") != std::string::npos) read_cgroup(root + "/sys/fs/cgroup/memory", group, kV1, 1, &status);
  });
  return status;
}

int64_t default_cpu_memory_bytes(const MemoryStatus& status, int64_t overhead_bytes) {
  int64_t usable = status.usable_bytes();
  return std::max<int64_t>(0, std::min(usable / 5 * 4, usable - overhead_bytes));
}

int64_t peak_rss_bytes() { return field("/proc/self/status", "VmHWM").value_or(0); }

int CpuStatus::threads() const {
  int threads = cores;
  if (asked > 0) threads = std::min(threads, asked);
  // Half a processor more is worth a thread; less would be spent on waiting for that thread.
  if (quota) threads = static_cast<int>(std::clamp<int64_t>(std::llround(*quota), 1, threads));
  return threads;
}

CpuStatus read_cpu_status(const std::string& root) {
  CpuStatus status;
  status.cores = usable_cores();
  if (const char* asked = std::getenv("OMP_NUM_THREADS")) std::from_chars(asked, asked + std::strlen(asked), status.asked);
  auto look = [&](const std::string& directory) {
    const std::optional<double> quota = quota_of(directory);
    if (quota) status.quota = std::min(*quota, status.quota.value_or(*quota));
  };
  for_each_cgroup(root, [&](const std::string& controllers, const std::string& group) {
    if (controllers == ",,") walk_up(root + "/sys/fs/cgroup", group, look);
    else if (controllers.find(",cpu,") != std::string::npos)
      for (const char* mount : {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}) walk_up(root + mount, group, look);
  });
  return status;
}

int default_threads() { return read_cpu_status().threads(); }

}  // namespace flexgen
