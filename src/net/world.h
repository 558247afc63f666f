#pragma once
// World: the processes of a job that mpirun, srun or a Kubernetes MPIJob started together. mpi/ has it over Open MPI; no_mpi/ is what a build without the
// library gets. A process that was started alone joins no world and pays nothing.

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "net/port.h"

namespace flexgen {

/// What a launcher has told this process, by its environment.
struct Launch {
  std::string launcher;  ///< "mpirun", "srun", for messages
  int size = 1;          ///< processes of the job; 0: the launcher did not say
};

/// Who started this process together with others, by the variables that launchers set; nothing if it was started alone. Throws Error{user} for tasks of
/// srun that cannot find each other.
std::optional<Launch> launched();
/// Whether this process is one of several, or may be one.
bool launched_with_others();
/// launched() from given variables; `variable(name)` is null for one that is not set.
std::optional<Launch> launched(const std::function<const char*(const char*)>& variable);

class World {
 public:
  virtual ~World() = default;
  virtual Port& port() = 0;
  /// Processes of the job on this machine, this one included.
  virtual int local_size() const = 0;
  /// Whether this process is to tell the user of the failure that ended the job: it is rank 0, or rank 0 is lost.
  virtual bool speaks() const = 0;
  /// The end of a job that went well: waits for all. Without it, or after Port::abort(), the destructor ends the whole job at once, with exit code 1.
  virtual void leave() = 0;
};

/// How a world is watched over.
struct WorldOptions {
  /// A rank that is not heard of for so long is given up, and the job with it.
  double timeout_s = 20;
};

/// Joins the job. Throws Error{user} in a build without MPI.
std::unique_ptr<World> join_world(const Launch& launch, const WorldOptions& options);

/// "Open MPI 4.1.4", or what is missing.
std::string mpi_version();

}  // namespace flexgen
