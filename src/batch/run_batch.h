#pragma once
// RunBatch: a batch file in, answers out: what the command run-batch does, on any runner, so that tests need no model.
// One thread calls it.

#include <atomic>
#include <map>
#include <string>

#include "batch/batch_input.h"
#include "batch/job.h"
#include "batch/replicas.h"
#include "batch/shard_lines.h"
#include "engine/engine.h"

namespace flexgen {

/// What serves the requests: the engine, or a fake.
class BatchRunner {
 public:
  virtual ~BatchRunner() = default;
  /// Takes all memory and disk. Throws Error{user} if the job cannot be done within the budgets. `options` are the job's: what is kLeftToThePlan in
  /// them is chosen now; the rest binds the plan too.
  virtual void prepare(const Workload& workload, std::map<std::string, std::string>& options) = 0;
  virtual RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) = 0;
};

/// What a job's answers depend on besides its lines, and what its lines may ask for.
struct BatchModel {
  ModelLimits limits;
  std::string name;
  std::string fingerprint;
  std::map<std::string, std::string> options;  ///< answer-relevant, as in JobIdentity
  decltype(JobIdentity::model_files) files = {};
  std::string folder = {};             ///< as in JobIdentity
  int64_t page_tokens = kSharedGrain;  ///< of the KV cache: what sequences share are whole pages
  JobOptions arithmetic = {};          ///< as in JobIdentity
};

struct BatchOutcome;

/// Where a job reads and writes, and how it goes about it.
struct BatchFiles {
  std::string input, output;
  bool overwrite = false;
  OutputCalls calls = {};  ///< for tests
  Shard shard = {};
  int64_t expected_tokens = 0;    ///< of an answer, on average, for planning alone; 0: as the answers that are kept, else all of its max_tokens
  bool share_prefixes = true;     ///< what prompts have in common is computed once
  BatchInput* lines = nullptr;    ///< the input, if it was read already; null: it is read now
  bool in_order = false;          ///< at the end, records are put into the order of the lines
  std::string error_output = {};  ///< where error records go at the end; empty: they stay with the answers
  std::function<void(const BatchOutcome&)> progress = {};  ///< told how far the job is at its start and after each record, from whichever thread; may be empty
  std::function<void()> before_start = {};                 ///< called once nothing can be refused any more, before anything changes on the disk; may be empty
  std::function<void()> before_end = {};                   ///< called once all lines have their records, while the output is still locked; may be empty
};

/// How far a job is: counts of lines, and the report of this run.
struct BatchOutcome {
  int64_t lines = 0;           ///< in the input
  int64_t kept = 0;            ///< of these, done by an earlier run
  int64_t kept_answers = 0;    ///< of these, not errors
  int64_t answered = 0;        ///< by this run
  int64_t failed = 0;          ///< bad lines, of this run and earlier ones
  int64_t without_answer = 0;  ///< good lines one of whose completions has_no_answer(), of this run and earlier ones
  bool stopped = false;        ///< something is left to do
  RunReport report;
};

/// The other processes that answer lines of the same batch; none without a world.
struct BatchReplicas {
  Port* world = nullptr;
  Leads leads;
};

/// Throws Error; finished answers are kept then. With replicas: on rank 0.
BatchOutcome run_batch(const BatchFiles& files, const BatchModel& model, BatchRunner& runner, const std::atomic<bool>& stop,
                       const BatchReplicas& replicas = {});

/// The part of another replica's first stage: answers lines until there are none, and sends the records to rank 0. `request_stop` sets `stop`; any thread.
/// Of the outcome, answered, stopped and report are set.
BatchOutcome serve_batch(const BatchFiles& files, const BatchModel& model, BatchRunner& runner, const std::atomic<bool>& stop, const BatchReplicas& replicas,
                         std::function<void()> request_stop);

/// Identifies a model directory: `checkpoint` (its headers), its config and tokenizer files, and samples of its weights, so
/// that a model trained further is another one.
std::string model_fingerprint(const std::string& directory, const std::string& checkpoint, const std::vector<std::string>& weight_files);

}  // namespace flexgen
