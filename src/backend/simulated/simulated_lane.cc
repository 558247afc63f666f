#include "backend/simulated/simulated_lane.h"

#include <algorithm>

namespace flexgen {

Event SimulatedLane::submit(Work work) {
  double start_s = std::max(clock_.now_s, free_at_s_);
  for (const Event& event : work.after) start_s = std::max(start_s, event.virtual_time_s());
  if (work.start) {  // a message: the link it goes over knows the time it takes
    free_at_s_ = std::max(start_s, work.start(start_s).virtual_time_s());
    account_virtual(work, cost_(work));  // of it, what the lane itself is busy: waiting for a peer is no work
    return Event::at(clock_, free_at_s_);
  }
  double duration_s = cost_(work);
  free_at_s_ = start_s + duration_s;
  account_virtual(work, duration_s);
  return Event::at(clock_, free_at_s_ + late_s_);
}

}  // namespace flexgen
