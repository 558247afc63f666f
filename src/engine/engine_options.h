#pragma once
// EngineOptions: what an engine is made with. Pure data.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/device_share.h"
#include "backend/trace.h"
#include "io/file_system.h"
#include "net/port.h"
#include "plan/planner.h"

namespace flexgen {

class Engine;

struct EngineOptions {
  std::string model_directory;
  std::vector<std::string> ignored_config_fields;  ///< as load_config() takes them
  /// "cpu", "reference", "cuda"; for tests "emulated-gpu", "emulated-gpu-reference" and "emulated-gpu-cuda": a GPU played by RAM (backend/emulated/).
  std::string backend = "cpu";
  std::string compute_dtype = "auto";        ///< "auto", "bf16", "f32": arithmetic of the cpu backend
  std::string weight_dtype = "auto";         ///< "auto" (the checkpoint's), "bf16", "fp16", "int8", "int4": matrices are prepared in disk_directory
  std::string weight_quantization = "auto";  ///< of int8 and int4 weights: "minmax", "mse" (GroupRange), "auto" (mse for int4, minmax for int8)
  std::string matmul_dtype = "auto";         ///< "auto" (the arithmetic's), "int8": products in integers with weights that have an integer_group()
  std::function<void(int64_t, int64_t)> prepare_progress;  ///< (bytes done, in all) while weights are prepared; may be empty
  std::string kv_cache_dtype = "auto";                     ///< "auto" (the arithmetic's), "bf16", "int8", "int4"
  std::string kv_cache_rotation = "none";                  ///< "none", "hadamard" (keys)
  double attention_sparsity = 1;                           ///< share of positions whose values a generated token uses, in (0, 1]; 1: all
  int threads = 0;                                         ///< 0: all cores
  DeviceSeat device_seat;                                  ///< of a backend with devices, where several processes of a job are on a machine
  Budgets budgets;
  /// The budget of the disk as it is now, where nobody gave one: asked again once weights that are to be prepared there are. Empty: budgets.disk_bytes stands.
  std::function<int64_t()> usual_disk_bytes;
  std::string disk_directory;  ///< for spill files; empty: none
  std::string
      kept_directory;  ///< where matrices that a checkpoint holds transposed are kept once they are turned, if there is no disk_directory; may not exist yet
  double disk_bytes_per_s = 0;  ///< what this engine's disk lanes may move together; 0: all that the disk gives
  PolicyRequest policy;
  std::string planner = "search";  ///< "search" or "first-rule"
  std::string
      expert_statistics_file;  ///< of a mixture: what is counted there says which experts are chosen most often, and each run adds its own counts; empty: none
  std::optional<double> expert_skew;              ///< of a mixture with dummy weights: experts are drawn by ExpertChances::zipf(), and none is chosen
  std::string trace_file;                         ///< empty: none
  Trace::Process trace_process{1, "flexgen", 0};  ///< this process in a trace of several
  StageLink stages;                               ///< the pipeline that this engine is a stage of; all its engines take the same steps together
  std::string stage_split;                        ///< "10:22": blocks of each stage; empty: by the stages' budgets and speeds
  /// With several stages: calls set_hardware() of the engine, which splits the layers by it. Empty: speeds are assumed.
  std::function<void(Engine&)> learn_hardware;
  bool load_tokenizer = true;
  bool needs_tokenizer = true;  ///< false: a folder that has no tokenizer files is as good, for prompts of token ids
  FileSystem* files = nullptr;  ///< null: the real one
};

}  // namespace flexgen
