#include "generation/prefix_pages.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace flexgen::prefix_pages_test {
namespace {

using Tokens = std::vector<int32_t>;

void plan(PrefixPages& pages, const PrefixPath& path, int64_t step = 0, int64_t batch = 0) {
  for (size_t i = static_cast<size_t>(path.known); i < path.pages.size(); ++i) pages.set_planned(path.pages[i], step, batch);
}

TEST(PrefixPages, TheFirstWritesTheOthersRead) {
  PrefixPages pages({0, 0, 8}, 2);
  const Tokens prompt{1, 2, 3, 4, 5};
  const PrefixPath first = pages.take(prompt, 2);
  EXPECT_EQ(first.known, 0);
  EXPECT_EQ(first.pages.size(), 2U);
  const PrefixPath second = pages.take(prompt, 2);
  EXPECT_EQ(second.known, 2);
  EXPECT_EQ(second.pages, first.pages);
  // The same page of other positions before it is another page.
  const PrefixPath other = pages.take(Tokens{3, 4, 3, 4}, 2);
  EXPECT_EQ(other.known, 0);
  const PrefixPath nested = pages.take(Tokens{1, 2, 9, 9}, 2);
  EXPECT_EQ(nested.known, 1);
  EXPECT_EQ(nested.pages[0], first.pages[0]);
}

TEST(PrefixPages, APageIsReadInItsOwnPlanAndInLaterSteps) {
  PrefixPages pages({4}, 1);
  const PrefixPath path = pages.take(Tokens{7}, 1);
  EXPECT_FALSE(pages.is_readable(path.pages[0], 3, 1));
  pages.set_planned(path.pages[0], 3, 1);
  EXPECT_TRUE(pages.is_readable(path.pages[0], 3, 1));
  EXPECT_FALSE(pages.is_readable(path.pages[0], 3, 2));
  EXPECT_TRUE(pages.is_readable(path.pages[0], 4, 0));
}

TEST(PrefixPages, WhatWasNotWrittenIsGone) {
  PrefixPages pages({4}, 1);
  const PrefixPath gave_up = pages.take(Tokens{1, 2}, 2);
  pages.set_planned(gave_up.pages[0], 0, 0);
  pages.give_back(gave_up);
  const PrefixPath again = pages.take(Tokens{1, 2}, 2);
  EXPECT_EQ(again.known, 1);  // the first page was written and is kept
}

TEST(PrefixPages, WithoutRoomThereAreFewerPages) {
  PrefixPages pages({3}, 1);
  const PrefixPath path = pages.take(Tokens{1, 2, 3, 4, 5}, 5);
  EXPECT_EQ(path.pages.size(), 3U);
  EXPECT_TRUE(pages.take(Tokens{9}, 1).pages.empty());
  plan(pages, path);
  pages.give_back(path);
  EXPECT_EQ(pages.take(Tokens{9}, 1).pages.size(), 1U);  // an idle page makes room
  PrefixPages none({0, 0}, 1);
  EXPECT_TRUE(none.take(Tokens{1}, 1).pages.empty());
}

// Against a plain model of what pages hold, with more prompts than there is room for.
TEST(PrefixPages, HoldWhatTheyAreTakenForAndTheOldestIdleOnesGoFirst) {
  std::mt19937 random(3);
  PrefixPages pages({5, 3, 4}, 1);
  std::map<int32_t, Tokens> holds;  // a page: all tokens up to its end
  std::vector<std::pair<Tokens, PrefixPath>> in_use;
  int64_t reused = 0;
  for (int round = 0; round < 4000; ++round) {
    if (in_use.size() > 3 || (random() % 2 && !in_use.empty())) {
      const size_t at = random() % in_use.size();
      pages.give_back(in_use[at].second);
      in_use.erase(in_use.begin() + static_cast<ptrdiff_t>(at));
      continue;
    }
    Tokens prompt(1 + random() % 5);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random() % 3);
    const PrefixPath path = pages.take(prompt, std::ssize(prompt));
    std::set<int32_t> written_for_others;
    for (const auto& [tokens, other] : in_use) written_for_others.insert(other.pages.begin(), other.pages.end());
    for (size_t i = 0; i < path.pages.size(); ++i) {
      const Tokens upto(prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(i) + 1);
      if (static_cast<int64_t>(i) < path.known) {
        EXPECT_EQ(holds[path.pages[i]], upto);
      } else {
        EXPECT_FALSE(written_for_others.contains(path.pages[i]));
      }
      holds[path.pages[i]] = upto;
    }
    reused += path.known;
    plan(pages, path, round);
    in_use.emplace_back(prompt, path);
    for (const auto& [tokens, other] : in_use)
      for (size_t i = 0; i < other.pages.size(); ++i) EXPECT_EQ(holds[other.pages[i]], Tokens(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(i) + 1));
  }
  EXPECT_GT(reused, 1000);
}

}  // namespace
}  // namespace flexgen::prefix_pages_test
