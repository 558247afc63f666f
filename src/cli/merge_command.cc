#include <nlohmann/json.hpp>

#include "base/report.h"
#include "base/units.h"
#include "batch/shards.h"
#include "cli/commands.h"
#include "cli/json_output.h"

namespace flexgen {

int merge_command(const MergeOptions& options) {
  const MergeOutcome outcome = merge_shards(options.input, options.output, options.parts, options.error_output);
  print_note("{}: {} answers, one for each line\n", options.output, format_count(outcome.lines));
  if (options.json) put_json(nlohmann::ordered_json{{"output", options.output}, {"lines", outcome.lines}}.dump(1), options.json_file);
  return kExitDone;
}

}  // namespace flexgen
