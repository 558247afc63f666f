// The commands themselves, on a small real checkpoint.

#include "cli/commands.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "batch/fake_runner.h"
#include "cli/plan_table.h"
#include "generation/list_source.h"
#include "io/packed_bytes.h"
#include "io/whole_file.h"
#include "measure/lane_peaks.h"
#include "model/test_as_gguf.h"
#include "model/test_poisoned_checkpoint.h"

namespace flexgen::commands_test {
namespace {

using Json = nlohmann::json;

const std::string kModel = std::string(FLEXGEN_SOURCE_DIR) + "/../shared/models/tinystories-656k";

template <typename Call>
std::string stdout_of(Call call) {
  setup_logging();  // to standard error, as in the program
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  auto captured = [] {
    std::fflush(stdout);
    testing::internal::GetCapturedStderr();
    return testing::internal::GetCapturedStdout();
  };
  try {
    call();
  } catch (...) {
    captured();
    throw;
  }
  return captured();
}

/// The message that a call ends with.
std::string said(const std::function<void()>& call) {
  try {
    stdout_of(call);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

class Commands : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kModel)) GTEST_SKIP() << "no " << kModel;
    engine_.cpu_memory_bytes = 64 * kMiB;
    engine_.hardware = "generic";  // nothing is measured
  }
  TemporaryDirectory directory_;
  EngineFlags engine_;
};

TEST_F(Commands, Inspect) {
  Json json = Json::parse(stdout_of([] { inspect_command({kModel, true}); }));
  EXPECT_EQ(json["model_type"], "llama");
  EXPECT_EQ(json["layers"], 2);
  EXPECT_EQ(json["parameters"], 656000);
  EXPECT_EQ(json["kv_bytes_per_token"], 2 * 2 * 4 * 16 * 2);  // layers, keys and values, heads, head size, 16 bits
  EXPECT_THROW(inspect_command({directory_.path(), false}), Error);
}

TEST(InspectCommand, SaysHowMuchOfAMixtureATokenUses) {
  const std::string model = std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/mixtral";
  const Json json = Json::parse(stdout_of([&] { inspect_command({model, true}); }));
  EXPECT_EQ(json["experts"], 4);
  EXPECT_EQ(json["experts_per_token"], 2);
  const int64_t expert = 3 * 32 * 48, rest = 2 * 96 * 32 + 32 + 2 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 4 * 32);  // of two blocks
  EXPECT_EQ(json["parameters"], rest + 2 * 4 * expert);
  EXPECT_EQ(json["parameters_per_token"], rest + 2 * 2 * expert);
}

TEST(InspectCommand, SaysWhatWindowsKeep) {
  const std::string model = std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/gemma3";
  const Json json = Json::parse(stdout_of([&] { inspect_command({model, true}); }));
  EXPECT_EQ(json["kv_bytes_per_token"], 3 * 2 * 2 * 16 * 2);
  EXPECT_EQ(json["kv_bytes_per_token_of_windows"], (Json{{"9", 2 * 2 * 2 * 16 * 2}}));
}

TEST(InspectCommand, ShowsShippedFormats) {
  const std::string fixtures = std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/quantized-";
  for (auto [name, dtype] :
       std::map<std::string, std::string>{{"fp8", "fp8"}, {"packed4", "int4-packed"}, {"gptq", "int4-gptq"}, {"awq", "int4-awq"}, {"mxfp4", "fp4-scaled"}}) {
    const Json json = Json::parse(stdout_of([&] { inspect_command({fixtures + name, true}); }));
    EXPECT_EQ(json["parameters"], 2 * 208 * 64 + 64 + 2 * (2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)) << name;
    EXPECT_TRUE(json["dtypes"].contains(dtype)) << json["dtypes"];
    EXPECT_EQ(json["bytes"], json["dtypes"][dtype].get<int64_t>() + json["dtypes"]["bf16"].get<int64_t>());
  }
}

TEST_F(Commands, GenerateContinues) {
  GenerateOptions options{kModel, "", {}, engine_};
  options.params.max_tokens = 24;
  options.params.temperature = 0;
  for (const char* backend : {"reference", "cpu"}) {
    options.engine.backend = backend;
    EXPECT_EQ(stdout_of([&] { generate_command(options); }).substr(0, 63), "Once upon a time, there was a little girl named Lily. She had a") << backend;
  }
  options.params.max_tokens = 512;
  EXPECT_THROW(generate_command(options), Error);  // bos and 512 are more than the positions
}

TEST(BenchCommand, MeasuresAGguf) {
  const std::string folder = std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/llama";
  TemporaryDirectory directory;
  BenchOptions bench;
  bench.model = directory.file("m.gguf");
  write_text(bench.model, as_gguf(folder, Json::parse(read_whole_file(folder + "/config.json")), "llama", {}));
  bench.engine.cpu_memory_bytes = 64 * kMiB;
  bench.engine.hardware = "generic";
  bench.prompt_len = bench.gen_len = {3, 3};
  bench.num_prompts = 2;
  bench.no_efficiency = true;
  bench.json = true;
  EXPECT_GT(Json::parse(stdout_of([&] { bench_command(bench); }))["generated_tokens_per_s"], 0);
}

// A NaN in one weight: no command makes a figure or an answer of it, and run-batch says which lines.
TEST_F(Commands, LogitsThatAreNotFiniteAreNoAnswer) {
  const std::string model = directory_.file("nan"), text = directory_.file("text"), in = directory_.file("in.jsonl");
  poison_checkpoint(kModel, model, "lm_head.weight", std::nanf(""), [](int64_t i) { return i == 2047 * 128; });
  GenerateOptions generate{model, "Once upon", {}, engine_};
  EXPECT_THAT(said([&] { generate_command(generate); }), testing::HasSubstr("not finite"));
  write_text(text, "Once upon a time there was a dog.");
  EvalOptions eval;
  eval.model = model;
  eval.engine = engine_;
  eval.perplexity_file = text;
  EXPECT_THAT(said([&] { eval_command(eval); }), testing::HasSubstr("1 of 1 windows have logits that are not finite"));
  eval.perplexity_file.clear();
  eval.task_file = directory_.file("task");
  write_text(eval.task_file, R"({"prompt": "Once", "answer": "x"})"
                             "\n");
  EXPECT_THAT(said([&] { eval_command(eval); }), testing::HasSubstr("1 of 1 lines have logits that are not finite"));
  BenchOptions bench;
  bench.model = model;
  bench.engine = engine_;
  bench.prompt_len = bench.gen_len = {3, 3};
  bench.num_prompts = 2;
  bench.no_efficiency = true;
  EXPECT_THAT(said([&] { bench_command(bench); }), testing::HasSubstr("2 of 2 sequences"));
  write_text(in, R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"Once"}})"
                 "\n");
  RunBatchOptions batch;
  batch.model = model;
  batch.input = in;
  batch.output = directory_.file("out.jsonl");
  batch.engine = engine_;
  for (int run = 0; run < 2; ++run) EXPECT_EQ(run_batch_command(batch), kExitFailed);  // the second finds it done
  EXPECT_EQ(Json::parse(read_text(batch.output))["error"]["code"], "not_finite");
}

TEST_F(Commands, BatchIsTheSameUnderEveryPolicyAndAfterAStop) {
  std::string in = directory_.file("in.jsonl"), text;
  for (int i = 0; i < 12; ++i)
    text +=
        fmt::format(
            R"({{"custom_id":"r{}","method":"POST","url":"/v1/completions","body":{{"prompt":"Once upon {}","max_tokens":{},"temperature":{},"n":{},"logprobs":{},"echo":{}}}}})",
            i, std::string(static_cast<size_t>(i), 'a'), 3 + i, i % 2, 1 + i % 2, i % 3 ? "null" : "2", i % 4 == 0) +
        "\n";
  write_text(in, text + "oops\n");
  RunBatchOptions options;
  options.model = kModel;
  options.input = in;
  options.output = directory_.file("a.jsonl");
  options.engine = engine_;
  EXPECT_EQ(run_batch_command(options), kExitDone);
  const auto expected = sorted_lines(read_text(options.output));
  ASSERT_EQ(expected.size(), 13u);

  options.output = directory_.file("b.jsonl");
  options.engine.disk_directory = directory_.path();
  options.engine.policy.weights = Fractions{0, 0.3, 0.7};
  options.engine.policy.kv_cache = Fractions{0, 0.5, 0.5};
  options.engine.policy.micro_batch_size = 3;
  options.engine.policy.num_micro_batches = 2;
  EXPECT_EQ(run_batch_command(options), kExitDone);
  EXPECT_EQ(sorted_lines(read_text(options.output)), expected);

  const std::string whole = read_text(options.output);
  for (size_t part = 1; part < 4; ++part) {
    write_text(options.output, whole.substr(0, whole.size() * part / 4));
    options.engine.policy.micro_batch_size = 1 + static_cast<int64_t>(part);
    EXPECT_EQ(run_batch_command(options), kExitDone);
    EXPECT_EQ(sorted_lines(read_text(options.output)), expected) << part;
  }
  options.engine.backend = "reference";
  EXPECT_THROW(run_batch_command(options), Error);  // other answers
}

/// A model that lies in a Hub cache, with a field in its config.json that nobody knows.
class CachedModel : public testing::Test {
 protected:
  CachedModel() {
    namespace fs = std::filesystem;
    const fs::path entry = directory_.file("models--me--demo"), snapshot = entry / "snapshots/0123abcd";
    fs::create_directories(snapshot);
    fs::create_directories(entry / "refs");
    for (const char* name : {"model.safetensors", "tokenizer.json", "generation_config.json"})
      fs::create_symlink(std::string(FLEXGEN_SOURCE_DIR) + "/demo/model/" + name, snapshot / name);
    Json config = Json::parse(read_text(std::string(FLEXGEN_SOURCE_DIR) + "/demo/model/config.json"));
    config["my_note"] = 1;
    config["my_other_note"] = 1;
    write_text((snapshot / "config.json").string(), config.dump());
    write_text((entry / "refs/main").string(), "0123abcd");
    write_text((entry / "refs/old").string(), "0123abcd");
    setenv("HF_HUB_CACHE", directory_.path().c_str(), 1);
    engine_.cpu_memory_bytes = 64 * kMiB;
    engine_.hardware = "generic";
    engine_.model.revision = "old";
    engine_.model.ignored_config_fields = {"my_other_note", "my_note"};
  }
  ~CachedModel() override { unsetenv("HF_HUB_CACHE"); }
  TemporaryDirectory directory_;
  EngineFlags engine_;
};

TEST_F(CachedModel, EveryCommandFindsItAndIgnoresTheField) {
  const std::string text = directory_.file("text"), requests = directory_.file("in.jsonl"), dummies = directory_.file("dummies");
  write_text(text, "Inv. 427050 | dated Sep 7, 2016 | amount due EUR 212.84");
  write_text(requests, R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"Inv.","max_tokens":2}})"
                       "\n");
  const auto with = [&](auto options) {
    options.model = "me/demo";
    if constexpr (requires { options.engine; }) options.engine = engine_;
    else options.model_flags = engine_.model;
    return options;
  };
  const auto run_all = [&](const std::function<void(std::function<int()>)>& run) {
    run([&] { return inspect_command(with(InspectOptions{})); });
    GenerateOptions generate = with(GenerateOptions{});
    generate.prompt = "Inv.";
    generate.params.max_tokens = 1;
    run([&] { return generate_command(generate); });
    EvalOptions eval = with(EvalOptions{});
    eval.perplexity_file = text;
    run([&] { return eval_command(eval); });
    PlanOptions plan = with(PlanOptions{});
    plan.prompt_len = plan.gen_len = {8, 8};
    run([&] { return plan_command(plan); });
    plan.engine.kv_cache_dtype = "auto,int4";
    plan.input = requests;
    run([&] { return plan_command(plan); });
    BenchOptions bench = with(BenchOptions{});
    bench.prompt_len = bench.gen_len = {3, 3};
    bench.num_prompts = 1;
    bench.no_efficiency = true;
    run([&] { return bench_command(bench); });
    bench.load_format = "dummy";
    bench.dummy_directory = dummies;
    bench.engine.kv_cache_dtype = "auto,int4";
    run([&] { return bench_command(bench); });
    RunBatchOptions batch = with(RunBatchOptions{});
    batch.input = requests;
    batch.output = directory_.file("out.jsonl");
    run([&] { return run_batch_command(batch); });
    batch.output = directory_.file("chosen.jsonl");
    batch.engine.kv_cache_dtype = "auto,int4";
    run([&] { return run_batch_command(batch); });
  };
  run_all([](std::function<int()> command) { stdout_of([&] { EXPECT_EQ(command(), kExitDone); }); });
  EXPECT_EQ(Json::parse(read_text(directory_.file("out.jsonl")))["response"]["body"]["model"], "me/demo");
  EXPECT_THAT(Json::parse(read_text(directory_.file("out.jsonl.job")))["model_folder"].get<std::string>(),
              testing::EndsWith("models--me--demo/snapshots/0123abcd"));
  EXPECT_TRUE(std::filesystem::exists(dummies + "/dummy-me-demo-bf16/config.json"));

  engine_.model.ignored_config_fields = {"my_note"};
  run_all([](std::function<int()> command) { EXPECT_THAT(said([&] { command(); }), testing::HasSubstr("--ignore-config-field my_other_note")); });
  engine_.model.ignored_config_fields = {"my_note", "my_other_note"};
  engine_.model.revision = "new";
  run_all([](std::function<int()> command) { EXPECT_THAT(said([&] { command(); }), testing::HasSubstr("without the revision 'new'; it has main, old")); });
}

TEST_F(CachedModel, AJobGoesOnWithTheSameIgnoredFieldsAlone) {
  RunBatchOptions batch;
  batch.model = "me/demo";
  batch.engine = engine_;
  batch.input = directory_.file("in.jsonl");
  batch.output = directory_.file("out.jsonl");
  write_text(batch.input, R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"Inv.","max_tokens":2}})"
                          "\n");
  stdout_of([&] { EXPECT_EQ(run_batch_command(batch), kExitDone); });
  EXPECT_EQ(Json::parse(read_text(batch.output + ".job"))["options"]["list of ignored config fields"], "my_note, my_other_note");
  batch.engine.model.ignored_config_fields = {"my_note", "my_other_note", "my_note"};
  stdout_of([&] { EXPECT_EQ(run_batch_command(batch), kExitDone); });  // in another order
  // The fields are of no consequence to the fingerprint here: the file is the same.
  batch.engine.model.ignored_config_fields = {"my_note", "my_other_note", "use_cache"};
  EXPECT_THAT(said([&] { run_batch_command(batch); }),
              testing::AllOf(testing::HasSubstr("another list of ignored config fields"), testing::HasSubstr("my_note, my_other_note instead of")));
  // Another folder is told.
  const std::string other = directory_.file("other");
  std::filesystem::copy(directory_.file("models--me--demo/snapshots/0123abcd"), other);
  Json config = Json::parse(read_text(other + "/config.json"));
  config.erase("my_other_note");
  write_text(other + "/config.json", config.dump());
  batch.model = other;
  batch.engine.model = {"", {"my_note"}};
  EXPECT_THAT(said([&] { run_batch_command(batch); }),
              testing::AllOf(testing::HasSubstr("another model ("), testing::HasSubstr("snapshots/0123abcd; this one is " + other)));
}

/// The demo's model without its tokenizer.
TEST(WithoutTokenizer, PromptsOfTokenIdsAreAnswered) {
  namespace fs = std::filesystem;
  TemporaryDirectory directory;
  const std::string bare = directory.file("bare"), whole = std::string(FLEXGEN_SOURCE_DIR) + "/demo/model";
  fs::create_directories(bare);
  for (const char* name : {"model.safetensors", "config.json", "generation_config.json"}) fs::create_symlink(whole + "/" + name, bare + "/" + name);
  RunBatchOptions batch;
  batch.engine.cpu_memory_bytes = 64 * kMiB;
  batch.engine.hardware = "generic";
  batch.input = directory.file("in.jsonl");
  const auto line = [](const std::string& id, const std::string& body) {
    return R"({"custom_id":")" + id + R"(","method":"POST","url":"/v1/completions","body":{"max_tokens":3,"temperature":0,)" + body + "}}\n";
  };
  write_text(batch.input, line("a", R"("prompt":[1,5,9],"logprobs":0)") + line("b", R"("prompt":[1,5,9],"return_token_ids":true,"echo":true)"));
  const auto answers_of = [&](const std::string& model, bool skip, const std::string& name) {
    batch.model = model;
    batch.skip_tokenizer = skip;
    batch.output = directory.file(name);
    stdout_of([&] { EXPECT_EQ(run_batch_command(batch), kExitDone); });
    std::map<std::string, Json> choices;
    for (const std::string& text : sorted_lines(read_text(batch.output))) {
      const Json record = Json::parse(text);
      choices[record["custom_id"]] = record["response"]["body"]["choices"][0];
    }
    return choices;
  };
  auto with = answers_of(whole, false, "with.jsonl"), without = answers_of(bare, false, "without.jsonl"), skipped = answers_of(whole, true, "skipped.jsonl");
  ASSERT_EQ(with.size(), 2u);
  EXPECT_EQ(with["b"]["token_ids"].size(), 3u);
  EXPECT_NE(with["b"]["text"], "");
  EXPECT_EQ(without["a"]["token_ids"], with["b"]["token_ids"]);
  EXPECT_EQ(without["b"]["prompt_token_ids"].dump(), "[1,5,9]");
  EXPECT_EQ(without["a"]["text"], "");
  EXPECT_EQ(without["a"]["logprobs"]["tokens"][0], "token_id:" + std::to_string(with["b"]["token_ids"][0].get<int>()));
  EXPECT_EQ(without, skipped);
  EXPECT_EQ(Json::parse(read_text(directory.file("skipped.jsonl.job")))["options"]["tokenizer"], "none");
  batch.skip_tokenizer = false;  // answers with texts now
  EXPECT_THAT(said([&] { run_batch_command(batch); }), testing::HasSubstr("answers from another tokenizer (none instead of the default)"));
  batch.engine.kv_cache_dtype = "auto,int4";  // the lines are read before the engine is there
  EXPECT_EQ(answers_of(bare, false, "chosen.jsonl").size(), 2u);

  PlanOptions plan;
  plan.model = bare;
  plan.engine = batch.engine;
  plan.input = batch.input;
  stdout_of([&] { EXPECT_EQ(plan_command(plan), kExitDone); });
  plan.chat_template = batch.chat_template = directory.file("t.jinja");
  for (const std::string& refused : {said([&] { plan_command(plan); }), said([&] { run_batch_command(batch); })})
    EXPECT_THAT(refused, testing::HasSubstr("--chat-template " + plan.chat_template + ": without a tokenizer"));
  plan.chat_template = batch.chat_template = "";
  write_text(batch.input, line("a", R"("prompt":[1,5,9],"stop":"x")") + line("b", R"("prompt":"text")") + line("c", R"("prompt":[1],"bad_words":["x"])"));
  EXPECT_THAT(said([&] { plan_command(plan); }), testing::HasSubstr("no tokenizer"));
  batch.engine.kv_cache_dtype = "auto";
  batch.model = bare;
  batch.output = directory.file("texts.jsonl");
  stdout_of([&] { run_batch_command(batch); });
  for (const std::string& text : sorted_lines(read_text(batch.output)))
    EXPECT_THAT(Json::parse(text)["error"]["message"].get<std::string>(), testing::HasSubstr("the model has no tokenizer"));
  batch.engine.kv_cache_dtype = "auto,int4";  // there is nothing to choose by
  batch.output = directory.file("none.jsonl");
  stdout_of([&] { EXPECT_EQ(run_batch_command(batch), kExitBadLines); });
  EXPECT_EQ(sorted_lines(read_text(batch.output)).size(), 3u);
  batch.engine.kv_cache_dtype = "auto";

  GenerateOptions generate{bare, "Inv.", {}, batch.engine};
  EXPECT_THAT(said([&] { generate_command(generate); }), testing::HasSubstr("no tokenizer"));
}

/// Of the model that ships in the repository.
class Eval : public testing::Test {
 protected:
  Eval() {
    options_.model = std::string(FLEXGEN_SOURCE_DIR) + "/demo/model";
    options_.engine.cpu_memory_bytes = 64 * kMiB;
    options_.json = true;
    options_.json_file = directory_.file("figures.json");
  }
  Json run(const EvalOptions& options) {
    stdout_of([&] { EXPECT_EQ(eval_command(options), kExitDone); });
    return Json::parse(read_text(options.json_file));
  }
  TemporaryDirectory directory_;
  EvalOptions options_;
};

TEST_F(Eval, PerplexityIsThatOfThePromptScores) {
  const std::string text = "Inv. 427050 | dated Sep 7, 2016 | amount due EUR 212.84 | by Rokar Office | paid\n";
  options_.perplexity_file = directory_.file("text");
  write_text(options_.perplexity_file, text + text + text);
  options_.window = 50;
  options_.stride = 13;
  const Json figures = run(options_);

  // The same windows, one by one.
  EngineOptions plain = engine_options(options_.engine, options_.model);
  double log_likelihood = 0;
  int64_t scored = 0;
  std::vector<int32_t> tokens;
  {
    Engine engine(plain);
    tokens = engine.tokenizer()->encode(text + text + text, false);
  }
  const auto size = static_cast<int64_t>(tokens.size());
  for (int64_t begin = 0, done = 0; done < size; begin += 13) {
    Engine engine(plain);
    Request request;
    request.prompt = {2};
    const int64_t end = std::min(begin + 49, size);
    request.prompt.insert(request.prompt.end(), tokens.begin() + begin, tokens.begin() + end);
    request.params.max_tokens = 0;
    request.params.echo = true;
    request.params.top_logprobs = 0;
    Workload workload;
    workload.add(static_cast<int64_t>(request.prompt.size()), 0, false, true);
    engine.prepare(workload);
    struct One : CompletionSink {
      void accept(Completion done) override { completion = std::move(done); }
      Completion completion;
    } one;
    ListSource source({request});
    engine.run(source, one, std::atomic<bool>{false});
    for (; done < end; ++done, ++scored) log_likelihood += one.completion.prompt_logprobs.at(static_cast<size_t>(1 + done - begin)).logprob;
  }
  EXPECT_EQ(figures["tokens_scored"], scored);
  EXPECT_NEAR(figures["perplexity"].get<double>(), std::exp(-log_likelihood / static_cast<double>(scored)), 1e-9);
  EXPECT_GT(figures["perplexity"].get<double>(), 1);

  options_.engine.disk_directory = directory_.path();
  options_.engine.policy.weights = options_.engine.policy.kv_cache = Fractions{0, 0, 1};
  options_.engine.policy.micro_batch_size = 3;
  EXPECT_EQ(run(options_)["perplexity"], figures["perplexity"]);
}

// A long text is turned into tokens as far as is wanted.
TEST_F(Eval, TheBeginningOfALongText) {
  const std::string text = "Inv. 427050 | dated Sep 7, 2016 | amount due EUR 212.84 | by Rokar Office | paid\n";
  std::string some, many;
  for (int i = 0; i < 10; ++i) some += text;
  for (int i = 0; i < 20000; ++i) many += text;
  options_.perplexity_file = directory_.file("text");
  options_.text_tokens = 150;
  write_text(options_.perplexity_file, some);
  const Json figures = run(options_);
  write_text(options_.perplexity_file, many);
  Json again = run(options_);
  EXPECT_EQ(again["perplexity"], figures["perplexity"]);
  EXPECT_EQ(again["tokens_scored"], figures["tokens_scored"]);
  options_.text_tokens = 0;
  std::filesystem::resize_file(options_.perplexity_file, (64 << 20) + 1);
  EXPECT_THAT(said([&] { eval_command(options_); }), testing::HasSubstr("--text-tokens for its beginning"));
}

TEST_F(Eval, TaskCountsLinesAndFields) {
  options_.task_file = directory_.file("task.jsonl");
  const std::string prompt = "dated 18 Jul 2018 | Sum: GBP 29,967.75 | Vadancor Cargo AG | inv no 7869-686\n=>";
  const Json right = {{"vendor", "Vadancor Cargo AG"}, {"invoice", "7869-686"}, {"date", "2018-07-18"}, {"currency", "GBP"}, {"total", "29967.75"}};
  Json wrong = right;
  wrong["currency"] = "XYZ";
  write_text(options_.task_file, Json{{"q", prompt}, {"a", right}}.dump() + "\n\n" + Json{{"q", prompt}, {"a", wrong}}.dump() + "\n");
  options_.prompt_field = "q";
  options_.answer_field = "a";
  options_.max_tokens = 96;
  const Json figures = run(options_);
  EXPECT_EQ(figures["lines"], 2);
  EXPECT_EQ(figures["exact"], 1) << "an object, in whatever order and with whatever blanks it is written";
  EXPECT_EQ(figures["fields"], 10);
  EXPECT_EQ(figures["fields_right"], 9);
  options_.limit = 1;
  EXPECT_EQ(run(options_)["lines"], 1);
  options_.limit = 0;
  // In any form that a batch file may have.
  const Json first = {{"q", prompt}, {"a", right}}, second = {{"q", prompt}, {"a", wrong}};
  std::string wide = "\xff\xfe";
  for (char c : first.dump() + "\n" + second.dump()) wide += std::string{c, '\0'};
  for (const std::string& text : {Json{first, second}.dump(), Json{first, second}.dump(1), first.dump(1) + second.dump(1),
                                  "\xef\xbb\xbf" + first.dump() + "\r\n" + second.dump(), gzipped(first.dump() + "\n" + second.dump() + "\n"), wide}) {
    write_text(options_.task_file, text);
    const Json again = run(options_);
    EXPECT_EQ(again["lines"], 2);
    EXPECT_EQ(again["fields_right"], 9);
  }
  write_text(options_.task_file, gzipped(first.dump()).substr(0, 40));
  EXPECT_THROW(eval_command(options_), Error);
}

TEST_F(Eval, ATextInAnyForm) {
  const std::string text = "Inv. 427050 | dated Sep 7, 2016 | amount due EUR 212.84 | by Rokar Office | paid\n";
  options_.perplexity_file = directory_.file("text");
  write_text(options_.perplexity_file, text);
  const Json figures = run(options_);
  for (const std::string& form : {gzipped(text), "\xef\xbb\xbf" + text}) {
    write_text(options_.perplexity_file, form);
    EXPECT_EQ(run(options_)["perplexity"], figures["perplexity"]);
  }
}

TEST_F(Eval, WhatCannotBeMeasuredIsRefusedByName) {
  auto refusal = [&](const EvalOptions& options) {
    std::string message;
    stdout_of([&] {
      try {
        eval_command(options);
      } catch (const Error& error) {
        message = error.what();
      }
    });
    return message;
  };
  using testing::HasSubstr;
  EvalOptions text = options_, task = options_;
  text.perplexity_file = directory_.file("missing");
  EXPECT_THAT(refusal(text), HasSubstr("missing"));
  text.perplexity_file = directory_.file("text");
  write_text(text.perplexity_file, "");
  EXPECT_THAT(refusal(text), HasSubstr("empty"));
  write_text(text.perplexity_file, "good \xff bad");
  EXPECT_THAT(refusal(text), HasSubstr("byte 6 is not valid UTF-8"));
  write_text(text.perplexity_file, "good text");
  text.window = 100000;
  EXPECT_THAT(refusal(text), HasSubstr("--window"));
  text.window = 10;
  text.stride = 10;
  EXPECT_THAT(refusal(text), HasSubstr("--stride"));
  task.task_file = directory_.file("task");
  for (auto [line, what] : {std::pair{"{\"prompt\": \"a\", \"answer\": 1}\nnonsense", "line 2"},
                            {"{\"answer\": 1}", "--prompt-field"},
                            {"{\"prompt\": \"a\"}", "--answer-field"}}) {
    write_text(task.task_file, line);
    EXPECT_THAT(refusal(task), HasSubstr(what));
  }
  task.max_tokens = 5000;
  write_text(task.task_file, "{\"prompt\": \"a\", \"answer\": 1}");
  EXPECT_THAT(refusal(task), HasSubstr("--max-tokens"));
}

TEST_F(Commands, Doctor) {
  Json json = Json::parse(stdout_of([&] { doctor_command({directory_.path(), true}); }));
  EXPECT_GT(json["cores"], 0);
  EXPECT_GT(json["memory_total_bytes"], 0);
  EXPECT_GT(json["disk_read_bytes_per_s"], 0);
  EXPECT_GT(json["disk_write_bytes_per_s"], 0);
}

TEST(DoctorCommand, NamesTheFlagOfAFolderThatIsNotThere) {
  TemporaryDirectory directory;
  for (const bool measure : {false, true}) {
    DoctorOptions options{directory.file("missing")};
    options.measure = measure;
    EXPECT_THAT(said([&] { doctor_command(options); }), testing::HasSubstr("--disk-dir " + options.disk_directory + ": there is no such directory"));
  }
}

TEST(LanePeaks, BoundIsTheBusiestResource) {
  RunReport report;
  report.elapsed_s = 100;
  report.lanes = {
      {LaneKind::kCompute, {60, 0, 1}}, {LaneKind::kDiskRead, {90, 140e9, 1}}, {LaneKind::kDiskLookup, {1, 10e9, 1}}, {LaneKind::kDiskWrite, {10, 5e9, 1}}};
  report.work.linear_flops = 40e12;
  report.work.kv_read_bytes = 100e9;
  Bound bound = bound_of(report, {1e12, 20e9, 2e9, 1e9});
  EXPECT_DOUBLE_EQ(bound.compute_s, 45);
  EXPECT_DOUBLE_EQ(bound.disk_read_s, 75);
  EXPECT_DOUBLE_EQ(bound.disk_write_s, 5);
  EXPECT_DOUBLE_EQ(bound.seconds(), 75);
  EXPECT_EQ(bound.busiest(), "disk read");
  report.work.weight_read_bytes = 1500e9;  // few rows a visit: memory's speed is their limit
  bound = bound_of(report, {1e12, 20e9, 2e9, 1e9});
  EXPECT_DOUBLE_EQ(bound.memory_s, 80);
  EXPECT_DOUBLE_EQ(bound.compute_s, 45);
  EXPECT_EQ(bound.busiest(), "memory read");

  LanePeaks peaks{0, 20e9, 2e9, 1e9};
  peaks.device = DevicePeaks{1e13, 2e11, 1e10, 5e9};
  report.lanes.insert(report.lanes.end(), {{LaneKind::kH2d, {90, 900e9, 1}}, {LaneKind::kH2dSmall, {1, 10e9, 1}}, {LaneKind::kD2h, {10, 50e9, 1}}});
  report.work.beside_kv_read_bytes = 40e9;
  bound = bound_of(report, peaks);
  EXPECT_DOUBLE_EQ(bound.compute_s, 4 + 0.3);
  EXPECT_DOUBLE_EQ(bound.memory_s, 7.5 + 0.3);
  EXPECT_DOUBLE_EQ(bound.cpu_s, 2);
  EXPECT_DOUBLE_EQ(bound.h2d_s, 91);
  EXPECT_DOUBLE_EQ(bound.d2h_s, 10);
  EXPECT_EQ(bound.busiest(), "h2d");
}

TEST(LanePeaks, AreTheBestThatIsSeen) {
  RunReport report;
  report.lanes = {{LaneKind::kCompute, {10, 0, 1}}, {LaneKind::kDiskRead, {5, 15e9, 1}}};
  report.work.weight_read_bytes = 250e9;
  report.work.kv_read_bytes = 90e9;
  report.work.beside_kv_read_bytes = 40e9;
  LanePeaks peaks{1e12, 20e9, 2e9, 1e9};
  settle_peaks(peaks, report, 1e9, 0);
  EXPECT_DOUBLE_EQ(peaks.ram_read_bytes_per_s, 30e9) << "by the run's products";
  EXPECT_DOUBLE_EQ(peaks.disk_read_bytes_per_s, 3e9) << "by the run's lane";
  peaks.ram_read_bytes_per_s = 40e9;
  settle_peaks(peaks, report, 1e9, 2.5e9);
  EXPECT_DOUBLE_EQ(peaks.ram_read_bytes_per_s, 40e9);
  EXPECT_DOUBLE_EQ(peaks.disk_read_bytes_per_s, 2.5e9) << "as much as is allowed";
}

TEST(PredictionTable, SaysForHowManyTokensItWas) {
  Prediction predicted;
  predicted.time_s = 60;
  predicted.generated_tokens = 9600;
  RunReport report;
  report.elapsed_s = 20;
  report.generated_tokens = 2400;
  EXPECT_THAT(prediction_table(predicted, report), testing::HasSubstr("tokens             9600       2400   -75%"));
  report.generated_tokens = 9600;
  EXPECT_THAT(prediction_table(predicted, report), testing::Not(testing::HasSubstr("tokens")));
  Workload job;
  job.add(10, 40, false, false);
  EXPECT_EQ(expectation_text(job), "all of their max_tokens");
  job.expect(0.5);
  EXPECT_EQ(expectation_text(job), "20 tokens on average");
}

PlanOptions plan_of_opt_1_3b(std::pair<int64_t, int64_t> prompt_len, std::pair<int64_t, int64_t> gen_len, int64_t num_prompts, int64_t cpu_memory_bytes) {
  PlanOptions options;
  options.model = "opt-1.3b";
  options.prompt_len = prompt_len;
  options.gen_len = gen_len;
  options.num_prompts = num_prompts;
  options.engine.hardware = "generic";
  options.engine.cpu_memory_bytes = cpu_memory_bytes;
  return options;
}

/// A block that is small because the spilled cache has no more room must not be blamed on RAM alone.
TEST(PlanCommand, SaysThatDiskSpaceIsShort) {
  TemporaryDirectory directory;
  PlanOptions options = plan_of_opt_1_3b({512, 512}, {32, 32}, 64, kGiB);
  options.engine.disk_directory = directory.path();
  auto text_with = [&](int64_t disk_space) {
    options.engine.disk_space_bytes = disk_space;
    return stdout_of([&] { EXPECT_EQ(plan_command(options), kExitDone); });
  };
  const std::string tight = text_with(kGiB);
  EXPECT_THAT(tight, testing::ContainsRegex("binding: .*the disk space for spilled data (100|[6-9][0-9])%"));
  EXPECT_THAT(tight, testing::ContainsRegex("[+]1[.]00 GiB disk space [(]--disk-space[)]: [1-9]"));
  EXPECT_THAT(text_with(400 * kGiB), testing::Not(testing::HasSubstr("disk space for spilled data")));
}

TEST(PlanCommand, SaysWhatARunNeeds) {
  PlanOptions options = plan_of_opt_1_3b({16, 16}, {4, 4}, 4, 2 * kGiB);
  options.engine.weight_dtype = "int4";
  const char* note = "note: --weight-dtype int4: a run makes these weights once and keeps them on disk, so it needs --disk-dir\n";
  EXPECT_THAT(stdout_of([&] { plan_command(options); }), testing::HasSubstr(note));
  TemporaryDirectory directory;
  options.engine.disk_directory = directory.path();
  EXPECT_THAT(stdout_of([&] { plan_command(options); }), testing::Not(testing::HasSubstr("note: ")));
}

/// Weights of a checkpoint have the types that they have.
TEST(PlanCommand, AndBenchRefuseATypeForACheckpoint) {
  PlanOptions plan;
  plan.model = std::string(FLEXGEN_SOURCE_DIR) + "/demo/model";
  plan.dtype = "f16";
  EXPECT_THAT(said([&] { plan_command(plan); }), testing::HasSubstr("--dtype f16: "));
  BenchOptions bench;
  bench.model = plan.model;
  bench.dtype = "f16";
  EXPECT_THAT(said([&] { bench_command(bench); }), testing::HasSubstr("--dtype f16: "));
}

TEST(PlanCommand, SaysHowExpertsAreLoaded) {
  TemporaryDirectory directory;
  PlanOptions options = plan_of_opt_1_3b({4, 4}, {32, 32}, 1, 96 * kMiB);
  options.model = directory.file("config.json");
  write_text(
      options.model,
      R"({"model_type": "olmoe", "hidden_size": 512, "num_hidden_layers": 4, "intermediate_size": 512, "num_attention_heads": 8, "num_experts": 32, "num_experts_per_tok": 2,
    "vocab_size": 1000, "max_position_embeddings": 256})");
  EXPECT_THAT(stdout_of([&] { EXPECT_EQ(plan_command(options), kExitDone); }),
              testing::ContainsRegex("\nexperts: (steps of up to [0-9]+ tokens load the experts|each step loads the experts that)"));
  options.json = true;
  EXPECT_GT(Json::parse(stdout_of([&] { plan_command(options); }))["policy"]["max_choosing_rows"], 0);
  options.json = false;
  options.engine.policy.max_choosing_rows = 0;
  EXPECT_THAT(stdout_of([&] { EXPECT_EQ(plan_command(options), kExitDone); }),
              testing::HasSubstr("\nexperts: each step loads all experts, ahead of their use\n"));
}

/// A benchmark of dummy weights draws experts and counts them, and a plan goes by what was counted.
TEST(PlanCommand, GoesByHowOftenExpertsWereChosen) {
  TemporaryDirectory directory;
  PlanOptions plan = plan_of_opt_1_3b({4, 4}, {32, 32}, 1, 24 * kMiB);
  plan.model = directory.file("config.json");
  write_text(
      plan.model,
      R"({"model_type": "olmoe", "hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 256, "num_attention_heads": 8, "num_experts": 32, "num_experts_per_tok": 2,
    "vocab_size": 1000, "max_position_embeddings": 256})");
  plan.json = true;
  auto planned = [&] { return Json::parse(stdout_of([&] { EXPECT_EQ(plan_command(plan), kExitDone); })); };
  const Json alike = planned();
  plan.expert_skew = 1.2;
  const Json skewed = planned();
  EXPECT_LT(skewed["predicted"]["disk_read_bytes"], alike["predicted"]["disk_read_bytes"]);
  EXPECT_EQ(skewed["policy"]["hottest_first"], false);
  plan.expert_skew.reset();
  setenv("FLEXGEN_CACHE_DIR", directory.path().c_str(), 1);
  plan.engine.expert_statistics = "auto";
  const Json nothing_yet = planned();
  EXPECT_THAT(nothing_yet["notes"].dump(), testing::HasSubstr("no run has counted experts in "));
  EXPECT_EQ(nothing_yet["predicted"]["disk_read_bytes"], alike["predicted"]["disk_read_bytes"]);

  BenchOptions bench;
  bench.model = plan.model;
  bench.engine = plan.engine;
  bench.prompt_len = {4, 4};
  bench.gen_len = {60, 60};
  bench.num_prompts = 2;
  bench.no_efficiency = bench.json = true;
  bench.expert_skew = 1.2;
  const Json measured = Json::parse(stdout_of([&] { EXPECT_EQ(bench_command(bench), kExitDone); }));
  EXPECT_EQ(measured["expert_skew"], 1.2);
  EXPECT_EQ(measured["policy"]["hottest_first"], false);
  const Json counted = planned();
  EXPECT_EQ(counted["policy"]["hottest_first"], true);
  EXPECT_LT(counted["predicted"]["disk_read_bytes"], skewed["predicted"]["disk_read_bytes"]);
  unsetenv("FLEXGEN_CACHE_DIR");

  bench.model = (std::filesystem::path(directory.path()) / "dummy-config-bf16").string();  // a checkpoint by now
  EXPECT_THAT(said([&] { bench_command(bench); }), testing::HasSubstr("--expert-skew: "));
}

/// What prompts have in common is computed once on each level: 4 prompts of 64 + 64 + 4 tokens in 2 groups of 2.
TEST_F(Commands, BenchSharesPrefixesWithinPrefixes) {
  BenchOptions bench;
  bench.model = kModel;
  bench.engine = engine_;
  bench.prompt_len = {132, 132};
  bench.gen_len = {2, 2};
  bench.num_prompts = 4;
  bench.no_efficiency = bench.json = true;
  bench.shared_prefix = {64, 64};
  bench.prefix_groups = {1, 2};
  auto shared = [&] { return Json::parse(stdout_of([&] { EXPECT_EQ(bench_command(bench), kExitDone); }))["shared_prompt_tokens"].get<int64_t>(); };
  EXPECT_EQ(shared(), 3 * 64 + 2 * 64);
  bench.engine.prefix_sharing = "off";
  EXPECT_EQ(shared(), 0);
}

TEST(PlanCommand, EstimatesTextsWithoutATokenizerAndSaysSo) {
  TemporaryDirectory directory;
  PlanOptions options = plan_of_opt_1_3b({}, {}, 0, 2 * kGiB);
  options.input = directory.file("in.jsonl");
  auto line = [](const std::string& id, const std::string& prompt) {
    return R"({"custom_id":")" + id + R"(","method":"POST","url":"/v1/completions","body":{"max_tokens":8,"prompt":)" + prompt + "}}\n";
  };
  const std::string text = '"' + std::string(399, 'x') + '"';
  auto job = [&](const std::string& lines) {
    write_text(options.input, lines);
    options.json = true;
    return Json::parse(stdout_of([&] { plan_command(options); }));
  };
  const Json ids = job(line("a", "[1,2,3]"));
  EXPECT_FALSE(ids.contains("notes"));
  const Json texts = job(line("a", text) + line("b", text));
  EXPECT_EQ(texts["job"]["sequences"], 2);
  EXPECT_EQ(texts["job"]["prompt_tokens"], 200);
  EXPECT_EQ(texts["notes"][0], "no tokenizer: counted a token for every 4 bytes of text, in 2 of 2 lines");
  const Json both = job(line("a", text) + "broken\n" + line("b", "[1,2,3]"));
  EXPECT_EQ(both["job"]["sequences"], 2);
  EXPECT_EQ(both["job"]["prompt_tokens"], 103);
  ASSERT_EQ(both["notes"].size(), 2U);
  EXPECT_THAT(both["notes"][1].get<std::string>(),
              testing::StartsWith("1 of 3 lines cannot be answered and are left out, the first is line 2: not valid JSON"));
  options.json = false;
  EXPECT_THAT(stdout_of([&] { plan_command(options); }), testing::HasSubstr("note: no tokenizer: counted a token for every 4 bytes of text"));
  options.skip_tokenizer = true;  // a run takes no text then
  EXPECT_EQ(job(line("a", text) + line("b", "[1,2,3]"))["job"]["sequences"], 1);
  options.skip_tokenizer = false;
  options.chat_template = "t.jinja";
  EXPECT_THAT(said([&] { plan_command(options); }), testing::HasSubstr("--chat-template t.jinja: opt-1.3b is no checkpoint and has no tokenizer"));
}

/// How many times faster is of two predictions: the job's, and the same job's with sharing off.
TEST(PlanCommand, SaysWhatSharingGains) {
  TemporaryDirectory directory;
  PlanOptions options = plan_of_opt_1_3b({}, {}, 0, 4 * kGiB);
  options.input = directory.file("in.jsonl");
  std::string common, lines;
  for (int i = 0; i < 640; ++i) common += std::to_string(10 + i) + ",";
  for (int i = 0; i < 64; ++i) lines += fmt::format(R"({{"prompt":[{}{}],"max_tokens":4}})", common, 1000 + i) + "\n";
  write_text(options.input, lines);
  options.plot_file = directory.file("plan.html");
  const std::string text = stdout_of([&] { plan_command(options); }), page = read_text(options.plot_file);
  options.json = true;
  options.plot_file.clear();
  const Json shared = Json::parse(stdout_of([&] { plan_command(options); }));
  options.engine.prefix_sharing = "off";
  const Json apart = Json::parse(stdout_of([&] { plan_command(options); }));
  const double gain = apart["predicted"]["time_s"].get<double>() / shared["predicted"]["time_s"].get<double>();
  EXPECT_GT(gain, 3);
  EXPECT_NEAR(shared["predicted"]["time_without_sharing_s"].get<double>(), apart["predicted"]["time_s"].get<double>(),
              0.03 * apart["predicted"]["time_s"].get<double>());
  EXPECT_FALSE(apart["predicted"].contains("time_without_sharing_s"));
  EXPECT_EQ(shared["job"]["shared_prompt_tokens"], 63 * 640);
  const std::string says = "f 41,024 prompt tokens 40,320 are shared; computed once: ";
  EXPECT_THAT(text, testing::HasSubstr("\no" + says));
  EXPECT_THAT(page, testing::HasSubstr("<p>O" + says));
  double said = 0;
  ASSERT_EQ(std::sscanf(text.c_str() + text.find(says) + says.size(), "%lf times faster than without\n", &said), 1);
  EXPECT_NEAR(said, gain, 0.06 * gain);
}

TEST(PlanCommand, SaysThatMemoryIsTooShortForSharing) {
  TemporaryDirectory directory;
  PlanOptions options = plan_of_opt_1_3b({}, {}, 0, 400 * kMiB);
  options.input = directory.file("in.jsonl");
  std::string lines;
  for (int i = 0; i < 8; ++i) {
    std::string prompt;
    for (int k = 0; k < 640; ++k) prompt += std::to_string(10 + k + i / 2) + ",";
    lines += fmt::format(R"({{"prompt":[{}{}],"max_tokens":4}})", prompt, 1000 + i) + "\n";
  }
  write_text(options.input, lines);
  EXPECT_THAT(stdout_of([&] { plan_command(options); }), testing::HasSubstr("\nof 5,128 prompt tokens 2,560 are shared, but each prompt is computed whole: "));
  options.json = true;
  const Json plan = Json::parse(stdout_of([&] { plan_command(options); }));
  EXPECT_EQ(plan["predicted"]["time_without_sharing_s"], plan["predicted"]["time_s"]);
}

TEST(PlanCommand, SaysWhatItDoesAndWhatWouldHelp) {
  TemporaryDirectory directory;
  PlanOptions options = plan_of_opt_1_3b({32, 96}, {8, 8}, 100, 2 * kGiB);
  options.plot_file = directory.path() + "/plan.html";
  const std::string text = stdout_of([&] { EXPECT_EQ(plan_command(options), kExitDone); });
  for (const char* part : {"predicted: ", "disk read", "weights, resident", "binding: ", "times slower", "what would help:", "RAM"})
    EXPECT_NE(text.find(part), std::string::npos) << part;
  std::ifstream page(options.plot_file);
  const std::string html{std::istreambuf_iterator<char>(page), {}};
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("src="), std::string::npos);  // one file that needs no other
  size_t pictures = 0;
  for (size_t at = html.find("<svg"); at != std::string::npos; at = html.find("<svg", at + 1)) ++pictures;
  EXPECT_EQ(pictures, 4U);
  EXPECT_THAT(html, testing::ContainsRegex("<h1>[0-9][^<]*, bound by (the disk|the processor|no part)"));
  EXPECT_LT(html.find("What would help"), html.find("<svg")) << "at the top";
  for (const char* absent : {"GPU", "bus to", "bus from"})
    EXPECT_EQ(html.substr(0, html.find("The plan</h2>")).find(absent), std::string::npos) << "this machine has no " << absent;
  for (const char* part : {"prefers-color-scheme:dark", "name=\"viewport\"", "RAM: ", "<title>weights, resident: "})
    EXPECT_NE(html.find(part), std::string::npos) << part;
  options.plot_file = directory.path() + "/plan.svg";
  stdout_of([&] { EXPECT_EQ(plan_command(options), kExitDone); });
  const std::string svg = read_text(options.plot_file);
  EXPECT_TRUE(svg.starts_with("<svg ")) << svg.substr(0, 40);
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("bound by"), std::string::npos);

  options.plot_file.clear();
  options.json = true;
  const Json json = Json::parse(stdout_of([&] { plan_command(options); }));
  EXPECT_EQ(json["job"]["sequences"], 100);
  EXPECT_GT(json["predicted"]["time_s"].get<double>(), 0);
  EXPECT_LE(json["predicted"]["bound_s"].get<double>(), json["predicted"]["time_s"].get<double>());
  int64_t bytes = 0;
  for (const Json& item : json["bytes"])
    if (item["tier"] == "cpu") bytes += item["bytes"].get<int64_t>();
  EXPECT_LE(bytes, 2 * kGiB);
  EXPECT_GT(bytes, kGiB);
  EXPECT_GE(json["what_if"].size(), 4U);

  EXPECT_FALSE(json.contains("dtypes"));
  options.engine.weight_dtype = "auto,int4";
  const Json chosen = Json::parse(stdout_of([&] { plan_command(options); }));
  ASSERT_EQ(chosen["dtypes"].size(), 2U);
  EXPECT_EQ(chosen["dtypes"][0]["weights"], "auto");
  EXPECT_NE(chosen["dtypes"][0]["chosen"], chosen["dtypes"][1]["chosen"]);
  options.engine.weight_dtype = "auto";
  options.expected_tokens = 2;
  const Json early = Json::parse(stdout_of([&] { plan_command(options); }));
  EXPECT_EQ(early["job"]["max_tokens"], 800);
  EXPECT_EQ(early["job"]["generated_tokens"], 200);
  EXPECT_LT(early["predicted"]["time_s"].get<double>(), json["predicted"]["time_s"].get<double>());
  options.json = false;
  EXPECT_THAT(stdout_of([&] { plan_command(options); }), testing::HasSubstr("up to 800 generated tokens, 200 expected (2 tokens on average)"));

  options.engine.cpu_memory_bytes = 1 * kMiB;
  EXPECT_THROW(plan_command(options), Error);
  options.model = "no-such-shape";
  EXPECT_THROW(plan_command(options), Error);
}

/// A job keeps the types that it was begun with, whatever would be faster now.
TEST(DtypesOfAJob, AJobGoesOnAsItWasBegun) {
  TemporaryDirectory directory;
  const std::string demo = std::string(FLEXGEN_SOURCE_DIR) + "/demo/";
  std::ifstream all(demo + "requests.jsonl");
  std::string some, line;
  for (int i = 0; i < 6 && std::getline(all, line); ++i) some += line + "\n";
  write_text(directory.file("in.jsonl"), some);
  RunBatchOptions options;
  options.model = demo + "model";
  options.input = directory.file("in.jsonl");
  options.output = directory.file("out.jsonl");
  options.engine.hardware = "generic";
  options.engine.cpu_memory_bytes = 64 * kMiB;
  options.engine.disk_directory = directory.path();
  options.engine.weight_dtype = "int8";
  auto run = [&] {
    testing::internal::CaptureStderr();
    const int code = run_batch_command(options);
    testing::internal::GetCapturedStderr();
    return code;
  };
  ASSERT_EQ(run(), kExitDone);
  const std::string answers = read_text(options.output);
  options.engine.weight_dtype = "auto,int4,int8";
  EXPECT_EQ(run(), kExitDone);  // nothing is left to do; with other weights it would be refused
  EXPECT_EQ(read_text(options.output), answers);
  options.engine.weight_dtype = "auto,int4";
  EXPECT_THROW(run_batch_command(options), Error);
  // A new job chooses.
  options.output = directory.file("new.jsonl");
  EXPECT_EQ(run(), kExitDone);
  EXPECT_EQ(std::count(answers.begin(), answers.end(), '\n'), 6);
}

}  // namespace
}  // namespace flexgen::commands_test
