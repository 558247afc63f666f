#include "schedule/cache_store.h"

#include <algorithm>

#include "base/units.h"
#include "memory/placement.h"

namespace flexgen {
int64_t CacheLayout::page_tokens(const Model& model, DType dtype) {
  int64_t tokens = 16;
  while (tokens < 64 && model.kv_geometry(dtype, tokens).page_bytes() < 32 * kKiB) tokens *= 2;
  return tokens;
}

CacheLayout::CacheLayout(const Model& model, const Policy& policy, DType dtype)
    : geometry(model.kv_geometry(dtype, page_tokens(model, dtype))),
      num_layers(model.num_blocks()),
      num_batches(policy.num_micro_batches),
      first_layer(model.first_block()),
      page_stride(round_up(geometry.page_bytes(), kDirectAlignment)) {
  PlacedObject pool{policy.pages_per_micro_batch, page_stride, 1};
  RowSplit split = place({&pool, 1}, policy.kv_cache).front();
  cpu_pages = split.cpu;
  disk_pages = split.disk;
  buffer_bytes = disk_pages * page_stride;
}

int64_t CacheLayout::arena_bytes(const Policy& policy) const {
  return Arena::footprint(num_layers * num_batches * cpu_pages * page_stride) +
         Arena::footprint(policy.buffers * buffer_bytes);
}

CacheStore::CacheStore(const Model& model, const Policy& policy, DType dtype, std::shared_ptr<File> file,
                       Arena& arena, Lanes& lanes)
    : layout_(model, policy, dtype), lanes_(lanes), file_(std::move(file)) {
  resident_ = arena.allocate(layout_.num_layers * layout_.num_batches * layout_.cpu_pages * layout_.page_stride);
  ring_ = StagingRing(arena.allocate(policy.buffers * layout_.buffer_bytes), policy.buffers, layout_.buffer_bytes);
  writes_.resize(static_cast<size_t>(layout_.num_layers));
  FLEXGEN_CHECK(layout_.disk_pages == 0 || file_ != nullptr);
}

const CacheStore::Staged& CacheStore::staged(const BatchPlan& plan) {
  auto& [step, staged] = staged_.try_emplace(plan.batch, -1, Staged{}).first->second;
  if (step == plan.step) return staged;
  step = plan.step;
  staged = {};
  for (const SlotRows& slot : plan.slots)
    for (size_t i = 0; i < slot.pages.size(); ++i) {
      if (slot.pages[i] < layout_.cpu_pages) continue;
      int64_t begin = static_cast<int64_t>(i) * layout_.geometry.page_tokens;
      int64_t end = begin + layout_.geometry.page_tokens;
      staged.pages.push_back(slot.pages[i]);
      if (begin < slot.past) staged.old.push_back(slot.pages[i]);
      if (end > slot.past) staged.dirty.push_back(slot.pages[i]);
    }
  std::sort(staged.pages.begin(), staged.pages.end());
  std::sort(staged.old.begin(), staged.old.end());
  std::sort(staged.dirty.begin(), staged.dirty.end());
  return staged;
}

bool CacheStore::uses_ring(const BatchPlan* plan) {
  return plan && layout_.disk_pages > 0 && !staged(*plan).pages.empty();
}

std::vector<DiskTransfer> CacheStore::transfers(bool write, const Visit& visit, const std::vector<int32_t>& pages,
                                                const std::vector<int32_t>& wanted, std::byte* buffer,
                                                double* bytes) {
  std::vector<DiskTransfer> result;
  size_t place = 0;
  for (int32_t page : wanted) {
    while (pages[place] != page) ++place;
    std::byte* data = buffer + static_cast<int64_t>(place) * layout_.page_stride;
    int64_t offset = layout_.file_offset(visit.layer - layout_.first_layer, visit.batch, page);
    *bytes += static_cast<double>(layout_.page_stride);
    if (!result.empty() && result.back().offset + result.back().bytes == offset &&
        result.back().data + result.back().bytes == data)
      result.back().bytes += layout_.page_stride;
    else
      result.push_back({file_, write, offset, data, layout_.page_stride, {}});
  }
  return result;
}

void CacheStore::issue(const Visit& visit, const BatchPlan& plan) {
  const Staged& what = staged(plan);
  int64_t key = next_key_++;
  keys_[{visit.layer, visit.batch}] = key;
  Work work;
  work.name = "load cache";
  work.step = visit.step;
  work.layer = visit.layer;
  work.batch = visit.batch;
  work.after = ring_.start(key);
  StagingBuffer& buffer = ring_.at(key);
  if (!what.old.empty()) {
    // A page may have been written in an earlier step, by this slot or by the one that had it before.
    auto& writes = writes_[static_cast<size_t>(visit.layer - layout_.first_layer)];
    std::erase_if(writes, [](const Write& w) { return w.done.done() && !w.done.error(); });
    for (const Write& write : writes)
      if (write.step < visit.step) work.after.push_back(write.done);
    work.transfers = transfers(false, visit, what.pages, what.old, buffer.data.data(), &work.bytes);
    buffer.ready.push_back(lanes_.disk_read->submit(std::move(work)));
  } else {
    buffer.ready = std::move(work.after);  // nothing to read: compute itself waits until the buffer is free
  }
}

CacheLease CacheStore::acquire(const Visit& visit, const BatchPlan& plan) {
  if (visit.step != step_) {
    step_ = visit.step;
    keys_.clear();
  }
  CacheLease lease;
  lease.pages = std::make_shared<std::vector<std::vector<std::byte*>>>();
  std::byte* buffer = nullptr;
  const Staged* what = nullptr;
  if (uses_ring(&plan)) {
    auto known = keys_.find({visit.layer, visit.batch});
    if (known == keys_.end()) {
      issue(visit, plan);
      known = keys_.find({visit.layer, visit.batch});
    }
    StagingBuffer& staging = ring_.at(known->second);
    FLEXGEN_CHECK(staging.key == known->second);
    lease.after = staging.ready;
    buffer = staging.data.data();
    what = &staged(plan);
  }
  std::byte* base = resident_.data() +
                    ((visit.layer - layout_.first_layer) * layout_.num_batches + visit.batch) * layout_.cpu_pages * layout_.page_stride;
  for (const SlotRows& slot : plan.slots) {
    auto& pages = lease.pages->emplace_back();
    pages.reserve(slot.pages.size());
    for (int32_t page : slot.pages) {
      if (page < layout_.cpu_pages) {
        pages.push_back(base + page * layout_.page_stride);
      } else {
        auto place = std::lower_bound(what->pages.begin(), what->pages.end(), page) - what->pages.begin();
        pages.push_back(buffer + place * layout_.page_stride);
      }
    }
  }
  for (size_t i = 0; i < plan.slots.size(); ++i)
    lease.slots.push_back({plan.slots[i].first_row, plan.slots[i].num_rows, plan.slots[i].past,
                           (*lease.pages)[i].data(), plan.slots[i].dense_until});
  return lease;
}

void CacheStore::commit(const Visit& visit, const BatchPlan& plan, const Event& done) {
  if (!uses_ring(&plan)) return;
  const Staged& what = staged(plan);
  StagingBuffer& buffer = ring_.at(keys_.at({visit.layer, visit.batch}));
  buffer.in_use = {done};
  if (what.dirty.empty()) return;
  Work work;
  work.name = "store cache";
  work.step = visit.step;
  work.layer = visit.layer;
  work.batch = visit.batch;
  work.after = {done};
  work.transfers = transfers(true, visit, what.pages, what.dirty, buffer.data.data(), &work.bytes);
  Event stored = lanes_.disk_write->submit(std::move(work));
  buffer.in_use.push_back(stored);
  writes_[static_cast<size_t>(visit.layer - layout_.first_layer)].push_back({visit.step, stored});
}

void CacheStore::prefetch(const Visit& visit, std::span<const std::shared_ptr<BatchPlan>> plans) {
  if (layout_.disk_pages == 0) return;
  if (visit.layer == 0 && !visit.last_of_layer()) return;  // the later ones are not planned yet
  // Loads that are issued but whose compute is not: they hold a buffer each.
  int64_t ahead = 0;
  Visit next = visit;
  while (ahead < ring_.count() - 1) {
    next.advance();
    if (next.layer >= layout_.first_layer + layout_.num_layers) return;
    const BatchPlan* plan = plans[static_cast<size_t>(next.batch)].get();
    if (!uses_ring(plan)) continue;
    ++ahead;
    if (!keys_.contains({next.layer, next.batch})) {
      if (next.step != step_) {
        step_ = next.step;
        keys_.clear();
      }
      issue(next, *plan);
    }
  }
}

}  // namespace flexgen
