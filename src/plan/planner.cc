#include "plan/planner.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>
#include <limits>
#include <list>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/units.h"
#include "plan/expert_loading.h"
#include "plan/placed_kinds.h"
#include "plan/placement_program.h"
#include "plan/policy_sizes.h"
#include "plan/repeated_sum.h"
#include "plan/smallest_budget.h"
#include "plan/weight_layouts.h"
#include "schedule/cache_store.h"
#include "schedule/expert_hits.h"
#include "schedule/hidden_store.h"

namespace flexgen {
namespace {

constexpr Fractions kInGpu{1, 0, 0}, kInRam{0, 1, 0}, kOnDisk{0, 0, 1};
constexpr int64_t kMaxSearchedBlock = 4096, kMaxSearchedRows = 4096;
/// Up to so many rows a step may well take all prompts of a micro-batch at once; more hardly save any time.
constexpr double kFewPromptRows = 2048;
constexpr size_t kMaxClasses = 10;
/// With so few sequences one alone may do better, or prompts that are computed whole.
constexpr int64_t kSmallBlock = 4, kSmallSharingBlock = 32;

/// Shares as flags can say them: tenths of a percent, rounded so that faster tiers never get more.
Fractions rounded(const Fractions& shares) {
  auto down = [](double share) { return std::floor(share * 1000 + 1e-6) / 1000; };
  const double gpu = down(shares.gpu), cpu = std::min(down(shares.gpu + shares.cpu + 1e-9) - gpu, 1 - gpu), disk = 1 - gpu - cpu;
  return {gpu, cpu, disk < 1e-9 ? 0 : disk};
}

class Search {
 public:
  explicit Search(const PlanInput& input)
      : in_(input), precision_(Precision::of(input.model, input.compute, input.kv)), start_s_(processor_time_s()), layouts_(input.model) {}

  /// Nothing: none fits.
  std::optional<Plan> find() {
    if (on_gpu() && !in_.hardware.gpu)
      fail_user(
          "the hardware profile '{}' has no GPU; give that of a machine with one (--hardware FILE), or plan for the processor, without --gpu-memory and --backend",
          in_.hardware.name);
    if (largest_buffers_matter()) buffers_ = in_.request.buffer_counts_in_need();
    try_blocks();
    if (!best_) try_with_less();
    try_one_sequence();
    refine();
    try_hottest_first();
    try_more_weight_buffers();
    if (!best_) {
      // Few rows, one buffer, one sequence at a time: what fits if anything does.
      for (const Policy& policy : smallest_policies(in_.model, in_.workload, in_.budgets, in_.request, in_.kv))
        if (fits(policy)) consider(policy, 0);
    }
    if (!best_) return std::nullopt;
    plan_.planning_s = elapsed_s();
    return std::move(plan_);
  }
  /// Whether memory had no room for some block.
  bool is_short() const { return is_short_; }

 private:
  /// Of this thread's processor time: a busy machine must not change the plan.
  static double processor_time_s() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }
  double elapsed_s() const { return processor_time_s() - start_s_; }
  bool out_of_time() {
    // With nothing found, what is left is one sequence at a time: that is worth a longer search.
    if (best_ ? elapsed_s() - first_found_s_ < in_.time_limit_s : elapsed_s() < kLongestSearch * in_.time_limit_s) return false;
    plan_.complete = false;
    return true;
  }

  /// Whether two of the largest layers take so much of the memory that one, without overlap, may leave room for many more sequences.
  bool largest_buffers_matter() {
    Policy streamed;
    if (on_gpu()) streamed.compute_tier = streamed.attention_tier = Tier::kGpu;
    place_all(kOnDisk, &streamed);
    return 4 * 2 * layouts_.sums(streamed).buffer_bytes > (on_gpu() ? in_.budgets.gpu_plan_bytes() : in_.budgets.cpu_bytes);
  }

  /// Large blocks first: they use every byte read for more sequences.
  void try_blocks() {
    sizes_seen_.clear();
    plan_.num_too_large = 0;
    for (int64_t block : blocks())
      for (int64_t count : counts()) {
        if (!in_.request.micro_batch_size && block < count && count != counts().front()) continue;
        const int64_t size = in_.request.micro_batch_size.value_or(std::max<int64_t>(1, ceil_div(block, count)));
        if (sizes_seen_.insert({size, count}).second) try_block(size, count);
      }
  }
  /// Where no block fits: without overlap, and with fewer rows than the prompts come in with, which takes more steps, but still with many sequences in each.
  void try_with_less() {
    const std::vector<int> in_need = in_.request.buffer_counts_in_need();
    if (std::exchange(buffers_, in_need) != in_need) try_blocks();
    if (in_.request.max_rows) return;
    for (int64_t rows : {kMaxSearchedRows / 8, kMaxSearchedRows / 64}) {
      most_rows_ = rows;
      try_blocks();
    }
  }
  /// Where hardly more have room, one at a time may leave more of it for what else takes time.
  void try_one_sequence() {
    if (in_.request.micro_batch_size || in_.request.num_micro_batches.value_or(1) > 1 || (best_ && best_->policy.block_size() > kSmallBlock)) return;
    buffers_ = in_.request.buffer_counts_in_need();
    most_rows_ = kMaxSearchedRows;
    if (sizes_seen_.insert({1, 1}).second) try_block(1, 1);
  }
  std::vector<int64_t> blocks() const {
    const int64_t largest = std::clamp<int64_t>(in_.workload.num_sequences, 1, kMaxSearchedBlock);
    std::vector<int64_t> sizes{largest};
    for (double size = static_cast<double>(largest) / 1.5; size >= 1; size /= 1.5) sizes.push_back(static_cast<int64_t>(std::ceil(size)));
    return sizes;
  }
  std::vector<int64_t> counts() const {
    if (in_.request.num_micro_batches) return {*in_.request.num_micro_batches};
    return {1, 2, 3, 4, 8};
  }
  std::vector<int64_t> row_counts(int64_t micro_batch_size, int64_t num_micro_batches) const {
    if (in_.request.max_rows) return {*in_.request.max_rows};
    const double even = even_rows(in_.workload, micro_batch_size * num_micro_batches) / static_cast<double>(num_micro_batches);
    const double all = std::ceil((in_.workload.computed_prompt_tokens() + static_cast<double>(micro_batch_size)) / static_cast<double>(num_micro_batches));
    std::set<int64_t> rows;
    const auto add = [&](double count) {
      rows.insert(std::clamp(round_up(static_cast<int64_t>(std::ceil(std::min(count, all))), 16), round_up(micro_batch_size, 16),
                             std::max(most_rows_, round_up(micro_batch_size, 16))));
    };
    for (double factor : {1.02, 1.4, 2.5}) add(even * factor);
    if (all <= kFewPromptRows) add(all);  // a small job's prompts in one step: none of them read the weights again
    return {rows.begin(), rows.end()};
  }

  MemoryPlan memory_of(const Policy& policy) { return memory_plan(in_.model, policy, in_.workload, in_.kv, layouts_.sums(policy)); }
  bool fits(const Policy& policy) {
    const MemoryPlan plan = memory_of(policy);
    return plan.bytes(Tier::kGpu) <= in_.budgets.gpu_plan_bytes() && plan.bytes(Tier::kCpu) <= in_.budgets.cpu_bytes &&
           plan.bytes(Tier::kDisk) <= in_.budgets.disk_bytes;
  }

  std::vector<Fractions> ends() const {
    if (on_gpu()) return {kOnDisk, kInRam, kInGpu};
    return {kInRam, kOnDisk};
  }
  /// Attention beside a GPU leaves what it uses no share of its memory.
  std::vector<Fractions> ends_of(const PlacedKind& kind, const Policy& policy) const {
    if (kind.is_beside(policy)) return {kInRam, kOnDisk};
    return ends();
  }
  /// Where attention may run, first what is best so far: its time spares the other's.
  std::vector<Tier> attention_tiers() const {
    std::vector<Tier> tiers = attention_tiers_of(in_.budgets, in_.request);
    if (best_ && tiers.size() > 1 && tiers.front() != best_->policy.attention_tier) std::swap(tiers[0], tiers[1]);
    return tiers;
  }
  bool on_gpu() const { return in_.budgets.gpu_bytes > 0; }

  /// Whether any placement fits of the kinds from number `first` on.
  bool fits_somehow(Policy policy, size_t first = 0) {
    if (first == kPlacedKinds.size()) return fits(policy);
    const PlacedKind& kind = kPlacedKinds[first];
    const std::vector<Fractions> all = ends_of(kind, policy);
    return std::any_of(all.begin(), all.end(), [&](const Fractions& end) {
      policy.*kind.shares = (in_.request.*kind.asked).value_or(end);
      return fits_somehow(policy, first + 1);
    });
  }

  void try_block(int64_t micro_batch_size, int64_t num_micro_batches) {
    bool any = false;
    std::vector<Tier> tiers = attention_tiers();
    for (int64_t rows : row_counts(micro_batch_size, num_micro_batches)) {
      if (out_of_time()) return;
      Policy policy = policy_of_sizes(in_.model, in_.workload, in_.kv, micro_batch_size, num_micro_batches, buffers_.back(), rows);
      policy.weight_buffers = in_.request.weight_buffers.value_or(0);
      if (on_gpu()) policy.compute_tier = Tier::kGpu;
      std::erase_if(tiers, [&](Tier tier) {  // more rows take more
        policy.attention_tier = tier;
        return !fits_somehow(policy);
      });
      if (tiers.empty()) break;
      any = true;
      // What micro-batches do does not depend on where attention runs.
      policy.attention_tier = policy.compute_tier;
      place_all(on_gpu() ? kInGpu : kInRam, &policy);
      walks_.clear();
      const SlotWalk& walk = walk_of(policy);
      policy.max_choosing_rows = choosing_rows_on_disk(policy);
      for (Tier tier : tiers) {
        policy.attention_tier = tier;
        std::vector<StepClass> classes;
        for (int buffers : buffers_) {
          // The processor beside a GPU attends while that computes, but for one buffer.
          const bool is_known = !classes.empty() && (buffers > 1) == (policy.buffers > 1);
          policy.buffers = buffers;
          if (!is_known) classes = compute_classes(policy, walk);
          if (best_ && compute_time_s(classes) > best_->time_s && !in_.thorough) continue;
          place(policy, walk, classes);
        }
      }
    }
    if (any) return;
    ++plan_.num_too_large;
    is_short_ = true;
  }

  static double compute_time_s(const std::vector<StepClass>& classes) {
    double sum_s = 0;
    for (const StepClass& step : classes) {
      double slowest_s = 0;
      for (const Affine& resource_s : step.resources_s) slowest_s = std::max(slowest_s, resource_s.constant);
      sum_s += step.count * slowest_s;
    }
    return sum_s;
  }

  /// Steps of about the same compute time as one class each: its count, and in resources_s what computes in it: the processor, and with attention
  /// beside a GPU the other one, and both in turn for a micro-batch.
  std::vector<StepClass> compute_classes(const Policy& policy, const SlotWalk& walk) {
    step_class_.clear();
    const bool beside = policy.attention_beside();
    std::vector<ComputeTimes> times;
    std::vector<std::pair<double, size_t>> order;
    const double repeat = walk.whole ? 1 : rows_of(in_.workload, policy) / walk.rows;
    for (size_t i = 0; i < walk.steps.size(); ++i) {
      times.push_back(compute_times(policy, walk.steps[i]));
      order.emplace_back(times[i].both(), i);
    }
    std::sort(order.begin(), order.end());
    double all_s = 0, before_s = 0;
    for (auto [time_s, i] : order) all_s += time_s * walk.steps[i].count;
    std::vector<StepClass> classes;
    step_class_.resize(walk.steps.size());
    for (auto [time_s, i] : order) {
      const auto wanted = std::min(kMaxClasses - 1, static_cast<size_t>(before_s / std::max(all_s, 1e-300) * kMaxClasses));
      if (classes.empty() || wanted > last_class_) classes.push_back({0, std::vector<Affine>(beside ? 3 : 1)});
      last_class_ = wanted;
      StepClass& mean = classes.back();
      const double count = walk.steps[i].count * repeat;
      auto add = [&](size_t resource, double seconds) {
        double& so_far_s = mean.resources_s[resource].constant;
        so_far_s = (so_far_s * mean.count + seconds * count) / (mean.count + count);
      };
      add(0, times[i].processor_s);
      if (beside) {
        add(1, times[i].attention_s);
        add(2, policy.buffers > 1 ? time_s / static_cast<double>(policy.num_micro_batches) : time_s);
      }
      mean.count += count;
      step_class_[i] = classes.size() - 1;
      before_s += time_s * walk.steps[i].count;
    }
    return classes;
  }

  static double rows_of_step(const StepLoad& step) {
    double rows = 0;
    for (const BatchLoad& batch : step.batches) rows += batch.rows;
    return rows;
  }
  /// As the request says, or as is best where all weights stream: what the linear program counts with.
  int64_t choosing_rows_on_disk(Policy policy) {
    if (in_.request.max_choosing_rows) return *in_.request.max_choosing_rows;
    auto [known, is_new] = choosing_rows_.try_emplace(policy.num_micro_batches, 0);
    policy.weights = kOnDisk;
    policy.max_rows = kMaxSearchedRows;
    if (is_new) known->second = choosing_rows(layouts_, in_.hardware, precision_, policy);
    return known->second;
  }

  /// What a step computes: the processor of the policy, and the one beside a GPU that attends.
  struct ComputeTimes {
    double processor_s = 0, attention_s = 0;
    double both() const { return processor_s + attention_s; }
  };
  ComputeTimes compute_times(const Policy& policy, const StepLoad& step) {
    ComputeTimes times;
    const auto num_blocks = static_cast<double>(in_.model.num_blocks());
    const bool chooses = policy.chooses_experts(rows_of_step(step));
    for (const BatchLoad& batch : step.batches) {
      if (batch.rows == 0) continue;
      const BlockTimes block = block_times(in_.model, in_.hardware, precision_, policy, batch.block);
      times.processor_s += num_blocks * (block.compute_s + block.after_s);
      times.attention_s += num_blocks * block.attention_s;
      times.processor_s = with_outer_visits(times.processor_s, policy, batch, chooses);
    }
    return times;
  }
  /// `sum_s` and what the micro-batch's visits to layers that do not attend take.
  double with_outer_visits(double sum_s, const Policy& policy, const BatchLoad& batch, bool chooses) {
    const std::vector<double>& visits_s = outer_visits(policy, batch, chooses);
    if (!is_by_kind(chooses)) return std::accumulate(visits_s.begin(), visits_s.end(), sum_s);
    for (const AlikeLayers::Run& run : layouts_.alike().outer()) sum_s = add_repeatedly(sum_s, visits_s[run.kind], run.count);
    return sum_s;
  }
  /// Whether layers that are alike take the same, as they are chosen as often.
  bool is_by_kind(bool chooses) const { return !chooses || !in_.model.expert_chances(); }
  /// What a visit of the micro-batch takes to each kind of layers, or to each layer; 0 to those that attend. Stays until the next is asked for.
  const std::vector<double>& outer_visits(const Policy& policy, const BatchLoad& batch, bool chooses) {
    const auto known = std::find_if(outer_visits_.begin(), outer_visits_.end(), [&](const OuterVisits& visits) {
      return visits.rows == batch.rows && visits.logit_rows == batch.logit_rows && visits.chooses == chooses;
    });
    if (known != outer_visits_.end()) return known->visits_s;
    OuterVisits& visits = outer_visits_[next_outer_visits_++ % outer_visits_.size()];
    visits = {batch.rows, batch.logit_rows, chooses, std::move(visits.visits_s)};
    visits.visits_s.clear();
    const AlikeLayers& alike = layouts_.alike();
    const auto add_visit = [&](size_t number) {
      const LayerSpec& layer = in_.model.layers()[number];
      const double rows = layer.kind == LayerKind::kHead ? batch.logit_rows : batch.rows;
      const bool takes_place = rows > 0 && layer.cache < 0;
      const double hit = chooses && layer.kind == LayerKind::kExperts ? hit_share_of(alike.log_miss(number), rows) : 1;
      visits.visits_s.push_back(takes_place ? hit * outer_visit_time_s(in_.hardware, precision_, policy, layer, rows, hit) : 0);
    };
    for (size_t i = 0; i < (is_by_kind(chooses) ? alike.num_kinds() : in_.model.layers().size()); ++i) add_visit(is_by_kind(chooses) ? alike.first(i) : i);
    return visits.visits_s;
  }

  /// The linear program of a block, its answer rounded, filled up and judged.
  void place(Policy policy, const SlotWalk& walk, const std::vector<StepClass>& compute) {
    if (out_of_time()) return;
    const PlacementProgram program = make_program(policy, walk, compute);
    std::optional<Placement> placement = solve(program);
    if (!placement) return;
    for (size_t i = 0; i < kPlacedKinds.size(); ++i) {
      const PlacedKind& kind = kPlacedKinds[i];
      const Fractions& shares = placement->shares[i];
      const bool all_in_gpu = kind.whole && shares.gpu >= 0.5, all_in_ram = kind.whole && !on_gpu() && shares.cpu >= 0.5;
      policy.*kind.shares = (in_.request.*kind.asked).value_or(all_in_gpu ? kInGpu : all_in_ram ? kInRam : rounded(shares));
    }
    if (best_ && placement->time_s > 1.1 * best_->time_s && !in_.thorough) {
      plan_.candidates.push_back({policy, placement->time_s, false});
      return;
    }
    if (!make_fit(policy)) return;
    consider(policy, placement->time_s);
  }

  /// Moves shares to slower tiers until the policy fits, and back as far as it does. False if it cannot.
  bool make_fit(Policy& policy) {
    // The largest share that a tier can have of a kind, taken from the next slower one.
    auto largest = [&](const PlacedKind& kind, double Fractions::*fast, double Fractions::*slow) {
      if (in_.request.*kind.asked) return;
      Fractions& shares = policy.*kind.shares;
      const Fractions before = shares;
      const double both = before.*fast + before.*slow;
      const auto most = static_cast<int64_t>(std::llround(both * 1000));
      auto set = [&](int64_t thousandths) {
        shares.*fast = thousandths == most ? both : static_cast<double>(thousandths) / 1000;
        shares.*slow = thousandths == most ? 0 : both - static_cast<double>(thousandths) / 1000;
      };
      int64_t low = 0, high = most;
      if (set(high); fits(policy)) return;
      if (set(low); !fits(policy)) {
        shares = before;
        return;
      }
      while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        set(middle);
        (fits(policy) ? low : high) = middle;
      }
      set(low);
    };
    auto in_ram = [&](const PlacedKind& kind) {
      if (kind.may_be_on_disk(in_.budgets.disk_bytes)) largest(kind, &Fractions::cpu, &Fractions::disk);
    };
    auto in_gpu = [&](const PlacedKind& kind) {
      if (on_gpu() && !kind.is_beside(policy)) largest(kind, &Fractions::gpu, &Fractions::cpu);
    };
    constexpr const PlacedKind &kWeights = placed_kind(TensorKind::kWeights), &kCache = placed_kind(TensorKind::kKvCache),
                               &kActivations = placed_kind(TensorKind::kActivations);
    // Weights take up what is left, then the cache; a share that is too large gives way in the same order.
    in_gpu(kWeights);
    in_ram(kWeights);
    if (!fits(policy) || policy.weights.disk == 0) in_ram(kCache);
    if (!fits(policy) || policy.weights.gpu >= 1) in_gpu(kCache);
    if (!fits(policy)) in_gpu(kActivations);
    if (!fits(policy)) in_ram(kActivations);
    return fits(policy);
  }

  /// What a step moves of a kind, mean over a class: of what is on disk from there and back, of what is beside a GPU up to it and down again.
  struct Traffic {
    double read_bytes = 0, up_bytes = 0, written_bytes = 0;
  };
  struct ClassTraffic {
    std::array<Traffic, kNumTensorKinds> kinds;
    double rows = 0, logit_rows = 0;
    Traffic& of(TensorKind kind) { return kinds[static_cast<size_t>(kind)]; }
  };
  /// For each class, with everything on disk.
  std::vector<ClassTraffic> traffic_of(const Policy& streamed, const SlotWalk& walk, size_t num_classes) {
    std::vector<ClassTraffic> classes(num_classes);
    std::vector<double> counts(num_classes);
    for (size_t i = 0; i < walk.steps.size(); ++i) {
      const StepLoad& step = walk.steps[i];
      ClassTraffic& mean = classes[step_class_[i]];
      counts[step_class_[i]] += step.count;
      for (const BatchLoad& batch : step.batches) {
        mean.of(TensorKind::kKvCache).read_bytes += step.count * batch.old_bytes;
        mean.of(TensorKind::kKvCache).written_bytes += step.count * batch.dirty_bytes;
        mean.rows += step.count * batch.rows;
        mean.logit_rows += step.count * batch.logit_rows;
      }
    }
    const auto weight_bytes = static_cast<double>(layouts_.sums(streamed).streamed_bytes_per_step);
    const double row_bytes =
        streamed.num_micro_batches > 1 ? static_cast<double>(HiddenLayout(in_.model, streamed).row_bytes) * static_cast<double>(in_.model.layers().size()) : 0;
    for (size_t i = 0; i < num_classes; ++i) {
      ClassTraffic& mean = classes[i];
      mean.rows /= counts[i];
      mean.logit_rows /= counts[i];
      // What is on disk of a mixture are experts first.
      const double hit = streamed.chooses_experts(mean.rows) ? expert_hit_share(in_.model, mean.rows) : 1;
      mean.of(TensorKind::kWeights) = {hit * weight_bytes, weight_bytes, 0};
      Traffic& cache = mean.of(TensorKind::kKvCache);
      cache = {cache.read_bytes / counts[i], cache.read_bytes / counts[i], cache.written_bytes / counts[i]};
      mean.of(TensorKind::kActivations) = {mean.rows * row_bytes, mean.rows * row_bytes, mean.rows * row_bytes};
    }
    return classes;
  }

  /// What each tier holds, where it may be, and what is fixed.
  void add_memory(const Policy& streamed, PlacementProgram* program) {
    // What each tier holds with one kind in another tier, beside everything on disk.
    const MemoryPlan base = memory_of(streamed);
    for (Tier tier : {Tier::kGpu, Tier::kCpu, Tier::kDisk}) program->bytes[static_cast<size_t>(tier)].constant = static_cast<double>(base.bytes(tier));
    for (size_t i = 0; i < kPlacedKinds.size(); ++i) {
      const PlacedKind& kind = kPlacedKinds[i];
      for (const Fractions& end : ends_of(kind, streamed)) {
        if (end.disk > 0) continue;
        Policy moved = streamed;
        moved.*kind.shares = end;
        const MemoryPlan plan = memory_of(moved);
        for (Tier tier : {Tier::kGpu, Tier::kCpu, Tier::kDisk})
          program->bytes[static_cast<size_t>(tier)].of(static_cast<TensorKind>(i), end.gpu > 0 ? Tier::kGpu : Tier::kCpu) =
              static_cast<double>(plan.bytes(tier) - base.bytes(tier));
      }
      program->fixed[i] = in_.request.*kind.asked;
      program->allowed[i] = {on_gpu() && !kind.is_beside(streamed), true, kind.may_be_on_disk(in_.budgets.disk_bytes)};
    }
    program->capacity = {static_cast<double>(in_.budgets.gpu_plan_bytes()), static_cast<double>(in_.budgets.cpu_bytes),
                         static_cast<double>(in_.budgets.disk_bytes)};
  }

  PlacementProgram make_program(const Policy& policy, const SlotWalk& walk, const std::vector<StepClass>& compute) {
    PlacementProgram program;
    const DiskProfile& disk = in_.hardware.disk;
    const bool beside = policy.attention_beside();
    Policy streamed = policy;
    place_all(kOnDisk, &streamed);
    add_memory(streamed, &program);
    double logit_row_bytes = 0;
    double q_bytes = 0, kv_bytes = 0;  // of all blocks, a row
    for (const LayerSpec& layer : in_.model.layers()) {
      if (layer.kind == LayerKind::kHead) logit_row_bytes += logit_bytes_down(layer, 1, in_.workload.reads_logits);
      if (layer.cache < 0) continue;
      const HeadSizes heads = in_.model.config().heads_of(layer.index);
      q_bytes += 4.0 * static_cast<double>(heads.q_width());
      kv_bytes += 8.0 * static_cast<double>(heads.kv_width());
    }
    const std::vector<ClassTraffic> traffic = traffic_of(streamed, walk, compute.size());
    for (size_t i = 0; i < compute.size(); ++i) {
      Affine read_s, write_s, up_s, down_s;  // up, down: to a GPU and back, whatever is not there, over the bus
      Affine first_read_s, first_up_s;       // in the first step beside: once, what stays
      for (size_t number = 0; number < kPlacedKinds.size(); ++number) {
        const auto kind = static_cast<TensorKind>(number);
        const Traffic& moved = traffic[i].kinds[number];
        read_s.of(kind, Tier::kDisk) = moved.read_bytes / disk.read_bytes_per_s;
        write_s.of(kind, Tier::kDisk) = moved.written_bytes / disk.write_bytes_per_s;
        if (on_gpu() && !kPlacedKinds[number].is_beside(policy))
          for (Tier tier : {Tier::kCpu, Tier::kDisk}) {
            up_s.of(kind, tier) = moved.up_bytes / in_.hardware.h2d_bytes_per_s;
            down_s.of(kind, tier) = moved.written_bytes / in_.hardware.d2h_bytes_per_s;
          }
        if (!kPlacedKinds[number].of_checkpoint) continue;
        for (Tier tier : {Tier::kGpu, Tier::kCpu}) first_read_s.of(kind, tier) = moved.up_bytes / disk.read_bytes_per_s;
        if (on_gpu()) first_up_s.of(kind, Tier::kGpu) = moved.up_bytes / in_.hardware.h2d_bytes_per_s;
      }
      StepClass step = compute[i];
      if (beside) {  // q, k and v go down and results come up, wherever the cache is
        up_s.constant = traffic[i].rows * q_bytes / in_.hardware.h2d_bytes_per_s;
        down_s.constant = traffic[i].rows * (q_bytes + kv_bytes) / in_.hardware.d2h_bytes_per_s;
      }
      if (on_gpu()) down_s.constant += traffic[i].logit_rows * logit_row_bytes / in_.hardware.d2h_bytes_per_s;
      if (beside && policy.buffers > 1) step.resources_s.back().constant += (up_s.constant + down_s.constant) / static_cast<double>(policy.num_micro_batches);
      if (i == step_class_.front()) {
        StepClass first = step;
        first.count = std::min(1.0, step.count);
        step.count -= first.count;
        if (policy.buffers == 1) {  // what stays takes no buffer: it is read while layers compute
          add_traffic(first, policy, read_s, write_s, up_s, down_s);
          for (const Affine& part_s : {read_s, write_s, up_s, down_s, first_up_s}) first_read_s += part_s;
          first.resources_s.push_back(first_read_s);
        } else {
          first_read_s += read_s;
          first_up_s += up_s;
          add_traffic(first, policy, first_read_s, write_s, first_up_s, down_s);
        }
        program.steps.push_back(std::move(first));
      }
      if (step.count <= 0) continue;
      add_traffic(step, policy, read_s, write_s, up_s, down_s);
      program.steps.push_back(std::move(step));
    }
    return program;
  }

  /// What the disk and the bus do in a step, beside what computes in it.
  void add_traffic(StepClass& step, const Policy& policy, const Affine& read_s, const Affine& write_s, const Affine& up_s, const Affine& down_s) const {
    const DiskProfile& disk = in_.hardware.disk;
    if (policy.buffers == 1) {
      Affine compute_s = step.resources_s.back();
      for (const Affine& other_s : {read_s, write_s, up_s, down_s}) compute_s += other_s;
      step.resources_s = {compute_s};
      return;
    }
    if (!on_gpu()) {
      step.resources_s.front() += read_s.scaled(disk.compute_slowdown);
      step.resources_s.front() += write_s.scaled(disk.compute_slowdown);
    }
    Affine shared_s = read_s;
    shared_s += write_s.scaled(disk.write_share_of_read);
    step.resources_s.insert(step.resources_s.end(), {shared_s, write_s});
    if (on_gpu()) step.resources_s.insert(step.resources_s.end(), {up_s, down_s});
  }

  /// Other rows and shares around the best: what a linear program with its means cannot see.
  void refine() {
    for (int round = 0; round < 3 && best_ && !out_of_time(); ++round) {
      const Candidate from = *best_;
      auto with_rows = [&](double factor) {
        if (in_.request.max_rows) return;
        const int64_t rows =
            std::max(round_up(static_cast<int64_t>(static_cast<double>(from.policy.max_rows) * factor), 16), round_up(from.policy.micro_batch_size, 16));
        Policy policy = from.policy;
        policy.set_block(policy_of_sizes(in_.model, in_.workload, in_.kv, policy.micro_batch_size, policy.num_micro_batches, policy.buffers, rows).block());
        if (rows != from.policy.max_rows && rows <= kMaxSearchedRows && make_fit(policy)) consider(policy, plan_.program_time_s);
      };
      for (double factor : {0.75, 0.9, 1.12, 1.3}) with_rows(factor);
      if (!in_.request.kv_cache && in_.budgets.disk_bytes > 0 && !on_gpu())
        for (double change : {-0.1, -0.03, 0.03, 0.1}) {
          Policy policy = best_->policy;
          policy.kv_cache = rounded({0, std::clamp(policy.kv_cache.cpu + change, 0.0, 1.0), 0});
          if (policy.kv_cache != best_->policy.kv_cache && make_fit_weights(policy)) consider(policy, plan_.program_time_s);
        }
      if (best_->time_s > 0.999 * from.time_s) return;
    }
  }
  /// The experts that are chosen most often in RAM, where that is known, if it should take less time: small steps read less, but units then differ in what they read.
  void try_hottest_first() {
    if (!best_ || !knows_hottest(in_.model) || best_->policy.weights.cpu <= 0 || best_->policy.weights.disk <= 0) return;
    Policy policy = best_->policy;
    policy.hottest_first = true;
    if (make_fit(policy)) consider(policy, plan_.program_time_s);
  }
  /// Layers that are small beside a cache page (units of experts) take little memory for a deeper ring, which evens out reads and visits of unequal length.
  void try_more_weight_buffers() {
    if (!best_ || in_.request.buffers || in_.request.weight_buffers || best_->policy.weights.disk <= 0 || best_->policy.buffers == 1) return;
    const Policy from = best_->policy;
    for (int count : {3, 4, 8, 16}) {
      if (out_of_time()) return;
      if (count <= from.num_weight_buffers()) continue;
      Policy policy = from;
      policy.weight_buffers = count;
      if (make_fit(policy)) consider(policy, plan_.program_time_s);
    }
  }
  bool make_fit_weights(Policy& policy) {
    if (in_.request.weights) return fits(policy);
    policy.weights = kOnDisk;
    if (!fits(policy)) return false;
    const Fractions cache = policy.kv_cache;
    if (!make_fit(policy)) return false;
    return policy.kv_cache == cache || policy.weights.disk == 0;
  }

  /// What micro-batches do under a policy: depends on its sizes, on where the cache is and where attention runs, and on nothing else of it. Stays until walks_ are cleared.
  const SlotWalk& walk_of(const Policy& policy) {
    const auto known = std::find_if(walks_.begin(), walks_.end(), [&](const KnownWalk& walk) {
      return walk.block == policy.block() && walk.kv_cache == policy.kv_cache && walk.attention_tier == policy.attention_tier;
    });
    if (known != walks_.end()) return known->walk;
    walks_.push_back({policy.block(), policy.kv_cache, policy.attention_tier, walk_slots(in_.model, policy, in_.kv, in_.workload, kEffort)});
    return walks_.back().walk;
  }

  /// With all experts loaded ahead too, where that makes a difference.
  void consider(Policy policy, double program_time_s) {
    const SlotWalk& walk = walk_of(policy);
    policy.max_choosing_rows = in_.request.max_choosing_rows ? *in_.request.max_choosing_rows : choosing_rows(layouts_, in_.hardware, precision_, policy);
    // What is not chosen leaves its checksums in memory.
    const bool has_room = policy.max_choosing_rows == 0 || fits(policy);
    if (has_room) judge(policy, walk, program_time_s);
    if (in_.request.max_choosing_rows) return;
    if (has_room && std::none_of(walk.steps.begin(), walk.steps.end(), [&](const StepLoad& step) { return policy.chooses_experts(rows_of_step(step)); }))
      return;
    policy.max_choosing_rows = 0;
    judge(policy, walk, program_time_s);
  }

  void judge(const Policy& policy, const SlotWalk& walk, double program_time_s) {
    const Prediction prediction = predict(layouts_, in_.hardware, precision_, policy, in_.workload, walk);
    plan_.candidates.push_back({policy, prediction.time_s});
    if (best_ && prediction.time_s >= best_->time_s) return;
    if (!best_) first_found_s_ = elapsed_s();
    best_ = plan_.candidates.back();
    plan_.policy = policy;
    plan_.prediction = prediction;
    plan_.program_time_s = program_time_s;
  }

  static constexpr double kEffort = 30000, kLongestSearch = 3;
  const PlanInput& in_;
  Precision precision_;
  double start_s_, first_found_s_ = 0;
  std::vector<int> buffers_ = in_.request.buffer_counts();  ///< the last one takes the least memory
  int64_t most_rows_ = kMaxSearchedRows;
  bool is_short_ = false;
  std::set<std::pair<int64_t, int64_t>> sizes_seen_;
  std::vector<size_t> step_class_;  ///< a step of the walk: its class
  size_t last_class_ = 0;
  std::map<int64_t, int64_t> choosing_rows_;  ///< where all weights stream, by the number of micro-batches
  WeightLayouts layouts_;
  struct OuterVisits {
    double rows = -1, logit_rows = -1;
    bool chooses = false;
    std::vector<double> visits_s;
  };
  std::array<OuterVisits, 16> outer_visits_;  ///< that were asked for last: most steps are alike
  size_t next_outer_visits_ = 0;
  struct KnownWalk {
    BlockShape block;
    Fractions kv_cache;
    Tier attention_tier;
    SlotWalk walk;
  };
  std::list<KnownWalk> walks_;  ///< of the block and rows that are tried, and then of what refine() tries
  std::optional<Candidate> best_;
  Plan plan_;
};

}  // namespace

Plan make_plan(const PlanInput& input) {
  refuse_loading_of_experts(input.model, input.request);
  Search search(input);
  std::optional<Plan> found = search.find();
  if (!found) refuse_budget(input.model, input.workload, input.budgets, input.request, input.kv);
  Plan plan = std::move(*found);
  if (!search.is_short() || input.workload.total_prefix_tokens == 0) return plan;
  // Where memory is short, pages of prefixes take the room of sequences: more that compute their prompts whole may take less time. What sharing saves is not always known.
  const bool is_known = input.workload.total_shared_tokens > 0 && plan.policy.block_size() <= kSmallSharingBlock;
  if (plan.policy.prefix_pages > 0 && !is_known) return plan;
  const Workload whole = input.workload.without_sharing();
  const PlanInput apart{input.model, whole, input.budgets, input.request, input.compute, input.kv, input.hardware, input.time_limit_s, input.thorough};
  std::optional<Plan> other = Search(apart).find();
  if (!other) return plan;  // so many whole prompts as the user wants at a time have no room
  if (other->prediction.time_s < plan.prediction.time_s) std::swap(plan, *other);
  plan.candidates.insert(plan.candidates.end(), other->candidates.begin(), other->candidates.end());
  plan.num_too_large += other->num_too_large;
  plan.complete = plan.complete && other->complete;
  plan.planning_s += other->planning_s;
  return plan;
}

Plan plan_by_first_rule(const PlanInput& input) {
  Plan plan;
  plan.policy = choose_policy(input.model, input.workload, input.budgets, input.request, input.kv);
  plan.prediction = predict(input.model, input.hardware, Precision::of(input.model, input.compute, input.kv), plan.policy, input.workload);
  plan.candidates = {{plan.policy, plan.prediction.time_s}};
  return plan;
}

}  // namespace flexgen
