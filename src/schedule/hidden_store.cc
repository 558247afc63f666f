#include "schedule/hidden_store.h"

#include <algorithm>
#include <numeric>

#include "base/units.h"
#include "memory/placement.h"

namespace flexgen {

HiddenLayout::HiddenLayout(const Model& model, const Policy& policy)
    : row_bytes(model.config().kept_row_floats() * static_cast<int64_t>(sizeof(float))), compute_tier(policy.compute_tier),
      num_batches(policy.num_micro_batches) {
  // Cut where the disk share starts at an aligned address of the staging buffer.
  int64_t grain = kDirectAlignment / std::gcd(row_bytes, kDirectAlignment);
  PlacedObject rows{policy.max_rows, row_bytes, grain};
  const StagedSplit split = staged_split(place({&rows, 1}, policy.activations).front(), compute_tier);
  resident_rows = split.resident;
  host_rows = split.host;
  disk_rows = split.disk;
  resident_bytes = resident_rows * row_bytes;
  host_bytes = host_rows * row_bytes;
  file_stride = round_up(disk_rows * row_bytes, kDirectAlignment);
  buffer_bytes = host_rows + disk_rows > 0 ? round_up(policy.max_rows * row_bytes, kDirectAlignment) : 0;
  if (policy.on_gpu()) bounce_bytes = file_stride;
  choices_per_row = model.config().mixture.experts_per_row;
  choice_bytes = policy.max_rows * choices_per_row * static_cast<int64_t>(sizeof(ExpertChoice));
}

std::vector<MemoryItem> HiddenLayout::memory(const Policy& policy) const {
  const int64_t computed_in = num_batches * Arena::footprint(resident_bytes) + Arena::footprint(policy.buffers * buffer_bytes);
  const int64_t in_ram = num_batches * (Arena::footprint(host_bytes) + Arena::footprint(choice_bytes)) + Arena::footprint(policy.buffers * bounce_bytes);
  if (compute_tier == Tier::kCpu) return {{"activations", Tier::kCpu, computed_in + in_ram}, {"activations spill", Tier::kDisk, file_bytes()}};
  return {{"activations", compute_tier, computed_in}, {"activations in RAM", Tier::kCpu, in_ram}, {"activations spill", Tier::kDisk, file_bytes()}};
}

HiddenStore::HiddenStore(const Model& model, const Policy& policy, std::shared_ptr<File> file, const Arenas& arenas, Lanes& lanes)
    : layout_(model, policy), file_(std::move(file)) {
  for (int64_t batch = 0; batch < layout_.num_batches; ++batch) {
    resident_.push_back(arenas.of(layout_.compute_tier).allocate(layout_.resident_bytes));
    host_.push_back(arenas.cpu->allocate(layout_.host_bytes));
    choices_.push_back(arenas.cpu->allocate(layout_.choice_bytes));
  }
  stager_ = Stager(layout_.compute_tier, arenas, lanes, policy.buffers, layout_.buffer_bytes, layout_.bounce_bytes);
  held_.resize(static_cast<size_t>(layout_.num_batches));
  stored_.resize(static_cast<size_t>(layout_.num_batches));
  free_.resize(static_cast<size_t>(layout_.num_batches));
  FLEXGEN_CHECK(layout_.disk_rows == 0 || file_ != nullptr);
}

Staged HiddenStore::moves(bool write, const Visit& visit, const BatchPlan& plan, int64_t key) {
  Staged result;
  result.name = write ? "store activations" : "load activations";
  result.visit = visit;
  std::byte* rows = stager_.data(key) + layout_.resident_bytes;
  const int64_t host_bytes = std::min(plan.num_rows() - layout_.resident_rows, layout_.host_rows) * layout_.row_bytes;
  std::byte* host = host_[static_cast<size_t>(plan.batch)].data();
  write ? add_copy(&result.copies, rows, host, host_bytes) : add_copy(&result.copies, host, rows, host_bytes);
  const int64_t disk_rows = plan.num_rows() - layout_.resident_rows - layout_.host_rows;
  if (disk_rows <= 0) return result;
  rows += host_bytes;
  std::byte* landed = rows;
  if (layout_.compute_tier == Tier::kGpu) {
    landed = stager_.landing(key);
    const int64_t disk_bytes = disk_rows * layout_.row_bytes;
    write ? add_copy(&result.bounce_copies, rows, landed, disk_bytes) : add_copy(&result.bounce_copies, landed, rows, disk_bytes);
  }
  const int64_t bytes = round_up(disk_rows * layout_.row_bytes, kDirectAlignment);
  result.transfers.push_back({file_, write, plan.batch * layout_.file_stride, landed, bytes, {}});
  result.disk_bytes = static_cast<double>(bytes);
  return result;
}

void HiddenStore::issue(const Visit& visit, const BatchPlan& plan, bool load) {
  int64_t key = next_key_++;
  auto batch = static_cast<size_t>(visit.batch);
  held_[batch] = {visit.step, visit.layer, key, false};
  stager_.start(key);
  if (!load) return;
  Staged what = moves(false, visit, plan, key);
  what.disk_after = {stored_[batch].written};
  what.copies_after = {stored_[batch].copied};
  stager_.load(key, std::move(what));
}

void HiddenStore::acquire(VisitLease& lease) {
  const Visit& visit = lease.visit;
  const BatchPlan& plan = *lease.plan;
  const auto batch = static_cast<size_t>(visit.batch);
  lease.choices = {reinterpret_cast<ExpertChoice*>(choices_[batch].data()), static_cast<size_t>(plan.num_rows() * layout_.choices_per_row)};
  if (!staged(plan)) {
    lease.rows = reinterpret_cast<float*>(resident_[batch].data());
    if (visit.layer == 0) lease.rows_after.push_back(free_[batch]);
    return;
  }
  const Held& held = held_[batch];
  const bool in_place = lease.alone && visit.layer > 0 && held.step == visit.step;
  if (!in_place && !(held.step == visit.step && held.layer == visit.layer)) issue(visit, plan, visit.layer > 0);
  lease.rows = reinterpret_cast<float*>(stager_.data(held.key));
  append(&lease.rows_after, stager_.ready(held.key));
  if (lease.alone) return;
  lease.resident = resident_[batch].data();
  lease.copy_in_bytes = visit.layer > 0 ? layout_.resident_bytes : 0;
  lease.copy_out_bytes = layout_.resident_bytes;
}

void HiddenStore::commit(VisitLease& lease, const Event& done) {
  const BatchPlan& plan = *lease.plan;
  const auto batch = static_cast<size_t>(lease.visit.batch);
  free_[batch] = lease.sent.value_or(done);
  if (!staged(plan)) return;
  const int64_t key = held_[batch].key;
  held_[batch].committed = true;
  stager_.use(key, free_[batch]);
  if (lease.alone || !lease.needed_later) return;
  Staged what = moves(true, lease.visit, plan, key);
  what.disk_after = {stored_[batch].written};
  what.copies_after = {stored_[batch].copied};
  stored_[batch] = stager_.store(key, done, std::move(what));
}

void HiddenStore::prefetch(const Visit& visit, const Ahead& ahead) {
  if (layout_.host_rows + layout_.disk_rows == 0) return;
  if (visit.layer == 0 && !visit.last_of_layer()) return;  // the later ones are not planned yet
  const auto group = ahead.plans.subspan(static_cast<size_t>(visit.group_first), static_cast<size_t>(visit.group_size()));
  const int64_t active = std::count_if(group.begin(), group.end(), [](const auto& plan) { return plan != nullptr; });
  if (active < 2) return;
  Visit next = visit;
  // The producer of a micro-batch's next load is its visit before that: at most active - 1 visits ahead.
  for (int64_t loading = 0; loading < std::min<int64_t>(stager_.count() - 1, active - 1);) {
    next.advance();
    if (next.layer >= ahead.num_layers) return;
    const TakesPlace wanted = ahead.takes_place(next);
    if (wanted == TakesPlace::kNotKnown) return;
    if (wanted == TakesPlace::kNo) continue;
    const BatchPlan* plan = ahead.plans[static_cast<size_t>(next.batch)].get();
    ++loading;
    const Held& held = held_[static_cast<size_t>(next.batch)];
    if (!staged(*plan) || (held.step == next.step && held.layer == next.layer)) continue;
    if (held.step == next.step && !held.committed) return;  // its producer is not enqueued yet
    issue(next, *plan, true);
  }
}

}  // namespace flexgen
