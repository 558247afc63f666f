#include "cli/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace flexgen::evaluation_test {
namespace {

TEST(ScoreWindows, EveryTokenOnceWithItsContext) {
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    const bool prefix = random() % 2 == 0;
    const auto tokens = static_cast<int64_t>(random() % 300), window = static_cast<int64_t>(2 + random() % 60);
    const auto stride = static_cast<int64_t>(1 + random() % static_cast<uint64_t>(window - 1));
    int64_t next = prefix ? 0 : 1;
    const auto windows = score_windows(tokens, window, stride, prefix);
    for (const ScoreWindow& w : windows) {
      EXPECT_EQ(w.first_scored, next);
      EXPECT_LE(w.end - w.begin, window);
      EXPECT_GT(w.end, w.first_scored);
      if (w.begin > 0) {
        EXPECT_GE(w.first_scored - w.begin, window - stride);
      }
      next = w.end;
    }
    EXPECT_EQ(next, std::max(tokens, int64_t{prefix ? 0 : 1})) << tokens << " " << window << " " << stride;
  }
}

TEST(ScoreWindows, AsInTheDefinition) {
  const auto windows = score_windows(10, 4, 2, false);
  ASSERT_EQ(windows.size(), 4u);
  EXPECT_EQ(windows[0].first_scored, 1);
  EXPECT_EQ(windows[1].begin, 2);
  EXPECT_EQ(windows[1].first_scored, 4);
  EXPECT_EQ(windows[3].end, 10);
  EXPECT_TRUE(score_windows(1, 4, 2, false).empty());
  EXPECT_EQ(score_windows(1, 4, 4, true).size(), 1u);
}

TEST(PerplexityTest, OfMadeUpScores) {
  Perplexity uniform{std::log(1.0 / 8) * 5, 5, 10};
  EXPECT_NEAR(uniform.value(), 8, 1e-9);
  EXPECT_NEAR(uniform.bits_per_byte(), 1.5, 1e-9);
}

TEST(TaskScoreTest, ExactAndFields) {
  TaskScore score;
  score.add(" yes\n", "yes");
  score.add("no", "yes");
  EXPECT_EQ(score.lines, 2);
  EXPECT_EQ(score.exact, 1);
  EXPECT_EQ(score.fields, 0);
  score.add(R"({"a": 1, "b": "x", "d": 0})", R"({"b":"x","a":1,"c":2})");
  score.add("{broken", R"({"a": 1})");
  score.add(R"([1])", R"({"a": 1})");
  EXPECT_EQ(score.exact, 1);
  EXPECT_EQ(score.fields, 5);
  EXPECT_EQ(score.fields_right, 2);
}

TEST(TaskScoreTest, ValuesAreTheSameHoweverTheyAreWritten) {
  TaskScore score;
  score.add("{\"total\": 100.00, \"a\": \"x\"}\n", R"({"a":"x","total":100})", true);
  score.add("12.5", "12.50", true);
  score.add(" [1, null]", "[1.0,null]", true);
  score.add("null", "null", true);
  EXPECT_EQ(score.exact, 4);
  EXPECT_EQ(score.fields_right, 2);
  score.add("12345678901234567891", "12345678901234567892", true);  // the same as doubles
  score.add(R"("12.5")", "12.5", true);
  score.add("twelve", "12", true);
  score.add("12.50", "12.5");  // a text
  EXPECT_EQ(score.exact, 4);
}

TEST(TaskScoreTest, DeepNestingIsHarmless) {
  constexpr size_t kDeep = 500000;  // comparing such values would need as many stack frames
  const std::string deep = R"({"a": )" + std::string(kDeep, '[') + std::string(kDeep, ']') + "}";
  TaskScore score;
  score.add(deep, deep);
  score.add(deep, R"({"a": [[1]]})", true);
  EXPECT_EQ(score.exact, 1);
  EXPECT_EQ(score.fields, 1);
  EXPECT_EQ(score.fields_right, 0);
}

}  // namespace
}  // namespace flexgen::evaluation_test
