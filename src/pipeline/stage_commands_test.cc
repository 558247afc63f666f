// What stages hear of a job.

#include "pipeline/stage_commands.h"

#include <gtest/gtest.h>

#include <utility>

#include "model/config.h"
#include "model/model.h"
#include "net/local_ports.h"
#include "plan/policy_sizes.h"

namespace flexgen::stage_commands_test {
namespace {

// Lines of 1 and of 65 tokens: by their means as many pages would be reserved as for 33.
TEST(StageCommands, LaterStagesReserveThePagesOfOneMachine) {
  Workload workload;
  for (int i = 0; i < 40; ++i) workload.add(i % 2 == 0 ? 1 : 65, 1, false, i == 3, {}, {i % 5 == 0 ? 0 : 64, i % 7 == 0 ? 0 : 64});
  LocalPorts ports(2);
  command_stages({&ports.port(0)}, StageCommand::kPrepare, workload);
  const auto [command, heard] = next_command({&ports.port(1)});
  EXPECT_EQ(command, StageCommand::kPrepare);
  ASSERT_EQ(heard.sample.size(), 40u);
  EXPECT_EQ(heard.sample_stride, 1);
  EXPECT_TRUE(heard.sample[3].scored);
  EXPECT_EQ(heard.sample[3].prompt, 65);
  const auto model = Model::of_shape(parse_config(*shape_config_json("smollm2-135m"), "", "smollm2-135m"), DType::kBF16);
  const auto pages_of = [&](const Workload& known) {
    const Policy policy = policy_of_sizes(*model, known, DType::kBF16, 16, 2, 2, 16);
    return std::pair(policy.pages_per_micro_batch, policy.prefix_pages);
  };
  EXPECT_EQ(pages_of(heard), pages_of(workload));
  Workload means = workload;
  means.sample.clear();
  EXPECT_NE(pages_of(means), pages_of(workload));
}

}  // namespace
}  // namespace flexgen::stage_commands_test
