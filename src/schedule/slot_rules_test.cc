#include "schedule/slot_rules.h"

#include <gtest/gtest.h>

#include <random>

namespace flexgen::slot_rules_test {
namespace {

/// Against rows that are taken one by one.
TEST(SlotRules, RowsGoOnUntilTheOneWhoseLogitsHaveNoRoom) {
  std::mt19937 random(2);
  for (int round = 0; round < 20000; ++round) {
    SlotProgress slot;
    slot.prompt = 1 + random() % 8;
    slot.size = slot.prompt + random() % 3;
    slot.past = random() % slot.size;
    slot.scored = random() % 2;
    slot.samples = random() % 2;
    const int64_t max_rows = random() % 9, max_logit_rows = random() % 5;
    int64_t rows = 0, logits = 0;
    for (; rows < max_rows && slot.past + rows < slot.size; ++rows) {
      const int64_t at = slot.past + rows, wanted = slot.samples_at(at) || slot.scores_at(at) ? 1 : 0;
      if (logits + wanted > max_logit_rows) break;
      logits += wanted;
    }
    EXPECT_EQ(slot.rows_within(max_rows, max_logit_rows), rows);
    EXPECT_EQ(slot.logits_of(rows), logits);
  }
}

struct Slot {
  bool active = false;
  int64_t number = 0;
  SlotProgress at;
  SlotProgress progress() const { return at; }
};

TEST(SlotRules, WhoGeneratesGoesFirstThenTheOldestPrompt) {
  std::vector<Slot> slots{{true, 3, {5, 5, 0}}, {true, 1, {4, 4, 2}}, {true, 2, {3, 6, 5}}, {false, 0, {}}, {true, 4, {9, 9, 0}}};
  std::vector<Slot*> order;
  list_oldest_first(std::span(slots), &order);
  std::vector<std::pair<int64_t, int64_t>> taken;
  auto deal = [&](int64_t rows, int64_t logits) {
    taken.clear();
    deal_rows(
        order, rows, logits, [](const Slot& slot) { return slot.number != 4; },
        [&](Slot& slot, const SlotProgress&, int64_t count) { taken.emplace_back(slot.number, count); });
    return taken;
  };
  using Taken = std::vector<std::pair<int64_t, int64_t>>;
  EXPECT_EQ(deal(100, 100), (Taken{{2, 1}, {1, 2}, {3, 5}}));
  EXPECT_EQ(deal(5, 100), (Taken{{2, 1}, {1, 2}, {3, 2}}));
  EXPECT_EQ(deal(100, 2), (Taken{{2, 1}, {1, 2}, {3, 4}}));
  EXPECT_EQ(deal(1, 1), (Taken{{2, 1}}));
}

// Of whose prompt one token is left beside a prefix that another writes: in the plan in which that is written.
TEST(SlotRules, AReadersLastTokenFollowsItsWriter) {
  std::vector<Slot> slots{{true, 1, {4, 4, 0}}, {true, 2, {5, 5, 4}}};
  std::vector<Slot*> order;
  list_oldest_first(std::span(slots), &order);
  std::vector<int64_t> taken;
  deal_rows(
      order, 100, 100, [&](const Slot& slot) { return slot.number == 1 || !taken.empty(); },
      [&](Slot& slot, const SlotProgress&, int64_t) { taken.push_back(slot.number); });
  EXPECT_EQ(taken, (std::vector<int64_t>{1, 2}));
}

TEST(SlotRules, MicroBatchesShareEvenlyWhatThereIsToDo) {
  std::vector<Slot> slots(4);
  slots[1].active = true;
  int64_t waiting = 9;
  auto refill = [&](int64_t num_sequences, int64_t max_slots) {
    int64_t started = 0;
    refill_slots(std::span(slots), num_sequences, 3, max_slots, [&](Slot& slot, int64_t) {
      if (waiting == 0) return false;
      --waiting;
      slot.active = true;
      ++started;
      return true;
    });
    return started;
  };
  EXPECT_EQ(refill(4, 4), 1);  // two of four
  EXPECT_EQ(refill(30, 3), 1);
  waiting = 0;
  EXPECT_EQ(refill(30, 4), 0);
  waiting = 1;
  EXPECT_EQ(refill(30, 4), 1);
  EXPECT_EQ(pages_of_sequence(16, 1, 16), 1);
  EXPECT_EQ(pages_of_sequence(16, 2, 16), 2);
  EXPECT_EQ(pages_of_sequence(17, 0, 16), 2);
}

TEST(SlotRules, APrefixIsReadInALaterStepOrLaterInTheSamePlan) {
  const PlannedAt never, planned{5, 1};
  EXPECT_FALSE(never.is_known());
  EXPECT_FALSE(never.is_readable(1000, -1));
  EXPECT_TRUE(planned.is_readable(6, 0));
  EXPECT_TRUE(planned.is_readable(5, 1));
  EXPECT_FALSE(planned.is_readable(5, 0));
}

}  // namespace
}  // namespace flexgen::slot_rules_test
