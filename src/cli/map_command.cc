#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/report.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/stop_signals.h"
#include "setup/model_folder.h"
#include "setup/team.h"
#include "tables/map_job.h"

namespace flexgen {
namespace {

/// The job by which the rows are answered.
RunBatchOptions batch_of(const MapOptions& options, const std::string& model, const MapFiles& files) {
  RunBatchOptions batch;
  batch.model = model;
  batch.input = files.lines;
  batch.output = files.answers;
  batch.in_order = true;
  batch.overwrite = options.overwrite;
  batch.fail_on_bad_lines = options.fail_on_bad_lines;
  batch.expected_tokens = options.expected_tokens;
  batch.engine = options.engine;
  batch.chat_template = options.chat_template;
  batch.json = options.json;
  batch.json_file = options.json_file;
  return batch;
}

void tell_table(const MapOptions& options, const MapFiles& files, const MapOutcome& outcome, nlohmann::ordered_json* summary) {
  (*summary)["output"] = options.output;
  (*summary)["rows"] = outcome.rows;
  (*summary)["unanswered"] = outcome.unanswered;
  if (outcome.metrics) (*summary)["metrics"] = outcome.metrics->json();
  for (const auto& [name, metrics] : outcome.fields) (*summary)["metrics"][name] = metrics.json();
  if (const int64_t errors = outcome.unanswered - outcome.unread; errors > 0)
    spdlog::warn("{}: {} of {} rows have no answer, and empty cells; their records in {} say why", options.output, format_count(errors),
                 format_count(outcome.rows), files.answers);
  if (outcome.unread > 0)
    spdlog::warn("{}: the answers of {} of {} rows {}; their cells are empty, and what was said is in {}", options.output, format_count(outcome.unread),
                 format_count(outcome.rows),
                 options.json_schema.empty() ? "end within the model's thoughts, as where --max-tokens are too few for these"
                                             : "are no JSON object, as where one is cut off by --max-tokens",
                 files.answers);
  print_note("{}: {} rows, {} with an answer\n", options.output, format_count(outcome.rows), format_count(outcome.rows - outcome.unanswered));
  // JSON on stdout has them already.
  if (options.json && options.json_file.empty()) return;
  if (outcome.metrics) print_result("{}", outcome.metrics->sentence());
  int64_t right = 0, all = 0;
  for (const auto& [name, metrics] : outcome.fields) {
    print_result("{}: {}", name, metrics.sentence());
    right += metrics.right();
    all += metrics.count();
  }
  if (all > 0) print_result("fields right: {} of {}\n", right, all);
}

}  // namespace

int map_command(const MapOptions& options) {
  require_alone({}, "map");
  const std::string model = find_model(options.model, options.engine.model.revision);
  MapJob job(options, model);
  if (options.dry_run > 0) {
    write_result(job.shown_prompts(options.dry_run));
    return kExitDone;
  }
  job.check_output();
  {
    StopSignals signals;
    if (!job.write_lines(signals.stop()) || signals.stop()) {  // the next StopSignals would forget one that came since
      print_note("stopped by a signal; the same command goes on where this one ended\n");
      return kExitStopped;
    }
  }
  MapOutcome outcome;
  BatchSteps steps;
  steps.input = job.lines_path();
  steps.before_start = [&] { job.keep_lines(); };
  steps.before_end = [&] { outcome = job.write_table(); };
  steps.end = [&](nlohmann::ordered_json* summary) { tell_table(options, job.files(), outcome, summary); };
  return run_batch_with(batch_of(options, model, job.files()), steps);
}

}  // namespace flexgen
