#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "net/message.h"
#include "net/world.h"

namespace flexgen::launch_test {
namespace {

std::optional<Launch> with(const std::map<std::string, std::string>& variables) {
  return launched([&](const char* name) -> const char* {
    auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(Launch, IsSeenInTheVariablesOfLaunchers) {
  EXPECT_FALSE(with({}));
  EXPECT_EQ(with({{"OMPI_COMM_WORLD_SIZE", "4"}})->size, 4);
  EXPECT_EQ(with({{"OMPI_COMM_WORLD_SIZE", "4"}})->launcher, "mpirun");
  const auto srun = with({{"PMIX_RANK", "1"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_PROCID", "1"}});
  EXPECT_EQ(srun->launcher, "srun");
  EXPECT_EQ(srun->size, 2);
}

TEST(Launch, ABatchScriptIsAloneButLostTasksAreRefused) {
  EXPECT_FALSE(with({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "2"}, {"SLURM_PROCID", "0"}}));
  EXPECT_FALSE(with({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}}));
  try {
    with({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("--mpi=pmix"));
  }
}

TEST(Message, ComesBackAsItWasAndSaysWhenItIsShort) {
  MessageWriter out;
  out.add(7).add(2.5).add("text").add(std::vector<int32_t>{1, 2, 3}).add(true).add(std::vector<int32_t>{});
  MessageReader in(out.bytes());
  EXPECT_EQ(in.value<int>(), 7);
  EXPECT_EQ(in.value<double>(), 2.5);
  EXPECT_EQ(in.text(), "text");
  EXPECT_EQ(in.values<int32_t>(), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_TRUE(in.value<bool>());
  EXPECT_TRUE(in.values<int32_t>().empty());
  EXPECT_TRUE(in.at_end());
  EXPECT_THROW(in.value<int>(), Error);
  for (size_t size = 0; size < out.bytes().size(); ++size) {
    MessageReader torn(std::span(out.bytes()).first(size));
    EXPECT_THROW((torn.value<int>(), torn.value<double>(), torn.text(), torn.values<int32_t>(), torn.value<bool>(), torn.values<int32_t>()), Error) << size;
  }
}

}  // namespace
}  // namespace flexgen::launch_test
