#include "plan/timed_stores.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace flexgen {

TimedWeights::TimedWeights(WeightLayouts& layouts, const Policy& policy, ExpectedVisits& visits, TimedLanes& lanes)
    : model_(layouts.model()), on_gpu_(policy.on_gpu()), layout_(layouts.layout(policy)), visits_(visits), lanes_(lanes),
      resident_ready_s_(layout_->layers.size()), host_ready_s_(layout_->layers.size()), free_s_(static_cast<size_t>(policy.num_weight_buffers())),
      ready_s_(static_cast<size_t>(policy.num_weight_buffers())), bounces_(static_cast<size_t>(policy.num_weight_buffers())) {
  std::vector<int64_t> streamed;
  for (size_t layer = 0; layer < layout_->layers.size(); ++layer)
    if (layout_->layers[layer].ring_index >= 0) streamed.push_back(static_cast<int64_t>(layer));
  order_ = StreamOrder(model_, streamed, policy.num_weight_buffers(), policy.max_choosing_rows > 0);
  first_loads_ = FirstLoads(model_, std::move(streamed));
}

void TimedWeights::load_resident(std::span<const int64_t> layers) {
  for (int64_t index : layers) {
    const auto layer = static_cast<size_t>(index);
    const WeightLayout::Layer& placed = layout_->layers[layer];
    const auto resident_bytes = static_cast<double>(placed.resident_bytes);
    if (placed.host_bytes > 0) host_ready_s_[layer] = lanes_.read(static_cast<double>(placed.host_bytes), 0);
    if (resident_bytes <= 0) continue;
    const double begun_s = lanes_.next_read_s(), there_s = lanes_.read(resident_bytes, 0);
    // To a GPU in small pieces, each copied while the next ones are read.
    resident_ready_s_[layer] = on_gpu_ ? std::max(there_s, lanes_.copy_up(resident_bytes, begun_s)) : there_s;
  }
}

void TimedWeights::issue(const StreamOrder::Loading& loading, int64_t num_pieces) {
  const auto layer = static_cast<size_t>(loading.object.layer);
  const size_t buffer = ring(loading.number);
  load_resident(first_loads_.before_streaming(loading.object.place));
  const WeightLayout::Layer& placed = layout_->layers[layer];
  const double share = 1.0 / static_cast<double>(num_pieces);
  double disk_share = 1, host_share = 1;  // of the layer's bytes: of a unit those of experts that are chosen
  if (loading.chosen_alone && model_.layers()[layer].kind == LayerKind::kExperts) {
    const HitShares& hit = visits_.hits_of(layer);
    disk_share = hit.disk;
    host_share = hit.host;
  }
  const double from_disk = share * disk_share * static_cast<double>(placed.streamed_bytes), free_s = free_s_[buffer];
  if (!on_gpu_) {
    ready_s_[buffer] = lanes_.read(from_disk, free_s);
    return;
  }
  double ready_s = lanes_.copy_up(share * host_share * static_cast<double>(placed.host_bytes), std::max(free_s, host_ready_s_[layer]));
  if (from_disk > 0) {
    // The pieces of a layer have a place each in its bounce buffer: they wait for the layer that had it before, not for each other.
    Bounce& bounce = bounces_[buffer];
    if (bounce.number != loading.number) bounce = {loading.number, bounce.copied_s, 0};
    ready_s = bounce.copied_s = lanes_.copy_up(from_disk, std::max(free_s, lanes_.read(from_disk, bounce.free_s)));
  }
  ready_s_[buffer] = std::max(ready_s, free_s);
}

void TimedWeights::acquire(TimedVisit& visit) {
  const auto layer = static_cast<size_t>(visit.visit.layer);
  load_resident(first_loads_.before_visit(visit.visit.layer));
  visit.after_s = std::max(visit.after_s, resident_ready_s_[layer]);
  if (layout_->layers[layer].ring_index < 0) return;
  const int64_t number = order_.acquire(visit.visit, [this](const StreamOrder::Loading& loading, int64_t num_pieces) { issue(loading, num_pieces); });
  visit.after_s = std::max(visit.after_s, ready_s_[ring(number)]);
}

void TimedWeights::prefetch(const Visit& visit) {
  order_.prefetch(visit, [this](const StreamOrder::Loading& loading, int64_t num_pieces) { issue(loading, num_pieces); });
}

void TimedWeights::leave(const Visit& visit) {
  if (!visit.last_of_layer()) return;
  // One lane computes in order, so the last visit's end covers the earlier ones.
  const int64_t number = order_.number_of(visit.pass, visit.layer);
  if (number >= 0) free_s_[ring(number)] = lanes_.computed_s();
}

double TimedWeights::load_table() {
  load_resident(first_loads_.before_lookup());
  double ready_s = 0;
  for (int64_t layer : first_loads_.lookup_layers())
    ready_s = std::max({ready_s, resident_ready_s_[static_cast<size_t>(layer)], host_ready_s_[static_cast<size_t>(layer)]});
  return ready_s;
}

TimedLookup::TimedLookup(const Model& model, const Policy& policy, TimedWeights& weights, TimedLanes& lanes)
    : layout_(model, policy), weights_(weights), lanes_(lanes), vocabulary_(static_cast<double>(model.config().vocab_size)) {
  if (!layout_.table || (policy.on_gpu() ? layout_.bounce_bytes : layout_.row_bytes) == 0) return;
  const int table = model.layers().front().uses[*layout_.table].weight;
  auto in_memory = static_cast<double>(layout_.resident_rows + layout_.host_rows);
  for (size_t layer = 0; layer < model.layers().size(); ++layer) {
    const LayerSpec& spec = model.layers()[layer];
    const std::vector<WeightLayout::Use>& placed = weights.layout().layers[layer].uses;
    for (size_t use = 0; spec.kind == LayerKind::kHead && use < placed.size(); ++use)
      if (spec.uses[use].weight == table) in_memory += static_cast<double>(placed[use].resident_rows + placed[use].host_rows);
  }
  disk_share_ = std::max(0.0, 1 - in_memory / vocabulary_);
}

void TimedLookup::look_up(TimedVisit& visit) {
  visit.after_s = std::max(visit.after_s, weights_.load_table());
  if (disk_share_ <= 0) return;
  const double distinct = disk_share_ * vocabulary_ * -std::expm1(visit.load->rows * std::log1p(-1 / vocabulary_));
  visit.after_s = std::max(visit.after_s, lanes_.look_up(distinct, distinct * static_cast<double>(layout_.row_bytes)));
}

TimedCache::TimedCache(const Model& model, const Policy& policy, DType kv_dtype, TimedLanes& lanes)
    : layout_(model, policy, kv_dtype), lanes_(lanes), free_s_(static_cast<size_t>(policy.buffers)), bounce_free_s_(static_cast<size_t>(policy.buffers)) {}

void TimedCache::begin_step(const StepLoad& load) {
  before_ += acquired_;
  issued_ = acquired_ = 0;
  visits_.clear();
  ready_s_.clear();
  for (int64_t cache = 0; cache < layout_.num_caches() && !layout_.all_resident(); ++cache)
    for (const BatchLoad& batch : load.batches)
      if (is_staged(batch, cache)) visits_.push_back({cache, &moves_of(batch, cache)});
}

void TimedCache::issue() {
  const auto& [cache, moves] = visits_[static_cast<size_t>(issued_)];
  const size_t buffer = ring(issued_);
  const double free_s = free_s_[buffer];
  const auto page_bytes = static_cast<double>(layout_.group_of_cache(cache).page_stride);
  double ready_s = free_s;
  if (layout_.tier != Tier::kGpu) {
    if (moves->old_disk > 0) ready_s = lanes_.read(moves->old_disk * page_bytes, free_s);
  } else {
    ready_s = lanes_.copy_up(moves->old_host * page_bytes, free_s);
    if (moves->old_disk > 0)
      ready_s = lanes_.copy_up(moves->old_disk * page_bytes, std::max(free_s, lanes_.read(moves->old_disk * page_bytes, bounce_free_s_[buffer])));
  }
  ready_s_.push_back(ready_s);
  ++issued_;
}

void TimedCache::acquire_pages(TimedVisit& visit) {
  visit.stages_pages = !layout_.all_resident() && is_staged(*visit.load, visit.layer->cache);
  if (!visit.stages_pages) return;
  while (issued_ <= acquired_) issue();
  visit.attention_after_s = ready_s_[static_cast<size_t>(acquired_)];
}

void TimedCache::store(const TimedVisit& visit, double done_s) {
  const bool on_gpu = layout_.tier == Tier::kGpu;
  const auto page_bytes = static_cast<double>(layout_.group_of_cache(visit.layer->cache).page_stride);
  const PageMoves& moves = moves_of(*visit.load, visit.layer->cache);
  const double copied_s = on_gpu ? lanes_.copy_down((moves.dirty_disk + moves.dirty_host) * page_bytes, done_s) : done_s;
  const double written_s = moves.dirty_disk > 0 ? lanes_.write(moves.dirty_disk * page_bytes, copied_s) : copied_s;
  const size_t buffer = ring(acquired_++);
  free_s_[buffer] = on_gpu ? copied_s : written_s;
  bounce_free_s_[buffer] = written_s;
}

TimedHidden::TimedHidden(const Model& model, const Policy& policy, TimedLanes& lanes)
    : layout_(model, policy), on_gpu_(policy.on_gpu()), single_buffer_(policy.buffers == 1), num_layers_(std::ssize(model.layers())), lanes_(lanes),
      stored_s_(static_cast<size_t>(policy.num_micro_batches)) {}

double TimedHidden::load(double rows, double after_s) {
  const auto row_bytes = static_cast<double>(layout_.row_bytes);
  const double on_host = std::min(rows, static_cast<double>(layout_.host_rows)), on_disk = rows - on_host;
  if (!on_gpu_) return lanes_.read(on_disk * row_bytes, after_s);
  double ready_s = lanes_.copy_up(on_host * row_bytes, after_s);
  if (on_disk > 0) ready_s = std::max(ready_s, lanes_.copy_up(on_disk * row_bytes, lanes_.read(on_disk * row_bytes, after_s)));
  return ready_s;
}

double TimedHidden::store(double rows, double after_s) {
  const auto row_bytes = static_cast<double>(layout_.row_bytes);
  const double on_disk = rows - std::min(rows, static_cast<double>(layout_.host_rows));
  if (on_gpu_) after_s = lanes_.copy_down(rows * row_bytes, after_s);
  return on_disk > 0 ? lanes_.write(on_disk * row_bytes, after_s) : after_s;
}

void TimedHidden::acquire_moved(TimedVisit& visit) {
  visit.moved_rows = std::max(0.0, visit.load->rows - static_cast<double>(layout_.resident_rows));
  if (visit.moved_rows <= 0 || visit.visit.layer == 0) return;
  visit.after_s = std::max(visit.after_s, load(visit.moved_rows, single_buffer_ ? last_stored_s_ : stored_s_[static_cast<size_t>(visit.visit.batch)]));
}

TimedStores::TimedStores(WeightLayouts& layouts, const Policy& policy, DType kv_dtype, ExpectedVisits& visits, TimedLanes& lanes)
    : weights(layouts, policy, visits, lanes), lookup(layouts.model(), policy, weights, lanes), cache(layouts.model(), policy, kv_dtype, lanes),
      hidden(layouts.model(), policy, lanes) {}

}  // namespace flexgen
