#pragma once
// StopSignals: the first SIGINT, SIGTERM or SIGHUP (a terminal that is closed) asks a run to end after the step under way; the second ends the process. One at
// a time in a process.

#include <atomic>
#include <string_view>

namespace flexgen {

class StopSignals {
 public:
  static constexpr std::string_view kAfterStep = "stopping after the step under way; once more to stop at once (finished answers are kept either way)";
  /// `said`: at the first signal; must live as long as the process.
  explicit StopSignals(std::string_view said = kAfterStep);
  ~StopSignals();  ///< the handlers of before are back
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  const std::atomic<bool>& stop() const;
  /// As a first signal would, from any thread.
  void request_stop();
};

}  // namespace flexgen
