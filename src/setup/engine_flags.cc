#include "setup/engine_flags.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/units.h"
#include "io/gguf.h"
#include "io/transfer.h"
#include "io/whole_file.h"
#include "measure/cache_directory.h"
#include "measure/machine.h"
#include "setup/synthetic_job.h"

namespace flexgen {

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

namespace {

/// Beside the hardware profile, under a name that the config gives: the same for a shape and for dummy weights of it.
std::string own_statistics_file(const std::string& model) {
  const std::string directory = cache_directory();
  if (directory.empty())
    fail_user("--expert-statistics auto: there is no place to keep counts (HOME is not set); set FLEXGEN_CACHE_DIR to a directory, or give a file");
  return fmt::format("{}/experts-{}.json", directory,
                     Sha256::hex(Sha256::of(is_gguf(model) ? std::filesystem::absolute(model).string() : config_text(model)), 8));
}

/// Of a disk that nobody gave a budget of: nine tenths of what is free.
int64_t usual_disk_budget(const std::string& directory) {
  std::error_code error;
  const auto space = std::filesystem::space(directory, error);
  if (error) fail_io("--disk-dir {}: {}", directory, error.message());
  return static_cast<int64_t>(space.available / 10 * 9);
}

}  // namespace

EngineOptions engine_options(const EngineFlags& flags, const std::string& model_directory, int processes) {
  EngineOptions options;
  options.model_directory = model_directory;
  options.ignored_config_fields = flags.model.ignored_config_fields;
  options.backend = flags.backend;
  options.compute_dtype = flags.compute_dtype;
  options.weight_dtype = flags.weight_dtype;
  options.weight_quantization = flags.weight_quantization;
  options.matmul_dtype = flags.matmul_dtype;
  options.prepare_progress = [announced = int64_t{0}](int64_t done, int64_t total) mutable {
    if (done - announced < kGiB && done < total) return;
    announced = done;
    spdlog::info("preparing weights: {} of {}", format_bytes(done), format_bytes(total));
  };
  options.kv_cache_dtype = flags.kv_cache_dtype;
  options.kv_cache_rotation = flags.kv_cache_rotation;
  options.attention_sparsity = flags.attention_sparsity;
  if (flags.attention_sparsity < 1)
    spdlog::info("attention sparsity {}: generated tokens use the values of this share of their positions; answers differ from those without it",
                 flags.attention_sparsity);
  options.threads = flags.threads > 0 || flags.backend == "reference" ? flags.threads : default_threads();
  options.disk_directory = flags.disk_directory;
  if (const std::string kept = cache_directory(); !kept.empty()) options.kept_directory = kept + "/weights";
  options.disk_bytes_per_s = static_cast<double>(flags.disk_bytes_per_s);
  options.policy = flags.policy;
  options.planner = flags.planner;
  if (!flags.expert_statistics.empty())
    options.expert_statistics_file = flags.expert_statistics == "auto" ? own_statistics_file(model_directory) : flags.expert_statistics;
  options.trace_file = flags.trace_file;
  options.budgets.cpu_bytes = flags.cpu_memory_bytes;
  options.budgets.gpu_bytes = flags.gpu_memory_bytes;
  if (options.budgets.cpu_bytes == 0) {
    const int64_t overhead = flags.backend == "cuda" ? kGpuOverheadBytes : kFixedOverheadBytes;
    const MemoryStatus memory = read_memory_status();
    if (memory.total_bytes == 0) fail_user("/proc/meminfo does not say how much memory there is: give --cpu-memory");
    options.budgets.cpu_bytes = default_cpu_memory_bytes(memory, processes * overhead) / processes;
  }
  if (!flags.disk_directory.empty()) {
    std::error_code error;
    if (!file_is_there(flags.disk_directory)) fail_user("--disk-dir {}: there is no such directory; make it first", flags.disk_directory);
    if (!std::filesystem::is_directory(flags.disk_directory, error)) fail_user("--disk-dir {}: this is no directory; give one", flags.disk_directory);
    if (access(flags.disk_directory.c_str(), W_OK | X_OK) != 0)
      fail_user("--disk-dir {}: this directory cannot be written to: {}{}", flags.disk_directory, std::strerror(errno),
                file_advice(flags.disk_directory, errno));
    options.budgets.disk_bytes = flags.disk_space_bytes;
    if (flags.disk_space_bytes == 0) {
      options.usual_disk_bytes = [directory = flags.disk_directory] { return usual_disk_budget(directory); };
      options.budgets.disk_bytes = options.usual_disk_bytes();
    }
  }
  spdlog::debug("budgets: {} of RAM, {} for spilled data on disk; {} threads", format_bytes(options.budgets.cpu_bytes),
                format_bytes(options.budgets.disk_bytes), options.threads);
  return options;
}

}  // namespace flexgen
