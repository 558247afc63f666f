#include "engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "backend/backends.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "engine/device_budget.h"
#include "engine/end_tokens.h"
#include "engine/expert_statistics.h"
#include "engine/watched_sink.h"
#include "engine/watched_steps.h"
#include "io/spill_file.h"
#include "model/prepared_weights.h"
#include "net/measure_link.h"
#include "net/network_lane.h"
#include "pipeline/agree_on_split.h"
#include "pipeline/stage_commands.h"
#include "pipeline/stage_plan.h"
#include "pipeline/stage_steps.h"
#include "plan/placed_kinds.h"
#include "schedule/cache_store.h"

namespace flexgen {
namespace {

/// What is assumed of a GPU that the profile does not tell of.
constexpr double kAssumedGpuFlops = 4e13, kAssumedGpuBytes = 3e11;
/// How stages are compared before the job is known: by visits of so many rows, with weights in this share of a budget, as the cache wants the rest.
constexpr double kSplitRows = 128, kWeightShare = 0.5;
/// What the first rule takes a core for, and rows.
constexpr double kAssumedThreadFlops = 2e11, kAssumedRows = 256;

DeviceShare device_share_of(const EngineOptions& options) {
  const Backend& backend = find_backend(options.backend);
  return backend.count_devices && options.device_seat.of > 1 ? share_of_devices(options.device_seat, backend.count_devices()) : DeviceShare{};
}

/// Null where the CPU computes.
std::unique_ptr<Device> make_device(const EngineOptions& options, int ordinal) {
  const int64_t asked = options.budgets.gpu_bytes;
  if (const Backend& backend = find_backend(options.backend); backend.make_device) return backend.make_device(options.threads, asked, ordinal);
  if (asked > 0)
    fail_user("--gpu-memory {}: the backend '{}' computes on the processor; leave it out, or give --backend cuda", format_bytes(asked), options.backend);
  if (options.policy.attention_tier) fail_user("--attention-on: the backend '{}' computes on the processor alone; leave it out", options.backend);
  for (const PlacedKind& kind : kPlacedKinds)
    if (const auto& shares = options.policy.*kind.asked; shares && shares->gpu > 0)
      fail_user("a share in GPU memory ({}) needs a GPU that computes: --backend cuda", shares->to_string());
  return nullptr;
}

std::unique_ptr<Kernels> make_kernels(const EngineOptions& options, const Model& model, DType dtype) {
  const bool int8_products = options.matmul_dtype == "int8";
  if (!int8_products && options.matmul_dtype != "auto") fail_user("--matmul-dtype {}: auto or int8", options.matmul_dtype);
  check_matmul_dtype(options, model);
  return find_backend(options.backend).make_processor_kernels({options.threads, dtype, int8_products});
}

/// Of the processor beside a device: what it attends with, and quantizes weights.
std::unique_ptr<Kernels> make_kernels_beside(const EngineOptions& options, DType device_dtype) {
  const bool bf16 = device_dtype == DType::kBF16 && cpu_has_bf16();
  return find_backend(options.backend).make_processor_kernels({options.threads, bf16 ? DType::kBF16 : DType::kF32});
}

/// A profile that tells nothing of the GPU there is gets assumed speeds.
void assume_gpu(const Device* device, HardwareProfile& hardware) {
  if (device && !hardware.gpu) hardware.gpu = gpu_of(kAssumedGpuFlops, kAssumedGpuBytes);
}

/// Planners keep to the budgets; what is allocated is planned here once more.
void check_within(const MemoryPlan& memory, const Budgets& budgets) {
  const int64_t gpu = memory.bytes(Tier::kGpu), cpu = memory.bytes(Tier::kCpu), disk = memory.bytes(Tier::kDisk);
  FLEXGEN_CHECK(gpu <= budgets.gpu_plan_bytes() && cpu <= budgets.cpu_bytes && disk <= budgets.disk_bytes,
                "planned {}, {} and {} bytes of GPU, RAM and disk, where {}, {} and {} are given", gpu, cpu, disk, budgets.gpu_plan_bytes(), budgets.cpu_bytes,
                budgets.disk_bytes);
}

}  // namespace

Engine::Engine(EngineOptions options) : options_(std::move(options)), files_(options_.files ? options_.files : &real_files_) {
  model_ = Model::load(options_.model_directory, options_.ignored_config_fields);
  checkpoint_files_ = model_->files();
  if (options_.load_tokenizer && (options_.needs_tokenizer || has_tokenizer_files(options_.model_directory)))
    tokenizer_ = Tokenizer::load(options_.model_directory);
  end_by_tokenizer();
  const DeviceShare device_share = device_share_of(options_);
  device_ = make_device(options_, device_share.ordinal);
  learn_expert_chances(options_, *model_, true);
  compute_dtype_ = compute_dtype_of(options_, *model_, device_.get());
  kv_dtype_ = kv_dtype_of(options_.kv_cache_dtype, compute_dtype_);
  if (device_) open_device(device_share.sharers);
  else kernels_ = make_kernels(options_, *model_, compute_dtype_);
  if (options_.stages.num_stages() > 1) keep_own_layers();
  weight_range_ = weight_range_of(options_);
  const std::optional<DType> made = dtype_to_make(options_, *model_);
  if (made || has_turned_weights(*model_)) prepare_weights(made);
  look_at_disk_again();
  if (!(options_.attention_sparsity > 0 && options_.attention_sparsity <= 1))
    fail_user("--attention-sparsity {}: give a share above 0 and up to 1", options_.attention_sparsity);
  if (options_.kv_cache_rotation == "hadamard") model_->rotate_keys();
  else if (options_.kv_cache_rotation != "none") fail_user("--kv-cache-rotation {}: none or hadamard", options_.kv_cache_rotation);
  model_->set_attention_sparsity(options_.attention_sparsity);
  if (whole_model_) whole_model_->set_attention_sparsity(options_.attention_sparsity);
}

Engine::~Engine() = default;

void Engine::end_by_tokenizer() {
  const ModelConfig& config = model_->config();
  const std::optional<int32_t> end = end_of_tokenizer(options_.model_directory, config, tokenizer_.get());
  if (!end) return;
  spdlog::info("{}: the tokenizer's end token, {} ({}), ends answers too; {}", options_.model_directory, tokenizer_->token_text(*end), *end,
               config.eos.empty() ? "no file of the model names one" : "config.json and generation_config.json name others");
  model_->add_end(*end);
}

void Engine::prepare_weights(std::optional<DType> dtype) {
  if (dtype && options_.disk_directory.empty())
    fail_user("--weight-dtype {}: the weights are made once and kept on disk; say where with --disk-dir", options_.weight_dtype);
  const std::string& directory = options_.disk_directory.empty() ? options_.kept_directory : options_.disk_directory;
  if (directory.empty())
    fail_user("{}: its files hold matrices transposed, which are turned once and kept on disk; say where with --disk-dir", options_.model_directory);
  try {
    use_prepared_weights(*model_, device_ ? *cpu_kernels_ : *kernels_, *files_,
                         {dtype, weight_range_, directory, options_.budgets.cpu_bytes, options_.prepare_progress});
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kIo || !options_.disk_directory.empty() || ::access(directory.c_str(), W_OK | X_OK) == 0) throw;
    fail_io("{}; {} holds matrices transposed, which are turned once and kept: say where with --disk-dir or FLEXGEN_CACHE_DIR", error.what(),
            options_.model_directory);
  }
  if (whole_model_) imagine_prepared_weights(*whole_model_, dtype);
}

void Engine::look_at_disk_again() {
  // Stages of one machine have a disk in common: all have written theirs by then, and none has a spill file before all have looked.
  if (options_.stages.num_stages() > 1) all_gather(*options_.stages.port, "");
  if (options_.usual_disk_bytes) options_.budgets.disk_bytes = std::min(options_.budgets.disk_bytes, options_.usual_disk_bytes());
}

void Engine::open_device(int sharers) {
  if (options_.matmul_dtype != "auto") fail_user("--matmul-dtype {}: products in integers are for the cpu backend; leave it out", options_.matmul_dtype);
  kernels_ = device_->make_kernels(compute_dtype_);
  cpu_kernels_ = make_kernels_beside(options_, compute_dtype_);
  // The kernels have taken theirs by now.
  options_.budgets.gpu_kernel_bytes = device_->kernel_bytes();
  options_.budgets.gpu_bytes = device_budget(
      options_.budgets.gpu_bytes, {device_->name(), device_->total_bytes(), device_->free_bytes(), device_->kernel_bytes(), device_->margin_bytes(), sharers});
}

Precision Engine::precision() const { return precision_of(options_, *model_, compute_dtype_); }

Precision Engine::processor_precision() const {
  Precision precision = this->precision();
  // A GPU may compute in fp16, which no processor here multiplies.
  if (cpu_kernels_) precision.compute = cpu_kernels_->act_dtype();
  return precision;
}

std::map<std::string, std::string> Engine::arithmetic() const {
  std::map<std::string, std::string> all{{"processor", (cpu_kernels_ ? cpu_kernels_ : kernels_)->arithmetic()}};
  if (device_) all["GPU"] = device_->arithmetic();
  std::erase_if(all, [](const auto& entry) { return entry.second.empty(); });
  return all;
}

void Engine::keep_own_layers() {
  Port& port = *options_.stages.port;
  whole_model_ = std::make_unique<Model>(*model_);
  if (options_.learn_hardware) options_.learn_hardware(*this);
  assume_gpu(device_.get(), hardware_);
  const Precision precision = this->precision();
  StageResources mine{options_.budgets.cpu_bytes + options_.budgets.gpu_bytes};
  const bool search = options_.planner == "search";
  if (search) {
    mine.cpu_bytes = static_cast<int64_t>(kWeightShare * static_cast<double>(mine.cpu_bytes));
    mine.flops_per_s = 1 / (device_ ? *hardware_.gpu : hardware_.cpu).matmul_s(precision.compute, precision.weights, precision.width, kSplitRows, 1);
    mine.disk_bytes_per_s = hardware_.disk.read_bytes_per_s;
  } else {
    mine.flops_per_s =
        kAssumedThreadFlops * static_cast<double>(options_.threads > 0 ? static_cast<unsigned>(options_.threads) : std::thread::hardware_concurrency());
  }
  const SplitAgreement agreed =
      agree_on_split(port, *model_, {mine, compute_dtype_, options_.planner, options_.stage_split, search ? kSplitRows : kAssumedRows});
  // Stages of one machine share its disk.
  for (double* speed : {&hardware_.disk.read_bytes_per_s, &hardware_.disk.write_bytes_per_s, &hardware_.disk.short_read_bytes_per_s})
    *speed /= agreed.disk_sharers;
  hardware_.disk.write_wait_s *= agreed.disk_sharers;
  const std::vector<int64_t>& split = agreed.blocks;
  int64_t first = 0;
  for (int rank = 0; rank < port.rank(); ++rank) first += split[static_cast<size_t>(rank)];
  model_->keep_blocks(first, split[static_cast<size_t>(port.rank())]);
  // The first rule measures nothing.
  links_ = search ? measure_links(port) : std::vector(split.size(), LinkSpeed{hardware_.link_bytes_per_s, hardware_.link_s});
}

Plan Engine::staged_plan() const {
  return plan_stages(
      {options_.stages, *model_, *whole_model_, workload_, options_.budgets, options_.policy, precision(), hardware_, links_, options_.planner == "search"});
}

void Engine::prepare(const Workload& workload) {
  FLEXGEN_CHECK(options_.stages.is_first(), "the first stage prepares all");
  if (arena_) fail_user("Engine::prepare(): an engine is prepared once; make another engine for another job");
  const Workload paged = workload.in_pages(CacheLayout::page_tokens(*model_, kv_dtype_));
  command_stages(options_.stages, StageCommand::kPrepare, paged);
  prepare_stage(paged);
}

void Engine::dismiss() { command_stages(options_.stages, StageCommand::kDismiss); }

RunReport Engine::follow() {
  FLEXGEN_CHECK(!options_.stages.is_first());
  RunReport report;
  for (;;) {
    const auto [command, workload] = next_command(options_.stages);
    if (command == StageCommand::kDismiss) return report;
    if (command == StageCommand::kPrepare) {
      prepare_stage(workload);
      continue;
    }
    start_ = std::chrono::steady_clock::now();
    FollowSteps steps(options_.stages, policy_.num_micro_batches, model_->config().vocab_size, logit_store_, [this] { watch_->check_bytes(); });
    {
      std::lock_guard lock(running_mutex_);
      following_ = true;
    }
    report = run_steps(steps, std::atomic<bool>{false});
    std::lock_guard lock(running_mutex_);
    following_ = false;
  }
}

void Engine::prepare_stage(const Workload& workload) {
  workload_ = workload;
  if (options_.planner != "search" && options_.planner != "first-rule") fail_user("--planner {}: search or first-rule", options_.planner);
  assume_gpu(device_.get(), hardware_);
  if (options_.stages.num_stages() > 1) {
    plan_ = staged_plan();
  } else {
    const PlanInput input{*model_, workload, options_.budgets, options_.policy, precision().compute, kv_dtype_, hardware_};
    plan_ = options_.planner == "search" ? make_plan(input) : plan_by_first_rule(input);
    spdlog::debug("planned in {:.2f} s of processor time, {} policies looked at", plan_.planning_s, plan_.candidates.size());
  }
  policy_ = plan_.policy;
  memory_ = memory_plan(*model_, policy_, workload, kv_dtype_);
  check_within(memory_, options_.budgets);
  SpillFiles spills =
      spill_files(*model_, policy_, kv_dtype_, [this](const char* name, int64_t bytes) { return spill_file(*files_, options_.disk_directory, name, bytes); });

  if (!options_.trace_file.empty()) trace_ = std::make_unique<Trace>(options_.trace_file, options_.trace_process);
  arena_ = std::make_unique<Arena>(memory_.arena_bytes(Tier::kCpu));
  if (device_) {
    const int64_t bytes = memory_.bytes(Tier::kGpu);
    gpu_arena_ = std::make_unique<Arena>(std::span(device_->allocate(bytes), static_cast<size_t>(bytes)));
    device_->pin(arena_->memory());
    pinned_ = std::shared_ptr<void>(nullptr, [device = device_.get(), memory = arena_->memory()](void*) { device->unpin(memory); });
    lanes_.compute = device_->make_compute_lane(lane_name(LaneKind::kCompute), trace_.get());
    lanes_.h2d = device_->make_copy_lane(lane_name(LaneKind::kH2d), trace_.get());
    lanes_.h2d_small = device_->make_copy_lane(lane_name(LaneKind::kH2dSmall), trace_.get());
    lanes_.d2h = device_->make_copy_lane(lane_name(LaneKind::kD2h), trace_.get());
    lanes_.cpu = std::make_unique<ThreadLane>(lane_name(LaneKind::kCpu), trace_.get());
  } else {
    lanes_.compute = std::make_unique<ThreadLane>(lane_name(LaneKind::kCompute), trace_.get());
  }
  const Arenas arenas{arena_.get(), gpu_arena_.get()};
  AsyncDiskOptions disk;
  if (options_.disk_bytes_per_s > 0) disk.pacer = std::make_shared<Pacer>(options_.disk_bytes_per_s);
  lanes_.disk_read = std::make_unique<DiskLane>(lane_name(LaneKind::kDiskRead), trace_.get(),
                                                (spills.cache || spills.hidden) && hardware_.disk.leaves_room_for_writes() ? disk.beside_writes() : disk);
  lanes_.disk_lookup = std::make_unique<DiskLane>(lane_name(LaneKind::kDiskLookup), trace_.get(), disk);
  lanes_.disk_write = std::make_unique<DiskLane>(lane_name(LaneKind::kDiskWrite), trace_.get(), disk);
  if (options_.stages.num_stages() > 1) {
    lanes_.network_send = std::make_unique<NetworkLane>(lane_name(LaneKind::kNetworkSend), trace_.get(), NetworkLane::Direction::kSend);
    lanes_.network_receive = std::make_unique<NetworkLane>(lane_name(LaneKind::kNetworkReceive), trace_.get(), NetworkLane::Direction::kReceive);
  }

  set_expected_costs(lanes_, *model_, hardware_, precision(), policy_);
  stores_ = std::make_unique<Stores>(*model_, policy_, kv_dtype_, StoreParts{*files_, std::move(spills), arenas, lanes_, options_.stages});
  watch_ = model_->watch_files(stores_->weights.files());
  scratch_ = arenas.of(policy_.compute_tier).allocate(model_->scratch_bytes(policy_.max_rows, policy_.max_logit_rows));
  std::span<std::byte> logits = arena_->allocate(logit_store_bytes(*model_, policy_, workload));
  logit_store_ = {reinterpret_cast<float*>(logits.data()), logits.size() / sizeof(float)};
  FLEXGEN_CHECK(arena_->used() == arena_->capacity(), "planned {} bytes, took {}", arena_->capacity(), arena_->used());
  if (gpu_arena_)
    FLEXGEN_CHECK(gpu_arena_->used() == gpu_arena_->capacity(), "planned {} bytes of the GPU, took {}", gpu_arena_->capacity(), gpu_arena_->used());
}

void Engine::keep_counts(const ExpertCounts& counts) const {
  try {
    add_expert_counts(options_.expert_statistics_file, model_->config(), counts);
  } catch (const Error& error) {  // answers are more than counts
    spdlog::warn("{}; which experts this run chose is not kept", error.what());
  }
}

RunReport Engine::run_steps(StepSource& source, const std::atomic<bool>& stop) {
  Executor executor(*model_, policy_, *kernels_, lanes_, *stores_, scratch_, cpu_kernels_.get());
  RunReport report;
  ExpertCounts counts;
  if (!options_.expert_statistics_file.empty()) {
    counts = no_counts(*model_);
    executor.count_choices_in(&counts);
  }
  executor.run(source, stop);
  watch_->check_bytes();
  if (!counts.empty()) keep_counts(counts);
  report.elapsed_s = seconds_since(start_);
  report.work = executor.work_done();
  report.lanes = lane_reports();
  return report;
}

RunReport Engine::run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) {
  FLEXGEN_CHECK(arena_ != nullptr, "run() before prepare()");
  if (std::exchange(ran_, true)) fail_user("Engine::run(): an engine runs once; make another engine, or keep the source open for more requests");
  command_stages(options_.stages, StageCommand::kRun);
  start_ = std::chrono::steady_clock::now();
  WatchedSink watched(sink, *watch_);
  Batcher batcher(*model_, policy_, stores_->cache.layout(), tokenizer_.get(), logit_store_, source, watched);
  // progress() may be reading the batcher: it goes only after everyone has let go of it.
  auto show = [&](const Batcher* shown) {
    std::lock_guard lock(running_mutex_);
    running_ = shown;
  };
  show(&batcher);
  RunReport report;
  try {
    if (options_.stages.num_stages() > 1) {
      LeadSteps steps(batcher, options_.stages, stop);
      report = run_steps(steps, std::atomic<bool>{false});
      steps.settle();
    } else if (source.is_open()) {  // what comes is not known, so there is no rest to plan anew
      report = run_steps(batcher, stop);
      batcher.settle();
    } else {
      WatchedSteps steps(batcher, source, *model_, hardware_, precision(), policy_, workload_, lanes_);
      report = run_steps(steps, stop);
      batcher.settle();
    }
  } catch (...) {
    show(nullptr);
    throw;
  }
  show(nullptr);
  report.sequences = batcher.counters().sequences;
  report.prompt_tokens = batcher.counters().prompt_tokens;
  report.shared_prompt_tokens = batcher.counters().shared_prompt_tokens;
  report.generated_tokens = batcher.counters().generated_tokens;
  report.stopped = !batcher.idle();
  if (!report.stopped) watch_->check_names(checkpoint_files_.size());
  return report;
}

std::vector<LaneReport> Engine::lane_reports() const {
  std::vector<LaneReport> reports;
  for (const auto& [kind, lane] : lanes_.all()) reports.push_back({kind, lane->stats()});
  return reports;
}

Progress Engine::progress() const {
  Progress progress;
  std::lock_guard lock(running_mutex_);
  const Batcher* batcher = running_;
  if (following_) {
    progress.elapsed_s = seconds_since(start_);
    progress.lanes = lane_reports();
  }
  if (!batcher) return progress;
  progress.sequences_total = workload_.num_sequences;
  progress.prompt_tokens_total = workload_.total_prompt_tokens;
  progress.sequences_done = batcher->counters().sequences;
  progress.prompt_tokens_done = batcher->counters().prompt_tokens;
  progress.generated_tokens_done = batcher->counters().generated_tokens;
  // As it was planned for, and once enough answers are there, as they are; each one that is not done will have a token more at least.
  const std::optional<double> share = batcher->answer_share();
  progress.generated_tokens_total = std::max(share ? *share * workload_.total_max_tokens : workload_.total_generated_tokens,
                                             static_cast<double>(progress.generated_tokens_done + progress.sequences_total - progress.sequences_done));
  if (const Prediction& expected = plan_.prediction; expected.prompts_s > 0 && workload_.total_generated_tokens > 0)
    progress.prompts_share = expected.prompts_s / expected.time_s;
  progress.elapsed_s = seconds_since(start_);
  progress.lanes = lane_reports();
  return progress;
}

}  // namespace flexgen
