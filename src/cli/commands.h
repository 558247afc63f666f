#pragma once
// Commands: what each subcommand does, from its options to the exit code. Each throws Error for what it cannot do. One at a
// time in a process.

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/options.h"

namespace flexgen {

int run_batch_command(const RunBatchOptions& options);
int map_command(const MapOptions& options);
int generate_command(const GenerateOptions& options);
int chat_command(const ChatOptions& options);
int serve_command(const ServeOptions& options);
int inspect_command(const InspectOptions& options);
int bench_command(const BenchOptions& options);
int plan_command(const PlanOptions& options);
int eval_command(const EvalOptions& options);
int merge_command(const MergeOptions& options);
int doctor_command(const DoctorOptions& options);

/// The steps of a command that makes its input and does something with the answers.
struct BatchSteps {
  std::string input;                        ///< by which the input can be read until before_start() puts it where the options say; empty: it is there
  std::function<void()> before_start = {};  ///< as BatchFiles has it
  std::function<void()> before_end = {};    ///< as BatchFiles has it
  std::function<void(nlohmann::ordered_json*)> end = {};  ///< called after that, and may add to the summary; may be empty
};
/// run-batch for such a command. In one process alone.
int run_batch_with(const RunBatchOptions& options, const BatchSteps& steps);

}  // namespace flexgen
