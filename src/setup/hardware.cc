#include "setup/hardware.h"

#include "measure/device_peaks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "io/whole_file.h"
#include "io/write_all.h"

namespace flexgen {
namespace {

/// Why a profile is in doubt after a run begins like this.
constexpr const char* kFasterRun = "a run was";
constexpr double kLongestWait_s = 120;
constexpr int64_t kMuchWritten = kGiB;
constexpr size_t kLargestProfile = 16 * kMiB;

bool takes_own_profile(const Engine& engine, const EngineFlags& flags) {
  return flags.hardware.empty() && (flags.backend == "cpu" || engine.device() != nullptr) && engine.plans();
}

std::string rates_line(const std::vector<RatePoint>& points, double unit) {
  std::string line;
  for (const RatePoint& point : points) line += fmt::format("  {:.0f}: {:.3g}", point.x, point.per_s / unit);
  return line;
}

void compute_lines(std::string& text, const char* name, const ComputeProfile& compute) {
  for (const MatmulRates& rates : compute.matmul)
    text += fmt::format("{} {} weights in {}, hidden size {:.0f}, GFLOP/s at rows a visit:{}\n", name, dtype_name(rates.weights), dtype_name(rates.compute),
                        rates.width, rates_line(rates.points, 1e9));
  for (const AttentionRates& rates : compute.attention)
    text += fmt::format("{} attention, {} cache, {:g} query heads a kv head, GB/s at context:{}; prompts {:.3g} GFLOP/s\n", name, dtype_name(rates.cache),
                        rates.queries_per_kv_head, rates_line(rates.points, 1e9), rates.chunk_flops_per_s / 1e9);
}

/// What a run takes from the rest of its directory: the newest profile of this processor with another number of threads.
struct OtherThreads {
  std::string threads;  ///< "2 threads"
  HardwareProfile profile;
};

/// The processor and the number of threads that the name of a profile's file tells: "NAME-2-cores.json".
std::optional<std::pair<std::string, std::string>> processor_and_threads(std::string name) {
  for (const char* end : {"-cores.json", "-core.json"}) {
    if (!name.ends_with(end)) continue;
    name.resize(name.size() - std::string_view(end).size());
    const size_t dash = name.rfind('-');
    if (dash == std::string::npos || dash + 1 == name.size() || name.find_first_not_of("0123456789", dash + 1) != std::string::npos) return std::nullopt;
    return std::pair{name.substr(0, dash), name.substr(dash + 1)};
  }
  return std::nullopt;
}

std::optional<OtherThreads> measured_with_other_threads(const std::string& path) {
  namespace fs = std::filesystem;
  const std::string name = fs::path(path).filename().string();
  const auto own = processor_and_threads(name);
  if (!own) return std::nullopt;
  std::optional<OtherThreads> newest;
  fs::file_time_type newest_time;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(path).parent_path(), error)) {
    const std::string there = entry.path().filename().string();
    const auto other = processor_and_threads(there);
    if (there == name || !other || other->first != own->first) continue;
    const fs::file_time_type time = entry.last_write_time(error);
    if (error || (newest && time < newest_time)) continue;
    const std::optional<HardwareProfile> profile = kept_profile(entry.path().string());
    if (!profile || profile->method < kMeasuringMethod || !profile->doubt.empty()) continue;
    newest = {fmt::format("{} thread{}", other->second, other->second == "1" ? "" : "s"), *profile};
    newest_time = time;
  }
  return newest;
}

/// Whether two profiles of a machine say much the same of what both have measured.
bool alike(const HardwareProfile& a, const HardwareProfile& b) {
  constexpr double kAlike = 1.5;
  auto near = [](double x, double y) { return x < kAlike * y && y < kAlike * x; };
  for (const MatmulRates& one : a.cpu.matmul)
    for (const MatmulRates& other : b.cpu.matmul)
      if (one.compute == other.compute && one.weights == other.weights && one.width == other.width && !near(one.points.back().per_s, other.points.back().per_s))
        return false;
  return near(a.disk.read_bytes_per_s, b.disk.read_bytes_per_s);
}

void say_doubt(const HardwareProfile& profile) {
  if (!profile.doubt.empty())
    spdlog::warn("this machine's profile is in doubt: {}; this run is planned with it, and the next one measures anew (load average {:.1f})", profile.doubt,
                 profile.load_average);
}

void keep(const HardwareProfile& profile, const std::string& path) {
  if (path.empty()) return;
  try {
    save_profile(profile, path);
  } catch (const Error& error) {
    spdlog::warn(
        "{}; going on without keeping it, so the next run measures again: set FLEXGEN_CACHE_DIR to a directory that can be written, or give --hardware FILE",
        error.what());
  }
}

HardwareProfile measured_anew(const std::string& path, const std::optional<HardwareProfile>& known, MeasureOptions measure, const Measure& measure_with) {
  constexpr const char* kBetter = "(`flexgen doctor --measure` does it better, in under a minute)";
  const std::optional<OtherThreads> other = known || path.empty() ? std::nullopt : measured_with_other_threads(path);
  if (other) {
    spdlog::info("this machine was measured with {}, not with this number: measuring what these compute, quickly, once; its disk's speed is kept {}",
                 other->threads, kBetter);
    measure.read_files.clear();
    measure.directory.clear();
  } else if (!known) {
    spdlog::info("this machine was never measured: doing so quickly, once {}", kBetter);
  } else if (known->method < kMeasuringMethod) {
    spdlog::info("this machine was measured by an earlier version, in a way that misleads this one, and must be measured anew: doing so quickly, once {}",
                 kBetter);
  } else {
    spdlog::info("this machine's profile is in doubt ({}): measuring anew, quickly {}", known->doubt, kBetter);
  }
  HardwareProfile profile = measure_with(measure);
  if (other) profile.disk = other->profile.disk;
  if (known && known->doubt.starts_with(kFasterRun) && alike(*known, profile)) profile.confirmed = true;
  say_doubt(profile);
  keep(profile, path);
  return profile;
}

}  // namespace

void save_profile(const HardwareProfile& profile, const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  std::string temporary = path + ".XXXXXX";
  const std::string text = to_json(profile) + "\n";
  const int descriptor = mkostemp(temporary.data(), O_CLOEXEC);
  int problem = descriptor >= 0 ? 0 : error ? error.value() : errno;
  if (problem == 0) problem = write_all(descriptor, text);
  // What an open file could not hold shows here, on a network.
  if (descriptor >= 0 && (fchmod(descriptor, 0644) != 0 || ::close(descriptor) != 0) && problem == 0) problem = errno;
  if (problem == 0 && std::rename(temporary.c_str(), path.c_str()) != 0) problem = errno;
  if (problem == 0) return;
  if (descriptor >= 0) ::unlink(temporary.c_str());
  fail_io("this machine's profile cannot be kept in {}: {}", path, std::strerror(problem));
}

std::unique_ptr<DirectoryLock> lock_to_measure(const std::string& path) {
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  std::error_code ignored;
  if (!directory.empty()) std::filesystem::create_directories(directory, ignored);
  return std::make_unique<DirectoryLock>(directory.string(), kLongestWait_s, [&](bool gives_up) {
    if (gives_up) spdlog::warn("another process has had {} locked for {:.0f} s: measuring beside it", directory.string(), kLongestWait_s);
    else spdlog::info("another process measures this machine (it has {} locked): waiting for it", directory.string());
  });
}

HardwareProfile load_profile(const std::string& path, const char* flag) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) fail_user("{}{}: this is a directory, not a profile", flag, path);
  if (std::filesystem::is_fifo(path, error))  // opening one waits for a writer, deaf to signals
    fail_user("{}{}: this is a pipe; write what comes from it to a file, and give that", flag, path);
  std::ifstream in(path, std::ios::binary);
  if (!in) fail_user("{}{}: {}", flag, path, std::strerror(errno));
  std::string text(kLargestProfile + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (in.bad()) fail_user("{}{}: this file cannot be read: {}", flag, path, std::strerror(errno));
  if (text.size() > kLargestProfile) fail_user("{}{}: more than {} are no hardware profile", flag, path, format_bytes(static_cast<int64_t>(kLargestProfile)));
  return profile_from_json(text, flag + path);
}

std::optional<HardwareProfile> kept_profile(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found || path.empty()) return std::nullopt;
  try {
    // Whatever else lies there may never end.
    if (!error && status.type() != std::filesystem::file_type::regular) fail_user("{}: this is no file", path);
    return load_profile(path, "");
  } catch (const Error& error) {
    spdlog::warn("this machine's profile cannot be used: {}", error.what());
    return std::nullopt;
  }
}

HardwareProfile own_profile(const MeasureOptions& wanted, const std::string& path, const Measure& measure_with) {
  if (path.empty())
    spdlog::warn(
        "there is no place to keep this machine's profile (HOME is not set): every run measures anew, quickly; set FLEXGEN_CACHE_DIR to a directory, or give --hardware FILE");
  const std::unique_ptr<DirectoryLock> lock = path.empty() ? nullptr : lock_to_measure(path);
  MeasureOptions measure = wanted;
  measure.quick = true;
  std::optional<HardwareProfile> known = kept_profile(path);
  if (!known || known->method < kMeasuringMethod || !known->doubt.empty()) return measured_anew(path, known, measure, measure_with);
  HardwareProfile profile = *known;
  measure.types = missing_types(profile, wanted.types);
  if (measure.types.matmul.empty() && measure.types.caches.empty()) return profile;
  spdlog::info("this machine's profile lacks types or a hidden size that this run uses: measuring them quickly");
  measure.read_files.clear();
  measure.directory.clear();
  HardwareProfile more = measure_with(measure);
  // The kinds that were not asked for hold assumed rates.
  if (measure.types.matmul.empty()) more.cpu.matmul.clear();
  if (measure.types.caches.empty()) more.cpu.attention.clear();
  add_rates(profile, more);
  say_doubt(profile);
  keep(profile, path);
  return profile;
}

void doubt_if_written(int64_t bytes, HardwareProfile* profile) {
  if (bytes > kMuchWritten && profile->doubt.empty())
    profile->doubt = fmt::format("{} were written just before, and the disk may still have been busy with them", format_bytes(bytes));
}

void doubt_if_faster(const RunReport& report, const std::string& path) {
  constexpr double kLongEnough_s = 1, kMuchFaster = 2;
  if (report.elapsed_s < kLongEnough_s || path.empty()) return;
  for (const LaneReport& lane : report.lanes) {
    // By what it has done: answers that end early take less for another reason. Lanes that never were what the run waited for say little.
    const double expected_s = lane.stats.expected_s, busy_s = lane.stats.busy_s;
    if (expected_s < report.elapsed_s || busy_s <= 0 || expected_s < kMuchFaster * busy_s) continue;
    std::optional<HardwareProfile> profile = kept_profile(path);
    if (!profile || profile->confirmed || !profile->doubt.empty()) return;
    profile->doubt = fmt::format("{} {:.1f} times as fast as its profile says, in {}", kFasterRun, expected_s / busy_s, lane.name());
    spdlog::warn("this machine's profile is too slow: {}; the next run measures anew", profile->doubt);
    return keep(*profile, path);
  }
}

void doubt_if_faster(const Engine& engine, const EngineFlags& flags, const RunReport& report) {
  if (takes_own_profile(engine, flags)) doubt_if_faster(report, profile_path(engine.threads()));
}

HardwareProfile profile_for(const EngineFlags& flags, const MeasureOptions& wanted, FileSystem& files) {
  HardwareProfile profile = flags.hardware == "generic" ? HardwareProfile::generic()
                            : !flags.hardware.empty()   ? load_profile(flags.hardware)
                                                        : own_profile(wanted, profile_path(wanted.threads), [&](const MeasureOptions& options) {
                                                          HardwareProfile measured = measure_hardware(options, files);
                                                          doubt_if_written(checkpoint_bytes_written(), &measured);
                                                          return measured;
                                                        });
  if (!flags.hardware.empty() && !profile.doubt.empty()) spdlog::warn("--hardware {}: these speeds are in doubt: {}", flags.hardware, profile.doubt);
  spdlog::debug("the machine's profile is '{}', from {}", profile.name, flags.hardware.empty() ? profile_path(wanted.threads) : flags.hardware);
  if (flags.disk_bytes_per_s > 0) profile.disk = limited(profile.disk, static_cast<double>(flags.disk_bytes_per_s));
  return profile;
}

void set_hardware(Engine& engine, const EngineFlags& flags) {
  const bool on_gpu = engine.device() != nullptr;
  if (flags.hardware.empty() && !takes_own_profile(engine, flags)) return;
  MeasuredTypes types;
  types.add(engine.processor_precision());
  FileSystem files;
  HardwareProfile profile = profile_for(flags,
                                        {.types = std::move(types),
                                         .threads = engine.threads(),  // a rank's share of the cores
                                         .read_files = engine.model().files(),
                                         .directory = flags.disk_directory},
                                        files);
  if (on_gpu && !profile.gpu) {
    const DevicePeaks peaks = measure_device_peaks(*engine.device(), engine.model(), engine.kernels(), engine.gpu_plan_bytes());
    profile.gpu = gpu_of(peaks.visit_flops_per_s, peaks.memory_bytes_per_s);
    profile.h2d_bytes_per_s = peaks.h2d_bytes_per_s;
    profile.d2h_bytes_per_s = peaks.d2h_bytes_per_s;
  }
  engine.set_hardware(profile);
}

std::string profile_table(const HardwareProfile& profile) {
  std::string text = fmt::format("{}{}\n", profile.name, profile.measured.empty() ? " (assumed, not measured)" : " (measured " + profile.measured + ")");
  if (!profile.doubt.empty()) text += fmt::format("IN DOUBT: {}; measured anew by the next run\n", profile.doubt);
  if (!profile.measured.empty())
    text += fmt::format("while measuring: load average {:.1f}, {:.0f}% of the wanted processor time taken by other programs\n", profile.load_average,
                        100 * profile.others_share);
  compute_lines(text, "cpu", profile.cpu);
  if (profile.gpu) compute_lines(text, "gpu", *profile.gpu);
  text += fmt::format("RAM read {:.1f} GB/s; a visit starts in {:.0f} us; a million logits take {:.2f} ms\n", profile.ram_read_bytes_per_s / 1e9,
                      profile.cpu.visit_s * 1e6, profile.cpu.logit_s * 1e9);
  text += fmt::format(
      "disk read {:.2f} GB/s, write {:.2f} GB/s; a request {:.0f} us, a small one among many {:.1f} us; writing takes {:.0f}% of reading's time, "
      "and a write ends {:.1f} ms late beside it; a second of it costs compute {:.2f} s\n",
      profile.disk.read_bytes_per_s / 1e9, profile.disk.write_bytes_per_s / 1e9, profile.disk.request_s * 1e6, profile.disk.lookup_s * 1e6,
      100 * profile.disk.write_share_of_read, 1e3 * profile.disk.write_wait_s, profile.disk.compute_slowdown);
  if (profile.gpu) text += fmt::format("to the GPU {:.1f} GB/s, back {:.1f} GB/s\n", profile.h2d_bytes_per_s / 1e9, profile.d2h_bytes_per_s / 1e9);
  return text;
}

}  // namespace flexgen
