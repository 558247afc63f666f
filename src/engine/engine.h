#pragma once
// Engine: the facade. A checkpoint, budgets and a job in; completions out. Two engines may live in one process; one
// engine is used from one thread, progress() excepted.

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/device.h"
#include "engine/engine_options.h"
#include "engine/run_types.h"
#include "generation/batcher.h"
#include "generation/run_report.h"
#include "io/file_system.h"
#include "net/port.h"
#include "net/simulated_ports.h"
#include "plan/planner.h"
#include "schedule/executor.h"

namespace flexgen {

/// How far a run is.
struct Progress {
  int64_t sequences_done = 0, sequences_total = 0;
  int64_t sequences_before = 0;  ///< done by earlier runs of the same job, and in none of the other figures
  int64_t prompt_tokens_done = 0, generated_tokens_done = 0;
  double prompt_tokens_total = 0, generated_tokens_total = 0;  ///< the latter as it is expected by now
  /// Of the job's time, what its prompts are expected to take; negative: unknown, and a token takes what any other does.
  double prompts_share = -1;
  double elapsed_s = 0;
  std::vector<LaneReport> lanes;
};

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
  int threads() const { return options_.threads; }           ///< that it may use; 0: all cores
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
  /// Once: chooses the policy and takes all memory and disk. Throws Error{user} with the smallest budget that would do, and where it was prepared already: another job takes another engine.
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
  /// What decides how answers are rounded, by what computes: "processor" and, where there is one, "GPU", as Kernels::arithmetic() has it;
  /// nothing of those that round alike everywhere.
  std::map<std::string, std::string> arithmetic() const;
  /// Null where the CPU computes.
  Device* device() const { return device_.get(); }
  /// Of a device's memory what a plan may take: the budget less the kernels' own.
  int64_t gpu_plan_bytes() const { return options_.budgets.gpu_plan_bytes(); }
  Lanes& lanes() { return lanes_; }

  /// Once, as weights are loaded ahead in one order: serves every request of the source; while an open one has none, it sleeps. `stop` ends the run after the step under way (an open source must be closed too). After prepare().
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
  /// end_of_tokenizer() ends answers too.
  void end_by_tokenizer();
  void keep_own_layers();
  void prepare_stage(const Workload& workload);
  Plan staged_plan() const;
  RunReport run_steps(StepSource& source, const std::atomic<bool>& stop);
  void keep_counts(const ExpertCounts& counts) const;
  std::vector<LaneReport> lane_reports() const;
  /// `sharers`: processes of the job that compute on it.
  void open_device(int sharers);
  /// Makes the matrices anew: all in this type, or those alone that the checkpoint holds transposed.
  void prepare_weights(std::optional<DType> dtype);
  /// Prepared weights took of what was free when the budget was set.
  void look_at_disk_again();

  EngineOptions options_;
  FileSystem real_files_;
  FileSystem* files_;
  std::unique_ptr<Model> model_, whole_model_;  // whole_model_: with several stages, for planning
  std::vector<LinkSpeed> links_;                // between them
  std::vector<std::string> checkpoint_files_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Device> device_;                  // before all that it made
  std::unique_ptr<Kernels> kernels_, cpu_kernels_;  // cpu_kernels_: of the processor beside a device
  DType compute_dtype_ = DType::kBF16, kv_dtype_ = DType::kBF16;
  GroupRange weight_range_ = GroupRange::kMinMax;
  Workload workload_;
  HardwareProfile hardware_ = HardwareProfile::generic();
  Plan plan_;
  Policy policy_;
  MemoryPlan memory_;
  std::unique_ptr<Trace> trace_;
  std::unique_ptr<Arena> arena_, gpu_arena_;  // outlive the lanes that write into them
  std::shared_ptr<void> pinned_;              // unlocks the RAM that the device copies from and to, when the lanes are gone
  Lanes lanes_;
  std::unique_ptr<Stores> stores_;
  std::unique_ptr<FileWatch> watch_;  // the files that weights are read from
  std::span<std::byte> scratch_;
  std::span<float> logit_store_;
  std::chrono::steady_clock::time_point start_{};
  mutable std::mutex running_mutex_;
  const Batcher* running_ = nullptr;  ///< of the run() under way, for progress()
  bool following_ = false;            ///< a run is under way on a later stage
  bool ran_ = false;                  ///< run() was called
};

}  // namespace flexgen
