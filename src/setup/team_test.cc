// What several processes are refused together. tests/ranks.py starts them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/cores.h"
#include "io/test_folder.h"
#include "net/local_ports.h"
#include "setup/team.h"

namespace flexgen::team_test {
namespace {

TEST(Team, BlocksOfStagesNeedSeveralStages) {
  LocalPorts ports(2);
  TeamFlags flags;
  flags.pipeline_stages = 1;
  flags.stage_split = "2:2";
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { Team(ports.port(0), 2, flags); }), testing::HasSubstr("--stages 2:2: with --pipeline-stages 1"));
}

/// `work(team, rank)` on each of `size` ranks, a thread each.
template <typename Work>
void on_ranks(int size, const TeamFlags& flags, Work work) {
  LocalPorts ports(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      Team team(ports.port(rank), size, flags);
      work(team, rank);
    });
  for (std::thread& thread : threads) thread.join();
}

/// Stages, replicas, or both: together they may move as much as the flag says, and their plans know.
TEST(Team, RanksOfAMachineShareTheDiskTheyMayUse) {
  if (machine_id().empty()) GTEST_SKIP() << "this machine cannot be told from others";
  EngineFlags engine;
  engine.threads = 1;
  engine.cpu_memory_bytes = 1 << 20;
  engine.disk_bytes_per_s = 400;
  struct Case {
    int pipeline_stages, of_pipeline;
  };
  for (const Case& c : {Case{4, 400}, Case{1, 100}, Case{2, 200}}) {
    TeamFlags flags;
    flags.pipeline_stages = c.pipeline_stages;
    on_ranks(4, flags, [&](Team& team, int) {
      EXPECT_EQ(team.engine_options(engine, "m").disk_bytes_per_s, 100);
      EXPECT_EQ(team.hardware_flags(engine).disk_bytes_per_s, c.of_pipeline) << "what a plan divides by its stages of this machine";
    });
  }
}

TEST(Team, RanksOfAMachineHaveSeatsAtItsGpus) {
  if (machine_id().empty()) GTEST_SKIP() << "this machine cannot be told from others";
  EngineFlags engine;
  engine.threads = 1;
  engine.cpu_memory_bytes = 1 << 20;
  on_ranks(3, {}, [&](Team& team, int rank) {
    const DeviceSeat seat = team.engine_options(engine, "m").device_seat;
    EXPECT_EQ(std::pair(seat.number, seat.of), std::pair(rank, 3));
  });
}

/// A rank that is killed has no time to remove anything.
TEST(Team, APartOfATraceHasNoNameBesideIt) {
  TestFolder folder;
  EngineFlags engine;
  engine.threads = 1;
  engine.cpu_memory_bytes = 1 << 20;
  engine.trace_file = folder.file("trace.json");
  on_ranks(3, {}, [&](Team& team, int rank) {
    const EngineOptions options = team.engine_options(engine, "m");
    {
      Trace trace(options.trace_file, options.trace_process);
      const auto now = Trace::Clock::now();
      trace.add("compute", "a visit", 0, rank, 0, 0, now, now);
    }
    all_gather(team.world(), "");
    const auto files = std::distance(std::filesystem::directory_iterator(folder.path()), std::filesystem::directory_iterator());
    EXPECT_EQ(files, 1);
    team.join_traces(engine.trace_file);
  });
  const nlohmann::json joined = nlohmann::json::parse(read_whole(engine.trace_file));
  std::set<int> processes;
  for (const nlohmann::json& event : joined)
    if (event["name"] == "a visit") processes.insert(event["pid"].get<int>());
  EXPECT_EQ(processes, (std::set<int>{1, 2, 3}));
}

}  // namespace
}  // namespace flexgen::team_test
