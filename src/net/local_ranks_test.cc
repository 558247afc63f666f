// Which ranks of a job are on this machine, and which of them are stopped.

#include "net/local_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/test_folder.h"

namespace flexgen::local_ranks_test {
namespace {

class LocalRanks : public testing::Test {
 protected:
  void process(int pid, const std::string& environment, char state) {
    const std::string directory = folder_.file("proc/" + std::to_string(pid));
    std::filesystem::create_directories(directory);
    std::ofstream(directory + "/environ", std::ios::binary) << environment;
    std::ofstream(directory + "/stat") << pid << " (a) name R (x)) " << state << " 1 2 3\n";
  }
  std::string of_job(const std::string& job, int rank) {
    const std::string zero(1, '\0');
    return "PATH=/bin" + zero + "PMIX_NAMESPACE=" + job + zero + "PMIX_RANK=" + std::to_string(rank) + zero + "LAST=1" + zero;
  }
  TestFolder folder_;
};

TEST_F(LocalRanks, OfTheJobAlone) {
  process(10, of_job("7", 1), 'T');
  process(11, of_job("7", 0), 'S');
  process(12, of_job("8", 2), 'T');
  process(13, "", 'T');
  process(14, of_job("7", 2), 'S');
  process(15, of_job("7", 2), 't');  // a wrapper and what it started: one rank
  std::filesystem::create_directories(folder_.file("proc/self"));
  const std::vector<LocalRank> ranks = local_ranks("7", folder_.path().string());
  ASSERT_EQ(ranks.size(), 3u);
  EXPECT_FALSE(ranks[0].stopped);
  EXPECT_TRUE(ranks[1].stopped);
  EXPECT_EQ(ranks[1].pid, 10);
  EXPECT_TRUE(ranks[2].stopped);
  EXPECT_EQ(ranks[2].pid, 15);
  EXPECT_TRUE(local_ranks("", folder_.path().string()).empty());
  EXPECT_TRUE(local_ranks("9", folder_.path().string()).empty());
}

TEST_F(LocalRanks, OnlyWhatStaysStoppedCounts) {
  StoppedRanks stopped;
  const LocalRank runs{1, 10, false}, stands{1, 10, true};
  for (double now_s = 100; now_s <= 104; ++now_s) stopped.look({stands}, now_s);
  EXPECT_TRUE(stopped.longer_than(5).empty());
  stopped.look({stands}, 105);
  ASSERT_EQ(stopped.longer_than(5).size(), 1u);
  stopped.look({runs}, 106);
  stopped.look({stands}, 107);
  EXPECT_TRUE(stopped.longer_than(1).empty());
  stopped.look({stands}, 120);  // all were suspended, this process too
  EXPECT_TRUE(stopped.longer_than(1).empty());
  stopped.look({{1, 11, true}}, 121);  // another process
  EXPECT_TRUE(stopped.longer_than(1).empty());
}

}  // namespace
}  // namespace flexgen::local_ranks_test
