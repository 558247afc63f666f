// What is not chosen is not moved: the bytes of experts that small blocks read, by the counters of the disk lane, for some families and units of one and of several experts.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/units.h"
#include "engine/engine.h"
#include "engine/expert_statistics.h"
#include "generation/list_source.h"
#include "io/faulty_file.h"
#include "io/test_folder.h"
#include "model/dummy_checkpoint.h"
#include "pipeline/simulate.h"

namespace flexgen::chosen_experts_test {
namespace {

constexpr int64_t kAll = 0, kChosen = std::numeric_limits<int64_t>::max();

struct Shape {
  const char* family;
  int64_t expert_size, experts_a_unit;
  friend std::ostream& operator<<(std::ostream& out, const Shape& of) { return out << of.family << ", units of " << of.experts_a_unit; }
};

/// The family's golden fixture with matrices of whole sectors, and 32 experts of which a row uses 2.
std::string config_of(const Shape& shape) {
  std::ifstream in(std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/" + shape.family + "/config.json");
  nlohmann::json config = nlohmann::json::parse(in);
  config.update({{"hidden_size", 256},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"num_hidden_layers", 3},
                 {config.contains("top_k_experts") ? "top_k_experts" : "num_experts_per_tok", 2},
                 {"vocab_size", 331},
                 {"max_position_embeddings", 256}});
  const bool has_own_size = config.contains("moe_intermediate_size");
  if (has_own_size) config["head_dim"] = 64;
  config[has_own_size ? "moe_intermediate_size" : "intermediate_size"] = shape.expert_size;
  config[config.contains("num_local_experts") ? "num_local_experts" : "num_experts"] = 32;
  return config.dump();
}

class MapSink : public CompletionSink {
 public:
  void accept(Completion completion) override { tokens[completion.key] = completion.tokens; }
  std::map<int64_t, std::vector<int32_t>> tokens;
};

std::vector<Request> requests_of(const std::vector<int64_t>& max_tokens, int64_t prompt_tokens) {
  std::vector<Request> requests(max_tokens.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].key = static_cast<int64_t>(i);
    for (int64_t t = 0; t < prompt_tokens; ++t) requests[i].prompt.push_back(static_cast<int32_t>((37 * i + static_cast<size_t>(11 * t)) % 300));
    requests[i].params.max_tokens = max_tokens[i];
    requests[i].params.temperature = 0;
    requests[i].params.ignore_eos = true;
  }
  return requests;
}

Workload workload_of(const std::vector<Request>& requests) {
  Workload workload;
  for (const Request& request : requests) workload.add(std::ssize(request.prompt), request.params.max_tokens, false, false);
  return workload;
}

double disk_bytes(const RunReport& report) {
  double bytes = 0;
  for (const LaneReport& lane : report.lanes)
    if (lane.kind == LaneKind::kDiskRead) bytes += lane.stats.bytes;
  return bytes;
}

class ChosenExperts : public testing::TestWithParam<Shape> {
 protected:
  struct Outcome {
    std::map<int64_t, std::vector<int32_t>> tokens;
    RunReport report;
    double expert_bytes = 0;  ///< that a pass over all of them reads
    int64_t units = 0;
    double resident_bytes = 0, predicted_bytes = 0;
    bool hottest_first = false;
    /// Of what the disk read, what it read more than once.
    double streamed_bytes() const { return disk_bytes(report) - resident_bytes; }
  };

  Outcome run(const std::vector<Request>& requests, int64_t max_choosing_rows, const Fractions& weights = {0, 0, 1}, int64_t micro_batch_size = 1,
              int64_t num_micro_batches = 1, int buffers = 3) {
    EngineOptions options;
    options.model_directory = fmt::format("{}/chosen-{}-{}", process_folder(), GetParam().family, GetParam().expert_size);
    ensure_dummy_checkpoint(options.model_directory, config_of(GetParam()), DType::kBF16, 29, nullptr);
    options.load_tokenizer = false;
    options.threads = 1;
    options.budgets = {256 * kMiB, kGiB};
    options.disk_directory = process_folder();
    options.files = files_;
    options.policy.weights = weights;
    options.policy.micro_batch_size = micro_batch_size;
    options.policy.num_micro_batches = num_micro_batches;
    options.policy.buffers = buffers;
    options.policy.max_choosing_rows = max_choosing_rows;
    options.expert_skew = skew_;
    options.expert_statistics_file = statistics_;
    options.planner = planner_;
    Engine engine(options);
    engine.prepare(workload_of(requests));
    Outcome outcome;
    const WeightLayout layout(engine.model(), engine.policy());
    for (size_t i = 0; i < layout.layers.size(); ++i) {
      const LayerSpec& layer = engine.model().layers()[i];
      if (layer.kind != LayerKind::kExperts) continue;
      EXPECT_EQ(layer.num_experts, GetParam().experts_a_unit);
      outcome.expert_bytes += static_cast<double>(layout.layers[i].streamed_bytes);
      ++outcome.units;
    }
    outcome.resident_bytes = static_cast<double>(layout.resident_bytes);
    outcome.predicted_bytes = engine.plan().prediction.disk_read_bytes;
    outcome.hottest_first = engine.policy().hottest_first;
    ListSource source(requests);
    MapSink sink;
    outcome.report = engine.run(source, sink, std::atomic<bool>{false});
    outcome.tokens = std::move(sink.tokens);
    return outcome;
  }
  /// Of what all passes read of experts where they load all, the share that is read where they load what is chosen.
  static double share_read(const Outcome& all, const Outcome& chosen) {
    EXPECT_EQ(chosen.tokens, all.tokens);
    EXPECT_EQ(chosen.report.work.steps, all.report.work.steps);
    return 1 - (disk_bytes(all.report) - disk_bytes(chosen.report)) / (static_cast<double>(all.report.work.steps) * all.expert_bytes);
  }

  FileSystem* files_ = nullptr;
  std::optional<double> skew_;
  std::string statistics_;  ///< a file
  std::string planner_ = "search";
  static constexpr double kShare = 2.0 / 32;
};

TEST_P(ChosenExperts, OneSequenceReadsWhatItChooses) {
  const auto requests = requests_of({40}, 1);
  const Outcome all = run(requests, kAll);
  for (int buffers : {1, 2, 3}) {
    const Outcome chosen = run(requests, kChosen, {0, 0, 1}, 1, 1, buffers);
    EXPECT_NEAR(share_read(all, chosen), kShare, 0.05 * kShare) << buffers << " buffers";
    // embed, attention and head in each step, and no more units than experts.
    const int64_t others = std::ssize(Model::of_shape(parse_config(config_of(GetParam()), "", "config.json"), DType::kBF16)->layers()) - chosen.units;
    const int64_t sparse_blocks = chosen.units * GetParam().experts_a_unit / 32;
    EXPECT_LE(chosen.report.work.visits, chosen.report.work.steps * (others + 2 * sparse_blocks));
    EXPECT_NEAR(chosen.report.work.linear_flops / all.report.work.linear_flops, 1, 1e-9) << "the same products";
    // Where all are loaded nobody knows yet which will be chosen: as many as independent rows would choose.
    EXPECT_LE(chosen.report.work.weight_read_bytes, all.report.work.weight_read_bytes * (1 + 1e-9));
  }
}

/// What is in memory is loaded once, whoever is chosen; of the rest what is chosen.
TEST_P(ChosenExperts, OfTheShareOnDisk) {
  const auto requests = requests_of({40}, 1);
  EXPECT_NEAR(share_read(run(requests, kAll, {0, 0.5, 0.5}), run(requests, kChosen, {0, 0.5, 0.5})), kShare, 0.1 * kShare);
}

/// 24 sequences read all that there is for a few steps, and then one goes on alone.
TEST_P(ChosenExperts, TheEndOfAJobReadsLittle) {
  std::vector<int64_t> max_tokens(24, 2);
  max_tokens[7] = 60;
  const auto requests = requests_of(max_tokens, 3);
  EXPECT_LT(share_read(run(requests, kAll, {0, 0, 1}, 8, 3), run(requests, 4, {0, 0, 1}, 8, 3)), 0.14 + kShare);
}

/// Rows that choose at random, in a simulation, read about what real ones do.
TEST_P(ChosenExperts, AreSimulated) {
  const auto requests = requests_of({30, 20, 25}, 2);
  for (int64_t batches : {1, 3}) {
    const Outcome real = run(requests, kChosen, {0, 0, 1}, 3 / batches, batches);
    const auto model = Model::of_shape(parse_config(config_of(GetParam()), "", "config.json"), DType::kBF16);
    Policy policy;
    policy.micro_batch_size = 3 / batches;
    policy.num_micro_batches = batches;
    policy.max_rows = 16;
    policy.max_logit_rows = 16;
    policy.pages_per_micro_batch = 12;
    policy.weights = {0, 0, 1};
    policy.kv_cache = policy.activations = {0, 1, 0};
    policy.max_choosing_rows = kChosen;
    ListSource source(requests);
    const RunReport simulated = simulate(*model, policy, DType::kBF16, MachineSpeeds{}, source);
    EXPECT_NEAR(disk_bytes(simulated) / disk_bytes(real.report), 1, 0.3) << batches;
  }
}

/// Once it was counted which experts are chosen most often, those are in memory, and a small step finds most of its experts there. Answers are the same.
TEST_P(ChosenExperts, TheHottestAreInMemory) {
  const auto requests = requests_of({40, 40}, 2);
  const Fractions half{0, 0.5, 0.5};
  skew_ = 1.2;
  const Outcome uncounted = run(requests, kChosen, half, 2, 1);
  statistics_ = fmt::format("{}/hottest-{}-{}.json", process_folder(), GetParam().family, GetParam().expert_size);
  const Outcome first = run(requests, kChosen, half, 2, 1), second = run(requests, kChosen, half, 2, 1);
  EXPECT_FALSE(first.hottest_first);
  EXPECT_EQ(first.streamed_bytes(), uncounted.streamed_bytes());
  EXPECT_TRUE(second.hottest_first);
  EXPECT_LT(second.streamed_bytes(), 0.6 * first.streamed_bytes());
  for (const Outcome* of : {&first, &second}) {
    EXPECT_EQ(of->tokens, uncounted.tokens);
    // The second is predicted by few counted rows, so that experts which none of them chose are still expected now and then.
    EXPECT_NEAR(of->predicted_bytes / disk_bytes(of->report), 1, of == &first ? 0.15 : 0.5);
  }
  planner_ = "first-rule";
  const Outcome all = run(requests, kAll, half, 1, 2), chosen = run(requests, kChosen, half, 1, 2, 1);
  EXPECT_TRUE(all.hottest_first && chosen.hottest_first);
  EXPECT_EQ(all.tokens, uncounted.tokens);
  EXPECT_EQ(chosen.tokens, uncounted.tokens);
  // Four runs have counted: of each row and sparse block as many experts as it uses.
  const auto model = Model::of_shape(parse_config(config_of(GetParam()), "", "config.json"), DType::kBF16);
  const ExpertCounts counts = read_expert_counts(statistics_, model->config());
  for (int64_t block = 0; block < model->config().num_layers; ++block) {
    const std::vector<int64_t>& own = counts[static_cast<size_t>(block)];
    EXPECT_EQ(std::accumulate(own.begin(), own.end(), int64_t{0}), model->config().is_sparse(block) ? 4 * 2 * uncounted.report.work.rows : 0) << block;
  }
}

/// Drawn experts are hit as often as chances say, by real rows and by imagined ones.
TEST_P(ChosenExperts, SkewIsWhatIsExpected) {
  const auto requests = requests_of({60, 50, 60}, 2);
  skew_ = 1;
  const Outcome real = run(requests, kChosen, {0, 0, 1}, 3, 1);
  const auto model = Model::of_shape(parse_config(config_of(GetParam()), "", "config.json"), DType::kBF16);
  model->draw_experts_by(ExpertChances::zipf(model->config(), 1));
  Policy policy;
  policy.micro_batch_size = 3;
  policy.max_rows = policy.max_logit_rows = 16;
  policy.pages_per_micro_batch = 12;
  policy.weights = {0, 0, 1};
  policy.kv_cache = policy.activations = {0, 1, 0};
  policy.max_choosing_rows = kChosen;
  ListSource source(requests);
  const RunReport simulated = simulate(*model, policy, DType::kBF16, MachineSpeeds{}, source);
  EXPECT_NEAR(disk_bytes(simulated) / disk_bytes(real.report), 1, 0.08);
  EXPECT_NEAR(real.predicted_bytes / disk_bytes(real.report), 1, 0.08);
}

/// The host waits for a layer that fails: it must learn of it.
TEST_P(ChosenExperts, AFailingDiskEndsTheRun) {
  const auto requests = requests_of({40, 30}, 2);
  for (int64_t skip : {30, 60, 90}) {
    auto faults = std::make_shared<FaultPlan>();
    faults->add({FileOperation::kRead, EIO, 0, "", 0, Fault::kForever, skip});
    FaultyFileSystem files(faults);
    files_ = &files;
    EXPECT_THAT(error_of(ErrorKind::kIo, [&] { run(requests, kChosen, {0, 0, 1}, 1, 2); }), testing::HasSubstr("Input/output error"));
    files_ = nullptr;
    EXPECT_GT(faults->injected(), 0);
  }
}

std::string name_of(const testing::TestParamInfo<Shape>& info) {
  std::string name = fmt::format("{}_{}", info.param.family, info.param.experts_a_unit);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Shapes, ChosenExperts,
                         testing::Values(Shape{"olmoe", 256, 1}, Shape{"olmoe", 64, 4}, Shape{"qwen3_moe", 256, 1}, Shape{"qwen3_moe", 64, 4},
                                         Shape{"gemma4-experts", 64, 4}),
                         name_of);

TEST(LoadingOfExperts, IsRefusedWhereThereAreNone) {
  EngineOptions options;
  options.model_directory = process_folder() + "/chosen-dense";
  ensure_dummy_checkpoint(options.model_directory,
                          R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 300, "max_position_embeddings": 256, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})",
                          DType::kBF16, 3, nullptr);
  options.load_tokenizer = false;
  options.budgets = {256 * kMiB, 0};
  options.policy.max_choosing_rows = kChosen;
  for (const char* planner : {"search", "first-rule"}) {
    options.planner = planner;
    Engine engine(options);
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { engine.prepare(workload_of(requests_of({4}, 2))); }),
                testing::HasSubstr("--load-experts: this model (llama) is no mixture of experts"));
  }
}

}  // namespace
}  // namespace flexgen::chosen_experts_test
