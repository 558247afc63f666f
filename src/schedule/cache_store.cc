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
      page_stride(round_up(geometry.page_bytes(), kDirectAlignment)),
      tier(policy.attention_tier) {
  for (const LayerSpec& layer : model.layers()) cache_of.push_back(layer.cache);
  const auto split_of = [&](int64_t pages) {
    const PlacedObject pool{pages, page_stride, 1};
    return staged_split(place({&pool, 1}, policy.kv_cache).front(), tier);
  };
  const StagedSplit own = split_of(policy.pages_per_micro_batch), prefix = split_of(policy.prefix_pages);
  resident_pages = own.resident;
  host_pages = own.host;
  disk_pages = own.disk;
  prefix_resident_pages = prefix.resident;
  prefix_host_pages = prefix.host;
  prefix_disk_pages = prefix.disk;
  // A visit may want all of the micro-batch's and all that is shared.
  buffer_bytes = (host_pages + disk_pages + prefix_host_pages + prefix_disk_pages) * page_stride;
  if (tier == Tier::kGpu) bounce_bytes = (disk_pages + prefix_disk_pages) * page_stride;
}

CacheLayout::Place CacheLayout::place_of(int64_t batch, int64_t page) const {
  const bool prefix = is_prefix(page);
  const auto place = [&](Share share, int64_t own_pages) -> Place { return {share, prefix ? num_batches * own_pages + page : batch * own_pages + page}; };
  if (prefix) page -= num_pages();
  const int64_t resident = prefix ? prefix_resident_pages : resident_pages, host = prefix ? prefix_host_pages : host_pages;
  if (page < resident) return place(Share::kResident, resident_pages);
  page -= resident;
  if (page < host) return place(Share::kHost, host_pages);
  page -= host;
  return place(Share::kDisk, disk_pages);
}

int64_t CacheLayout::shared_positions(const SlotRows& a, const SlotRows& b) const {
  if (tier != Tier::kCpu) return 0;  // a GPU's kernels go slot by slot
  const int64_t most = std::min(a.past, b.past) / geometry.page_tokens;
  int64_t pages = 0;
  while (pages < most && a.pages[static_cast<size_t>(pages)] == b.pages[static_cast<size_t>(pages)]) ++pages;
  return pages * geometry.page_tokens;
}

int64_t CacheLayout::buffers_arena_bytes(const Policy& policy, Tier of_tier) const {
  int64_t bytes = of_tier == tier ? Arena::footprint(policy.buffers * buffer_bytes) : 0;
  if (of_tier == Tier::kCpu) bytes += Arena::footprint(policy.buffers * bounce_bytes);
  return bytes;
}

int64_t CacheLayout::arena_bytes(const Policy& policy, Tier of_tier) const {
  int64_t bytes = buffers_arena_bytes(policy, of_tier);
  if (of_tier == tier) bytes += Arena::footprint(share_bytes(Share::kResident));
  if (of_tier == Tier::kCpu) bytes += Arena::footprint(share_bytes(Share::kHost));
  return bytes;
}

CacheStore::CacheStore(const Model& model, const Policy& policy, DType dtype, std::shared_ptr<File> file,
                       const Arenas& arenas, Lanes& lanes)
    : layout_(model, policy, dtype), file_(std::move(file)) {
  resident_ = arenas.of(layout_.tier).allocate(layout_.share_bytes(CacheLayout::Share::kResident));
  host_ = arenas.cpu->allocate(layout_.share_bytes(CacheLayout::Share::kHost));
  stager_ = Stager(layout_.tier, arenas, lanes, policy.buffers, layout_.buffer_bytes, layout_.bounce_bytes);
  writes_.resize(static_cast<size_t>(layout_.num_layers));
  FLEXGEN_CHECK(layout_.file_bytes() == 0 || file_ != nullptr);
}

const CacheStore::Passing& CacheStore::passing(const BatchPlan& plan) {
  auto& [step, what] = passing_.try_emplace(plan.batch, -1, Passing{}).first->second;
  if (step == plan.step) return what;
  step = plan.step;
  what = {};
  Passing::Places fresh;  // empty before this step: what reads them reads what it writes
  for (const SlotRows& slot : plan.slots)
    for (size_t i = 0; i < slot.pages.size(); ++i) {
      const CacheLayout::Place place = layout_.place_of(plan.batch, slot.pages[i]);
      if (place.share == CacheLayout::Share::kResident) continue;
      int64_t begin = static_cast<int64_t>(i) * layout_.geometry.page_tokens;
      int64_t end = begin + layout_.geometry.page_tokens;
      what.pages.push_back(place);
      if (begin < slot.past) what.old.push_back(place);
      else fresh.push_back(place);
      if (end > slot.past) what.dirty.push_back(place);
    }
  const auto settle = [](Passing::Places& places) {
    std::sort(places.begin(), places.end());
    places.erase(std::unique(places.begin(), places.end()), places.end());
  };
  for (Passing::Places* places : {&what.pages, &what.old, &what.dirty, &fresh}) settle(*places);
  std::erase_if(what.old, [&](const CacheLayout::Place& place) { return std::binary_search(fresh.begin(), fresh.end(), place); });
  what.num_host = std::count_if(what.pages.begin(), what.pages.end(), [](const CacheLayout::Place& place) { return place.share == CacheLayout::Share::kHost; });
  return what;
}

bool CacheStore::uses_ring(const BatchPlan* plan) { return plan && !layout_.all_resident() && !passing(*plan).pages.empty(); }

Staged CacheStore::moves(bool write, const Visit& visit, const Passing& what, const Passing::Places& wanted, int64_t key) {
  Staged result;
  result.name = write ? "store cache" : "load cache";
  result.visit = visit;
  std::byte* data = stager_.data(key);
  std::byte* landing = stager_.landing(key);
  const int64_t stride = layout_.page_stride;
  const bool on_gpu = layout_.tier == Tier::kGpu;
  int64_t at = 0;
  for (const CacheLayout::Place& page : wanted) {
    while (what.pages[static_cast<size_t>(at)] != page) ++at;
    std::byte* staged = data + at * stride;
    const int64_t offset = layout_.offset_of(cache_of(visit), page);
    if (at < what.num_host) {
      std::byte* rests = host_.data() + offset;
      write ? add_copy(&result.copies, staged, rests, stride) : add_copy(&result.copies, rests, staged, stride);
      continue;
    }
    std::byte* landed = on_gpu ? landing + (at - what.num_host) * stride : staged;
    if (on_gpu) write ? add_copy(&result.bounce_copies, staged, landed, stride) : add_copy(&result.bounce_copies, landed, staged, stride);
    result.disk_bytes += static_cast<double>(stride);
    auto& transfers = result.transfers;
    if (!transfers.empty() && transfers.back().offset + transfers.back().bytes == offset &&
        transfers.back().data + transfers.back().bytes == landed)
      transfers.back().bytes += stride;
    else
      transfers.push_back({file_, write, offset, landed, stride, {}});
  }
  return result;
}

void CacheStore::wait_for_earlier_stores(const Visit& visit, Staged* what) {
  auto& writes = writes_[static_cast<size_t>(cache_of(visit))];
  std::erase_if(writes, [](const Write& w) { return w.written.done() && !w.written.error() && w.copied.done() && !w.copied.error(); });
  for (const Write& write : writes)
    if (write.step < visit.step) {
      what->disk_after.push_back(write.written);
      what->copies_after.push_back(write.copied);
    }
}

void CacheStore::issue(const Visit& visit, const BatchPlan& plan) {
  const Passing& what = passing(plan);
  int64_t key = next_key_++;
  keys_[{visit.layer, visit.batch}] = key;
  stager_.start(key);
  if (what.old.empty()) return;
  Staged load = moves(false, visit, what, what.old, key);
  wait_for_earlier_stores(visit, &load);
  stager_.load(key, std::move(load));
}

void CacheStore::begin_step(int64_t step) {
  if (step == step_) return;
  step_ = step;
  keys_.clear();  // or a visit of the last step would pass for one of this
}

CacheLease CacheStore::acquire(const Visit& visit, const BatchPlan& plan) {
  begin_step(visit.step);
  CacheLease lease;
  lease.pages = std::make_shared<std::vector<std::vector<std::byte*>>>();
  std::byte* buffer = nullptr;
  const Passing* what = nullptr;
  if (uses_ring(&plan)) {
    auto known = keys_.find({visit.layer, visit.batch});
    if (known == keys_.end()) {
      issue(visit, plan);
      known = keys_.find({visit.layer, visit.batch});
    }
    lease.after = stager_.ready(known->second);
    buffer = stager_.data(known->second);
    what = &passing(plan);
  }
  for (const SlotRows& slot : plan.slots) {
    auto& pages = lease.pages->emplace_back();
    pages.reserve(slot.pages.size());
    for (int32_t page : slot.pages) {
      const CacheLayout::Place place = layout_.place_of(visit.batch, page);
      if (place.share == CacheLayout::Share::kResident) {
        pages.push_back(resident_.data() + layout_.offset_of(cache_of(visit), place));
      } else {
        const auto at = std::lower_bound(what->pages.begin(), what->pages.end(), place) - what->pages.begin();
        pages.push_back(buffer + at * layout_.page_stride);
      }
    }
  }
  for (size_t i = 0; i < plan.slots.size(); ++i) {
    const SlotRows& slot = plan.slots[i];
    lease.slots.push_back({slot.first_row, slot.num_rows, slot.past, (*lease.pages)[i].data(), slot.dense_until, i > 0 ? layout_.shared_positions(plan.slots[i - 1], slot) : 0});
  }
  return lease;
}

void CacheStore::commit(const Visit& visit, const BatchPlan& plan, const Event& done) {
  if (!uses_ring(&plan)) return;
  const Passing& what = passing(plan);
  const int64_t key = keys_.at({visit.layer, visit.batch});
  stager_.use(key, done);
  if (what.dirty.empty()) return;
  Staged store = moves(true, visit, what, what.dirty, key);
  wait_for_earlier_stores(visit, &store);
  const Stager::Stored stored = stager_.store(key, done, std::move(store));
  writes_[static_cast<size_t>(cache_of(visit))].push_back({visit.step, stored.copied, stored.written});
}

void CacheStore::prefetch(const Visit& visit, std::span<const std::shared_ptr<BatchPlan>> plans) {
  if (layout_.all_resident()) return;
  if (visit.layer == 0 && !visit.last_of_layer()) return;  // the later ones are not planned yet
  begin_step(visit.step);
  // Loads that are issued but whose compute is not: they hold a buffer each.
  int64_t ahead = 0;
  Visit next = visit;
  while (ahead < stager_.count() - 1) {
    next.advance();
    if (next.layer >= std::ssize(layout_.cache_of)) return;
    if (cache_of(next) < 0) continue;
    const BatchPlan* plan = plans[static_cast<size_t>(next.batch)].get();
    if (!uses_ring(plan)) continue;
    ++ahead;
    if (!keys_.contains({next.layer, next.batch})) issue(next, *plan);
  }
}

}  // namespace flexgen
