#include "net/local_ranks.h"

#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>

namespace flexgen {
namespace {

constexpr const char* kJobNames[] = {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID"};
constexpr const char* kRankNames[] = {"PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"};

/// The value of `name` in a process's environment as /proc has it: "A=1\0B=2\0".
const char* value_in(const std::string& environment, std::string_view name) {
  for (size_t at = 0; at < environment.size(); at = environment.find('\0', at) + 1) {
    const std::string_view entry(environment.c_str() + at);
    if (entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=') return entry.data() + name.size() + 1;
    if (environment.find('\0', at) == std::string::npos) break;
  }
  return nullptr;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

std::string launched_job(const std::function<const char*(const char*)>& variable) {
  for (const char* name : kJobNames)
    if (const char* value = variable(name)) return value;
  return "";
}

std::vector<LocalRank> local_ranks(const std::string& job, const std::string& root) {
  std::map<int, LocalRank> found;
  std::error_code error;
  if (job.empty()) return {};
  for (std::filesystem::directory_iterator it(root + "/proc", error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    LocalRank process;
    if (std::from_chars(name.data(), name.data() + name.size(), process.pid).ptr != name.data() + name.size()) continue;
    const std::string environment = read_file(it->path() / "environ");
    auto variable = [&](const char* wanted) { return value_in(environment, wanted); };
    if (environment.empty() || launched_job(variable) != job) continue;
    const char* rank = nullptr;
    for (const char* wanted : kRankNames)
      if (!rank) rank = variable(wanted);
    if (!rank || std::from_chars(rank, rank + std::char_traits<char>::length(rank), process.rank).ec != std::errc()) continue;
    // "123 (a name, with anything in it) T 1 ..."
    const std::string stat = read_file(it->path() / "stat");
    const size_t end_of_name = stat.rfind(')');
    if (end_of_name == std::string::npos || end_of_name + 2 >= stat.size()) continue;
    process.stopped = stat[end_of_name + 2] == 'T' || stat[end_of_name + 2] == 't';
    auto [known, fresh] = found.emplace(process.rank, process);
    if (!fresh && process.stopped) known->second = process;
  }
  std::vector<LocalRank> ranks;
  for (const auto& [rank, process] : found) ranks.push_back(process);
  return ranks;
}

void StoppedRanks::look(const std::vector<LocalRank>& ranks, double now_s) {
  constexpr double kSuspended_s = 3;
  if (now_s - looked_s_ > kSuspended_s) since_s_.clear();
  looked_s_ = now_s;
  std::map<int, std::pair<LocalRank, double>> stopped;
  for (const LocalRank& rank : ranks) {
    if (!rank.stopped) continue;
    const auto before = since_s_.find(rank.rank);
    stopped[rank.rank] = {rank, before != since_s_.end() && before->second.first.pid == rank.pid ? before->second.second : now_s};
  }
  since_s_ = std::move(stopped);
}

std::vector<LocalRank> StoppedRanks::longer_than(double time_s) const {
  std::vector<LocalRank> ranks;
  for (const auto& [number, entry] : since_s_)
    if (looked_s_ - entry.second >= time_s) ranks.push_back(entry.first);
  return ranks;
}

}  // namespace flexgen
