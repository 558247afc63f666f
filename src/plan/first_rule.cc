#include "plan/first_rule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "base/units.h"
#include "plan/expert_loading.h"
#include "plan/policy_sizes.h"
#include "plan/weight_layouts.h"
#include "schedule/cache_store.h"

namespace flexgen {
namespace {

// Rates to rank policies by, of a small machine; the planner will measure its own.
constexpr double kDiskBytesPerSecond = 1.5e9;
constexpr double kFlopsPerSecond = 4e11;
constexpr double kRamBytesPerSecond = 2.5e10;
// And of a GPU beside it.
constexpr double kGpuFlopsPerSecond = 4e13;
constexpr double kGpuBytesPerSecond = 3e11;
constexpr double kBusBytesPerSecond = 1.2e10;
constexpr int64_t kMaxBlock = 1024, kMaxBlockRows = 4096;

/// How many rows a step has: few enough that prompts are spread evenly over the steps, so that each step computes while it reads; or more, where
/// that would be so few that the matrix units suffer.
enum class StepRows { kEven, kMany };

/// Sizes that follow from the number of slots: rows a visit, cache pages.
Policy sized(const Model& model, const Workload& workload, DType kv_dtype, int64_t micro_batch_size, int64_t num_micro_batches, int64_t num_stages, int buffers,
             int64_t most_rows, StepRows step_rows) {
  Policy policy;
  policy.num_groups = num_stages;
  policy.micro_batch_size = micro_batch_size;
  policy.num_micro_batches = num_micro_batches;
  policy.buffers = buffers;
  auto block = static_cast<double>(policy.block_size());
  double total = workload.mean_computed_prompt() + workload.mean_generated();
  // In the steady state every slot gets one generated token a step, and prompts of new sequences come in at the
  // rate at which old ones end.
  double rows = block * total / (workload.mean_generated() + 1) * (step_rows == StepRows::kEven ? 1.02 : 1.15);
  rows = std::clamp<double>(rows, step_rows == StepRows::kEven ? 16 : 256, kMaxBlockRows);
  rows = std::min(rows, std::max(1.0, workload.computed_prompt_tokens() + block));
  int64_t rows_each = std::max(micro_batch_size, static_cast<int64_t>(std::ceil(rows / static_cast<double>(num_micro_batches))));
  policy.max_rows = round_up(rows_each, step_rows == StepRows::kMany && rows_each > 256 ? 256 : 16);
  policy.max_rows = std::min(policy.max_rows, std::max(most_rows, round_up(micro_batch_size, 16)));
  policy = policy_of_sizes(model, workload, kv_dtype, micro_batch_size, num_micro_batches, buffers, policy.max_rows);
  policy.num_groups = num_stages;
  return policy;
}

/// The largest share in [0, 1], in steps of half a percent, for which `fits` holds; -1 if none.
template <typename Fits>
double largest_share(Fits fits) {
  constexpr int kSteps = 200;
  if (fits(1.0)) return 1;
  if (!fits(0.0)) return -1;
  int low = 0, high = kSteps;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    (fits(static_cast<double>(middle) / kSteps) ? low : high) = middle;
  }
  return static_cast<double>(low) / kSteps;
}

/// Rough seconds for the whole job under a policy.
double rough_time_s(const Model& model, const Workload& workload, const Policy& policy, DType kv_dtype, const WeightSums& weights) {
  CacheLayout cache(model, policy, kv_dtype);
  double sequences = static_cast<double>(std::max<int64_t>(1, workload.num_sequences));
  const double prompt_tokens = computed_prompt_tokens(workload, policy);
  double rows = prompt_tokens + workload.total_generated_tokens;
  double waves = std::max(1.0, sequences / static_cast<double>(policy.block_size()));
  double steps = std::max(rows / static_cast<double>(policy.max_rows * policy.num_micro_batches), waves * (workload.mean_generated() + 1));
  double parameters = 0;
  for (const WeightSpec& weight : model.weights()) parameters += static_cast<double>(weight.rows * weight.cols);
  double sequence_bytes = 0;
  for (const CacheLayout::Group& group : cache.groups)
    sequence_bytes += static_cast<double>(group.num_layers) * group.state.bytes(kv_dtype, workload.mean_prompt() + workload.mean_generated() / 2);
  const double kv_bytes = std::min(sequences, static_cast<double>(policy.block_size())) * sequence_bytes;
  const auto bytes_in = [&](CacheLayout::Share share) { return static_cast<double>(cache.share_bytes(share)); };
  const double all_bytes = std::max(1.0, bytes_in(CacheLayout::Share::kResident) + bytes_in(CacheLayout::Share::kHost) + bytes_in(CacheLayout::Share::kDisk));
  const double disk_share = bytes_in(CacheLayout::Share::kDisk) / all_bytes;
  const double bus_share = cache.tier == Tier::kGpu ? 1 - bytes_in(CacheLayout::Share::kResident) / all_bytes : 0;
  const double disk_s = (static_cast<double>(weights.streamed_bytes_per_step * policy.num_groups) + 1.1 * kv_bytes * disk_share) / kDiskBytesPerSecond;
  const double bus_s =
      policy.on_gpu() ? (static_cast<double>(weights.staged_bytes_per_step * policy.num_groups) + kv_bytes * bus_share) / kBusBytesPerSecond : 0;
  const double beside_s = policy.attention_beside() ? kv_bytes / kRamBytesPerSecond : 0;
  // Visits of few rows use the matrix units badly: on a CPU two thirds of their speed at 32 rows, nine tenths at 128.
  const double lost_rows = policy.on_gpu() ? 256 : 16;
  const double flops_per_s = policy.on_gpu() ? kGpuFlopsPerSecond : kFlopsPerSecond;
  const double kv_s = policy.attention_beside() ? 0 : kv_bytes / (policy.on_gpu() ? kGpuBytesPerSecond : kRamBytesPerSecond);
  auto compute_s = [&](double rows_of_step) {
    return 2 * (rows_of_step + lost_rows * static_cast<double>(policy.num_micro_batches)) * parameters / flops_per_s + kv_s;
  };
  // Steps are full while there are prompts, and generate alone in between; a step takes its slower resource's time.
  const double slots = std::min(sequences, static_cast<double>(policy.block_size()));
  const double full_rows = std::min(static_cast<double>(policy.max_rows * policy.num_micro_batches), rows);
  const double full_steps = std::min(steps, prompt_tokens / std::max(1.0, full_rows - slots));
  const double other_rows = std::max(0.0, rows - full_steps * full_rows) / std::max(1.0, steps - full_steps);
  auto step_s = [&](double rows_of_step) {
    double computing_s = compute_s(rows_of_step);
    // The processor attends for one micro-batch while the GPU works on another.
    if (policy.num_micro_batches < 2 || policy.buffers < 2) computing_s += beside_s;
    return std::max({disk_s, bus_s, beside_s, computing_s}) + 0.05 * (disk_s + bus_s + beside_s + computing_s);
  };
  return full_steps * step_s(full_rows) + (steps - full_steps) * step_s(other_rows);
}

std::vector<int64_t> block_candidates(const Workload& workload) {
  int64_t largest = std::clamp<int64_t>(workload.num_sequences, 1, kMaxBlock);
  std::vector<int64_t> sizes{largest};
  for (int64_t size = kMaxBlock; size >= 1; size /= 2)
    if (size < largest) sizes.push_back(size);
  return sizes;
}

}  // namespace

std::vector<Tier> attention_tiers_of(const Budgets& budgets, const PolicyRequest& request) {
  if (budgets.gpu_bytes <= 0) return {Tier::kCpu};
  if (request.attention_tier) return {*request.attention_tier};
  // Beside a GPU, the cache must have no share in its memory.
  if (request.kv_cache && request.kv_cache->gpu > 0) return {Tier::kGpu};
  return {Tier::kGpu, Tier::kCpu};
}

namespace {

/// Goes through blocks, orders of filling memory and buffers, and keeps the policy that is fastest by rough_time_s(). For one search.
class RuleSearch {
 public:
  RuleSearch(const Model& model, const Workload& workload, const Budgets& budgets, const PolicyRequest& request, DType kv_dtype)
      : model_(model), workload_(workload), budgets_(budgets), request_(request), kv_dtype_(kv_dtype), attention_tiers_(attention_tiers_of(budgets, request)),
        layouts_(model) {}

  /// Throws Error{user} with the smallest budget that would do.
  Policy choose() {
    try_until_found();
    // Last resort, and the truth about the smallest budget.
    for (bool with_prefixes : {true, false}) {
      if (best_) break;
      shares_ = with_prefixes;
      try_sizes(request_.micro_batch_size.value_or(1), request_.num_micro_batches.value_or(request_.num_stages), request_.fewest_buffers(), 16);
      if (with_prefixes) try_whole_prompts();
    }
    if (!best_) refuse();
    return *best_;
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

  /// Few rows a visit cost speed and little memory is won, so they come late; and one buffer, with which nothing overlaps, last.
  void try_until_found() {
    const std::vector<int> counts = request_.buffer_counts_in_need();
    const std::span<const int> all(counts), usual = all.first(request_.buffer_counts().size());
    for (std::span<const int> some : {usual, all.subspan(usual.size())})
      for (int64_t most_rows : {kMaxBlockRows, int64_t{64}})
        for (int buffers : some) {
          try_blocks(buffers, most_rows);
          if (best_) return;
        }
  }

  /// Where prefixes leave room for the last resort at the most: blocks whose prompts are computed whole, if they take less time.
  void try_whole_prompts() {
    if (workload_.total_prefix_tokens == 0 || request_.block || (best_ && workload_.total_shared_tokens == 0)) return;
    const Workload whole = workload_.without_sharing();
    RuleSearch search(model_, whole, budgets_, request_, kv_dtype_);
    search.try_until_found();
    if (!search.best_ || (best_ && search.best_time_s_ >= best_time_s_)) return;
    best_ = search.best_;
    best_time_s_ = search.best_time_s_;
  }

  void try_blocks(int buffers, int64_t most_rows) {
    std::vector<int64_t> counts{request_.num_stages, 2 * request_.num_stages, 4 * request_.num_stages};
    if (request_.num_micro_batches) counts = {*request_.num_micro_batches};
    for (int64_t count : counts) {
      if (request_.micro_batch_size || request_.block) {
        try_sizes(request_.micro_batch_size.value_or(1), count, buffers, most_rows);
        continue;
      }
      for (int64_t block : block_candidates(workload_))
        if (block >= count || count == counts.front()) try_sizes(std::max<int64_t>(1, ceil_div(block, count)), count, buffers, most_rows);
    }
  }

  void try_sizes(int64_t micro_batch_size, int64_t num_micro_batches, int buffers, int64_t most_rows) {
    for (StepRows step_rows : {StepRows::kEven, StepRows::kMany}) {
      Policy policy = sized(model_, workload_, kv_dtype_, micro_batch_size, num_micro_batches, request_.num_stages, buffers, most_rows, step_rows);
      if (request_.max_rows) {
        policy = policy_of_sizes(model_, workload_, kv_dtype_, micro_batch_size, num_micro_batches, buffers, *request_.max_rows);
        policy.num_groups = request_.num_stages;
      }
      policy.weight_buffers = request_.weight_buffers.value_or(0);
      try_placements(policy);
    }
  }

  /// Both orders of filling memory: cache first, or weights first.
  void try_placements(Policy policy) {
    const bool on_gpu = budgets_.gpu_bytes > 0;
    const Fractions in_gpu{1, 0, 0}, in_ram{0, 1, 0};
    if (!shares_) policy.prefix_pages = 0;
    if (request_.block) policy.set_block(*request_.block);
    policy.hottest_first = knows_hottest(model_);
    policy.max_choosing_rows = request_.max_choosing_rows.value_or(choosing_rows_by_rule(model_));
    policy.compute_tier = on_gpu ? Tier::kGpu : Tier::kCpu;
    policy.activations = request_.activations.value_or(on_gpu ? in_gpu : in_ram);
    if (place(policy) || request_.max_choosing_rows || policy.max_choosing_rows == 0) return;
    // What is not chosen leaves its checksums in memory: all experts are loaded where there is no room for these.
    policy.max_choosing_rows = 0;
    place(policy);
  }

  /// Whether the policy has room in some place.
  bool place(Policy policy) {
    const Fractions in_ram{0, 1, 0}, on_disk{0, 0, 1};
    bool has_room = false;
    for (Tier attention_tier : attention_tiers_)
      for (bool cache_first : {true, false}) {
        policy.attention_tier = attention_tier;
        policy.weights = request_.weights.value_or(on_disk);
        policy.kv_cache = request_.kv_cache.value_or(budgets_.disk_bytes > 0 ? on_disk : in_ram);
        if (cache_first) fill(request_.kv_cache, &Policy::kv_cache, attention_tier, policy);
        fill(request_.weights, &Policy::weights, policy.compute_tier, policy);
        if (!cache_first) fill(request_.kv_cache, &Policy::kv_cache, attention_tier, policy);
        if (!fits(policy)) continue;
        has_room = true;
        consider(policy);
      }
    return has_room;
  }

  /// One tier after the other takes as much of a kind as fits.
  void fill(const std::optional<Fractions>& fixed, Fractions Policy::*kind, Tier fastest, Policy& policy) {
    if (fixed) return;
    const Fractions before = policy.*kind;
    double gpu = 0;
    if (fastest == Tier::kGpu) {
      gpu = std::max(0.0, largest_share([&](double share) {
                       policy.*kind = {share, before.cpu * (1 - share), before.disk * (1 - share)};
                       return fits(policy);
                     }));
    }
    const double left = 1 - gpu;
    const double cpu = largest_share([&](double share) {
      policy.*kind = {gpu, left * share, left * (1 - share)};
      return fits(policy);
    });
    policy.*kind = cpu < 0 ? Fractions{gpu, before.cpu * left, before.disk * left} : Fractions{gpu, left * cpu, left * (1 - cpu)};
  }

  bool fits(const Policy& policy) {
    const MemoryPlan plan = memory_plan(model_, policy, workload_, kv_dtype_, layouts_.sums(policy));
    const bool disk_ok = plan.bytes(Tier::kDisk) <= budgets_.disk_bytes, gpu_ok = plan.bytes(Tier::kGpu) <= budgets_.gpu_plan_bytes();
    if (!disk_ok) smallest_disk_ = std::min(smallest_disk_, plan.bytes(Tier::kDisk));
    else if (!gpu_ok) smallest_gpu_ = std::min(smallest_gpu_, plan.bytes(Tier::kGpu));
    else smallest_cpu_ = std::min(smallest_cpu_, plan.bytes(Tier::kCpu));
    return disk_ok && gpu_ok && plan.bytes(Tier::kCpu) <= budgets_.cpu_bytes;
  }

  void consider(const Policy& policy) {
    const double time_s = rough_time_s(model_, workload_, policy, kv_dtype_, layouts_.sums(policy));
    if (best_ && time_s >= best_time_s_) return;
    best_ = policy;
    best_time_s_ = time_s;
  }

  [[noreturn]] void refuse() const {
    if (smallest_cpu_ == kNone && smallest_gpu_ != kNone)
      fail_user("this job cannot run within --gpu-memory {}: the smallest budget that would do is {} ({} bytes)", format_bytes(budgets_.gpu_bytes),
                format_bytes(smallest_gpu_ + budgets_.gpu_kernel_bytes), smallest_gpu_ + budgets_.gpu_kernel_bytes);
    if (smallest_cpu_ == kNone)
      fail_user("the policy needs {} of disk for spilled cache and activations, but {}; give --disk-dir and at least --disk-space {}",
                format_bytes(smallest_disk_),
                budgets_.disk_bytes > 0 ? "--disk-space is " + format_bytes(budgets_.disk_bytes) : std::string("there is no --disk-dir"),
                ceil_div(smallest_disk_, kMiB) * kMiB);
    fail_user("this job cannot run within --cpu-memory {}: the smallest budget that would do is {} ({} bytes){}", format_bytes(budgets_.cpu_bytes),
              format_bytes(smallest_cpu_), smallest_cpu_, budgets_.disk_bytes == 0 ? "; with --disk-dir the KV cache could go to disk" : "");
  }

  const Model& model_;
  const Workload& workload_;
  const Budgets& budgets_;
  const PolicyRequest& request_;
  DType kv_dtype_;
  std::vector<Tier> attention_tiers_;
  WeightLayouts layouts_;
  std::optional<Policy> best_;
  double best_time_s_ = 0;
  bool shares_ = true;                                                           ///< prefixes, where the job has some: that saves time, not the last bytes
  int64_t smallest_cpu_ = kNone, smallest_disk_ = kNone, smallest_gpu_ = kNone;  ///< bytes of a tier that would do, where the others have enough
};

}  // namespace

Policy choose_policy(const Model& model, const Workload& workload, const Budgets& budgets, const PolicyRequest& request, DType kv_dtype) {
  refuse_loading_of_experts(model, request);
  if (request.num_micro_batches && *request.num_micro_batches < request.num_stages)
    fail_user("--num-micro-batches {} with {} pipeline stages: each stage works on another micro-batch, so there must be as many at least",
              *request.num_micro_batches, request.num_stages);
  return RuleSearch(model, workload, budgets, request, kv_dtype).choose();
}

}  // namespace flexgen
