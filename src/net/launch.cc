#include <charconv>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "net/world.h"

namespace flexgen {

std::optional<Launch> launched(const std::function<const char*(const char*)>& variable) {
  auto number = [&](const char* name) {
    const char* text = variable(name);
    int value = 0;
    if (text) std::from_chars(text, text + std::strlen(text), value);
    return value;
  };
  if (variable("OMPI_COMM_WORLD_SIZE")) return Launch{"mpirun", number("OMPI_COMM_WORLD_SIZE")};
  const int tasks = variable("SLURM_STEP_NUM_TASKS") ? number("SLURM_STEP_NUM_TASKS") : 0;
  if (variable("PMIX_RANK")) return Launch{variable("SLURM_STEP_ID") ? "srun" : "PMIx", tasks};
  if (variable("PMI_RANK")) return Launch{variable("SLURM_STEP_ID") ? "srun" : "PMI", number("PMI_SIZE")};
  // A batch script runs under no launcher, though the job's variables are there; a step's processes have a rank in it.
  if (variable("SLURM_STEP_ID") && variable("SLURM_PROCID") && tasks > 1)
    fail_user("srun started {} tasks that cannot find each other; start them with srun --mpi=pmix (or mpirun in a batch script), or one task with --shard",
              tasks);
  return std::nullopt;
}

std::optional<Launch> launched() {
  return launched([](const char* name) -> const char* { return std::getenv(name); });
}

bool launched_with_others() {
  const std::optional<Launch> launch = launched();
  return launch && launch->size != 1;
}

}  // namespace flexgen
