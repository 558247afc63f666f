#pragma once
// MachineLoad: what other programs take of the processors that this process may run on. Any thread.

#include <string>

namespace flexgen {

/// Since some fixed moment, in seconds of one processor.
struct CpuTimes {
  bool known = false;  ///< false where /proc/stat says nothing
  double wall_s = 0;
  double busy_s = 0;        ///< of the processors that this process may use: by anyone, other guests of the host included
  double own_s = 0;         ///< by this process
  double load_average = 0;  ///< of the last minute
};

/// `root` stands before /proc: for tests, which get own_s = 0 and wall_s = 0, and all processors.
CpuTimes read_cpu_times(const std::string& root = "");

/// Which share of the time that `threads` busy threads wanted went to other programs, 0 to 1. Others that only use
/// processors that these threads left free take nothing.
double share_of_others(const CpuTimes& before, const CpuTimes& after, int threads);

}  // namespace flexgen
