#pragma once
// StopSignals: the first SIGINT, SIGTERM or SIGHUP (a terminal that is closed) asks a run to end after the step under way; the second ends the process. One at
// a time in a process.

#include <atomic>

namespace flexgen {

class StopSignals {
 public:
  StopSignals();
  ~StopSignals();  ///< the handlers of before are back
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  const std::atomic<bool>& stop() const;
  /// As a first signal would, from any thread.
  void request_stop();
};

}  // namespace flexgen
