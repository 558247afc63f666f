#include "app/machine.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

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
std::optional<int64_t> number(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  int64_t value = 0;
  if (!(file >> text)) return std::nullopt;
  auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value >= std::numeric_limits<int64_t>::max() / 2) return std::nullopt;
  return value;
}

struct CgroupFiles {
  const char *limit, *usage, *inactive, *active;
};
constexpr CgroupFiles kV2{"memory.max", "memory.current", "inactive_file", "active_file"};
constexpr CgroupFiles kV1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"};

/// Walks from the group up to the mount; in a container the path of the host may not exist, then the mount itself counts.
void read_cgroup(const std::string& mount, std::string group, const CgroupFiles& files, int version, MemoryStatus* status) {
  if (!std::filesystem::exists(mount + group)) group = "";
  for (;;) {
    std::string directory = mount + group + "/";
    if (auto limit = number(directory + files.limit); limit && (status->total_bytes == 0 || *limit <= status->total_bytes)) {
      status->cgroup_version = version;
      int64_t used = number(directory + files.usage).value_or(0);
      int64_t cache = field(directory + "memory.stat", files.inactive).value_or(0) + field(directory + "memory.stat", files.active).value_or(0);
      int64_t available = std::max<int64_t>(0, *limit - std::max<int64_t>(0, used - cache));
      status->cgroup_limit_bytes = std::min(*limit, status->cgroup_limit_bytes.value_or(*limit));
      status->cgroup_available_bytes = std::min(available, status->cgroup_available_bytes.value_or(available));
    }
    if (group.empty()) return;
    size_t slash = group.rfind('/');
    group.resize(slash == std::string::npos ? 0 : slash);
  }
}

}  // namespace

int64_t MemoryStatus::usable_bytes() const { return std::min(available_bytes, cgroup_available_bytes.value_or(available_bytes)); }

MemoryStatus read_memory_status(const std::string& root) {
  MemoryStatus status;
  status.total_bytes = field(root + "/proc/meminfo", "MemTotal").value_or(0);
  status.available_bytes = field(root + "/proc/meminfo", "MemAvailable").value_or(status.total_bytes);
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "hierarchy:controllers:path"
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    if (controllers == ",,") read_cgroup(root + "/sys/fs/cgroup", group, kV2, 2, &status);
    else if (controllers.find(",memory,") != std::string::npos) read_cgroup(root + "/sys/fs/cgroup/memory", group, kV1, 1, &status);
  }
  return status;
}

int64_t default_cpu_memory_bytes(const MemoryStatus& status) {
  int64_t usable = status.usable_bytes();
  return std::max<int64_t>(0, std::min(usable / 5 * 4, usable - kFixedOverheadBytes));
}

int64_t peak_rss_bytes() { return field("/proc/self/status", "VmHWM").value_or(0); }

}  // namespace flexgen
