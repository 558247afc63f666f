#include "engine/engine.h"

#include <algorithm>
#include <optional>

#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "model/prepared_weights.h"

namespace flexgen {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

DType choose_compute_dtype(const EngineOptions& options, const Model& model) {
  if (options.backend == "reference") return DType::kF32;
  if (options.compute_dtype == "bf16") return DType::kBF16;
  if (options.compute_dtype == "f32") return DType::kF32;
  // The checkpoint's precision class: 16 bits in, fp32 accumulated; fp32 stays fp32.
  bool wide = model.weights().front().dtype == DType::kF32;
  return !wide && cpu_has_bf16() ? DType::kBF16 : DType::kF32;
}

DType choose_kv_dtype(const std::string& name, DType compute_dtype) {
  if (name == "auto") return compute_dtype;
  for (DType dtype : {DType::kBF16, DType::kInt8, DType::kInt4})
    if (name == dtype_name(dtype)) return dtype;
  fail_user("--kv-cache-dtype {}: auto, bf16, int8 or int4", name);
}

/// Nothing if the weights are to be used as they are.
std::optional<DType> choose_weight_dtype(const EngineOptions& options) {
  if (options.weight_dtype == "auto") return std::nullopt;
  const std::pair<const char*, DType> known[] = {{"bf16", DType::kBF16}, {"fp16", DType::kF16}, {"int8", DType::kInt8}, {"int4", DType::kInt4}};
  for (auto [name, dtype] : known)
    if (options.weight_dtype == name) return dtype;
  fail_user("--weight-dtype {}: auto, bf16, fp16, int8 or int4", options.weight_dtype);
}

/// Whether every matrix has this type already.
bool has_dtype(const Model& model, DType dtype) {
  return std::all_of(model.weights().begin(), model.weights().end(), [&](const WeightSpec& weight) { return weight.always_resident || weight.dtype == dtype; });
}

std::unique_ptr<Kernels> make_kernels(const EngineOptions& options, DType dtype) {
  const bool int8_products = options.matmul_dtype == "int8";
  if (!int8_products && options.matmul_dtype != "auto") fail_user("--matmul-dtype {}: auto or int8", options.matmul_dtype);
  if (int8_products && options.weight_dtype != "int4" && options.weight_dtype != "int8")
    fail_user("--matmul-dtype int8: only int4 and int8 weights are multiplied in integers; add --weight-dtype int4 or int8");
  if (options.backend == "reference") return make_reference_kernels(int8_products);
  if (options.backend == "cpu") return make_cpu_kernels({options.threads, dtype, int8_products});
  fail_user("--backend {}: this build has 'cpu' and 'reference'", options.backend);
}

/// A preallocated file; `what` is for messages.
std::shared_ptr<File> spill_file(FileSystem& files, const std::string& directory, const char* what, int64_t bytes) {
  if (bytes == 0) return nullptr;
  std::string path = fmt::format("{}/flexgen-{}-{}.spill", directory, what, getpid());
  std::shared_ptr<File> file = files.open(path, FileMode::kSpill);
  file->preallocate(bytes);
  return file;
}

}  // namespace

Engine::Engine(EngineOptions options)
    : options_(std::move(options)), files_(options_.files ? options_.files : &real_files_) {
  model_ = Model::load(options_.model_directory);
  if (options_.load_tokenizer) tokenizer_ = Tokenizer::load(options_.model_directory);
  compute_dtype_ = choose_compute_dtype(options_, *model_);
  kernels_ = make_kernels(options_, compute_dtype_);
  if (std::optional<DType> dtype = choose_weight_dtype(options_); dtype && !has_dtype(*model_, *dtype)) {
    if (options_.disk_directory.empty())
      fail_user("--weight-dtype {}: the weights are made once and kept on disk; say where with --disk-dir", options_.weight_dtype);
    PrepareOptions prepare{*dtype, options_.disk_directory, options_.budgets.cpu_bytes, options_.prepare_progress};
    use_prepared_weights(*model_, *kernels_, *files_, prepare);
  }
  if (!(options_.attention_sparsity > 0 && options_.attention_sparsity <= 1))
    fail_user("--attention-sparsity {}: give a share above 0 and up to 1", options_.attention_sparsity);
  if (options_.kv_cache_rotation == "hadamard") model_->rotate_keys();
  else if (options_.kv_cache_rotation != "none") fail_user("--kv-cache-rotation {}: none or hadamard", options_.kv_cache_rotation);
  model_->set_attention_sparsity(options_.attention_sparsity);
  kv_dtype_ = choose_kv_dtype(options_.kv_cache_dtype, compute_dtype_);
}

Engine::~Engine() = default;

void Engine::prepare(const Workload& workload) {
  workload_ = workload;
  policy_ = choose_policy(*model_, workload, options_.budgets, options_.policy, kv_dtype_);
  memory_ = memory_plan(*model_, policy_, workload, kv_dtype_);
  CacheLayout cache(*model_, policy_, kv_dtype_);
  HiddenLayout hidden(*model_, policy_);
  std::shared_ptr<File> cache_file = spill_file(*files_, options_.disk_directory, "cache", cache.file_bytes());
  std::shared_ptr<File> hidden_file = spill_file(*files_, options_.disk_directory, "activations", hidden.file_bytes());

  if (!options_.trace_file.empty()) trace_ = std::make_unique<Trace>(options_.trace_file);
  arena_ = std::make_unique<Arena>(memory_.bytes(Tier::kCpu));
  const Arenas arenas{arena_.get(), nullptr};
  AsyncDiskOptions disk;
  lanes_.compute = std::make_unique<ThreadLane>("compute", trace_.get());
  lanes_.disk_read = std::make_unique<DiskLane>("disk read", trace_.get(), disk);
  lanes_.disk_lookup = std::make_unique<DiskLane>("disk lookup", trace_.get(), disk);
  lanes_.disk_write = std::make_unique<DiskLane>("disk write", trace_.get(), disk);

  weights_ = std::make_unique<WeightStore>(*model_, policy_, *files_, arenas, lanes_);
  cache_ = std::make_unique<CacheStore>(*model_, policy_, kv_dtype_, cache_file, arenas, lanes_);
  hidden_ = std::make_unique<HiddenStore>(*model_, policy_, hidden_file, arenas, lanes_);
  scratch_ = arena_->allocate(model_->scratch_bytes(policy_.max_rows, policy_.max_logit_rows));
  std::span<std::byte> logits = arena_->allocate(logit_store_bytes(*model_, policy_, workload));
  logit_store_ = {reinterpret_cast<float*>(logits.data()), logits.size() / sizeof(float)};
  FLEXGEN_CHECK(arena_->used() == arena_->capacity(), "planned {} bytes, took {}", arena_->capacity(), arena_->used());
}

RunReport Engine::run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) {
  FLEXGEN_CHECK(arena_ != nullptr, "run() before prepare()");
  start_ = std::chrono::steady_clock::now();
  Batcher batcher(*model_, policy_, cache_->layout(), tokenizer_.get(), logit_store_, source, sink);
  // progress() may be reading the batcher: it goes only after everyone has let go of it.
  auto show = [&](const Batcher* shown) {
    std::lock_guard lock(running_mutex_);
    running_ = shown;
  };
  show(&batcher);
  Executor executor(*model_, policy_, *kernels_, lanes_, *weights_, *cache_, *hidden_, scratch_);
  RunReport report;
  try {
    weights_->wait_resident();
    report.load_time_s = seconds_since(start_);
    executor.run(batcher, stop);
    batcher.settle();
  } catch (...) {
    show(nullptr);
    throw;
  }
  show(nullptr);
  report.elapsed_s = seconds_since(start_);
  report.sequences = batcher.counters().sequences;
  report.prompt_tokens = batcher.counters().prompt_tokens;
  report.generated_tokens = batcher.counters().generated_tokens;
  report.stopped = !batcher.finished();
  report.work = executor.work_done();
  report.lanes = lane_reports();
  return report;
}

std::vector<LaneReport> Engine::lane_reports() const {
  std::vector<LaneReport> reports;
  for (const Lane* lane : lanes_.all()) reports.push_back({lane->name(), lane->stats()});
  return reports;
}

Progress Engine::progress() const {
  Progress progress;
  std::lock_guard lock(running_mutex_);
  const Batcher* batcher = running_;
  if (!batcher) return progress;
  progress.sequences_total = workload_.num_sequences;
  progress.prompt_tokens_total = workload_.total_prompt_tokens;
  progress.generated_tokens_total = workload_.total_generated_tokens;
  progress.sequences_done = batcher->counters().sequences;
  progress.prompt_tokens_done = batcher->counters().prompt_tokens;
  progress.generated_tokens_done = batcher->counters().generated_tokens;
  progress.elapsed_s = seconds_since(start_);
  progress.lanes = lane_reports();
  return progress;
}

}  // namespace flexgen
