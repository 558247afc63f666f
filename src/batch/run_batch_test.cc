#include "batch/run_batch.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spdlog/sinks/ostream_sink.h>
#include <sys/file.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "batch/batch_output.h"
#include "batch/choice_store.h"
#include "batch/fake_runner.h"
#include "batch/job.h"
#include "text/chat_template.h"

namespace flexgen::run_batch_test {
namespace {

using Json = nlohmann::json;
using testing::HasSubstr;

const ByteTokenizer kTokenizer;
const std::atomic<bool> kGoOn{false};

std::string line(const std::string& id, const std::string& body) {
  return R"({"custom_id":")" + id + R"(","method":"POST","url":"/v1/completions","body":{)" + body + "}}\n";
}

class RunBatch : public testing::Test {
 protected:
  RunBatch() {
    spdlog::set_level(spdlog::level::err);
    text_ = line("a", R"("prompt":"one")") + "broken\n" + line("b", R"("prompt":["x","yz"],"n":2)") + line("a", R"("prompt":"dup")") +
            line("c", R"("prompt":"three")") + line("d", R"("prompt":"","n":1)") + line("e", R"("prompt":"é")");
    write_text(in_, text_);
  }

  BatchOutcome run(FakeRunner& runner, bool overwrite = false) { return run_batch({in_, out_, overwrite}, model_, runner, kGoOn); }
  BatchOutcome run() {
    FakeRunner runner;
    return run(runner);
  }
  std::string error_of(bool overwrite = false) {
    return message_of([&] {
      FakeRunner runner;
      run(runner, overwrite);
    });
  }
  std::string manifest() const { return out_ + ".job"; }
  /// The model's chat template tells the year.
  void tell_years() {
    model_.limits.chat = std::make_shared<const ChatTemplate>(
        std::map<std::string, std::string>{{"default", "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"}}, "a file",
        ChatTemplate::SpecialTokens());
  }
  /// When the input was last changed, in seconds since 1970.
  void date_in_to(std::time_t time) const {
    const timespec times[2]{{time, 0}, {time, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, in_.c_str(), times, 0), 0);
  }

  TemporaryDirectory directory_;
  std::string in_ = directory_.file("in.jsonl"), out_ = directory_.file("out.jsonl"), text_;
  BatchModel model_{{256, 1000, &kTokenizer}, "fake", "f00d", {{"backend", "fake"}}};
};

TEST_F(RunBatch, AnswersThatAreCutOffUnderAGrammarAreCounted) {
  write_text(in_, line("a", R"("prompt":"one","n":2,"temperature":0,"guided_choice":["x","y"])") +
                      line("b", R"("prompt":"one","n":2,"temperature":0,"guided_choice":["x","y"])") + line("c", R"("prompt":"two")") +
                      line("d", R"("prompt":"three","guided_choice":["x","y"])"));
  const BatchInput input = BatchInput::scan(in_, model_.limits, kGoOn);
  if (!input.line(0).good()) GTEST_SKIP() << "built without grammars";
  FakeRunner runner;
  runner.change = [](const Request& request, Completion& completion) {
    if (request.prompt.front() != 't' || request.prompt.size() == 3) completion.reason = FinishReason::kLength;
  };
  const BatchOutcome outcome = run(runner);
  EXPECT_EQ(outcome.answered, 4);
  EXPECT_EQ(outcome.report.cut_off, 4);  // two choices of two lines that ask for the same; the line without a grammar may end where it will
}

TEST_F(RunBatch, AnswersEveryLineOnce) {
  FakeRunner runner;
  BatchOutcome outcome = run(runner);
  EXPECT_EQ(outcome.lines, 7);
  EXPECT_EQ(outcome.answered, 4);
  EXPECT_EQ(outcome.failed, 3);
  EXPECT_EQ(outcome.kept, 0);
  EXPECT_FALSE(outcome.stopped);
  EXPECT_EQ(runner.prepared.at(0).num_sequences, 7);
  std::map<std::string, Json> records;
  for (const std::string& text : sorted_lines(read_text(out_))) {
    Json record = Json::parse(text);
    EXPECT_TRUE(records.emplace(record["custom_id"].get<std::string>(), record).second);
  }
  ASSERT_EQ(records.size(), 7u);
  EXPECT_EQ(records["line-2"]["error"]["code"], "invalid_json");
  EXPECT_EQ(records["line-4"]["error"]["code"], "duplicate_custom_id");
  EXPECT_EQ(records["d"]["error"]["line"], 6);
  EXPECT_THAT(records["a"]["response"]["body"]["choices"][0]["text"].get<std::string>(), HasSubstr("eno"));
  EXPECT_EQ(records["b"]["response"]["body"]["choices"].size(), 4u);
}

/// As SentencePiece's decoders, which leave out the blank before the first word of a text.
class StripsFirstBlank : public ByteTokenizer {
 public:
  std::string decode(std::span<const int32_t> tokens, bool skip) const override {
    const std::string text = ByteTokenizer::decode(tokens, skip);
    return text.starts_with(' ') ? text.substr(1) : text;
  }
};

TEST_F(RunBatch, TokensBeginBehindThePromptThoughItIsNotShown) {
  const StripsFirstBlank tokenizer;
  model_.limits.tokenizer = &tokenizer;
  write_text(in_, line("a", R"("prompt":["ab","cd"],"n":2,"best_of":3,"logprobs":0)"));
  FakeRunner runner;
  runner.change = [](const Request&, Completion& completion) {
    completion.text = " xy";
    completion.tokens = {' ', 'x', 'y'};
    for (const int32_t token : completion.tokens) completion.logprobs.push_back({token, -1, {}});
  };
  run(runner);
  const Json body = Json::parse(read_text(out_))["response"]["body"];
  ASSERT_EQ(body["choices"].size(), 4u);
  for (const Json& choice : body["choices"]) EXPECT_EQ(choice["logprobs"]["text_offset"].dump(), "[0,1,2]") << choice;
}

TEST_F(RunBatch, AnswersOfALineLargerThanMemoryAreTheSame) {
  // 12 prompts of 8 KiB, 64 choices each, with their prompts: 12 MiB of answers, more than are kept in memory.
  const std::string prompt(8000, 'p');
  std::string prompts;
  for (int i = 0; i < 12; ++i) prompts += fmt::format("{}\"{}{}\"", i > 0 ? "," : "", i, prompt);
  write_text(in_, line("big", R"("n":64,"echo":true,"prompt":[)" + prompts + "]") + line("small", R"("prompt":"x")"));
  model_.limits.max_positions = 10000;
  std::vector<std::string> outputs;
  for (bool backwards : {false, true}) {
    out_ = directory_.file(fmt::format("big-{}.jsonl", backwards));
    FakeRunner runner;
    runner.backwards = backwards;
    EXPECT_EQ(run(runner).answered, 2);
    outputs.push_back(read_text(out_));
    const auto input = BatchInput::scan(in_, model_.limits, kGoOn);
    const BatchRequest request = std::get<BatchRequest>(input.read(input.line(0)));
    std::vector<Completion> completions;
    for (int64_t i = 0; i < request.num_sequences(); ++i) completions.push_back(FakeRunner::answer(request.sequence(i)));
    const std::string expected = answer_record({"fake", input.modified_s(), &kTokenizer}, input.line(0).id, request, completions);
    EXPECT_GT(expected.size(), static_cast<size_t>(ChoiceStore::kDefaultMemory));
    EXPECT_NE(outputs.back().find(expected), std::string::npos);
  }
  EXPECT_EQ(sorted_lines(outputs[0]), sorted_lines(outputs[1]));
  // Torn in the middle of the large record, it is cut and written again.
  write_text(out_, outputs[0].substr(0, outputs[0].size() / 2));
  run();
  EXPECT_EQ(sorted_lines(read_text(out_)), sorted_lines(outputs[0]));
}

TEST_F(RunBatch, TheBestOfManyAreAnswered) {
  write_text(in_, line("a", R"("prompt":["x","y"],"n":2,"best_of":4,"seed":1,"max_tokens":3)"));
  const std::vector<double> means{-3, -1, -1, -2, -0.5, -4, -0.25, -4};  // of the sequences
  std::vector<std::string> outputs;
  for (const bool backwards : {false, true}) {
    out_ = directory_.file(fmt::format("best-{}.jsonl", backwards));
    FakeRunner runner;
    runner.backwards = backwards;
    int64_t next = 0;
    runner.change = [&](const Request&, Completion& completion) {
      completion.text = std::to_string(next);
      for (const double part : {0.5, 1.5}) completion.logprobs.push_back({'x', static_cast<float>(means[static_cast<size_t>(next)] * part), {}, -1});
      ++next;
    };
    run(runner);
    EXPECT_EQ(runner.prepared.at(0).num_sequences, 8);
    outputs.push_back(read_text(out_));
  }
  EXPECT_EQ(outputs[0], outputs[1]);
  const Json body = Json::parse(outputs[0])["response"]["body"];
  std::vector<std::string> texts;
  for (const Json& choice : body["choices"]) {
    EXPECT_EQ(choice["index"], texts.size());
    EXPECT_TRUE(choice["logprobs"].is_null());
    texts.push_back(choice["text"]);
  }
  EXPECT_THAT(texts, testing::ElementsAre("1", "2", "6", "4"));
  EXPECT_EQ(body["usage"]["prompt_tokens"], 2);
  EXPECT_EQ(body["usage"]["completion_tokens"], 16);  // of all that were generated
  FakeRunner again;
  EXPECT_EQ(run(again).kept, 1);
}

/// Tables of mixed lines are written so.
TEST_F(RunBatch, EqualLinesMayHaveANullForAName) {
  const std::string asked = R"({"custom_id":null,"prompt":"same","temperature":0})";
  write_text(in_, asked + "\n" + asked + "\n");
  FakeRunner runner;
  EXPECT_EQ(run(runner).answered, 2);
  EXPECT_EQ(runner.served.size(), 1u);
  const std::string records = read_text(out_);
  EXPECT_THAT(records, testing::AllOf(HasSubstr("\"line-1\""), HasSubstr("\"line-2\"")));
}

// Where nothing is drawn, lines and choices that ask for the same are computed once.
TEST_F(RunBatch, WhatIsTheSameIsComputedOnce) {
  const std::string asked = R"("prompt":["same","other"],"n":2,"temperature":0)";
  write_text(in_, line("a", asked) + line("drawn", R"("prompt":["same","other"],"n":2)") + line("b", asked) +
                      R"({"n":2,"temperature":0,"seed":4,"prompt":["same","other"]})" + "\n" + line("longer", asked + R"(,"max_tokens":17)") +
                      line("best", R"("prompt":"same","n":2,"best_of":3,"temperature":0)"));
  FakeRunner runner;
  runner.backwards = true;
  EXPECT_EQ(run(runner).answered, 6);
  EXPECT_EQ(runner.served.size(), 2u + 4 + 2 + 1);
  EXPECT_EQ(runner.prepared.at(0).num_sequences, 2 + 4 + 2 + 1);
  EXPECT_EQ(runner.prepared.at(0).total_prompt_tokens, 9 + 18 + 9 + 4);
  std::map<std::string, Json> records;
  for (const std::string& text : sorted_lines(read_text(out_))) records[Json::parse(text)["custom_id"].get<std::string>()] = Json::parse(text);
  ASSERT_EQ(records.size(), 6u);
  const Json& body = records["a"]["response"]["body"];
  ASSERT_EQ(body["choices"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(body["choices"][i]["index"], i);
  EXPECT_EQ(body["choices"][0]["text"], body["choices"][1]["text"]);
  EXPECT_NE(body["choices"][1]["text"], body["choices"][2]["text"]);
  EXPECT_EQ(body["usage"]["prompt_tokens"], 9);
  EXPECT_EQ(body["usage"]["completion_tokens"], 2 * (5 + 6));
  for (const std::string name : {"b", "line-4"}) {
    EXPECT_EQ(records[name]["response"]["body"]["choices"], body["choices"]);
    EXPECT_EQ(records[name]["response"]["body"]["usage"], body["usage"]);
    EXPECT_NE(records[name]["id"], records["a"]["id"]);
  }
  EXPECT_EQ(records["best"]["response"]["body"]["choices"].size(), 2u);
  EXPECT_EQ(records["best"]["response"]["body"]["usage"]["completion_tokens"], 3 * 5);
  FakeRunner again;
  EXPECT_EQ(run(again).kept, 6);

  // With what is left after a stop too; one that was not to be shared is not.
  const std::vector<std::string> all = sorted_lines(read_text(out_));
  std::string kept;
  for (const std::string& text : all)
    if (Json::parse(text)["custom_id"] == "b") kept = text + "\n";
  write_text(out_, kept);
  FakeRunner rest;
  EXPECT_EQ(run(rest).answered, 5);
  EXPECT_EQ(rest.served.size(), 2u + 4 + 2 + 1);
  EXPECT_EQ(sorted_lines(read_text(out_)), all);
  FakeRunner apart;
  BatchFiles files{in_, directory_.file("apart.jsonl")};
  files.share_prefixes = false;
  run_batch(files, model_, apart, kGoOn);
  EXPECT_EQ(apart.served.size(), 4u * 5 + 3);
}

TEST_F(RunBatch, LinesThatAreTheSameFailTogetherAndStopApart) {
  std::string text;
  for (int i = 0; i < 20; ++i) text += line(std::to_string(i), R"("prompt":"same","temperature":0)");
  write_text(in_, text);
  FakeRunner runner;
  runner.not_finite = [](const Request&) { return true; };
  const BatchOutcome failed = run(runner);
  EXPECT_EQ(failed.answered, 0);
  EXPECT_EQ(failed.without_answer, 20);
  EXPECT_EQ(runner.served.size(), 1u);
  std::set<int> lines;
  for (const std::string& record : sorted_lines(read_text(out_))) lines.insert(Json::parse(record)["error"]["line"].get<int>());
  EXPECT_EQ(lines.size(), 20u);

  // A signal while their records are written.
  out_ = directory_.file("stopped.jsonl");
  std::atomic<bool> stop{false};
  FakeRunner first;
  first.change = [&](const Request&, Completion&) { stop = true; };
  const BatchOutcome stopped = run_batch({in_, out_}, model_, first, stop);
  EXPECT_TRUE(stopped.stopped);
  EXPECT_EQ(stopped.answered, 1);
  FakeRunner second;
  EXPECT_EQ(run(second).answered, 19);
  EXPECT_EQ(second.served.size(), 1u);
  EXPECT_EQ(sorted_lines(read_text(out_)).size(), 20u);
}

TEST_F(RunBatch, OrderOfCompletionsDoesNotMatter) {
  run();
  auto forwards = sorted_lines(read_text(out_));
  out_ = directory_.file("other.jsonl");
  FakeRunner runner;
  runner.backwards = true;
  run(runner);
  EXPECT_EQ(sorted_lines(read_text(out_)), forwards);
}

TEST_F(RunBatch, GoesOnFromEveryByte) {
  run();
  const std::string whole = read_text(out_);
  const auto expected = sorted_lines(whole);
  for (size_t bytes = 0; bytes <= whole.size(); ++bytes) {
    write_text(out_, whole.substr(0, bytes));
    FakeRunner runner;
    BatchOutcome outcome = run(runner);
    ASSERT_EQ(sorted_lines(read_text(out_)), expected) << "cut at byte " << bytes;
    // A record that lacks its line end alone is whole.
    int64_t kept = std::count(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(std::min(bytes + 1, whole.size())), '\n');
    ASSERT_EQ(outcome.kept, kept);
    ASSERT_EQ(runner.prepared.empty(), kept == 7);
  }
}

// A line one of whose choices is not finite has an error record, which is final; the others have their answers.
TEST_F(RunBatch, NotFiniteLinesAreCountedInEveryRun) {
  FakeRunner runner;
  runner.not_finite = [](const Request& request) { return request.prompt.front() == 'y'; };  // of line "b" the second prompt
  const BatchOutcome outcome = run(runner);
  EXPECT_EQ(outcome.answered, 3);
  EXPECT_EQ(outcome.failed, 3);
  EXPECT_EQ(outcome.without_answer, 1);
  EXPECT_FALSE(outcome.stopped);
  int64_t found = 0;
  for (const std::string& record : sorted_lines(read_text(out_))) {
    const Json json = Json::parse(record);
    if (json["custom_id"] != "b") continue;
    EXPECT_EQ(json["response"], nullptr);
    EXPECT_EQ(json["error"]["code"], "not_finite");
    ++found;
  }
  EXPECT_EQ(found, 1);
  FakeRunner again;
  std::ostringstream told;
  const auto usual = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("told", std::make_shared<spdlog::sinks::ostream_sink_mt>(told)));
  const BatchOutcome rest = run(again);
  spdlog::set_default_logger(usual);
  EXPECT_THAT(told.str(), HasSubstr("1 line is without an answer since an earlier start")) << "it is why such a run fails";
  EXPECT_TRUE(again.served.empty());
  EXPECT_EQ(rest.answered, 0);
  EXPECT_EQ(rest.kept, 7);
  EXPECT_EQ(rest.without_answer, 1);
}

TEST_F(RunBatch, StoppedAndFailedRunsGoOn) {
  run();
  const auto expected = sorted_lines(read_text(out_));
  for (int64_t after = 0; after < 8; ++after)
    for (bool fails : {false, true})
      for (bool backwards : {false, true}) {
        out_ = directory_.file(fmt::format("out-{}-{}-{}.jsonl", after, fails, backwards));
        FakeRunner first;
        (fails ? first.fail_after : first.stop_after) = after;
        first.backwards = backwards;
        try {
          BatchOutcome outcome = run(first);
          EXPECT_FALSE(fails && after < 7);
          EXPECT_EQ(outcome.stopped, !fails && after < 7);
        } catch (const Error&) {
          EXPECT_TRUE(fails && after <= 7);
        }
        FakeRunner second;
        run(second);
        EXPECT_EQ(sorted_lines(read_text(out_)), expected);
        EXPECT_EQ(run().answered, 0);
      }
}

TEST_F(RunBatch, CreatedStaysThatOfTheFirstStart) {
  FakeRunner first;
  first.stop_after = 1;
  run(first);
  std::filesystem::last_write_time(in_, std::filesystem::file_time_type::clock::now() + std::chrono::hours(5));
  model_.name = "renamed";
  run();
  std::set<int64_t> created;
  std::set<std::string> names;
  for (const std::string& text : sorted_lines(read_text(out_))) {
    Json record = Json::parse(text);
    if (record["response"].is_null()) continue;
    created.insert(record["response"]["body"]["created"].get<int64_t>());
    names.insert(record["response"]["body"]["model"].get<std::string>());
  }
  EXPECT_EQ(created.size(), 1u);
  EXPECT_EQ(names, std::set<std::string>{"fake"});
}

TEST_F(RunBatch, PlansTheRestWithAnswersAsLongAsTheKept) {
  text_ = "broken\n";
  for (int i = 0; i < 60; ++i) text_ += line(fmt::format("id-{}", i), R"("prompt":"123456789","max_tokens":100)");  // ten tokens by the fake
  text_ += line("scored", R"("prompt":"x","echo":true,"logprobs":1,"max_tokens":0)");
  write_text(in_, text_);
  auto run_for = [&](int64_t sequences, int64_t expected_tokens) {
    FakeRunner runner;
    runner.stop_after = sequences;
    run_batch({in_, out_, false, {}, {}, expected_tokens}, model_, runner, kGoOn);
    return runner.prepared.at(0);
  };
  EXPECT_EQ(run_for(31, 0).total_generated_tokens, 60 * 100);
  EXPECT_EQ(run_for(9, 0).total_generated_tokens, 29 * 100);  // 31 are too few
  const Workload rest = run_for(0, 0);
  EXPECT_EQ(rest.total_max_tokens, 20 * 100);
  EXPECT_EQ(rest.total_generated_tokens, 20 * 10);
  EXPECT_EQ(rest.longest_sequence, 109);
  EXPECT_EQ(run_for(0, 7).total_generated_tokens, 20 * 7);  // what is said wins
  EXPECT_EQ(run_for(-1, 0).total_generated_tokens, 20 * 10);
}

TEST_F(RunBatch, RecordsTellTheirAnswersTokens) {
  FakeRunner runner;
  run(runner);
  const auto tokens_of = [](const std::string& text) { return std::get<KeptRecord>(read_record(text)).answer_tokens; };
  std::map<std::string, int64_t> tokens;
  for (const std::string& text : sorted_lines(read_text(out_))) tokens[Json::parse(text)["custom_id"]] = tokens_of(text);
  EXPECT_EQ(tokens.at("a"), 4);
  EXPECT_EQ(tokens.at("b"), 2 * 2 + 2 * 3);
  EXPECT_EQ(tokens.at("line-2"), -1);

  write_text(in_, line("a", R"("prompt":"}99:\"snekot_noitelpmoc\"{")") + line("\\\"completion_tokens\\\":5", R"("prompt":1)"));
  out_ = directory_.file("other.jsonl");
  run(runner);
  const auto lines = sorted_lines(read_text(out_));
  for (const std::string& text : lines) EXPECT_EQ(tokens_of(text), text.find("\"error\":null") != std::string::npos ? 25 : -1) << text;
}

TEST_F(RunBatch, LongValuesOfOptionsAreComparedWhole) {
  model_.options["list"] = std::string(300, 'x') + "a";
  run();
  EXPECT_EQ(error_of(), "");
  model_.options["list"] = std::string(300, 'x') + "b";
  EXPECT_THAT(error_of(), HasSubstr("another list ("));
}

TEST_F(RunBatch, AJobRemembersHowLongSequencesMayBe) {
  model_.options[kMaxModelLen] = "100";
  run();
  EXPECT_EQ(error_of(), "");
  model_.options[kMaxModelLen] = "200";
  EXPECT_THAT(error_of(), HasSubstr("another max model len (100 instead of 200)"));
  model_.options.erase(kMaxModelLen);
  EXPECT_THAT(error_of(), HasSubstr("another max model len (100 instead of the default)"));
  // A manifest of before does not say it.
  EXPECT_EQ(error_of(true), "");
  model_.options[kMaxModelLen] = "100";
  EXPECT_EQ(error_of(), "");
}

TEST_F(RunBatch, RefusesOtherInputModelOrOptions) {
  run();
  const std::string before = read_text(out_);
  write_text(in_, line("new", R"("prompt":"x")"));
  EXPECT_THAT(error_of(), testing::AllOf(HasSubstr("another input"), HasSubstr("--overwrite")));
  write_text(in_, text_);
  model_.fingerprint = "beef";
  EXPECT_THAT(error_of(), HasSubstr("another model"));
  model_.fingerprint = "f00d";
  model_.options["backend"] = "reference";
  EXPECT_THAT(error_of(), HasSubstr("another backend (fake instead of reference)"));
  model_.options["added"] = "the default";
  EXPECT_THAT(error_of(), HasSubstr("another added (the default instead of the default)"));
  model_.options["added"] = "4";
  EXPECT_THAT(error_of(), HasSubstr("another added (the default instead of 4)"));
  model_.options.erase("added");
  model_.options.erase("backend");
  EXPECT_THAT(error_of(), HasSubstr("another backend (fake instead of the default)"));
  model_.options["backend"] = "reference";
  EXPECT_EQ(read_text(out_), before);
  EXPECT_EQ(error_of(true), "");  // --overwrite
  EXPECT_EQ(sorted_answers(read_text(out_)), sorted_answers(before));
  EXPECT_EQ(Json::parse(read_text(manifest()))["options"]["backend"], "reference");
}

/// Sums of bf16 are rounded otherwise by AMX than by AVX512-BF16: half of a job each would be neither's answers.
TEST_F(RunBatch, RefusesAMachineThatRoundsOtherwise) {
  model_.arithmetic = {{"processor", "bf16 by AVX512-BF16, sums by AVX512, version 1"}};
  run();
  EXPECT_EQ(Json::parse(read_text(manifest()))["arithmetic"]["processor"], "bf16 by AVX512-BF16, sums by AVX512, version 1");
  EXPECT_EQ(error_of(), "");
  model_.arithmetic["processor"] = "bf16 by AMX, sums by AVX512, version 1";
  EXPECT_THAT(error_of(), testing::AllOf(HasSubstr("a processor that rounds otherwise (bf16 by AVX512-BF16, sums by AVX512, version 1; this one: bf16 by AMX"),
                                         HasSubstr("a machine like that one goes on with it"),
                                         HasSubstr("this one does with DNNL_MAX_CPU_ISA=AVX512_CORE_BF16"), HasSubstr("--overwrite")));
  model_.arithmetic["processor"] = "bf16 by AVX512-BF16, sums by AVX512, version 2";
  EXPECT_THAT(error_of(), testing::AllOf(HasSubstr("version 2"), testing::Not(HasSubstr("DNNL_MAX_CPU_ISA"))));
  // A job that an earlier flexgen began does not say.
  Json old = Json::parse(read_text(manifest()));
  old.erase("arithmetic");
  old.erase("checksum");
  write_text(manifest(), old.dump());
  EXPECT_EQ(error_of(), "");
  write_text(in_, text_ + line("more", R"("prompt":"x")"));
  EXPECT_EQ(error_of(), "");
  EXPECT_FALSE(Json::parse(read_text(manifest())).contains("arithmetic")) << "nobody knows of the answers that were there";
}

TEST_F(RunBatch, TheProcessorBesideAGpuCountsWhereItAttends) {
  for (const char* attends : {"gpu", "cpu"}) {
    model_.options["attention on"] = attends;
    model_.arithmetic = {{"GPU", "a card, version 1"}, {"processor", "one, version 1"}};
    FakeRunner runner;
    run(runner, true);
    model_.arithmetic["processor"] = "another, version 1";
    EXPECT_EQ(error_of() == "", std::string(attends) == "gpu") << attends;
    model_.arithmetic = {{"GPU", "another card, version 1"}, {"processor", "one, version 1"}};
    EXPECT_THAT(error_of(), HasSubstr("a GPU that rounds otherwise"));
  }
}

// The fingerprint samples bytes: others of a weight file may have been written since, and then the file tells.
TEST_F(RunBatch, RefusesAWeightFileThatWasWrittenToSince) {
  model_.files = {{"a.safetensors", {1, 10, 1000, 5}}, {"b.safetensors", {1, 11, 1000, 5}}};
  run();
  for (const std::array<int64_t, 4>& written : {std::array<int64_t, 4>{1, 11, 1000, 6}, std::array<int64_t, 4>{1, 11, 1001, 5}}) {
    model_.files["b.safetensors"] = written;
    EXPECT_THAT(error_of(), testing::AllOf(HasSubstr("b.safetensors was written to since"), HasSubstr("--overwrite")));
  }
  model_.files["b.safetensors"] = {1, 12, 1000, 6};  // a copy: the fingerprint decides
  run();
}

// A template that tells the date tells that of the job's beginning, whatever copy of the input it goes on with.
TEST_F(RunBatch, TheDateOfPromptsStaysThatOfTheJobsBeginning) {
  const auto chat = [&](const std::string& id) { return line(id, R"("messages":[{"role":"user","content":")" + id + "\"}]"); };
  std::string text;
  for (const char* id : {"a", "b", "c", "d"}) text += std::regex_replace(chat(id), std::regex("/v1/completions"), "/v1/chat/completions");
  write_text(in_, text);
  tell_years();
  std::set<std::string> years;
  FakeRunner first, second;
  for (FakeRunner* runner : {&first, &second})
    runner->change = [&](const Request& request, Completion&) {
      std::string year;
      for (size_t i = 0; i < 4; ++i) year += static_cast<char>(request.prompt[request.prompt.size() - 5 + i]);
      years.insert(year);
    };
  first.stop_after = 2;
  date_in_to(1'000'000'000);  // 2001
  run(first);
  date_in_to(1'700'000'000);  // 2023
  EXPECT_EQ(run(second).kept, 2);
  EXPECT_EQ(years, std::set<std::string>{"2001"});
}

// A signal while the input is read again leaves it without lines: that is no other input.
TEST_F(RunBatch, AStopWhileTheInputIsReadAgainLosesNothing) {
  class StopAtAWarning : public spdlog::sinks::base_sink<std::mutex> {
   public:
    explicit StopAtAWarning(std::atomic<bool>& stop) : stop_(stop) {}

   protected:
    void sink_it_(const spdlog::details::log_msg&) override { stop_ = true; }
    void flush_() override {}

   private:
    std::atomic<bool>& stop_;
  };
  tell_years();
  date_in_to(1'000'000'000);
  run();
  const std::string answers = read_text(out_);
  model_.name = "another";  // which is told just before the input is read again
  for (const bool edited : {false, true}) {
    if (edited) write_text(in_, text_ + line("new", R"("prompt":"more")"));
    date_in_to(1'700'000'000);
    std::atomic<bool> stop{false};
    const auto usual = spdlog::default_logger();
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("stops", std::make_shared<StopAtAWarning>(stop)));
    FakeRunner runner;
    BatchOutcome outcome;
    EXPECT_EQ(message_of([&] { outcome = run_batch({in_, out_, edited}, model_, runner, stop); }), "");
    spdlog::set_default_logger(usual);
    EXPECT_TRUE(stop);
    EXPECT_TRUE(outcome.stopped);
    EXPECT_EQ(read_text(out_), answers);
  }
}

TEST_F(RunBatch, KeepsWhatItsFirstPlanChose) {
  model_.options["attention on"] = kLeftToThePlan;
  FakeRunner first;
  first.stop_after = 2;
  first.choice = "cpu";
  run(first);
  EXPECT_EQ(Json::parse(read_text(manifest()))["options"]["attention on"], "cpu");
  FakeRunner second;  // its plan would choose "gpu"
  second.stop_after = 1;
  run(second);
  EXPECT_EQ(second.options.at("attention on"), "cpu");
  // To ask for the same is not another job, to ask for something else is.
  model_.options["attention on"] = "gpu";
  EXPECT_THAT(error_of(), HasSubstr("another attention on (cpu instead of gpu)"));
  model_.options["attention on"] = "cpu";
  EXPECT_EQ(error_of(), "");
  // A new job chooses anew.
  model_.options["attention on"] = kLeftToThePlan;
  model_.fingerprint = "beef";
  FakeRunner other;
  run(other, true);
  EXPECT_EQ(Json::parse(read_text(manifest()))["options"]["attention on"], "gpu");
}

TEST_F(RunBatch, OverwriteDoesNotLoseAJobThatMatches) {
  FakeRunner first;
  first.stop_after = 3;
  run(first, true);
  FakeRunner second;
  EXPECT_EQ(run(second, true).kept, 4);  // three bad lines and "a"
}

TEST_F(RunBatch, RefusesFilesOfOthers) {
  write_text(out_, "my notes\n");
  EXPECT_THAT(error_of(), HasSubstr("there is no job file"));
  EXPECT_EQ(read_text(out_), "my notes\n");
  write_text(manifest(), "{}");
  EXPECT_THAT(error_of(), HasSubstr("damaged"));
  write_text(manifest(), R"({"flexgen_job": 99})");
  EXPECT_THAT(error_of(), HasSubstr("format 99"));
  EXPECT_EQ(read_text(out_), "my notes\n");
  EXPECT_EQ(error_of(true), "");
  EXPECT_EQ(sorted_lines(read_text(out_)).size(), 7u);
}

TEST_F(RunBatch, OneProcessAtATime) {
  FakeRunner first;
  first.stop_after = 0;
  run(first);
  int descriptor = open(out_.c_str(), O_RDWR);
  ASSERT_EQ(flock(descriptor, LOCK_EX | LOCK_NB), 0);
  EXPECT_THAT(error_of(), HasSubstr("another flexgen process"));
  close(descriptor);
  EXPECT_EQ(error_of(), "");
}

// What a command makes of the answers is made before another process may change them.
TEST_F(RunBatch, StepsAroundTheAnswersAreUnderTheirLock) {
  std::vector<std::string> steps;
  BatchFiles files{in_, out_};
  const auto step = [&](const std::string& name) {
    EXPECT_THAT(message_of([&] { Job(out_, in_); }), HasSubstr("another flexgen process is writing"));
    steps.push_back(fmt::format("{} {}", name, read_text(out_).size() > 0));
  };
  files.before_start = [&] { step("start"); };
  files.before_end = [&] { step("end"); };
  FakeRunner stopped;
  stopped.stop_after = 1;
  run_batch(files, model_, stopped, kGoOn);
  EXPECT_EQ(steps, std::vector<std::string>{"start false"}) << "lines are left to do";
  FakeRunner runner;
  run_batch(files, model_, runner, kGoOn);
  EXPECT_EQ(steps, (std::vector<std::string>{"start false", "start true", "end true"}));
}

TEST_F(RunBatch, RefusesBadOutputs) {
  out_ = in_;
  EXPECT_THAT(error_of(true), HasSubstr("input itself"));
  EXPECT_EQ(read_text(in_), text_);
  out_ = directory_.file("missing/out.jsonl");
  EXPECT_THAT(error_of(), HasSubstr("cannot write the output"));
  out_ = directory_.path();
  EXPECT_NE(error_of(), "");
  out_ = "/dev/null";
  EXPECT_THAT(error_of(), HasSubstr("not a regular file"));
}

TEST_F(RunBatch, ARefusalLeavesNoTrace) {
  struct Refusing : FakeRunner {
    void prepare(const Workload&, std::map<std::string, std::string>&) override { throw Error(ErrorKind::kUser, "too big"); }
  } runner;
  EXPECT_THROW(run(runner), Error);
  EXPECT_FALSE(std::filesystem::exists(out_));
  EXPECT_FALSE(std::filesystem::exists(manifest()));
}

TEST_F(RunBatch, AFullDiskKeepsWhatIsFinished) {
  run();
  const auto expected = sorted_lines(read_text(out_));
  auto whole = static_cast<rlim_t>(std::filesystem::file_size(out_));
  signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  std::mt19937 random(5);
  for (int i = 0; i < 10; ++i) {
    out_ = directory_.file(fmt::format("full-{}.jsonl", i));
    // Room for the manifest at least: the limit counts for each file.
    rlimit limit = before;
    limit.rlim_cur = 400 + random() % (whole - 400);
    setrlimit(RLIMIT_FSIZE, &limit);
    std::string error = error_of();
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_THAT(error, HasSubstr("finished answers are kept"));
    std::string kept = read_text(out_);
    EXPECT_TRUE(kept.empty() || kept.back() == '\n');
    auto lines = sorted_lines(kept);
    EXPECT_TRUE(std::includes(expected.begin(), expected.end(), lines.begin(), lines.end()));
    EXPECT_EQ(run().kept, static_cast<int64_t>(lines.size()));
    EXPECT_EQ(sorted_lines(read_text(out_)), expected);
  }
}

TEST_F(RunBatch, OnlyBadLinesNeedNoEngine) {
  write_text(in_, "a\nb\n");
  FakeRunner runner;
  BatchOutcome outcome = run(runner);
  EXPECT_TRUE(runner.prepared.empty());
  EXPECT_EQ(outcome.failed, 2);
  EXPECT_EQ(sorted_lines(read_text(out_)).size(), 2u);
}

TEST_F(RunBatch, StopDuringTheScanChangesNothing) {
  FakeRunner runner;
  std::atomic<bool> stop{true};
  EXPECT_TRUE(run_batch({in_, out_, false}, model_, runner, stop).stopped);
  EXPECT_FALSE(std::filesystem::exists(out_));
}

TEST_F(RunBatch, FingerprintSeesWeightsAndConfig) {
  std::string config = directory_.file("m/config.json"), weights = directory_.file("m/model.safetensors");
  write_text(config, "{}");
  write_text(weights, std::string(1000000, 'w'));
  auto fingerprint = [&] { return model_fingerprint(directory_.file("m"), "c", {weights}); };
  std::string first = fingerprint();
  EXPECT_EQ(fingerprint(), first);
  write_text(weights, std::string(999999, 'w') + "v");
  std::string trained;
  for (int i = 0; i < 1000000; ++i) trained += static_cast<char>(i * 31);
  write_text(weights, trained);
  EXPECT_NE(fingerprint(), first);
  write_text(weights, std::string(1000000, 'w'));
  write_text(config, "{ }");
  EXPECT_NE(fingerprint(), first);
}

TEST_F(RunBatch, FingerprintSeesEveryFileThatAnswersDependOn) {
  const std::string weights = directory_.file("m/model.safetensors");
  std::filesystem::create_directories(directory_.file("m/additional_chat_templates"));
  write_text(weights, "w");
  std::set<std::string> seen{model_fingerprint(directory_.file("m"), "c", {weights})};
  for (const char* name : {"config.json", "generation_config.json", "hf_quant_config.json", "tokenizer_config.json", "special_tokens_map.json",
                           "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "tekken.json", "tokenizer.json", "chat_template.json",
                           "chat_template.jinja", "additional_chat_templates/default.jinja", "additional_chat_templates/tool_use.jinja"})
    for (const char* text : {"one", "two"}) {
      write_text(directory_.file(std::string("m/") + name), text);
      EXPECT_TRUE(seen.insert(model_fingerprint(directory_.file("m"), "c", {weights})).second) << name;
    }
}

}  // namespace
}  // namespace flexgen::run_batch_test
