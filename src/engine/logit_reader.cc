#include "engine/logit_reader.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/vector_rows.h"
#include "base/error.h"
#include "engine/sampler.h"

namespace flexgen {
namespace {

bool draws(const LogitReader::Row& row) { return row.target < 0 && row.params.temperature > 0; }

}  // namespace

LogitReader::LogitReader(std::vector<Row> rows, int64_t vocab_size, std::span<float> store)
    : rows_(std::move(rows)), vocab_size_(vocab_size), states_(rows_.size()), results_(rows_.size()) {
  size_t used = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (!draws(rows_[i])) continue;
    FLEXGEN_CHECK(used + static_cast<size_t>(vocab_size) <= store.size());
    states_[i].stored = store.data() + used;
    used += static_cast<size_t>(vocab_size);
  }
}

void LogitReader::accept(int64_t first, int64_t num, int64_t vocab_first, int64_t vocab_count, const float* logits,
                         int64_t stride) {
  for (int64_t i = 0; i < num; ++i) {
    auto row = static_cast<size_t>(first + i);
    fold(states_[row], rows_[row], logits + i * stride, vocab_first, vocab_count);
    if ((states_[row].seen += vocab_count) == vocab_size_) finish(row);
  }
}

void LogitReader::set_results(std::vector<TokenLogprob> results) {
  FLEXGEN_CHECK(results.size() == rows_.size(), "{} results for {} rows", results.size(), rows_.size());
  results_ = std::move(results);
}

void LogitReader::fold(State& state, const Row& row, const float* logits, int64_t vocab_first, int64_t count) {
  if (state.stored) std::copy_n(logits, count, state.stored + vocab_first);
  const float* best = logits + vector_rows::largest_at(logits, count);
  if (state.best_id < 0 || *best > state.best) {
    state.best = *best;
    state.best_id = static_cast<int32_t>(vocab_first + (best - logits));
  }
  if (row.target >= vocab_first && row.target < vocab_first + count)
    state.target_logit = logits[row.target - vocab_first];
  if (row.params.top_logprobs < 0) return;

  double maximum = std::max<double>(*best, state.seen ? state.maximum : *best);
  double sum = state.seen ? state.sum * std::exp(state.maximum - maximum) : 0;
  sum += vector_rows::sum_of_exp(logits, count, static_cast<float>(maximum));
  state.maximum = maximum;
  state.sum = sum;

  auto wanted = static_cast<size_t>(row.params.top_logprobs);
  for (int64_t i = 0; i < count && wanted > 0; ++i) {
    if (state.top.size() == wanted && logits[i] <= state.top.back().second) continue;
    auto place = std::upper_bound(state.top.begin(), state.top.end(), logits[i],
                                  [](float value, const auto& entry) { return value > entry.second; });
    state.top.insert(place, {static_cast<int32_t>(vocab_first + i), logits[i]});
    if (state.top.size() > wanted) state.top.pop_back();
  }
}

void LogitReader::finish(size_t index) {
  State& state = states_[index];
  const Row& row = rows_[index];
  TokenLogprob& result = results_[index];
  float logit = state.best;
  result.token = state.best_id;
  if (row.target >= 0) {
    result.token = row.target;
    logit = state.target_logit;
  } else if (state.stored) {
    std::span<const float> all(state.stored, static_cast<size_t>(vocab_size_));
    result.token = sample(all, row.params, row.position);
    logit = all[static_cast<size_t>(result.token)];
  }
  if (row.params.top_logprobs < 0) return;
  double normalizer = state.maximum + std::log(state.sum);
  result.logprob = static_cast<float>(logit - normalizer);
  for (auto& [id, value] : state.top) value = static_cast<float>(value - normalizer);
  result.top = std::move(state.top);
}

}  // namespace flexgen
