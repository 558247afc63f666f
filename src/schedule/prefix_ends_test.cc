#include "schedule/prefix_ends.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <set>

namespace flexgen::prefix_ends_test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(PrefixEnds, WhereLaterSequencesLeave) {
  const std::vector<int64_t> shares{0, 8, 8, 4, 6, 0, 3};
  LaterEnds ends(std::ssize(shares), [&](int64_t place) { return shares[static_cast<size_t>(place)]; });
  EXPECT_THAT(ends.of(0, 8), ElementsAre(4, 8));
  EXPECT_THAT(ends.of(2, 8), ElementsAre(4, 8));  // and what it has in common with those before
  EXPECT_THAT(ends.of(3, 6), ElementsAre(6));
  EXPECT_THAT(ends.of(5, 3), ElementsAre(3));
  EXPECT_THAT(ends.of(6, 3), ElementsAre(3));
  EXPECT_THAT(ends.of(1, 8), ElementsAre(4, 8));  // back
  EXPECT_THAT(ends.of(4, 0), IsEmpty());
}

/// Against a look at all later places.
TEST(PrefixEnds, OfRandomJobs) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::vector<int64_t> shares(1 + random() % 40);
    for (int64_t& share : shares) share = static_cast<int64_t>(random() % 6);
    shares.front() = 0;
    int64_t looks = 0;
    LaterEnds ends(std::ssize(shares), [&](int64_t place) {
      ++looks;
      return shares[static_cast<size_t>(place)];
    });
    for (int64_t place = 0; place < std::ssize(shares); place += 1 + static_cast<int64_t>(random() % 2)) {
      std::set<int64_t> expected;
      int64_t least = std::numeric_limits<int64_t>::max(), most = shares[static_cast<size_t>(place)];
      for (int64_t later = place + 1; later < std::ssize(shares); ++later) {
        least = std::min(least, shares[static_cast<size_t>(later)]);
        if (least > 0) expected.insert(least);
      }
      if (!expected.empty()) most = std::max(most, *expected.rbegin());
      if (most > 0) expected.insert(most);
      EXPECT_EQ(ends.of(place, most), std::vector<int64_t>(expected.begin(), expected.end())) << "round " << round << " place " << place;
    }
    EXPECT_LE(looks, 8 * std::ssize(shares));  // 5 prefixes within prefixes
  }
}

/// Against a look at each page from each end.
TEST(PrefixEnds, WhatIsSeenFromThem) {
  std::mt19937 random(8);
  for (int round = 0; round < 500; ++round) {
    const StateSpec state{.heads = 1, .head_size = 1, .window = static_cast<int64_t>(random() % 60)};
    const int64_t end = 1 + static_cast<int64_t>(random() % 12), known = static_cast<int64_t>(random() % static_cast<uint64_t>(end));
    std::set<int64_t> some;
    for (int i = 0; i < 3; ++i) some.insert(1 + static_cast<int64_t>(random() % 14));
    const std::vector<int64_t> ends(some.begin(), some.end());
    const std::vector<PageRange> kept = kept_ranges(state, known, end, ends, 16);
    int64_t last = -1, total = 0;
    for (const PageRange& range : kept) {
      EXPECT_GT(range.first, last);
      EXPECT_GT(range.end, range.first);
      last = range.end;
    }
    for (int64_t page = 0; page < end; ++page) {
      bool seen = false;
      for (int64_t at = page + 1; at <= end; ++at)
        if (at == end || some.contains(at)) seen = seen || page >= state.first_page(at * 16, 16);
      EXPECT_EQ(pages_within(kept, page, page + 1), page >= known && seen) << page;
      total += page >= known && seen;
    }
    EXPECT_EQ(pages_within(kept, 0, end), total);
    EXPECT_LE(total, state.most_prefix_pages(end, std::ssize(ends) + 1, 16));
    EXPECT_THAT(kept_ranges(state, known, end, {}, 16), ElementsAre(PageRange{known, end}));  // nobody knows where they end
  }
}

}  // namespace
}  // namespace flexgen::prefix_ends_test
