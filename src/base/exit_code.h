#pragma once
// ExitCode: how a command ended, for whoever started it.

namespace flexgen {

/// What the process ends with.
enum ExitCode {
  kExitDone = 0,
  kExitFailed = 1,    ///< an error; finished answers are kept
  kExitUsage = 2,     ///< the command line is wrong; nothing was done
  kExitBadLines = 3,  ///< run-batch: lines were bad and none was answered, or --fail-on-bad-lines
  kExitStopped = 75,  ///< SIGINT or SIGTERM; the same command goes on (EX_TEMPFAIL)
};

}  // namespace flexgen
