#include "schedule/cache_store.h"

#include <gtest/gtest.h>

#include "base/units.h"
#include "io/test_folder.h"
#include "memory/arena.h"

namespace flexgen {
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
    const Visit visit{step, model->first_block(), 0};
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

}  // namespace
}  // namespace flexgen
