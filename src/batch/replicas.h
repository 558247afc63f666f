#pragma once
// Replicas: pipelines that answer the lines of one batch together. Rank 0, the first replica's first stage, has the output file and tells the others what is
// to be done; they send it their finished records, so that the job file's promises hold as they do for one process.

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/task_thread.h"
#include "batch/choice_store.h"
#include "batch/line_set.h"
#include "batch/record_text.h"
#include "net/port.h"

namespace flexgen {

/// What the first stages of the other replicas must know before they start.
struct ReplicaJob {
  std::string model_name;
  int64_t created_s = 0;
  std::string input_fingerprint;
  std::vector<float> answer_shares = {};  ///< ExpectedAnswers::shares
};

/// The replicas' first stages: world ranks, rank 0 left out.
using Leads = std::vector<int>;

/// `todo`: the lines that are to be done; none: there is nothing to do. It goes in pieces of bounded size.
void tell_replicas(Port& world, const Leads& leads, const ReplicaJob& job, const LineSet& todo);
/// Fills `todo`, which must be empty.
ReplicaJob hear_replica_job(Port& world, LineSet& todo);

/// Rank 0: takes the records that the other replicas send. `append` is called in a thread of its own, as a disk may stall for longer than a rank may be silent, one
/// at a time under `lock`; what it throws ends the job.
/// A record comes in pieces; one that is not whole yet waits in memory up to a bound, then in a temporary file in `directory`.
class RecordCollector {
 public:
  RecordCollector(Port& world, const Leads& leads, std::mutex& lock, std::function<void(RecordText&)> append, const std::string& directory);
  /// Waits for the port to be done with it: by then the world must have been aborted, or wait() have returned.
  ~RecordCollector();
  /// Waits until every replica has said that it is done. Throws what ended the job.
  void wait();
  /// The same, but no longer than until `stop` is set: false then.
  bool wait(const std::atomic<bool>& stop);
  int64_t collected() const { return *collected_; }

 private:
  struct Source;
  TaskThread writer_{"writing other replicas' answers"};
  std::vector<std::shared_ptr<Source>> sources_;
  std::shared_ptr<std::atomic<int64_t>> collected_ = std::make_shared<std::atomic<int64_t>>(0);
};

/// A replica's first stage: its records to rank 0, and the end of them.
class RecordSender {
 public:
  explicit RecordSender(Port& world) : world_(world) {}
  void send(RecordText& record);
  void finish();

 private:
  Port& world_;
};

/// Rank 0, once: the other replicas shall stop after the step under way, or (after they have said that they are done) have nothing more to hear.
void end_replicas(Port& world, const Leads& leads, bool stop);
/// A replica's first stage: calls `stop` in the port's thread if rank 0 says so. Done once rank 0 has said either.
Event hear_the_end(Port& world, std::function<void()> stop);

}  // namespace flexgen
