#include "schedule/weight_store.h"

#include <algorithm>
#include <map>

#include "base/units.h"
#include "memory/placement.h"

namespace flexgen {

AlignedExtent AlignedExtent::around(int file, int64_t offset, int64_t bytes) {
  AlignedExtent extent;
  extent.file = file;
  extent.offset = round_down(offset, kDirectAlignment);
  extent.skip = offset - extent.offset;
  extent.bytes = bytes == 0 ? 0 : round_up(extent.skip + bytes, kDirectAlignment);
  return extent;
}

WeightLayout::WeightLayout(const Model& model, const Policy& policy) {
  std::vector<PlacedObject> objects;
  for (const LayerSpec& layer : model.layers())
    for (const WeightUse& use : layer.uses) {
      const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
      if (!use.lookup && !weight.always_resident)
        objects.push_back({use.rows, weight.row_bytes(), kWeightGrainRows});
    }
  std::vector<RowSplit> splits = place(objects, policy.weights);

  // A tensor used twice whole (a norm shared by the head's chunks) is kept once.
  std::map<int, int64_t> resident_whole;
  size_t next_object = 0;
  for (const LayerSpec& spec : model.layers()) {
    Layer layer;
    for (const WeightUse& wanted : spec.uses) {
      const WeightSpec& weight = model.weights()[static_cast<size_t>(wanted.weight)];
      Use use;
      use.lookup = wanted.lookup;
      if (wanted.lookup) {
        bool tied = std::any_of(model.layers().begin(), model.layers().end(), [&](const LayerSpec& other) {
          return other.kind == LayerKind::kHead &&
                 std::any_of(other.uses.begin(), other.uses.end(),
                             [&](const WeightUse& u) { return u.weight == wanted.weight; });
        });
        // Looked-up rows cost next to nothing to read, so the table takes RAM only if everything does, or if it is smaller than
        // the room for rows on their way in.
        const int64_t row_room = round_up(weight.row_bytes(), kDirectAlignment) + kDirectAlignment;
        const bool small = weight.bytes() <= policy.num_micro_batches * policy.max_rows * row_room;
        if (policy.weights.disk <= 0 ? !tied : small) use.resident_rows = wanted.rows;
        else if (policy.weights.disk > 0) lookup_row_bytes = row_room;
      } else if (weight.always_resident) {
        use.resident_rows = wanted.rows;
      } else {
        const RowSplit& split = splits[next_object++];
        use.resident_rows = split.cpu;
        use.streamed_rows = split.disk;
      }
      int64_t start = weight.offset + wanted.row_first * weight.row_bytes();
      use.resident = AlignedExtent::around(weight.file, start, use.resident_rows * weight.row_bytes());
      use.streamed = AlignedExtent::around(weight.file, start + use.resident_rows * weight.row_bytes(),
                                           use.streamed_rows * weight.row_bytes());
      bool shared = weight.always_resident && wanted.rows == weight.rows;
      auto known = shared ? resident_whole.find(wanted.weight) : resident_whole.end();
      if (known != resident_whole.end()) {
        use.resident_at = known->second;
        use.resident.bytes = 0;  // already being loaded
      } else {
        use.resident_at = resident_bytes;
        resident_bytes += use.resident.bytes;
        if (shared) resident_whole[wanted.weight] = use.resident_at;
      }
      use.streamed_at = layer.streamed_bytes;
      layer.streamed_bytes += use.streamed.bytes;
      layer.uses.push_back(use);
    }
    if (layer.streamed_bytes > 0) layer.ring_index = num_streamed_layers++;
    buffer_bytes = std::max(buffer_bytes, layer.streamed_bytes);
    streamed_bytes_per_step += layer.streamed_bytes;
    layers.push_back(std::move(layer));
  }
}

int64_t WeightLayout::arena_bytes(const Policy& policy) const {
  return Arena::footprint(resident_bytes) + Arena::footprint(policy.buffers * buffer_bytes) +
         policy.num_micro_batches * Arena::footprint(policy.max_rows * lookup_row_bytes);
}

WeightStore::WeightStore(const Model& model, const Policy& policy, FileSystem& files, Arena& arena, Lanes& lanes)
    : model_(model), layout_(model, policy), lanes_(lanes) {
  // A pipeline stage may have no use for some files.
  std::vector<bool> used(model.files().size());
  for (const LayerSpec& layer : model.layers())
    for (const WeightUse& use : layer.uses) used[static_cast<size_t>(model.weights()[static_cast<size_t>(use.weight)].file)] = true;
  for (size_t i = 0; i < used.size(); ++i) files_.push_back(used[i] ? files.open(model.files()[i], FileMode::kReadDirect) : nullptr);
  resident_ = arena.allocate(layout_.resident_bytes);
  ring_ = StagingRing(arena.allocate(policy.buffers * layout_.buffer_bytes), policy.buffers, layout_.buffer_bytes);
  for (int64_t batch = 0; batch < policy.num_micro_batches; ++batch)
    lookup_memory_.push_back(arena.allocate(policy.max_rows * layout_.lookup_row_bytes));
  lookup_in_use_.resize(static_cast<size_t>(policy.num_micro_batches));

  for (size_t layer = 0; layer < layout_.layers.size(); ++layer) {
    if (layout_.layers[layer].ring_index >= 0) ring_layers_.push_back(static_cast<int64_t>(layer));
    Work work;
    work.name = "load resident weights";
    work.layer = static_cast<int64_t>(layer);
    for (const WeightLayout::Use& use : layout_.layers[layer].uses) {
      if (use.resident.bytes == 0) continue;
      work.transfers.push_back({files_[static_cast<size_t>(use.resident.file)], false, use.resident.offset,
                                resident_.data() + use.resident_at, use.resident.bytes, {}});
      work.bytes += static_cast<double>(use.resident.bytes);
    }
    if (!work.transfers.empty()) resident_ready_.push_back(lanes_.disk_read->submit(std::move(work)));
  }
}

void WeightStore::wait_resident() {
  for (const Event& event : resident_ready_) event.wait();
  resident_ready_.clear();
}

int64_t WeightStore::key(int64_t pass, int64_t layer) const {
  return pass * layout_.num_streamed_layers + layout_.layers[static_cast<size_t>(layer)].ring_index;
}

void WeightStore::issue(int64_t key, int64_t piece, int64_t num_pieces) {
  int64_t layer = ring_layers_[static_cast<size_t>(key % layout_.num_streamed_layers)];
  const WeightLayout::Layer& spec = layout_.layers[static_cast<size_t>(layer)];
  Work work;
  if (!ring_.holds(key)) work.after = ring_.start(key);
  StagingBuffer& buffer = ring_.at(key);
  work.name = "load weights";
  work.step = key / layout_.num_streamed_layers;  // the pass, strictly
  work.layer = layer;
  // The piece [from, to) of the buffer, cut at aligned offsets whatever tensor lies there.
  int64_t share = round_up(ceil_div(spec.streamed_bytes, num_pieces), 1 << 20);
  int64_t from = std::min(spec.streamed_bytes, piece * share);
  int64_t to = std::min(spec.streamed_bytes, from + share);
  for (const WeightLayout::Use& use : spec.uses) {
    int64_t begin = std::max(from, use.streamed_at), end = std::min(to, use.streamed_at + use.streamed.bytes);
    if (begin >= end) continue;
    work.transfers.push_back({files_[static_cast<size_t>(use.streamed.file)], false,
                              use.streamed.offset + begin - use.streamed_at, buffer.data.data() + begin,
                              end - begin, {}});
    work.bytes += static_cast<double>(end - begin);
  }
  if (!work.transfers.empty() || !work.after.empty())
    buffer.ready.push_back(lanes_.disk_read->submit(std::move(work)));
}

WeightLease WeightStore::acquire(const Visit& visit) {
  const WeightLayout::Layer& layout = layout_.layers[static_cast<size_t>(visit.layer)];
  const LayerSpec& spec = model_.layers()[static_cast<size_t>(visit.layer)];
  WeightLease lease;
  const std::byte* staged = nullptr;
  if (layout.ring_index >= 0) {
    int64_t wanted = key(visit.pass, visit.layer);
    while (issued_key_ < wanted) {  // not prefetched: the start of the run, or a single buffer
      FLEXGEN_CHECK(pieces_issued_ == 0);
      issue(++issued_key_, 0, 1);
    }
    StagingBuffer& buffer = ring_.at(wanted);
    FLEXGEN_CHECK(buffer.key == wanted);
    lease.after = buffer.ready;
    staged = buffer.data.data();
  }
  for (size_t i = 0; i < spec.uses.size(); ++i) {
    const WeightLayout::Use& use = layout.uses[i];
    const WeightSpec& weight = model_.weights()[static_cast<size_t>(spec.uses[i].weight)];
    WeightView view{weight.dtype, spec.uses[i].rows, weight.cols, {}};
    if (!use.lookup) {
      if (use.resident_rows > 0)
        view.pieces.push_back({resident_.data() + use.resident_at + use.resident.skip, use.resident_rows});
      if (use.streamed_rows > 0)
        view.pieces.push_back({staged + use.streamed_at + use.streamed.skip, use.streamed_rows});
    }
    lease.views.push_back(std::move(view));
  }
  return lease;
}

void WeightStore::commit(const Visit& visit, const Event& done) {
  const WeightLayout::Layer& layout = layout_.layers[static_cast<size_t>(visit.layer)];
  if (layout.ring_index < 0) return;
  StagingBuffer& buffer = ring_.at(key(visit.pass, visit.layer));
  // One lane computes in order, so the last visit's event covers the earlier ones.
  if (visit.last_of_layer()) buffer.in_use = {done};
}

void WeightStore::prefetch(const Visit& visit) {
  if (layout_.num_streamed_layers == 0 || ring_.count() < 2) return;
  const WeightLayout::Layer& layout = layout_.layers[static_cast<size_t>(visit.layer)];
  if (layout.ring_index < 0) return;
  // The buffer after the newest ones was freed by the layer before this one.
  int64_t furthest = key(visit.pass, visit.layer) + ring_.count() - 1;
  while (issued_key_ + 1 < furthest) {  // start of the run: fill the ring
    issue(++issued_key_, 0, 1);
  }
  if (issued_key_ >= furthest) return;
  // Visits that the executor skipped at the start of a pass left their pieces to this one.
  while (pieces_issued_ <= visit.batch - visit.group_first) issue(furthest, pieces_issued_++, visit.group_size());
  if (pieces_issued_ == visit.group_size()) {
    issued_key_ = furthest;
    pieces_issued_ = 0;
  }
}

std::vector<const std::byte*> WeightStore::lookup(const Visit& visit, std::span<const int32_t> tokens,
                                                  std::vector<Event>* after) {
  const LayerSpec& embed = model_.layers()[static_cast<size_t>(visit.layer)];
  size_t at = 0;
  while (!embed.uses[at].lookup) ++at;
  const WeightUse& table = embed.uses[at];
  const WeightSpec& weight = model_.weights()[static_cast<size_t>(table.weight)];
  const WeightLayout::Use& own = layout_.layers[static_cast<size_t>(visit.layer)].uses[at];

  auto batch = static_cast<size_t>(visit.batch);
  Work work;
  work.name = "look up embeddings";
  work.step = visit.step;
  work.batch = visit.batch;
  std::byte* staging = lookup_memory_[batch].data();
  std::map<int32_t, const std::byte*> found;
  std::vector<const std::byte*> rows;
  rows.reserve(tokens.size());
  for (int32_t token : tokens) {
    auto [entry, is_new] = found.try_emplace(token, nullptr);
    if (is_new) {
      const std::byte* resident = nullptr;
      if (token < own.resident_rows)
        resident = resident_.data() + own.resident_at + own.resident.skip + token * weight.row_bytes();
      // A tied table: rows of it are resident as the head's.
      for (size_t layer = 0; !resident && layer < model_.layers().size(); ++layer) {
        const LayerSpec& other = model_.layers()[layer];
        if (other.kind != LayerKind::kHead) continue;
        for (size_t i = 0; i < other.uses.size(); ++i) {
          const WeightLayout::Use& use = layout_.layers[layer].uses[i];
          int64_t row = token - other.uses[i].row_first;
          if (other.uses[i].weight == table.weight && row >= 0 && row < use.resident_rows)
            resident = resident_.data() + use.resident_at + use.resident.skip + row * weight.row_bytes();
        }
      }
      if (!resident) {
        auto extent = AlignedExtent::around(weight.file, weight.offset + token * weight.row_bytes(), weight.row_bytes());
        work.transfers.push_back({files_[static_cast<size_t>(extent.file)], false, extent.offset, staging,
                                  extent.bytes, {}});
        work.bytes += static_cast<double>(extent.bytes);
        resident = staging + extent.skip;
        staging += layout_.lookup_row_bytes;
      }
      entry->second = resident;
    }
    rows.push_back(entry->second);
  }
  if (!work.transfers.empty()) {
    work.after = {lookup_in_use_[batch]};
    after->push_back(lanes_.disk_lookup->submit(std::move(work)));
  }
  return rows;
}

void WeightStore::commit_lookup(int64_t batch, const Event& done) {
  lookup_in_use_[static_cast<size_t>(batch)] = done;
}

}  // namespace flexgen
