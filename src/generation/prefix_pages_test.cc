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

TEST(PrefixPages, OthersWaitForWhatIsNotWritten) {
  PrefixPages pages({4}, 1);
  const PrefixPath writer = pages.take(Tokens{1, 2, 3}, 3);
  EXPECT_FALSE(pages.is_awaited(writer));  // it may give up
  const PrefixPath reader = pages.take(Tokens{1, 2, 9}, 2);
  EXPECT_TRUE(pages.is_awaited(writer));
  EXPECT_FALSE(pages.is_awaited(reader));
  pages.set_planned(writer.pages[0], 0, 0);
  EXPECT_TRUE(pages.is_awaited(writer));
  pages.set_planned(writer.pages[1], 1, 0);
  EXPECT_FALSE(pages.is_awaited(writer));
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

/// A window of 4 tokens: after an end two pages of 2 tokens are seen.
PrefixPages with_window(int64_t places) { return PrefixPages({0, 0, 8}, 2, {{StateSpec{.heads = 1, .head_size = 1, .window = 4}, {places}}}); }
std::vector<int64_t> kept_of(const PrefixPages& pages, const PrefixPath& path) {
  std::vector<int64_t> kept;
  for (int64_t at = 0; at < std::ssize(path.pages); ++at)
    if (pages.place_of(path.pages[static_cast<size_t>(at)], 0) >= 0) kept.push_back(at);
  return kept;
}

TEST(PrefixPages, LayersWithAWindowKeepWhatIsSeenFromTheEnds) {
  PrefixPages pages = with_window(4);
  const Tokens prompt{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const PrefixPath first = pages.take(prompt, 6, std::vector<int64_t>{3, 6});
  EXPECT_EQ(first.pages.size(), 6U);
  EXPECT_EQ(kept_of(pages, first), (std::vector<int64_t>{1, 2, 4, 5}));
  EXPECT_EQ(pages.take(prompt, 3, std::vector<int64_t>{3}).known, 3);
  // One who goes on where nobody was to can begin where others do, and the pages after that are in use.
  const PrefixPath other = pages.take(prompt, 4, std::vector<int64_t>{4});
  EXPECT_EQ(other.known, 3);
  EXPECT_EQ(other.pages.size(), 3U);
}

TEST(PrefixPages, WhatALaterOneCannotBeginWithIsMadeAnew) {
  PrefixPages pages = with_window(4);
  const Tokens prompt{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const PrefixPath first = pages.take(prompt, 6, std::vector<int64_t>{3, 6});
  plan(pages, first);
  pages.give_back(first);
  const PrefixPath again = pages.take(prompt, 5, std::vector<int64_t>{4, 5});
  EXPECT_EQ(again.known, 3);
  EXPECT_EQ(again.pages.size(), 5U);
  EXPECT_EQ(kept_of(pages, again), (std::vector<int64_t>{1, 2, 3, 4}));
  EXPECT_FALSE(pages.is_readable(again.pages[3], 1, 0));
}

TEST(PrefixPages, WithoutRoomInAWindowThereAreFewerPages) {
  PrefixPages pages = with_window(1);
  EXPECT_EQ(pages.take(Tokens{1, 2, 3, 4, 5, 6}, 3, std::vector<int64_t>{3}).pages.size(), 1U);
}

// Against a plain model of what the places of two windows hold.
TEST(PrefixPages, WindowsHoldWhatIsSeenFromWhereASequenceBegins) {
  std::mt19937 random(5);
  const std::vector<StateSpec> states{{.heads = 1, .head_size = 1, .window = 2}, {.heads = 1, .head_size = 1, .window = 4}};
  PrefixPages pages({9, 3}, 1, {{states[0], {2, 3}}, {states[1], {4, 4}}});
  std::map<std::pair<size_t, int32_t>, Tokens> holds;  // a window and place
  std::vector<PrefixPath> in_use;
  int64_t reused = 0, kept_less = 0;
  for (int round = 0; round < 4000; ++round) {
    if (in_use.size() > 3 || (random() % 2 && !in_use.empty())) {
      const size_t at = random() % in_use.size();
      pages.give_back(in_use[at]);
      in_use.erase(in_use.begin() + static_cast<ptrdiff_t>(at));
      continue;
    }
    Tokens prompt(1 + random() % 7);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random() % 2);
    std::vector<int64_t> ends;
    for (int64_t end = 1; end < std::ssize(prompt); ++end)
      if (random() % 3 == 0) ends.push_back(end);
    ends.push_back(std::ssize(prompt));
    const PrefixPath path = pages.take(prompt, std::ssize(prompt), ends);
    for (size_t window = 0; window < states.size(); ++window) {
      const auto upto = [&](int64_t page) { return Tokens(prompt.begin(), prompt.begin() + page + 1); };
      const auto place = [&](int64_t page) { return pages.place_of(path.pages[static_cast<size_t>(page)], window); };
      for (int64_t page = states[window].first_page(path.known, 1); page < path.known; ++page) EXPECT_EQ((holds[{window, place(page)}]), upto(page));
      for (int64_t page = path.known; page < std::ssize(path.pages); ++page) {
        if (place(page) >= 0) holds[{window, place(page)}] = upto(page);
        else ++kept_less;
      }
      for (const PrefixPath& other : in_use)  // nobody's place was taken
        for (size_t i = static_cast<size_t>(path.known); i < path.pages.size(); ++i)
          for (const int32_t page : other.pages)
            EXPECT_TRUE(place(static_cast<int64_t>(i)) < 0 || pages.place_of(page, window) != place(static_cast<int64_t>(i)));
    }
    reused += path.known;
    plan(pages, path, round);
    in_use.push_back(path);
  }
  EXPECT_GT(reused, 1000);
  EXPECT_GT(kept_less, 300);
}

}  // namespace
}  // namespace flexgen::prefix_pages_test
