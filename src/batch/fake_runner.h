#pragma once
// For tests: a runner that answers without a model. One thread.

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "batch/byte_tokenizer.h"
#include "batch/run_batch.h"
#include "io/test_texts.h"

namespace flexgen {

/// The answer to a request is its prompt, reversed, with its seed's last digit. Ends with the stop flag's meaning after
/// `stop_after` sequences, or throws after `fail_after`.
class FakeRunner : public BatchRunner {
 public:
  int64_t stop_after = -1, fail_after = -1;
  bool backwards = false;                                   ///< completions come back last first
  std::function<bool(const Request&)> not_finite;           ///< whose logits are not finite; empty: nobody's
  std::function<void(const Request&, Completion&)> change;  ///< what is done to completions; empty: nothing
  std::function<void(int64_t)> before_next;                 ///< is told how many it has served; may wait
  std::vector<Workload> prepared;
  std::vector<Request> served;

  std::string choice = "gpu";  ///< for options that are left to the plan
  std::map<std::string, std::string> options;

  void prepare(const Workload& workload, std::map<std::string, std::string>& job_options) override {
    prepared.push_back(workload);
    for (auto& [name, value] : job_options)
      if (value == kLeftToThePlan) value = choice;
    options = job_options;
  }

  RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) override {
    RunReport report;
    std::vector<Completion> done;
    while (!stop && report.sequences != stop_after) {
      if (before_next) before_next(report.sequences);
      if (report.sequences == fail_after) throw Error(ErrorKind::kIo, "the disk is gone");
      std::optional<Request> request = source.next();
      if (!request) break;
      served.push_back(*request);
      ++report.sequences;
      Completion completion = answer(*request);
      if (change) change(*request, completion);
      if (not_finite && not_finite(*request)) {
        completion = Completion();
        completion.key = request->key;
        completion.reason = FinishReason::kNotFinite;
        completion.prompt_tokens = static_cast<int64_t>(request->prompt.size());
        completion.failed_position = 1;
        completion.not_finite_entry = 2;
      }
      if (backwards) done.push_back(std::move(completion));
      else sink.accept(std::move(completion));
    }
    for (auto it = done.rbegin(); it != done.rend(); ++it) sink.accept(std::move(*it));
    report.stopped = source.remaining() > 0;
    return report;
  }

  static Completion answer(const Request& request) {
    Completion completion;
    completion.key = request.key;
    completion.tokens.assign(request.prompt.rbegin(), request.prompt.rend());
    completion.tokens.push_back(static_cast<int32_t>('0' + request.params.seed % 10));
    completion.text = ByteTokenizer().decode(completion.tokens, true);
    completion.reason = FinishReason::kStop;
    return completion;
  }
};

}  // namespace flexgen
