#include "schedule/weight_store.h"

#include <algorithm>

#include "base/units.h"

namespace flexgen {
namespace {

/// The rows of `extent`, whose bytes [from, to) are at `source`, to where they belong after each other.
void copy_rows(std::vector<Copy>* copies, const AlignedExtent& extent, int64_t row_bytes, int64_t from, int64_t to, const std::byte* source, std::byte* rows) {
  const int64_t begin = std::max(from, extent.skip), end = std::min(to, extent.skip + row_bytes);
  if (begin < end) add_copy(copies, source + begin - from, rows + begin - extent.skip, end - begin);
}

/// Those that are not done; a failed one stays, for whoever waits.
const std::vector<Event>& pending(std::vector<Event>& events) {
  std::erase_if(events, [](const Event& event) { return event.done() && !event.error(); });
  return events;
}

}  // namespace

WeightStore::WeightStore(const Model& model, const Policy& policy, FileSystem& files, const Arenas& arenas, Lanes& lanes)
    : model_(model), layout_(model, policy), lanes_(lanes) {
  // A pipeline stage may have no use for some files.
  std::vector<bool> used(model.files().size());
  for (const LayerSpec& layer : model.layers())
    for (const WeightUse& use : layer.uses) {
      const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
      used[static_cast<size_t>(weight.file)] = true;
      if (weight.codes)
        for (const TensorBeside& tensor : weight.codes->beside)
          if (tensor.rows > 0) used[static_cast<size_t>(tensor.file)] = true;
    }
  for (size_t i = 0; i < used.size(); ++i) files_.push_back(used[i] ? model.open_file(i, files) : nullptr);
  Arena& compute = arenas.of(policy.compute_tier);
  resident_ = compute.allocate(layout_.resident_bytes);
  host_ = arenas.cpu->allocate(layout_.host_bytes);
  stager_ = Stager(policy.compute_tier, arenas, lanes, policy.num_weight_buffers(), layout_.buffer_bytes, layout_.bounce_bytes);
  load_ring_ = StagingRing(arenas.cpu->allocate(WeightLayout::kLoadBuffers * layout_.load_buffer_bytes), WeightLayout::kLoadBuffers, layout_.load_buffer_bytes);
  std::vector<int64_t> streamed;
  for (size_t layer = 0; layer < layout_.layers.size(); ++layer)
    if (layout_.layers[layer].ring_index >= 0) streamed.push_back(static_cast<int64_t>(layer));
  order_ = StreamOrder(model, streamed, policy.num_weight_buffers(), policy.max_choosing_rows > 0);
  first_loads_ = FirstLoads(model, std::move(streamed));
  resident_ready_.resize(layout_.layers.size());
  host_ready_.resize(layout_.layers.size());
  load_resident(first_loads_.at_start());
}

void WeightStore::load_resident(std::span<const int64_t> layers) {
  for (int64_t layer : layers) {
    load_in_place(layer);
    if (layout_.compute_tier == Tier::kGpu) load_resident_gpu(layer);
  }
}

/// What the disk can write where it stays: on a CPU the resident share, beside a GPU what is kept in RAM.
void WeightStore::load_in_place(int64_t layer) {
  Work work;
  work.name = kLoadResident;
  work.layer = layer;
  auto add = [&](const AlignedExtent& extent, std::span<std::byte> memory, int64_t row_at) {
    if (extent.bytes == 0) return;
    work.transfers.push_back({files_[static_cast<size_t>(extent.file)], false, extent.offset, memory.data() + row_at - extent.skip, extent.bytes, {}});
    work.bytes += static_cast<double>(extent.bytes);
  };
  for (const WeightLayout::Use& use : layout_.layers[static_cast<size_t>(layer)].uses) {
    if (layout_.compute_tier == Tier::kCpu) add(use.resident, resident_, use.resident_at);
    add(use.host, host_, use.host_at);
    for (const WeightLayout::Beside& beside : use.beside) {
      if (layout_.compute_tier == Tier::kCpu) add(beside.resident, resident_, beside.resident_at);
      add(beside.host, host_, beside.host_at);
    }
  }
  if (work.transfers.empty()) return;
  (layout_.compute_tier == Tier::kCpu ? resident_ready_ : host_ready_)[static_cast<size_t>(layer)].push_back(lanes_.disk_read->submit(std::move(work)));
}

/// Piece by piece through RAM.
void WeightStore::load_resident_gpu(int64_t layer) {
  const LayerSpec& spec = model_.layers()[static_cast<size_t>(layer)];
  const auto load = [&](const AlignedExtent& extent, int64_t wanted, int64_t at) {
    for (int64_t from = 0; from < extent.bytes; from += layout_.load_buffer_bytes) {
      const int64_t to = std::min(from + layout_.load_buffer_bytes, extent.bytes), key = load_key_++;
      Work read, copy;
      read.name = copy.name = kLoadResident;
      read.layer = copy.layer = layer;
      read.after = load_ring_.start(key);
      StagingBuffer& buffer = load_ring_.at(key);
      read.transfers.push_back({files_[static_cast<size_t>(extent.file)], false, extent.offset + from, buffer.data.data(), to - from, {}});
      read.bytes = static_cast<double>(to - from);
      copy.after = {lanes_.disk_read->submit(std::move(read))};
      copy_rows(&copy.copies, extent, wanted, from, to, buffer.data.data(), resident_.data() + at);
      copy.bytes = bytes_of(copy.copies);
      buffer.in_use = {lanes_.h2d->submit(std::move(copy))};
      resident_ready_[static_cast<size_t>(layer)].push_back(buffer.in_use.front());
    }
  };
  for (size_t i = 0; i < spec.uses.size(); ++i) {
    const WeightLayout::Use& use = layout_.layers[static_cast<size_t>(layer)].uses[i];
    load(use.resident, use.resident_rows * model_.weights()[static_cast<size_t>(spec.uses[i].weight)].row_bytes(), use.resident_at);
    for (const WeightLayout::Beside& beside : use.beside) load(beside.resident, beside.resident_wanted, beside.resident_at);
  }
}

void WeightStore::choose(int64_t first_unit, std::span<const int32_t> rows_of_expert) {
  rows_of_expert_.assign(rows_of_expert.begin(), rows_of_expert.end());
  std::vector<bool> wanted;
  for (auto layer = static_cast<size_t>(first_unit); layer < model_.layers().size() && model_.layers()[layer].kind == LayerKind::kExperts; ++layer)
    wanted.push_back(layer + 1 == model_.layers().size() || model_.layers()[layer].rows_that_chose(rows_of_expert) > 0);
  order_.choose(first_unit, wanted);
}

bool WeightStore::is_wanted(const Loading& loading, size_t use) const {
  const LayerSpec& layer = model_.layers()[static_cast<size_t>(loading.object.layer)];
  if (layer.uses[use].lookup) return false;
  return layer.kind != LayerKind::kExperts || !loading.chosen_alone || rows_of_expert_[static_cast<size_t>(layer.expert_of_use(use))] > 0;
}

void WeightStore::issue(const Loading& loading, int64_t num_pieces) {
  const int64_t layer = loading.object.layer, key = loading.number, piece = loading.pieces_issued;
  const WeightLayout::Layer& placed = layout_.layers[static_cast<size_t>(layer)];
  const LayerSpec& spec = model_.layers()[static_cast<size_t>(layer)];
  load_resident(first_loads_.before_streaming(loading.object.place));
  if (!stager_.holds(key)) stager_.start(key);
  Staged what;
  what.name = "load weights";
  what.copies_after = pending(host_ready_[static_cast<size_t>(layer)]);
  what.visit = {loading.object.pass, layer, 0};  // the pass, strictly
  // The piece [from, to) of what the disk gives, and of what RAM gives a GPU, cut at aligned offsets whatever tensor lies there.
  auto part = [&](int64_t bytes) {
    const int64_t share = round_up(ceil_div(bytes, num_pieces), 1 << 20);
    const int64_t from = std::min(bytes, piece * share);
    return std::pair{from, std::min(bytes, from + share)};
  };
  const auto disk_part = part(placed.streamed_bytes), host_part = part(placed.host_bytes);
  const bool on_gpu = layout_.compute_tier == Tier::kGpu;
  // Of what lies in `host` and `streamed`, after each other at `to` in a GPU's memory.
  const auto bring = [&](const AlignedExtent& host, int64_t host_wanted, int64_t host_at, const AlignedExtent& streamed, int64_t streamed_wanted,
                         int64_t streamed_at, std::byte* to) {
    const int64_t host_first = host_at - host.skip - placed.host_at;  // of the extent in the layer's part
    int64_t begin = std::max(host_part.first, host_first), end = std::min(host_part.second, host_first + host.bytes);
    if (begin < end) copy_rows(&what.copies, host, host_wanted, begin - host_first, end - host_first, host_.data() + placed.host_at + begin, to);
    begin = std::max(disk_part.first, streamed_at), end = std::min(disk_part.second, streamed_at + streamed.bytes);
    if (begin >= end) return;
    std::byte* const landed = stager_.landing(key) + begin;
    what.transfers.push_back({files_[static_cast<size_t>(streamed.file)], false, streamed.offset + begin - streamed_at, landed, end - begin, {}});
    what.disk_bytes += static_cast<double>(end - begin);
    if (on_gpu) copy_rows(&what.bounce_copies, streamed, streamed_wanted, begin - streamed_at, end - streamed_at, landed, to + host_wanted);
  };
  for (size_t i = 0; i < spec.uses.size(); ++i) {
    const WeightLayout::Use& use = placed.uses[i];
    if (!is_wanted(loading, i)) continue;
    const int64_t row_bytes = model_.weights()[static_cast<size_t>(spec.uses[i].weight)].row_bytes();
    std::byte* const staged = stager_.data(key);
    for (const WeightLayout::Beside& beside : use.beside)
      bring(beside.host, beside.host_wanted, beside.host_at, beside.streamed, beside.streamed_wanted, beside.streamed_at, staged + beside.staged_at);
    bring(use.host, use.host_rows * row_bytes, use.host_at, use.streamed, use.streamed_rows * row_bytes, use.streamed_at, staged + use.staged_at);
  }
  stager_.load(key, std::move(what));
}

void WeightStore::acquire(VisitLease& lease) {
  const Visit& visit = lease.visit;
  const WeightLayout::Layer& layout = layout_.layers[static_cast<size_t>(visit.layer)];
  const LayerSpec& spec = model_.layers()[static_cast<size_t>(visit.layer)];
  const std::byte* staged = nullptr;
  load_resident(first_loads_.before_visit(visit.layer));
  if (layout.ring_index >= 0) {
    const int64_t wanted = order_.acquire(visit, [this](const Loading& loading, int64_t num_pieces) { issue(loading, num_pieces); });
    append(&lease.after, stager_.ready(wanted));
    staged = stager_.data(wanted);
  }
  append(&lease.after, pending(resident_ready_[static_cast<size_t>(visit.layer)]));
  for (size_t i = 0; i < spec.uses.size(); ++i) {
    const WeightLayout::Use& use = layout.uses[layout.uses[i].within < 0 ? i : static_cast<size_t>(layout.uses[i].within)];
    const WeightSpec& weight = model_.weights()[static_cast<size_t>(spec.uses[i].weight)];
    WeightView view{weight.dtype, spec.uses[i].rows, weight.cols, {}, weight.codes ? &weight.codes->format : nullptr};
    if (!use.lookup) {
      if (use.resident_rows > 0) view.pieces.push_back({resident_.data() + use.resident_at, use.resident_rows});
      if (use.host_rows + use.streamed_rows > 0) view.pieces.push_back({staged + use.staged_at, use.host_rows + use.streamed_rows});
      for (size_t part = 0; part < use.beside.size(); ++part) {
        const WeightLayout::Beside& beside = use.beside[part];
        if (beside.resident_wanted > 0) view.pieces.front().beside[part] = resident_.data() + beside.resident_at;
        if (beside.host_wanted + beside.streamed_wanted > 0) view.pieces.back().beside[part] = staged + beside.staged_at;
      }
      if (weight.is_part()) view.pieces.front() = weight.codes->part_of(weight.dtype, view.pieces.front());
    }
    lease.weights.push_back(std::move(view));
  }
}

void WeightStore::leave(const Visit& visit, const Event& done) {
  // One lane computes in order, so the last visit's event covers the earlier ones. (A head that nobody visited may not be there.)
  const int64_t used = order_.number_of(visit.pass, visit.layer);
  if (visit.last_of_layer() && used >= 0) stager_.use(used, done);
}

void WeightStore::prefetch(const Visit& visit, const Ahead&) {
  order_.prefetch(visit, [this](const Loading& loading, int64_t num_pieces) { issue(loading, num_pieces); });
}

WeightStore::RowPlace WeightStore::place_of_row(int64_t layer, size_t use, int64_t row) const {
  const WeightLayout::Use& placed = layout_.layers[static_cast<size_t>(layer)].uses[use];
  const int64_t row_bytes = model_.weights()[static_cast<size_t>(model_.layers()[static_cast<size_t>(layer)].uses[use].weight)].row_bytes();
  if (row < placed.resident_rows) return {resident_.data() + placed.resident_at + row * row_bytes, nullptr};
  row -= placed.resident_rows;
  if (row < placed.host_rows) return {nullptr, host_.data() + placed.host_at + row * row_bytes};
  return {};
}

void WeightStore::load_table(std::vector<Event>* resident, std::vector<Event>* host) {
  load_resident(first_loads_.before_lookup());
  for (int64_t layer : first_loads_.lookup_layers()) {
    append(resident, pending(resident_ready_[static_cast<size_t>(layer)]));
    append(host, pending(host_ready_[static_cast<size_t>(layer)]));
  }
}

}  // namespace flexgen
