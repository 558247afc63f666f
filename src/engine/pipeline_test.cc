// Pipeline stages change no answer: 1 to 4 ranks as threads of this process, uneven splits, all dtypes, refill, ranks with placements of their own; and what
// happens when one of them fails.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/units.h"
#include "engine/engine.h"
#include "engine/expert_statistics.h"
#include "engine/test_families.h"
#include "generation/grammar_requests.h"
#include "generation/list_source.h"
#include "generation/test_params.h"
#include "io/faulty_file.h"
#include "io/test_folder.h"
#include "model/dummy_checkpoint.h"
#include "model/test_as_gguf.h"
#include "model/test_code_checkpoints.h"
#include "model/test_poisoned_checkpoint.h"
#include "net/local_ports.h"
#include "pipeline/stage_steps.h"

namespace flexgen::pipeline_test {
namespace {

class MapSink : public CompletionSink {
 public:
  void accept(Completion completion) override {
    EXPECT_TRUE(completions.emplace(completion.key, std::move(completion)).second);
    if (on_answer) on_answer();
  }
  std::map<int64_t, Completion> completions;
  std::function<void()> on_answer;
};

const char* kLlama = R"({"model_type": "llama", "hidden_size": 96, "num_hidden_layers": 5, "num_attention_heads": 6,
  "num_key_value_heads": 2, "intermediate_size": 176, "vocab_size": 331, "max_position_embeddings": 256, "hidden_act": "silu",
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})";
const char* kTiedOpt = R"({"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "ffn_dim": 128,
  "vocab_size": 211, "max_position_embeddings": 256, "word_embed_proj_dim": 64, "do_layer_norm_before": true,
  "activation_function": "relu", "eos_token_id": 2, "bos_token_id": 2})";

std::string checkpoint(const std::string& name, const char* config, DType dtype) {
  std::string directory = fmt::format("{}/pipeline-{}-{}", process_folder(), name, dtype_name(dtype));
  ensure_dummy_checkpoint(directory, config, dtype, 23, nullptr);
  return directory;
}

std::vector<Request> random_requests(std::mt19937& random, size_t count) {
  std::vector<Request> requests(count);
  for (size_t i = 0; i < count; ++i) {
    Request& request = requests[i];
    request.key = static_cast<int64_t>(i);
    request.prompt.resize(1 + random() % 60);
    for (int32_t& token : request.prompt) token = static_cast<int32_t>(random() % 200);
    request.params = params_in_turn(random, i);
  }
  return requests;
}

EngineOptions plain_options(const std::string& directory) {
  EngineOptions options;
  options.model_directory = directory;
  options.load_tokenizer = false;
  options.budgets = {256 * kMiB, kGiB};
  options.disk_directory = process_folder();
  options.threads = 1;
  return options;
}

struct Outcome {
  std::map<int64_t, Completion> completions;
  std::vector<RunReport> reports;   ///< a rank
  std::vector<std::string> errors;  ///< a rank: what it threw, or empty
  std::vector<std::pair<int64_t, int64_t>> blocks;
  std::vector<std::array<DType, 4>> types;  ///< a rank: of arithmetic and cache, as it plans and as it runs
  Plan plan;                                ///< the first rank's
};

/// A thread a rank. `options` has one entry a rank.
Outcome run(std::vector<EngineOptions> options, const std::vector<Request>& requests, const std::atomic<bool>* stop = nullptr,
            std::optional<Workload> workload = {}, std::function<void()> on_answer = nullptr) {
  const auto count = static_cast<int>(options.size());
  LocalPorts ports(count);
  Outcome outcome;
  outcome.reports.resize(options.size());
  outcome.errors.resize(options.size());
  outcome.blocks.resize(options.size());
  outcome.types.resize(options.size());
  MapSink sink;
  sink.on_answer = std::move(on_answer);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < count; ++rank)
    threads.emplace_back([&, rank] {
      const auto index = static_cast<size_t>(rank);
      try {
        if (count > 1) options[index].stages.port = &ports.port(rank);
        Engine engine(options[index]);
        outcome.blocks[index] = engine.blocks();
        outcome.types[index] = {engine.precision().compute, engine.compute_dtype(), engine.precision().kv, engine.kv_dtype()};
        if (rank > 0) {
          outcome.reports[index] = engine.follow();
          return;
        }
        engine.prepare(workload.value_or(workload_of(requests)));
        outcome.plan = engine.plan();
        ListSource source(requests);
        std::atomic<bool> never{false};
        outcome.reports[index] = engine.run(source, sink, stop ? *stop : never);
        engine.dismiss();
      } catch (const std::exception& error) {
        outcome.errors[index] = error.what();
        ports.port(rank).abort(fmt::format("{}: {}", ports.port(rank).describe(rank), error.what()));
      }
    });
  for (std::thread& thread : threads) thread.join();
  outcome.completions = std::move(sink.completions);
  return outcome;
}

void expect_same(const std::map<int64_t, Completion>& expected, const std::map<int64_t, Completion>& actual, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (const auto& [key, completion] : expected) {
    const Completion& other = actual.at(key);
    EXPECT_EQ(other.tokens, completion.tokens) << what << " request " << key;
    EXPECT_EQ(other.reason, completion.reason) << what << " request " << key;
    EXPECT_EQ(other.stop_token, completion.stop_token) << what << " request " << key;
    EXPECT_EQ(other.text, completion.text) << what << " request " << key;
    EXPECT_EQ(other.failed_position, completion.failed_position) << what << " request " << key;
    ASSERT_EQ(other.logprobs.size(), completion.logprobs.size()) << what << " request " << key;
    for (size_t i = 0; i < completion.logprobs.size(); ++i) {
      EXPECT_EQ(other.logprobs[i].logprob, completion.logprobs[i].logprob) << what << " request " << key;
      EXPECT_EQ(other.logprobs[i].top, completion.logprobs[i].top) << what << " request " << key;
    }
    ASSERT_EQ(other.logprobs.size(), completion.logprobs.size()) << what << " request " << key;
    for (size_t i = 0; i < completion.logprobs.size(); ++i) EXPECT_EQ(other.logprobs[i].top, completion.logprobs[i].top) << what << " request " << key;
    ASSERT_EQ(other.prompt_logprobs.size(), completion.prompt_logprobs.size()) << what << " request " << key;
    for (size_t i = 1; i < completion.prompt_logprobs.size(); ++i)
      EXPECT_EQ(other.prompt_logprobs[i].logprob, completion.prompt_logprobs[i].logprob) << what << " request " << key;
  }
}

Fractions random_fractions(std::mt19937& random) {
  switch (random() % 4) {
    case 0: return {0, 1, 0};
    case 1: return {0, 0, 1};
    default: {
      double cpu = static_cast<double>(random() % 101) / 100;
      return {0, cpu, 1 - cpu};
    }
  }
}

/// Ranks with random splits and placements against one process.
void pipeline(const char* name, const char* config, DType dtype, int rounds, unsigned seed, const std::string& weight_dtype = "auto",
              const std::string& kv_dtype = "auto", const std::string& backend = "cpu", double sparsity = 1, bool grammars = false) {
  EngineOptions plain = plain_options(checkpoint(name, config, dtype));
  plain.weight_dtype = weight_dtype;
  plain.kv_cache_dtype = kv_dtype;
  plain.backend = backend;
  plain.attention_sparsity = sparsity;
  const bool is_mixture = parse_config(config, "", name).is_mixture();
  static int runs = 0;  // of this process: models of one name may differ
  const std::string counts = fmt::format("{}/pipeline-experts-{}.json", process_folder(), ++runs);
  if (is_mixture) {
    plain.policy.max_choosing_rows = 0;
    plain.expert_statistics_file = counts;
  }
  std::mt19937 random(seed);
  auto requests = random_requests(random, 21);
  if (grammars) {
    const ModelConfig model = parse_config(config, "", name);
    write_ascii_tokenizer(plain.model_directory, static_cast<int32_t>(model.vocab_size), model.eos.front());
    plain.load_tokenizer = true;
    with_grammars(requests);
  }
  const auto expected = run({plain}, requests);
  ASSERT_EQ(expected.errors[0], "");
  const ModelConfig parsed = parse_config(config, "", name);
  const int64_t blocks = parsed.num_layers;
  for (int round = 0; round < rounds; ++round) {
    const int64_t ranks = 2 + round % 3;
    std::vector<EngineOptions> options(static_cast<size_t>(ranks), plain);
    std::vector<int64_t> split(static_cast<size_t>(ranks), 1);
    for (int64_t left = blocks - ranks; left > 0; --left) ++split[random() % static_cast<uint64_t>(ranks)];
    const int64_t batches = ranks + static_cast<int64_t>(random() % 4), batch_size = 1 + static_cast<int64_t>(random() % 4);
    for (EngineOptions& own : options) {
      own.stage_split = fmt::format("{}", fmt::join(split, ":"));
      if (round % 4 == 3) own.stage_split.clear();
      own.policy.micro_batch_size = batch_size;
      own.policy.num_micro_batches = batches;
      own.policy.buffers = 1 + static_cast<int>(random() % 4);
      own.policy.weight_buffers = *own.policy.buffers + static_cast<int>(random() % 3) * 2;
      own.policy.weights = random_fractions(random);
      own.policy.kv_cache = random_fractions(random);
      own.policy.activations = random_fractions(random);
      // Each rank as it likes: all experts, those that are chosen, or by the rows.
      if (parsed.is_mixture()) own.policy.max_choosing_rows = std::array{int64_t{0}, std::numeric_limits<int64_t>::max(), int64_t{6}}[random() % 3];
    }
    const ExpertCounts counted = is_mixture ? read_expert_counts(counts, parsed) : ExpertCounts{};
    const std::string what = fmt::format("{} round {}: stages {} of {} x {}", name, round, options[0].stage_split, batches, batch_size);
    const Outcome outcome = run(options, requests);
    for (const std::string& error : outcome.errors) ASSERT_EQ(error, "") << what;
    expect_same(expected.completions, outcome.completions, what);
    int64_t next = 0;
    for (size_t rank = 0; rank < options.size(); ++rank) {
      EXPECT_EQ(outcome.blocks[rank].first, next);
      next += outcome.blocks[rank].second;
      EXPECT_EQ(outcome.reports[rank].work.steps, outcome.reports[0].work.steps);
      EXPECT_EQ(outcome.reports[rank].work.rows, outcome.reports[0].work.rows);
    }
    EXPECT_EQ(next, blocks);
    if (is_mixture) {  // each stage adds its own blocks' choices, and as many as one process has
      const ExpertCounts now = read_expert_counts(counts, parsed);
      for (size_t block = 0; block < now.size(); ++block)
        for (size_t expert = 0; expert < now[block].size(); ++expert)
          EXPECT_EQ(now[block][expert] * (round + 1), counted[block][expert] * (round + 2)) << what << " block " << block;
    }
    if (testing::Test::HasFailure()) return;
  }
}

/// Masks go to the stage that chooses, and a dead end is told back.
TEST(Pipeline, Grammars) {
  if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
  pipeline("grammars", kLlama, DType::kBF16, 6, 12, "auto", "auto", "cpu", 1, true);
}

/// Blocks that differ: a stage must know which of the model's it has.
const char* kWindowsAndAngles = R"({"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4, "head_dim": 16,
  "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 331, "max_position_embeddings": 256, "sliding_window": 9, "sliding_window_pattern": 3,
  "query_pre_attn_scalar": 16, "eos_token_id": 5, "bos_token_id": 1})";
TEST(Pipeline, BlocksThatDiffer) { pipeline("gemma3", kWindowsAndAngles, DType::kBF16, 6, 9); }

class FamilyPipeline : public testing::TestWithParam<const char*> {
 protected:
  std::string config_ = config_of_family(GetParam());
};
TEST_P(FamilyPipeline, TwoStages) { pipeline(GetParam(), config_.c_str(), DType::kBF16, 1, 71); }
TEST_P(FamilyPipeline, TwoStagesInt4WeightsAndCache) { pipeline(GetParam(), config_.c_str(), DType::kBF16, 1, 72, "int4", "int4"); }
INSTANTIATE_TEST_SUITE_P(Families, FamilyPipeline, testing::ValuesIn(kFamilies), family_of);

/// Blocks of several layers: stages are cut between blocks, and what a block's experts need does not leave its stage.
const char* kMixture =
    R"({"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 4, "head_dim": 16, "num_key_value_heads": 2, "intermediate_size": 96,
  "moe_intermediate_size": 48, "num_experts": 6, "num_experts_per_tok": 2, "mlp_only_layers": [2], "norm_topk_prob": true, "vocab_size": 331, "max_position_embeddings": 256,
  "eos_token_id": 5, "bos_token_id": 1})";
TEST(Pipeline, Experts) { pipeline("qwen3_moe", kMixture, DType::kBF16, 8, 10); }
TEST(Pipeline, ExpertsInt4) { pipeline("qwen3_moe", kMixture, DType::kBF16, 4, 11, "int4", "int4"); }
/// A stage that ends in experts sends a micro-batch's rows on after the last unit that it visits.
TEST(Pipeline, ManyUnits) {
  pipeline(
      "many-units",
      R"({"model_type": "olmoe", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 56, "num_experts": 12,
    "num_experts_per_tok": 2, "vocab_size": 331, "max_position_embeddings": 256, "eos_token_id": 5, "bos_token_id": 1})",
      DType::kBF16, 12, 12);
}

/// Blocks that end in a layer that joins what experts made, and differ in their heads.
TEST(Pipeline, JoinedExperts) {
  pipeline(
      "gemma4",
      R"({"model_type": "gemma4_text", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16, "global_head_dim": 32, "num_key_value_heads": 2,
    "num_global_key_value_heads": 1, "attention_k_eq_v": true, "hidden_size_per_layer_input": 0, "intermediate_size": 96, "moe_intermediate_size": 40, "enable_moe_block": true,
    "num_experts": 6, "top_k_experts": 2, "sliding_window": 9, "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"], "vocab_size": 331,
    "max_position_embeddings": 256, "eos_token_id": 5, "bos_token_id": 1})",
      DType::kBF16, 8, 14);
}

/// What prompts have in common is computed once on all stages.
void pipeline_sharing(const char* name, const char* config, DType dtype, int rounds, unsigned seed, const std::string& kv_dtype = "auto", double sparsity = 1) {
  EngineOptions plain = plain_options(checkpoint(name, config, dtype));
  plain.kv_cache_dtype = kv_dtype;
  plain.attention_sparsity = sparsity;
  std::mt19937 random(seed);
  for (int round = 0; round < rounds; ++round) {
    auto requests = related_requests(random, 14, 64);
    const auto expected = run({plain}, requests);
    ASSERT_EQ(expected.errors[0], "");
    const Workload workload = share_prefixes(requests, 64);
    ASSERT_GT(workload.total_shared_tokens, 0);
    std::vector<EngineOptions> options(static_cast<size_t>(2 + round % 2), plain);
    const int64_t batches = std::ssize(options) + static_cast<int64_t>(random() % 3), batch_size = 1 + static_cast<int64_t>(random() % 4);
    for (EngineOptions& own : options) {
      own.policy.micro_batch_size = batch_size;
      own.policy.num_micro_batches = batches;
      own.policy.kv_cache = random_fractions(random);
      if (round % 3 == 2) own.policy.num_micro_batches = own.policy.micro_batch_size = std::nullopt;
    }
    const Outcome outcome = run(options, requests, nullptr, workload);
    for (const std::string& error : outcome.errors) ASSERT_EQ(error, "");
    expect_same(expected.completions, outcome.completions, fmt::format("{} round {}", name, round));
    EXPECT_GT(outcome.reports[0].shared_prompt_tokens, 0);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Pipeline, Sharing) { pipeline_sharing("llama", kLlama, DType::kBF16, 6, 61); }
/// Stages agree on what layers with a window keep of prefixes.
TEST(Pipeline, SharingWithWindows) { pipeline_sharing("gemma3", kWindowsAndAngles, DType::kBF16, 6, 63); }
TEST(Pipeline, SharingInt4Sparse) { pipeline_sharing("llama", kLlama, DType::kBF16, 3, 62, "int4", 0.2); }

/// Weights as they are shipped quantized, a block on each rank.
TEST(Pipeline, ShippedFormats) {
  for (const char* name : {"fp8", "fp8-experts", "packed4-zeros", "gptq", "awq", "gpt_oss", "mixed-autoround", "fused-awq"}) {
    SCOPED_TRACE(name);
    EngineOptions plain = plain_options(quantized_checkpoint(name));
    if (std::string_view(name) == "gpt_oss") plain.matmul_dtype = "int8";  // in its experts alone
    std::mt19937 random(12);
    const auto requests = random_requests(random, 9);
    const Outcome expected = run({plain}, requests);
    ASSERT_EQ(expected.errors[0], "");
    for (int round = 0; round < 2; ++round) {
      std::vector<EngineOptions> options(2, plain);
      for (EngineOptions& own : options) own.policy.weights = random_fractions(random);
      const Outcome outcome = run(options, requests);
      for (const std::string& error : outcome.errors) ASSERT_EQ(error, "");
      expect_same(expected.completions, outcome.completions, name);
    }
  }
}

/// Stages, and weights made anew, have other first weights than the whole model: a GGUF's norms are in F32, and an F32 checkpoint's matrices may become int4.
TEST(Pipeline, RanksPlanWithTheTypesThatTheyRunWith) {
  nlohmann::json config = nlohmann::json::parse(kLlama);
  const auto wide = checkpoint("wide", kLlama, DType::kF32);
  TestFolder folder;
  const std::string gguf = folder.put("m.gguf", AsGguf(config, "llama").convert(wide, {}, true));
  std::mt19937 random(13);
  const auto requests = random_requests(random, 40);
  for (const bool is_gguf : {false, true}) {
    SCOPED_TRACE(is_gguf ? "GGUF" : "F32 as int4");
    EngineOptions plain = plain_options(is_gguf ? gguf : wide);
    if (!is_gguf) plain.weight_dtype = "int4";
    plain.policy.kv_cache = Fractions{0, 1, 0};
    // In less all sequences at once have no room.
    plain.budgets.cpu_bytes = 3 * kMiB;
    const Outcome expected = run({plain}, requests);
    ASSERT_EQ(expected.errors[0], "");
    const Outcome outcome = run({plain, plain}, requests);
    for (const std::string& error : outcome.errors) ASSERT_EQ(error, "");
    const DType own = is_gguf && cpu_has_bf16() ? DType::kBF16 : DType::kF32;
    for (const auto& types : outcome.types) EXPECT_THAT(types, testing::Each(own));
    expect_same(expected.completions, outcome.completions, "two ranks");
  }
}

TEST(Pipeline, Bf16) { pipeline("llama", kLlama, DType::kBF16, 12, 1); }
TEST(Pipeline, F32) { pipeline("llama", kLlama, DType::kF32, 6, 2); }
TEST(Pipeline, TiedF16) { pipeline("opt", kTiedOpt, DType::kF16, 9, 3); }
/// Ranks whose GPUs compute (played by RAM), with three tiers and attention on either side, against one process on the CPU.
TEST(Pipeline, OnDevices) {
  EngineOptions plain = plain_options(checkpoint("llama", kLlama, DType::kBF16));
  std::mt19937 random(41);
  const auto requests = random_requests(random, 21);
  const auto expected = run({plain}, requests);
  ASSERT_EQ(expected.errors[0], "");
  for (int round = 0; round < 6; ++round) {
    const auto ranks = static_cast<size_t>(2 + round % 3);
    std::vector<EngineOptions> options(ranks, plain);
    const int64_t batches = static_cast<int64_t>(ranks) + static_cast<int64_t>(random() % 4), batch_size = 1 + static_cast<int64_t>(random() % 4);
    for (EngineOptions& own : options) {
      own.backend = round == 5 && &own == &options.front() ? "cpu" : "emulated-gpu";
      own.policy.micro_batch_size = batch_size;
      own.policy.num_micro_batches = batches;
      own.policy.buffers = 1 + static_cast<int>(random() % 4);
      own.policy.weight_buffers = *own.policy.buffers + static_cast<int>(random() % 3) * 2;
      if (own.backend == "cpu") continue;
      own.budgets.gpu_bytes = 128 * kMiB;
      own.policy.weights = {0.3, 0.3, 0.4};
      own.policy.activations = random() % 2 ? Fractions{1, 0, 0} : Fractions{0.2, 0.5, 0.3};
      const bool beside = random() % 2 == 0;
      own.policy.attention_tier = beside ? Tier::kCpu : Tier::kGpu;
      own.policy.kv_cache = beside ? Fractions{0, 0.5, 0.5} : Fractions{0.4, 0.3, 0.3};
    }
    const std::string what = fmt::format("round {}: {} ranks, {} x {}", round, ranks, batches, batch_size);
    const Outcome outcome = run(options, requests);
    for (const std::string& error : outcome.errors) ASSERT_EQ(error, "") << what;
    expect_same(expected.completions, outcome.completions, what);
    if (testing::Test::HasFailure()) return;
  }
}
TEST(Pipeline, Reference) { pipeline("opt", kTiedOpt, DType::kBF16, 3, 4, "auto", "auto", "reference"); }
TEST(Pipeline, Int4Weights) { pipeline("llama", kLlama, DType::kBF16, 4, 5, "int4"); }
TEST(Pipeline, Int8WeightsInt4Cache) { pipeline("opt", kTiedOpt, DType::kF16, 4, 6, "int8", "int4"); }
TEST(Pipeline, Int8Cache) { pipeline("llama", kLlama, DType::kBF16, 4, 7, "auto", "int8"); }
TEST(Pipeline, Sparse) { pipeline("llama", kLlama, DType::kBF16, 3, 8, "auto", "int4", "cpu", 0.2); }

TEST(Pipeline, ChoosesOnePolicyForUnequalRanks) {
  EngineOptions plain = plain_options(checkpoint("llama", kLlama, DType::kBF16));
  std::mt19937 random(9);
  const auto requests = random_requests(random, 40);
  const auto expected = run({plain}, requests);
  std::vector<EngineOptions> options(3, plain);
  options[1].budgets.cpu_bytes = 3 * kMiB;
  options[2].budgets.cpu_bytes = 6 * kMiB;
  const Outcome outcome = run(options, requests);
  for (const std::string& error : outcome.errors) ASSERT_EQ(error, "");
  expect_same(expected.completions, outcome.completions, "unequal budgets");
}

TEST(Pipeline, TriesBlocksAndPredicts) {
  EngineOptions plain = plain_options(checkpoint("llama", kLlama, DType::kBF16));
  std::mt19937 random(14);
  const auto requests = random_requests(random, 60);
  const auto expected = run({plain}, requests);
  for (const char* planner : {"search", "first-rule"}) {
    std::vector<EngineOptions> options(2, plain);
    for (EngineOptions& own : options) own.planner = planner;
    const Outcome outcome = run(options, requests);
    for (const std::string& error : outcome.errors) ASSERT_EQ(error, "");
    expect_same(expected.completions, outcome.completions, planner);
    EXPECT_GT(outcome.plan.prediction.time_s, 0);
    EXPECT_GT(outcome.plan.prediction.busy[LaneKind::kCompute], 0);
    if (planner == std::string("first-rule")) EXPECT_EQ(outcome.plan.candidates.size(), 1u);
    else EXPECT_GT(outcome.plan.candidates.size(), 2u);
    for (const Candidate& candidate : outcome.plan.candidates) EXPECT_LE(0.99 * outcome.plan.prediction.time_s, candidate.time_s);
  }
}

TEST(Pipeline, ASlowerRankGetsFewerLayers) {
  std::mt19937 random(15);
  const auto requests = random_requests(random, 5);
  for (size_t slow : {size_t{0}, size_t{1}}) {
    std::vector<EngineOptions> options(2, plain_options(checkpoint("llama", kLlama, DType::kBF16)));
    for (size_t rank : {size_t{0}, size_t{1}})
      options[rank].learn_hardware = [rank, slow](Engine& engine) { engine.set_hardware(HardwareProfile::uniform(rank == slow ? 1e9 : 4e9, 1e10, 1e9, 1e9)); };
    const Outcome outcome = run(options, requests);
    for (const std::string& error : outcome.errors) ASSERT_EQ(error, "");
    EXPECT_EQ(outcome.blocks[slow].second, 1);
    EXPECT_EQ(outcome.blocks[1 - slow].second, 4);
  }
}

TEST(Pipeline, DifferentPlannersAreRefused) {
  std::mt19937 random(16);
  std::vector<EngineOptions> options(2, plain_options(checkpoint("llama", kLlama, DType::kBF16)));
  options[1].planner = "first-rule";
  for (const std::string& error : run(options, random_requests(random, 4)).errors) EXPECT_THAT(error, testing::HasSubstr("--planner"));
}

TEST(Pipeline, TooSmallABudgetIsRefusedByAllAndNamed) {
  std::mt19937 random(10);
  const auto requests = random_requests(random, 10);
  std::vector<EngineOptions> options(3, plain_options(checkpoint("llama", kLlama, DType::kBF16)));
  options[1].budgets.cpu_bytes = 64 * kKiB;
  const Outcome outcome = run(options, requests);
  for (const std::string& error : outcome.errors) {
    EXPECT_THAT(error, testing::HasSubstr("rank 1"));
    EXPECT_THAT(error, testing::HasSubstr("smallest budget"));
  }
}

TEST(Pipeline, FewerMicroBatchesThanStagesIsRefused) {
  std::mt19937 random(11);
  std::vector<EngineOptions> options(2, plain_options(checkpoint("llama", kLlama, DType::kBF16)));
  for (EngineOptions& own : options) own.policy.num_micro_batches = 1;
  for (const std::string& error : run(options, random_requests(random, 4)).errors) EXPECT_THAT(error, testing::HasSubstr("--num-micro-batches 1"));
}

// The stage with the head finds it, and the first one ends the answers.
TEST(Pipeline, LogitsThatAreNotFiniteEndTheirAnswersAlone) {
  const std::string clean = checkpoint("llama", kLlama, DType::kBF16), bad = process_folder() + "/pipeline-nan";
  poison_checkpoint(clean, bad, "model.embed_tokens.weight", std::nanf(""), [](int64_t i) { return i == 300 * 96; });
  std::mt19937 random(17);
  auto requests = random_requests(random, 12);
  for (Request& request : requests)
    if (request.key % 3 == 1) request.prompt.back() = 300;
  const Outcome expected = run({plain_options(clean)}, requests), found = run(std::vector<EngineOptions>(3, plain_options(bad)), requests);
  ASSERT_EQ(found.completions.size(), requests.size());
  for (const auto& [key, completion] : found.completions) {
    if (key % 3 == 1 && (requests[static_cast<size_t>(key)].params.max_tokens > 0)) {
      EXPECT_EQ(completion.reason, FinishReason::kNotFinite) << key;
    } else {
      EXPECT_EQ(completion.tokens, expected.completions.at(key).tokens) << key;
      EXPECT_EQ(completion.reason, expected.completions.at(key).reason) << key;
    }
  }
}

TEST(Pipeline, AStopEndsAllStages) {
  std::mt19937 random(12);
  const auto requests = random_requests(random, 30);
  std::vector<EngineOptions> options(3, plain_options(checkpoint("llama", kLlama, DType::kBF16)));
  for (EngineOptions& own : options) own.policy.micro_batch_size = 1;
  std::atomic<bool> stop{true};  // before the first step: nothing is answered, nobody hangs
  const Outcome outcome = run(options, requests, &stop);
  for (const std::string& error : outcome.errors) EXPECT_EQ(error, "");
  EXPECT_TRUE(outcome.reports[0].stopped);
  EXPECT_TRUE(outcome.completions.empty());
}

// Its weights are its own: no other rank can see that they change.
TEST(Pipeline, AWriteToALaterStagesFilesEndsTheJobAtItsNextStep) {
  const std::string clean = checkpoint("llama", kLlama, DType::kBF16), copy = process_folder() + "/pipeline-written";
  std::filesystem::copy(clean, copy);
  std::mt19937 random(14);
  const auto requests = random_requests(random, 40);
  std::vector<EngineOptions> options(2, plain_options(clean));
  for (EngineOptions& own : options) own.policy.micro_batch_size = 2;
  options[1].model_directory = copy;
  const std::filesystem::path weights = copy + "/model.safetensors";
  const Outcome outcome = run(options, requests, nullptr, {},
                              [&] { std::filesystem::last_write_time(weights, std::filesystem::last_write_time(weights) + std::chrono::seconds(1)); });
  for (const std::string& error : outcome.errors) EXPECT_THAT(error, testing::HasSubstr("was written to while it was in use"));
  EXPECT_GT(outcome.completions.size(), 0u);
  EXPECT_LT(outcome.completions.size(), requests.size() / 2);
}

TEST(Pipeline, AFailureOfAnyRankEndsAllAndIsNamed) {
  std::mt19937 random(13);
  const auto requests = random_requests(random, 20);
  for (size_t bad : {size_t{0}, size_t{1}, size_t{2}}) {
    std::vector<EngineOptions> options(3, plain_options(checkpoint("llama", kLlama, DType::kBF16)));
    auto faults = std::make_shared<FaultPlan>();
    faults->add({FileOperation::kRead, EIO, 0, "", 0, Fault::kForever, 40});
    FaultyFileSystem files(faults);
    for (EngineOptions& own : options) own.policy.kv_cache = own.policy.weights = Fractions{0, 0, 1};
    options[bad].files = &files;
    const Outcome outcome = run(options, requests);
    EXPECT_GT(faults->injected(), 0);
    for (const std::string& error : outcome.errors) EXPECT_THAT(error, testing::HasSubstr("Input/output error")) << "rank " << bad;
  }
}

/// A budget of nine tenths of what is free, of a disk that prepared weights are written to then: what spills would not fit beside them.
TEST(Pipeline, TheDiskIsLookedAtAgainWhenAllWeightsArePrepared) {
  for (size_t ranks : {1, 2}) {
    TestFolder folder;
    const auto parts = [&] {
      int64_t count = 0;
      for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) count += entry.path().extension() == ".safetensors";
      return count;
    };
    std::vector<int64_t> seen(ranks);
    std::vector<EngineOptions> options(ranks, plain_options(checkpoint("llama", kLlama, DType::kBF16)));
    for (size_t rank = 0; rank < ranks; ++rank) {
      options[rank].weight_dtype = "int8";
      options[rank].disk_directory = folder.path().string();
      options[rank].policy.kv_cache = Fractions{0, 0, 1};
      options[rank].usual_disk_bytes = [&, rank]() -> int64_t {
        seen[rank] = parts();
        return kDirectAlignment;
      };
    }
    std::mt19937 random(3);
    const Outcome outcome = run(options, random_requests(random, 4));
    EXPECT_THAT(outcome.errors[0], testing::HasSubstr("of disk for spilled cache")) << ranks;
    EXPECT_GT(parts(), 1);
    for (int64_t count : seen) EXPECT_EQ(count, parts()) << ranks << ": before all ranks had written theirs";
  }
}

}  // namespace
}  // namespace flexgen::pipeline_test
