#pragma once
// Commands: what each subcommand does, from its options to the exit code. Each throws Error for what it cannot do. One at a
// time in a process.

#include "app/options.h"

namespace flexgen {

int run_batch_command(const RunBatchOptions& options);
int generate_command(const GenerateOptions& options);
int serve_command(const ServeOptions& options);
int inspect_command(const InspectOptions& options);
int bench_command(const BenchOptions& options);
int plan_command(const PlanOptions& options);
int eval_command(const EvalOptions& options);
int merge_command(const MergeOptions& options);
int doctor_command(const DoctorOptions& options);

}  // namespace flexgen
