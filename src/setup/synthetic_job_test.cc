#include "setup/synthetic_job.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace flexgen::synthetic_job_test {
namespace {

/// Of two prompts, how many tokens are the same from the first on.
int64_t same_tokens(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

TEST(PrefixLevels, NothingInCommon) {
  const PrefixLevels levels({}, {}, 3);
  EXPECT_EQ(levels.tokens(), 0);
  EXPECT_EQ(levels.common_tokens(0, 1), 0);
  EXPECT_EQ(levels.shared_tokens(1), 0);
  EXPECT_TRUE(levels.draw(2, 0, 100).empty());
}

TEST(PrefixLevels, GroupsInARow) {
  const PrefixLevels levels({40}, {3}, 7);  // 0 1 2, 3 4, 5 6
  for (int64_t i = 0; i < 7; ++i) {
    EXPECT_EQ(levels.shared_tokens(i), 40) << i;
    EXPECT_EQ(i == 0 ? 40 : levels.common_tokens(i - 1, i), i == 3 || i == 5 ? 0 : 40) << i;
  }
  EXPECT_EQ(PrefixLevels({40}, {7}, 7).shared_tokens(3), 0) << "alone in its group";
  EXPECT_EQ(levels.shared_ends(3), (std::vector<int64_t>{40}));
  EXPECT_EQ(PrefixLevels({20, 12}, {1, 3}, 4).shared_ends(0), (std::vector<int64_t>{20, 32}));  // 0 1, 2, 3
  EXPECT_EQ(PrefixLevels({20, 12}, {1, 3}, 4).shared_ends(3), (std::vector<int64_t>{20}));
}

/// Two systems of 20 tokens, three tasks of 12 inside each; what a prompt says of another is what their tokens are.
TEST(PrefixLevels, GroupsInsideGroups) {
  const int64_t num_prompts = 13;
  const PrefixLevels levels({20, 12}, {2, 3}, num_prompts);
  EXPECT_EQ(levels.tokens(), 32);
  int outer = 0, inner = 0;  // where they begin
  for (int64_t a = 0; a < num_prompts; ++a) {
    const std::vector<int32_t> prompt = levels.draw(a, 5, 50000);
    ASSERT_EQ(std::ssize(prompt), 32);
    int64_t most = 0;
    for (int64_t b = 0; b < num_prompts; ++b) {
      EXPECT_EQ(levels.common_tokens(a, b), same_tokens(prompt, levels.draw(b, 5, 50000))) << a << " " << b;
      if (a != b) most = std::max(most, levels.common_tokens(a, b));
    }
    EXPECT_EQ(levels.shared_tokens(a), most) << a;
    outer += a == 0 || levels.common_tokens(a - 1, a) < 20 ? 1 : 0;
    inner += a == 0 || levels.common_tokens(a - 1, a) < 32 ? 1 : 0;
  }
  EXPECT_EQ(outer, 2);
  EXPECT_EQ(inner, 6);
  EXPECT_NE(levels.draw(0, 5, 50000), levels.draw(0, 6, 50000)) << "other seeds, other tokens";
}

}  // namespace
}  // namespace flexgen::synthetic_job_test
