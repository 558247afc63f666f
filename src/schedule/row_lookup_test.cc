#include "schedule/row_lookup.h"

#include <gtest/gtest.h>

#include "base/units.h"
#include "io/test_folder.h"
#include "schedule/test_lane.h"

namespace flexgen::row_lookup_test {
namespace {

/// Whatever is opened is one empty file.
class OneFile : public FileSystem {
 public:
  std::shared_ptr<File> open(const std::string&, FileMode) override { return File::open(folder_.file("weights"), FileMode::kSpill); }

 private:
  TestFolder folder_;
};

std::unique_ptr<Model> tiny(bool tied) {
  const std::string config = R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 304, "max_position_embeddings": 256, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": )" +
                             std::string(tied ? "true}" : "false}");
  return Model::of_shape(parse_config(config, "", "tiny"), DType::kBF16);
}

/// A CPU's, with room for fewer looked-up rows than the table has bytes.
struct HeldLookup {
  HeldLookup(const Model& model, const Fractions& shares) {
    policy.weights = shares;
    policy.max_rows = 4;
    HeldLane::at(lanes.disk_read, "disk read");
    weights.emplace(model, policy, files, arenas, lanes);
    rows.emplace(model, policy, *weights, arenas, lanes);
  }
  std::unique_ptr<VisitLease> acquired(std::vector<int32_t> tokens) {
    auto plan = std::make_shared<BatchPlan>();
    plan->tokens = std::move(tokens);
    auto lease = std::make_unique<VisitLease>(Visit{}, std::move(plan));
    rows->acquire(*lease);
    return lease;
  }

  Policy policy;
  OneFile files;
  Arena arena{8 * kMiB};
  const Arenas arenas{&arena, nullptr};
  Lanes lanes;
  HeldLane& lookups = HeldLane::at(lanes.disk_lookup, "disk lookup");
  std::optional<WeightStore> weights;
  std::optional<RowLookup> rows;
};

TEST(RowLookup, RowsOnDiskAreReadOnceEach) {
  const auto model = tiny(false);
  HeldLookup held(*model, {0, 0, 1});
  const auto lease = held.acquired({7, 200, 7});
  ASSERT_EQ(lease->looked_up.size(), 3U);
  EXPECT_EQ(lease->looked_up[0], lease->looked_up[2]);
  EXPECT_NE(lease->looked_up[0], lease->looked_up[1]);
  ASSERT_EQ(held.lookups.works.size(), 1U);
  EXPECT_EQ(held.lookups.works[0].transfers.size(), 2U);
  EXPECT_FALSE(lease->after.back().done());
  // The next rows of the micro-batch come to the same place, so they wait until these have been used.
  Event used = Event::pending();
  held.rows->commit(*lease, used);
  held.acquired({7, 200});
  ASSERT_EQ(held.lookups.works.size(), 2U);
  ASSERT_EQ(held.lookups.works[1].after.size(), 1U);
  EXPECT_FALSE(held.lookups.works[1].after[0].done());
  used.finish();
  EXPECT_TRUE(held.lookups.works[1].after[0].done());
}

TEST(RowLookup, RowsInMemoryAreNotRead) {
  const auto model = tiny(false);
  HeldLookup held(*model, {0, 1, 0});
  const auto lease = held.acquired({3, 4});
  EXPECT_EQ(lease->looked_up[1] - lease->looked_up[0], 64 * 2);
  EXPECT_TRUE(held.lookups.works.empty());
  EXPECT_FALSE(lease->after.empty());  // but they must have been loaded
}

/// Of a tied table the rows that the head keeps in memory are there for look-ups too.
TEST(RowLookup, RowsOfATiedHeadAreNotReadWhereTheyAreInMemory) {
  const auto model = tiny(true);
  HeldLookup held(*model, {0, 0.5, 0.5});
  held.acquired({0});
  EXPECT_TRUE(held.lookups.works.empty());
  held.acquired({0, 303});
  ASSERT_EQ(held.lookups.works.size(), 1U);
  EXPECT_EQ(held.lookups.works[0].transfers.size(), 1U);
}

}  // namespace
}  // namespace flexgen::row_lookup_test
