#include "app/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "app/fake_runner.h"
#include "app/machine.h"
#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

using testing::HasSubstr;

std::variant<Command, CommandText> parse(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return parse_command_line(words);
}
template <typename T>
T parsed(const std::string& line) {
  auto result = parse(line);
  if (auto* text = std::get_if<CommandText>(&result)) {
    ADD_FAILURE() << line << ": " << text->text;
    return {};
  }
  return std::get<T>(std::get<Command>(result));
}
const std::string kBatch = "run-batch --model m -i in -o out ";

TEST(Options, RunBatch) {
  auto options = parsed<RunBatchOptions>(
      kBatch + "--overwrite --cpu-memory 6GiB --disk-dir /tmp --disk-space 1.5TB --disk-bandwidth 500MB --weights 0:40:60 --kv-cache 0:0:100 --activations "
               "0:100:0 --micro-batch-size 8 --num-micro-batches 4 --buffers 2 --backend cpu --compute-dtype bf16 --threads 2 --trace t.json");
  EXPECT_EQ(options.model, "m");
  EXPECT_EQ(options.input, "in");
  EXPECT_EQ(options.output, "out");
  EXPECT_TRUE(options.overwrite);
  EXPECT_EQ(options.engine.cpu_memory_bytes, 6 * kGiB);
  EXPECT_EQ(options.engine.disk_space_bytes, 1500000000000);
  EXPECT_EQ(options.engine.disk_bytes_per_s, 500000000);
  EXPECT_EQ(options.engine.policy.weights, (Fractions{0, 0.4, 0.6}));
  EXPECT_EQ(options.engine.policy.kv_cache, (Fractions{0, 0, 1}));
  EXPECT_EQ(options.engine.policy.activations, (Fractions{0, 1, 0}));
  EXPECT_EQ(options.engine.policy.micro_batch_size, 8);
  EXPECT_EQ(options.engine.policy.num_micro_batches, 4);
  EXPECT_EQ(options.engine.policy.buffers, 2);
  EXPECT_EQ(options.engine.threads, 2);
  EXPECT_EQ(options.engine.compute_dtype, "bf16");
  EXPECT_EQ(options.engine.trace_file, "t.json");
}

TEST(Options, NumbersAreDecimalFiniteAndInRange) {
  for (const char* wrong :
       {"--threads 0x10", "--threads 010", "--threads -1", "--threads 0", "--threads 1e99", "--threads 99999999999999999999", "--threads nan", "--max-rows 9223372036854775807",
        "--micro-batch-size 9223372036854775808", "--attention-sparsity nan", "--attention-sparsity inf", "--attention-sparsity -nan", "--attention-sparsity 0x1p-1", "--rank-timeout nan",
        "--rank-timeout inf", "--rank-timeout 1e400", "--rank-timeout 0", "--cpu-memory 0x10", "--cpu-memory -1GiB", "--cpu-memory 1e30GiB", "--cpu-memory \xef\xbc\x96GiB", "--cpu-memory nan",
        "--cpu-memory inf", "--disk-bandwidth 0", "--disk-bandwidth -5", "--weights 0:40:70", "--weights 0:nan:100", "--weights 0:-10:110", "--weights 0:inf:0", "--expected-tokens 0x10"}) {
    const auto result = parse(kBatch + wrong);
    ASSERT_TRUE(std::holds_alternative<CommandText>(result)) << wrong;
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage) << wrong;
    // The flag's name leads to the mistake.
    EXPECT_THAT(std::get<CommandText>(result).text, HasSubstr(std::string(wrong).substr(0, std::string(wrong).find(' ')))) << wrong;
  }
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--rank-timeout 2.5").team.rank_timeout_s, 2.5);
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--attention-sparsity 1e-1").engine.attention_sparsity, 0.1);
  EXPECT_EQ(parsed<PlanOptions>("plan --model m --seed 18446744073709551615").seed, 18446744073709551615U);
  for (const char* wrong : {"plan --model m --prompt-len 0x10", "plan --model m --prompt-len 99999999999", "plan --model m --seed -1", "generate -m m text --temperature nan",
                            "generate -m m text --top-p nan", "generate -m m text --top-k 1e1", "bench -m m --peers accelerate --peer-batch 8,0x10"})
    EXPECT_TRUE(std::holds_alternative<CommandText>(parse(wrong))) << wrong;
}

TEST(Options, ProductsInIntegersNeedQuantizedWeights) {
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--weight-dtype int4 --disk-dir /tmp --matmul-dtype int8").engine.matmul_dtype, "int8");
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch).engine.matmul_dtype, "auto");
  for (const char* weights : {"", "--weight-dtype bf16 "}) {
    auto result = parse(kBatch + weights + "--matmul-dtype int8");
    ASSERT_TRUE(std::holds_alternative<CommandText>(result)) << weights;
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage);
    EXPECT_THAT(std::get<CommandText>(result).text, HasSubstr("--weight-dtype"));
  }
}

TEST(Options, ListsOfTypesToChooseFrom) {
  const auto options = parsed<RunBatchOptions>(kBatch + "--disk-dir /tmp --weight-dtype bf16,int4 --kv-cache-dtype auto,int8,int4");
  EXPECT_TRUE(options.engine.chooses_dtypes());
  EXPECT_EQ(split_list(options.engine.kv_cache_dtype), (std::vector<std::string>{"auto", "int8", "int4"}));
  EXPECT_FALSE(parsed<RunBatchOptions>(kBatch + "--disk-dir /tmp --weight-dtype int4").engine.chooses_dtypes());
  for (const std::string wrong : {"--weight-dtype bf16,int5", "--weight-dtype bf16,", "--weight-dtype int4,int4", "--kv-cache-dtype bf16,fp16", "--weight-dtype auto,int4 --matmul-dtype int8",
                                  "--weight-dtype auto,int4 --planner first-rule", "--kv-cache-dtype bf16,int4 --shard 0/2", "--kv-cache-dtype bf16,int4 --backend cuda"}) {
    auto result = parse(kBatch + "--disk-dir /tmp " + wrong);
    ASSERT_TRUE(std::holds_alternative<CommandText>(result)) << wrong;
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage) << wrong;
  }
  EXPECT_TRUE(std::holds_alternative<CommandText>(parse("generate --model m text --kv-cache-dtype bf16,int4")));
  EXPECT_TRUE(std::holds_alternative<CommandText>(parse("eval --model m --perplexity f --kv-cache-dtype bf16,int4")));
}

TEST(Options, WhatIsLeftOutIsChosenLater) {
  auto options = parsed<RunBatchOptions>(kBatch);
  EXPECT_FALSE(options.overwrite);
  EXPECT_EQ(options.engine.cpu_memory_bytes, 0);
  EXPECT_FALSE(options.engine.policy.weights || options.engine.policy.kv_cache || options.engine.policy.activations);
  EXPECT_FALSE(options.engine.policy.micro_batch_size || options.engine.policy.num_micro_batches || options.engine.policy.buffers);
}

TEST(Options, Generate) {
  auto result = parse_command_line({"generate", "--model", "m", "Once upon", "--max-tokens", "5", "--temperature", "0.7", "--top-p",
                                    "0.9", "--top-k", "40", "--seed", "3", "--stop", "a b", "--stop", "c"});
  auto options = std::get<GenerateOptions>(std::get<Command>(result));
  EXPECT_EQ(options.prompt, "Once upon");
  EXPECT_EQ(options.params.max_tokens, 5);
  EXPECT_EQ(options.params.temperature, 0.7);
  EXPECT_EQ(options.params.top_p, 0.9);
  EXPECT_EQ(options.params.top_k, 40);
  EXPECT_EQ(options.params.seed, 3u);
  EXPECT_THAT(options.params.stop, testing::ElementsAre("a b", "c"));
  EXPECT_EQ(parsed<GenerateOptions>("generate --model m x").params.temperature, 0);
  // An option between the stops and the prompt must not be swallowed.
  EXPECT_EQ(std::get<GenerateOptions>(std::get<Command>(parse_command_line({"generate", "-m", "m", "--stop", "s", "text"}))).prompt, "text");
}

TEST(Options, ExpectedTokensAreForCommandsWhoseAnswersMayEndEarly) {
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--expected-tokens 40").expected_tokens, 40);
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch).expected_tokens, 0);
  EXPECT_EQ(parsed<PlanOptions>("plan -m m -i in --expected-tokens 40").expected_tokens, 40);
  EXPECT_EQ(parsed<PlanOptions>("plan -m opt-6.7b --gen-len 64:512 --expected-tokens 40").expected_tokens, 40);
  for (const std::string& line : {kBatch + "--expected-tokens 0", kBatch + "--expected-tokens -3", kBatch + "--expected-tokens 1.5", std::string("plan -m m --expected-tokens 0"),
                                  std::string("bench -m m --expected-tokens 40"), std::string("generate -m m x --expected-tokens 40"), std::string("eval -m m --task t --expected-tokens 40")}) {
    auto result = parse(line);
    ASSERT_EQ(result.index(), 1u) << line;
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage);
    EXPECT_THAT(std::get<CommandText>(result).text, HasSubstr("--expected-tokens"));
  }
}

TEST(Options, BenchDoctorInspect) {
  auto bench = parsed<BenchOptions>("bench --model opt-6.7b --load-format dummy --prompt-len 64:512 --gen-len 32 --num-prompts 256 --json f");
  EXPECT_EQ(bench.prompt_len, (std::pair<int64_t, int64_t>{64, 512}));
  EXPECT_EQ(bench.gen_len, (std::pair<int64_t, int64_t>{32, 32}));
  EXPECT_EQ(bench.num_prompts, 256);
  EXPECT_EQ(bench.json_file, "f");
  EXPECT_TRUE(parsed<DoctorOptions>("doctor --json").json);
  EXPECT_EQ(parsed<InspectOptions>("inspect dir").model, "dir");
}

struct Wrong {
  const char *flags, *message;
  friend std::ostream& operator<<(std::ostream& out, const Wrong& wrong) { return out << wrong.flags; }
};
class WrongFlags : public testing::TestWithParam<Wrong> {};
TEST_P(WrongFlags, AreRefused) {
  for (std::string command : {kBatch, std::string("generate -m m x "), std::string("bench -m m "), std::string("eval -m m --task t ")}) {
    auto result = parse(command + GetParam().flags);
    ASSERT_EQ(result.index(), 1u) << command << GetParam().flags;
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage);
    EXPECT_THAT(std::get<CommandText>(result).text, HasSubstr(GetParam().message));
  }
}
INSTANTIATE_TEST_SUITE_P(
    Options, WrongFlags,
    testing::Values(Wrong{"--cpu-memory six", "--cpu-memory"}, Wrong{"--cpu-memory 0", "--cpu-memory"}, Wrong{"--cpu-memory -1GiB", "--cpu-memory"},
                    Wrong{"--gpu-memory 8GiB", "no GPU computes"}, Wrong{"--backend cuda --gpu-memory 0", "--gpu-memory"}, Wrong{"--attention-on cpu", "no GPU computes"},
                    Wrong{"--backend cuda --attention-on cpu --kv-cache 10:90:0", "--attention-on"}, Wrong{"--backend cuda --attention-on disk", "--attention-on"},
                    Wrong{"--weights 50:30:20", "--backend cuda"}, Wrong{"--weights 0:50:60", "--weights"},
                    Wrong{"--weights 0:100", "--weights"}, Wrong{"--kv-cache 0:nan:0", "--kv-cache"}, Wrong{"--activations 100", "--activations"},
                    Wrong{"--kv-cache 0:50:50", "--disk-dir"}, Wrong{"--activations 0:0:100", "--disk-dir"},
                    Wrong{"--disk-space 5GiB", "--disk-dir"}, Wrong{"--disk-bandwidth 0", "--disk-bandwidth"}, Wrong{"--disk-dir /tmp --disk-space x", "--disk-space"}, Wrong{"--micro-batch-size 0", "--micro-batch-size"},
                    Wrong{"--num-micro-batches -1", "--num-micro-batches"}, Wrong{"--buffers 0", "--buffers"}, Wrong{"--buffers 17", "--buffers"},
                    Wrong{"--backend tpu", "tpu"}, Wrong{"--backend reference --compute-dtype bf16", "fp32"}, Wrong{"--compute-dtype int4", "--compute-dtype"},
                    Wrong{"--backend reference --threads 2", "--threads"}, Wrong{"--threads 0", "--threads"}, Wrong{"--threads two", "--threads"}, Wrong{"--attention-sparsity 0", "--attention-sparsity"}, Wrong{"--attention-sparsity 1.5", "--attention-sparsity"},
                    Wrong{"--kv-cache-rotation turn", "--kv-cache-rotation"}, Wrong{"--no-such-flag", "--no-such-flag"}));

TEST(Options, Gpu) {
  auto result = parse("run-batch -m m -i in -o out --backend cuda --gpu-memory 16GiB --weights 20:80:0 --attention-on cpu");
  ASSERT_EQ(result.index(), 0u) << std::get<CommandText>(result).text;
  const EngineFlags& flags = std::get<RunBatchOptions>(std::get<Command>(result)).engine;
  EXPECT_EQ(flags.gpu_memory_bytes, 16 * kGiB);
  EXPECT_EQ(flags.policy.attention_tier, Tier::kCpu);
  EXPECT_EQ(flags.policy.weights, (Fractions{0.2, 0.8, 0}));
  EXPECT_EQ(engine_options(flags, "m").budgets.gpu_bytes, 16 * kGiB);
}

TEST(Options, WrongCommands) {
  for (const char* line : {"", "fly", "run-batch", "run-batch --model m -i in", "run-batch --model m -i - -o out", "generate --model m",
                           "generate -m m x --temperature 3", "generate -m m x --top-p 0", "generate -m m x --max-tokens 0", "inspect",
                           "bench -m m --prompt-len 0", "bench -m m --prompt-len 5:4", "bench -m m --gen-len a", "bench -m m --gen-len 5:", "doctor x",
                           "eval -m m", "eval --task t", "eval -m m --task t --perplexity p", "eval -m m --task t --window 5", "eval -m m --perplexity p --max-tokens 5",
                           "eval -m m --perplexity p --stride 0"}) {
    auto result = parse(line);
    ASSERT_EQ(result.index(), 1u) << line;
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage) << line;
    EXPECT_FALSE(std::get<CommandText>(result).text.empty());
  }
}

TEST(Options, HelpAndVersion) {
  auto version = std::get<CommandText>(parse("--version"));
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_EQ(version.text, std::string("flexgen ") + kVersion + "\n");
  auto help = std::get<CommandText>(parse("--help"));
  EXPECT_EQ(help.exit_code, 0);
  for (const char* word : {"run-batch", "generate", "inspect", "bench", "eval", "doctor", "Exit codes", "75"}) EXPECT_THAT(help.text, HasSubstr(word));
  auto batch_help = std::get<CommandText>(parse("run-batch --help"));
  EXPECT_EQ(batch_help.exit_code, 0);
  for (const char* word : {"Memory and disk", "Placement and batching", "--kv-cache", "--overwrite"}) EXPECT_THAT(batch_help.text, HasSubstr(word));
}

TEST(Options, EngineOptions) {
  EngineFlags flags;
  EngineOptions options = engine_options(flags, "m");
  EXPECT_EQ(options.model_directory, "m");
  EXPECT_GT(options.budgets.cpu_bytes, 0);
  EXPECT_EQ(options.budgets.disk_bytes, 0);
  TemporaryDirectory directory;
  flags.disk_directory = directory.path();
  flags.cpu_memory_bytes = 5;
  options = engine_options(flags, "m");
  EXPECT_EQ(options.budgets.cpu_bytes, 5);
  EXPECT_GT(options.budgets.disk_bytes, 0);
  flags.disk_space_bytes = 7;
  EXPECT_EQ(engine_options(flags, "m").budgets.disk_bytes, 7);
  flags.disk_directory = directory.file("missing");
  EXPECT_THROW(engine_options(flags, "m"), Error);
}

}  // namespace
}  // namespace flexgen
