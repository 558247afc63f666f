#include "schedule/weight_layout.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <utility>

#include "backend/device.h"
#include "base/error.h"
#include "base/units.h"
#include "io/aligned_buffer.h"
#include "memory/arena.h"
#include "memory/placement.h"
#include "schedule/lookup_layout.h"

namespace flexgen {
namespace {

/// A GPU's resident share is loaded in pieces of this.
constexpr int64_t kLoadPiece = 8 << 20;

/// Rows that are not cut apart: of a quantized matrix also those that have their scales in common, and all where rows do not lie together.
int64_t grain_of(const WeightSpec& weight) {
  if (!weight.codes) return kWeightGrainRows;
  return is_transposed(weight.dtype) ? weight.stored_rows() : std::min(weight.rows, std::lcm(kWeightGrainRows, weight.codes->grain_rows));
}

/// Rows that are loaded for a use.
int64_t rows_of(const WeightUse& use, const WeightSpec& weight) { return weight.is_part() ? weight.stored_rows() : use.rows; }

/// Of the weights that are placed, the shares of experts and those of all others, which go to the faster tiers first: each step reads them whole, and of experts a small step reads the chosen ones.
struct PlacedShares {
  Fractions others, experts;
};
PlacedShares placed_shares(const Fractions& shares, double other_bytes, double expert_bytes) {
  if (expert_bytes <= 0 || shares.gpu >= 1 || shares.cpu >= 1 || shares.disk >= 1) return {shares, shares};
  const double bytes = other_bytes + expert_bytes;
  auto within = [](double part, double whole) { return whole > 0 ? std::clamp(part / whole, 0.0, 1.0) : 0; };
  auto filled_up = [](double gpu, double cpu) {
    const double disk = 1 - gpu - cpu;
    return Fractions{gpu, disk < 1e-9 ? 1 - gpu : cpu, disk < 1e-9 ? 0 : disk};
  };
  const double other_gpu = std::min(other_bytes, shares.gpu * bytes), other_cpu = std::min(other_bytes - other_gpu, shares.cpu * bytes);
  return {filled_up(within(other_gpu, other_bytes), within(other_cpu, other_bytes)),
          filled_up(within(shares.gpu * bytes - other_gpu, expert_bytes), within(shares.cpu * bytes - other_cpu, expert_bytes))};
}

/// Experts' objects, as many to an expert and one expert after the other, by the experts' blocks: those that are chosen most often first.
std::vector<std::vector<size_t>> hottest_first(const Model& model) {
  std::vector<std::vector<size_t>> groups;
  std::vector<size_t> first_object;  // of the block's experts, in the order of their numbers, and the end
  size_t object = 0;
  for (size_t i = 0; i < model.layers().size(); ++i) {
    const LayerSpec& layer = model.layers()[i];
    if (layer.kind != LayerKind::kExperts) continue;
    for (size_t use = 0; use < layer.uses.size(); ++use) {
      if (static_cast<size_t>(layer.expert_of_use(use)) == first_object.size()) first_object.push_back(object);
      if (!model.weights()[static_cast<size_t>(layer.uses[use].weight)].always_resident) ++object;
    }
    const bool is_last = i + 1 == model.layers().size() || model.layers()[i + 1].kind != LayerKind::kExperts;
    if (!is_last) continue;
    first_object.push_back(object);
    std::vector<size_t>& group = groups.emplace_back();
    for (int32_t expert : model.expert_chances()->hottest_first(layer.index))
      for (size_t own = first_object[static_cast<size_t>(expert)]; own < first_object[static_cast<size_t>(expert) + 1]; ++own) group.push_back(own);
    first_object.clear();
  }
  return groups;
}

/// Places one layer after the other, and adds up what they take.
class LayerPlacer {
 public:
  LayerPlacer(const Model& model, const Policy& policy, WeightSums* sums)
      : model_(model), on_gpu_(policy.on_gpu()), sums_(*sums), lookup_(model, policy), resident_whole_(model.weights().size(), -1) {
    sums_.compute_tier = policy.compute_tier;
    const bool in_order = policy.hottest_first && model.expert_chances() != nullptr;
    std::vector<PlacedObject> experts;  // where their order is not that of the layers
    std::array<double, 2> bytes{};      // of experts the second
    for (const LayerSpec& layer : model.layers())
      for (const WeightUse& use : layer.uses) {
        const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
        if (use.lookup || weight.always_resident) continue;
        bytes[kind_of(layer)] += static_cast<double>(use.rows * weight.row_bytes());
        if (in_order && kind_of(layer) == 1) experts.push_back({use.rows, weight.row_bytes(), grain_of(weight)});
      }
    const PlacedShares shares = placed_shares(policy.weights, bytes[0], bytes[1]);
    placers_ = {Placer(shares.others), Placer(shares.experts)};
    if (in_order) ordered_ = place_in_order(experts, hottest_first(model), shares.experts);
  }

  /// The next layer of the model.
  WeightLayout::Layer next(const LayerSpec& spec, bool keeps_uses) {
    WeightLayout::Layer layer;
    layer.host_at = sums_.host_bytes;
    if (keeps_uses) layer.uses.reserve(spec.uses.size());
    for (size_t i = 0; i < spec.uses.size(); ++i) {
      const size_t with = model_.loaded_with(spec, i);
      WeightLayout::Use use;
      if (with == i) use = place_use(spec.uses[i], kind_of(spec), &layer);
      else use.within = static_cast<int>(with);
      if (keeps_uses) layer.uses.push_back(std::move(use));
    }
    if (layer.staged_bytes > 0) layer.ring_index = sums_.num_streamed_layers++;
    sums_.host_bytes += layer.host_bytes;
    sums_.buffer_bytes = std::max(sums_.buffer_bytes, layer.staged_bytes);
    if (on_gpu_) sums_.bounce_bytes = std::max(sums_.bounce_bytes, layer.streamed_bytes);
    sums_.streamed_bytes_per_step += layer.streamed_bytes;
    sums_.staged_bytes_per_step += layer.staged_bytes;
    return layer;
  }

 private:
  static size_t kind_of(const LayerSpec& layer) { return layer.kind == LayerKind::kExperts ? 1 : 0; }

  /// Rows of a weight of which some may be on disk.
  StagedSplit split_of(const WeightUse& wanted, const WeightSpec& weight, size_t kind) {
    const bool in_order = kind == 1 && !ordered_.empty();
    return staged_split(in_order ? ordered_[next_ordered_++] : placers_[kind]->next({rows_of(wanted, weight), weight.row_bytes(), grain_of(weight)}),
                        sums_.compute_tier);
  }

  WeightLayout::Use place_use(const WeightUse& wanted, size_t kind, WeightLayout::Layer* layer) {
    const WeightSpec& weight = model_.weights()[static_cast<size_t>(wanted.weight)];
    FLEXGEN_CHECK(weight.turned_of == 0, "{} is stored transposed and was not prepared", weight.name);
    WeightLayout::Use use;
    use.lookup = wanted.lookup;
    if (wanted.lookup) {
      use.resident_rows = lookup_.resident_rows;
      use.host_rows = lookup_.host_rows;
    } else if (weight.always_resident) {
      use.resident_rows = wanted.rows;
    } else {
      const StagedSplit split = split_of(wanted, weight, kind);
      use.resident_rows = split.resident;
      use.host_rows = split.host;
      use.streamed_rows = split.disk;
    }
    const int64_t row_bytes = weight.row_bytes(), start = weight.offset + wanted.row_first * row_bytes;
    use.resident = AlignedExtent::around(weight.file, start, use.resident_rows * row_bytes);
    use.host = AlignedExtent::around(weight.file, start + use.resident_rows * row_bytes, use.host_rows * row_bytes);
    use.streamed = AlignedExtent::around(weight.file, start + (use.resident_rows + use.host_rows) * row_bytes, use.streamed_rows * row_bytes);
    const bool shared = weight.always_resident && wanted.rows == weight.rows;
    int64_t& whole_at = resident_whole_[static_cast<size_t>(wanted.weight)];
    if (shared && whole_at >= 0) {
      use.resident_at = whole_at;
      use.resident.bytes = 0;  // already being loaded
    } else {
      use.resident_at = sums_.resident_bytes + (on_gpu_ ? 0 : use.resident.skip);
      sums_.resident_bytes += on_gpu_ ? round_up(use.resident_rows * row_bytes, kDeviceAlignment) : use.resident.bytes;
      if (on_gpu_) sums_.load_buffer_bytes = std::max(sums_.load_buffer_bytes, std::min(use.resident.bytes, kLoadPiece));
      if (shared) whole_at = use.resident_at;
    }
    layer->resident_bytes += use.resident.bytes;
    use.host_at = layer->host_at + layer->host_bytes + use.host.skip;
    layer->host_bytes += use.host.bytes;
    use.streamed_at = layer->streamed_bytes;
    layer->streamed_bytes += use.streamed.bytes;
    use.staged_at = on_gpu_ ? layer->staged_bytes : use.streamed_at + use.streamed.skip;
    if (!wanted.lookup) layer->staged_bytes += on_gpu_ ? round_up((use.host_rows + use.streamed_rows) * row_bytes, kDeviceAlignment) : use.streamed.bytes;
    if (weight.codes) place_beside(*weight.codes, wanted, &use, layer);
    return use;
  }

  /// Places the tensors beside a matrix's codes.
  void place_beside(const CodeTensors& tensors, const WeightUse& wanted, WeightLayout::Use* use, WeightLayout::Layer* layer) {
    use->beside.reserve(tensors.beside.size());
    for (const TensorBeside& tensor : tensors.beside) {
      WeightLayout::Beside& placed = use->beside.emplace_back();
      int64_t row = wanted.row_first;
      const auto extent_of = [&](int64_t rows, int64_t* bytes) {
        const auto [first, count] = tensor.range(row, rows);
        row += rows;
        *bytes = count;
        return AlignedExtent::around(tensor.file, first, count);
      };
      placed.resident = extent_of(use->resident_rows, &placed.resident_wanted);
      placed.host = extent_of(use->host_rows, &placed.host_wanted);
      placed.streamed = extent_of(use->streamed_rows, &placed.streamed_wanted);
      if (tensor.rows_each == 0 && placed.host_wanted > 0) placed.streamed = {}, placed.streamed_wanted = 0;
      placed.resident_at = sums_.resident_bytes + (on_gpu_ ? 0 : placed.resident.skip);
      sums_.resident_bytes += on_gpu_ ? round_up(placed.resident_wanted, kDeviceAlignment) : placed.resident.bytes;
      if (on_gpu_) sums_.load_buffer_bytes = std::max(sums_.load_buffer_bytes, std::min(placed.resident.bytes, kLoadPiece));
      placed.host_at = layer->host_at + layer->host_bytes + placed.host.skip;
      layer->host_bytes += placed.host.bytes;
      placed.streamed_at = layer->streamed_bytes;
      layer->streamed_bytes += placed.streamed.bytes;
      placed.staged_at = on_gpu_ ? layer->staged_bytes : placed.streamed_at + placed.streamed.skip;
      layer->staged_bytes += on_gpu_ ? round_up(placed.host_wanted + placed.streamed_wanted, kDeviceAlignment) : placed.streamed.bytes;
    }
  }

  const Model& model_;
  const bool on_gpu_;
  WeightSums& sums_;
  const LookupLayout lookup_;
  std::array<std::optional<Placer>, 2> placers_;  ///< of experts the second
  std::vector<RowSplit> ordered_;                 ///< of experts' weights in the layers' order, where others than the first come first
  size_t next_ordered_ = 0;
  std::vector<int64_t> resident_whole_;  ///< a weight that is kept whole: where; a tensor used twice (a norm shared by the head's chunks) is kept once
};

}  // namespace

AlignedExtent AlignedExtent::around(int file, int64_t offset, int64_t bytes) {
  AlignedExtent extent;
  extent.file = file;
  extent.offset = round_down(offset, kDirectAlignment);
  extent.skip = offset - extent.offset;
  extent.bytes = bytes == 0 ? 0 : round_up(extent.skip + bytes, kDirectAlignment);
  return extent;
}

WeightSums WeightSums::of(const Model& model, const Policy& policy) {
  WeightSums sums;
  LayerPlacer placer(model, policy, &sums);
  for (const LayerSpec& spec : model.layers()) placer.next(spec, false);
  return sums;
}

std::vector<MemoryItem> WeightSums::memory(const Policy& policy) const {
  std::vector<MemoryItem> items{{"weights, resident", compute_tier, Arena::footprint(resident_bytes)},
                                {"weights, staging buffers", compute_tier, Arena::footprint(policy.num_weight_buffers() * buffer_bytes)}};
  if (compute_tier == Tier::kCpu) return items;
  items.push_back({"weights in RAM", Tier::kCpu, Arena::footprint(host_bytes)});
  items.push_back({"weights, bounce buffers", Tier::kCpu,
                   Arena::footprint(policy.num_weight_buffers() * bounce_bytes) + Arena::footprint(kLoadBuffers * load_buffer_bytes)});
  return items;
}

WeightLayout::WeightLayout(const Model& model, const Policy& policy, Kept kept) {
  LayerPlacer placer(model, policy, this);
  layers.reserve(model.layers().size());
  for (const LayerSpec& spec : model.layers()) layers.push_back(placer.next(spec, kept == Kept::kAll || spec.kind != LayerKind::kExperts));
}

}  // namespace flexgen
