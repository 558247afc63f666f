#include "schedule/cache_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "base/units.h"
#include "io/test_folder.h"
#include "memory/arena.h"
#include "schedule/test_lane.h"

namespace flexgen::cache_store_test {
namespace {

constexpr const char* kTiny = R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
  "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 300, "max_position_embeddings": 256, "hidden_act": "silu",
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})";

/// Of a model whose layers all keep the same.
std::vector<SlotPages> pages_of(std::vector<int32_t> ids) { return {SlotPages{0, std::move(ids)}}; }

/// What the store gives for a visit.
std::unique_ptr<VisitLease> acquired(CacheStore& cache, const Visit& visit, const BatchPlan& plan) {
  auto lease = std::make_unique<VisitLease>(visit, std::make_shared<BatchPlan>(plan));
  cache.acquire(*lease);
  return lease;
}
/// The same of a visit whose compute is over at once.
std::unique_ptr<VisitLease> visited(CacheStore& cache, const Visit& visit, const BatchPlan& plan) {
  auto lease = acquired(cache, visit, plan);
  cache.commit(*lease, Event());
  return lease;
}

/// A store whose disk lanes do nothing.
struct HeldStore {
  HeldStore(const Model& model, const Policy& policy)
      : cache(model, policy, DType::kBF16, File::open(folder.file("spill"), FileMode::kSpill), {&arena, nullptr}, lanes) {}

  TestFolder folder;
  Arena arena{8 * kMiB};
  Lanes lanes;
  HeldLane& reads = HeldLane::at(lanes.disk_read, "disk read");
  HeldLane& writes = HeldLane::at(lanes.disk_write, "disk write");
  CacheStore cache;
};

/// A page goes from a sequence that ended to one that begins. The new one loads nothing, so no load orders its store after the old one's, and the disk may
/// do two writes that are under way in either order.
TEST(CacheStore, AStoreComesAfterTheStoresOfEarlierSteps) {
  const auto model = Model::of_shape(parse_config(kTiny, "", "tiny"), DType::kBF16);
  Policy policy;
  policy.buffers = 3;
  policy.kv_cache = {0, 0, 1};
  HeldStore held(*model, policy);
  CacheStore& cache = held.cache;
  HeldLane& writes = held.writes;

  for (int64_t step = 0; step < 2; ++step) {
    BatchPlan plan;
    plan.step = step;
    plan.tokens = plan.positions = {1};
    plan.slots = {SlotRows{0, 1, 0, pages_of({0}), 1}};
    const Visit visit{step, model->layer_of_cache(0), 0};
    visited(cache, visit, plan);
  }
  ASSERT_EQ(writes.works.size(), 2U);
  EXPECT_FALSE(writes.waits(0));
  EXPECT_TRUE(writes.waits(1));
  writes.events[0].finish();
  EXPECT_FALSE(writes.waits(1));
  writes.events[1].finish();
}

TEST(CacheLayout, EveryPageOfALayerHasItsPlaceAndPrefixPagesHaveOneForAll) {
  const auto model = Model::of_shape(parse_config(kTiny, "", "tiny"), DType::kBF16);
  Policy policy;
  policy.num_micro_batches = 3;
  policy.pages_per_micro_batch = 10;
  policy.prefix_pages = 7;
  policy.compute_tier = policy.attention_tier = Tier::kGpu;
  policy.kv_cache = {0.3, 0.3, 0.4};
  const CacheLayout layout(*model, policy, DType::kBF16);
  ASSERT_EQ(layout.groups.size(), 1U);
  EXPECT_EQ(layout.groups[0].num_pages(), 10);
  EXPECT_EQ(layout.prefix_pages(), 7);
  std::set<CacheLayout::Place> places;
  for (int64_t batch = 0; batch < 3; ++batch)
    for (int64_t page = 0; page < 10; ++page) EXPECT_TRUE(places.insert(layout.place_of(0, batch, page)).second);
  for (int64_t page = 10; page < 17; ++page) {
    EXPECT_TRUE(places.insert(layout.place_of(0, 0, page)).second);
    EXPECT_EQ(layout.place_of(0, 0, page), layout.place_of(0, 2, page));
  }
  for (const CacheLayout::Place& place : places)
    EXPECT_LE(layout.offset_of(layout.num_caches() - 1, place) + layout.groups[0].page_stride, layout.share_bytes(place.share));
}

/// One slot writes a prefix's page and another reads it in the same plan: it is not loaded, and stored once. In the next step another micro-batch loads it, once for both of its
/// slots, after it was stored.
TEST(CacheStore, APrefixPageMovesOnceAVisit) {
  const auto model = Model::of_shape(parse_config(kTiny, "", "tiny"), DType::kBF16);
  Policy policy;
  policy.buffers = 3;
  policy.num_micro_batches = 2;
  policy.pages_per_micro_batch = 4;
  policy.prefix_pages = 2;
  policy.kv_cache = {0, 0, 1};
  HeldStore held(*model, policy);
  CacheStore& cache = held.cache;
  const HeldLane &read = held.reads, &write = held.writes;
  const int64_t page = cache.layout().tokens_per_page, stride = cache.layout().groups[0].page_stride;

  BatchPlan plan;
  plan.tokens = plan.positions = std::vector<int32_t>(static_cast<size_t>(page) + 2, 1);
  plan.slots = {SlotRows{0, page + 1, 0, pages_of({4, 0}), page + 1}, SlotRows{page + 1, 1, page, pages_of({4, 1}), page + 1}};
  Visit visit{0, model->layer_of_cache(0), 0};
  const auto lease = visited(cache, visit, plan);
  EXPECT_EQ(lease->pages[0][0], lease->pages[1][0]);
  EXPECT_TRUE(read.works.empty());
  ASSERT_EQ(write.works.size(), 1U);
  EXPECT_EQ(write.works[0].bytes, static_cast<double>(3 * stride));

  BatchPlan next;
  next.step = 1;
  next.batch = 1;
  next.tokens = next.positions = {1, 1};
  next.slots = {SlotRows{0, 1, page, pages_of({4, 2}), page + 1}, SlotRows{1, 1, page, pages_of({4, 3}), page + 1}};
  visit = {1, model->layer_of_cache(0), 1};
  const auto later = acquired(cache, visit, next);
  // The writer's rows begin before the page, so the two read it apart; then both have it behind them.
  EXPECT_EQ(lease->slots[1].shared, 0);
  EXPECT_EQ(later->slots[0].shared, 0);
  EXPECT_EQ(later->slots[1].shared, page);
  ASSERT_EQ(read.works.size(), 1U);
  EXPECT_EQ(read.works[0].bytes, static_cast<double>(stride));
  EXPECT_TRUE(read.waits(0));
}

/// Two blocks with a window of 100 and one without; pages of 16 tokens.
constexpr const char* kWindows =
    R"({"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "head_dim": 128, "num_attention_heads": 4,
  "num_key_value_heads": 4, "vocab_size": 300, "max_position_embeddings": 4096, "sliding_window": 100, "sliding_window_pattern": 3})";

/// Every byte of a share is of one page of one layer, and layers with a window have no more pages than sequences see while they compute a plan's rows.
TEST(CacheLayout, LayersWithAWindowHaveTheirOwnPages) {
  const auto model = Model::of_shape(parse_config(kWindows, "", "windows"), DType::kBF16);
  Policy policy;
  policy.num_micro_batches = 2;
  policy.micro_batch_size = 3;
  policy.max_rows = 40;
  policy.pages_per_micro_batch = 600;
  policy.kv_cache = {0, 0.5, 0.5};
  const CacheLayout layout(*model, policy, DType::kBF16);
  ASSERT_EQ(layout.tokens_per_page, 16);
  ASSERT_EQ(layout.groups.size(), 2U);
  const CacheLayout::Group &windowed = layout.groups[0], &whole = layout.groups[1];
  EXPECT_EQ(windowed.state.window, 100);
  EXPECT_EQ(windowed.num_layers, 2);
  EXPECT_EQ(whole.num_layers, 1);
  EXPECT_EQ(whole.num_pages(), 600);
  // 99 positions before a row lie in 8 pages at the most; 40 rows more in 3.
  EXPECT_LE(windowed.num_pages(), 3 * 8 + 3);
  EXPECT_GE(windowed.num_pages(), 3 * 7 + 3);
  std::map<CacheLayout::Share, std::vector<std::pair<int64_t, int64_t>>> taken;
  for (int64_t cache = 0; cache < layout.num_caches(); ++cache)
    for (int64_t batch = 0; batch < 2; ++batch)
      for (int64_t page = 0; page < layout.group_of_cache(cache).num_pages(); ++page) {
        const CacheLayout::Place place = layout.place_of(layout.group_of[static_cast<size_t>(cache)], batch, page);
        const int64_t offset = layout.offset_of(cache, place);
        taken[place.share].emplace_back(offset, offset + layout.group_of_cache(cache).page_stride);
      }
  for (auto& [share, ranges] : taken) {
    std::sort(ranges.begin(), ranges.end());
    int64_t end = 0;
    for (const auto& [from, to] : ranges) {
      EXPECT_EQ(from, end);
      end = to;
    }
    EXPECT_EQ(end, layout.share_bytes(share));
  }
}

/// A prompt of more tokens than the window sees: what no later row sees is not written to disk, and what is behind the window not read.
TEST(CacheStore, WhatIsBehindTheWindowDoesNotMove) {
  const auto model = Model::of_shape(parse_config(kWindows, "", "windows"), DType::kBF16);
  Policy policy;
  policy.buffers = 3;
  policy.max_rows = 200;
  policy.pages_per_micro_batch = 20;
  policy.kv_cache = {0, 0, 1};
  HeldStore held(*model, policy);
  CacheStore& cache = held.cache;
  const HeldLane &read = held.reads, &write = held.writes;
  const auto stride = static_cast<double>(cache.layout().groups[0].page_stride);
  std::vector<int32_t> all(13);
  std::iota(all.begin(), all.end(), 0);

  BatchPlan plan;
  plan.tokens = plan.positions = std::vector<int32_t>(200, 1);
  plan.slots = {SlotRows{0, 200, 0, {SlotPages{0, all}, SlotPages{0, all}}, 200}};
  const Visit visit{0, model->layer_of_cache(0), 0}, whole{0, model->layer_of_cache(2), 0};
  for (const Visit& each : {visit, whole}) visited(cache, each, plan);
  ASSERT_EQ(write.works.size(), 2U);
  EXPECT_EQ(write.works[0].bytes, 7 * stride);  // the row at 200 sees 101 and later: page 6
  EXPECT_EQ(write.works[1].bytes, 13 * stride);

  BatchPlan next;
  next.step = 1;
  next.tokens = next.positions = {1};
  next.slots = {SlotRows{0, 1, 200, {SlotPages{6, {6, 7, 8, 9, 10, 11, 12}}, SlotPages{0, all}}, 200}};
  const auto lease = acquired(cache, {1, visit.layer, 0}, next);
  ASSERT_EQ(read.works.size(), 1U);
  EXPECT_EQ(read.works[0].bytes, 7 * stride);
  ASSERT_EQ(lease->pages[0].size(), 13U);
  EXPECT_EQ(lease->pages[0][5], nullptr);
  EXPECT_NE(lease->pages[0][6], nullptr);
  acquired(cache, {1, whole.layer, 0}, next);
  ASSERT_EQ(read.works.size(), 2U);
  EXPECT_EQ(read.works[1].bytes, 13 * stride);
}

}  // namespace
}  // namespace flexgen::cache_store_test
