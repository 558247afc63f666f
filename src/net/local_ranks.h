#pragma once
// The ranks of a job that run on this machine, as /proc shows them: while they have not met yet, nobody else can say which of them hangs. Any thread.

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace flexgen {

/// A rank of the same job, as a process of this machine.
struct LocalRank {
  int rank = 0;
  int pid = 0;
  bool stopped = false;  ///< by SIGSTOP, SIGTSTP or a debugger
};

/// The job that a launcher put this process in, by the variables that it sets: a name that is the same for all ranks, and empty if it says none.
std::string launched_job(const std::function<const char*(const char*)>& variable);

/// The processes of `job`, ascending by rank; one process a rank, a stopped one where there are several. `root` stands before /proc: for tests.
std::vector<LocalRank> local_ranks(const std::string& job, const std::string& root = "");

/// Which ranks have been stopped, for how long.
class StoppedRanks {
 public:
  /// What local_ranks() gives at `now_s`; to be called every second or so. A longer pause means that this process was itself suspended, and knows nothing of before.
  void look(const std::vector<LocalRank>& ranks, double now_s);
  /// Those that have been stopped for `time_s` at the last look.
  std::vector<LocalRank> longer_than(double time_s) const;

 private:
  double looked_s_ = 0;
  std::map<int, std::pair<LocalRank, double>> since_s_;
};

}  // namespace flexgen
