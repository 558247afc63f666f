#pragma once
// EngineFlags: how a command runs a model, as its flags say; engine_options() makes of it what an engine takes. Pure, but for what engine_options() asks the machine: free memory and disk space.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine_options.h"

namespace flexgen {

/// Which files a model is read from, and how: the flags beside --model.
struct ModelFlags {
  std::string revision;                            ///< of a model in the Hub's cache: a branch, a tag or a commit; empty: main
  std::vector<std::string> ignored_config_fields;  ///< of config.json, that flexgen does not know and the user takes for harmless
};

/// The flags that run-batch, generate and bench share.
struct EngineFlags {
  ModelFlags model;
  std::string backend = "cpu";
  std::string compute_dtype = "auto", matmul_dtype = "auto";
  std::string weight_dtype = "auto",
              kv_cache_dtype = "auto";  ///< a list ("bf16,int4"): of these the planner takes what it finds fastest (setup/dtype_choice.h)
  std::string weight_quantization = "auto";
  std::string kv_cache_rotation = "none";
  double attention_sparsity = 1;
  int threads = 0;
  int64_t cpu_memory_bytes = 0;  ///< 0: from what is free
  int64_t gpu_memory_bytes = 0;  ///< where a GPU computes (0: from what is free), or is planned for
  int64_t disk_space_bytes = 0;  ///< 0: from what is free in disk_directory
  std::string disk_directory;
  int64_t disk_bytes_per_s = 0;  ///< that reads and writes of a job may take together on a machine; 0: all
  PolicyRequest policy;
  std::string hardware;  ///< a profile's file, "generic", or empty: this machine's own
  std::string planner = "search";
  std::string prefix_sharing = "auto";
  std::string expert_statistics;  ///< a file, "auto" (in the cache directory), or empty: nothing is counted
  std::string trace_file;

  bool shares_prefixes() const { return prefix_sharing == "auto"; }
  bool chooses_dtypes() const { return (weight_dtype + kv_cache_dtype).find(',') != std::string::npos; }
};

/// "bf16,int4" -> bf16, int4.
std::vector<std::string> split_list(const std::string& text);

/// Flags as the engine of each of `processes` on this machine takes them: budgets that were left out are its share of what is free, of RAM without what each takes
/// beside its budget. Throws Error{user} for a directory that is none.
EngineOptions engine_options(const EngineFlags& flags, const std::string& model_directory, int processes = 1);

}  // namespace flexgen
