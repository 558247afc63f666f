#include "app/hardware.h"

#include "app/device_peaks.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "base/error.h"
#include "base/log.h"

namespace flexgen {
namespace {

std::string rates_line(const std::vector<RatePoint>& points, double unit) {
  std::string line;
  for (const RatePoint& point : points) line += fmt::format("  {:.0f}: {:.3g}", point.x, point.per_s / unit);
  return line;
}

void compute_lines(std::string& text, const char* name, const ComputeProfile& compute) {
  for (const MatmulRates& rates : compute.matmul)
    text += fmt::format("{} {} weights in {}, hidden size {:.0f}, GFLOP/s at rows a visit:{}\n", name, dtype_name(rates.weights), dtype_name(rates.compute), rates.width, rates_line(rates.points, 1e9));
  for (const AttentionRates& rates : compute.attention)
    text += fmt::format("{} attention, {} cache, {:g} query heads a kv head, GB/s at context:{}; prompts {:.3g} GFLOP/s\n", name, dtype_name(rates.cache),
                        rates.queries_per_kv_head, rates_line(rates.points, 1e9), rates.chunk_flops_per_s / 1e9);
}

HardwareProfile own_profile(const MeasureOptions& wanted, FileSystem& files) {
  const std::string path = profile_path(wanted.threads);
  const DirectoryLock lock = lock_to_measure(path);
  std::error_code ignored;
  MeasureOptions measure = wanted;
  measure.quick = true;
  std::optional<HardwareProfile> known;
  if (std::filesystem::exists(path, ignored)) known = load_profile(path);
  if (!known || known->method < kMeasuringMethod) {
    spdlog::info("this machine was {}: doing so quickly, once (`flexgen doctor --measure` does it better, in under a minute)",
                 known ? "measured by an earlier version, in a way that misleads this one, and must be measured anew" : "never measured");
    HardwareProfile profile = measure_hardware(measure, files);
    save_profile(profile, path);
    return profile;
  }
  HardwareProfile profile = *known;
  measure.types = missing_types(profile, wanted.types);
  if (measure.types.matmul.empty() && measure.types.caches.empty()) return profile;
  spdlog::info("this machine's profile lacks types or a hidden size that this run uses: measuring them quickly");
  measure.read_files.clear();
  measure.directory.clear();
  HardwareProfile more = measure_hardware(measure, files);
  // The kinds that were not asked for hold assumed rates.
  if (measure.types.matmul.empty()) more.cpu.matmul.clear();
  if (measure.types.caches.empty()) more.cpu.attention.clear();
  add_rates(profile, more);
  save_profile(profile, path);
  return profile;
}

}  // namespace

void save_profile(const HardwareProfile& profile, const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  const std::string temporary = fmt::format("{}.{}", path, getpid());
  std::ofstream out(temporary);
  out << to_json(profile) << "\n";
  out.close();
  if (!out) fail_io("{}: the profile cannot be written here; give one with --hardware FILE", temporary);
  std::filesystem::rename(temporary, path, error);
  if (error) fail_io("{}: {}", path, error.message());
}

DirectoryLock lock_to_measure(const std::string& path) {
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  std::error_code ignored;
  std::filesystem::create_directories(directory, ignored);
  return DirectoryLock(directory.string());
}

HardwareProfile load_profile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) fail_user("--hardware {}: this file cannot be read", path);
  return profile_from_json(text.str(), path);
}

HardwareProfile profile_for(const EngineFlags& flags, const MeasureOptions& wanted, FileSystem& files) {
  HardwareProfile profile = flags.hardware == "generic" ? HardwareProfile::generic() : !flags.hardware.empty() ? load_profile(flags.hardware) : own_profile(wanted, files);
  if (flags.disk_bytes_per_s > 0) profile.disk = limited(profile.disk, static_cast<double>(flags.disk_bytes_per_s));
  return profile;
}

void set_hardware(Engine& engine, const EngineFlags& flags) {
  const bool on_gpu = engine.device() != nullptr;
  if (flags.hardware.empty() && ((flags.backend != "cpu" && !on_gpu) || !engine.plans())) return;
  MeasuredTypes types;
  types.add(engine.precision());
  FileSystem files;
  HardwareProfile profile = profile_for(flags,
                                        {.types = std::move(types),
                                         .threads = engine.threads(),  // a rank's share of the cores
                                         .read_files = engine.model().files(),
                                         .directory = flags.disk_directory},
                                        files);
  if (on_gpu && !profile.gpu) {
    const DevicePeaks peaks = measure_device_peaks(*engine.device(), engine.model(), engine.kernels());
    profile.gpu = gpu_of(peaks.matmul_flops_per_s, peaks.memory_bytes_per_s);
    profile.h2d_bytes_per_s = peaks.h2d_bytes_per_s;
    profile.d2h_bytes_per_s = peaks.d2h_bytes_per_s;
  }
  engine.set_hardware(std::move(profile));
}

std::string profile_table(const HardwareProfile& profile) {
  std::string text = fmt::format("{}{}\n", profile.name, profile.measured.empty() ? " (assumed, not measured)" : " (measured " + profile.measured + ")");
  compute_lines(text, "cpu", profile.cpu);
  if (profile.gpu) compute_lines(text, "gpu", *profile.gpu);
  text += fmt::format("RAM read {:.1f} GB/s; a visit starts in {:.0f} us; a million logits take {:.2f} ms\n", profile.ram_read_bytes_per_s / 1e9,
                      profile.cpu.visit_s * 1e6, profile.cpu.logit_s * 1e9);
  text += fmt::format("disk read {:.2f} GB/s, write {:.2f} GB/s; a request {:.0f} us, a small one among many {:.1f} us; writing takes {:.0f}% of reading's time; "
                      "a second of it costs compute {:.2f} s\n",
                      profile.disk.read_bytes_per_s / 1e9, profile.disk.write_bytes_per_s / 1e9, profile.disk.request_s * 1e6, profile.disk.lookup_s * 1e6,
                      100 * profile.disk.write_share_of_read, profile.disk.compute_slowdown);
  if (profile.gpu) text += fmt::format("to the GPU {:.1f} GB/s, back {:.1f} GB/s\n", profile.h2d_bytes_per_s / 1e9, profile.d2h_bytes_per_s / 1e9);
  return text;
}

}  // namespace flexgen
