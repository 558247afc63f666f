#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/machine.h"
#include "app/speed.h"
#include "backend/kernels.h"
#include "base/error.h"
#include "base/units.h"
#include "io/async_disk.h"

namespace flexgen {

std::string doctor_report(const DoctorOptions& options) {
  constexpr int64_t kTestBytes = 256 * kMiB;
  MemoryStatus memory = read_memory_status();
  std::error_code error;
  if (!std::filesystem::is_directory(options.disk_directory, error))
    fail_user("--disk-dir {}: there is no such directory", options.disk_directory);
  auto space = std::filesystem::space(options.disk_directory, error);
  int64_t free_bytes = error ? 0 : static_cast<int64_t>(space.available);
  DiskSpeed disk = measure_disk(options.disk_directory, kTestBytes);
  double ram = measure_memory_read(usable_cores(), 0.5);
  AsyncDiskOptions disk_options;

  if (options.json) {
    nlohmann::ordered_json json;
    json["version"] = kVersion;
    json["backends"] = {"cpu", "reference"};
    json["cpu_features"] = cpu_features();
    json["bf16"] = cpu_has_bf16();
    json["cores"] = usable_cores();
    json["memory_total_bytes"] = memory.total_bytes;
    json["memory_available_bytes"] = memory.available_bytes;
    json["cgroup_version"] = memory.cgroup_version;
    json["cgroup_limit_bytes"] = memory.cgroup_limit_bytes ? nlohmann::ordered_json(*memory.cgroup_limit_bytes) : nullptr;
    json["default_cpu_memory_bytes"] = default_cpu_memory_bytes(memory);
    json["fixed_overhead_bytes"] = kFixedOverheadBytes;
    json["memory_read_bytes_per_s"] = ram;
    json["disk_directory"] = options.disk_directory;
    json["disk_free_bytes"] = free_bytes;
    json["disk_engine"] = disk.engine;
    json["disk_direct"] = disk.direct;
    json["disk_block_bytes"] = disk_options.block_bytes;
    json["disk_depth"] = disk_options.depth;
    json["disk_read_bytes_per_s"] = disk.read_bytes_per_s;
    json["disk_write_bytes_per_s"] = disk.write_bytes_per_s;
    return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  }

  auto row = [](std::string_view name, const std::string& text) { return fmt::format("{:<16}{}\n", name, text); };
  std::string text = row("flexgen", std::string(kVersion) + ", backends cpu and reference (no GPU tier)");
  text += row("CPU", fmt::format("{} cores; {}", usable_cores(), cpu_features()));
  text += row("arithmetic", cpu_has_bf16() ? "bf16 in hardware, fp32 accumulation" : "fp32 (no bf16 in hardware)");
  text += row("memory", fmt::format("{} of {} free", format_bytes(memory.available_bytes), format_bytes(memory.total_bytes)));
  text += row("cgroup", memory.cgroup_limit_bytes ? fmt::format("limit {} (v{}), {} left", format_bytes(*memory.cgroup_limit_bytes),
                                                                memory.cgroup_version, format_bytes(*memory.cgroup_available_bytes))
                                                  : std::string("no memory limit"));
  text += row("", fmt::format("read at {:.1f} GB/s", ram / 1e9));
  text += row("budget", fmt::format("--cpu-memory would be {}; a process takes up to {} beyond it",
                                    format_bytes(default_cpu_memory_bytes(memory)), format_bytes(kFixedOverheadBytes)));
  text += row("disk", fmt::format("{}: {} free; {}{}", options.disk_directory, format_bytes(free_bytes), disk.engine,
                                  disk.direct ? ", direct I/O" : "; direct I/O is refused here, so the page cache is in the way"));
  text += row("", fmt::format("read {:.2f} GB/s, write {:.2f} GB/s in blocks of {}, {} in flight", disk.read_bytes_per_s / 1e9,
                              disk.write_bytes_per_s / 1e9, format_bytes(disk_options.block_bytes), disk_options.depth));
  return text;
}

int doctor_command(const DoctorOptions& options) {
  std::fputs(doctor_report(options).c_str(), stdout);
  return kExitDone;
}

}  // namespace flexgen
