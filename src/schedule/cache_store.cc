#include "schedule/cache_store.h"

#include <algorithm>

#include "base/units.h"
#include "memory/placement.h"

namespace flexgen {
int64_t CacheLayout::page_tokens(const Model& model, DType dtype) {
  const auto largest_page = [&](int64_t tokens) {
    int64_t bytes = 0;
    for (const StateSpec& state : model.states())
      if (state.kind == StateSpec::Kind::kPaged) bytes = std::max(bytes, state.page_bytes(dtype, tokens));
    return bytes;
  };
  int64_t tokens = 16;
  while (tokens < 64 && largest_page(tokens) < 32 * kKiB) tokens *= 2;
  return tokens;
}

CacheLayout::CacheLayout(const Model& model, const Policy& policy, DType kv_dtype)
    : dtype(kv_dtype), tokens_per_page(page_tokens(model, kv_dtype)), num_batches(policy.num_micro_batches),
      pages_per_micro_batch(policy.pages_per_micro_batch), tier(policy.attention_tier) {
  const bool shares = std::all_of(model.states().begin(), model.states().end(), [](const StateSpec& state) { return state.can_share(); });
  for (const StateSpec& state : model.states()) {
    Group& group = groups.emplace_back();
    group.state = state;
    group.geometry = model.kv_geometry(dtype, tokens_per_page, std::ssize(groups) - 1);
    group.page_stride = round_up(state.page_bytes(dtype, tokens_per_page), kDirectAlignment);
    const auto split_of = [&](int64_t pages) -> std::array<int64_t, kNumShares> {
      const PlacedObject pool{pages, group.page_stride, 1};
      const StagedSplit split = staged_split(place({&pool, 1}, policy.kv_cache).front(), tier);
      return {split.resident, split.host, split.disk};
    };
    const int64_t prefix = shares ? policy.prefix_pages : 0, kept = state.most_prefix_pages(prefix, policy.prefix_ends, tokens_per_page);
    // Who computes a prefix has what is not kept of it as its own: one sequence an end at the most, as each of them holds the places of an end. With many micro-batches that may come to
    // more than it saves.
    const auto own = [&](int64_t more) { return state.most_pages(policy.micro_batch_size, policy.max_rows, pages_per_micro_batch + more, tokens_per_page); };
    const int64_t computed = state.window > 1 ? state.most_pages(policy.prefix_ends, policy.max_rows, prefix, tokens_per_page) : prefix;
    group.keeps_ends = kept < prefix && kept + num_batches * own(computed) < prefix + num_batches * own(0);
    group.prefix = split_of(group.keeps_ends ? kept : prefix);
    if (!group.keeps_ends || std::ssize(groups) == 1) prefix_shares = split_of(prefix);
    group.own = split_of(own(group.keeps_ends ? computed : 0));
  }
  for (const LayerSpec& layer : model.layers()) {
    cache_of.push_back(layer.cache);
    if (layer.cache < 0) continue;
    group_of.push_back(layer.state);
    layer_in_group_.push_back(groups[static_cast<size_t>(layer.state)].num_layers++);
  }
  std::array<int64_t, kNumShares> end{};
  for (Group& group : groups) {
    for (size_t share = 0; share < kNumShares; ++share) {
      group.begins[share] = end[share];
      end[share] += group.num_layers * layer_pages(group, static_cast<Share>(share)) * group.page_stride;
    }
    if (group.num_layers == 0) continue;
    // A visit may want all of the micro-batch's and all that is shared.
    buffer_bytes = std::max(buffer_bytes, group.staged_pages() * group.page_stride);
    if (tier == Tier::kGpu) bounce_bytes = std::max(bounce_bytes, (group.own[2] + group.prefix[2]) * group.page_stride);
  }
}

int64_t CacheLayout::share_bytes(Share share) const {
  int64_t bytes = 0;
  for (const Group& group : groups) bytes += group.num_layers * layer_pages(group, share) * group.page_stride;
  return bytes;
}

CacheLayout::Place CacheLayout::place_of(int64_t group_index, int64_t batch, int64_t page) const {
  const Group& group = groups[static_cast<size_t>(group_index)];
  const bool prefix = group.is_prefix(page);
  if (prefix) page -= group.num_pages();
  const auto& pages = prefix ? group.prefix : group.own;
  size_t share = 0;
  for (; share + 1 < kNumShares && page >= pages[share]; ++share) page -= pages[share];
  return {static_cast<Share>(share), (prefix ? num_batches : batch) * group.own[share] + page};
}

int64_t CacheLayout::shared_positions(int64_t group, const SlotRows& a, const SlotRows& b) const {
  if (tier != Tier::kCpu) return 0;  // a GPU's kernels go slot by slot
  const SlotPages &of_a = a.pages[static_cast<size_t>(group)], &of_b = b.pages[static_cast<size_t>(group)];
  if (of_a.first > 0 || of_b.first > 0 || !groups[static_cast<size_t>(group)].state.can_share()) return 0;
  const int64_t most = std::min(a.past, b.past) / tokens_per_page;
  int64_t pages = 0;
  while (pages < most && of_a.ids[static_cast<size_t>(pages)] == of_b.ids[static_cast<size_t>(pages)]) ++pages;
  return pages * tokens_per_page;
}

std::vector<MemoryItem> CacheLayout::memory(const Policy& policy) const {
  std::vector<MemoryItem> items{{"KV cache", tier, Arena::footprint(share_bytes(Share::kResident))},
                                {"KV cache, staging buffers", tier, Arena::footprint(policy.buffers * buffer_bytes)}};
  if (tier == Tier::kGpu) {
    items.push_back({"KV cache in RAM", Tier::kCpu, Arena::footprint(share_bytes(Share::kHost))});
    items.push_back({"KV cache, bounce buffers", Tier::kCpu, Arena::footprint(policy.buffers * bounce_bytes)});
  }
  items.push_back({"KV cache spill", Tier::kDisk, file_bytes()});
  return items;
}

CacheStore::CacheStore(const Model& model, const Policy& policy, DType dtype, std::shared_ptr<File> file, const Arenas& arenas, Lanes& lanes)
    : layout_(model, policy, dtype), file_(std::move(file)) {
  resident_ = arenas.of(layout_.tier).allocate(layout_.share_bytes(CacheLayout::Share::kResident));
  host_ = arenas.cpu->allocate(layout_.share_bytes(CacheLayout::Share::kHost));
  stager_ = Stager(layout_.tier, arenas, lanes, policy.buffers, layout_.buffer_bytes, layout_.bounce_bytes);
  writes_.resize(static_cast<size_t>(layout_.num_caches()));
  FLEXGEN_CHECK(layout_.file_bytes() == 0 || file_ != nullptr);
}

const CacheStore::Passing& CacheStore::passing(int64_t group_index, const BatchPlan& plan) {
  auto& [step, what] = passing_.try_emplace({group_index, plan.batch}, -1, Passing{}).first->second;
  if (step == plan.step) return what;
  step = plan.step;
  what = {};
  const CacheLayout::Group& group = layout_.groups[static_cast<size_t>(group_index)];
  const StateSpec& state = group.state;
  const int64_t page_tokens = layout_.tokens_per_page;
  Passing::Places fresh;  // empty before this step: what reads them reads what it writes
  for (const SlotRows& slot : plan.slots) {
    const SlotPages& mine = slot.pages[static_cast<size_t>(group_index)];
    const int64_t first_later = state.first_page(slot.past + slot.num_rows, page_tokens);
    for (int64_t i = 0; i < std::ssize(mine.ids); ++i) {
      const int64_t id = mine.ids[static_cast<size_t>(i)], page = mine.first + i;
      const CacheLayout::Place place = layout_.place_of(group_index, plan.batch, id);
      if (place.share == CacheLayout::Share::kResident) continue;
      what.pages.push_back(place);
      if (state.page_begin(page, page_tokens) < slot.past) what.old.push_back(place);
      else fresh.push_back(place);
      // What this step writes, unless no later one sees it.
      if (state.page_end(page, page_tokens) > slot.past && (page >= first_later || group.is_prefix(id))) what.dirty.push_back(place);
    }
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

bool CacheStore::uses_ring(const Visit& visit, const BatchPlan* plan) {
  return plan && !layout_.all_resident() && !passing(group_of(visit), *plan).pages.empty();
}

Staged CacheStore::moves(bool write, const Visit& visit, const Passing& what, const Passing::Places& wanted, int64_t key) {
  Staged result;
  result.name = write ? "store cache" : "load cache";
  result.visit = visit;
  std::byte* data = stager_.data(key);
  std::byte* landing = stager_.landing(key);
  const int64_t stride = layout_.group_of_cache(cache_of(visit)).page_stride;
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
    if (!transfers.empty() && transfers.back().offset + transfers.back().bytes == offset && transfers.back().data + transfers.back().bytes == landed)
      transfers.back().bytes += stride;
    else transfers.push_back({file_, write, offset, landed, stride, {}});
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
  const Passing& what = passing(group_of(visit), plan);
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

void CacheStore::acquire(VisitLease& lease) {
  const Visit& visit = lease.visit;
  const BatchPlan& plan = *lease.plan;
  if (cache_of(visit) < 0) return;
  begin_step(visit.step);
  lease.geometry = layout_.group_of_cache(cache_of(visit)).geometry;
  std::byte* buffer = nullptr;
  const Passing* what = nullptr;
  const int64_t group = group_of(visit), stride = layout_.groups[static_cast<size_t>(group)].page_stride;
  if (uses_ring(visit, &plan)) {
    auto known = keys_.find({visit.layer, visit.batch});
    if (known == keys_.end()) {
      issue(visit, plan);
      known = keys_.find({visit.layer, visit.batch});
    }
    append(&lease.attention_after, stager_.ready(known->second));
    buffer = stager_.data(known->second);
    what = &passing(group, plan);
  }
  for (const SlotRows& slot : plan.slots) {
    const SlotPages& mine = slot.pages[static_cast<size_t>(group)];
    auto& pages = lease.pages.emplace_back(static_cast<size_t>(mine.first), nullptr);
    pages.reserve(static_cast<size_t>(mine.first) + mine.ids.size());
    for (int32_t page : mine.ids) {
      const CacheLayout::Place place = layout_.place_of(group, visit.batch, page);
      if (place.share == CacheLayout::Share::kResident) {
        pages.push_back(resident_.data() + layout_.offset_of(cache_of(visit), place));
      } else {
        const auto at = std::lower_bound(what->pages.begin(), what->pages.end(), place) - what->pages.begin();
        pages.push_back(buffer + at * stride);
      }
    }
  }
  for (size_t i = 0; i < plan.slots.size(); ++i) {
    const SlotRows& slot = plan.slots[i];
    lease.slots.push_back({slot.first_row, slot.num_rows, slot.past, lease.pages[i].data(), slot.dense_until,
                           i > 0 ? layout_.shared_positions(group, plan.slots[i - 1], slot) : 0});
  }
}

void CacheStore::commit(VisitLease& lease, const Event& done) {
  const Visit& visit = lease.visit;
  const BatchPlan& plan = *lease.plan;
  if (cache_of(visit) < 0 || !uses_ring(visit, &plan)) return;
  const Passing& what = passing(group_of(visit), plan);
  const int64_t key = keys_.at({visit.layer, visit.batch});
  stager_.use(key, done);
  if (what.dirty.empty()) return;
  Staged store = moves(true, visit, what, what.dirty, key);
  wait_for_earlier_stores(visit, &store);
  const Stager::Stored stored = stager_.store(key, done, std::move(store));
  writes_[static_cast<size_t>(cache_of(visit))].push_back({visit.step, stored.copied, stored.written});
}

void CacheStore::prefetch(const Visit& visit, const Ahead& ahead) {
  if (layout_.all_resident()) return;
  if (visit.layer == 0 && !visit.last_of_layer()) return;  // the later ones are not planned yet
  begin_step(visit.step);
  // Loads that are issued but whose compute is not: they hold a buffer each.
  int64_t loading = 0;
  Visit next = visit;
  while (loading < stager_.count() - 1) {
    next.advance();
    if (next.layer >= std::ssize(layout_.cache_of)) return;
    if (cache_of(next) < 0) continue;
    const BatchPlan* plan = ahead.plans[static_cast<size_t>(next.batch)].get();
    if (!uses_ring(next, plan)) continue;
    ++loading;
    if (!keys_.contains({next.layer, next.batch})) issue(next, *plan);
  }
}

}  // namespace flexgen
