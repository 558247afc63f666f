#pragma once
// EngineRunner: the engine as a BatchRunner, with its progress on stderr. One thread.

#include "app/run_batch.h"

namespace flexgen {

class EngineRunner : public BatchRunner {
 public:
  explicit EngineRunner(Engine& engine) : engine_(engine) {}
  /// Takes the memory, and says how the job will be run.
  void prepare(const Workload& workload) override;
  RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) override;

 private:
  Engine& engine_;
};

/// One line: block, placement, memory.
std::string describe_policy(const Engine& engine);

}  // namespace flexgen
