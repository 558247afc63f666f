#pragma once
// LentRunner: run_batch() on an engine that answers calls beside. One batch at a time; a thread that is not the engine's.

#include "batch/run_batch.h"
#include "serve/request_queue.h"

namespace flexgen {

class LentRunner : public BatchRunner {
 public:
  explicit LentRunner(RequestQueue& queue) : queue_(queue) {}
  /// The engine has its memory already: the lines' limits are those that it was planned for.
  void prepare(const Workload&, std::map<std::string, std::string>&) override {}
  RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) override { return queue_.lend(source, sink, stop); }

 private:
  RequestQueue& queue_;
};

}  // namespace flexgen
