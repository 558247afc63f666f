// How a router's logits become a row's experts and their weights.

#include <gtest/gtest.h>

#include <cmath>

#include "backend/routing.h"

namespace flexgen::routing_test {
namespace {

struct Choice {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};
Choice choose(const RouterRule& rule, std::vector<float> logits, const std::vector<float>& bias = {}) {
  std::vector<ExpertChoice> choices(static_cast<size_t>(rule.experts_per_row));
  choose_experts_of_row(rule, logits, bias, choices.data());
  Choice choice;
  for (const ExpertChoice& each : choices) {
    choice.experts.push_back(each.expert);
    choice.weights.push_back(each.weight);
  }
  return choice;
}
RouterRule rule_of(RouterScore score, bool normalized) { return {.num_experts = 4, .experts_per_row = 2, .score = score, .normalized = normalized}; }

TEST(Routing, SoftmaxOverAllThenTheLargest) {
  const Choice choice = choose(rule_of(RouterScore::kSoftmax, false), {0, 2, 1, -1});
  const double sum = 1 + std::exp(2.0) + std::exp(1.0) + std::exp(-1.0);
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{1, 2}));
  EXPECT_NEAR(choice.weights[0], std::exp(2.0) / sum, 1e-6);
  EXPECT_NEAR(choice.weights[1], std::exp(1.0) / sum, 1e-6);
}

TEST(Routing, WeightsOfARowMayAddUpToTheScale) {
  RouterRule rule = rule_of(RouterScore::kSoftmax, true);
  rule.scale = 2.5f;
  const Choice choice = choose(rule, {1000, 998, 0, 999});  // no overflow
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{0, 3}));
  EXPECT_NEAR(choice.weights[0] + choice.weights[1], 2.5, 1e-6);
  EXPECT_NEAR(choice.weights[1] / choice.weights[0], std::exp(-1.0), 1e-6);
}

TEST(Routing, ABiasChangesTheChoiceAndNoWeight) {
  const Choice choice = choose(rule_of(RouterScore::kSigmoid, false), {0, 2, 1, -1}, {0, -1, 0, 1});
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{3, 2}));
  EXPECT_NEAR(choice.weights[0], 1 / (1 + std::exp(1.0)), 1e-6);
  EXPECT_NEAR(choice.weights[1], 1 / (1 + std::exp(-1.0)), 1e-6);
}

// Of three pairs the two whose sums are largest, which do not have the largest score.
TEST(Routing, ExpertsAreOfTheBestGroups) {
  const RouterRule rule{.num_experts = 6, .experts_per_row = 3, .score = RouterScore::kSigmoid, .num_groups = 3, .groups_per_row = 2};
  EXPECT_EQ(choose(rule, {2, 1, 3, -9, 0.5f, 1.5f}).experts, (std::vector<int32_t>{0, 5, 1}));
  EXPECT_EQ(choose(rule, {2, 1, 3, -9, 0.5f, 1.5f}, {-9, 0, 0, 0, 0, 0}).experts, (std::vector<int32_t>{2, 5, 4}));  // the bias counts
  EXPECT_EQ(choose(rule, {1, 1, 1, 1, 1, 1}).experts, (std::vector<int32_t>{0, 1, 2}));
}

TEST(Routing, OfEqualScoresTheFirstIsTaken) { EXPECT_EQ(choose(rule_of(RouterScore::kSoftmax, true), {1, 3, 3, 3}).experts, (std::vector<int32_t>{1, 2})); }

// Of each of two choices the weight is softmax over those near it: (m - s) / max(|s|, m) of up to 0.25 here.
TEST(Routing, SparseMixerWeighsAmongThoseNear) {
  RouterRule rule = rule_of(RouterScore::kSparseMixer, false);
  rule.nearness = 0.25f;
  Choice choice = choose(rule, {4, 1, 3.5f, 2.9f});  // near 4: 3.5; near 3.5: 2.9
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{0, 2}));
  EXPECT_NEAR(choice.weights[0], 1 / (1 + std::exp(-0.5)), 1e-6);
  EXPECT_NEAR(choice.weights[1], 1 / (1 + std::exp(-0.6)), 1e-6);
  choice = choose(rule, {-9, -2, -1, -2.5f});  // near -1: none, as 1 / 2 is too far; near -2: -2.5
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{2, 1}));
  EXPECT_NEAR(choice.weights[0], 1, 1e-6);
  EXPECT_NEAR(choice.weights[1], 1 / (1 + std::exp(-0.5)), 1e-6);
}

TEST(Routing, NaNIsNoReasonToChooseNobody) {
  const Choice choice = choose(rule_of(RouterScore::kSigmoid, true), {NAN, NAN, 1, NAN});
  EXPECT_EQ(choice.experts, (std::vector<int32_t>{2, 0}));
  EXPECT_TRUE(std::isnan(choice.weights[1]));
}

}  // namespace
}  // namespace flexgen::routing_test
