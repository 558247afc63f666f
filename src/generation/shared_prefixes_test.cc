#include "generation/shared_prefixes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "io/test_folder.h"

namespace flexgen::shared_prefixes_test {
namespace {

using Prompts = std::vector<std::vector<int32_t>>;

std::vector<PlacedPrompt> order_of(
    const Prompts& prompts, int64_t page_tokens, const std::function<bool(int64_t)>& wanted = [](int64_t) { return true; }) {
  SharedPrefixes prefixes(page_tokens);
  for (const auto& prompt : prompts) prefixes.add(prompt);
  std::vector<PlacedPrompt> order;
  prefixes.order(wanted, [&](const PlacedPrompt& placed) {
    order.push_back(placed);
    return true;
  });
  return order;
}

int64_t common_tokens(const std::vector<int32_t>& a, const std::vector<int32_t>& b, int64_t page_tokens) {
  int64_t tokens = 0;
  while (tokens < std::ssize(a) && tokens < std::ssize(b) && a[static_cast<size_t>(tokens)] == b[static_cast<size_t>(tokens)]) ++tokens;
  const int64_t most = std::min(shareable_pages(std::ssize(a), page_tokens), shareable_pages(std::ssize(b), page_tokens));
  return std::min(tokens / page_tokens, most) * page_tokens;
}

/// `pages` whole pages of a prompt whose page p is filled with the p-th number, and a last token of its own.
std::vector<int32_t> prompt_of(std::initializer_list<int32_t> pages, int64_t page_tokens = 4) {
  std::vector<int32_t> prompt;
  for (int32_t page : pages) prompt.insert(prompt.end(), static_cast<size_t>(page_tokens), page);
  prompt.push_back(-1);
  return prompt;
}

TEST(SharedPrefixes, WithNothingInCommonTheOrderStays) {
  const auto order = order_of({prompt_of({1}), prompt_of({2, 1}), prompt_of({3}), {7}, {}}, 4);
  EXPECT_EQ(order, (std::vector<PlacedPrompt>{{0, 0}, {1, 0}, {2, 0}, {3, 0}, {4, 0}}));
  EXPECT_TRUE(prefixes_of(order).empty());
}

TEST(SharedPrefixes, SharersFollowTheFirstOfThemNestedOnesToo) {
  // 0, 3, 6 share one page, of these 0 and 6 another two; 1 and 4 are the same; 2 and 5 are alone.
  const Prompts prompts{prompt_of({1, 2, 3, 4}), prompt_of({9, 8}), prompt_of({5}),         prompt_of({1, 7}),
                        prompt_of({9, 8}),       prompt_of({6}),    prompt_of({1, 2, 3, 5})};
  const auto order = order_of(prompts, 4);
  EXPECT_EQ(order, (std::vector<PlacedPrompt>{{0, 0}, {6, 12}, {3, 4}, {1, 0}, {4, 8}, {2, 0}, {5, 0}}));
  EXPECT_EQ(prefixes_of(order), (std::vector<SharedPrefix>{{4, 0, 3}, {12, 0, 2}, {8, 3, 2}}));
}

TEST(SharedPrefixes, TheSamePromptsStayTogether) {
  const Prompts prompts{prompt_of({1, 2}), prompt_of({1, 2}), prompt_of({7}), prompt_of({1, 2}), prompt_of({1, 3}), {}, prompt_of({1, 2}), {}};
  SharedPrefixes prefixes(4);
  for (const auto& prompt : prompts) prefixes.add(prompt);
  std::vector<PlacedPrompt> order;
  const std::vector<int64_t> same_as{0, 1, 2, 0, 4, 5, 1, 5};  // in their last tokens
  prefixes.order([](int64_t) { return true; },
                 [&](const PlacedPrompt& placed) {
                   order.push_back(placed);
                   return true;
                 },
                 [&](int64_t prompt) { return same_as[static_cast<size_t>(prompt)]; });
  EXPECT_EQ(order, (std::vector<PlacedPrompt>{{0, 0}, {3, 8}, {1, 8}, {6, 8}, {4, 4}, {2, 0}, {5, 0}, {7, 0}}));
}

/// Conversations that grow turn by turn, several of them in turns: each is a chain of as many levels.
TEST(SharedPrefixes, PromptsThatGrowShareAllThatWasThereBefore) {
  constexpr int32_t kChains = 3, kTurns = 60;
  Prompts prompts;
  for (int32_t turn = 1; turn <= kTurns; ++turn)
    for (int32_t chain = 0; chain < kChains; ++chain) {
      std::vector<int32_t> prompt;
      for (int32_t page = 0; page < turn; ++page) prompt.insert(prompt.end(), 4, 100 * chain + page);
      prompt.push_back(-turn);
      prompts.push_back(prompt);
    }
  int64_t computed = 0;
  for (const PlacedPrompt& placed : order_of(prompts, 4))
    computed += shareable_pages(std::ssize(prompts[static_cast<size_t>(placed.prompt)]), 4) - placed.shared_tokens / 4;
  EXPECT_EQ(computed, kChains * kTurns);
}

/// What deep levels cost is bounded; what is not looked at is as the prompts' own.
TEST(SharedPrefixes, ALongChainEndsAfterItsShareOfLooks) {
  SharedPrefixes prefixes(1);
  constexpr int64_t kPrompts = 3000;
  std::vector<int32_t> prompt(1, 1);
  for (int64_t i = 0; i < kPrompts; ++i) {
    prompt.push_back(static_cast<int32_t>(i));
    prefixes.add(prompt);
  }
  int64_t shared = 0, last = 0;
  prefixes.order([](int64_t) { return true; },
                 [&](const PlacedPrompt& placed) {
                   shared = std::max(shared, placed.shared_tokens);
                   last = placed.prompt;
                   return true;
                 });
  EXPECT_GT(shared, 100);
  EXPECT_LT(shared, kPrompts - 100);
  EXPECT_EQ(last, kPrompts - 1);
}

TEST(SharedPrefixes, TheLastTokenIsNeverShared) {
  Prompts prompts{prompt_of({1, 2}), prompt_of({1, 2})};
  for (auto& prompt : prompts) prompt.pop_back();  // exactly two pages
  EXPECT_EQ(order_of(prompts, 4), (std::vector<PlacedPrompt>{{0, 0}, {1, 4}}));
}

TEST(SharedPrefixes, OnlyWantedPromptsCount) {
  const Prompts prompts{prompt_of({1, 2}), prompt_of({3}), prompt_of({1, 2}), prompt_of({1})};
  const auto order = order_of(prompts, 4, [](int64_t prompt) { return prompt != 0; });
  EXPECT_EQ(order, (std::vector<PlacedPrompt>{{1, 0}, {2, 0}, {3, 4}}));
}

// Of random trees of prompts: every prompt once, neighbours share what is said, and no other order computes fewer tokens: all that are distinct, once.
TEST(SharedPrefixes, EveryPageIsComputedOnce) {
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    const auto page_tokens = static_cast<int64_t>(1 + random() % 5);
    Prompts prompts(1 + random() % 60);
    for (auto& prompt : prompts) {
      prompt.resize(random() % 30);
      for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(random() % (i < 10 ? 2 : 3));
    }
    const auto order = order_of(prompts, page_tokens);
    std::set<int64_t> seen;
    std::set<std::vector<int32_t>> pages;
    int64_t computed = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      const auto& prompt = prompts[static_cast<size_t>(order[i].prompt)];
      EXPECT_TRUE(seen.insert(order[i].prompt).second);
      EXPECT_EQ(order[i].shared_tokens, i == 0 ? 0 : common_tokens(prompts[static_cast<size_t>(order[i - 1].prompt)], prompt, page_tokens)) << round;
      const int64_t whole = shareable_pages(std::ssize(prompt), page_tokens);
      computed += whole - order[i].shared_tokens / page_tokens;
      for (int64_t page = 1; page <= whole; ++page) pages.insert({prompt.begin(), prompt.begin() + page * page_tokens});
    }
    EXPECT_EQ(seen.size(), prompts.size());
    EXPECT_EQ(computed, std::ssize(pages)) << round;
    // Each prefix that is told is that of its prompts and of no neighbour of theirs.
    for (const SharedPrefix& prefix : prefixes_of(order)) {
      const auto at = [&](int64_t place) { return prompts[static_cast<size_t>(order[static_cast<size_t>(place)].prompt)]; };
      for (int64_t place = prefix.first; place < prefix.first + prefix.count; ++place)
        EXPECT_GE(common_tokens(at(prefix.first), at(place), page_tokens), place == prefix.first ? 0 : prefix.tokens);
      if (prefix.first > 0) {
        EXPECT_LT(common_tokens(at(prefix.first), at(prefix.first - 1), page_tokens), prefix.tokens);
      }
      if (prefix.first + prefix.count < std::ssize(order)) {
        EXPECT_LT(common_tokens(at(prefix.first), at(prefix.first + prefix.count), page_tokens), prefix.tokens);
      }
    }
  }
}

/// A chain of prefixes, each a page longer than the one before, must not cost a pass over all for each.
TEST(SharedPrefixes, DeepNestingIsCutOff) {
  Prompts prompts;
  for (int32_t length = 0; length < 40; ++length) prompts.emplace_back(static_cast<size_t>(length + 1), 3);
  const auto order = order_of(prompts, 1);
  ASSERT_EQ(order.size(), prompts.size());
  for (size_t i = 1; i < order.size(); ++i)
    EXPECT_LE(order[i].shared_tokens, common_tokens(prompts[static_cast<size_t>(order[i - 1].prompt)], prompts[static_cast<size_t>(order[i].prompt)], 1));
}

}  // namespace
}  // namespace flexgen::shared_prefixes_test
