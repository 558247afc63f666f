// What several processes are refused together. tests/ranks.py starts them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace flexgen::team_test
