#pragma once
// Engine: the facade. A checkpoint, budgets and a job in; completions out. Two engines may live in one process; one
// engine is used from one thread, progress() excepted.

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/batcher.h"
#include "backend/device.h"
#include "net/port.h"
#include "net/simulated_ports.h"
#include "io/file_system.h"
#include "plan/planner.h"
#include "schedule/executor.h"

namespace flexgen {

class Engine;

struct EngineOptions {
  std::string model_directory;
  std::vector<std::string> ignored_config_fields;  ///< as load_config() takes them
  /// "cpu", "reference", "cuda"; for tests "emulated-gpu", "emulated-gpu-reference" and "emulated-gpu-cuda": a GPU played by RAM (backend/emulated/).
  std::string backend = "cpu";
  std::string compute_dtype = "auto";  ///< "auto", "bf16", "f32": arithmetic of the cpu backend
  std::string weight_dtype = "auto";     ///< "auto" (the checkpoint's), "bf16", "fp16", "int8", "int4": matrices are prepared in disk_directory
  std::string weight_quantization = "auto";  ///< of int8 and int4 weights: "minmax", "mse" (GroupRange), "auto" (mse for int4, minmax for int8)
  std::string matmul_dtype = "auto";     ///< "auto" (the arithmetic's), "int8": products with quantized weights in integers; needs an int8 or int4 weight_dtype
  std::function<void(int64_t, int64_t)> prepare_progress;  ///< (bytes done, in all) while weights are prepared; may be empty
  std::string kv_cache_dtype = "auto";  ///< "auto" (the arithmetic's), "bf16", "int8", "int4"
  std::string kv_cache_rotation = "none";  ///< "none", "hadamard" (keys)
  double attention_sparsity = 1;    ///< share of positions whose values a generated token uses, in (0, 1]; 1: all
  int threads = 0;                  ///< 0: all cores
  Budgets budgets;
  std::string disk_directory;       ///< for spill files; empty: none
  std::string kept_directory;       ///< where matrices that a checkpoint holds transposed are kept once they are turned, if there is no disk_directory; may not exist yet
  double disk_bytes_per_s = 0;      ///< what the job's disk lanes may move together; 0: all that the disk gives
  PolicyRequest policy;
  std::string planner = "search";   ///< "search" or "first-rule"
  std::string expert_statistics_file;  ///< of a mixture: what is counted there says which experts are chosen most often, and each run adds its own counts; empty: none
  std::optional<double> expert_skew;   ///< of a mixture with dummy weights: experts are drawn by ExpertChances::zipf(), and none is chosen
  std::string trace_file;           ///< empty: none
  Trace::Process trace_process{1, "flexgen", 0};  ///< this process in a trace of several
  StageLink stages;                 ///< the pipeline that this engine is a stage of; all its engines take the same steps together
  std::string stage_split;          ///< "10:22": blocks of each stage; empty: by the stages' budgets and speeds
  /// With several stages: calls set_hardware() of the engine, which splits the layers by it. Empty: speeds are assumed.
  std::function<void(Engine&)> learn_hardware;
  bool load_tokenizer = true;
  bool needs_tokenizer = true;      ///< false: a folder that has no tokenizer files is as good, for prompts of token ids
  FileSystem* files = nullptr;      ///< null: the real one
};

struct LaneReport {
  std::string name;
  LaneStats stats;
};

struct Progress {
  int64_t sequences_done = 0, sequences_total = 0;
  int64_t sequences_before = 0;  ///< done by earlier runs of the same job, and in none of the other figures
  int64_t prompt_tokens_done = 0, generated_tokens_done = 0;
  double prompt_tokens_total = 0, generated_tokens_total = 0;  ///< the latter as it is expected by now
  double elapsed_s = 0;
  std::vector<LaneReport> lanes;
};

struct RunReport {
  double elapsed_s = 0;          ///< of run(), the loading of resident weights included
  int64_t sequences = 0, prompt_tokens = 0, generated_tokens = 0;
  int64_t shared_prompt_tokens = 0;  ///< of prompt_tokens: not computed, as other sequences had them in the cache
  bool stopped = false;          ///< ended by the stop flag before all was done
  WorkDone work;
  std::vector<LaneReport> lanes;
};

/// The arithmetic of a run, and the type of its cache, as the options' names and the model's weights give them. Throws Error{user} for unknown names.
DType compute_dtype_of(const EngineOptions& options, const Model& model, const Device* device = nullptr);
DType kv_dtype_of(const std::string& name, DType compute_dtype);
/// The type that the matrices are to have; nothing if they are to be used as they are.
std::optional<DType> weight_dtype_of(const EngineOptions& options);
/// The arithmetic and the types of a run, whether its weights are prepared already or not.
Precision precision_of(const EngineOptions& options, const Model& model, const Device* device = nullptr);

class Engine {
 public:
  /// Opens model and tokenizer. Throws Error{user}. With several stages all must be constructed at the same time, and each keeps its own layers.
  explicit Engine(EngineOptions options);
  ~Engine();

  const Model& model() const { return *model_; }
  /// The checkpoint's own, also where weights are read from others.
  const std::vector<std::string>& checkpoint_files() const { return checkpoint_files_; }
  /// Null where there is none.
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  DType compute_dtype() const { return compute_dtype_; }
  DType kv_dtype() const { return kv_dtype_; }
  int threads() const { return options_.threads; }  ///< that it may use; 0: all cores
  GroupRange weight_range() const { return weight_range_; }  ///< of weights that are quantized

  /// What the planner knows of this machine; HardwareProfile::generic() if it is never said. Before prepare(); with several stages while they are constructed.
  void set_hardware(const HardwareProfile& hardware) { hardware_ = hardware; }
  const HardwareProfile& hardware() const { return hardware_; }
  /// Where attention runs beside a device, as asked for; nothing if the plan chooses. Set it before prepare().
  std::optional<Tier> attention_tier() const { return options_.policy.attention_tier; }
  void set_attention_tier(Tier tier) { options_.policy.attention_tier = tier; }
  /// Whether prepare() searches for a policy, so that the profile matters.
  bool plans() const { return options_.planner == "search"; }
  /// What visits compute in and on, as profiles and cost models call it.
  Precision precision() const;
  /// Chooses the policy and takes all memory and disk. Throws Error{user} with the smallest budget that would do.
  /// First stage: all stages prepare (each with its own budgets), or none does.
  void prepare(const Workload& workload);
  const Policy& policy() const { return policy_; }
  const Plan& plan() const { return plan_; }
  const Workload& workload() const { return workload_; }
  /// From each stage to the next, and from the last to the first; none with one stage.
  const std::vector<LinkSpeed>& links() const { return links_; }
  const MemoryPlan& memory() const { return memory_; }
  /// Of the tier that computes.
  Kernels& kernels() { return *kernels_; }
  /// What the processor beside a device computes in and on, or the processor alone.
  Precision processor_precision() const;
  /// Null where the CPU computes.
  Device* device() const { return device_.get(); }
  Lanes& lanes() { return lanes_; }
  WeightStore& weights() { return *weights_; }

  /// Serves every request of the source; while an open one has none, it sleeps. `stop` ends the run after the step under way (an open source must be closed too). After prepare().
  /// First stage: with all others.
  RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop);
  /// Later stages: does what the first stage's prepare() and run() ask for, until it calls dismiss(). The report is of the last run.
  RunReport follow();
  /// First stage, once at the end: the later stages' follow() returns. Nothing with one stage.
  void dismiss();
  /// Blocks of the model before this stage's, and its own.
  std::pair<int64_t, int64_t> blocks() const { return {model_->blocks_before(), model_->num_blocks()}; }
  /// How far run() is; from any thread while it runs.
  Progress progress() const;

 private:
  void keep_own_layers();
  void prepare_stage(const Workload& workload);
  Plan staged_plan() const;
  RunReport run_steps(StepSource& source, const std::atomic<bool>& stop);
  void keep_counts(const ExpertCounts& counts) const;
  std::vector<LaneReport> lane_reports() const;
  void open_device();
  /// Makes the matrices anew: all in this type, or those alone that the checkpoint holds transposed.
  void prepare_weights(std::optional<DType> dtype);

  EngineOptions options_;
  FileSystem real_files_;
  FileSystem* files_;
  std::unique_ptr<Model> model_, whole_model_;  // whole_model_: with several stages, for planning
  std::vector<LinkSpeed> links_;                // between them
  std::vector<std::string> checkpoint_files_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Device> device_;          // before all that it made
  std::unique_ptr<Kernels> kernels_, cpu_kernels_;  // cpu_kernels_: of the processor beside a device
  DType compute_dtype_ = DType::kBF16, kv_dtype_ = DType::kBF16;
  GroupRange weight_range_ = GroupRange::kMinMax;
  Workload workload_;
  HardwareProfile hardware_ = HardwareProfile::generic();
  Plan plan_;
  Policy policy_;
  MemoryPlan memory_;
  std::unique_ptr<Trace> trace_;
  std::unique_ptr<Arena> arena_, gpu_arena_;   // outlive the lanes that write into them
  std::shared_ptr<void> pinned_;   // unlocks the RAM that the device copies from and to, when the lanes are gone
  Lanes lanes_;
  std::unique_ptr<WeightStore> weights_;
  std::unique_ptr<FileWatch> watch_;  // the files that weights are read from
  std::unique_ptr<CacheStore> cache_;
  std::unique_ptr<HiddenStore> hidden_;
  std::unique_ptr<Exchange> exchange_;
  std::span<std::byte> scratch_;
  std::span<float> logit_store_;
  std::chrono::steady_clock::time_point start_{};
  mutable std::mutex running_mutex_;
  const Batcher* running_ = nullptr;  ///< of the run() under way, for progress()
  bool following_ = false;            ///< a run is under way on a later stage
};

}  // namespace flexgen
