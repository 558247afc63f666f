#include "schedule/row_lookup.h"

#include <map>

namespace flexgen {

RowLookup::RowLookup(const Model& model, const Policy& policy, WeightStore& weights, const Arenas& arenas, Lanes& lanes)
    : model_(model), layout_(model, policy), on_gpu_(policy.on_gpu()), weights_(weights), lanes_(lanes) {
  for (int64_t batch = 0; batch < policy.num_micro_batches; ++batch) {
    staging_.push_back(arenas.of(policy.compute_tier).allocate(policy.max_rows * layout_.row_bytes));
    bounce_.push_back(arenas.cpu->allocate(policy.max_rows * layout_.bounce_bytes));
  }
  in_use_.resize(static_cast<size_t>(policy.num_micro_batches));
  if (!layout_.table) return;
  const WeightUse& table = model.layers().front().uses[*layout_.table];
  readers_.push_back({0, *layout_.table, table.row_first, table.rows});
  for (size_t layer = 0; layer < model.layers().size(); ++layer) {
    const LayerSpec& spec = model.layers()[layer];
    for (size_t use = 0; spec.kind == LayerKind::kHead && use < spec.uses.size(); ++use)
      if (spec.uses[use].weight == table.weight) readers_.push_back({static_cast<int64_t>(layer), use, spec.uses[use].row_first, spec.uses[use].rows});
  }
}

WeightStore::RowPlace RowLookup::find(int32_t row) const {
  for (const Reader& reader : readers_) {
    if (row < reader.row_first || row >= reader.row_first + reader.rows) continue;
    const WeightStore::RowPlace place = weights_.place_of_row(reader.layer, reader.use, row - reader.row_first);
    if (place.resident || place.host) return place;
  }
  return {};
}

void RowLookup::acquire(VisitLease& lease) {
  const Visit& visit = lease.visit;
  if (!looks_up(visit)) return;
  const WeightSpec& weight = model_.weights()[static_cast<size_t>(model_.layers().front().uses[*layout_.table].weight)];
  const auto batch = static_cast<size_t>(visit.batch);
  Work read, copy;
  read.name = copy.name = "look up embeddings";
  read.step = copy.step = visit.step;
  read.batch = copy.batch = visit.batch;
  std::byte* staging = staging_[batch].data();
  std::byte* bounce = bounce_[batch].data();
  std::map<int32_t, const std::byte*> found;
  lease.looked_up.reserve(lease.plan->tokens.size());
  for (int32_t token : lease.plan->tokens) {
    auto [entry, is_new] = found.try_emplace(token, nullptr);
    if (is_new) {
      const WeightStore::RowPlace place = find(token);
      entry->second = place.resident;
      if (!place.resident) {
        int64_t skip = 0;
        if (place.host) {
          add_copy(&copy.copies, place.host, staging, weight.row_bytes());
        } else {
          auto extent = AlignedExtent::around(weight.file, weight.offset + token * weight.row_bytes(), weight.row_bytes());
          std::byte* landed = on_gpu_ ? bounce : staging;
          read.transfers.push_back({weights_.file(extent.file), false, extent.offset, landed, extent.bytes, {}});
          read.bytes += static_cast<double>(extent.bytes);
          skip = extent.skip;
          if (on_gpu_) add_copy(&copy.copies, bounce, staging, extent.bytes);
          bounce += layout_.bounce_bytes;
        }
        entry->second = staging + skip;
        staging += layout_.row_bytes;
      }
    }
    lease.looked_up.push_back(entry->second);
  }
  weights_.load_table(&lease.after, &copy.after);
  if (!read.transfers.empty()) {
    read.after = {in_use_[batch]};
    lease.after.push_back(lanes_.disk_lookup->submit(std::move(read)));
    copy.after.push_back(lease.after.back());
  }
  if (!copy.copies.empty()) {
    copy.after.push_back(in_use_[batch]);
    copy.bytes = bytes_of(copy.copies);
    lease.after.push_back(lanes_.h2d_small->submit(std::move(copy)));
  }
}

/// The staged rows are in use until then.
void RowLookup::commit(VisitLease& lease, const Event& done) {
  if (looks_up(lease.visit)) in_use_[static_cast<size_t>(lease.visit.batch)] = done;
}

}  // namespace flexgen
