#include <chrono>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "backend/cuda_status.h"
#include "backend/event.h"
#include "backend/kernels.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/report.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/json_output.h"
#include "io/async_disk.h"
#include "io/whole_file.h"
#include "measure/job_memory.h"
#include "measure/machine.h"
#include "measure/measure_hardware.h"
#include "setup/hardware.h"
#include "setup/model_folder.h"

namespace flexgen {
namespace {

constexpr int64_t kFileBytes = 512 * kMiB, kTransfer = 8 * kMiB;

/// Bytes per second of one pass over the file.
double pass(AsyncDisk& disk, const std::shared_ptr<File>& file, std::byte* memory, bool write) {
  auto start = std::chrono::steady_clock::now();
  std::vector<Event> events;
  for (int64_t at = 0; at < kFileBytes; at += kTransfer) {
    Event done = Event::pending();
    events.push_back(done);
    disk.submit({file, write, at, memory + at % (8 * kTransfer), kTransfer, [done](std::exception_ptr error) { done.finish(error); }});
  }
  for (const Event& event : events) event.wait();
  return static_cast<double>(kFileBytes) / seconds_since(start);
}

}  // namespace

int doctor_command(const DoctorOptions& options) {
  std::error_code ignored;
  if (file_is_there(options.disk_directory) && !std::filesystem::is_directory(options.disk_directory, ignored))
    fail_user("--disk-dir {}: this is no directory; give one", options.disk_directory);
  if (!file_is_there(options.disk_directory)) fail_user("--disk-dir {}: there is no such directory", options.disk_directory);
  if (options.measure) {
    MeasureOptions measure;
    measure.types = all_types();
    measure.threads = options.threads;
    measure.directory = options.disk_directory;
    if (!options.model.empty())
      measure.read_files = Model::load(find_model(options.model, options.model_flags.revision), options.model_flags.ignored_config_fields)->files();
    measure.progress = [](const std::string& what) { spdlog::info("measuring {}", what); };
    FileSystem files;
    const std::string path = profile_path(options.threads);
    const std::unique_ptr<DirectoryLock> lock = path.empty() ? nullptr : lock_to_measure(path);
    HardwareProfile profile;
    if (options.disk_only) {
      const std::optional<HardwareProfile> known = kept_profile(path);
      if (!known) fail_user("doctor --disk-only: there is no usable profile of this machine with so many threads; leave --disk-only out");
      profile = *known;
      if (profile.method < kMeasuringMethod)
        fail_user("doctor --disk-only: this machine was measured by an earlier version, all of which must be done anew; leave --disk-only out");
      measure.types = {};
      const HardwareProfile measured = measure_hardware(measure, files);
      profile.disk = measured.disk;
      if (!measured.doubt.empty()) profile.doubt = measured.doubt;
    } else {
      profile = measure_hardware(measure, files);
    }
    if (options.json) put_json(to_json(profile), options.json_file);
    else print_result("{}", profile_table(profile));
    if (!profile.doubt.empty()) spdlog::warn("these speeds are in doubt: {}; measure again when nothing else runs (runs do so by themselves)", profile.doubt);
    constexpr const char* kElsewhere = "set FLEXGEN_CACHE_DIR, or keep what --json prints and give it with --hardware";
    if (path.empty()) {
      spdlog::warn("there is no place to keep this profile (HOME is not set): {}", kElsewhere);
      return kExitDone;
    }
    try {
      save_profile(profile, path);
      print_note("kept in {}\n", path);
    } catch (const Error& error) {
      spdlog::warn("{}; {}", error.what(), kElsewhere);
    }
    return kExitDone;
  }
  MemoryStatus memory = read_memory_status();
  const CpuStatus cpu = read_cpu_status();
  if (memory.total_bytes == 0) spdlog::warn("/proc/meminfo does not say how much memory there is: give --cpu-memory to every run");
  auto disk = AsyncDisk::make({});
  std::string path = options.disk_directory + "/flexgen-doctor.tmp";
  std::shared_ptr<File> file = File::open(path, FileMode::kSpill);
  file->preallocate(kFileBytes);
  const JobMemory buffer(8 * kTransfer);
  double write = pass(*disk, file, buffer.data(), true), read = pass(*disk, file, buffer.data(), false);
  const CudaStatus cuda = cuda_status();
  nlohmann::ordered_json json{
      {"cpu", cpu_features()},
      {"bf16", cpu_has_bf16()},
      {"cores", cpu.cores},
      {"threads", cpu.threads()},
      {"cpu_quota", cpu.quota ? nlohmann::ordered_json(*cpu.quota) : nlohmann::ordered_json()},
      {"memory_total_bytes", memory.total_bytes},
      {"memory_usable_bytes", memory.usable_bytes()},
      {"memory_cgroup_limit_bytes", memory.cgroup_limit_bytes ? nlohmann::ordered_json(*memory.cgroup_limit_bytes) : nlohmann::ordered_json()},
      {"fixed_overhead_bytes", kFixedOverheadBytes},
      {"gpu_overhead_bytes", kGpuOverheadBytes},
      {"disk_directory", options.disk_directory},
      {"disk_engine", disk->engine_name()},
      {"disk_direct", file->direct()},
      {"disk_read_bytes_per_s", read},
      {"disk_write_bytes_per_s", write},
      {"backends", {"cpu", "reference"}},
      {"cuda_toolkit", cuda.toolkit},
      {"cuda_driver", cuda.driver},
      {"cublas", cuda.cublas},
      {"gpus", cuda.devices},
      {"gpu_problem", cuda.problem}};
  if (options.json) {
    put_json(json.dump(1), options.json_file);
    return kExitDone;
  }
  print_result("processor   {} core{}{}; {} thread{} will compute; {}; bf16 arithmetic: {}\n", cpu.cores, cpu.cores == 1 ? "" : "s",
               cpu.quota ? fmt::format(", of which a cgroup allows the time of {:g}", *cpu.quota) : "", cpu.threads(), cpu.threads() == 1 ? "" : "s",
               cpu_features(), cpu_has_bf16() ? "yes" : "no");
  print_result("memory      {}{}, usable {}; flexgen takes up to {} beside --cpu-memory{}\n", format_bytes(memory.total_bytes),
               memory.cgroup_limit_bytes ? fmt::format(" (a cgroup allows {})", format_bytes(*memory.cgroup_limit_bytes)) : "",
               format_bytes(memory.usable_bytes()), format_bytes(kFixedOverheadBytes),
               cuda.devices.empty() ? "" : fmt::format(", {} with a GPU", format_bytes(kGpuOverheadBytes)));
  print_result("disk        {}: read {:.2f} GB/s, write {:.2f} GB/s ({}, {})\n", options.disk_directory, read / 1e9, write / 1e9, disk->engine_name(),
               file->direct() ? "direct" : "through the page cache: the file system refuses O_DIRECT");
  print_result("backends    cpu, reference{}\n",
               cuda.toolkit.empty() ? "" : fmt::format("; kernels for CUDA {}, changed since they last ran on a GPU (docs/gpu.md)", cuda.toolkit));
  for (size_t i = 0; i < cuda.devices.size(); ++i) print_result("gpu {}       {}\n", i, cuda.devices[i]);
  if (cuda.devices.empty()) print_result("gpu         none; {}\n", cuda.problem);
  if (!cuda.toolkit.empty())
    print_result("            driver: {}; cuBLASLt: {}\n", cuda.driver.empty() ? "absent" : "for CUDA " + cuda.driver,
                 cuda.cublas.empty() ? "not found" : cuda.cublas);
  return kExitDone;
}

}  // namespace flexgen
