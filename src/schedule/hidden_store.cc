#include "schedule/hidden_store.h"

#include <algorithm>
#include <numeric>

#include "base/units.h"
#include "memory/placement.h"

namespace flexgen {

HiddenLayout::HiddenLayout(const Model& model, const Policy& policy)
    : row_bytes(model.config().hidden_size * static_cast<int64_t>(sizeof(float))),
      num_batches(policy.num_micro_batches) {
  // Cut where the disk share starts at an aligned address of the staging buffer.
  int64_t grain = kDirectAlignment / std::gcd(row_bytes, kDirectAlignment);
  PlacedObject rows{policy.max_rows, row_bytes, grain};
  RowSplit split = place({&rows, 1}, policy.activations).front();
  cpu_rows = split.cpu;
  disk_rows = split.disk;
  resident_bytes = cpu_rows * row_bytes;
  file_stride = round_up(disk_rows * row_bytes, kDirectAlignment);
  buffer_bytes = disk_rows > 0 ? round_up(policy.max_rows * row_bytes, kDirectAlignment) : 0;
}

int64_t HiddenLayout::arena_bytes(const Policy& policy) const {
  return num_batches * Arena::footprint(resident_bytes) + Arena::footprint(policy.buffers * buffer_bytes);
}

HiddenStore::HiddenStore(const Model& model, const Policy& policy, std::shared_ptr<File> file, Arena& arena,
                         Lanes& lanes, StageLink link)
    : layout_(model, policy), lanes_(lanes), link_(link), file_(std::move(file)) {
  for (int64_t batch = 0; batch < layout_.num_batches; ++batch)
    resident_.push_back(arena.allocate(layout_.resident_bytes));
  ring_ = StagingRing(arena.allocate(policy.buffers * layout_.buffer_bytes), policy.buffers, layout_.buffer_bytes);
  held_.resize(static_cast<size_t>(layout_.num_batches));
  for (auto* events : {&stored_, &computed_, &sent_}) events->resize(static_cast<size_t>(layout_.num_batches));
  FLEXGEN_CHECK(layout_.disk_rows == 0 || file_ != nullptr);
  const auto num_layers = static_cast<int64_t>(model.layers().size());
  while (first_head_layer_ < num_layers && model.layers()[static_cast<size_t>(first_head_layer_)].kind != LayerKind::kHead) ++first_head_layer_;
}

DiskTransfer HiddenStore::transfer(bool write, const BatchPlan& plan, std::byte* buffer) const {
  int64_t bytes = round_up((plan.num_rows() - layout_.cpu_rows) * layout_.row_bytes, kDirectAlignment);
  return {file_, write, plan.batch * layout_.file_stride, buffer + layout_.resident_bytes, bytes, {}};
}

int64_t HiddenStore::issue(const Visit& visit, const BatchPlan& plan, bool load) {
  int64_t key = next_key_++;
  auto batch = static_cast<size_t>(visit.batch);
  held_[batch] = {visit.step, visit.layer, key};
  std::vector<Event> free = ring_.start(key);
  StagingBuffer& buffer = ring_.at(key);
  if (!load) {
    buffer.ready = std::move(free);
    return key;
  }
  Work work;
  work.name = "load activations";
  work.step = visit.step;
  work.layer = visit.layer;
  work.batch = visit.batch;
  work.after = std::move(free);
  work.after.push_back(stored_[batch]);
  work.transfers.push_back(transfer(false, plan, buffer.data.data()));
  work.bytes = static_cast<double>(work.transfers.front().bytes);
  buffer.ready.push_back(lanes_.disk_read->submit(std::move(work)));
  return key;
}

Event HiddenStore::receive(const Visit& visit, const BatchPlan& plan, std::byte* rows, std::vector<Event> free) {
  Work work;
  work.name = "receive activations";
  work.step = visit.step;
  work.batch = visit.batch;
  work.after = std::move(free);
  const auto bytes = static_cast<size_t>(plan.num_rows() * layout_.row_bytes);
  work.bytes = static_cast<double>(bytes);
  work.start = [link = link_, rows, bytes](double at_s) {
    return link.port->receive(link.stage() - 1, Channel::kHidden, std::span(rows, bytes), at_s);
  };
  return lanes_.network_receive->submit(std::move(work));
}

Event HiddenStore::send(const Visit& visit, const BatchPlan& plan, const std::byte* rows, const Event& done) {
  Work work;
  work.name = "send activations";
  work.step = visit.step;
  work.layer = visit.layer;
  work.batch = visit.batch;
  work.after = {done};
  const auto bytes = static_cast<size_t>(plan.num_rows() * layout_.row_bytes);
  work.bytes = static_cast<double>(bytes);
  work.start = [link = link_, rows, bytes](double at_s) {
    return link.port->send(link.stage() + 1, Channel::kHidden, std::span(rows, bytes), at_s);
  };
  return lanes_.network_send->submit(std::move(work));
}

HiddenLease HiddenStore::acquire(const Visit& visit, const BatchPlan& plan, bool alone) {
  auto batch = static_cast<size_t>(visit.batch);
  HiddenLease lease;
  if (!staged(plan)) {
    lease.rows = reinterpret_cast<float*>(resident_[batch].data());
    if (visit.layer == 0) lease.after = {sent_[batch]};
    if (visit.layer == 0 && !link_.is_first()) lease.after = {receive(visit, plan, resident_[batch].data(), {computed_[batch], sent_[batch]})};
    return lease;
  }
  const Held& held = held_[batch];
  bool in_place = alone && visit.layer > 0 && held.step == visit.step;
  if (!in_place && !(held.step == visit.step && held.layer == visit.layer)) issue(visit, plan, visit.layer > 0);
  StagingBuffer& buffer = ring_.at(held.key);
  FLEXGEN_CHECK(buffer.key == held.key);
  if (visit.layer == 0 && !link_.is_first()) buffer.ready = {receive(visit, plan, buffer.data.data(), std::move(buffer.ready))};
  lease.rows = reinterpret_cast<float*>(buffer.data.data());
  lease.after = buffer.ready;
  if (visit.layer == 0) lease.after.push_back(sent_[batch]);
  if (!alone) {
    lease.resident = resident_[batch].data();
    lease.copy_in_bytes = visit.layer > 0 ? layout_.resident_bytes : 0;
    lease.copy_out_bytes = layout_.resident_bytes;
  }
  return lease;
}

void HiddenStore::commit(const Visit& visit, const BatchPlan& plan, bool alone, bool needed_later, const Event& done) {
  auto batch = static_cast<size_t>(visit.batch);
  computed_[batch] = done;
  const bool goes_on = !needed_later && !link_.is_last();
  if (!staged(plan)) {
    if (goes_on) sent_[batch] = send(visit, plan, resident_[batch].data(), done);
    return;
  }
  StagingBuffer& buffer = ring_.at(held_[batch].key);
  buffer.in_use = {done};
  if (goes_on) {
    sent_[batch] = send(visit, plan, buffer.data.data(), done);
    buffer.in_use.push_back(sent_[batch]);
  }
  if (alone || !needed_later) return;
  Work work;
  work.name = "store activations";
  work.step = visit.step;
  work.layer = visit.layer;
  work.batch = visit.batch;
  work.after = {done, stored_[batch]};
  work.transfers.push_back(transfer(true, plan, buffer.data.data()));
  work.bytes = static_cast<double>(work.transfers.front().bytes);
  stored_[batch] = lanes_.disk_write->submit(std::move(work));
  buffer.in_use.push_back(stored_[batch]);
}

void HiddenStore::prefetch(const Visit& visit, std::span<const std::shared_ptr<BatchPlan>> plans, int64_t last_layer) {
  if (layout_.disk_rows == 0) return;
  if (visit.layer == 0 && !visit.last_of_layer()) return;  // the later ones are not planned yet
  int64_t active = std::count_if(plans.begin() + visit.group_first, plans.begin() + visit.group_end, [](const auto& plan) { return plan != nullptr; });
  if (active < 2) return;
  Visit next = visit;
  // The producer of a micro-batch's next load is its visit of the layer before: at most active - 1 visits ahead.
  for (int64_t ahead = 0; ahead < std::min<int64_t>(ring_.count() - 1, active - 1);) {
    next.advance();
    if (next.layer > last_layer) return;
    const BatchPlan* plan = plans[static_cast<size_t>(next.batch)].get();
    if (!plan || (next.layer >= first_head_layer_ && plan->logit_rows.empty())) continue;
    ++ahead;
    const Held& held = held_[static_cast<size_t>(next.batch)];
    if (staged(*plan) && !(held.step == next.step && held.layer == next.layer)) issue(next, *plan, true);
  }
}

}  // namespace flexgen
