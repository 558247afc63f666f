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

  /// While it lives a signal ends the process with this code, also one that has come already: for what takes long, is deaf to stop(), and may end anywhere, as a kill may
  /// (weights that are prepared, another process that is waited for). One at a time.
  class AtOnce {
   public:
    explicit AtOnce(int exit_code);
    ~AtOnce();
    AtOnce(const AtOnce&) = delete;
    AtOnce& operator=(const AtOnce&) = delete;
  };

  const std::atomic<bool>& stop() const;
  /// As a first signal would, from any thread.
  void request_stop();
};

}  // namespace flexgen
