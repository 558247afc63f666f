#include "generation/logit_reader.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/vector_rows.h"
#include "base/error.h"
#include "generation/sampler.h"

namespace flexgen {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// As vLLM has it: banned and biased first, then the repetition penalty (Keskar et al. 2019), then what is taken off. What was finite stays so.
float edited(float logit, const LogitEdit& edit) {
  constexpr float kMost = std::numeric_limits<float>::max();
  const float biased = logit + edit.bias;
  if (biased == -kInfinity) return biased;
  return std::clamp((biased > 0 ? biased / edit.repetition : biased * edit.repetition) - edit.penalty, -kMost, kMost);
}

/// Leaves the logits of tokens that may come as they are.
void mask_out(std::span<float> logits, const TokenMask& mask) {
  for (size_t word = 0; word * 32 < logits.size(); ++word) {
    if (mask[word] == ~uint32_t{0}) continue;
    const size_t end = std::min(logits.size(), word * 32 + 32);
    for (size_t i = word * 32; i < end; ++i)
      if (!(mask[word] >> (i % 32) & 1)) logits[i] = -kInfinity;
  }
}

bool takes_largest_alone(const LogitReader::Row& row) { return row.target < 0 && !row.is_stored() && row.params.top_logprobs < 0; }

}  // namespace

LogitReader::LogitReader(std::vector<Row> rows, int64_t vocab_size, std::span<float> store)
    : rows_(std::move(rows)), vocab_size_(vocab_size), states_(rows_.size()), results_(rows_.size()) {
  size_t used = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (rows_[i].target >= 0) continue;
    if (!rows_[i].is_stored()) {
      states_[i].draw = draw_of(rows_[i].params, rows_[i].position);
      continue;
    }
    FLEXGEN_CHECK(used + static_cast<size_t>(vocab_size) <= store.size());
    states_[i].stored = store.data() + used;
    used += static_cast<size_t>(vocab_size);
  }
}

void LogitReader::accept(int64_t first, int64_t num, int64_t vocab_first, int64_t vocab_count, const float* logits, int64_t stride, const Largest* largest) {
  for (int64_t i = 0; i < num; ++i) {
    auto row = static_cast<size_t>(first + i);
    fold(states_[row], rows_[row], logits ? logits + i * stride : nullptr, vocab_first, vocab_count, largest ? largest + i : nullptr);
    if ((states_[row].seen += vocab_count) == vocab_size_) finish(row);
  }
}

bool LogitReader::takes_largest(int64_t first, int64_t num) const {
  const auto begin = rows_.begin() + static_cast<std::ptrdiff_t>(first);
  return std::all_of(begin, begin + static_cast<std::ptrdiff_t>(num), takes_largest_alone);
}

std::vector<Draw> LogitReader::draws(int64_t first, int64_t num) const {
  std::vector<Draw> draws;
  for (int64_t i = first; i < first + num; ++i) draws.push_back(states_[static_cast<size_t>(i)].draw);
  if (std::none_of(draws.begin(), draws.end(), [](const Draw& draw) { return draw.inverse_temperature > 0; })) draws.clear();
  return draws;
}

void LogitReader::set_results(std::vector<TokenLogprob> results) {
  FLEXGEN_CHECK(results.size() == rows_.size(), "{} results for {} rows", results.size(), rows_.size());
  results_ = std::move(results);
}

void LogitReader::fold(State& state, const Row& row, const float* logits, int64_t vocab_first, int64_t count, const Largest* largest) {
  FLEXGEN_CHECK(logits || (largest && takes_largest_alone(row)));
  if (state.stored) std::copy_n(logits, count, state.stored + vocab_first);
  const Largest best = largest ? *largest : vector_rows::largest(logits, count, state.draw, vocab_first);
  if (std::isnan(best.value) && state.not_finite < 0) state.not_finite = static_cast<int32_t>(vocab_first + best.at);
  if (state.not_finite >= 0) return;
  if (state.best.at < 0 || best.value > state.best.value) {
    state.best = {best.value, static_cast<int32_t>(vocab_first + best.at)};
    if (logits) state.best_logit = logits[best.at];
  }
  if (!logits) return;
  if (row.target >= vocab_first && row.target < vocab_first + count) state.target_logit = logits[row.target - vocab_first];
  if (row.params.top_logprobs < 0) return;

  const float most = state.draw.inverse_temperature > 0 ? logits[vector_rows::largest_at(logits, count)] : best.value;
  double maximum = std::max<double>(most, state.seen ? state.maximum : most);
  double sum = state.seen ? state.sum * std::exp(state.maximum - maximum) : 0;
  sum += vector_rows::sum_of_exp(logits, count, static_cast<float>(maximum));
  state.maximum = maximum;
  state.sum = sum;

  for (int32_t id : row.logprob_ids)
    if (id >= vocab_first && id < vocab_first + count) state.top.emplace_back(id, logits[id - vocab_first]);
  auto wanted = row.logprob_ids.empty() ? static_cast<size_t>(row.params.top_logprobs) : 0;
  for (int64_t i = 0; i < count && wanted > 0; ++i) {
    if (state.top.size() == wanted && logits[i] <= state.top.back().second) continue;
    auto place = std::upper_bound(state.top.begin(), state.top.end(), logits[i], [](float value, const auto& entry) { return value > entry.second; });
    state.top.insert(place, {static_cast<int32_t>(vocab_first + i), logits[i]});
    if (state.top.size() > wanted) state.top.pop_back();
  }
}

void LogitReader::finish(size_t index) {
  State& state = states_[index];
  const Row& row = rows_[index];
  TokenLogprob& result = results_[index];
  result.not_finite = state.not_finite >= 0 ? state.not_finite : state.best.value == -kInfinity ? 0 : -1;
  if (result.not_finite >= 0) return;
  float logit = state.best_logit;
  result.token = state.best.at;
  if (row.target >= 0) {
    result.token = row.target;
    logit = state.target_logit;
  } else if (state.stored) {
    const std::span<float> all(state.stored, static_cast<size_t>(vocab_size_));
    std::vector<float> before;
    for (const LogitEdit& edit : row.edits) {
      float& value = all[static_cast<size_t>(edit.token)];
      before.push_back(value);
      value = edited(value, edit);
    }
    if (row.mask.valid()) mask_out(all, row.mask.get());
    result.token = sample(all, row.params, row.position);
    logit = all[static_cast<size_t>(result.token)];
    result.none_left = logit == -kInfinity;
    if (result.none_left) return;
    for (size_t i = 0; i < before.size(); ++i)
      if (row.edits[i].token == result.token) logit = before[i];
  }
  if (row.params.top_logprobs < 0) return;
  double normalizer = state.maximum + std::log(state.sum);
  result.logprob = static_cast<float>(logit - normalizer);
  for (auto& [id, value] : state.top) value = static_cast<float>(value - normalizer);
  result.top = std::move(state.top);
}

}  // namespace flexgen
