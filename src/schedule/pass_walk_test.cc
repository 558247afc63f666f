#include "schedule/pass_walk.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>

namespace flexgen::pass_walk_test {
namespace {

/// Writes down what it is asked to do: the verb, layer and micro-batch.
struct Recorder {
  std::vector<bool> has_plan;
  bool chooses_experts = false;
  std::vector<int64_t> chosen = {};  ///< layers of units
  int64_t attention_buffers = 2;
  std::string log = "";
  std::optional<Visit> held_back = std::nullopt;
  bool knows = false;

  void note(const char* what, const Visit& visit) { log += fmt::format("{}{}.{} ", what, visit.layer, visit.batch); }
  bool plan(const Visit& visit) { return is_planned(visit); }
  bool is_planned(const Visit& visit) { return has_plan[static_cast<size_t>(visit.batch)]; }
  void begin_pass(const Visit& visit) { note("begin", visit); }
  bool chooses() { return chooses_experts; }
  bool knows_choices(const Visit&) { return knows; }
  void learn_choices(const Visit& visit) {
    knows = true;
    note("learn", visit);
  }
  bool is_chosen(const Visit& visit) { return std::find(chosen.begin(), chosen.end(), visit.layer) != chosen.end(); }
  bool takes_place(const Visit& visit) { return is_planned(visit); }
  void acquire(const Visit& visit) { note("take", visit); }
  void compute(const Visit& visit) { note("compute", visit); }
  void finish(const Visit&) {}
  void attend_beside(const Visit& visit) { note("attend", visit); }
  void hold_back(const Visit& visit) { held_back = visit; }
  bool is_held_back() { return held_back.has_value(); }
  bool must_flush(const Visit& visit) { return held_back->batch == visit.batch || attention_buffers < 2; }
  void flush() {
    if (held_back) note("flush", *held_back);
    held_back.reset();
  }
  void commit_attention(const Visit& visit) { note("store", visit); }
  void leave(const Visit&) {}
  void prefetch(const Visit& visit) { note("ahead", visit); }
};

std::vector<LayerSpec> layers_of(std::vector<LayerKind> kinds) {
  std::vector<LayerSpec> layers(kinds.size());
  for (size_t i = 0; i < kinds.size(); ++i) {
    layers[i].kind = kinds[i];
    layers[i].cache = kinds[i] == LayerKind::kBlock ? static_cast<int64_t>(i) : -1;
  }
  return layers;
}

Visit first_of(int64_t batches) {
  Visit visit;
  visit.group_end = batches;
  return visit;
}

TEST(PassWalk, LayerByLayerEachForAllMicroBatchesThatHaveAPlan) {
  Recorder driver{{false, true}};
  EXPECT_TRUE(walk_pass(first_of(2), layers_of({LayerKind::kEmbed, LayerKind::kBlock}), false, driver));
  EXPECT_EQ(driver.log, "begin0.1 take0.1 compute0.1 store0.1 ahead0.1 ahead1.0 take1.1 compute1.1 store1.1 ahead1.1 ");
  Recorder idle{{false, false}};
  EXPECT_FALSE(walk_pass(first_of(2), layers_of({LayerKind::kEmbed, LayerKind::kBlock}), false, idle));
  EXPECT_EQ(idle.log, "");
}

/// A visit's first stage goes before the last stage of the visit before it, unless it needs what that gives or holds.
TEST(PassWalk, HoldsBackWhatFollowsAttentionBesideAGpu) {
  const auto layers = layers_of({LayerKind::kEmbed, LayerKind::kBlock, LayerKind::kHead});
  Recorder driver{{true, true}};
  walk_pass(first_of(2), layers, true, driver);
  const std::string before = "take0.0 compute0.0 store0.0 ahead0.0 begin0.1 take0.1 compute0.1 store0.1 ahead0.1 ";
  EXPECT_EQ(
      driver.log,
      before +
          "take1.0 attend1.0 store1.0 ahead1.0 take1.1 attend1.1 store1.1 flush1.0 ahead1.1 flush1.1 take2.0 compute2.0 store2.0 ahead2.0 take2.1 compute2.1 store2.1 ahead2.1 ");
  Recorder single{{true, true}};
  single.attention_buffers = 1;
  walk_pass(first_of(2), layers, true, single);
  EXPECT_EQ(
      single.log,
      before +
          "take1.0 attend1.0 store1.0 ahead1.0 flush1.0 take1.1 attend1.1 store1.1 ahead1.1 flush1.1 take2.0 compute2.0 store2.0 ahead2.0 take2.1 compute2.1 store2.1 ahead2.1 ");
}

TEST(PassWalk, LeavesOutUnitsThatNobodyChose) {
  const auto layers = layers_of({LayerKind::kEmbed, LayerKind::kBlock, LayerKind::kExperts, LayerKind::kExperts});
  Recorder driver{{true}};
  driver.chooses_experts = true;
  driver.chosen = {3};
  walk_pass(first_of(1), layers, true, driver);
  EXPECT_EQ(driver.log,
            "begin0.0 take0.0 compute0.0 store0.0 ahead0.0 take1.0 attend1.0 store1.0 ahead1.0 flush1.0 learn2.0 take3.0 compute3.0 store3.0 ahead3.0 ");
}

}  // namespace
}  // namespace flexgen::pass_walk_test
