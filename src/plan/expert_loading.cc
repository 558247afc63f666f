#include "plan/expert_loading.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "base/units.h"
#include "plan/weight_layouts.h"
#include "schedule/expert_hits.h"

namespace flexgen {
namespace {

/// Where nothing was measured.
constexpr double kHalfChosen = 0.5;

int64_t batches_of_a_pass(const Policy& policy) { return ceil_div(policy.num_micro_batches, policy.num_groups); }

/// Layers of a kind, and what a pass loads of them.
struct LayersOfKind {
  const LayerSpec* one = nullptr;
  double count = 0;
  ChosenBytes bytes;
  std::vector<size_t> layers;
};

/// A pass's sparse blocks, attention without what depends on the length of texts.
class SparseBlocks {
 public:
  SparseBlocks(WeightLayouts& layouts, const HardwareProfile& hardware, const Precision& precision, const Policy& policy)
      : model_(layouts.model()), alike_(layouts.alike()), hardware_(hardware), precision_(precision), policy_(policy), layout_(layouts.layout(policy)) {
    for (size_t i = 0; i < model_.layers().size(); ++i) {
      const bool is_unit = model_.layers()[i].kind == LayerKind::kExperts;
      if (!is_unit && !model_.chooses_experts(static_cast<int64_t>(i))) continue;
      std::vector<LayersOfKind>& kinds = is_unit ? units_ : attention_;
      const auto is_kind = [&](const LayersOfKind& kind) { return alike_.kind_of(kind.layers.front()) == alike_.kind_of(i); };
      auto of = std::find_if(kinds.begin(), kinds.end(), is_kind);
      if (of == kinds.end()) of = kinds.insert(kinds.end(), LayersOfKind{&model_.layers()[i], 0, {}, {}});
      of->count += 1;
      of->bytes.disk += static_cast<double>(layout_->layers[i].streamed_bytes);
      of->bytes.host += static_cast<double>(layout_->layers[i].host_bytes);
      of->layers.push_back(i);
    }
  }

  bool is_faster_chosen(int64_t rows_of_pass) const {
    const auto rows = static_cast<double>(rows_of_pass);
    const double batches = std::min(rows, static_cast<double>(batches_of_a_pass(policy_))), each = rows / batches;
    double attend_s = 0, attention_read_s = 0, waits_s = 0, all_s = 0, all_read_s = 0, chosen_s = 0, chosen_read_s = 0;
    for (const LayersOfKind& of : attention_) {
      attend_s += of.count * batches * outer_visit_time_s(hardware_, precision_, policy_, *of.one, each);
      attention_read_s += read_s(of.count, of.bytes);
      waits_s += of.count * processor_of(hardware_, policy_).visit_s;
    }
    for (const LayersOfKind& of : units_) {
      const double hit = mean_hit_share(of, each);
      all_s += of.count * batches * outer_visit_time_s(hardware_, precision_, policy_, *of.one, each);
      chosen_s += of.count * batches * hit * outer_visit_time_s(hardware_, precision_, policy_, *of.one, each, hit);
      all_read_s += read_s(of.count, of.bytes);
      chosen_read_s += read_s(of.count * mean_hit_share(of, rows), all_chosen_bytes(of, rows));
    }
    if (policy_.buffers == 1) return chosen_s + chosen_read_s + waits_s < all_s + all_read_s;
    // While it is not known what to read, nothing is read.
    return attend_s + waits_s + std::max(chosen_s, attention_read_s + chosen_read_s) < std::max(attend_s + all_s, attention_read_s + all_read_s);
  }

 private:
  // Where nothing is known of experts, one layer says it of all.
  double mean_hit_share(const LayersOfKind& of, double rows) const {
    if (!model_.expert_chances()) return hit_share_of(alike_.log_miss(of.layers.front()), rows);
    double sum = 0;
    for (size_t layer : of.layers) sum += hit_share_of(alike_.log_miss(layer), rows);
    return sum / of.count;
  }
  ChosenBytes all_chosen_bytes(const LayersOfKind& of, double rows) const {
    const double hit = expert_hit_share(model_, rows);
    if (!model_.expert_chances()) return {of.bytes.disk * hit, of.bytes.host * hit};
    ChosenBytes sum;
    for (size_t layer : of.layers) {
      const ChosenBytes of_layer = chosen_bytes(model_, model_.layers()[layer], layout_->layers[layer], rows);
      sum.disk += of_layer.disk;
      sum.host += of_layer.host;
    }
    return sum;
  }
  /// Until so many layers are there: to a GPU all goes over the bus, while the disk reads what comes next.
  double read_s(double count, const ChosenBytes& bytes) const {
    const double disk_s = bytes.disk > 0 ? count * hardware_.disk.request_s + bytes.disk / hardware_.disk.read_bytes_per_s : 0;
    if (!policy_.on_gpu() || bytes.disk + bytes.host <= 0) return disk_s;
    return std::max(disk_s, count * hardware_.copy_s + (bytes.disk + bytes.host) / hardware_.h2d_bytes_per_s);
  }

  const Model& model_;
  const AlikeLayers& alike_;
  const HardwareProfile& hardware_;
  const Precision& precision_;
  const Policy& policy_;
  const std::shared_ptr<const WeightLayout> layout_;
  std::vector<LayersOfKind> attention_, units_;
};

}  // namespace

int64_t choosing_rows(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy) {
  if (!model.config().is_mixture()) return 0;
  WeightLayouts layouts(model);
  return choosing_rows(layouts, hardware, precision, policy);
}

int64_t choosing_rows(WeightLayouts& layouts, const HardwareProfile& hardware, const Precision& precision, const Policy& policy) {
  if (!layouts.model().config().is_mixture()) return 0;
  const SparseBlocks blocks(layouts, hardware, precision, policy);
  const int64_t most = policy.max_rows * batches_of_a_pass(policy);
  int64_t low = 0, high = 1;  // the more rows, the less is saved
  while (high <= most && blocks.is_faster_chosen(high)) {
    low = high;
    high *= 2;
  }
  high = std::min(high, most + 1);
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (blocks.is_faster_chosen(middle) ? low : high) = middle;
  }
  return low;
}

int64_t choosing_rows_by_rule(const Model& model) {
  const Mixture& mixture = model.config().mixture;
  if (!model.config().is_mixture() || mixture.experts_per_row >= mixture.num_experts) return 0;
  const double miss = 1 - static_cast<double>(mixture.experts_per_row) / static_cast<double>(mixture.num_experts);
  return static_cast<int64_t>(std::log(1 - kHalfChosen) / std::log(miss));
}

bool knows_hottest(const Model& model) { return model.expert_chances() && model.expert_chances()->are_counted(); }

void refuse_loading_of_experts(const Model& model, const PolicyRequest& request) {
  if (request.max_choosing_rows && !model.config().is_mixture())
    fail_user("--load-experts: this model ({}) is no mixture of experts; leave it out", model.config().model_type);
}

std::string experts_text(const Model& model, const Policy& policy) {
  if (!model.config().is_mixture()) return "";
  const int64_t most = policy.max_rows * batches_of_a_pass(policy), rows = std::min(policy.max_choosing_rows, most);
  const std::string placed = policy.hottest_first ? "; in memory are those that were chosen most often" : "";
  if (rows == 0) return "each step loads all experts, ahead of their use" + placed;
  const std::string share = fmt::format("of {} {} {:.0f}% of them are expected to be chosen", rows, rows == 1 ? "token" : "tokens",
                                        100 * expert_hit_share(model, static_cast<double>(rows)));
  if (rows == most) return fmt::format("each step loads the experts that its tokens choose, once that is known ({}){}", share, placed);
  return fmt::format("steps of up to {} {} load the experts that these choose, once that is known ({}); larger ones load all, ahead of their use{}", rows,
                     rows == 1 ? "token" : "tokens", share, placed);
}

}  // namespace flexgen
