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

  std::vector<const Lane*> all() const {
    return {compute.get(), disk_read.get(), disk_lookup.get(), disk_write.get()};
  }
};

}  // namespace flexgen
