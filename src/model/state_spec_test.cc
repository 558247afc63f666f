#include "model/state_spec.h"

#include <gtest/gtest.h>

#include <random>

#include "backend/kernels.h"

namespace flexgen::state_spec_test {
namespace {

/// The first page that is kept is that of the first position that the rule lets a row see.
TEST(StateSpec, KeepsWhatTheNextRowSees) {
  for (int64_t window : {0, 1, 2, 9, 16, 33})
    for (int64_t page : {1, 4, 16})
      for (int64_t position = 0; position < 100; ++position) {
        const StateSpec state{.heads = 1, .head_size = 1, .window = window};
        const int64_t first = position + 1 - AttentionRule{.window = window}.visible(position);
        EXPECT_EQ(state.first_page(position, page), first / page) << window << " " << page << " " << position;
      }
}

/// Of random sequences, each with as many new rows as may be, none is ever without a page; and for some of them there is none to spare.
TEST(StateSpec, MostPagesAreEnoughAndNotManyTooMany) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 300; ++round) {
    const auto draw = [&](int64_t from, int64_t to) { return from + static_cast<int64_t>(random() % static_cast<uint64_t>(to - from + 1)); };
    const int64_t page = draw(2, 20), slots = draw(1, 6), rows = draw(1, 60);
    const StateSpec state{.heads = 1, .head_size = 1, .window = draw(1, 50)};
    const int64_t most = state.most_pages(slots, rows, 1 << 30, page);
    int64_t largest = 0;
    for (int trial = 0; trial < 300; ++trial) {
      int64_t held = 0, left = rows;
      for (int64_t slot = 0; slot < slots; ++slot) {
        const int64_t past = draw(0, 200), own = slot + 1 == slots ? left : draw(0, left);
        left -= own;
        held += state.end_page(past + own, page) - state.first_page(past, page);
      }
      largest = std::max(largest, held);
    }
    EXPECT_LE(largest, most);
    EXPECT_LE(most, slots * (state.window / page + 2) + rows / page + slots + 1);
  }
}

TEST(StateSpec, AFixedStateIsOnePage) {
  const StateSpec state{.kind = StateSpec::Kind::kFixed, .fixed_bytes = 1000};
  EXPECT_EQ(state.page_bytes(DType::kBF16, 16), 1000);
  EXPECT_EQ(state.bytes(DType::kBF16, 5000), 1000);
  EXPECT_EQ(state.first_page(5000, 16), 0);
  EXPECT_EQ(state.end_page(5000, 16), 1);
  EXPECT_EQ(state.most_pages(7, 100, 3, 16), 7);
  EXPECT_FALSE(state.can_share());
}

}  // namespace
}  // namespace flexgen::state_spec_test
