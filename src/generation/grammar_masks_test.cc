#include "generation/grammar_masks.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <latch>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "generation/grammar_requests.h"
#include "io/test_folder.h"
#include "text/tokenizer.h"

namespace flexgen::grammar_masks_test {
namespace {

constexpr int32_t kVocab = 331, kEnd = 5;
constexpr std::chrono::seconds kLong{60};

bool has_token(const TokenMask& mask) {
  return std::any_of(mask.begin(), mask.end(), [](uint32_t word) { return word != 0; });
}

TEST(GrammarMasks, AGrammarThatCannotBeFollowedEndsItsAnswerAlone) {
  const TestFolder directory;
  write_ascii_tokenizer(directory.path().string(), kVocab, kEnd);
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(directory.path().string());
  GrammarMasks masks(*tokenizer, kVocab, {kEnd});
  const auto broken = masks.begin(std::make_shared<const GrammarSpec>(GrammarSpec{GrammarSpec::Kind::kEbnf, "root ::= (", {}, true}));
  const TokenMask none = masks.next(broken, {}).get();
  EXPECT_EQ(none.size(), static_cast<size_t>((kVocab + 31) / 32));
  EXPECT_FALSE(has_token(none));
  EXPECT_FALSE(broken->failure.empty());
  if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
  const auto whole = masks.begin(std::make_shared<const GrammarSpec>(grammars_in_turn()[1]));
  EXPECT_TRUE(has_token(masks.next(whole, {}).get()));
  EXPECT_EQ(whole->failure, "");
}

class AnyToken : public GrammarMatcher {
 public:
  bool accept(int32_t) override { return true; }
  TokenMask mask() override { return TokenMask(static_cast<size_t>((kVocab + 31) / 32), 1); }
  bool ended() const override { return false; }
};

/// Compiles large grammars once it may, and those of 'z' once these may.
class SlowCompiler : public GrammarCompiler {
 public:
  std::unique_ptr<GrammarMatcher> start(const GrammarSpec& spec) override {
    if (std::unique_ptr<GrammarMatcher> kept = start_kept(spec)) return kept;
    if (spec.text.size() > 100 || spec.text.ends_with('}')) may_go.wait();
    if (spec.text.starts_with('z')) z_may_go.wait();
    ++compiled;
    const std::lock_guard lock(mutex_);
    kept_.insert(spec.text);
    return std::make_unique<AnyToken>();
  }
  std::unique_ptr<GrammarMatcher> start_kept(const GrammarSpec& spec) override {
    const std::lock_guard lock(mutex_);
    return kept_.contains(spec.text) ? std::make_unique<AnyToken>() : nullptr;
  }
  std::latch may_go{1}, z_may_go{1};
  std::atomic<int> compiled{0};

 private:
  std::mutex mutex_;
  std::set<std::string> kept_;
};

std::shared_ptr<const GrammarSpec> spec_of(size_t bytes, char c = 'a') {
  return std::make_shared<const GrammarSpec>(GrammarSpec{GrammarSpec::Kind::kRegex, std::string(bytes, c), {}, true});
}

TEST(GrammarMasks, ALargeGrammarHoldsUpNoOther) {
  auto made = std::make_unique<SlowCompiler>();
  SlowCompiler& compiler = *made;
  GrammarMasks masks(kVocab, [&] { return std::move(made); });
  const auto large = masks.begin(spec_of(10'000)), same = masks.begin(spec_of(10'000));
  const auto counts = masks.begin(std::make_shared<const GrammarSpec>(GrammarSpec{GrammarSpec::Kind::kRegex, "[a-z]{1,300}", {}, true}));
  auto given_up = masks.begin(spec_of(20'000));
  given_up = nullptr;
  const auto small = masks.begin(spec_of(10));
  ASSERT_TRUE(small->is_ready(kLong));
  EXPECT_TRUE(has_token(masks.next(small, {}).get()));
  EXPECT_TRUE(masks.begin(spec_of(10))->is_ready()) << "it is kept";
  EXPECT_FALSE(large->is_ready());
  compiler.may_go.count_down();
  EXPECT_TRUE(large->is_ready(kLong));
  EXPECT_TRUE(has_token(masks.next(large, {}).get()));
  EXPECT_TRUE(same->is_ready(kLong) && counts->is_ready(kLong));
  const auto b = masks.begin(spec_of(10'000, 'b')), c = masks.begin(spec_of(10'000, 'c'));  // behind all that was given before
  ASSERT_TRUE(b->is_ready(kLong) && c->is_ready(kLong));
  EXPECT_EQ(compiler.compiled, 5) << "the same one once, and not the one that was given up";
}

TEST(GrammarMasks, WhoWaitsForAGrammarGoesOnOnceItIsCompiled) {
  auto made = std::make_unique<SlowCompiler>();
  SlowCompiler& compiler = *made;
  GrammarMasks masks(kVocab, [&] { return std::move(made); });
  std::vector<std::shared_ptr<GrammarMasks::Follower>> first, held;
  first.push_back(masks.begin(spec_of(10'000)));
  for (const size_t size : {10'000, 20'000, 30'000, 40'000}) held.push_back(masks.begin(spec_of(size, 'z')));  // as many as fill all lanes for large ones
  for (int i = 0; i < 2; ++i) first.push_back(masks.begin(spec_of(10'000)));
  compiler.may_go.count_down();
  for (const auto& follower : first) {
    ASSERT_TRUE(follower->is_ready(kLong));
    EXPECT_TRUE(has_token(masks.next(follower, {}).get()));
  }
  for (const auto& follower : held) EXPECT_FALSE(follower->is_ready());
  EXPECT_EQ(compiler.compiled, 1);
  compiler.z_may_go.count_down();
  for (const auto& follower : held) EXPECT_TRUE(follower->is_ready(kLong));
}

/// Fails on all.
class NoCompiler : public GrammarCompiler {
 public:
  std::unique_ptr<GrammarMatcher> start(const GrammarSpec&) override {
    may_go.wait();
    ++tried;
    throw std::runtime_error("it cannot");
  }
  std::unique_ptr<GrammarMatcher> start_kept(const GrammarSpec&) override { return nullptr; }
  std::latch may_go{1};
  std::atomic<int> tried{0};
};

TEST(GrammarMasks, AllWhoWaitForAGrammarHearWhyItCannotBeCompiled) {
  auto made = std::make_unique<NoCompiler>();
  NoCompiler& compiler = *made;
  GrammarMasks masks(kVocab, [&] { return std::move(made); });
  const auto one = masks.begin(spec_of(10)), another = masks.begin(spec_of(10));
  compiler.may_go.count_down();
  for (const auto& follower : {one, another}) {
    ASSERT_TRUE(follower->is_ready(kLong));
    EXPECT_EQ(follower->failure, "it cannot");
  }
  EXPECT_EQ(compiler.tried, 1);
}

/// Small and large ones, no two the same.
std::vector<GrammarSpec> many_grammars() {
  std::vector<GrammarSpec> all = grammars_in_turn();
  for (int i = 0; i < 8; ++i) {
    all.push_back({GrammarSpec::Kind::kRegex, fmt::format("[a-c]{{1,{}}}x?", i + 2), {}, true});
    GrammarSpec large{GrammarSpec::Kind::kChoice, "", {}, true};
    for (int choice = 0; choice < 500; ++choice) large.choices.push_back(fmt::format("{}a{:08}", i, choice));
    all.push_back(std::move(large));
  }
  return all;
}

int32_t first_token(const TokenMask& mask) {
  for (int32_t token = 0; token < kVocab; ++token)
    if (may_come(mask, token)) return token;
  return -1;
}

TEST(GrammarMasks, ManyAtOnceAreFollowedAsEachAlone) {
  if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
  const TestFolder directory;
  write_ascii_tokenizer(directory.path().string(), kVocab, kEnd);
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(directory.path().string());
  std::vector<std::pair<TokenMask, TokenMask>> expected;  // of the first token, and behind it
  for (const GrammarSpec& grammar : many_grammars()) {
    const auto matcher = GrammarCompiler::create(*tokenizer, kVocab, {kEnd}, kGrammarCacheBytes)->start(grammar);
    const TokenMask first = matcher->mask();
    if (const int32_t token = first_token(first); token >= 0) {
      ASSERT_TRUE(matcher->accept(token));
    }
    expected.emplace_back(first, matcher->mask());
  }
  GrammarMasks masks(*tokenizer, kVocab, {kEnd});
  std::thread calls([] {  // as they come in meanwhile
    for (const GrammarSpec& grammar : many_grammars()) check_grammar(grammar);
  });
  std::vector<std::shared_ptr<GrammarMasks::Follower>> followers;
  std::vector<std::shared_future<TokenMask>> firsts;
  for (int round = 0; round < 3; ++round)
    for (const GrammarSpec& grammar : many_grammars()) {
      followers.push_back(masks.begin(std::make_shared<const GrammarSpec>(grammar)));
      firsts.push_back(masks.next(followers.back(), {}));
      masks.begin(
          std::make_shared<const GrammarSpec>(GrammarSpec{GrammarSpec::Kind::kRegex, fmt::format("{}{}", round, followers.size()), {}, true}));  // given up
    }
  for (size_t i = 0; i < followers.size(); ++i) {
    const auto& [first, second] = expected[i % expected.size()];
    EXPECT_EQ(firsts[i].get(), first) << i << followers[i]->failure;
    if (const int32_t token = first_token(first); token >= 0) {
      EXPECT_EQ(masks.next(followers[i], {token}).get(), second) << i << followers[i]->failure;
    }
  }
  calls.join();
  const auto unread = masks.begin(spec_of(10'000));
  masks.next(unread, {});  // the end waits for it
}

}  // namespace
}  // namespace flexgen::grammar_masks_test
