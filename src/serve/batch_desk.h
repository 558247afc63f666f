#pragma once
// BatchDesk: the batches of /v1/batches. Each is a job of run-batch in a folder of its own, answered one after the other in what time calls leave the engine. What becomes of it is written down at
// each turn, and the job's output is its progress, so that a server that was killed goes on where it was. Calls from any thread; one thread of its own does the work.

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "batch/run_batch.h"
#include "serve/file_store.h"

namespace flexgen {

class BatchDesk {
 public:
  /// Answers the lines of `input` into `output`, and the errors of bad lines into `errors`; as run_batch() does. `model`: the one that lines may name; empty: any. `begun`: called once nothing can be refused any more.
  struct Work {
    std::string input, output, errors, endpoint, model;
    std::function<void()> begun;
    std::function<void(const BatchOutcome&)> progress;
  };
  using Answer = std::function<BatchOutcome(const Work&, const std::atomic<bool>& stop)>;

  /// Reads what `directory` holds, and goes on with what is not done. `model`: what batches that are made from now on call theirs. Throws Error.
  BatchDesk(std::string directory, FileStore& files, Answer answer, std::string model = "");
  ~BatchDesk();
  /// The batch under way is left for the next start. Any thread.
  void stop();

  /// As /v1/batches has them, as JSON. Throws ApiError.
  std::string create(const nlohmann::json& body);
  std::string find(const std::string& id) const;
  std::string cancel(const std::string& id);
  /// Newest first: those after `after` (empty: from the first), `limit` of them.
  std::string list(const std::string& after, size_t limit) const;
  /// Whether a batch that is not done needs the file.
  bool needs(const std::string& file_id) const;
  int64_t num_unfinished() const;

 private:
  using Json = nlohmann::ordered_json;

  void work();
  void run(const std::string& id);
  void finish(const std::string& id, const BatchOutcome& outcome);
  void fail(const std::string& id, const std::string& code, const std::string& message);
  /// Clients know files by their ids, and where the server keeps them is no matter of theirs.
  std::string without_paths(const std::string& id, std::string message) const;
  /// What lies in a batch's outputs, where nobody has counted since the start. `known`: its counts so far, whose total stays, and which stay where the outputs cannot be read.
  Json counts_of_outputs(const std::string& id, const Json& known) const;
  void attach_outputs(const std::string& id, Json& batch);
  /// Changes a batch and writes it down; does `then`, under the same lock, once that is done. If it cannot be written nothing has changed.
  template <typename Change, typename Then>
  void change(const std::string& id, Change change, Then then);
  template <typename Change>
  void change(const std::string& id, Change change);
  std::string folder(const std::string& id) const { return directory_ + "/" + id; }
  const Json& batch_of(const std::string& id) const;

  std::string directory_;
  FileStore& files_;
  Answer answer_;
  std::string model_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Json> batches_;
  std::deque<std::string> queue_;
  std::string running_;  ///< the batch under way; empty: none
  std::atomic<bool> stop_running_{false};
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace flexgen
