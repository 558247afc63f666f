#include "measure/machine_load.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <fstream>
#include <sstream>

namespace flexgen {
namespace {

double seconds_of(const timeval& time) { return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec); }

double own_time_s() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
}

}  // namespace

CpuTimes read_cpu_times(const std::string& root) {
  CpuTimes times;
  cpu_set_t own;
  const bool bound = root.empty() && sched_getaffinity(0, sizeof(own), &own) == 0;
  if (root.empty()) {
    times.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    times.own_s = own_time_s();
  }
  std::ifstream(root + "/proc/loadavg") >> times.load_average;
  std::ifstream stat(root + "/proc/stat");
  for (std::string line; std::getline(stat, line);) {
    if (!line.starts_with("cpu") || line.size() < 4 || line[3] == ' ') continue;  // the sum of all comes first
    int number = -1;
    std::from_chars(line.data() + 3, line.data() + line.size(), number);
    if (number < 0 || number >= CPU_SETSIZE || (bound && !CPU_ISSET(number, &own))) continue;
    std::istringstream words(line.substr(line.find(' ')));
    double user = 0, nice = 0, system = 0, idle = 0, waiting = 0, irq = 0, softirq = 0, steal = 0;
    if (!(words >> user >> nice >> system >> idle >> waiting >> irq >> softirq)) continue;
    words >> steal;
    times.busy_s += (user + nice + system + irq + softirq + steal) / static_cast<double>(sysconf(_SC_CLK_TCK));
    times.known = true;
  }
  return times;
}

double share_of_others(const CpuTimes& before, const CpuTimes& after, int threads) {
  const double wanted_s = threads * (after.wall_s - before.wall_s), own_s = after.own_s - before.own_s;
  if (!before.known || !after.known || wanted_s <= 0) return 0;
  const double others_s = after.busy_s - before.busy_s - own_s, missed_s = wanted_s - own_s;
  return std::clamp(std::min(others_s, missed_s) / wanted_s, 0.0, 1.0);
}

}  // namespace flexgen
