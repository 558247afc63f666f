#include <cstdio>

#include "app/commands.h"
#include "app/engine_runner.h"
#include "app/machine.h"
#include "app/progress.h"
#include "app/stop_signals.h"
#include "base/log.h"
#include "base/units.h"

namespace flexgen {

int run_batch_command(const RunBatchOptions& options) {
  StopSignals signals;
  Engine engine(engine_options(options.engine, options.model));
  BatchModel model;
  model.limits = {engine.model().config().vocab_size, engine.model().config().max_positions, engine.tokenizer()};
  model.name = model_name_of(options.model);
  model.fingerprint = model_fingerprint(options.model, engine.model().fingerprint(), engine.model().files());
  // All that may change an answer. Placement, batching and threads may not.
  model.options = {{"backend", options.engine.backend}, {"compute dtype", std::string(dtype_name(engine.kv_dtype()))}};

  EngineRunner runner(engine);
  BatchOutcome outcome = run_batch({options.input, options.output, options.overwrite}, model, runner, signals.stop());
  if (outcome.report.sequences > 0) {
    std::fprintf(stderr, "\n%s", report_table(outcome.report).c_str());
    std::fprintf(stderr, "  %-20s%14s   budget %s and the fixed overhead\n\n", "peak memory", format_bytes(peak_rss_bytes()).c_str(),
                 format_bytes(engine_options(options.engine, options.model).budgets.cpu_bytes).c_str());
  }
  if (outcome.stopped) {
    spdlog::warn("stopped; {} of {} lines are in {}. To go on, run the same command again", format_count(outcome.kept + outcome.answered),
                 format_count(outcome.lines), options.output);
    return kExitStopped;
  }
  std::string failed = outcome.failed > 0 ? fmt::format(", {} of them as error records", format_count(outcome.failed)) : "";
  spdlog::info("done: {} lines are in {}{}", format_count(outcome.lines), options.output, failed);
  return kExitDone;
}

}  // namespace flexgen
