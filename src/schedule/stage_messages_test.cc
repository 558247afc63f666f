#include "schedule/stage_messages.h"

#include <gtest/gtest.h>

#include "base/units.h"
#include "schedule/test_lane.h"

namespace flexgen::stage_messages_test {
namespace {

/// A place among the stages; lanes that hold their work never reach it.
class Place : public Port {
 public:
  Place(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string describe(int) const override { return "a test"; }
  Event send(int, Channel, std::span<const std::byte>, double) override { return {}; }
  Event receive(int, Channel, Inbox, double) override { return {}; }
  Event draw(int64_t*) override { return {}; }
  void abort(const std::string&) override {}

 private:
  int rank_, size_;
};

/// One of three stages, with 5 rows to pass on.
struct Stage {
  Stage(int rank, Tier tier) : place(rank, 3) {
    policy.compute_tier = policy.attention_tier = tier;
    policy.num_groups = 3;
    policy.max_rows = 8;
    messages.emplace(*model, policy, Arenas{&arena, nullptr}, lanes, StageLink{&place});
    plan->tokens.resize(5);
  }
  std::unique_ptr<VisitLease> lease_of(int64_t layer) {
    auto lease = std::make_unique<VisitLease>(Visit{0, layer, 0}, plan);
    lease->rows = rows;
    return lease;
  }
  std::unique_ptr<Model> model = Model::of_shape(parse_config(R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 300, "max_position_embeddings": 256, "hidden_act": "silu", "rms_norm_eps": 1e-5})",
                                                              "", "tiny"),
                                                 DType::kBF16);
  Policy policy;
  Place place;
  Arena arena{kMiB};
  Lanes lanes;
  HeldLane &sends = HeldLane::at(lanes.network_send, "send"), &receives = HeldLane::at(lanes.network_receive, "receive");
  HeldLane &ups = HeldLane::at(lanes.h2d_small, "up"), &downs = HeldLane::at(lanes.d2h, "down");
  std::optional<StageMessages> messages;
  std::shared_ptr<BatchPlan> plan = std::make_shared<BatchPlan>();
  float rows[8 * 64];
};

TEST(StageMessages, RowsComeOnceTheirPlaceIsFreeAndGoOnAfterTheLastVisit) {
  Stage stage(1, Tier::kCpu);
  Event weights = Event::pending(), free = Event::pending();
  auto lease = stage.lease_of(0);
  lease->after = {weights};
  lease->rows_after = {free};
  stage.messages->acquire(*lease);
  ASSERT_EQ(stage.receives.works.size(), 1U);
  EXPECT_EQ(stage.receives.works[0].bytes, 5 * 64 * 4);
  EXPECT_TRUE(stage.receives.waits(0));
  free.finish();
  EXPECT_FALSE(stage.receives.waits(0));  // weights are not waited for
  EXPECT_FALSE(lease->rows_after.front().done());
  lease->needed_later = true;
  stage.messages->commit(*lease, Event());
  EXPECT_TRUE(stage.sends.works.empty());
  EXPECT_FALSE(lease->sent);

  auto last = stage.lease_of(2);
  stage.messages->acquire(*last);
  EXPECT_EQ(stage.receives.works.size(), 1U);
  stage.messages->commit(*last, Event());
  ASSERT_EQ(stage.sends.works.size(), 1U);
  ASSERT_TRUE(last->sent);
  EXPECT_FALSE(last->sent->done());
  stage.sends.events[0].finish();
  EXPECT_TRUE(last->sent->done());
}

/// A micro-batch has one message in RAM: what comes waits until what went has left.
TEST(StageMessages, OnAGpuRowsGoThroughOneMessage) {
  Stage stage(1, Tier::kGpu);
  stage.messages->commit(*stage.lease_of(2), Event());
  ASSERT_EQ(stage.downs.works.size(), 1U);
  ASSERT_EQ(stage.sends.works.size(), 1U);
  auto next = stage.lease_of(0);
  stage.messages->acquire(*next);
  ASSERT_EQ(stage.receives.works.size(), 1U);
  ASSERT_EQ(stage.ups.works.size(), 1U);
  EXPECT_EQ(stage.ups.works[0].copies[0].from, stage.downs.works[0].copies[0].to);
  EXPECT_TRUE(stage.receives.waits(0));
  stage.sends.events[0].finish();
  EXPECT_FALSE(stage.receives.waits(0));
  EXPECT_EQ(bytes_in(MessageLayout(*stage.model, stage.policy).memory(stage.policy), Tier::kCpu), stage.arena.used());
}

TEST(StageMessages, TheFirstReceivesNothingAndTheLastSendsNothing) {
  Stage first(0, Tier::kCpu), last(2, Tier::kCpu);
  first.messages->acquire(*first.lease_of(0));
  EXPECT_TRUE(first.receives.works.empty());
  auto lease = last.lease_of(2);
  last.messages->commit(*lease, Event());
  EXPECT_TRUE(last.sends.works.empty());
  EXPECT_FALSE(lease->sent);
}

}  // namespace
}  // namespace flexgen::stage_messages_test
