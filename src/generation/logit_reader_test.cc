// Logits as they come, chunk by chunk, against plain sums over all of them.

#include "generation/logit_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace flexgen::logit_reader_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

LogitReader::Row greedy_row(int64_t top_logprobs = 0, int32_t target = -1) {
  LogitReader::Row row;
  row.params.temperature = 0;
  row.params.top_logprobs = top_logprobs;
  row.target = target;
  return row;
}

/// What one row's logits come to, in chunks of these sizes.
TokenLogprob read(const std::vector<float>& logits, const std::vector<int64_t>& chunks, LogitReader::Row row) {
  LogitReader reader({row}, static_cast<int64_t>(logits.size()), {});
  int64_t at = 0;
  for (size_t i = 0; at < static_cast<int64_t>(logits.size()); ++i) {
    const int64_t count = std::min<int64_t>(chunks[i % chunks.size()], static_cast<int64_t>(logits.size()) - at);
    const std::vector<float> chunk(logits.begin() + at, logits.begin() + at + count);  // nothing behind it to read by mistake
    reader.accept(0, 1, at, count, chunk.data(), count, nullptr);
    at += count;
  }
  return reader.results()[0];
}

TEST(LogitReader, TokensAndLogprobsAreThoseOfPlainSums) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> logits(1 + random() % 5000);
    const float spread = round % 3 == 0 ? 200.0f : round % 3 == 1 ? 8.0f : 0.01f;
    for (float& logit : logits) logit = spread * (static_cast<float>(random() % 100001) / 50000 - 1);
    double sum = 0;
    const auto best = std::max_element(logits.begin(), logits.end());
    for (float logit : logits) sum += std::exp(static_cast<double>(logit) - *best);
    const double normalizer = *best + std::log(sum);
    const std::vector<int64_t> chunks{1 + static_cast<int64_t>(random() % 3000), 1 + static_cast<int64_t>(random() % 40)};
    const TokenLogprob chosen = read(logits, chunks, greedy_row(3));
    EXPECT_EQ(chosen.token, best - logits.begin());
    EXPECT_NEAR(chosen.logprob, *best - normalizer, 2e-6 * (1 + std::abs(*best - normalizer)));
    ASSERT_EQ(chosen.top.size(), std::min<size_t>(3, logits.size()));
    EXPECT_EQ(chosen.top[0].first, chosen.token);
    const auto target = static_cast<int32_t>(random() % logits.size());
    const TokenLogprob known = read(logits, chunks, greedy_row(0, target));
    EXPECT_EQ(known.token, target);
    const double wanted = logits[static_cast<size_t>(target)] - normalizer;
    EXPECT_NEAR(known.logprob, wanted, 2e-6 * (1 + std::abs(wanted)));
  }
}

TEST(LogitReader, OfEqualLogitsTheFirstIsTaken) {
  std::vector<float> logits(4000, -1);
  for (size_t i : {1500u, 1501u, 3999u}) logits[i] = 2;
  for (int64_t chunk : {4000, 1000, 17}) EXPECT_EQ(read(logits, {chunk}, greedy_row()).token, 1500) << chunk;
  EXPECT_EQ(read(std::vector<float>(100, 0.0f), {100}, greedy_row()).token, 0);
}

TEST(LogitReader, TheLargestOfEachChunkAreEnoughForGreedyAndDrawnTokens) {
  std::mt19937 random(5);
  std::vector<LogitReader::Row> rows(4, greedy_row(-1));
  rows[3].params.temperature = 0.8;
  rows[3].params.seed = 6;
  std::vector<std::vector<float>> logits(4, std::vector<float>(1000));
  for (auto& row : logits)
    for (float& logit : row) logit = static_cast<float>(random() % 50);  // the best is there many times
  logits[2][500] = logits[2][999] = NAN;
  LogitReader all(rows, 1000, {}), largest(rows, 1000, {});
  auto kernels = make_reference_kernels();
  EXPECT_TRUE(largest.draws(0, 3).empty());
  const std::vector<Draw> draws = largest.draws(0, 4);
  ASSERT_EQ(draws.size(), 4u);
  for (int64_t at = 0; at < 1000; at += 300) {
    const int64_t count = std::min<int64_t>(300, 1000 - at);
    Largest found[4];
    for (size_t i = 0; i < 4; ++i) {
      all.accept(static_cast<int64_t>(i), 1, at, count, logits[i].data() + at, count, nullptr);
      kernels->largest(logits[i].data() + at, 1, count, std::span(draws).subspan(i, 1), at, &found[i]);
    }
    largest.accept(0, 2, at, count, nullptr, 0, found);
    largest.accept(2, 2, at, count, nullptr, 0, found + 2);
  }
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(largest.results()[i].token, all.results()[i].token) << i;
    EXPECT_EQ(largest.results()[i].not_finite, i == 2 ? 500 : -1) << i;
    EXPECT_EQ(all.results()[i].not_finite, i == 2 ? 500 : -1) << i;
  }
}

// Who found the largest may round otherwise than this reader would, and its word stands, with logits beside it or without.
TEST(LogitReader, TheLargestThatIsGivenStands) {
  const std::vector<float> logits{1, 5, 2, 4};
  std::vector<LogitReader::Row> rows(2, greedy_row(0));
  rows[1].params.temperature = 1;
  for (size_t i = 0; i < 2; ++i) {
    LogitReader reader({rows[i]}, 4, {});
    const Largest given{7, 3};  // of the first row no reader could have found it
    reader.accept(0, 1, 0, 4, logits.data(), 4, &given);
    EXPECT_EQ(reader.results()[0].token, 3);
    EXPECT_NEAR(reader.results()[0].logprob, 4 - std::log(std::exp(1.0) + std::exp(5.0) + std::exp(2.0) + std::exp(4.0)), 1e-5);
  }
}

TEST(LogitReader, TakesTheLargestAloneWhereNoRowWantsMore) {
  std::vector<LogitReader::Row> rows(5, greedy_row(-1));
  rows[1] = greedy_row(0);      // a logprob
  rows[3] = greedy_row(-1, 7);  // of a token that is known
  LogitReader reader(rows, 10, {});
  EXPECT_TRUE(reader.takes_largest(0, 1));
  EXPECT_FALSE(reader.takes_largest(0, 2));
  EXPECT_TRUE(reader.takes_largest(2, 1));
  EXPECT_FALSE(reader.takes_largest(2, 3));
  EXPECT_TRUE(reader.takes_largest(4, 1));
  rows[4].params.temperature = 0.5;
  EXPECT_TRUE(LogitReader(rows, 10, {}).takes_largest(4, 1));
  rows[4].params.top_p = 0.9;  // of which all logits are kept
  std::vector<float> store(10);
  EXPECT_FALSE(LogitReader(rows, 10, store).takes_largest(4, 1));
}

// Wherever it is, and whatever the row is for.
TEST(LogitReader, TellsWhatIsNotFinite) {
  std::vector<LogitReader::Row> rows(6, greedy_row(-1));
  rows[1] = greedy_row(2);
  rows[2] = greedy_row(-1, 7);
  rows[3] = greedy_row(0, 7);
  rows[4].params.temperature = 0.7;
  rows[5].params.temperature = 0.7;
  rows[5].params.top_k = 5;
  std::vector<float> clean(100, -3), store(100);
  clean[70] = 1;
  clean[30] = -kInfinity;  // a token that is masked is none of it
  for (const LogitReader::Row& row : rows)
    for (int64_t chunk : {100, 33}) {
      auto found = [&](const std::vector<float>& logits) {
        LogitReader reader({row}, 100, store);
        for (int64_t at = 0; at < 100; at += chunk) reader.accept(0, 1, at, std::min<int64_t>(chunk, 100 - at), logits.data() + at, chunk, nullptr);
        return reader.results()[0].not_finite;
      };
      EXPECT_EQ(found(clean), -1);
      for (int32_t at : {0, 50, 99})
        for (float value : {NAN, kInfinity}) {
          std::vector<float> logits = clean;
          logits[static_cast<size_t>(at)] = value;
          EXPECT_EQ(found(logits), at);
        }
      EXPECT_EQ(found(std::vector<float>(100, -kInfinity)), 0);  // nothing to choose
    }
}

TEST(LogitReader, EditsChangeTheTokenAndNotTheLogprobs) {
  std::vector<float> logits(100, 0), store(100);
  logits[40] = 3;
  logits[50] = 2;
  LogitReader::Row row = greedy_row(1);
  row.edited = true;
  auto read_row = [&] {
    LogitReader reader({row}, 100, store);
    reader.accept(0, 1, 0, 60, logits.data(), 60, nullptr);
    reader.accept(0, 1, 60, 40, logits.data() + 60, 40, nullptr);
    return reader.results()[0];
  };
  const float sum = std::log(98 + std::exp(3.0f) + std::exp(2.0f));
  EXPECT_EQ(read_row().token, 40);
  row.edits = {{40, -kInfinity}, {7, 0.5f}};
  const TokenLogprob second = read_row();
  EXPECT_EQ(second.token, 50);
  EXPECT_NEAR(second.logprob, 2 - sum, 1e-5);
  EXPECT_EQ(second.top[0].first, 40);
  EXPECT_NEAR(second.top[0].second, 3 - sum, 1e-5);
  row.edits = {{99, 10}};
  EXPECT_EQ(read_row().token, 99);
  EXPECT_NEAR(read_row().logprob, -sum, 1e-5);
  row.edits.clear();
  for (int32_t token = 0; token < 100; ++token) row.edits.push_back({token, -kInfinity});
  EXPECT_TRUE(read_row().none_left);
  EXPECT_EQ(read_row().not_finite, -1);
}

}  // namespace
}  // namespace flexgen::logit_reader_test
