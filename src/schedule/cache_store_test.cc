#include "schedule/cache_store.h"

#include <gtest/gtest.h>

#include <set>

#include "base/units.h"
#include "io/test_folder.h"
#include "memory/arena.h"

namespace flexgen::cache_store_test {
namespace {

/// Keeps what it is given until the test ends it.
class HeldLane : public Lane {
 public:
  explicit HeldLane(std::string name) : Lane(std::move(name), nullptr) {}
  Event submit(Work work) override {
    works.push_back(std::move(work));
    return events.emplace_back(Event::pending());
  }
  bool waits(size_t work) const {
    for (const Event& event : works[work].after)
      if (!event.done()) return true;
    return false;
  }
  std::vector<Work> works;
  std::vector<Event> events;
};

constexpr const char* kTiny = R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
  "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 300, "max_position_embeddings": 256, "hidden_act": "silu",
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})";

/// A page goes from a sequence that ended to one that begins. The new one loads nothing, so no load orders its store after the old one's, and the disk may
/// do two writes that are under way in either order.
TEST(CacheStore, AStoreComesAfterTheStoresOfEarlierSteps) {
  const auto model = Model::of_shape(parse_config(kTiny, "", "tiny"), DType::kBF16);
  Policy policy;
  policy.buffers = 3;
  policy.kv_cache = {0, 0, 1};
  TestFolder folder;
  std::shared_ptr<File> file = File::open(folder.file("spill"), FileMode::kSpill);
  Arena arena(kMiB);
  Lanes lanes;
  lanes.disk_read = std::make_unique<HeldLane>("disk read");
  auto owned = std::make_unique<HeldLane>("disk write");
  HeldLane& writes = *owned;
  lanes.disk_write = std::move(owned);
  CacheStore cache(*model, policy, DType::kBF16, file, {&arena, nullptr}, lanes);

  for (int64_t step = 0; step < 2; ++step) {
    BatchPlan plan;
    plan.step = step;
    plan.tokens = plan.positions = {1};
    plan.slots = {SlotRows{0, 1, 0, {0}, 1}};
    const Visit visit{step, model->layer_of_cache(0), 0};
    cache.acquire(visit, plan);
    cache.commit(visit, plan, Event());  // its compute is over
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
  EXPECT_EQ(layout.num_pages(), 10);
  EXPECT_EQ(layout.prefix_pages(), 7);
  std::set<CacheLayout::Place> places;
  for (int64_t batch = 0; batch < 3; ++batch)
    for (int64_t page = 0; page < 10; ++page) EXPECT_TRUE(places.insert(layout.place_of(batch, page)).second);
  for (int64_t page = 10; page < 17; ++page) {
    EXPECT_TRUE(places.insert(layout.place_of(0, page)).second);
    EXPECT_EQ(layout.place_of(0, page), layout.place_of(2, page));
  }
  for (const CacheLayout::Place& place : places) EXPECT_LE(layout.offset_of(layout.num_layers - 1, place) + layout.page_stride, layout.share_bytes(place.share));
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
  TestFolder folder;
  Arena arena(4 * kMiB);
  Lanes lanes;
  auto reads = std::make_unique<HeldLane>("disk read"), writes = std::make_unique<HeldLane>("disk write");
  const HeldLane &read = *reads, &write = *writes;
  lanes.disk_read = std::move(reads);
  lanes.disk_write = std::move(writes);
  CacheStore cache(*model, policy, DType::kBF16, File::open(folder.file("spill"), FileMode::kSpill), {&arena, nullptr}, lanes);
  const int64_t page = cache.layout().geometry.page_tokens;

  BatchPlan plan;
  plan.tokens = plan.positions = std::vector<int32_t>(static_cast<size_t>(page) + 2, 1);
  plan.slots = {SlotRows{0, page + 1, 0, {4, 0}, page + 1}, SlotRows{page + 1, 1, page, {4, 1}, page + 1}};
  Visit visit{0, model->layer_of_cache(0), 0};
  const CacheLease lease = cache.acquire(visit, plan);
  EXPECT_EQ((*lease.pages)[0][0], (*lease.pages)[1][0]);
  cache.commit(visit, plan, Event());
  EXPECT_TRUE(read.works.empty());
  ASSERT_EQ(write.works.size(), 1U);
  EXPECT_EQ(write.works[0].bytes, static_cast<double>(3 * cache.layout().page_stride));

  BatchPlan next;
  next.step = 1;
  next.batch = 1;
  next.tokens = next.positions = {1, 1};
  next.slots = {SlotRows{0, 1, page, {4, 2}, page + 1}, SlotRows{1, 1, page, {4, 3}, page + 1}};
  visit = {1, model->layer_of_cache(0), 1};
  const CacheLease later = cache.acquire(visit, next);
  // The writer's rows begin before the page, so the two read it apart; then both have it behind them.
  EXPECT_EQ(lease.slots[1].shared, 0);
  EXPECT_EQ(later.slots[0].shared, 0);
  EXPECT_EQ(later.slots[1].shared, page);
  ASSERT_EQ(read.works.size(), 1U);
  EXPECT_EQ(read.works[0].bytes, static_cast<double>(cache.layout().page_stride));
  EXPECT_TRUE(read.waits(0));
}

}  // namespace
}  // namespace flexgen::cache_store_test
