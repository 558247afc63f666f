#include "base/cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>

namespace flexgen {

int usable_cores() {
  const auto cores = static_cast<int>(usable_core_numbers().size());
  return std::max(1, cores > 0 ? cores : static_cast<int>(std::thread::hardware_concurrency()));
}

std::vector<int> usable_core_numbers() {
  std::vector<int> numbers;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return numbers;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) numbers.push_back(core);
  return numbers;
}

int share_of_cores(const std::vector<int>& own, const std::vector<std::vector<int>>& all) {
  double share = 0;
  for (int core : own) {
    const auto sharers =
        std::count_if(all.begin(), all.end(), [&](const std::vector<int>& one) { return std::find(one.begin(), one.end(), core) != one.end(); });
    share += 1 / static_cast<double>(std::max<std::ptrdiff_t>(sharers, 1));
  }
  return std::max(1, static_cast<int>(share + 1e-6));
}

std::string machine_id() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

}  // namespace flexgen
