#include "generation/grammar_masks.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "generation/grammar_requests.h"
#include "io/test_folder.h"
#include "text/tokenizer.h"

namespace flexgen::grammar_masks_test {
namespace {

constexpr int32_t kVocab = 331, kEnd = 5;

TEST(GrammarMasks, AGrammarThatCannotBeFollowedEndsItsAnswerAlone) {
  const TestFolder directory;
  write_ascii_tokenizer(directory.path().string(), kVocab, kEnd);
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(directory.path().string());
  GrammarMasks masks(*tokenizer, kVocab, {kEnd});
  const auto has_token = [](const TokenMask& mask) { return std::any_of(mask.begin(), mask.end(), [](uint32_t word) { return word != 0; }); };
  const auto broken = std::make_shared<GrammarMasks::Follower>(), whole = std::make_shared<GrammarMasks::Follower>();
  const TokenMask none = masks.next(broken, std::make_shared<const GrammarSpec>(GrammarSpec{GrammarSpec::Kind::kEbnf, "root ::= (", {}, true}), {}).get();
  EXPECT_EQ(none.size(), static_cast<size_t>((kVocab + 31) / 32));
  EXPECT_FALSE(has_token(none));
  EXPECT_FALSE(broken->failure.empty());
  if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
  EXPECT_TRUE(has_token(masks.next(whole, std::make_shared<const GrammarSpec>(grammars_in_turn()[1]), {}).get()));
  EXPECT_EQ(whole->failure, "");
}

}  // namespace
}  // namespace flexgen::grammar_masks_test
