#include "cli/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>

#include "base/error.h"
#include "base/units.h"
#include "batch/fake_runner.h"
#include "measure/machine.h"

namespace flexgen::options_test {
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
      kBatch +
      "--overwrite --cpu-memory 6GiB --disk-dir /tmp --disk-space 1.5TB --disk-bandwidth 500MB --weights 0:40:60 --kv-cache 0:0:100 --activations "
      "0:100:0 --micro-batch-size 8 --num-micro-batches 4 --buffers 2 --weight-buffers 6 --backend cpu --compute-dtype bf16 --threads 2 --trace t.json");
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
  EXPECT_EQ(options.engine.policy.weight_buffers, 6);
  EXPECT_EQ(options.engine.threads, 2);
  EXPECT_EQ(options.engine.compute_dtype, "bf16");
  EXPECT_EQ(options.engine.trace_file, "t.json");
}

TEST(Options, NumbersAreDecimalFiniteAndInRange) {
  // clang-format off
  for (const char* wrong :
       {"--threads 0x10", "--threads 010", "--threads -1", "--threads 0", "--threads 1e99", "--threads 99999999999999999999", "--threads nan", "--max-rows 9223372036854775807",
        "--micro-batch-size 9223372036854775808", "--attention-sparsity nan", "--attention-sparsity inf", "--attention-sparsity -nan", "--attention-sparsity 0x1p-1", "--rank-timeout nan",
        "--rank-timeout inf", "--rank-timeout 1e400", "--rank-timeout 0", "--cpu-memory 0x10", "--cpu-memory -1GiB", "--cpu-memory 1e30GiB", "--cpu-memory \xef\xbc\x96GiB", "--cpu-memory nan",
        "--cpu-memory inf", "--disk-bandwidth 0", "--disk-bandwidth -5", "--weights 0:40:70", "--weights 0:nan:100", "--weights 0:-10:110", "--weights 0:inf:0", "--expected-tokens 0x10"}) {
    // clang-format on
    const auto result = parse(kBatch + wrong);
    ASSERT_TRUE(std::holds_alternative<CommandText>(result)) << wrong;
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage) << wrong;
    // The flag's name leads to the mistake.
    EXPECT_THAT(std::get<CommandText>(result).text, HasSubstr(std::string(wrong).substr(0, std::string(wrong).find(' ')))) << wrong;
  }
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--rank-timeout 2.5").team.rank_timeout_s, 2.5);
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--attention-sparsity 1e-1").engine.attention_sparsity, 0.1);
  EXPECT_EQ(parsed<PlanOptions>("plan --model m --seed 18446744073709551615").seed, 18446744073709551615U);
  for (const char* wrong :
       {"plan --model m --prompt-len 0x10", "plan --model m --prompt-len 99999999999", "plan --model m --seed -1", "generate -m m text --temperature nan",
        "generate -m m text --top-p nan", "generate -m m text --top-k 1e1", "bench -m m --peers accelerate --peer-batch 8,0x10"})
    EXPECT_TRUE(std::holds_alternative<CommandText>(parse(wrong))) << wrong;
}

TEST(Options, ProductsInIntegersNeedQuantizedWeights) {
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--weight-dtype int4 --disk-dir /tmp --matmul-dtype int8").engine.matmul_dtype, "int8");
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch).engine.matmul_dtype, "auto");
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--matmul-dtype int8").engine.matmul_dtype, "int8");  // the model may be quantized
  auto result = parse(kBatch + "--weight-dtype bf16 --disk-dir /tmp --matmul-dtype int8");
  ASSERT_TRUE(std::holds_alternative<CommandText>(result));
  EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage);
  EXPECT_THAT(std::get<CommandText>(result).text, HasSubstr("--weight-dtype int4 or int8"));
}

TEST(Options, ListsOfTypesToChooseFrom) {
  const auto options = parsed<RunBatchOptions>(kBatch + "--disk-dir /tmp --weight-dtype bf16,int4 --kv-cache-dtype auto,int8,int4");
  EXPECT_TRUE(options.engine.chooses_dtypes());
  EXPECT_EQ(split_list(options.engine.kv_cache_dtype), (std::vector<std::string>{"auto", "int8", "int4"}));
  EXPECT_FALSE(parsed<RunBatchOptions>(kBatch + "--disk-dir /tmp --weight-dtype int4").engine.chooses_dtypes());
  for (const std::string wrong : {"--weight-dtype bf16,int5", "--weight-dtype bf16,", "--weight-dtype int4,int4", "--kv-cache-dtype bf16,fp16",
                                  "--weight-dtype bf16,int4 --matmul-dtype int8", "--weight-dtype auto,int4 --planner first-rule",
                                  "--kv-cache-dtype bf16,int4 --shard 0/2", "--kv-cache-dtype bf16,int4 --backend cuda"}) {
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
  auto result = parse_command_line({"generate", "--model", "m", "Once upon", "--max-tokens", "5", "--temperature", "0.7", "--top-p", "0.9", "--top-k", "40",
                                    "--seed", "3", "--stop", "a b", "--stop", "c"});
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

// Neither the words behind it nor the parts of a text in brackets are further values.
TEST(Options, AFlagThatMayBeThereSeveralTimesTakesOneValueEachTime) {
  const std::vector<std::string> front{"generate", "-m", "m"};
  const auto with = [&](std::vector<std::string> words, const std::vector<std::string>& environment = {}) {
    words.insert(words.begin(), front.begin(), front.end());
    const auto result = parse_command_line(words, environment);
    if (const auto* text = std::get_if<CommandText>(&result)) ADD_FAILURE() << text->text;
    return result.index() == 0 ? std::get<GenerateOptions>(std::get<Command>(result)) : GenerateOptions{};
  };
  for (const auto& [words, environment] :
       {std::pair<std::vector<std::string>, std::vector<std::string>>{{"--stop", "END", "my prompt", "--max-tokens", "5"}, {}},
        {{"my prompt", "--max-tokens", "5"}, {"FLEXGEN_STOP=END"}}}) {
    const GenerateOptions options = with(words, environment);
    EXPECT_EQ(options.prompt, "my prompt");
    EXPECT_THAT(options.params.stop, testing::ElementsAre("END"));
    EXPECT_EQ(options.params.max_tokens, 5);
  }
  EXPECT_EQ(with({"--stop-token-id", "7", "8", "--max-tokens", "5"}).prompt, "8");
  EXPECT_THAT(with({"--stop", "[END]", "--stop=[a,b]", "--stop", "[]", "x"}).params.stop, testing::ElementsAre("[END]", "[a,b]", "[]"));
  const auto choices = parse_command_line({"map", "-m", "m", "-i", "t.csv", "-o", "o.csv", "-t", "p", "--choices", "[a],[b]"});
  EXPECT_THAT(std::get<MapOptions>(std::get<Command>(choices)).choices, testing::ElementsAre("[a]", "[b]"));
  for (const char* wrong : {"generate -m m x --stop-token-id [7,8]", "bench -m m --peers accelerate --peer-batch [8,16]", "bench -m m --shared-prefix 32 16"})
    EXPECT_EQ(parse(wrong).index(), 1u) << wrong;
}

TEST(Options, ExpectedTokensAreForCommandsWhoseAnswersMayEndEarly) {
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--expected-tokens 40").expected_tokens, 40);
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch).expected_tokens, 0);
  EXPECT_EQ(parsed<PlanOptions>("plan -m m -i in --expected-tokens 40").expected_tokens, 40);
  EXPECT_EQ(parsed<PlanOptions>("plan -m opt-6.7b --gen-len 64:512 --expected-tokens 40").expected_tokens, 40);
  for (const std::string& line : {kBatch + "--expected-tokens 0", kBatch + "--expected-tokens -3", kBatch + "--expected-tokens 1.5",
                                  std::string("plan -m m --expected-tokens 0"), std::string("bench -m m --expected-tokens 40"),
                                  std::string("generate -m m x --expected-tokens 40"), std::string("eval -m m --task t --expected-tokens 40")}) {
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
  EXPECT_TRUE(bench.json);
  EXPECT_EQ(bench.json_file, "f");
  EXPECT_TRUE(parsed<DoctorOptions>("doctor --json").json);
  EXPECT_EQ(parsed<InspectOptions>("inspect dir").model, "dir");
}

TEST(Options, PrefixesInLevels) {
  const std::string bench = "bench -m m --prompt-len 64:100 --num-prompts 10 ";
  EXPECT_TRUE(parsed<BenchOptions>(bench).shared_prefix.empty() && parsed<BenchOptions>(bench).prefix_groups.empty());
  EXPECT_EQ(parsed<BenchOptions>(bench + "--shared-prefix 63").prefix_groups, std::vector<int64_t>{1});
  EXPECT_EQ(parsed<BenchOptions>(bench + "--shared-prefix 63 --prefix-groups 10").prefix_groups, std::vector<int64_t>{10});
  const auto nested = parsed<BenchOptions>(bench + "--shared-prefix 32,16 --prefix-groups 2,5");
  EXPECT_EQ(nested.shared_prefix, (std::vector<int64_t>{32, 16}));
  EXPECT_EQ(nested.prefix_groups, (std::vector<int64_t>{2, 5}));
  const std::pair<const char*, const char*> wrong[] = {
      {"--shared-prefix 64", "--shared-prefix 64: the shortest prompt has 64 tokens"},
      {"--shared-prefix 32,32 --prefix-groups 1,2", "--shared-prefix 32,32: the shortest prompt has 64 tokens"},
      {"--shared-prefix 2147483648,2147483648,2147483648 --prefix-groups 1,1,1", "the shortest prompt has 64 tokens"},
      {"--shared-prefix 32 --prefix-groups 11", "--prefix-groups 11: more groups than the 10 prompts"},
      {"--shared-prefix 32,16 --prefix-groups 3,4", "--prefix-groups 3,4: more groups than the 10 prompts"},
      {"--shared-prefix 32,16 --prefix-groups 2147483648,2147483648", "more groups than the 10 prompts"},
      {"--shared-prefix 32,16", "--shared-prefix 32,16: say for each of the 2 how many groups have it, with --prefix-groups"},
      {"--shared-prefix 32,16 --prefix-groups 2", "--shared-prefix 32,16: say for each of the 2"},
      {"--shared-prefix 32 --prefix-groups 1,8", "--prefix-groups 1,8: more numbers than --shared-prefix has (1)"},
      {"--prefix-groups 2", "--prefix-groups 2: say how much the prompts of a group share with --shared-prefix"},
      {"--shared-prefix 32,x", "--shared-prefix"},
      {"--shared-prefix 32 --prefix-groups 0", "--prefix-groups"},
  };
  for (const auto& [flags, message] : wrong) {
    const auto result = parse(bench + flags);
    ASSERT_EQ(result.index(), 1u) << flags;
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage) << flags;
    EXPECT_THAT(std::get<CommandText>(result).text, HasSubstr(message)) << flags;
  }
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
                    Wrong{"--gpu-memory 8GiB", "no GPU computes"}, Wrong{"--backend cuda --gpu-memory 0", "--gpu-memory"},
                    Wrong{"--attention-on cpu", "no GPU computes"}, Wrong{"--backend cuda --attention-on cpu --kv-cache 10:90:0", "--attention-on"},
                    Wrong{"--backend cuda --attention-on disk", "--attention-on"}, Wrong{"--weights 50:30:20", "--backend cuda"},
                    Wrong{"--weights 0:50:60", "--weights"}, Wrong{"--weights 0:100", "--weights"}, Wrong{"--kv-cache 0:nan:0", "--kv-cache"},
                    Wrong{"--activations 100", "--activations"}, Wrong{"--kv-cache 0:50:50", "--disk-dir"}, Wrong{"--activations 0:0:100", "--disk-dir"},
                    Wrong{"--disk-space 5GiB", "--disk-dir"}, Wrong{"--disk-bandwidth 0", "--disk-bandwidth"},
                    Wrong{"--disk-dir /tmp --disk-space x", "--disk-space"}, Wrong{"--micro-batch-size 0", "--micro-batch-size"},
                    Wrong{"--num-micro-batches -1", "--num-micro-batches"}, Wrong{"--buffers 0", "--buffers"}, Wrong{"--buffers 17", "--buffers"},
                    Wrong{"--weight-buffers 1", "--weight-buffers"}, Wrong{"--weight-buffers 17", "--weight-buffers"},
                    Wrong{"--buffers 1 --weight-buffers 4", "--buffers 1"}, Wrong{"--buffers 3 --weight-buffers 2", "--buffers 3"},
                    Wrong{"--backend tpu", "tpu"}, Wrong{"--backend reference --compute-dtype bf16", "fp32"}, Wrong{"--compute-dtype int4", "--compute-dtype"},
                    Wrong{"--backend reference --threads 2", "--threads"}, Wrong{"--threads 0", "--threads"}, Wrong{"--threads two", "--threads"},
                    Wrong{"--attention-sparsity 0", "--attention-sparsity"}, Wrong{"--attention-sparsity 1.5", "--attention-sparsity"},
                    Wrong{"--load-experts some", "--load-experts"}, Wrong{"--expert-statistics=", "--expert-statistics"},
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

TEST(Options, LoadExperts) {
  auto rows = [](const std::string& flags) { return parsed<RunBatchOptions>("run-batch -m m -i in -o out " + flags).engine.policy.max_choosing_rows; };
  EXPECT_EQ(rows(""), std::nullopt);
  EXPECT_EQ(rows("--load-experts auto"), std::nullopt);
  EXPECT_EQ(rows("--load-experts all"), 0);
  EXPECT_EQ(rows("--load-experts chosen"), std::numeric_limits<int64_t>::max());
}

TEST(Options, HowExpertsAreChosen) {
  EXPECT_EQ(parsed<RunBatchOptions>("run-batch -m m -i in -o out").engine.expert_statistics, "");
  EXPECT_EQ(parsed<RunBatchOptions>("run-batch -m m -i in -o out --expert-statistics hits.json").engine.expert_statistics, "hits.json");
  EXPECT_EQ(parsed<BenchOptions>("bench -m m").expert_skew, std::nullopt);
  EXPECT_EQ(parsed<BenchOptions>("bench -m m --expert-skew 0 --expert-statistics auto").expert_skew, 0);
  EXPECT_EQ(parsed<PlanOptions>("plan -m m --expert-skew 0.5").expert_skew, 0.5);
  for (const auto& [line, why] : {std::pair("bench -m m --expert-skew 5", "--expert-skew"),
                                  {"bench -m m --expert-skew 1 --peers accelerate", "the routers of other programs"},
                                  {"plan -m m --expert-skew 1 --expert-statistics auto", "leave one of them out"},
                                  {"run-batch -m m -i in -o out --expert-skew 1", "--expert-skew"}}) {
    auto result = parse(line);
    ASSERT_EQ(result.index(), 1u) << line;
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage);
    EXPECT_THAT(std::get<CommandText>(result).text, testing::HasSubstr(why)) << line;
  }
}

TEST(Options, TextsAreUtf8) {
  for (const std::vector<std::string>& line :
       std::vector<std::vector<std::string>>{{"generate", "-m", "m", "a\xff"},
                                             {"generate", "-m", "m", "--chat", "--system", "a\xff", "x"},
                                             {"generate", "-m", "m", "--stop", "b", "--stop", "a\xff", "x"},
                                             {"chat", "-m", "m", "--system", "a\xff"},
                                             {"serve", "-m", "m", "--served-model-name", "a\xff"},
                                             {"map", "-m", "m", "-i", "t.csv", "-o", "o.csv", "--prompt-template", "a\xff"},
                                             {"map", "-m", "m", "-i", "t.csv", "-o", "o.csv", "-t", "p", "--choices", "a\xff,b"}}) {
    const auto result = parse_command_line(line);
    ASSERT_EQ(result.index(), 1u) << line.front();
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage);
    EXPECT_THAT(std::get<CommandText>(result).text, testing::HasSubstr("byte 2 is not valid UTF-8")) << line.front();
  }
  EXPECT_EQ(parsed<GenerateOptions>("generate -m m é").prompt, "é");
  // A file may be called anything.
  EXPECT_EQ(std::get<RunBatchOptions>(std::get<Command>(parse_command_line({"run-batch", "-m", "m", "-i", "a\xff", "-o", "out"}))).input, "a\xff");
}

TEST(Options, Map) {
  const std::string map = "map -m m -i t.csv -o o.csv ";
  auto options = parsed<MapOptions>(map + "-t p.j2 --max-tokens 5 --temperature 0.5 --stop x --stop y --top-k 3");
  EXPECT_EQ(options.sampling_json, R"({"max_tokens":5,"temperature":0.5,"top_k":3,"stop":["x","y"]})");
  EXPECT_FALSE(options.keeps_answer);
  EXPECT_EQ(parsed<MapOptions>(map + "-t p.j2 --choices A,B --answer-column a --positive-label A").choices, (std::vector<std::string>{"A", "B"}));
  EXPECT_TRUE(parsed<MapOptions>(map + "-t p.j2 --json-schema s --output-column a").keeps_answer);
  EXPECT_EQ(parsed<MapOptions>("map -m m -i t.csv -t p.j2 --dry-run 2").dry_run, 2);
  for (const auto& [list, choices] : {std::pair<std::string, std::vector<std::string>>{"a, b", {"a", "b"}},
                                      {" a ,b\t", {"a", "b"}},
                                      {R"("a, b",c)", {"a, b", "c"}},
                                      {R"(" a" , "say ""hi""")", {" a", R"(say "hi")"}},
                                      {R"(5" disk,"5"" disk ")", {R"(5" disk)", R"(5" disk )"}}})
    EXPECT_EQ(
        std::get<MapOptions>(std::get<Command>(parse_command_line({"map", "-m", "m", "-i", "t.csv", "-o", "o.csv", "-t", "p", "--choices", list}))).choices,
        choices)
        << list;
  for (const char* wrong : {"a,,b", "a,", "\"a,b", "\"a\"b,c", "a, a", ",", "\"\",a"}) {
    const auto result = parse_command_line({"map", "-m", "m", "-i", "t.csv", "-o", "o.csv", "-t", "p", "--choices", wrong});
    ASSERT_TRUE(std::holds_alternative<CommandText>(result)) << wrong;
    EXPECT_THAT(std::get<CommandText>(result).text, testing::HasSubstr("--choices")) << wrong;
  }
  for (const char* wrong : {"",
                            "-t p --prompt-template x",
                            "-t p --choices A",
                            "-t p --choices A,A",
                            "-t p --choices A,B --max-tokens 4",
                            "-t p --choices A,B --json-schema s",
                            "-t p --examples e",
                            "-t p --shots 3",
                            "-t p --balanced",
                            "-t p --positive-label A",
                            "-t p --system s",
                            "-t p --chat --truncate right",
                            "-t p --chat-template-kwargs {}",
                            "-t p --chat --chat-template-kwargs 5",
                            R"(-t p --chat --chat-template-kwargs {"messages":1})",
                            "-t p --chat --chat-template-kwargs {",
                            "-t p --truncate middle",
                            "-t p --json-schema s --answer-column a --positive-label A",
                            "-t p --dry-run 2 --json",
                            "-t p --min-tokens 200"})
    EXPECT_TRUE(std::holds_alternative<CommandText>(parse(map + wrong))) << wrong;
  EXPECT_TRUE(std::holds_alternative<CommandText>(parse("map -m m -i t.csv -t p.j2"))) << "no output";
}

TEST(Options, WrongCommands) {
  for (const char* line : {"",
                           "fly",
                           "run-batch",
                           "run-batch --model m -i in",
                           "run-batch --model m -i in -o -",
                           "generate --model m",
                           "generate -m m a b",
                           "generate -m m x --temperature 3",
                           "generate -m m x --top-p 0",
                           "generate -m m x --max-tokens 0",
                           "inspect",
                           "plan -m m --plot plan.png",
                           "plan -m m --plot plan",
                           "bench -m m --prompt-len 0",
                           "bench -m m --prompt-len 5:4",
                           "bench -m m --gen-len a",
                           "bench -m m --gen-len 5:",
                           "doctor x",
                           "eval -m m",
                           "eval --task t",
                           "eval -m m --task t --perplexity p",
                           "eval -m m --task t --window 5",
                           "eval -m m --perplexity p --max-tokens 5",
                           "eval -m m --perplexity p --stride 0"}) {
    auto result = parse(line);
    ASSERT_EQ(result.index(), 1u) << line;
    EXPECT_EQ(std::get<CommandText>(result).exit_code, kExitUsage) << line;
    EXPECT_FALSE(std::get<CommandText>(result).text.empty());
  }
}

std::string said(const std::vector<std::string>& words, int exit_code, const std::vector<std::string>& environment = {}) {
  auto result = parse_command_line(words, environment);
  if (!std::holds_alternative<CommandText>(result)) {
    ADD_FAILURE() << "parsed: " << testing::PrintToString(words);
    return "";
  }
  EXPECT_EQ(std::get<CommandText>(result).exit_code, exit_code) << testing::PrintToString(words);
  return std::get<CommandText>(result).text;
}
std::vector<std::string> words_of(const std::string& line) {
  std::istringstream in(line);
  return {std::istream_iterator<std::string>(in), {}};
}
const std::vector<std::string> kCommands{"run-batch", "map", "chat", "serve", "generate", "plan", "inspect", "eval", "bench", "merge", "doctor"};

TEST(Options, HelpAndVersion) {
  for (const char* flag : {"--version", "-V"}) EXPECT_EQ(said({flag}, kExitDone), std::string("flexgen ") + kVersion + "\n");
  EXPECT_EQ(said({"bench", "-V"}, kExitDone), std::string("flexgen ") + kVersion + "\n");
  const std::string help = said({"--help"}, kExitDone);
  for (const std::string& word : kCommands) EXPECT_THAT(help, HasSubstr("\n  " + word));
  for (const char* word : {"Exit codes", "75", "completion", "--help-all"}) EXPECT_THAT(help, HasSubstr(word));
  EXPECT_EQ(said({"help"}, kExitDone), help);
  EXPECT_EQ(said({}, kExitUsage), help) << "alone it says what there is";
  for (const std::string& command : kCommands) {
    const std::string text = said({command, "--help"}, kExitDone), all = said({command, "--help-all"}, kExitDone);
    EXPECT_EQ(said({"help", command}, kExitDone), text);
    EXPECT_EQ(said({command, "--threads", "x", "-h"}, kExitDone), text) << "whatever else is wrong";
    for (const std::string& shown : {text, all}) {
      EXPECT_THAT(shown, testing::Not(HasSubstr("9223372036854775807"))) << command;
      EXPECT_THAT(shown, testing::Not(HasSubstr("INT in"))) << command;
      EXPECT_THAT(shown, HasSubstr("--log-level"));
      std::istringstream lines(shown);
      for (std::string line; std::getline(lines, line);) EXPECT_TRUE(line.size() <= 80 || line.find(' ', 28) == std::string::npos) << line;
    }
    EXPECT_GE(all.size(), text.size());
  }
  const std::string some = said({"run-batch", "--help"}, kExitDone), all = said({"run-batch", "--help-all"}, kExitDone);
  for (const char* common : {"Memory and disk", "--cpu-memory SIZE", "--overwrite", "--help-all", "FLEXGEN_CPU_MEMORY", "--log-level debug|info"})
    EXPECT_THAT(some, HasSubstr(common));
  for (const char* rare : {"--micro-batch-size", "--kv-cache-rotation", "--rank-timeout", "Placement"}) {
    EXPECT_THAT(some, testing::Not(HasSubstr(rare)));
    EXPECT_THAT(all, HasSubstr(rare));
  }
}

TEST(Options, WrongWordsAreNamedWithTheNearestRightOne) {
  struct {
    const char *line, *message;
  } kWrong[] = {
      {"run-bach -m m", "flexgen: there is no command 'run-bach'; did you mean run-batch?"},
      {"help genrate", "did you mean generate?"},
      {"--modle m", "flexgen: there is no command 'm'"},
      {"--threads 2", "flexgen: say a command"},
      {"run-batch --modle m -i in -o out", "--modle: did you mean --model?"},
      {"run-batch -m m -i in -o out --cpu-mem 3GiB", "--cpu-mem: did you mean --cpu-memory?"},
      {"generate -m m x --max_tokns=5", "--max_tokns: did you mean --max-tokens?"},
      {"run-batch -m m -i in -o out --backend cdua", "did you mean cuda?"},
      {"run-batch -m m -i in -o out --kv-cache-dtype int44", "did you mean int4?"},
      {"bench -m m --load-format dumy", "did you mean dummy?"},
      {"run-batch -m m -i in -o out --log-level inof", "did you mean info?"},
      {"run-batch -m m -i in -o out --temperature 1", "--temperature: a flag of map, generate, chat, not of run-batch"},
      {"run-batch -m m -i in -o out --tensor-parallel-size 2", "--pipeline-stages"},
      {"completion bahs", "did you mean bash?"},
      {"run-batch -i in -o out", "--model is required"},
      {"run-batch -m m -i in -o out --threads", "--threads needs a value"},
      {"run-batch -m m -i in -o out --threads=", "--threads has no value"},
      {"run-batch -m m -i in -o out --num-micro-batches 1.5", "'1.5' is not a whole number of at least 1"},
      {"map -m m -i t.csv -o o.csv --prompt-template x --seed 18446744073709551616", "is not a whole number from 0 to 18446744073709551615"},
      {"run-batch -m m -i in -o out --log-level loud", "--log-level: 'loud' is not debug, info, warning or error"},
      {"eval -m m --task t --perplexity p", "cannot be combined with"},
  };
  for (const auto& [line, message] : kWrong) {
    const std::string text = said(words_of(line), kExitUsage);
    EXPECT_THAT(text, HasSubstr(message)) << line;
    EXPECT_TRUE(text.starts_with("flexgen: ")) << text;
    EXPECT_THAT(text, testing::Not(HasSubstr("9223372036854775807")));
  }
}

struct Refused {
  std::string line;
  const char* message;
};
void expect_refused(const std::vector<Refused>& wrong) {
  for (const Refused& one : wrong) EXPECT_THAT(said(words_of(one.line), kExitUsage), HasSubstr(one.message)) << one.line;
}

TEST(Options, APlanRefusesWhatItCannotHonour) {
  const std::string plan = "plan -m opt-6.7b ";
  expect_refused({{plan + "--backend cuda", "--backend cuda: a plan looks at no GPU; say how much memory it has with --gpu-memory"},
                  {plan + "--backend cuda --hardware p.json", "--gpu-memory"},
                  {plan + "--planner first-rule", "--planner first-rule: flexgen plan shows what the search finds"},
                  {plan + "--trace t.json", "--trace t.json: a plan runs nothing"},
                  {plan + "--chat-template t.jinja", "--chat-template: without --input no prompts are read"},
                  {plan + "--skip-tokenizer-init", "--skip-tokenizer-init: without --input"},
                  {"bench -m m --load-format checkpoint --dtype f16", "--dtype: with --load-format checkpoint"},
                  {"bench -m m --load-format checkpoint --dummy-dir d", "--dummy-dir: with --load-format checkpoint"}});
  EXPECT_EQ(parsed<PlanOptions>(plan + "--backend cuda --gpu-memory 16GiB --hardware p.json").engine.gpu_memory_bytes, 16 * kGiB);
  EXPECT_EQ(parsed<PlanOptions>(plan + "-i in --chat-template t.jinja").chat_template, "t.jinja");
  EXPECT_EQ(parsed<PlanOptions>(plan).dtype, "");
  EXPECT_EQ(parse_command_line(words_of(plan), {"FLEXGEN_TRACE=t.json", "FLEXGEN_CHAT_TEMPLATE=t"}).index(), 0u) << "which are for other commands";
  EXPECT_EQ(parse_command_line(words_of("bench -m m --load-format checkpoint"), {"FLEXGEN_DUMMY_DIR=d"}).index(), 0u) << "which is for other models";
}

TEST(Options, WhatCannotBeHonouredIsRefusedAtTheStart) {
  const std::string map = "map -m m -i t.csv -o o.csv -t p.j2 --json-schema s ";
  expect_refused({{map + "--min-tokens 5", "--json-schema: the schema says where the answer ends; leave --min-tokens out"},
                  {"bench -m m --peers accelerate --peer-policy x", "--peer-policy: it is for flexllmgen"},
                  {"bench -m m --backend cuda --peers flexllmgen --peer-batch 8", "--peer-batch: it is for accelerate"},
                  {"serve -m m --max-body 8Mo", "--max-body: "},
                  {"serve -m m --state s --max-file 8Mo", "--max-file: "},
                  {kBatch + "--weight-quantization mse", "--weight-quantization mse: weights of --weight-dtype auto are not quantized"},
                  {kBatch + "--weight-dtype bf16,int4 --disk-dir /tmp --weight-quantization mse", "weights of --weight-dtype bf16 are not quantized"},
                  {kBatch + "--skip-tokenizer-init --chat-template t.jinja", "--skip-tokenizer-init"},
                  {"plan -m m -i in --skip-tokenizer-init --chat-template t.jinja", "--skip-tokenizer-init"},
                  {kBatch + "--shard 4/4", "--shard 4/4: give I/N"},
                  {kBatch + "--shard x", "--shard x: give I/N"},
                  {kBatch + "--stages 2:2", "--stages 2:2: this process was started alone"},
                  {"bench -m m --pipeline-stages 2", "--pipeline-stages 2: this process was started alone"}});
  EXPECT_EQ(parsed<MapOptions>(map + "--min-tokens 0").json_schema, "s");
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--weight-dtype int8,int4 --disk-dir /tmp --weight-quantization mse").engine.weight_quantization, "mse");
  EXPECT_EQ(parsed<BenchOptions>("bench -m m --peers accelerate --peer-batch 8").peers.batch_sizes, std::vector<int64_t>{8});
}

// CLI11 by itself leaves out what is empty between two commas.
TEST(Options, EveryPartOfAListCounts) {
  const auto peers = parsed<BenchOptions>("bench -m m --backend cuda --peers accelerate,flexllmgen --peer-batch 8,2 --peer-batch 4").peers;
  EXPECT_THAT(peers.names, testing::ElementsAre("accelerate", "flexllmgen"));
  EXPECT_EQ(peers.batch_sizes, (std::vector<int64_t>{8, 2, 4}));
  EXPECT_EQ(parsed<BenchOptions>("bench -m m --peers accelerate").peers.batch_sizes, (std::vector<int64_t>{8, 32}));
  EXPECT_THAT(said({"bench", "--help-all"}, kExitDone), HasSubstr("(default: 8,32)"));
  for (const char* wrong : {"--shared-prefix 32,,16", "--shared-prefix ,", "--prefix-groups 2,", "--peers accelerate --peer-batch ,8"})
    EXPECT_THAT(said(words_of(std::string("bench -m m ") + wrong), kExitUsage), HasSubstr("'' is not a whole number")) << wrong;
  EXPECT_THAT(said(words_of("bench -m m --peers accelerate,"), kExitUsage), HasSubstr("--peers: '' is not accelerate or flexllmgen"));
}

// By what mpirun says: a single process is as good as one that was started alone.
TEST(Options, WhatIsForOneProcessIsRefusedOfSeveral) {
  const auto with = [](const char* processes, const std::string& line) {
    setenv("OMPI_COMM_WORLD_SIZE", processes, 1);
    const auto result = parse_command_line(words_of(line));
    unsetenv("OMPI_COMM_WORLD_SIZE");
    return result.index() == 0 ? std::string() : std::get<CommandText>(result).text;
  };
  for (const std::string& line : {kBatch + "--efficiency", std::string("run-batch -m m -o out -i -"), kBatch + "--kv-cache-dtype bf16,int4"}) {
    EXPECT_EQ(with("1", line), "") << line;
    EXPECT_NE(with("2", line), "") << line;
  }
  EXPECT_EQ(with("2", kBatch + "--stages 2:2"), "");
  EXPECT_THAT(with("1", kBatch + "--stages 2:2"), HasSubstr("started alone"));
}

TEST(Options, UnknownArgumentsAreListedAsGiven) {
  const std::string text = said(words_of(kBatch + "--percent 0 100 0 100 0 90"), kExitUsage);
  EXPECT_THAT(text, testing::StartsWith("flexgen: run-batch: unknown arguments: --percent 0 100 0 100 0 90\n"));
  EXPECT_THAT(said(words_of("run-batch --foo bar -m m extra"), kExitUsage), HasSubstr("unknown arguments: --foo bar extra\n")) << "before what is missing";
}

TEST(Options, TwoDashesEndTheFlags) {
  EXPECT_EQ(parsed<GenerateOptions>("generate -m m -- --top-k").prompt, "--top-k");
  const auto both = parsed<GenerateOptions>("generate -m m --top-k 3 -- --top-k");
  EXPECT_EQ(both.prompt, "--top-k");
  EXPECT_EQ(both.params.top_k, 3);
  EXPECT_EQ(parsed<GenerateOptions>("generate -m m -- --").prompt, "--");
  EXPECT_EQ(parsed<GenerateOptions>("generate -m m x --").prompt, "x");
  const std::string more = said(words_of("generate -m m -- --top-k --planner 3"), kExitUsage);
  EXPECT_THAT(more, testing::AllOf(HasSubstr("unknown arguments: --planner 3\n"), HasSubstr("behind -- each word is a value"),
                                   testing::Not(HasSubstr("did you mean"))));
  EXPECT_EQ(parsed<GenerateOptions>("generate -m m --temperature 0.5 -- --help").prompt, "--help");
  EXPECT_EQ(parsed<GenerateOptions>("generate -m m x --").prompt, "x");
  EXPECT_EQ(parsed<GenerateOptions>("generate -m m -- --").prompt, "--");
  EXPECT_EQ(parsed<RunBatchOptions>(kBatch + "--").input, parsed<RunBatchOptions>(kBatch).input);
  EXPECT_THAT(said(words_of("generate -m m -- a --b"), kExitUsage), testing::StartsWith("flexgen: generate: unknown argument: --b\n"));
  EXPECT_THAT(said(words_of("generate -m m --"), kExitUsage), HasSubstr("--prompt is required"));
}

TEST(Options, WordsBeforeAnyCommandAreNamed) {
  EXPECT_THAT(said({"--verison"}, kExitUsage), testing::StartsWith("flexgen: unknown argument: --verison; did you mean --version?\n"));
  EXPECT_THAT(said({"--quiet"}, kExitUsage), testing::StartsWith("flexgen: say a command\n"));
  EXPECT_THAT(said({"version"}, kExitUsage), HasSubstr("flexgen --version says it"));
  EXPECT_EQ(said({"help", "help"}, kExitDone), said({"help"}, kExitDone));
  const std::string twice = said({"help", "generat"}, kExitUsage);
  EXPECT_THAT(twice, HasSubstr("did you mean generate?"));
  EXPECT_EQ(twice.find("lists the commands"), twice.rfind("lists the commands"));
}

// A summary, a trace or a picture would take the place of answers, or of the input.
TEST(Options, FilesThatWouldOverwriteEachOtherAreRefused) {
  const std::string batch = "run-batch -m m -i no-such-folder/in.jsonl -o no-such-folder/out.jsonl ";
  const std::pair<std::string, const char*> wrong[] = {{"--json=no-such-folder/out.jsonl", "a file of --output too"},
                                                       {"--trace no-such-folder/in.jsonl", "a file of --input too"},
                                                       {"--trace no-such-folder/../no-such-folder/out.jsonl", "a file of --output too"},
                                                       {"--json=no-such-folder/out.jsonl.job", "a file of the job of --output too"},
                                                       {"--trace t --json=t", "--trace t: that is a file of --json too"},
                                                       {"--error-output e --trace e", "a file of --error-output too"}};
  for (const auto& [flags, message] : wrong) EXPECT_THAT(said(words_of(batch + flags), kExitUsage), HasSubstr(message)) << flags;
  EXPECT_EQ(parsed<RunBatchOptions>(batch + "--trace /dev/null --json=/dev/null").json_file, "/dev/null");
}

// What the system refuses is no fault of the words, so their help would be beside the point.
TEST(Options, FilesThatCannotBeReadOrWrittenAreNoWrongUsage) {
  const std::string long_name(300, 'x');
  const std::pair<std::string, std::string> refused[] = {{"--json=no-such-folder/x.json", "--json no-such-folder/x.json: cannot write it"},
                                                         {"--json=.", "--json .: cannot write it"},
                                                         {"--config no-such-file.toml", "--config no-such-file.toml: cannot open it"},
                                                         {"--config " + long_name, "--config " + long_name + ": cannot open it"}};
  for (const auto& [flags, message] : refused) {
    const std::string text = said(words_of(kBatch + flags), kExitFailed);
    EXPECT_THAT(text, HasSubstr(message)) << flags;
    EXPECT_THAT(text, testing::Not(HasSubstr("--help"))) << flags;
  }
  // Whether such a job was begun cannot be told here: what reads it says why.
  EXPECT_EQ(parsed<RunBatchOptions>("run-batch -m m -i in -o " + long_name + ".gz").output, long_name + ".gz");
}

TEST(Options, SpellingsOfOtherPrograms) {
  auto options = parsed<RunBatchOptions>("run-batch --input-file in --output-file out --model m --served-model-name n --cpu_memory 1GiB");
  EXPECT_EQ(options.input, "in");
  EXPECT_EQ(options.output, "out");
  EXPECT_EQ(options.served_model_name, "n");
  EXPECT_EQ(options.engine.cpu_memory_bytes, kGiB);
  EXPECT_EQ(parsed<InspectOptions>("inspect --model m").model, "m");
  EXPECT_EQ(parsed<RunBatchOptions>("--threads 2 --cpu_memory 3GiB --overwrite " + kBatch).engine.cpu_memory_bytes, 3 * kGiB) << "flags before the command";
}

// Of two values one would be ignored.
TEST(Options, AFlagThatTakesOneValueIsRefusedIfItIsThereTwice) {
  const std::pair<std::string, const char*> wrong[] = {{kBatch + "--threads 1 --threads 3", "--threads is given twice"},
                                                       {kBatch + "--threads 2 --threads=2", "--threads is given twice"},
                                                       {kBatch + "--cpu-memory 1GiB --cpu_memory 2GiB", "--cpu-memory is given twice"},
                                                       {"-m n " + kBatch, "--model is given twice"},
                                                       {kBatch + "--model=n", "--model is given twice"},
                                                       {kBatch + "--json=a --json=b", "--json is given twice"},
                                                       {kBatch + "--config a --config b", "--config is given twice"},
                                                       {"inspect a --model b", "--model is given twice"},
                                                       {"generate -m m --temperature 0 --temperature 1 x", "--temperature is given twice"}};
  for (const auto& [line, message] : wrong) EXPECT_THAT(said(words_of(line), kExitUsage), HasSubstr(message)) << line;
  // Several values, no value, and a value that looks like a flag.
  EXPECT_THAT(parsed<GenerateOptions>("generate -m m --stop a --stop b x").params.stop, testing::ElementsAre("a", "b"));
  EXPECT_TRUE(parsed<RunBatchOptions>(kBatch + "--overwrite --overwrite").overwrite);
  EXPECT_THAT(parsed<GenerateOptions>("generate -m m --stop --model x").params.stop, testing::ElementsAre("--model"));
  // What stands in for a flag is no flag that is given.
  auto result = parse_command_line(words_of(kBatch + "--threads 4"), {"FLEXGEN_THREADS=2"});
  EXPECT_EQ(std::get<RunBatchOptions>(std::get<Command>(result)).engine.threads, 4);
}

TEST(Options, EveryCommandWithAModelTakesItsRevisionAndFieldsToIgnore) {
  for (const char* line :
       {"run-batch -m m -i in -o out", "generate -m m x", "inspect m", "bench -m m", "eval -m m --task t", "plan -m m", "doctor --measure -m m"}) {
    auto result = parse(std::string(line) + " --revision v1 --ignore-config-field a --ignore-config-field b.c");
    ASSERT_EQ(result.index(), 0u) << std::get<CommandText>(result).text;
    const ModelFlags flags = std::visit(
        [&](const auto& options) -> ModelFlags {
          if constexpr (requires { options.engine; }) return options.engine.model;
          else if constexpr (requires { options.model_flags; }) return options.model_flags;
          else return {};
        },
        std::get<Command>(result));
    EXPECT_EQ(flags.revision, "v1") << line;
    EXPECT_THAT(flags.ignored_config_fields, testing::ElementsAre("a", "b.c")) << line;
  }
  EXPECT_THAT(said(words_of("doctor --measure --revision v1"), kExitUsage), HasSubstr("--revision goes with --model"));
}

TEST(Options, JsonIsTheSameEverywhere) {
  for (const char* line :
       {"run-batch -m m -i in -o out", "generate -m m x", "inspect m", "bench -m m", "eval -m m --task t", "plan -m m", "merge -i i -o o", "doctor"})
    for (const char* json : {" --json", " --json=f"}) {
      auto result = parse(std::string(line) + json);
      ASSERT_EQ(result.index(), 0u) << std::get<CommandText>(result).text;
      std::visit(
          [&](const auto& options) {
            if constexpr (requires { options.json; }) {
              EXPECT_TRUE(options.json) << line;
              EXPECT_EQ(options.json_file, std::string(json) == " --json" ? "" : "f") << line;
            } else ADD_FAILURE() << line;
          },
          std::get<Command>(result));
    }
  EXPECT_EQ(parsed<InspectOptions>("inspect --json dir").model, "dir");
  EXPECT_EQ(parsed<PlanOptions>("plan -m m --json f").json_file, "f");
  EXPECT_THAT(said(words_of("generate -m m x --json f"), kExitUsage), HasSubstr("--json takes a file as --json=f"));
}

TEST(Options, TheEnvironmentStandsInForFlags) {
  auto with = [](const std::vector<std::string>& words, const std::vector<std::string>& environment, GeneralFlags* general = nullptr) {
    auto result = parse_command_line(words, environment, general);
    if (auto* text = std::get_if<CommandText>(&result)) ADD_FAILURE() << text->text;
    return std::get<RunBatchOptions>(std::get<Command>(result));
  };
  const std::vector<std::string> environment{"FLEXGEN_MODEL=m", "FLEXGEN_CPU_MEMORY=2GiB", "FLEXGEN_OVERWRITE=yes", "FLEXGEN_EFFICIENCY=0", "FLEXGEN_QUIET=1",
                                             "HOME=/x",         "FLEXGEN_THREADS=",        "FLEXGEN_STOP=x"};
  GeneralFlags general;
  auto options = with({"run-batch", "-i", "in", "-o", "out"}, environment, &general);
  EXPECT_EQ(options.model, "m");
  EXPECT_EQ(options.engine.cpu_memory_bytes, 2 * kGiB);
  EXPECT_TRUE(options.overwrite);
  EXPECT_FALSE(options.efficiency);
  EXPECT_TRUE(general.quiet);
  EXPECT_THAT(general.warnings, testing::IsEmpty());
  EXPECT_EQ(with({"run-batch", "-i", "in", "-o", "out", "-m", "n"}, environment).model, "n") << "what is typed counts";
  auto place = parse_command_line({"inspect", "n"}, environment);
  ASSERT_EQ(place.index(), 0u) << std::get<CommandText>(place).text;
  EXPECT_EQ(std::get<InspectOptions>(std::get<Command>(place)).model, "n") << "also by its place";
  EXPECT_EQ(parse_command_line(words_of("eval -m m --task t"), {"FLEXGEN_PERPLEXITY=p"}).index(), 0u) << "and before what does not go with it";
  EXPECT_EQ(parse_command_line({"inspect", "n", "--verbose"}, environment, &general).index(), 0u);
  EXPECT_FALSE(general.quiet);
  for (auto [value, file] : {std::pair{"FLEXGEN_JSON=1", ""}, {"FLEXGEN_JSON=f", "f"}}) {
    auto json = with(words_of(kBatch), {value});
    EXPECT_TRUE(json.json);
    EXPECT_EQ(json.json_file, file);
  }
  EXPECT_FALSE(with(words_of(kBatch), {"FLEXGEN_JSON=no"}).json);
  with(words_of(kBatch), {"FLEXGEN_CPU_MEMROY=1GiB", "FLEXGEN_CACHE_DIR=/c"}, &general);
  ASSERT_EQ(general.warnings.size(), 1u);
  EXPECT_THAT(general.warnings[0], HasSubstr("FLEXGEN_CPU_MEMROY is none that flexgen knows; did you mean FLEXGEN_CPU_MEMORY?"));
  EXPECT_THAT(said(words_of(kBatch), kExitUsage, {"FLEXGEN_THREADS=two"}), HasSubstr("(from FLEXGEN_THREADS)"));
  EXPECT_THAT(said(words_of(kBatch), kExitUsage, {"FLEXGEN_CPU_MEMORY=six"}), HasSubstr("(from FLEXGEN_CPU_MEMORY)"));
  EXPECT_THAT(said(words_of(kBatch), kExitUsage, {"FLEXGEN_OVERWRITE=maybe"}), HasSubstr("FLEXGEN_OVERWRITE: 'maybe' is neither true nor false"));
  EXPECT_EQ(parse_command_line({"doctor"}, environment).index(), 0u) << "what is for other commands does no harm";
}

TEST(Options, AFileStandsInForFlags) {
  TemporaryDirectory directory;
  auto file = [&](const std::string& text) {
    std::ofstream(directory.file("job.toml")) << text;
    return directory.file("job.toml");
  };
  auto parse_with = [&](const std::string& text, std::vector<std::string> words, const std::vector<std::string>& environment = {}) {
    words.insert(words.end(), {"--config", file(text)});
    return parse_command_line(words, environment);
  };
  auto result =
      parse_with("model = \"m\"\ncpu-memory = \"1GiB\"\nthreads = 3\n[run-batch]\noverwrite = true\nkv_cache = \"0:100:0\"\n[generate]\nmax-tokens = 5\n",
                 {"run-batch", "-i", "in", "-o", "out", "--threads", "4"}, {"FLEXGEN_CPU_MEMORY=2GiB"});
  ASSERT_EQ(result.index(), 0u) << std::get<CommandText>(result).text;
  auto options = std::get<RunBatchOptions>(std::get<Command>(result));
  EXPECT_EQ(options.model, "m");
  EXPECT_EQ(options.engine.threads, 4) << "the command line before the file";
  EXPECT_EQ(options.engine.cpu_memory_bytes, 2 * kGiB) << "the environment before the file";
  EXPECT_TRUE(options.overwrite);
  EXPECT_EQ(options.engine.policy.kv_cache, (Fractions{0, 1, 0}));
  result = parse_with("stop = [\"a#\", '\\n', \"\\n\"]\ntemperature = 0.5", {"generate", "-m", "m", "x"});
  ASSERT_EQ(result.index(), 0u) << std::get<CommandText>(result).text;
  EXPECT_THAT(std::get<GenerateOptions>(std::get<Command>(result)).params.stop, testing::ElementsAre("a#", "\\n", "\n"));
  EXPECT_EQ(std::get<GenerateOptions>(std::get<Command>(result)).params.temperature, 0.5);
  GeneralFlags general;
  result = parse_command_line(words_of(kBatch + "--config " + file("threads = 3\n[run-batch]\nthreads = 4")), {}, &general);
  EXPECT_EQ(std::get<RunBatchOptions>(std::get<Command>(result)).engine.threads, 4) << "what is for the command alone before the rest";
  EXPECT_THAT(general.notes, testing::ElementsAre(HasSubstr("--threads 4 (from ")));
  struct {
    const char *text, *message;
  } kWrong[] = {{"help = true", "line 1: 'help' is for the command line alone"},
                {"cpu-memroy = 1", "line 1: 'cpu-memroy' is no flag of run-batch; did you mean --cpu-memory?"},
                {"[run-bach]\nthreads = 1", "did you mean run-batch?"},
                {"[generate]\ntop-kk = 1", "'top-kk' is no flag of generate"},
                {"threads = \"two\"", "job.toml: threads)"},
                {"max-tokens = 4", "'max-tokens' is no flag of run-batch, but of map, generate, chat, eval; put it below [map]"},
                {"config = \"x\"", "'config' is for the command line alone"},
                {"threads = 1\nthreads = 2", "line 2: this is no TOML"},
                {"cpu-memory = \"1GiB\"\ncpu_memory = \"2GiB\"", "line 2: --cpu-memory is there twice"},
                {"\nthreads = [1, 2]", "--threads takes one value"},
                {"overwrite = []", "--overwrite takes one value"},
                {"threads = {a = 1}", "there is no command 'threads'"},
                {"[run-batch]\nthreads = {a = 1}", "line 2: threads: a flag takes a text"},
                {"threads = 1979-05-27", "threads: a flag takes a text"},
                {"threads 3", "line 1: this is no TOML"},
                {"error-output = \"\"", "--error-output: the value is empty (from "},
                {"disk-dir = \"/tmp\\u0000x\"", "line 1: disk-dir: a text with \\u0000 cannot be typed"}};
  std::string deep = "threads = 1\n";
  for (int i = 0; i < 100000; ++i) deep += "a.";
  EXPECT_THAT(std::get<CommandText>(parse_with(deep + "a = 1", words_of(kBatch))).text, HasSubstr("line 2: a key has more than 8 dots"));
  EXPECT_EQ(parse_with("served-model-name = \"a.b.c.d.e.f.g.h.i.j.k\\\"l.m\"\n# 1.2.3.4.5.6.7.8.9.0", words_of(kBatch)).index(), 0u) << "dots of texts";
  for (const auto& [text, message] : kWrong) {
    auto wrong = parse_with(text, words_of(kBatch));
    ASSERT_EQ(wrong.index(), 1u) << text;
    EXPECT_THAT(std::get<CommandText>(wrong).text, HasSubstr(message));
  }
  EXPECT_THAT(said(words_of(kBatch + "--config /no/such.toml"), kExitFailed), HasSubstr("/no/such.toml: cannot"));
  EXPECT_THAT(said(words_of(kBatch + "--config " + directory.path()), kExitUsage), HasSubstr("this is a folder"));
}

TEST(Options, ManPagesAndCompletionsHaveEveryFlag) {
  for (const std::string& command : kCommands) {
    const std::string page = said({"man-page", command}, kExitDone), help = said({command, "--help-all"}, kExitDone);
    EXPECT_TRUE(page.starts_with(".TH FLEXGEN")) << page.substr(0, 80);
    std::istringstream lines(help);
    for (std::string line; std::getline(lines, line);)
      for (size_t at = line.find("--"); line.starts_with("  -") && at < 28; at = line.find("--", at + 2)) {
        const std::string flag = line.substr(at, line.find_first_of(" ,[=", at) - at);
        std::string roff = flag;
        for (size_t dash = roff.find('-'); dash != std::string::npos; dash = roff.find('-', dash + 2)) roff.insert(dash, "\\");
        EXPECT_THAT(page, HasSubstr(roff)) << command;
        for (const char* shell : {"bash", "zsh"}) EXPECT_THAT(said({"completion", shell}, kExitDone), HasSubstr(flag));
        EXPECT_THAT(said({"completion", "fish"}, kExitDone), HasSubstr("-l " + flag.substr(2)));
      }
  }
  EXPECT_TRUE(said({"man-page"}, kExitDone).starts_with(".TH FLEXGEN 1"));
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

TEST(Options, HelpSaysWhatEachExitCodeMeans) {
  const auto help = std::get<CommandText>(parse_command_line({"help", "run-batch"})).text;
  for (const char* code : {"\n  0   ", "\n  1   ", "\n  2   ", "\n  3   ", "\n  75  "}) EXPECT_THAT(help, testing::HasSubstr(code));
}

}  // namespace
}  // namespace flexgen::options_test
