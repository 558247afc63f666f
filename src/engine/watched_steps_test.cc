// What is left of a job, and how long its answers will be, from those that are done.

#include "engine/watched_steps.h"

#include <gtest/gtest.h>

#include "generation/list_source.h"
#include "plan/policy_sizes.h"

namespace flexgen::watched_steps_test {
namespace {

TEST(WatchedSteps, TheRestHasAnswersAsLongAsThoseBefore) {
  Workload job;
  for (int i = 0; i < 100; ++i) job.add(50, 64, false, false, 48);
  const Workload known = rest_of(job, 25, 0.25), unknown = rest_of(job, 25, std::nullopt);
  for (const Workload& rest : {known, unknown}) {
    EXPECT_EQ(rest.num_sequences, 25);
    EXPECT_EQ(rest.total_prompt_tokens, 25 * 50);
    EXPECT_EQ(rest.total_max_tokens, 25 * 64);
    EXPECT_EQ(rest.longest_sequence, job.longest_sequence);
  }
  EXPECT_EQ(known.total_generated_tokens, 25 * 16);
  EXPECT_EQ(known.sample.front().generated, 16);
  EXPECT_EQ(unknown.total_generated_tokens, 25 * 48);
  EXPECT_EQ(unknown.sample.front().generated, 48);
}

/// Steps of one micro-batch as if they had been computed.
void do_steps(Batcher& batcher, int64_t* step, int64_t count) {
  for (; count > 0; --count) batcher.next((*step)++, 0);
}

TEST(WatchedSteps, AnswersTellTheirShareOnceThereAreEnough) {
  const auto model = Model::of_shape(parse_config(*shape_config_json("opt-125m"), "", "shape"), DType::kBF16);
  std::vector<Request> requests(200);
  Workload job;
  for (Request& request : requests) {
    request.prompt = {1, 2, 3};
    request.params.max_tokens = 40;
    request.params.temperature = 0;
    request.params.ignore_eos = true;
    request.ends_after = 10;
    job.add(3, 40, false, false);
  }
  const Policy policy = policy_of_sizes(*model, job, DType::kBF16, 20, 1, 1, 60);
  const CacheLayout cache(*model, policy, DType::kBF16);
  ListSource source(requests);
  NoSink sink;
  Batcher batcher(*model, policy, cache, nullptr, {}, source, sink);
  int64_t step = 0;
  do_steps(batcher, &step, 11);
  EXPECT_EQ(batcher.counters().sequences, 20);
  EXPECT_EQ(batcher.answer_share(), std::nullopt);  // fewer than 32
  do_steps(batcher, &step, 10);
  EXPECT_EQ(batcher.counters().sequences, 40);
  EXPECT_EQ(batcher.answer_share(), 0.25);
}

}  // namespace
}  // namespace flexgen::watched_steps_test
