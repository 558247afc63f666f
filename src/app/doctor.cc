#include <chrono>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/machine.h"
#include "app/hardware.h"
#include "app/job_memory.h"
#include "app/measure_hardware.h"
#include "backend/cuda_status.h"
#include "backend/kernels.h"
#include "base/cores.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "backend/event.h"
#include "io/async_disk.h"

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
  return static_cast<double>(kFileBytes) / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int doctor_command(const DoctorOptions& options) {
  if (options.measure) {
    MeasureOptions measure;
    measure.types = all_types();
    measure.threads = options.threads;
    measure.directory = options.disk_directory;
    if (!options.model.empty()) measure.read_files = Model::load(options.model)->files();
    measure.progress = [](const std::string& what) { spdlog::info("measuring {}", what); };
    FileSystem files;
    const std::string path = profile_path(options.threads);
    const DirectoryLock lock = lock_to_measure(path);
    HardwareProfile profile;
    if (options.disk_only) {
      std::error_code ignored;
      if (!std::filesystem::exists(path, ignored)) fail_user("doctor --disk-only: this machine was never measured; leave --disk-only out");
      profile = load_profile(path);
      if (profile.method < kMeasuringMethod) fail_user("doctor --disk-only: this machine was measured by an earlier version, all of which must be done anew; leave --disk-only out");
      measure.types = {};
      profile.disk = measure_hardware(measure, files).disk;
    } else {
      profile = measure_hardware(measure, files);
    }
    save_profile(profile, path);
    fmt::print("{}", options.json ? to_json(profile) + "\n" : profile_table(profile));
    fmt::print(stderr, "kept in {}\n", path);
    return kExitDone;
  }
  MemoryStatus memory = read_memory_status();
  auto disk = AsyncDisk::make({});
  std::string path = options.disk_directory + "/flexgen-doctor.tmp";
  std::shared_ptr<File> file = File::open(path, FileMode::kSpill);
  file->preallocate(kFileBytes);
  const JobMemory buffer(8 * kTransfer);
  double write = pass(*disk, file, buffer.data(), true), read = pass(*disk, file, buffer.data(), false);
  const CudaStatus cuda = cuda_status();
  nlohmann::ordered_json json{{"cpu", cpu_features()}, {"bf16", cpu_has_bf16()}, {"cores", usable_cores()},
                              {"memory_total_bytes", memory.total_bytes}, {"memory_usable_bytes", memory.usable_bytes()},
                              {"fixed_overhead_bytes", kFixedOverheadBytes}, {"disk_directory", options.disk_directory},
                              {"disk_engine", disk->engine_name()}, {"disk_direct", file->direct()},
                              {"disk_read_bytes_per_s", read}, {"disk_write_bytes_per_s", write}, {"backends", {"cpu", "reference"}},
                              {"cuda_toolkit", cuda.toolkit}, {"cuda_driver", cuda.driver}, {"cublas", cuda.cublas}, {"gpus", cuda.devices}, {"gpu_problem", cuda.problem}};
  if (options.json) {
    fmt::print("{}\n", json.dump(1));
    return kExitDone;
  }
  fmt::print("processor   {} cores; {}; bf16 arithmetic: {}\n", usable_cores(), cpu_features(), cpu_has_bf16() ? "yes" : "no");
  fmt::print("memory      {}, usable {}; flexgen takes up to {} beside --cpu-memory\n", format_bytes(memory.total_bytes),
             format_bytes(memory.usable_bytes()), format_bytes(kFixedOverheadBytes));
  fmt::print("disk        {}: read {:.2f} GB/s, write {:.2f} GB/s ({}, {})\n", options.disk_directory, read / 1e9, write / 1e9,
             disk->engine_name(), file->direct() ? "direct" : "through the page cache: the file system refuses O_DIRECT");
  fmt::print("backends    cpu, reference{}\n", cuda.toolkit.empty() ? "" : fmt::format("; kernels for CUDA {}, not yet run on a GPU", cuda.toolkit));
  for (size_t i = 0; i < cuda.devices.size(); ++i) fmt::print("gpu {}       {}\n", i, cuda.devices[i]);
  if (cuda.devices.empty()) fmt::print("gpu         none; {}\n", cuda.problem);
  if (!cuda.toolkit.empty()) fmt::print("            driver: {}; cuBLASLt: {}\n", cuda.driver.empty() ? "absent" : "for CUDA " + cuda.driver, cuda.cublas.empty() ? "not found" : cuda.cublas);
  return kExitDone;
}

}  // namespace flexgen
