// What parameters do to logits, against the definitions of vLLM and transformers, written out plainly over whole rows.

#include "generation/logit_edits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "generation/logit_reader.h"

namespace flexgen::logit_edits_test {
namespace {

constexpr int64_t kVocab = 60;
constexpr float kBanned = -std::numeric_limits<float>::infinity();

/// vLLM's order: bad words, min_tokens, logit_bias, repetition_penalty, frequency_penalty, presence_penalty.
std::vector<float> by_definition(std::vector<float> logits, const Request& request, const std::vector<int32_t>& answer, const std::vector<int32_t>& eos) {
  const SamplingParams& params = request.params;
  for (const auto& word : params.bad_words) {
    const size_t before = word.size() - 1;
    if (answer.size() >= before && std::equal(word.begin(), word.end() - 1, answer.end() - static_cast<std::ptrdiff_t>(before)))
      logits[static_cast<size_t>(word.back())] = kBanned;
  }
  if (static_cast<int64_t>(answer.size()) < params.min_tokens) {
    for (int32_t token : eos) logits[static_cast<size_t>(token)] = kBanned;
    for (int32_t token : params.stop_token_ids) logits[static_cast<size_t>(token)] = kBanned;
  }
  for (auto [token, bias] : params.logit_bias) logits[static_cast<size_t>(token)] += bias;
  for (int32_t token = 0; token < kVocab; ++token) {
    float& logit = logits[static_cast<size_t>(token)];
    const auto count = std::count(answer.begin(), answer.end(), token);
    if (count > 0 || std::find(request.prompt.begin(), request.prompt.end(), token) != request.prompt.end())
      logit = logit > 0 ? logit / static_cast<float>(params.repetition_penalty) : logit * static_cast<float>(params.repetition_penalty);
    logit -= static_cast<float>(params.frequency_penalty) * static_cast<float>(count);
    if (count > 0) logit -= static_cast<float>(params.presence_penalty);
  }
  return logits;
}

TEST(LogitEdits, AreThoseOfTheDefinitions) {
  std::mt19937 random(5);
  auto token = [&] { return static_cast<int32_t>(random() % kVocab); };
  int64_t changed = 0;
  for (int round = 0; round < 300; ++round) {
    Request request;
    for (int i = 0; i < 8; ++i) request.prompt.push_back(token());
    SamplingParams& params = request.params;
    params.temperature = 0;
    if (round % 2) params.repetition_penalty = 0.5 + static_cast<double>(random() % 100) / 50;
    if (round % 3) params.presence_penalty = static_cast<double>(random() % 100) / 25 - 2;
    if (round % 5) params.frequency_penalty = static_cast<double>(random() % 100) / 25 - 2;
    if (round % 4 == 0)
      for (int32_t i = 0; i < kVocab; i += 7) params.logit_bias.emplace_back(i, static_cast<float>(random() % 9) - 4);
    params.min_tokens = static_cast<int64_t>(random() % 6);
    params.stop_token_ids = {token(), token()};
    if (round % 3 == 1) params.bad_words = {{token()}, {token(), token()}, {3, 4, 5}};
    const std::vector<int32_t> eos{2, 9};
    LogitEdits edits(request, eos, kVocab);
    std::vector<int32_t> answer;
    for (int step = 0; step < 12; ++step) {
      std::vector<float> logits(kVocab), store(kVocab);
      for (float& logit : logits) logit = static_cast<float>(random() % 1000) / 200 - 2;
      const std::vector<float> expected = by_definition(logits, request, answer, eos);
      LogitReader::Row row;
      row.params = params;
      row.edited = true;
      row.edits = edits.next(answer);
      const auto best = static_cast<int32_t>(std::max_element(expected.begin(), expected.end()) - expected.begin());
      LogitReader reader({row}, kVocab, store);
      reader.accept(0, 1, 0, kVocab, logits.data(), kVocab, nullptr);
      for (size_t i = 0; i < store.size(); ++i) {
        if (expected[i] == kBanned) EXPECT_EQ(store[i], kBanned);
        else EXPECT_NEAR(store[i], expected[i], 1e-5) << "round " << round << " step " << step << " token " << i;
      }
      EXPECT_NEAR(expected[static_cast<size_t>(reader.results()[0].token)], expected[static_cast<size_t>(best)], 1e-5);
      changed += std::max_element(logits.begin(), logits.end()) - logits.begin() != reader.results()[0].token;
      answer.push_back(step % 4 == 3 ? token() : reader.results()[0].token);
      if (step == 5) answer.back() = 3;
      if (step == 6) answer.back() = 4;
    }
  }
  EXPECT_GT(changed, 500);
}

TEST(LogitEdits, WhatIsFiniteStaysSo) {
  Request request;
  request.prompt = {1, 2};
  request.params.temperature = 0;
  request.params.repetition_penalty = 1e-30;
  LogitEdits edits(request, {}, 4);
  LogitReader::Row row;
  row.params = request.params;
  row.edited = true;
  row.edits = edits.next({});
  const std::vector<float> logits{0, 1e20f, -1e20f, 5};
  std::vector<float> store(4);
  LogitReader reader({row}, 4, store);
  reader.accept(0, 1, 0, 4, logits.data(), 4, nullptr);
  EXPECT_EQ(reader.results()[0].token, 1);
  EXPECT_EQ(reader.results()[0].not_finite, -1);
}

}  // namespace
}  // namespace flexgen::logit_edits_test
