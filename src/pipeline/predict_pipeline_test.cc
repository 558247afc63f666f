#include "pipeline/predict_pipeline.h"

#include <gtest/gtest.h>

#include "base/units.h"
#include "model/dummy_checkpoint.h"
#include "pipeline/stage_plan.h"
#include "pipeline/stage_split.h"

namespace flexgen::predict_pipeline_test {
namespace {

/// Two ranks with half of llama-3.1-8b each, of whose weights some come from disk.
class PredictPipeline : public testing::Test {
 protected:
  PredictPipeline() {
    const ModelConfig config = parse_config(*shape_config_json("llama-3.1-8b"), "", "shape");
    for (int64_t rank : {0, 1}) {
      models_.push_back(Model::of_shape(config, DType::kBF16));
      models_.back()->keep_blocks(16 * rank, 16);
    }
  }
  std::vector<SimulatedRank> ranks(int64_t micro_batch_size, int64_t num_micro_batches) const {
    std::vector<SimulatedRank> ranks;
    for (const auto& model : models_) {
      Policy policy;
      policy.weights = {0, 0.5, 0.5};
      policy.kv_cache = policy.activations = {0, 1, 0};
      policy.micro_batch_size = micro_batch_size;
      policy.num_micro_batches = num_micro_batches;
      policy.num_groups = 2;
      policy.max_rows = 128;
      policy.max_logit_rows = micro_batch_size;
      policy.pages_per_micro_batch = 24 * micro_batch_size;
      ranks.push_back({model.get(), policy, {}, &hardware_, Precision::of(*model, DType::kBF16, DType::kBF16)});
    }
    return ranks;
  }
  static Workload workload(int64_t sequences, int64_t prompt, int64_t generated) {
    Workload workload;
    for (int64_t i = 0; i < sequences; ++i) workload.add(prompt + i % 16, generated + i % 8, false, false);
    return workload;
  }
  std::vector<std::unique_ptr<Model>> models_;
  const HardwareProfile hardware_ = HardwareProfile::generic();
  const std::vector<LinkSpeed> links_{2, LinkSpeed{12.5e6, 10e-3, 65536, 20e-3}};
};

TEST_F(PredictPipeline, PartsSayWhatTheWholeTakes) {
  int checked = 0;
  for (const Workload& job : {workload(400, 100, 16), workload(24, 40, 200)}) {
    const Prediction whole = predict_pipeline(ranks(8, 4), links_, DType::kBF16, job, 1e9),
                     parts = predict_pipeline(ranks(8, 4), links_, DType::kBF16, job, 3000);
    EXPECT_GT(whole.time_s, 0);
    EXPECT_GT(whole.busy[LaneKind::kDiskRead], 0);
    EXPECT_GT(whole.loaded_bytes, 0);
    EXPECT_LT(whole.loaded_bytes, whole.disk_read_bytes);
    EXPECT_EQ(parts.loaded_bytes, whole.loaded_bytes);  // once, however much is simulated
    EXPECT_NEAR(parts.time_s, whole.time_s, 0.1 * whole.time_s);
    EXPECT_NEAR(parts.busy[LaneKind::kDiskRead], whole.busy[LaneKind::kDiskRead], 0.1 * whole.busy[LaneKind::kDiskRead]);
    ++checked;
  }
  EXPECT_EQ(checked, 2);
}

TEST_F(PredictPipeline, AReplicaTakesItsShareOfTheTime) {
  const Workload all = workload(400, 100, 16);
  Workload half = all;  // as replicas have it: the lengths of all
  half.num_sequences /= 2;
  for (double* total : {&half.total_prompt_tokens, &half.total_max_tokens, &half.total_generated_tokens}) *total /= 2;
  const double whole_s = predict_pipeline(ranks(8, 4), links_, DType::kBF16, all, 1e9).time_s;
  for (double most_visits : {1e9, 3000.0})
    EXPECT_NEAR(predict_pipeline(ranks(8, 4), links_, DType::kBF16, half, most_visits).time_s, whole_s / 2, 0.1 * whole_s);
}

TEST_F(PredictPipeline, AnswersMayEndBeforeTheirMaxTokens) {
  Workload early;
  for (const SequenceLength& length : workload(400, 100, 16).sample) early.add(length.prompt, length.max_tokens + 24, false, false, length.generated);
  const Workload all = workload(400, 100, 16);
  for (double most_visits : {1e9, 3000.0}) {
    const Prediction ends = predict_pipeline(ranks(8, 4), links_, DType::kBF16, early, most_visits),
                     same = predict_pipeline(ranks(8, 4), links_, DType::kBF16, all, most_visits);
    // The same tokens: only the pages differ that nobody writes, and so which of the others are on disk.
    EXPECT_NEAR(ends.time_s, same.time_s, 0.1 * same.time_s);
    EXPECT_EQ(ends.generated_tokens, all.total_generated_tokens);
  }
}

TEST_F(PredictPipeline, ASampleStandsForAll) {
  Workload all = workload(320, 100, 16), sample = all;
  sample.sample.clear();
  for (size_t i = 0; i < all.sample.size(); i += 2) sample.sample.push_back(all.sample[i]);
  sample.sample_stride = 2;
  const Prediction whole = predict_pipeline(ranks(8, 4), links_, DType::kBF16, all), part = predict_pipeline(ranks(8, 4), links_, DType::kBF16, sample);
  EXPECT_NEAR(part.time_s, whole.time_s, 0.1 * whole.time_s);
}

TEST_F(PredictPipeline, CandidatesHaveAsManySlotsAndHonourTheRequest) {
  const Workload job = workload(400, 100, 16);
  BlockShape agreed = ranks(8, 4).front().policy.block();
  bool more = false;
  for (const BlockShape& shape : block_candidates(*models_[0], job, DType::kBF16, {}, agreed, 2)) {
    EXPECT_GE(shape.micro_batch_size * shape.num_micro_batches, 32);
    EXPECT_LT((shape.micro_batch_size - 1) * shape.num_micro_batches, 32);
    EXPECT_TRUE(shape.num_groups == 2 || shape.num_groups == shape.num_micro_batches);
    more = more || shape.num_micro_batches == 8;
  }
  EXPECT_TRUE(more);
  PolicyRequest request;
  request.micro_batch_size = 8;
  request.num_micro_batches = 4;
  request.max_rows = 128;
  const auto fixed = block_candidates(*models_[0], job, DType::kBF16, request, agreed, 2);
  EXPECT_EQ(fixed.front(), agreed);
  EXPECT_EQ(fixed.size(), 2u);  // in two groups, and in four
  for (const BlockShape& shape : fixed) EXPECT_EQ(shape.micro_batch_size * 1000 + shape.num_micro_batches * 100000 + shape.max_rows, 408128);
}

}  // namespace
}  // namespace flexgen::predict_pipeline_test
