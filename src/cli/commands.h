#pragma once
// Commands: what each subcommand does, from its options to the exit code. Each throws Error for what it cannot do. One at a
// time in a process.

#include <functional>
#include <nlohmann/json_fwd.hpp>

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

/// run-batch for a command that makes its input: `end` is called once all lines have their records, and may add to the summary. In one process alone.
int run_batch_then(const RunBatchOptions& options, const std::function<void(nlohmann::ordered_json*)>& end);

}  // namespace flexgen
