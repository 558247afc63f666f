#pragma once
// LogitReader: turns the logits of one plan into tokens and logprobs as the head computes them, chunk by chunk of the
// vocabulary. What needs no more than a running maximum keeps no more; only sampled rows are stored whole.
// accept() runs in the compute lane; results() may be read once the plan is done.

#include <span>
#include <vector>

#include "engine/request.h"
#include "model/model.h"

namespace flexgen {

class LogitReader : public LogitSink {
 public:
  struct Row {
    int32_t slot = 0;
    int64_t position = 0;       ///< of the token that these logits predict
    int32_t target = -1;        ///< the token that is known to come (prompt scoring), -1: choose one
    SamplingParams params;      ///< temperature, top_p, top_k, seed, top_logprobs
  };

  /// `store`: room for V floats for each row with temperature > 0 and no target.
  LogitReader(std::vector<Row> rows, int64_t vocab_size, std::span<float> store);

  /// For a stage without the head: set_results() gets what another process read.
  explicit LogitReader(std::vector<Row> rows) : rows_(std::move(rows)) {}

  void accept(int64_t first, int64_t num, int64_t vocab_first, int64_t vocab_count, const float* logits,
              int64_t stride) override;

  const std::vector<Row>& rows() const { return rows_; }
  /// One a row.
  void set_results(std::vector<TokenLogprob> results);
  /// The chosen (or known) token of each row, with logprobs if the row asks for them.
  const std::vector<TokenLogprob>& results() const { return results_; }

 private:
  struct State {
    float best = 0;
    int32_t best_id = -1;
    float target_logit = 0;
    double maximum = 0, sum = 0;     ///< running log-sum-exp, for logprobs
    float* stored = nullptr;
    std::vector<std::pair<int32_t, float>> top;  ///< best first
    int64_t seen = 0;                ///< vocabulary entries so far
  };
  void fold(State& state, const Row& row, const float* logits, int64_t vocab_first, int64_t count);
  void finish(size_t row);

  std::vector<Row> rows_;
  int64_t vocab_size_ = 0;
  std::vector<State> states_;
  std::vector<TokenLogprob> results_;
};

}  // namespace flexgen
