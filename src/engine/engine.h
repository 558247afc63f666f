#pragma once
// Engine: the facade. A checkpoint, budgets and a job in; completions out. Two engines may live in one process; one
// engine is used from one thread, progress() excepted.

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/batcher.h"
#include "io/file_system.h"
#include "plan/first_rule.h"
#include "schedule/executor.h"

namespace flexgen {

struct EngineOptions {
  std::string model_directory;
  std::string backend = "cpu";      ///< "cpu" or "reference"
  std::string compute_dtype = "auto";  ///< "auto", "bf16", "f32": arithmetic of the cpu backend
  std::string weight_dtype = "auto";     ///< "auto" (the checkpoint's), "bf16", "fp16", "int8", "int4": matrices are prepared in disk_directory
  std::string matmul_dtype = "auto";     ///< "auto" (the arithmetic's), "int8": products with quantized weights in integers; needs an int8 or int4 weight_dtype
  std::function<void(int64_t, int64_t)> prepare_progress;  ///< (bytes done, in all) while weights are prepared; may be empty
  std::string kv_cache_dtype = "auto";  ///< "auto" (the arithmetic's), "bf16", "int8", "int4"
  std::string kv_cache_rotation = "none";  ///< "none", "hadamard" (keys)
  double attention_sparsity = 1;    ///< share of positions whose values a generated token uses, in (0, 1]; 1: all
  int threads = 0;                  ///< 0: all cores
  Budgets budgets;
  std::string disk_directory;       ///< for spill files; empty: none
  PolicyRequest policy;
  std::string trace_file;           ///< empty: none
  bool load_tokenizer = true;
  FileSystem* files = nullptr;      ///< null: the real one
};

struct LaneReport {
  std::string name;
  LaneStats stats;
};

struct Progress {
  int64_t sequences_done = 0, sequences_total = 0;
  int64_t prompt_tokens_done = 0, generated_tokens_done = 0;
  double prompt_tokens_total = 0, generated_tokens_total = 0;
  double elapsed_s = 0;
  std::vector<LaneReport> lanes;
};

struct RunReport {
  double elapsed_s = 0;          ///< of run(), the loading of resident weights included
  double load_time_s = 0;        ///< of these, until the resident weights were there
  int64_t sequences = 0, prompt_tokens = 0, generated_tokens = 0;
  bool stopped = false;          ///< ended by the stop flag before all was done
  WorkDone work;
  std::vector<LaneReport> lanes;
};

class Engine {
 public:
  /// Opens model and tokenizer. Throws Error{user}.
  explicit Engine(EngineOptions options);
  ~Engine();

  const Model& model() const { return *model_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  DType compute_dtype() const { return compute_dtype_; }
  DType kv_dtype() const { return kv_dtype_; }

  /// Chooses the policy and takes all memory and disk. Throws Error{user} with the smallest budget that would do.
  void prepare(const Workload& workload);
  const Policy& policy() const { return policy_; }
  const MemoryPlan& memory() const { return memory_; }
  Kernels& kernels() { return *kernels_; }
  Lanes& lanes() { return lanes_; }
  WeightStore& weights() { return *weights_; }

  /// Serves every request of the source. `stop` ends the run after the step under way. After prepare().
  RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop);
  /// How far run() is; from any thread while it runs.
  Progress progress() const;

 private:
  std::vector<LaneReport> lane_reports() const;

  EngineOptions options_;
  FileSystem real_files_;
  FileSystem* files_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Kernels> kernels_;
  DType compute_dtype_ = DType::kBF16, kv_dtype_ = DType::kBF16;
  Workload workload_;
  Policy policy_;
  MemoryPlan memory_;
  std::unique_ptr<Trace> trace_;
  std::unique_ptr<Arena> arena_;   // outlives the lanes that write into it
  Lanes lanes_;
  std::unique_ptr<WeightStore> weights_;
  std::unique_ptr<CacheStore> cache_;
  std::unique_ptr<HiddenStore> hidden_;
  std::span<std::byte> scratch_;
  std::span<float> logit_store_;
  std::chrono::steady_clock::time_point start_{};
  mutable std::mutex running_mutex_;
  const Batcher* running_ = nullptr;  ///< of the run() under way, for progress()
};

}  // namespace flexgen
