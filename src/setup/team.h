#pragma once
// Team: the processes that do one command together: pipelines of stages, and replicas of a pipeline. How many there are is the launcher's to say (mpirun -n,
// srun -n), how they are split up the command line's. Rank = replica * stages + stage. One thread, but for what says otherwise.

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/exit_code.h"
#include "base/last_words.h"
#include "base/report.h"
#include "engine/engine.h"
#include "io/temporary_file.h"
#include "net/world.h"
#include "setup/engine_flags.h"

namespace flexgen {

/// How several processes, started by mpirun or srun, share a command.
struct TeamFlags {
  int pipeline_stages = 0;  ///< processes a pipeline; 0: all. More processes than that make replicas
  std::string stage_split;  ///< "10:22": blocks of each stage; empty: by their budgets
  double rank_timeout_s = 20;
};

/// Throws Error{user} for flags of teams in a process that was started alone.
void check_team_flags(const TeamFlags& flags);
/// Refuses flags of teams in a process that is alone, and commands that cannot be done by several.
void require_alone(const TeamFlags& flags, const char* command);

class Team {
 public:
  /// Null if this process was started alone. Throws Error{user} for flags that do not fit the number of processes.
  static std::unique_ptr<Team> join(const TeamFlags& flags);
  /// For tests: the ranks of a world that is there already.
  Team(Port& world, int local_size, const TeamFlags& flags);
  ~Team();

  Port& world() { return *world_port_; }
  int num_stages() const { return num_stages_; }
  int num_replicas() const { return world_port_->size() / num_stages_; }
  int replica() const { return world_port_->rank() / num_stages_; }
  bool is_root() const { return world_port_->rank() == 0; }
  bool is_lead() const { return stages_.rank() == 0; }  ///< first stage of its replica
  /// World ranks of the first stages of all replicas but the first.
  std::vector<int> other_leads() const;

  /// The engine's options for this process: its place in the pipeline; budgets and threads that were not given are shared with the team's other processes on this machine.
  EngineOptions engine_options(const EngineFlags& flags, const std::string& model_directory);
  /// Flags as set_hardware() takes them here: of what the job may take of a disk, the part of this rank's pipeline on this machine, which its stages share.
  EngineFlags hardware_flags(const EngineFlags& flags) const;
  /// All ranks: checks that they have the same version of everything that answers depend on (name -> value). Throws Error{user} on every rank, naming the
  /// rank and what differs.
  void agree(const std::vector<std::pair<std::string, std::string>>& facts);

  /// From now on this rank's progress is told to rank 0 once a second (`poll`: any thread), until share_report() or stop_sharing().
  void share_progress(std::function<Progress()> poll);
  void stop_sharing();
  /// Rank 0: the whole job's, from what the ranks told; any thread.
  Progress merged_progress();
  /// All ranks, at the end of a run: rank 0 gets the whole job's report, the others their own back.
  RunReport share_report(const RunReport& own);
  /// All ranks, once the engine is gone: traces of all are joined in rank 0's file. Nothing if `trace_file` is empty.
  void join_traces(const std::string& trace_file);

  /// The end of a job that went well. Throws Error{peer} if a rank is lost meanwhile.
  void leave();
  /// A failure on this rank ends the job for all, within seconds. To be called outside of everything that uses the team; returns whether this rank is to
  /// tell the user (rank 0 tells what happened on any). The destructor then ends the process.
  bool fail(const std::exception& error);

 private:
  struct Board;
  /// Takes `world` once nothing can fail any more.
  Team(std::unique_ptr<World>& world, const TeamFlags& flags);

  std::unique_ptr<World> world_;  // null in tests
  Port* world_port_;
  int local_size_;
  int threads_ = 1;                             ///< this rank's share of its machine's
  int on_machine_ = 1, stages_on_machine_ = 1;  ///< ranks on this machine, of all and of this pipeline; 1 where machines cannot be told apart
  DeviceSeat device_seat_;
  int num_stages_;
  SubPort stages_;
  std::string stage_split_;
  double start_s_ = 0;                       ///< of the job, seconds since 1970 by rank 0's clock
  std::optional<TemporaryFile> trace_part_;  ///< of a later rank, without a name: however it ends, nothing lies beside the trace
  std::shared_ptr<Board> board_;
  std::function<Progress()> poll_;
  Progress last_;  ///< rank 0's own while its run was under way
  std::mutex mutex_;
  std::condition_variable changed_;
  bool sharing_ = false;
  std::thread sharer_;
};

/// Runs `work` on a rank: a failure is told to the user once and ends the job on all ranks.
template <typename Work>
int together(Team& team, Work work) {
  try {
    return work();
  } catch (const std::exception& error) {
    if (team.fail(error)) write_sentence_of(error);
    return kExitFailed;
  }
}

}  // namespace flexgen
