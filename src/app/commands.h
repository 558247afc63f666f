#pragma once
// Commands: what the command line does, one function a command. Each returns the process's exit code and throws Error; answers
// and reports go to stdout, all else to stderr. One at a time in a process.

#include <string>

#include "app/options.h"

namespace flexgen {

int run_batch_command(const RunBatchOptions& options);
int generate_command(const GenerateOptions& options);
int inspect_command(const InspectOptions& options);
int bench_command(const BenchOptions& options);
int doctor_command(const DoctorOptions& options);

/// The text that `inspect` prints.
std::string inspect_report(const InspectOptions& options);
/// The text that `doctor` prints.
std::string doctor_report(const DoctorOptions& options);

}  // namespace flexgen
