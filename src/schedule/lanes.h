#pragma once
// Lanes: the queues of one engine, one a resource.

#include <memory>
#include <string>
#include <vector>

#include "backend/lane.h"

namespace flexgen {

struct Lanes {
  std::unique_ptr<Lane> compute;      ///< of the tier that computes
  std::unique_ptr<Lane> disk_read;    ///< streamed weights and cache
  std::unique_ptr<Lane> disk_lookup;  ///< single embedding rows: small reads that must not queue behind weights
  std::unique_ptr<Lane> disk_write;   ///< cache and activations on their way out
  std::unique_ptr<Lane> network_send, network_receive;  ///< activations between pipeline stages; null if there is one stage
  // Where a GPU computes; else null.
  std::unique_ptr<Lane> h2d;          ///< RAM to GPU memory
  std::unique_ptr<Lane> d2h;          ///< GPU memory to RAM
  std::unique_ptr<Lane> cpu;          ///< the processor beside the GPU: attention that runs there, reading logits

  /// Those that are there.
  std::vector<Lane*> all() const {
    std::vector<Lane*> lanes;
    for (Lane* lane : {compute.get(), disk_read.get(), disk_lookup.get(), disk_write.get(), h2d.get(), d2h.get(), cpu.get(), network_send.get(),
                       network_receive.get()})
      if (lane) lanes.push_back(lane);
    return lanes;
  }
};

}  // namespace flexgen
