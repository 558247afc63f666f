#pragma once
// VirtualClock: the host's time in a simulation. One thread.

namespace flexgen {

struct VirtualClock {
  double now_s = 0;
};

}  // namespace flexgen
