#pragma once
// Event: a completion token that carries the error of the work behind it to whoever waits.
// Copies share one state. All functions may be called from any thread.

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/virtual_clock.h"

namespace flexgen {

class Event {
 public:
  /// Done from the start, without error.
  Event() = default;
  /// Not done until finish() is called on it or on a copy.
  static Event pending();

  /// Simulations: done at a time of the virtual clock; whoever waits moves the clock on to it.
  static Event at(VirtualClock& clock, double time_s);
  /// The same, but when is not known yet: finish_at() says it, in whatever thread; until then whoever asks waits.
  static Event pending(VirtualClock& clock);
  void finish_at(double time_s) const;
  double virtual_time_s() const;

  /// Marks the work as done, or as failed with `error`. Exactly once.
  void finish(std::exception_ptr error = nullptr) const;

  bool done() const;
  /// Blocks until done; rethrows the error of the work.
  void wait() const;
  /// The error once done; null while pending or on success.
  std::exception_ptr error() const;
  /// Runs `callback` when done: at once if it is, else in the thread that finishes.
  void on_done(std::function<void()> callback) const;

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    VirtualClock* clock = nullptr;
    double time_s = 0;
    std::exception_ptr error;
    std::vector<std::function<void()>> callbacks;
  };
  std::shared_ptr<State> state_;
};

}  // namespace flexgen
