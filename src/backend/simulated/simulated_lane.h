#pragma once
// SimulatedLane: a lane on a virtual clock. Work takes the time a cost function says; nothing is run or moved. The same stores and the same
// executor run on it, which makes a simulation a second opinion on any cost model. One thread.

#include <functional>
#include <string>

#include "backend/lane.h"
#include "backend/virtual_clock.h"

namespace flexgen {

class SimulatedLane : public Lane {
 public:
  using Cost = std::function<double(const Work&)>;  ///< seconds
  /// What is done is known `late_s` after it was, while the lane does other work.
  SimulatedLane(std::string name, VirtualClock& clock, Cost cost, double late_s = 0)
      : Lane(std::move(name), nullptr), clock_(clock), cost_(std::move(cost)), late_s_(late_s) {}

  /// In order, one after the other: starts when the lane, the host and everything in `after` are there.
  Event submit(Work work) override;
  /// When everything submitted so far is done.
  double free_at_s() const { return free_at_s_; }

 private:
  VirtualClock& clock_;
  Cost cost_;
  double late_s_;
  double free_at_s_ = 0;
};

}  // namespace flexgen
