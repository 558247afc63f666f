#pragma once
// LogitReader: turns the logits of one plan into tokens and logprobs as the head computes them, chunk by chunk of the
// vocabulary. What needs no more than a running maximum keeps no more, drawn tokens included (backend/gumbel.h); only rows
// that draw from a part of the distribution (top_k, top_p), or whose logits are edited, are stored whole. A row with a logit that is NaN or
// +infinity, or with none above -infinity, is told by TokenLogprob::not_finite; one whose edits and mask leave nothing to choose by none_left.
// accept() runs in the compute lane (beside a GPU in the cpu lane); results() may be read once the plan is done.

#include <future>
#include <span>
#include <vector>

#include "generation/request.h"
#include "model/model.h"
#include "text/grammar/grammar.h"

namespace flexgen {

class LogitReader : public LogitSink {
 public:
  struct Row {
    int32_t slot = 0;
    int64_t position = 0;  ///< of the token that these logits predict
    int32_t target = -1;   ///< the token that is known to come (prompt scoring), -1: choose one
    ChoiceParams params;
    bool edited = false;                      ///< `edits` or a `mask` there are, here or elsewhere in the sequence: such rows are kept whole
    std::vector<LogitEdit> edits;             ///< each token once
    std::shared_future<TokenMask> mask = {};  ///< of the tokens that may be chosen; none: all
    std::vector<int32_t> logprob_ids;         ///< with params.top_logprobs >= 0: TokenLogprob::top is of these; empty: of the best

    bool is_stored() const { return target < 0 && (params.cuts() || edited); }
  };

  /// `store`: room for V floats for each row that is_stored().
  LogitReader(std::vector<Row> rows, int64_t vocab_size, std::span<float> store);

  /// For a stage without the head: set_results() gets what another process read.
  explicit LogitReader(std::vector<Row> rows) : rows_(std::move(rows)) {}

  void accept(int64_t first, int64_t num, int64_t vocab_first, int64_t vocab_count, const float* logits, int64_t stride, const Largest* largest) override;
  /// Of rows that choose among all tokens and want no logprobs.
  bool takes_largest(int64_t first, int64_t num) const override;
  std::vector<Draw> draws(int64_t first, int64_t num) const override;

  const std::vector<Row>& rows() const { return rows_; }
  /// One a row.
  void set_results(std::vector<TokenLogprob> results);
  /// The chosen (or known) token of each row, with logprobs if the row asks for them.
  const std::vector<TokenLogprob>& results() const { return results_; }

 private:
  struct State {
    Draw draw;
    Largest best{0, -1};  ///< of the draw's values so far; `at`: its id
    float best_logit = 0, target_logit = 0;
    double maximum = 0, sum = 0;  ///< running log-sum-exp, for logprobs
    float* stored = nullptr;
    std::vector<std::pair<int32_t, float>> top;  ///< best first
    int64_t seen = 0;                            ///< vocabulary entries so far
    int32_t not_finite = -1;                     ///< as in TokenLogprob
  };
  void fold(State& state, const Row& row, const float* logits, int64_t vocab_first, int64_t count, const Largest* largest);
  void finish(size_t row);

  std::vector<Row> rows_;
  int64_t vocab_size_ = 0;
  std::vector<State> states_;
  std::vector<TokenLogprob> results_;
};

}  // namespace flexgen
