// A job whose input was edited: lines that are as they were keep their answers, and no answer is lost.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "base/log.h"
#include "base/sha256.h"
#include "batch/fake_runner.h"
#include "batch/job.h"

namespace flexgen::edited_input_test {
namespace {

using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const ByteTokenizer kTokenizer;
const std::atomic<bool> kGoOn{false};

class EditedInput : public testing::Test {
 protected:
  EditedInput() {
    spdlog::set_level(spdlog::level::err);
    for (const char* id : {"a", "b", "c", "d", "e"}) lines_.push_back(line(id, id));
    lines_.insert(lines_.begin() + 2, "broken");
    EXPECT_EQ(run().answered, 5);
    before_ = records();
  }
  static std::string line(const std::string& id, const std::string& prompt) {
    return R"({"custom_id":")" + id + R"(","method":"POST","url":"/v1/completions","body":{"prompt":"prompt )" + prompt + R"("}})";
  }
  /// Writes the lines and runs the job; served_ are the prompts that it answers now.
  BatchOutcome run(bool overwrite = false) {
    std::string text;
    for (const std::string& one : lines_) text += one + "\n";
    write_text(in_, text);
    FakeRunner runner;
    BatchFiles files{in_, out_, overwrite};
    files.error_output = errors_;
    runner.not_finite = not_finite_;
    const BatchOutcome outcome = run_batch(files, model_, runner, kGoOn);
    served_.clear();
    for (const Request& request : runner.served) served_.push_back(kTokenizer.decode(request.prompt, true));
    return outcome;
  }
  std::string error_of(bool overwrite = false) {
    return message_of([&] { run(overwrite); });
  }
  static std::map<std::string, std::string> records_in(const std::string& path) {
    std::map<std::string, std::string> all;
    for (const std::string& text : sorted_lines(read_text(path))) EXPECT_TRUE(all.emplace(Json::parse(text)["custom_id"].get<std::string>(), text).second);
    return all;
  }
  std::map<std::string, std::string> records() const { return records_in(out_); }
  /// A start without the error output, after a line came to the top, which a kill left without the record of `lost`.
  void edit_without_errors(const std::string& lost) {
    const std::string errors = std::exchange(errors_, "");
    lines_.insert(lines_.begin(), line("new", "n"));
    run();
    std::string answers;
    for (const auto& [id, text] : records())
      if (id != lost) answers += text + "\n";
    write_text(out_, answers);
    errors_ = errors;
  }
  std::string removed() const { return out_ + ".removed"; }
  /// What a run of these lines from nothing gives.
  std::map<std::string, std::string> fresh() {
    const std::string out = out_;
    out_ = directory_.file("fresh.jsonl");
    const int64_t created = Json::parse(read_text(out + ".job"))["created"];
    run();
    auto all = records();
    for (const std::string& path : {out_, out_ + ".job"}) std::filesystem::remove(path);
    out_ = out;
    // But for the time at which the job began.
    for (auto& [id, text] : all) {
      Json record = Json::parse(text);
      if (!record["response"].is_null()) record["response"]["body"]["created"] = created;
      record.erase("checksum");
      text = record.dump();
    }
    return all;
  }
  std::map<std::string, std::string> now() const {
    auto all = records();
    for (auto& [id, text] : all) {
      Json record = Json::parse(text);
      record.erase("checksum");
      text = record.dump();
    }
    return all;
  }

  TemporaryDirectory directory_;
  std::string in_ = directory_.file("in.jsonl"), out_ = directory_.file("out.jsonl"), errors_;
  std::function<bool(const Request&)> not_finite_;
  std::vector<std::string> lines_, served_;
  std::map<std::string, std::string> before_;
  BatchModel model_{{256, 1000, &kTokenizer}, "fake", "f00d", {{"backend", "fake"}}};
};

TEST_F(EditedInput, LinesThatAreAddedAreAnsweredAlone) {
  lines_.insert(lines_.begin() + 1, line("new", "n"));
  lines_.push_back(line("last", "l"));
  EXPECT_EQ(run().kept, 5);
  EXPECT_THAT(served_, ElementsAre("prompt n", "prompt l"));
  EXPECT_FALSE(std::filesystem::exists(removed()));
  EXPECT_EQ(records()["a"], before_["a"]);
  EXPECT_EQ(Json::parse(records()["line-4"])["error"]["line"], 4);
  EXPECT_EQ(now(), fresh());
  const std::string whole = read_text(out_);
  EXPECT_EQ(run().kept, 8);
  EXPECT_EQ(read_text(out_), whole);
}

TEST_F(EditedInput, LinesThatMovedKeepTheirAnswers) {
  std::reverse(lines_.begin(), lines_.end());
  EXPECT_EQ(run().kept, 5);
  EXPECT_THAT(served_, IsEmpty());
  EXPECT_EQ(now(), fresh());
}

TEST_F(EditedInput, AnswersOfLinesThatAreGoneAreMoved) {
  lines_.erase(lines_.begin());
  lines_[0] = line("b", "put right");
  EXPECT_EQ(run().kept, 3);
  EXPECT_THAT(served_, ElementsAre("prompt put right"));
  EXPECT_THAT(sorted_lines(read_text(removed())), testing::UnorderedElementsAre(before_["a"], before_["b"]));
  EXPECT_EQ(now(), fresh());
  // Further ones are added, and none comes twice.
  lines_.pop_back();
  run();
  lines_.pop_back();
  lines_.push_back(line("e", "e"));
  run();
  lines_.pop_back();
  run();
  EXPECT_THAT(sorted_lines(read_text(removed())), testing::UnorderedElementsAre(before_["a"], before_["b"], before_["d"], before_["e"]));
}

TEST_F(EditedInput, ABadLineThatIsPutRightIsAnswered) {
  lines_[2] = line("x", "x");
  EXPECT_EQ(run().failed, 0);
  EXPECT_THAT(served_, ElementsAre("prompt x"));
  EXPECT_EQ(records().size(), 6u);
  EXPECT_FALSE(std::filesystem::exists(removed()));
  EXPECT_EQ(now(), fresh());
}

TEST_F(EditedInput, OnlyErrorsAreNoAnswersToLose) {
  for (std::string& one : lines_) one = "bad";
  out_ = directory_.file("bad.jsonl");
  EXPECT_EQ(run().failed, 6);
  for (size_t i = 0; i < lines_.size(); ++i) lines_[i] = line(std::to_string(i), "good");
  EXPECT_EQ(run().answered, 6);
  EXPECT_EQ(records().size(), 6u);
}

TEST_F(EditedInput, AnotherInputIsRefused) {
  const auto whole = read_text(out_), manifest = read_text(out_ + ".job");
  for (std::string& one : lines_) one = line(std::to_string(&one - lines_.data()), "other");
  EXPECT_THAT(error_of(), testing::AllOf(HasSubstr("another input"), HasSubstr("--overwrite")));
  EXPECT_EQ(read_text(out_), whole);
  EXPECT_EQ(read_text(out_ + ".job"), manifest);
  EXPECT_EQ(error_of(true), "");
  EXPECT_EQ(records().size(), 6u);
  EXPECT_FALSE(std::filesystem::exists(removed()));
}

TEST_F(EditedInput, AnotherModelIsRefusedAllTheSame) {
  lines_.pop_back();
  model_.fingerprint = "beef";
  EXPECT_THAT(error_of(), HasSubstr("another model"));
}

TEST_F(EditedInput, BareLinesThatMovedGetTheirNewNames) {
  out_ = directory_.file("bare.jsonl");
  const auto bare = [](const std::string& prompt) { return R"({"prompt":")" + prompt + "\"}"; };
  lines_ = {bare("one"), bare("two"), bare("same"), bare("same")};
  run();
  before_ = records();
  lines_ = {bare("new"), bare("same"), bare("one"), bare("same"), bare("two")};
  EXPECT_EQ(run().kept, 4);
  EXPECT_THAT(served_, ElementsAre("new"));
  EXPECT_EQ(now(), fresh());
  EXPECT_EQ(run().kept, 5);  // and their checksums fit
  // What another tool wrote again is answered again where it moved.
  std::string saved;
  for (const auto& [id, text] : records()) saved += Json::parse(text).dump() + "\n";
  write_text(out_, saved);
  lines_.erase(lines_.begin());
  EXPECT_EQ(run().kept, 0);
  EXPECT_EQ(now(), fresh());
}

// Whatever a kill leaves between the steps, the next start ends in the same place.
TEST_F(EditedInput, AKillBetweenItsFilesDoesNoHarm) {
  const std::string old_manifest = read_text(out_ + ".job"), old_output = read_text(out_);
  lines_.erase(lines_.begin());
  run();
  const std::string output = read_text(out_), gone = read_text(removed());
  const auto expected = sorted_lines(output);
  // The output is new, the manifest old.
  write_text(out_ + ".job", old_manifest);
  run();
  EXPECT_EQ(sorted_lines(read_text(out_)), expected);
  EXPECT_EQ(read_text(removed()), gone);
  // What was moved is safe already, the output and the manifest are old.
  write_text(out_ + ".job", old_manifest);
  write_text(out_, old_output);
  // A file beside them that is not this job's stays.
  for (const char* end : {".tmp", ".job.tmp", ".removed.tmp"}) write_text(out_ + end, "mine");
  run();
  EXPECT_EQ(sorted_lines(read_text(out_)), expected);
  EXPECT_EQ(read_text(removed()), gone);
  for (const char* end : {".tmp", ".job.tmp", ".removed.tmp"}) EXPECT_EQ(read_text(out_ + end), "mine");
}

TEST_F(EditedInput, ErrorsInAFileOfTheirOwnAreWrittenAgain) {
  errors_ = directory_.file("errors.jsonl");
  run();
  EXPECT_EQ(records_in(errors_).count("line-3"), 1u);
  lines_.insert(lines_.begin(), line("new", "n"));
  lines_.push_back("broken too");
  EXPECT_EQ(run().kept, 5);
  EXPECT_EQ(records().size(), 6u);
  EXPECT_THAT(records_in(errors_), ElementsAre(testing::Key("line-4"), testing::Key("line-8")));
  // Errors of lines that were there are dropped; those of others are kept, whose they may be.
  lines_[3] = line("right", "r");
  EXPECT_EQ(run().answered, 1);
  EXPECT_THAT(records_in(errors_), ElementsAre(testing::Key("line-8")));
  EXPECT_THAT(records_in(errors_ + ".removed"), ElementsAre(testing::Key("line-4")));
}

TEST_F(EditedInput, ErrorsOfAFileThatWasLeftOutMeanwhileAreWrittenAgain) {
  const std::string errors = directory_.file("errors.jsonl");
  const auto run_with = [&](bool with_errors) {
    errors_ = with_errors ? errors : "";
    return run();
  };
  run_with(true);
  lines_.insert(lines_.begin(), line("new", "n"));  // its error is of line 4 now
  run_with(false);
  EXPECT_EQ(run_with(true).answered, 0);
  EXPECT_EQ(records().size(), 6u);
  EXPECT_THAT(records_in(errors), ElementsAre(testing::Key("line-4")));
  EXPECT_EQ(run_with(true).kept, 7);
  lines_.erase(lines_.begin() + 3);
  run_with(false);
  EXPECT_EQ(run_with(true).answered, 0);
  EXPECT_EQ(records().size(), 6u);
  EXPECT_THAT(records_in(errors), IsEmpty());
  EXPECT_THAT(records_in(errors + ".removed"), ElementsAre(testing::Key("line-4")));
  EXPECT_FALSE(std::filesystem::exists(removed()));
}

/// A kill once the output was written anew without its errors, or before they were written there: the old ones of the error output are all that there is.
TEST_F(EditedInput, AKillLeavesNoErrorOfAnotherLine) {
  const std::string errors = directory_.file("errors.jsonl");
  errors_ = errors;
  run();
  edit_without_errors("line-4");
  std::ostringstream told;
  const auto usual = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("told", std::make_shared<spdlog::sinks::ostream_sink_mt>(told)));
  EXPECT_EQ(run().answered, 0);
  spdlog::set_default_logger(usual);
  EXPECT_THAT(records_in(errors), ElementsAre(testing::Key("line-4")));
  EXPECT_EQ(Json::parse(records_in(errors)["line-4"])["error"]["line"], 4);
  EXPECT_EQ(records().size(), 6u);
  EXPECT_THAT(told.str(), HasSubstr("the error output"));
  EXPECT_THAT(told.str(), testing::Not(HasSubstr("was changed since the job began"))) << "it was not";
}

/// As above, of a good line, whose name is its number.
TEST_F(EditedInput, AKillLeavesNoErrorOfAGoodLineThatMoved) {
  const std::string errors = directory_.file("errors.jsonl");
  std::filesystem::remove(out_);
  std::filesystem::remove(out_ + ".job");
  lines_ = {line("a", "a"), R"({"method":"POST","url":"/v1/completions","body":{"prompt":"prompt x"}})"};
  not_finite_ = [](const Request& request) { return kTokenizer.decode(request.prompt, true) == "prompt x"; };
  errors_ = errors;
  run();
  ASSERT_THAT(records_in(errors), ElementsAre(testing::Key("line-2")));
  edit_without_errors("line-3");
  EXPECT_NO_THROW(run());
  EXPECT_THAT(records_in(errors), ElementsAre(testing::Key("line-3")));
  EXPECT_EQ(Json::parse(records_in(errors)["line-3"])["error"]["line"], 3);
  EXPECT_THAT(records(), ElementsAre(testing::Key("a"), testing::Key("new")));
}

}  // namespace
}  // namespace flexgen::edited_input_test
