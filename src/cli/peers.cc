#include "cli/peers.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/peers_script.h"
#include "io/checked_json.h"

extern char** environ;

namespace flexgen {
namespace {

struct Ended {
  int status = 0;
  std::string output;  ///< what it wrote to its standard output
};

/// Runs the script to its end; what it writes to standard error goes to ours.
Ended run_script(const std::string& python, std::vector<std::string> arguments) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) fail_io("cannot start {}: {}", python, std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::vector<std::string> words{python, "-c", kPeersScript};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t child = 0;
  // This process ignores it; the script shall not.
  sigset_t broken_pipe;
  sigemptyset(&broken_pipe);
  sigaddset(&broken_pipe, SIGPIPE);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigdefault(&attributes, &broken_pipe);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  const int failed = posix_spawnp(&child, python.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  Ended ended;
  char bytes[4096];
  for (ssize_t count = 0; !failed && ((count = ::read(ends[0], bytes, sizeof(bytes))) > 0 || (count < 0 && errno == EINTR));)
    if (count > 0) ended.output.append(bytes, static_cast<size_t>(count));
  ::close(ends[0]);
  if (failed)
    fail_user("--peer-python {}: {}{}", python, std::strerror(failed),
              failed == EAGAIN ? "; no more processes are allowed (ulimit -u, pids.max of the cgroup)" : "");
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ended.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ended;
}

constexpr int kMissing = 3;  // the script's exit status where something is not installed

class JobFile {
 public:
  JobFile(const PeerFlags& flags, const PeerJob& job) {
    std::string name = (std::filesystem::path(job.directory) / "flexgen_peers_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) fail_io("{}: {}", job.directory, std::strerror(errno));
    directory_ = name;
    const nlohmann::json json{{"model", job.model},
                              {"checkpoint", job.checkpoint},
                              {"dtype", job.dtype},
                              {"offload_directory", directory_},
                              {"prompts", job.prompts},
                              {"max_tokens", job.max_tokens},
                              {"cpu_memory_bytes", job.cpu_bytes},
                              {"gpu_memory_bytes", job.gpu_bytes},
                              {"batch_sizes", flags.batch_sizes},
                              {"rounds", flags.rounds},
                              {"policy", flags.policy}};
    std::ofstream out(path());
    out << json;
    if (!out.flush()) fail_io("cannot write {}", path());
  }
  ~JobFile() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  JobFile(const JobFile&) = delete;
  JobFile& operator=(const JobFile&) = delete;
  std::string path() const { return directory_ + "/job.json"; }

 private:
  std::string directory_;
};

}  // namespace

void check_peers(const PeerFlags& flags) {
  for (const std::string& name : flags.names) {
    const Ended ended = run_script(flags.python, {"check", name});
    if (ended.status == kMissing) fail_user("--peers {}: {}", name, ended.output.substr(0, ended.output.find('\n')));
    if (ended.status != 0)
      fail_user("--peer-python {}: it ended with status {} when asked for {}; give a Python of at least 3.9", flags.python, ended.status, name);
  }
}

PeerResult run_peer(const PeerFlags& flags, const std::string& name, const PeerJob& job) {
  const JobFile file(flags, job);
  const Ended ended = run_script(flags.python, {"run", name, file.path()});
  constexpr std::string_view kMark = "RESULT ";
  const size_t mark = ended.output.rfind(kMark);
  if (ended.status != 0 || mark == std::string::npos) fail_user("--peers {}: it ended with status {}; what it says is above", name, ended.status);
  const nlohmann::json json = parse_json(std::string_view(ended.output).substr(mark + kMark.size()), fmt::format("--peers {}: its result", name));
  return {json.at("name"),    json.at("version"),     json.at("settings"), json.at("batch"),
          json.at("batches"), json.at("batches_run"), json.at("run_s"),    json.at("time_s")};
}

std::string peers_table(double our_time_s, int64_t generated_tokens, const std::vector<PeerResult>& results) {
  const auto speed = [&](double time_s) { return static_cast<double>(generated_tokens) / time_s; };
  std::string text = fmt::format("  {:<22}{:>14}{:>20}{:>12}\n", "the same job", "time", "generated/s", "ours is");
  text += fmt::format("  {:<22}{:>14}{:>20.2f}\n", "flexgen", format_duration(our_time_s), speed(our_time_s));
  for (const PeerResult& result : results)
    text +=
        fmt::format("  {:<22}{:>14}{:>20.2f}{:>11.1f}x   batches of {}, {} of {} run; {}\n", result.name + " " + result.version, format_duration(result.time_s),
                    speed(result.time_s), result.time_s / our_time_s, result.batch, result.batches_run, result.batches, result.settings);
  return text;
}

nlohmann::ordered_json peers_json(const std::vector<PeerResult>& results, int64_t generated_tokens) {
  auto json = nlohmann::ordered_json::array();
  for (const PeerResult& result : results)
    json.push_back({{"name", result.name},
                    {"version", result.version},
                    {"settings", result.settings},
                    {"batch", result.batch},
                    {"batches", result.batches},
                    {"batches_run", result.batches_run},
                    {"run_s", result.run_s},
                    {"time_s", result.time_s},
                    {"generated_tokens_per_s", static_cast<double>(generated_tokens) / result.time_s}});
  return json;
}

}  // namespace flexgen
