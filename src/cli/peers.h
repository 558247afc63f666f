#pragma once
// The same job by other programs: Hugging Face Accelerate, and FlexGen as its authors published it. They are Python packages, which flexgen neither contains nor installs:
// cli/peers.py, which the binary carries, drives them in a process of its own. One thread.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace flexgen {

inline constexpr const char* kPeers[] = {"accelerate", "flexllmgen"};

/// Which peers run, and how.
struct PeerFlags {
  std::vector<std::string> names;           ///< of kPeers
  std::string python = "python3";           ///< that has them
  std::vector<int64_t> batch_sizes{8, 32};  ///< that are tried; the fastest counts
  int64_t rounds = 1;                       ///< batches that are run, the others are counted at their time; 0: all
  std::string policy;                       ///< flexllmgen's own flags, sets of them separated by semicolons; empty: those of its published runs
};

/// The job as a peer is told it: prompts in tokens, budgets in bytes.
struct PeerJob {
  std::string model;       ///< as it was asked for: for flexllmgen the name of a shape
  std::string checkpoint;  ///< directory
  std::string dtype;       ///< of the arithmetic: bf16, f16 or f32
  std::string directory;   ///< where they may put files
  std::vector<std::vector<int32_t>> prompts;
  std::vector<int64_t> max_tokens;
  int64_t cpu_bytes = 0, gpu_bytes = 0;  ///< the latter 0: on the processor alone
};

/// The best that a peer did: tokens are the job's, times in seconds.
struct PeerResult {
  std::string name, version, settings;
  int64_t batch = 0, batches = 0, batches_run = 0;
  double run_s = 0;   ///< of the batches that were run
  double time_s = 0;  ///< of the whole job, at that pace
};

/// Throws Error{user} that says what to install if a program is not there. Starts Python once for each.
void check_peers(const PeerFlags& flags);

/// Runs the job by one of them. Throws Error{user} if it fails; what it says goes to standard error.
PeerResult run_peer(const PeerFlags& flags, const std::string& name, const PeerJob& job);

/// A row for us and for each of them. `generated_tokens` are the job's.
std::string peers_table(double our_time_s, int64_t generated_tokens, const std::vector<PeerResult>& results);
nlohmann::ordered_json peers_json(const std::vector<PeerResult>& results, int64_t generated_tokens);

}  // namespace flexgen
