#include "generation/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <vector>

#include "generation/logit_reader.h"

namespace flexgen::sampler_test {
namespace {

SamplingParams with(double temperature, double top_p, int64_t top_k, uint64_t seed) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_p = top_p;
  params.top_k = top_k;
  params.seed = seed;
  return params;
}

TEST(Sampler, GreedyTakesTheBestAndTheLowestIdAmongEquals) {
  std::vector<float> logits{1, 5, 3, 5};
  EXPECT_EQ(sample(logits, with(0, 1, 0, 1), 0), 1);
  EXPECT_EQ(sample(logits, with(1, 1, 1, 1), 0), 1);
}

TEST(Sampler, FollowsTheDistribution) {
  std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  std::map<int32_t, int> all, nucleus, best_two, cold;
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    ++all[sample(logits, with(1, 1, 0, 7), i)];
    ++nucleus[sample(logits, with(1, 0.75, 0, 7), i)];
    ++best_two[sample(logits, with(1, 1, 2, 7), i)];
    ++cold[sample(logits, with(0.5, 1, 0, 7), i)];
  }
  auto share = [&](std::map<int32_t, int>& counts, int32_t id) { return static_cast<double>(counts[id]) / kDraws; };
  EXPECT_NEAR(share(all, 0), 0.5, 0.02);
  EXPECT_NEAR(share(all, 3), 0.05, 0.01);
  EXPECT_EQ(nucleus.size(), 2u);  // 0.5 + 0.3 reach 0.75
  EXPECT_NEAR(share(nucleus, 0), 0.5 / 0.8, 0.02);
  EXPECT_EQ(best_two.size(), 2u);
  double squares = 0.25 + 0.09 + 0.0225 + 0.0025;
  EXPECT_NEAR(share(cold, 0), 0.25 / squares, 0.02);
}

TEST(Sampler, MinPLeavesOutWhatIsUnlikelyBesideTheBest) {
  const std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  auto chosen = [&](double min_p, double temperature, double top_p, int64_t top_k) {
    SamplingParams params = with(temperature, top_p, top_k, 7);
    params.min_p = min_p;
    std::map<int32_t, int> counts;
    for (int i = 0; i < 20000; ++i) ++counts[sample(logits, params, i)];
    return counts;
  };
  auto half = chosen(0.5, 1, 1, 0);  // 0.3 is more than half of 0.5, 0.15 is not
  EXPECT_EQ(half.size(), 2u);
  EXPECT_NEAR(half[0] / 20000.0, 0.5 / 0.8, 0.02);
  EXPECT_EQ(chosen(0.2, 1, 1, 0).size(), 3u);
  EXPECT_EQ(chosen(0.2, 0.5, 1, 0).size(), 2u);  // after temperature: 0.09 of 0.25
  EXPECT_EQ(chosen(0.2, 1, 0.6, 0).size(), 2u);  // of what is left: 0.5 / 0.95 is not yet 0.6
  EXPECT_EQ(chosen(0.2, 1, 1, 2).size(), 2u);
  EXPECT_EQ(chosen(1, 1, 1, 0).size(), 1u);
}

/// Pearson's statistic over draws at positions 0, 1, ..., of as many tokens as there are logits; its mean is the number of tokens less one.
double chi_square(const std::vector<float>& logits, double temperature, int64_t num_draws) {
  std::vector<double> shares;
  double sum = 0;
  for (float logit : logits) sum += shares.emplace_back(std::exp(logit / temperature));
  std::vector<int> counts(logits.size());
  for (int64_t i = 0; i < num_draws; ++i) ++counts[static_cast<size_t>(sample(logits, with(temperature, 1, 0, 11), i))];
  double statistic = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    const double expected = shares[id] / sum * static_cast<double>(num_draws);
    statistic += std::pow(counts[id] - expected, 2) / expected;
  }
  return statistic;
}

TEST(Sampler, DrawsManyTokensAsOftenAsTheirShares) {
  std::vector<float> logits(257);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 7919 % 257) / 80;  // shares from 1 to 25
  for (double temperature : {0.7, 1.0, 1.9}) {
    const double statistic = chi_square(logits, temperature, 60000), deviation = std::sqrt(2 * 256.0);
    EXPECT_LT(statistic, 256 + 4 * deviation) << temperature;
    EXPECT_GT(statistic, 256 - 4 * deviation) << temperature;
  }
}

TEST(Sampler, NeighboursInSeedPositionAndTokenAreIndependent) {
  // Pairs of draws whose seeds, or positions, differ by one: every pair of 8 equally likely tokens should come up 1 in 64 times.
  const std::vector<float> logits(8, 0.0f);
  constexpr int kPairs = 20000;
  for (bool seeds : {true, false}) {
    std::map<std::pair<int32_t, int32_t>, int> counts;
    for (int i = 0; i < kPairs; ++i) {
      const auto seed = static_cast<uint64_t>(seeds ? 2 * i : 5);
      const int64_t position = seeds ? 9 : 2 * i;
      ++counts[{sample(logits, with(1, 1, 0, seed), position), sample(logits, with(1, 1, 0, seed + (seeds ? 1 : 0)), position + (seeds ? 0 : 1))}];
    }
    double statistic = 0;
    for (int32_t a = 0; a < 8; ++a)
      for (int32_t b = 0; b < 8; ++b) statistic += std::pow(counts[{a, b}] - kPairs / 64.0, 2) / (kPairs / 64.0);
    EXPECT_LT(statistic, 63 + 4 * std::sqrt(2 * 63.0)) << seeds;
  }
}

TEST(Sampler, TheColdestIsGreedy) {
  const std::vector<float> logits{1, 1.5f, 1.25f};
  for (int i = 0; i < 100; ++i) EXPECT_EQ(sample(logits, with(1e-300, 1, 0, 3), i), 1);
}

TEST(Sampler, DependsOnSeedAndPositionAlone) {
  std::vector<float> logits(50, 0.0f);
  std::vector<int32_t> first, again, other;
  for (int i = 0; i < 40; ++i) {
    first.push_back(sample(logits, with(1, 1, 0, 3), i));
    again.push_back(sample(logits, with(1, 1, 0, 3), i));
    other.push_back(sample(logits, with(1, 1, 0, 4), i));
  }
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
}

TEST(LogitReader, ChunksOfTheVocabularyGiveWhatTheWholeGives) {
  constexpr int64_t kVocab = 101;
  std::vector<float> logits(4 * kVocab);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>((i * 7919) % 1009) / 100.0f;
  std::vector<LogitReader::Row> rows(4);
  rows[3].params = with(1.2, 1, 0, 9);
  rows[3].params.top_logprobs = 2;
  rows[3].position = 40;
  rows[0].params = with(0, 1, 0, 1);
  rows[0].params.top_logprobs = 4;
  rows[1].params = with(1, 0.9, 0, 5);
  rows[1].params.top_logprobs = 0;
  rows[2].params = with(0, 1, 0, 1);
  rows[2].params.top_logprobs = 2;
  rows[2].target = 60;
  std::vector<std::vector<TokenLogprob>> results;
  for (int64_t chunk : {kVocab, int64_t{1}, int64_t{13}}) {
    std::vector<float> store(kVocab);
    LogitReader reader(rows, kVocab, store);
    for (int64_t at = 0; at < kVocab; at += chunk)
      for (int64_t row = 0; row < 4; ++row) reader.accept(row, 1, at, std::min(chunk, kVocab - at), logits.data() + row * kVocab + at, kVocab, nullptr);
    results.push_back(reader.results());
  }
  for (const auto& result : results) {
    for (size_t row = 0; row < 4; ++row) {
      EXPECT_EQ(result[row].token, results[0][row].token);
      EXPECT_NEAR(result[row].logprob, results[0][row].logprob, 1e-5);
      ASSERT_EQ(result[row].top.size(), results[0][row].top.size());
      for (size_t k = 0; k < result[row].top.size(); ++k) EXPECT_EQ(result[row].top[k].first, results[0][row].top[k].first);
    }
  }
  double sum = 0;
  for (int64_t i = 0; i < kVocab; ++i) sum += std::exp(static_cast<double>(logits[static_cast<size_t>(2 * kVocab + i)]));
  EXPECT_EQ(results[0][2].token, 60);
  EXPECT_NEAR(results[0][2].logprob, logits[2 * kVocab + 60] - std::log(sum), 1e-4);
  EXPECT_EQ(results[0][3].token, sample(std::span(logits).subspan(3 * kVocab), rows[3].params, 40));
  EXPECT_LE(results[0][3].logprob, results[0][3].top[0].second);
  EXPECT_EQ(results[0][0].top.size(), 4u);
  EXPECT_EQ(results[0][0].top[0].first, results[0][0].token);
}

}  // namespace
}  // namespace flexgen::sampler_test
