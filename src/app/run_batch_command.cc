#include <cstdio>

#include "app/commands.h"
#include "app/lane_peaks.h"
#include "app/plan_table.h"
#include "app/progress.h"
#include "app/run_batch.h"
#include "app/stop_signals.h"
#include "base/log.h"
#include "base/units.h"

namespace flexgen {
namespace {

class EngineRunner : public BatchRunner {
 public:
  /// `write_directory`: where writes are measured; empty: they are not.
  EngineRunner(Engine& engine, bool efficiency, std::string write_directory)
      : engine_(engine), efficiency_(efficiency), write_directory_(std::move(write_directory)) {}
  void prepare(const Workload& workload) override {
    // Before the budget is taken: this needs memory of its own.
    if (efficiency_) peaks_ = measure_peaks(engine_.model(), engine_.kernels(), files_, kPeakTimeS, write_directory_);
    engine_.prepare(workload);
    fmt::print(stderr, "{}", plan_table(engine_));
  }
  RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) override {
    ProgressDisplay display([&] { return engine_.progress(); });
    return engine_.run(source, sink, stop);
  }
  /// Lines on the efficiency of a run, if they were asked for.
  std::string efficiency_of(const RunReport& report) {
    if (!efficiency_) return "";
    raise_disk_peaks(peaks_, report, measure_disk_read(engine_.model(), files_, kPeakTimeS, 0.5));
    return bound_table(peaks_, bound_of(report, peaks_), report);
  }

 private:
  Engine& engine_;
  FileSystem files_;
  bool efficiency_;
  std::string write_directory_;
  LanePeaks peaks_;
};

}  // namespace

int run_batch_command(const RunBatchOptions& options) {
  StopSignals signals;
  Engine engine(engine_options(options.engine, options.model));
  const Model& model = engine.model();
  BatchModel described;
  described.limits = {model.config().vocab_size, model.config().max_positions, engine.tokenizer()};
  described.name = model_name_of(options.model);
  described.fingerprint = model_fingerprint(options.model, model.fingerprint(), model.files());
  described.options = {{"backend", options.engine.backend}, {"compute dtype", std::string(dtype_name(engine.compute_dtype()))},
                       {"weight dtype", options.engine.weight_dtype}, {"KV cache dtype", std::string(dtype_name(engine.kv_dtype()))}};
  if (options.engine.matmul_dtype != "auto") described.options["matmul dtype"] = options.engine.matmul_dtype;
  if (options.engine.kv_cache_rotation != "none") described.options["KV cache rotation"] = options.engine.kv_cache_rotation;
  if (options.engine.attention_sparsity < 1) described.options["attention sparsity"] = fmt::format("{}", options.engine.attention_sparsity);
  EngineRunner runner(engine, options.efficiency, options.engine.disk_directory);
  BatchOutcome outcome = run_batch({options.input, options.output, options.overwrite}, described, runner, signals.stop());

  if (outcome.report.sequences > 0) fmt::print(stderr, "{}{}", report_table(outcome.report), runner.efficiency_of(outcome.report));
  fmt::print(stderr, "{}: {} lines, {} answered now, {} done before, {} bad\n", options.output, format_count(outcome.lines),
             format_count(outcome.answered), format_count(outcome.kept), format_count(outcome.failed));
  if (!outcome.stopped) return kExitDone;
  fmt::print(stderr, "stopped by a signal; the same command goes on where this one ended\n");
  return kExitStopped;
}

}  // namespace flexgen
