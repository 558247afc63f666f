#pragma once
// Lanes: the queues of one engine, one a resource.

#include <memory>
#include <string>
#include <vector>

#include "backend/lane.h"

namespace flexgen {

struct Lanes {
  std::unique_ptr<Lane> compute;
  std::unique_ptr<Lane> disk_read;    ///< streamed weights and cache
  std::unique_ptr<Lane> disk_lookup;  ///< single embedding rows: small reads that must not queue behind weights
  std::unique_ptr<Lane> disk_write;   ///< cache and activations on their way out
  std::unique_ptr<Lane> network_send, network_receive;  ///< activations between pipeline stages; null if there is one stage

  std::vector<const Lane*> all() const {
    std::vector<const Lane*> lanes;
    for (Lane* lane : every()) lanes.push_back(lane);
    return lanes;
  }
  /// The same, to be drained.
  std::vector<Lane*> every() const {
    std::vector<Lane*> lanes{compute.get(), disk_read.get(), disk_lookup.get(), disk_write.get()};
    for (Lane* lane : {network_send.get(), network_receive.get()})
      if (lane) lanes.push_back(lane);
    return lanes;
  }
};

}  // namespace flexgen
