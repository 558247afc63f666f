// A build without MPI: jobs of one process alone.

#include "base/error.h"
#include "net/world.h"

namespace flexgen {

std::unique_ptr<World> join_world(const Launch& launch, const WorldOptions&) {
  fail_user(
      "{} started this process as one of several, but this flexgen was built without MPI; install libopenmpi-dev and openmpi-bin and build it again, "
      "or start one process (parts of a batch: --shard i/N)",
      launch.launcher);
}

std::string mpi_version() { return "none (built without libopenmpi-dev)"; }

}  // namespace flexgen
