// The crown test: no policy changes an answer. Random placements, micro-batches, buffers, refill patterns and ragged
// lengths, all against one plain run.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "backend/cuda_status.h"
#include "base/units.h"
#include "engine/engine.h"
#include "engine/test_families.h"
#include "generation/grammar_requests.h"
#include "generation/list_source.h"
#include "generation/test_params.h"
#include "io/test_folder.h"
#include "model/dummy_checkpoint.h"
#include "model/test_as_gguf.h"
#include "model/test_code_checkpoints.h"
#include "text/regex.h"

namespace flexgen::crown_test {
namespace {

class MapSink : public CompletionSink {
 public:
  void accept(Completion completion) override { EXPECT_TRUE(completions.emplace(completion.key, std::move(completion)).second); }
  std::map<int64_t, Completion> completions;
};

std::string make_checkpoint(const std::string& name, const std::string& config, DType dtype) {
  std::string directory = process_folder() + "/crown-" + name;
  ensure_dummy_checkpoint(directory, config, dtype, 17, nullptr);
  return directory;
}

const char* kLlama = R"({"model_type": "llama", "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6,
  "num_key_value_heads": 2, "intermediate_size": 176, "vocab_size": 331, "max_position_embeddings": 256, "hidden_act": "silu",
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})";
/// Heads that the kernels with dot products take.
const char* kWideHeads = R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 5, "head_dim": 64,
  "num_key_value_heads": 1, "intermediate_size": 96, "vocab_size": 331, "max_position_embeddings": 256, "hidden_act": "silu",
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})";
const char* kOpt = R"({"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128,
  "vocab_size": 211, "max_position_embeddings": 256, "word_embed_proj_dim": 64, "do_layer_norm_before": true,
  "activation_function": "relu", "eos_token_id": 2, "bos_token_id": 2})";

/// Heads so large that a page has 16 tokens: answers move past windows by several pages. Some layers have a window, all have one, or they take turns with sinks.
const char* kSomeWindows =
    R"({"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 128, "num_key_value_heads": 4, "intermediate_size": 96,
  "vocab_size": 331, "max_position_embeddings": 256, "sliding_window": 20, "sliding_window_pattern": 3, "eos_token_id": 5, "bos_token_id": 1})";
const char* kAllWindows =
    R"({"model_type": "mistral", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 128, "num_key_value_heads": 4, "intermediate_size": 96,
  "vocab_size": 331, "max_position_embeddings": 256, "sliding_window": 9, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
  "eos_token_id": 5, "bos_token_id": 1})";

/// The same with pages of two sizes: layers without a window have heads of 512, fewer of them, whose values are the keys; experts beside a dense part.
const char* kOwnHeads =
    R"({"model_type": "gemma4_text", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 128, "global_head_dim": 512, "num_key_value_heads": 4,
  "num_global_key_value_heads": 2, "attention_k_eq_v": true, "hidden_size_per_layer_input": 0, "intermediate_size": 96, "moe_intermediate_size": 40, "enable_moe_block": true,
  "num_experts": 8, "top_k_experts": 2, "sliding_window": 20, "layer_types": ["sliding_attention", "full_attention", "full_attention"], "vocab_size": 331,
  "max_position_embeddings": 256, "eos_token_id": 5, "bos_token_id": 1})";

/// More units than a row chooses experts.
const char* kManyUnits =
    R"({"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16, "num_key_value_heads": 1, "intermediate_size": 96,
  "moe_intermediate_size": 56, "num_experts": 12, "num_experts_per_tok": 2, "mlp_only_layers": [1], "norm_topk_prob": true, "vocab_size": 331, "max_position_embeddings": 256,
  "eos_token_id": 5, "bos_token_id": 1})";

std::vector<Request> random_requests(std::mt19937& random, int64_t vocab) {
  std::vector<Request> requests(4 + random() % 24);
  for (size_t i = 0; i < requests.size(); ++i) {
    Request& request = requests[i];
    request.key = static_cast<int64_t>(i);
    request.prompt.resize(1 + random() % 60);
    for (int32_t& token : request.prompt) token = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab));
    request.params = params_in_turn(random, i);
  }
  return requests;
}

std::map<int64_t, Completion> run(const EngineOptions& options, const std::vector<Request>& requests, const Workload& workload, RunReport* report) {
  Engine engine(options);
  engine.prepare(workload);
  ListSource source(requests);
  MapSink sink;
  std::atomic<bool> stop{false};
  *report = engine.run(source, sink, stop);
  EXPECT_FALSE(report->stopped);
  EXPECT_EQ(report->sequences, static_cast<int64_t>(requests.size()));
  return std::move(sink.completions);
}
std::map<int64_t, Completion> run(const EngineOptions& options, const std::vector<Request>& requests) {
  RunReport report;
  return run(options, requests, workload_of(requests), &report);
}

/// Prompts with much in common, each computed by itself.
/// With more pages than other tests have they end in few places, so that layers with a window keep a part of them.
std::vector<Request> related_requests_of(std::mt19937& random, int64_t page_tokens, int64_t most_pages) {
  return related_requests(random, 8 + random() % 12, page_tokens, most_pages, most_pages > 3);
}

/// The same requests, what they have in common computed once; in a third of the cases with too little room for it.
std::map<int64_t, Completion> run_sharing(const EngineOptions& options, std::vector<Request> requests, int64_t page_tokens, std::mt19937& random,
                                          int64_t* shared_tokens) {
  Workload workload = share_prefixes(requests, page_tokens);
  const double shareable = workload.total_shared_tokens;
  const bool too_little = random() % 3 == 0;
  if (too_little) {
    workload.sample.clear();
    workload.total_prefix_tokens = static_cast<double>(static_cast<int64_t>(1 + random() % 3) * page_tokens);
    workload.total_shared_tokens = 0;
  }
  RunReport report;
  auto completions = run(options, requests, workload, &report);
  int64_t cached = 0, prompt_tokens = 0;
  for (const auto& [key, completion] : completions) cached += completion.cached_tokens;
  for (const Request& request : requests) prompt_tokens += std::ssize(request.prompt);
  EXPECT_EQ(report.prompt_tokens, prompt_tokens);
  EXPECT_EQ(report.shared_prompt_tokens, cached);
  EXPECT_LE(report.shared_prompt_tokens, static_cast<int64_t>(shareable));
  if (!too_little) {
    EXPECT_GE(static_cast<double>(report.shared_prompt_tokens), 0.75 * shareable);  // sequences that take long may hold pages for longer than is planned for
  }
  *shared_tokens += report.shared_prompt_tokens;
  return completions;
}

EngineOptions plain_options(const std::string& directory) {
  EngineOptions options;
  options.model_directory = directory;
  options.load_tokenizer = false;
  options.kept_directory = process_folder();
  options.budgets = {512 * kMiB, 0};
  options.threads = 2;
  return options;
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
    for (size_t i = 0; i < completion.logprobs.size(); ++i) EXPECT_EQ(other.logprobs[i].top, completion.logprobs[i].top) << what << " request " << key;
    ASSERT_EQ(other.prompt_logprobs.size(), completion.prompt_logprobs.size()) << what << " request " << key;
    for (size_t i = 1; i < completion.prompt_logprobs.size(); ++i)
      EXPECT_EQ(other.prompt_logprobs[i].logprob, completion.prompt_logprobs[i].logprob) << what << " request " << key;
  }
}

/// Answers that follow grammars are what these ask for, and nothing but the one grammar that cannot be followed is a dead end.
void expect_grammars_followed(const std::vector<Request>& requests, const std::map<int64_t, Completion>& completions, int64_t* ended) {
  for (const Request& request : requests) {
    const Completion& completion = completions.at(request.key);
    const GrammarSpec* grammar = request.params.grammar.get();
    const bool dead_end = grammar && *grammar == grammars_in_turn()[kDeadEndGrammar] && request.params.max_tokens > 0;
    EXPECT_EQ(completion.reason == FinishReason::kDeadEnd, dead_end) << request.key;
    if (dead_end) {
      EXPECT_EQ(completion.text, "a") << request.key;
      EXPECT_EQ(completion.failed_position, std::ssize(request.prompt) + 1) << request.key;
    }
    if (!grammar || completion.reason != FinishReason::kStop) continue;
    ++*ended;
    const std::string& text = completion.text;
    bool fits = true;
    switch (grammar->kind) {
      case GrammarSpec::Kind::kChoice: fits = std::count(grammar->choices.begin(), grammar->choices.end(), text) == 1; break;
      case GrammarSpec::Kind::kRegex:
        fits = false;
        Regex("\\A(?:" + grammar->text + ")\\z", "test").for_each(text, [&](size_t, size_t) { fits = true; });
        break;
      case GrammarSpec::Kind::kEbnf:
        fits = std::count(text.begin(), text.end(), '(') == std::count(text.begin(), text.end(), ')') && std::count(text.begin(), text.end(), 'x') == 1;
        break;
      default: fits = nlohmann::json::parse(text, nullptr, false).is_object(); break;
    }
    EXPECT_TRUE(fits) << request.key << ": " << text;
  }
}

/// All experts, those that are chosen, or one or the other by a step's rows.
int64_t random_choosing_rows(std::mt19937& random) {
  switch (random() % 4) {
    case 0: return 0;
    case 1: return std::numeric_limits<int64_t>::max();
    default: return static_cast<int64_t>(random() % 40);
  }
}

/// All three tiers.
Fractions random_gpu_fractions(std::mt19937& random) {
  switch (random() % 5) {
    case 0: return {1, 0, 0};
    case 1: return {0, 1, 0};
    case 2: return {0, 0, 1};
    default: {
      const double a = static_cast<double>(random() % 101) / 100, b = static_cast<double>(random() % 101) / 100;
      return {std::min(a, b), std::abs(a - b), 1 - std::max(a, b)};
    }
  }
}

/// A GPU computes, and the processor beside it attends: as asked for, or in half of the cases.
void on_device(const std::string& device, std::optional<Tier> attention, std::mt19937& random, EngineOptions* options) {
  options->backend = device;
  options->budgets.gpu_bytes = 256 * kMiB;
  options->policy.weights = random_gpu_fractions(random);
  options->policy.kv_cache = random_gpu_fractions(random);
  options->policy.activations = random_gpu_fractions(random);
  const bool beside = attention ? *attention == Tier::kCpu : random() % 2 == 0;
  options->policy.attention_tier = beside ? Tier::kCpu : Tier::kGpu;
  Fractions& cache = *options->policy.kv_cache;
  if (beside) cache = {0, cache.gpu + cache.cpu, cache.disk};
}

void crown_of(const std::string& directory, const char* name, DType dtype, int rounds, unsigned seed, const std::string& backend, const std::string& kv_dtype,
              const std::string& weight_dtype, double sparsity, const std::string& rotation, const std::string& matmul_dtype, const std::string& device,
              std::optional<Tier> attention, bool shares, bool grammars = false, int64_t answers_times = 1, int64_t most_shared_pages = 3) {
  std::mt19937 random(seed);
  int64_t shared_tokens = 0, ended = 0;
  for (int round = 0; round < rounds;) {
    const std::unique_ptr<Model> model = Model::load(directory);
    const int64_t page_tokens = CacheLayout::page_tokens(*model, kv_dtype_of(kv_dtype, backend == "reference"                    ? DType::kF32
                                                                                       : dtype == DType::kF32 || !cpu_has_bf16() ? DType::kF32
                                                                                                                                 : DType::kBF16));
    auto requests = shares ? related_requests_of(random, page_tokens, most_shared_pages) : random_requests(random, 200);
    for (Request& request : requests) request.params.max_tokens *= answers_times;
    EngineOptions plain = plain_options(directory);
    if (grammars) {
      write_ascii_tokenizer(directory, static_cast<int32_t>(model->config().vocab_size), model->config().eos.front());
      plain.load_tokenizer = true;
      with_grammars(requests);
    }
    plain.backend = backend;
    plain.kv_cache_dtype = kv_dtype;
    plain.weight_dtype = weight_dtype;
    plain.attention_sparsity = sparsity;
    plain.kv_cache_rotation = rotation;
    plain.matmul_dtype = matmul_dtype;
    const bool is_mixture = model->config().is_mixture();
    if (is_mixture) {
      plain.policy.max_choosing_rows = 0;
      static int count = 0;  // tests of one process have models of the same name
      plain.expert_statistics_file = fmt::format("{}/crown-experts-{}-{}.json", process_folder(), name, count++);  // runs count, and some of them place by it
    }
    if (weight_dtype != "auto") plain.disk_directory = process_folder();
    if (attention) {  // its own tokens, from its own memory
      plain.backend = device;
      plain.policy.attention_tier = attention;
    }
    auto expected = run(plain, requests);
    if (grammars) expect_grammars_followed(requests, expected, &ended);
    for (int i = 0; i < 10 && round < rounds; ++i, ++round) {
      EngineOptions options = plain;
      options.disk_directory = process_folder();
      options.budgets.disk_bytes = kGiB;
      options.threads = 1 + static_cast<int>(random() % 2);
      options.policy.weights = random_fractions(random);
      options.policy.kv_cache = random_fractions(random);
      options.policy.activations = random_fractions(random);
      options.policy.micro_batch_size = 1 + static_cast<int64_t>(random() % 9);
      options.policy.num_micro_batches = 1 + static_cast<int64_t>(random() % 4);
      options.policy.buffers = 1 + static_cast<int>(random() % 4);
      if (random() % 2 == 0) options.policy.weight_buffers = *options.policy.buffers + static_cast<int>(random() % 8);
      if (is_mixture) {
        options.policy.max_choosing_rows = random_choosing_rows(random);
        if (random() % 3 == 0) options.expert_statistics_file.clear();
        else if (random() % 2 == 0) options.planner = "first-rule";  // the hottest experts first, whatever that gains
      }
      if (!device.empty()) on_device(device, attention, random, &options);
      std::string what =
          fmt::format("{} {} round {}: weights {} cache {} {} activations {} micro-batches {} x {} buffers {}, {} of weights, threads {} choosing rows {}{}{}",
                      name, dtype_name(dtype), round, options.policy.weights->to_string(), kv_dtype, options.policy.kv_cache->to_string(),
                      options.policy.activations->to_string(), *options.policy.micro_batch_size, *options.policy.num_micro_batches, *options.policy.buffers,
                      options.policy.weight_buffers.value_or(0), options.threads, options.policy.max_choosing_rows.value_or(0),
                      options.expert_statistics_file.empty() ? "" : " counted, " + options.planner,
                      device.empty()                                 ? ""
                      : *options.policy.attention_tier == Tier::kGpu ? " on " + device
                                                                     : " on " + device + ", attention on the cpu");
      expect_same(expected, shares ? run_sharing(options, requests, page_tokens, random, &shared_tokens) : run(options, requests), what);
      if (testing::Test::HasFailure()) return;
    }
  }
  if (shares) {
    EXPECT_GT(shared_tokens, 0);
  }
  if (grammars) {
    EXPECT_GT(ended, 0);
  }
}

void crown(const char* name, const char* config, DType dtype, int rounds, unsigned seed, const std::string& backend = "cpu",
           const std::string& kv_dtype = "auto", const std::string& weight_dtype = "auto", double sparsity = 1, const std::string& rotation = "none",
           const std::string& matmul_dtype = "auto", const std::string& device = "", std::optional<Tier> attention = std::nullopt, bool shares = false,
           bool grammars = false) {
  const std::string directory = make_checkpoint(fmt::format("{}-{}{}", name, dtype_name(dtype), grammars ? "-grammars" : ""), config, dtype);
  crown_of(directory, name, dtype, rounds, seed, backend, kv_dtype, weight_dtype, sparsity, rotation, matmul_dtype, device, attention, shares, grammars);
}

// 200 policies in all.
TEST(Crown, LlamaBf16) { crown("llama", kLlama, DType::kBF16, 60, 1); }
TEST(Crown, WideHeadsBf16) { crown("wide", kWideHeads, DType::kBF16, 20, 15); }
TEST(Crown, LlamaF32) { crown("llama", kLlama, DType::kF32, 40, 2); }
TEST(Crown, OptF16) { crown("opt", kOpt, DType::kF16, 60, 3); }
TEST(Crown, Reference) { crown("opt", kOpt, DType::kBF16, 20, 4, "reference"); }

// And with compressed caches.
TEST(Crown, Int4Cache) { crown("llama", kLlama, DType::kBF16, 40, 5, "cpu", "int4"); }
TEST(Crown, WideHeadsInt4Cache) { crown("wide", kWideHeads, DType::kBF16, 20, 16, "cpu", "int4"); }
TEST(Crown, WideHeadsInt8Cache) { crown("wide", kWideHeads, DType::kBF16, 20, 20, "cpu", "int8"); }
TEST(Crown, WideHeadsBf16Cache) { crown("wide", kWideHeads, DType::kF32, 20, 21, "cpu", "bf16"); }
TEST(Crown, Int8Cache) { crown("opt", kOpt, DType::kF16, 20, 6, "cpu", "int8"); }
TEST(Crown, Int4Weights) { crown("llama", kLlama, DType::kBF16, 30, 8, "cpu", "auto", "int4"); }
TEST(Crown, Int8WeightsInt4Cache) { crown("opt", kOpt, DType::kF16, 20, 9, "cpu", "int4", "int8"); }
TEST(Crown, Int4WeightsInt4CacheF32) { crown("llama", kLlama, DType::kF32, 20, 10, "cpu", "int4", "int4"); }
TEST(Crown, ReferenceInt4Cache) { crown("llama", kLlama, DType::kBF16, 10, 7, "reference", "int4"); }

class FamilyCrown : public testing::TestWithParam<const char*> {
 protected:
  std::string config_ = config_of_family(GetParam());
};
TEST_P(FamilyCrown, Plain) { crown(GetParam(), config_.c_str(), DType::kBF16, 4, 61); }
TEST_P(FamilyCrown, Int4WeightsAndCache) { crown(GetParam(), config_.c_str(), DType::kBF16, 3, 62, "cpu", "int4", "int4"); }
TEST_P(FamilyCrown, Int8InIntegersSparse) {
  const bool by_distance = !parse_config(config_, "", "config.json").alibi_slopes.empty();  // which are lost among chosen positions
  crown(GetParam(), config_.c_str(), DType::kBF16, 3, 63, "cpu", "int8", "int8", by_distance ? 1 : 0.2, "none", "int8");
}
TEST_P(FamilyCrown, Device) { crown(GetParam(), config_.c_str(), DType::kBF16, 6, 64, "cpu", "auto", "auto", 1, "none", "auto", "emulated-gpu"); }
INSTANTIATE_TEST_SUITE_P(Families, FamilyCrown, testing::ValuesIn(kFamilies), family_of);

// And with weights as they are shipped quantized: the fixtures themselves, and what is made of them.
class QuantizedCrown : public testing::TestWithParam<const char*> {
 protected:
  std::string directory_ = quantized_checkpoint(GetParam());
  void run_crown(int rounds, unsigned seed, const std::string& backend, const std::string& weight_dtype, const std::string& matmul_dtype = "auto",
                 const std::string& device = "", std::optional<Tier> attention = std::nullopt) {
    crown_of(directory_, GetParam(), DType::kBF16, rounds, seed, backend, "auto", weight_dtype, 1, "none", matmul_dtype, device, attention, false);
  }
  void run_on_cuda(const std::string& device, int rounds) {
    for (Tier attention : {Tier::kGpu, Tier::kCpu}) run_crown(rounds, 75, "cpu", "auto", "auto", device, attention);
  }
};
TEST_P(QuantizedCrown, AsTheyLie) { run_crown(10, 71, "cpu", "auto"); }
TEST_P(QuantizedCrown, Reference) { run_crown(3, 72, "reference", "auto"); }
TEST_P(QuantizedCrown, QuantizedAgain) { run_crown(3, 73, "cpu", "int4", "int8"); }
TEST_P(QuantizedCrown, Device) { run_crown(10, 74, "cpu", "auto", "auto", "emulated-gpu"); }
/// Its own kernels, attention on either side; on an emulated block of threads, and where there is one on a GPU.
TEST_P(QuantizedCrown, CudaEmulated) { run_on_cuda("emulated-gpu-cuda", 2); }
/// Those that are multiplied in integers as they lie, beside matrices in 16 bits.
class QuantizedInIntegers : public QuantizedCrown {};
TEST_P(QuantizedInIntegers, AsTheyLie) { run_crown(10, 76, "cpu", "auto", "int8"); }
TEST_P(QuantizedInIntegers, Reference) { run_crown(3, 77, "reference", "auto", "int8"); }
INSTANTIATE_TEST_SUITE_P(Formats, QuantizedInIntegers, testing::Values("mxfp4", "gpt_oss"), family_of);
class QuantizedOnGpu : public QuantizedCrown {};
TEST_P(QuantizedOnGpu, AsTheyLie) {
  if (cuda_status().devices.empty()) GTEST_SKIP() << "needs a GPU: " << cuda_status().problem;
  run_on_cuda("cuda", 5);
}
const auto kFormats =
    testing::Values("fp8", "fp8-experts", "fp8-modelopt", "fp8-channel", "int8-channel", "packed4", "packed4-zeros", "packed4-experts", "packed8", "nvfp4",
                    "mxfp4", "gptq", "gptq8-v2", "awq", "autoround", "gpt_oss", "mixed-gptq", "fused-gptq8-v2", "fused-awq");
INSTANTIATE_TEST_SUITE_P(Formats, QuantizedCrown, kFormats, family_of);
INSTANTIATE_TEST_SUITE_P(Gpu, QuantizedOnGpu, kFormats, family_of);

// And with experts that are loaded as they are chosen, or all.
TEST(Crown, ManyUnits) { crown("many-units", kManyUnits, DType::kBF16, 60, 71); }
TEST(Crown, ManyUnitsF32) { crown("many-units", kManyUnits, DType::kF32, 10, 72); }
TEST(Crown, ManyUnitsInt4WeightsAndCache) { crown("many-units", kManyUnits, DType::kBF16, 20, 73, "cpu", "int4", "int4"); }
TEST(Crown, ManyUnitsSparse) { crown("many-units", kManyUnits, DType::kBF16, 10, 74, "cpu", "auto", "auto", 0.2); }
TEST(Crown, ManyUnitsDevice) { crown("many-units", kManyUnits, DType::kBF16, 20, 77, "cpu", "auto", "auto", 1, "none", "auto", "emulated-gpu"); }
TEST(Crown, ManyUnitsDeviceInt4Weights) { crown("many-units", kManyUnits, DType::kBF16, 10, 78, "cpu", "auto", "int4", 1, "none", "auto", "emulated-gpu"); }
TEST(Crown, ManyUnitsReference) { crown("many-units", kManyUnits, DType::kBF16, 5, 75, "reference"); }

/// And with routers in F32 beside matrices that are computed in bf16, as in every GGUF of a mixture.
void routers_in_f32(int rounds, unsigned seed, const std::string& device = "") {
  nlohmann::json config = nlohmann::json::parse(kManyUnits);
  config.update({{"rms_norm_eps", 1e-6}, {"rope_theta", 10000.0}});
  TestFolder folder;
  const std::string gguf = folder.put("m.gguf", AsGguf(config, "qwen3moe").convert(make_checkpoint("many-units-f32", config.dump(), DType::kF32), {}, true));
  crown_of(gguf, "routers", DType::kBF16, rounds, seed, "cpu", "auto", "auto", 1, "none", "auto", device, std::nullopt, false);
}
TEST(Crown, RoutersInF32) { routers_in_f32(20, 91); }
TEST(Crown, RoutersInF32Device) { routers_in_f32(10, 92, "emulated-gpu"); }

// And with products in integers.
TEST(Crown, Int4WeightsInIntegers) { crown("llama", kLlama, DType::kBF16, 30, 17, "cpu", "int4", "int4", 1, "none", "int8"); }
// Seed 18: a prefetch that took a visit of the last step for one of this aborted here.
TEST(Crown, Int8WeightsInIntegers) { crown("opt", kOpt, DType::kF16, 20, 18, "cpu", "auto", "int8", 1, "none", "int8"); }
TEST(Crown, ReferenceInIntegers) { crown("llama", kLlama, DType::kBF16, 5, 19, "reference", "auto", "int4", 1, "none", "int8"); }

// And with windows that answers move past, whose pages others then have: long ones, in pages of 16 tokens.
struct Windows {
  std::string backend = "cpu", kv_dtype = "auto";
  double sparsity = 1;
  std::string device = "";
  std::optional<Tier> attention = std::nullopt;
  bool shares = false;
  int64_t answers_times = 7;
  int64_t most_shared_pages = 7;  ///< of 16 tokens: layers with a window keep the ends of prefixes alone
};
void crown_windows(const char* name, const char* config, DType dtype, int rounds, unsigned seed, const Windows& o = {}) {
  crown_of(make_checkpoint(fmt::format("{}-{}", name, dtype_name(dtype)), config, dtype), name, dtype, rounds, seed, o.backend, o.kv_dtype, "auto", o.sparsity,
           "none", "auto", o.device, o.attention, o.shares, false, o.answers_times, o.most_shared_pages);
}
TEST(Crown, Windows) { crown_windows("some-windows", kSomeWindows, DType::kBF16, 30, 81); }
TEST(Crown, WindowsF32) { crown_windows("some-windows", kSomeWindows, DType::kF32, 10, 82); }
TEST(Crown, WindowsInAllLayers) { crown_windows("all-windows", kAllWindows, DType::kBF16, 20, 83); }
TEST(Crown, WindowsInt4Cache) { crown_windows("some-windows", kSomeWindows, DType::kBF16, 10, 84, {.kv_dtype = "int4"}); }
TEST(Crown, WindowsSparse) { crown_windows("some-windows", kSomeWindows, DType::kBF16, 10, 85, {.sparsity = 0.3}); }
TEST(Crown, WindowsReference) { crown_windows("all-windows", kAllWindows, DType::kBF16, 5, 86, {.backend = "reference"}); }
TEST(Crown, WindowsSharing) { crown_windows("some-windows", kSomeWindows, DType::kBF16, 20, 87, {.shares = true}); }
TEST(Crown, WindowsInAllLayersSharing) { crown_windows("all-windows", kAllWindows, DType::kBF16, 10, 88, {.shares = true}); }
TEST(Crown, WindowsDevice) { crown_windows("some-windows", kSomeWindows, DType::kBF16, 15, 89, {.device = "emulated-gpu"}); }
TEST(Crown, WindowsSharingOnDevice) { crown_windows("some-windows", kSomeWindows, DType::kBF16, 10, 90, {.device = "emulated-gpu", .shares = true}); }

// And with blocks that have heads of their own.
TEST(Crown, OwnHeads) { crown_windows("own-heads", kOwnHeads, DType::kBF16, 20, 91); }
TEST(Crown, OwnHeadsF32) { crown_windows("own-heads", kOwnHeads, DType::kF32, 10, 92); }
TEST(Crown, OwnHeadsInt4CacheSparse) { crown_windows("own-heads", kOwnHeads, DType::kBF16, 10, 93, {.kv_dtype = "int4", .sparsity = 0.3}); }
TEST(Crown, OwnHeadsInt8Cache) { crown_windows("own-heads", kOwnHeads, DType::kBF16, 10, 94, {.kv_dtype = "int8"}); }
TEST(Crown, OwnHeadsReference) { crown_windows("own-heads", kOwnHeads, DType::kBF16, 5, 95, {.backend = "reference"}); }
TEST(Crown, OwnHeadsSharing) { crown_windows("own-heads", kOwnHeads, DType::kBF16, 15, 96, {.shares = true}); }
TEST(Crown, OwnHeadsSharingOnDevice) { crown_windows("own-heads", kOwnHeads, DType::kBF16, 10, 97, {.device = "emulated-gpu", .shares = true}); }
// A GPU's kernels refuse heads of 512, so the processor attends.
TEST(Crown, OwnHeadsBesideCuda) {
  crown_windows("own-heads", kOwnHeads, DType::kBF16, 2, 98, {.device = "emulated-gpu-cuda", .attention = Tier::kCpu, .answers_times = 1});
}

// And with sparse attention.
TEST(Crown, Sparse) { crown("llama", kLlama, DType::kBF16, 20, 11, "cpu", "auto", "auto", 0.1); }
TEST(Crown, SparseRotatedInt4) { crown("wide", kWideHeads, DType::kBF16, 20, 12, "cpu", "int4", "int4", 0.2, "hadamard"); }
TEST(Crown, SparseF32) { crown("opt", kOpt, DType::kF32, 10, 13, "cpu", "int8", "auto", 0.3); }
TEST(Crown, ReferenceSparse) { crown("opt", kOpt, DType::kBF16, 5, 14, "reference", "auto", "auto", 0.1); }

// And with prefixes that are computed once: the tokens of prompts that are computed one by one.
void crown_sharing(const char* name, const char* config, DType dtype, int rounds, unsigned seed, const std::string& backend = "cpu",
                   const std::string& kv_dtype = "auto", double sparsity = 1, const std::string& device = "", std::optional<Tier> attention = std::nullopt,
                   const std::string& matmul_dtype = "auto") {
  crown(name, config, dtype, rounds, seed, backend, kv_dtype, matmul_dtype == "int8" ? "int4" : "auto", sparsity, "none", matmul_dtype, device, attention,
        true);
}
TEST(Crown, SharingBf16) { crown_sharing("llama", kLlama, DType::kBF16, 40, 51); }
TEST(Crown, SharingWideHeads) { crown_sharing("wide", kWideHeads, DType::kBF16, 20, 52); }
TEST(Crown, SharingF32) { crown_sharing("llama", kLlama, DType::kF32, 20, 53); }
TEST(Crown, SharingOptF16) { crown_sharing("opt", kOpt, DType::kF16, 20, 54); }
TEST(Crown, SharingInt4Cache) { crown_sharing("wide", kWideHeads, DType::kBF16, 20, 55, "cpu", "int4"); }
TEST(Crown, SharingInt8Cache) { crown_sharing("opt", kOpt, DType::kF16, 20, 56, "cpu", "int8"); }
TEST(Crown, SharingSparse) { crown_sharing("llama", kLlama, DType::kBF16, 20, 57, "cpu", "auto", 0.1); }
TEST(Crown, SharingSparseInt4) { crown_sharing("wide", kWideHeads, DType::kBF16, 10, 58, "cpu", "int4", 0.2); }
TEST(Crown, SharingInIntegers) { crown_sharing("llama", kLlama, DType::kBF16, 10, 59, "cpu", "int8", 1, "", std::nullopt, "int8"); }
TEST(Crown, SharingReference) { crown_sharing("opt", kOpt, DType::kBF16, 5, 60, "reference", "int4", 0.3); }
TEST(Crown, SharingWithWindows) {
  for (const char* name : {"gemma2", "gemma3", "gpt_oss"}) crown_sharing(name, config_of_family(name).c_str(), DType::kBF16, 10, 92);
}
TEST(Crown, SharingManyUnits) { crown_sharing("many-units", kManyUnits, DType::kBF16, 10, 76); }
TEST(Crown, SharingOnDevice) { crown_sharing("llama", kLlama, DType::kBF16, 30, 61, "cpu", "auto", 1, "emulated-gpu"); }
TEST(Crown, SharingOnDeviceInt4Sparse) { crown_sharing("wide", kWideHeads, DType::kBF16, 20, 62, "cpu", "int4", 0.2, "emulated-gpu"); }

// And with sequences that follow grammars beside plain ones.
void crown_grammars(const char* name, const char* config, DType dtype, int rounds, unsigned seed, const std::string& backend = "cpu",
                    const std::string& kv_dtype = "auto", bool shares = false, const std::string& device = "", std::optional<Tier> attention = std::nullopt,
                    const std::string& matmul_dtype = "auto") {
  if (const auto why = why_no_grammars()) GTEST_SKIP() << *why;
  crown(name, config, dtype, rounds, seed, backend, kv_dtype, matmul_dtype == "int8" ? "int4" : "auto", 1, "none", matmul_dtype, device, attention, shares,
        true);
}
TEST(Crown, Grammars) { crown_grammars("llama", kLlama, DType::kBF16, 40, 71); }
TEST(Crown, GrammarsF32) { crown_grammars("llama", kLlama, DType::kF32, 20, 72); }
TEST(Crown, GrammarsOptF16Int4Cache) { crown_grammars("opt", kOpt, DType::kF16, 20, 73, "cpu", "int4"); }
TEST(Crown, GrammarsInIntegers) { crown_grammars("llama", kLlama, DType::kBF16, 10, 74, "cpu", "int8", false, "", std::nullopt, "int8"); }
TEST(Crown, GrammarsReference) { crown_grammars("opt", kOpt, DType::kBF16, 10, 75, "reference"); }
TEST(Crown, GrammarsSharing) { crown_grammars("llama", kLlama, DType::kBF16, 20, 76, "cpu", "auto", true); }
TEST(Crown, GrammarsOnDevice) { crown_grammars("llama", kLlama, DType::kBF16, 20, 77, "cpu", "auto", false, "emulated-gpu"); }
TEST(Crown, GrammarsSharingOnDevice) { crown_grammars("opt", kOpt, DType::kF16, 10, 78, "cpu", "auto", true, "emulated-gpu"); }
TEST(Crown, GrammarsDeviceReference) { crown_grammars("opt", kOpt, DType::kBF16, 5, 79, "reference", "auto", false, "emulated-gpu-reference"); }

// And where a GPU computes (played by RAM that nobody else can touch), with three tiers and attention on either side: the tokens of the CPU.
struct OnDevice {
  std::string kv_dtype = "auto", weight_dtype = "auto", rotation = "none";
  double sparsity = 1;
};
void crown_on_device(const char* name, const char* config, DType dtype, int rounds, unsigned seed, const OnDevice& o = {}) {
  crown(name, config, dtype, rounds, seed, "cpu", o.kv_dtype, o.weight_dtype, o.sparsity, o.rotation, "auto", "emulated-gpu");
}
TEST(Crown, DeviceLlamaBf16) { crown_on_device("llama", kLlama, DType::kBF16, 60, 31); }
TEST(Crown, DeviceLlamaF32) { crown_on_device("llama", kLlama, DType::kF32, 20, 32); }
TEST(Crown, DeviceOptF16) { crown_on_device("opt", kOpt, DType::kF16, 40, 33); }
TEST(Crown, DeviceWideHeadsInt4Cache) { crown_on_device("wide", kWideHeads, DType::kBF16, 20, 34, {"int4", "auto", "hadamard", 1}); }
TEST(Crown, DeviceInt4Weights) { crown_on_device("llama", kLlama, DType::kBF16, 20, 35, {"auto", "int4", "none", 1}); }
TEST(Crown, DeviceInt8WeightsInt8CacheSparse) { crown_on_device("opt", kOpt, DType::kF16, 20, 36, {"int8", "int8", "none", 0.2}); }
TEST(Crown, DeviceReference) { crown("opt", kOpt, DType::kBF16, 10, 37, "reference", "auto", "auto", 1, "none", "auto", "emulated-gpu-reference"); }

// And with the GPU's own kernels: on an emulated block of threads, and where there is one, on a GPU. Their sums have another order than the processor's, so each side's
// attention has tokens of its own.
struct CudaCase {
  const char* device;
  Tier attention;
  friend std::ostream& operator<<(std::ostream& out, const CudaCase& of) {
    return out << of.device << ", attention on the " << (of.attention == Tier::kGpu ? "GPU" : "CPU");
  }
};
class CudaCrown : public testing::TestWithParam<CudaCase> {
 protected:
  static bool is_emulated() { return GetParam().device != std::string("cuda"); }
  void SetUp() override {
    if (!is_emulated() && cuda_status().devices.empty()) GTEST_SKIP() << "needs a GPU: " << cuda_status().problem;
  }
  static void run_crown(const char* name, const char* config, DType dtype, unsigned seed, const OnDevice& o = {}) {
    crown(name, config, dtype, is_emulated() ? 3 : 20, seed, "cpu", o.kv_dtype, o.weight_dtype, o.sparsity, o.rotation, "auto", GetParam().device,
          GetParam().attention);
  }
};
TEST_P(CudaCrown, LlamaBf16) { run_crown("llama", kLlama, DType::kBF16, 41); }
TEST_P(CudaCrown, OptF16) { run_crown("opt", kOpt, DType::kF16, 42); }
TEST_P(CudaCrown, WideHeadsInt4Cache) { run_crown("wide", kWideHeads, DType::kBF16, 43, {"int4", "auto", "hadamard", 1}); }
TEST_P(CudaCrown, Int4Weights) { run_crown("llama", kLlama, DType::kBF16, 44, {"auto", "int4", "none", 1}); }
TEST_P(CudaCrown, Int8WeightsInt8CacheSparse) { run_crown("opt", kOpt, DType::kF16, 45, {"int8", "int8", "none", 0.2}); }
TEST_P(CudaCrown, ManyUnits) { run_crown("many-units", kManyUnits, DType::kBF16, 49); }
TEST_P(CudaCrown, ManyUnitsInt4Weights) { run_crown("many-units", kManyUnits, DType::kBF16, 50, {"auto", "int4", "none", 1}); }
TEST_P(CudaCrown, SharingBf16) {
  crown_sharing("llama", kLlama, DType::kBF16, is_emulated() ? 2 : 20, 46, "cpu", "auto", 1, GetParam().device, GetParam().attention);
}
TEST_P(CudaCrown, SharingInt4CacheSparse) {
  crown_sharing("wide", kWideHeads, DType::kBF16, is_emulated() ? 2 : 20, 47, "cpu", "int4", 0.2, GetParam().device, GetParam().attention);
}
TEST_P(CudaCrown, Windows) {
  crown_windows("some-windows", kSomeWindows, DType::kBF16, is_emulated() ? 1 : 20, 91,
                {.device = GetParam().device, .attention = GetParam().attention, .answers_times = 2});
}
TEST_P(CudaCrown, Grammars) {
  crown_grammars("llama", kLlama, DType::kBF16, is_emulated() ? 2 : 20, 48, "cpu", "auto", false, GetParam().device, GetParam().attention);
}
std::string attention_of(const testing::TestParamInfo<CudaCase>& info) {
  return info.param.attention == Tier::kGpu ? "AttentionOnTheGpu" : "AttentionOnTheCpu";
}
INSTANTIATE_TEST_SUITE_P(Emulated, CudaCrown, testing::Values(CudaCase{"emulated-gpu-cuda", Tier::kGpu}, CudaCase{"emulated-gpu-cuda", Tier::kCpu}),
                         attention_of);
INSTANTIATE_TEST_SUITE_P(Gpu, CudaCrown, testing::Values(CudaCase{"cuda", Tier::kGpu}, CudaCase{"cuda", Tier::kCpu}), attention_of);

}  // namespace
}  // namespace flexgen::crown_test
