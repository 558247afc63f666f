// Shards and replicas, on a runner without a model.

#include "batch/shards.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <sys/stat.h>

#include <algorithm>
#include <latch>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "batch/fake_runner.h"
#include "io/test_folder.h"
#include "net/local_ports.h"

namespace flexgen::shards_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const ByteTokenizer kTokenizer;
const std::atomic<bool> kGoOn{false};

Shard shard_with(const std::string& text, const std::map<std::string, std::string>& variables = {}) {
  return parse_shard(text, [&](const char* name) -> const char* {
    auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(Shards, AreReadFromTheFlagOrTheScheduler) {
  EXPECT_EQ(shard_with("").count, 1);
  EXPECT_EQ(shard_with("1/4").index, 1);
  EXPECT_EQ(shard_with("1/4").count, 4);
  const std::map<std::string, std::string> slurm{
      {"SLURM_ARRAY_TASK_ID", "7"}, {"SLURM_ARRAY_TASK_COUNT", "3"}, {"SLURM_ARRAY_TASK_MIN", "5"}, {"SLURM_ARRAY_TASK_STEP", "2"}};
  EXPECT_EQ(shard_with("auto", slurm).index, 1);
  EXPECT_EQ(shard_with("auto", slurm).count, 3);
  EXPECT_EQ(shard_with("auto/4", {{"JOB_COMPLETION_INDEX", "3"}}).index, 3);
  for (const char* bad : {"4/4", "-1/4", "1", "1/", "/4", "a/b", "1/0", "auto", "auto/4"}) EXPECT_THROW(shard_with(bad), Error) << bad;
  EXPECT_THROW(shard_with("auto", {{"JOB_COMPLETION_INDEX", "3"}}), Error);
  EXPECT_EQ(shard_with("0/1048576").count, 1048576);
  const auto said = [](const std::string& text, const std::map<std::string, std::string>& variables) {
    try {
      shard_with(text, variables);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  EXPECT_EQ(said("0/99999999999", {}), "--shard 0/99999999999: there are 1048576 shards at most");
  EXPECT_THAT(said("0/99999999999999999999", {}), HasSubstr("give I/N"));
  EXPECT_THAT(said("auto", {{"SLURM_ARRAY_TASK_ID", "0"}, {"SLURM_ARRAY_TASK_COUNT", "1048577"}}), HasSubstr("1048576 shards at most"));
  EXPECT_EQ(shard_output("dir.x/out.jsonl", {1, 4}), "dir.x/out.1-of-4.jsonl");
  EXPECT_EQ(shard_output("out", {0, 2}), "out.0-of-2");
  EXPECT_EQ(shard_output("out.jsonl", {0, 1}), "out.jsonl");
}

class Parts : public testing::Test {
 protected:
  Parts() {
    spdlog::set_level(spdlog::level::err);
    std::string text;
    for (int i = 0; i < 23; ++i)
      text += i % 7 == 3
                  ? "broken\n"
                  : fmt::format(R"({{"custom_id":"r{}","method":"POST","url":"/v1/completions","body":{{"prompt":"line {}","n":{}}}}})", i, i, 1 + i % 3) +
                        "\n" + (i % 5 ? "" : "\n");
    write_text(in_, text);
    FakeRunner runner;
    run_batch({in_, whole_}, model_, runner, kGoOn);
  }
  void run_shard(int64_t index, int64_t count, int64_t stop_after = -1) {
    FakeRunner runner;
    runner.stop_after = stop_after;
    run_batch({in_, shard_output(out_, {index, count}), false, {}, {index, count}}, model_, runner, kGoOn);
  }
  std::string merge_error(std::vector<std::string> parts = {}) {
    try {
      merge_shards(in_, out_, std::move(parts));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  TemporaryDirectory directory_;
  std::string in_ = directory_.file("in.jsonl"), out_ = directory_.file("out.jsonl"), whole_ = directory_.file("whole.jsonl");
  BatchModel model_{{256, 1000, &kTokenizer}, "fake", "f00d", {{"backend", "fake"}}};
};

TEST_F(Parts, MergeToTheWhole) {
  for (int64_t i = 0; i < 3; ++i) run_shard(i, 3);
  EXPECT_EQ(merge_shards(in_, out_, {}).lines, 23);
  EXPECT_EQ(sorted_answers(read_text(out_)), sorted_answers(read_text(whole_)));
  EXPECT_EQ(merge_shards(in_, directory_.file("b"), {shard_output(out_, {2, 3}), shard_output(out_, {0, 3}), shard_output(out_, {1, 3})}).lines, 23);
  EXPECT_EQ(read_text(directory_.file("b")), read_text(out_));  // in the input's order, whatever the shards' order
}

/// Whether a line gets such a name depends on whether it is good, which a merge cannot know.
TEST_F(Parts, MergeWhereNamesOfLinesComeTwice) {
  const auto named = [](const char* name, const char* prompt) { return fmt::format(R"({{"custom_id":"{}","prompt":"{}"}})", name, prompt) + "\n"; };
  const std::string bare = "{\"prompt\":\"x\"}\n";
  // Line 2 has line 1's name, and so have others behind line 4; lines 7 and 9 bring none, and would get those of lines 8 and 6; line 10 is bad, so nobody but line 11 has its name.
  write_text(in_, named("line-2", "a") + bare + named("line-4", "b") + bare + named("line-4", "c") + named("line-9", "d") + bare + named("line-7", "e") + bare +
                      "{\"prompt\":5}\n" + named("line-10", "f") + named("line-4", "c") + bare);
  FakeRunner runner;
  run_batch({in_, whole_, true}, model_, runner, kGoOn);
  for (int64_t i = 0; i < 3; ++i) run_shard(i, 3);
  EXPECT_EQ(merge_error(), "");
  EXPECT_EQ(sorted_answers(read_text(out_)), sorted_answers(read_text(whole_)));
  EXPECT_THAT(read_text(out_), HasSubstr("duplicate_custom_id"));
}

TEST_F(Parts, MissingAndDoubledAnswersAreNamed) {
  run_shard(0, 2);
  EXPECT_THAT(merge_error(), HasSubstr("1-of-2"));
  run_shard(1, 2, 2);
  EXPECT_THAT(merge_error(), HasSubstr("have no answer in the 2 shards, the first is line"));
  EXPECT_FALSE(std::filesystem::exists(out_));
  run_shard(1, 2);
  EXPECT_EQ(merge_error(), "");
  const std::string first = shard_output(out_, {0, 2}), copy = directory_.file("copy.jsonl");
  std::filesystem::copy_file(first, copy);
  std::filesystem::copy_file(first + ".job", copy + ".job");
  EXPECT_THAT(merge_error({first, copy}), HasSubstr("are both shard 0/2"));
  // A record that comes twice is one, as for a job that goes on; one that says something else is another.
  const std::string records = read_text(first), merged = read_text(out_);
  write_text(first, records + records);
  EXPECT_EQ(merge_error(), "");
  EXPECT_EQ(read_text(out_), merged);
  const std::string model = R"("model":"fake")";
  const size_t at = records.find(model), begin = records.rfind('\n', at) + 1;
  std::string other = records.substr(begin, records.find(R"(,"checksum":)", at) - begin) + "}\n";
  other.replace(at - begin, model.size(), R"("model":"else")");
  write_text(first, records + other);
  EXPECT_THAT(merge_error(), HasSubstr("answered twice"));
}

TEST_F(Parts, AnOutputThatIsBeingWrittenStays) {
  for (int64_t i = 0; i < 2; ++i) run_shard(i, 2);
  {
    const Job job(out_, in_);
    EXPECT_THAT(merge_error(), HasSubstr("another flexgen process is writing"));
  }
  EXPECT_EQ(merge_error(), "");
}

TEST_F(Parts, AShardThatIsBeingWrittenIsRefused) {
  for (int64_t i = 0; i < 2; ++i) run_shard(i, 2);
  {
    const Job job(shard_output(out_, {1, 2}), in_);
    EXPECT_THAT(merge_error(), AllOf(HasSubstr("another flexgen process is writing the shard"), HasSubstr("1-of-2")));
    EXPECT_FALSE(std::filesystem::exists(out_));
  }
  EXPECT_EQ(merge_error(), "");
}

TEST_F(Parts, AShardWithABrokenEndIsRefused) {
  for (int64_t i = 0; i < 2; ++i) run_shard(i, 2);
  const std::string part = shard_output(out_, {1, 2}), records = read_text(part);
  write_text(part, records + R"({"id":"batch_req_00)");
  EXPECT_THAT(merge_error(), HasSubstr("the last record of the shard"));
  write_text(part, records + "notes\n");
  EXPECT_THAT(merge_error(), HasSubstr("so it is no whole record"));
  write_text(part, "\n" + records.substr(0, records.size() - 1));  // a blank line, and no end of the last one
  EXPECT_EQ(merge_error(), "");
  EXPECT_EQ(sorted_answers(read_text(out_)), sorted_answers(read_text(whole_)));
}

TEST_F(Parts, ANameThatSaysMoreShardsThanThereCanBeIsNone) {
  write_text(directory_.file("out.0-of-99999999999.jsonl"), "");
  EXPECT_THAT(merge_error(), HasSubstr("there are no shards"));
}

TEST_F(Parts, OtherJobsAreRefused) {
  for (int64_t i = 0; i < 2; ++i) run_shard(i, 2);
  model_.fingerprint = "beef";
  run_shard(0, 3);
  EXPECT_THAT(merge_error(), HasSubstr("others that say"));
  EXPECT_THAT(merge_error({shard_output(out_, {0, 2}), shard_output(out_, {0, 3})}), HasSubstr("the model's fingerprint is f00d and beef"));
  model_ = {{256, 1000, &kTokenizer}, "fake", "f00d", {{"backend", "another"}}};
  run_shard(2, 3);
  EXPECT_THAT(merge_error({shard_output(out_, {0, 2}), shard_output(out_, {2, 3})}), HasSubstr("the backend is fake and another"));
  model_.options = {{"backend", "fake"}, {"weight dtype", "int4"}};
  run_shard(0, 4);
  EXPECT_THAT(merge_error({shard_output(out_, {0, 2}), shard_output(out_, {0, 4})}), HasSubstr("the weight dtype is the default and int4"));
  write_text(in_, read_text(in_) + "more\n");
  EXPECT_THAT(merge_error({shard_output(out_, {0, 2}), shard_output(out_, {1, 2})}), HasSubstr("another input"));
}

TEST_F(Parts, OtherDatesAndNamesAreTold) {
  const auto date_in_to = [&](std::time_t time) {
    const timespec times[2]{{time, 0}, {time, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, in_.c_str(), times, 0), 0);
  };
  const auto told_by_merge = [&] {
    std::ostringstream told;
    const auto usual = spdlog::default_logger();
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("told", std::make_shared<spdlog::sinks::ostream_sink_mt>(told)));
    EXPECT_EQ(merge_error(), "");
    spdlog::set_default_logger(usual);
    return told.str();
  };
  date_in_to(1'700'006'400 - 86'400);  // midnight, UTC
  run_shard(0, 3);
  date_in_to(1'700'006'399);  // the end of the same day
  run_shard(1, 3);
  run_shard(2, 3);
  EXPECT_EQ(told_by_merge(), "");
  for (const char* part : {"out.1-of-3.jsonl", "out.2-of-3.jsonl"}) std::filesystem::remove(directory_.file(part));
  date_in_to(1'700'006'400);
  model_.name = "other";
  model_.arithmetic = {{"processor", "one, version 1"}};
  run_shard(1, 3);
  model_.arithmetic = {{"processor", "another, version 1"}};
  run_shard(2, 3);
  const std::string told = told_by_merge();
  EXPECT_THAT(told,
              AllOf(HasSubstr("out.0-of-3.jsonl and "), HasSubstr("out.1-of-3.jsonl were last changed on different days (2023-11-14 and 2023-11-15, UTC)"),
                    HasSubstr("cp -p"), HasSubstr("name different models: 'fake' and 'other'")));
  EXPECT_EQ(std::count(told.begin(), told.end(), '\n'), 2) << "each once, and an arithmetic that only one of two shards names is no difference: " << told;
  std::filesystem::remove(directory_.file("out.0-of-3.jsonl"));
  run_shard(0, 3);
  EXPECT_THAT(told_by_merge(), HasSubstr("on a processor each that round differently (another, version 1; one, version 1)"));
}

TEST_F(Parts, NoOtherTextIsReplaced) {
  for (int64_t i = 0; i < 2; ++i) run_shard(i, 2);
  write_text(out_, "my notes\n");
  EXPECT_THAT(merge_error(), HasSubstr("would be lost"));
  EXPECT_EQ(read_text(out_), "my notes\n");
  write_text(out_, read_text(whole_));  // records, as an earlier merge leaves them
  EXPECT_EQ(merge_error(), "");
}

TEST_F(Parts, NoOtherAnswersAreReplaced) {
  for (int64_t i = 0; i < 2; ++i) run_shard(i, 2);
  const std::string other_in = directory_.file("other.jsonl"), other = directory_.file("answers.jsonl");
  write_text(other_in, "{\"custom_id\":\"mine\",\"prompt\":\"x\"}\n");
  FakeRunner runner;
  run_batch({other_in, other}, model_, runner, kGoOn);
  const std::vector<std::string> parts{shard_output(out_, {0, 2}), shard_output(out_, {1, 2})};
  const auto said = [&](const std::string& output, const std::string& errors = "") {
    return error_of(ErrorKind::kUser, [&] { merge_shards(in_, output, parts, errors); });
  };
  const std::string kept = read_text(other);
  EXPECT_THAT(said(other), AllOf(HasSubstr("answers.jsonl is the output of a job of its own"), HasSubstr("it is of another input")));
  EXPECT_THAT(said(out_, other), HasSubstr("answers.jsonl is the output of a job"));
  std::filesystem::remove(other + ".job");
  EXPECT_THAT(said(other), AllOf(HasSubstr("line 1 of "), HasSubstr("answers.jsonl answers no line of "), HasSubstr("would be lost")));
  EXPECT_EQ(read_text(other), kept);
  write_text(other, read_text(whole_));
  EXPECT_THAT(said(out_, other), HasSubstr("is an answer, and no error, and would be lost"));
  EXPECT_EQ(read_text(other), read_text(whole_));
  EXPECT_FALSE(std::filesystem::exists(out_));
  // Errors of an earlier merge are replaced.
  const std::string errors = directory_.file("errors.jsonl");
  for (int i = 0; i < 2; ++i) EXPECT_EQ(merge_shards(in_, out_, parts, errors).lines, 23);
}

/// Else that job would go on with them as its own.
TEST_F(Parts, AJobInTheOutputsPlaceIsOfTheShardsKind) {
  model_.arithmetic = {{"processor", "one"}};
  FakeRunner runner;
  runner.stop_after = 3;
  run_batch({in_, out_}, model_, runner, kGoOn);
  const std::string begun = read_text(out_);
  const BatchModel as_begun = model_;
  model_.options["weight dtype"] = "int4";
  for (int64_t i = 0; i < 2; ++i) run_shard(i, 2);
  EXPECT_THAT(merge_error(), AllOf(HasSubstr("out.jsonl is the output of a job of its own"), HasSubstr("the weight dtype is the default and int4")));
  EXPECT_EQ(read_text(out_), begun);
  model_ = as_begun;
  model_.arithmetic = {{"processor", "another"}};
  run_shard(0, 3);
  model_ = as_begun;
  for (int64_t i = 1; i < 3; ++i) run_shard(i, 3);
  const std::vector<std::string> parts{shard_output(out_, {0, 3}), shard_output(out_, {1, 3}), shard_output(out_, {2, 3})};
  EXPECT_THAT(merge_error(parts), HasSubstr("the processor rounds differently: one and another"));
  std::filesystem::remove(parts[0]);
  run_shard(0, 3);
  EXPECT_EQ(merge_error(parts), "");
  FakeRunner more;
  EXPECT_EQ(run_batch({in_, out_}, as_begun, more, kGoOn).kept, 23);
  const std::string manifest = out_ + ".job";
  write_text(manifest, "mine");
  EXPECT_THAT(merge_error(parts), HasSubstr("out.jsonl.job is damaged"));
}

TEST_F(Parts, LinesThatShareStayTogether) {
  std::string text;
  for (int i = 0; i < 48; ++i)
    text += fmt::format(R"({{"custom_id":"group {} line {}","method":"POST","url":"/v1/completions","body":{{"prompt":"{}{}","max_tokens":2}}}})", i / 8, i,
                        std::string(96, static_cast<char>('a' + i / 8)), i) +
            "\n";
  write_text(in_, text);
  FakeRunner runner;
  run_batch({in_, whole_, true}, model_, runner, kGoOn);
  std::map<char, std::set<int64_t>> shards_of_group;
  for (int64_t shard = 0; shard < 3; ++shard) {
    run_shard(shard, 3);
    const std::string records = read_text(shard_output(out_, {shard, 3}));
    for (size_t at = records.find("group "); at != std::string::npos; at = records.find("group ", at + 1)) shards_of_group[records[at + 6]].insert(shard);
  }
  EXPECT_EQ(shards_of_group.size(), 6U);
  for (const auto& [group, shards] : shards_of_group) EXPECT_EQ(shards.size(), 1U) << group;
  EXPECT_EQ(merge_shards(in_, out_, {}).lines, 48);
  EXPECT_EQ(sorted_answers(read_text(out_)), sorted_answers(read_text(whole_)));
}

/// A rank a thread, each a whole replica.
class Replicas : public Parts {
 protected:
  /// What each rank threw; its runner has what it served.
  std::vector<std::string> run(std::vector<FakeRunner>& runners) {
    const auto count = static_cast<int>(runners.size());
    LocalPorts ports(count);
    Leads leads;
    for (int rank = 1; rank < count; ++rank) leads.push_back(rank);
    std::vector<std::string> errors(runners.size());
    std::vector<std::thread> threads;
    for (int rank = 0; rank < count; ++rank)
      threads.emplace_back([&, rank] {
        const auto index = static_cast<size_t>(rank);
        const BatchReplicas replicas{&ports.port(rank), leads};
        std::atomic<bool> stop{false};
        try {
          if (rank == 0) outcome_ = run_batch({in_, out_}, model_, runners[0], stop, replicas);
          else serve_batch({in_, out_}, model_, runners[index], stop, replicas, [&stop] { stop = true; });
        } catch (const std::exception& error) {
          errors[index] = error.what();
          ports.port(rank).abort(error.what());
        }
      });
    for (std::thread& thread : threads) thread.join();
    return errors;
  }
  BatchOutcome outcome_;
};

TEST_F(Replicas, LinesThatShareStayTogether) {
  std::string text;
  for (int i = 0; i < 40; ++i) {
    const std::string prompt = std::string(20, static_cast<char>('a' + i % 10)) + std::to_string(i);  // groups of four, which lie apart
    text += fmt::format(R"({{"custom_id":"r{}","method":"POST","url":"/v1/completions","body":{{"prompt":"{}"}}}})", i, prompt) + "\n";
  }
  write_text(in_, text);
  std::vector<FakeRunner> runners(3);
  EXPECT_EQ(run(runners), std::vector<std::string>(3));
  EXPECT_EQ(outcome_.answered, 40);
  std::map<int32_t, std::set<size_t>> servers;  // of a group
  for (size_t i = 0; i < runners.size(); ++i)
    for (const Request& request : runners[i].served) servers[request.prompt.front()].insert(i);
  EXPECT_EQ(servers.size(), 10u);
  for (const auto& [group, by] : servers) EXPECT_EQ(by.size(), 1u) << group;
}

TEST_F(Replicas, ShareTheLines) {
  std::vector<FakeRunner> runners(3);
  for (const std::string& error : run(runners)) EXPECT_EQ(error, "");
  EXPECT_EQ(sorted_answers(read_text(out_)), sorted_answers(read_text(whole_)));
  EXPECT_FALSE(outcome_.stopped);
  std::multiset<int64_t> keys;
  for (const FakeRunner& runner : runners)
    for (const Request& request : runner.served) keys.insert(request.key);
  EXPECT_EQ(keys.size(), std::set<int64_t>(keys.begin(), keys.end()).size());  // nothing twice
  // And again: nothing is left to do.
  std::vector<FakeRunner> more(2);
  for (const std::string& error : run(more)) EXPECT_EQ(error, "");
  for (const FakeRunner& runner : more) EXPECT_TRUE(runner.served.empty());
  EXPECT_EQ(outcome_.kept, 23);
}

TEST_F(Replicas, AFailureEndsAllAndKeepsAnswers) {
  std::vector<FakeRunner> runners(3);
  // The others stop at one request each until rank 1 is about to fail; else they may take all there is before it gets two.
  std::latch failing(1);
  runners[1].fail_after = 2;
  runners[1].before_next = [&](int64_t served) {
    if (served == 2) failing.count_down();
  };
  for (FakeRunner* other : {&runners[0], &runners[2]})
    other->before_next = [&](int64_t served) {
      if (served == 1) failing.wait();
    };
  const auto errors = run(runners);
  EXPECT_THAT(errors[1], HasSubstr("the disk is gone"));
  const auto kept = sorted_answers(read_text(out_)), all = sorted_answers(read_text(whole_));
  EXPECT_TRUE(std::includes(all.begin(), all.end(), kept.begin(), kept.end()));
  std::vector<FakeRunner> others(2);
  for (const std::string& error : run(others)) EXPECT_EQ(error, "");
  EXPECT_EQ(sorted_answers(read_text(out_)), all);
}

/// When its own lines are done rank 0 waits for the others', and a signal comes to it alone.
TEST_F(Replicas, AStopWhileRank0WaitsStopsTheOthers) {
  struct Ending : FakeRunner {
    RunReport run(RequestSource& source, CompletionSink& sink, const std::atomic<bool>& stop) override {
      const RunReport report = FakeRunner::run(source, sink, stop);
      ended.count_down();
      return report;
    }
    std::latch ended{1};
  } own;
  FakeRunner other;
  std::latch has_a_line(1);
  std::atomic<bool> stop{false}, other_stops{false};
  own.before_next = [&](int64_t) { has_a_line.wait(); };
  other.before_next = [&](int64_t served) {
    if (served != 1) return;
    has_a_line.count_down();
    own.ended.wait();
    stop = true;
    for (int i = 0; i < 1000 && !other_stops; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  };
  LocalPorts ports(2);
  std::thread replica([&] { serve_batch({in_, out_}, model_, other, other_stops, {&ports.port(1), {1}}, [&] { other_stops = true; }); });
  run_batch({in_, out_}, model_, own, stop, {&ports.port(0), {1}});
  replica.join();
  EXPECT_TRUE(other_stops);
}

TEST_F(Replicas, AnotherInputIsRefused) {
  const std::string other = directory_.file("other.jsonl");
  write_text(other, read_text(in_) + "x\n");
  LocalPorts ports(2);
  std::string error;
  std::thread replica([&] {
    FakeRunner runner;
    try {
      serve_batch({other, out_}, model_, runner, kGoOn, {&ports.port(1), {1}}, [] {});
    } catch (const Error& caught) {
      error = caught.what();
      ports.port(1).abort(error);
    }
  });
  FakeRunner runner;
  EXPECT_THROW(run_batch({in_, out_}, model_, runner, kGoOn, {&ports.port(0), {1}}), Error);
  replica.join();
  EXPECT_THAT(error, HasSubstr("differs from that of rank 0"));
}

}  // namespace
}  // namespace flexgen::shards_test
