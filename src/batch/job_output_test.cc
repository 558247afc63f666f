// What users and their tools do to an output between two starts and during one: what says the same is kept, what cannot be this job's is refused and left
// alone byte for byte, and nothing that others put there is ever lost.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "base/log.h"
#include "batch/fake_runner.h"
#include "batch/job.h"

namespace flexgen::job_output_test {
namespace {

using OrderedJson = nlohmann::ordered_json;
using testing::AllOf;
using testing::HasSubstr;

const ByteTokenizer kTokenizer;
const std::atomic<bool> kGoOn{false};
namespace fs = std::filesystem;

class JobOutput : public testing::Test {
 protected:
  JobOutput() {
    spdlog::set_level(spdlog::level::err);
    std::string text = "broken\n";
    for (int i = 0; i < 6; ++i)
      text += fmt::format(R"({{"custom_id":"é{}","method":"POST","url":"/v1/completions","body":{{"prompt":"text ü {}","logprobs":1,"n":{}}}}})"
                          "\n",
                          i, i, 1 + i % 2);
    write_text(in_, text);
    run();
    whole_ = read_text(out_);
    lines_ = sorted_lines(whole_);
  }

  BatchOutcome run(bool overwrite = false) {
    FakeRunner runner;
    return run_batch({in_, out_, overwrite, calls_}, model_, runner, kGoOn);
  }
  std::string error_of(bool overwrite = false) {
    return message_of([&] { run(overwrite); });
  }
  std::string manifest() const { return out_ + ".job"; }
  /// The first half of the records, in the file's order.
  std::vector<std::string> half() const {
    std::vector<std::string> lines;
    std::istringstream in(whole_);
    for (std::string line; lines.size() < 4 && std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  static std::string joined(const std::vector<std::string>& lines, const std::string& end = "\n") {
    std::string text;
    for (const std::string& line : lines) text += line + end;
    return text;
  }
  /// Without members that are null, which count as left out, and without checksums.
  static nlohmann::json content(nlohmann::json json) {
    if (json.is_object()) {
      json.erase("checksum");
      for (auto it = json.begin(); it != json.end();) {
        if (it->is_null()) it = json.erase(it);
        else ++it;
      }
    }
    if (json.is_structured())
      for (auto& value : json) value = content(value);
    return json;
  }
  /// What all records say, sorted.
  static std::vector<std::string> meaning(const std::string& text) {
    std::vector<std::string> all;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with("\xef\xbb\xbf")) line.erase(0, 3);
      if (line.find_first_not_of(" \r\t") != std::string::npos) all.push_back(content(nlohmann::json::parse(line)).dump());
    }
    std::sort(all.begin(), all.end());
    return all;
  }
  void expect_kept(const std::string& text, int64_t kept, const std::string& what) {
    write_text(out_, text);
    BatchOutcome outcome;
    ASSERT_NO_THROW(outcome = run()) << what << ": " << error_of();
    EXPECT_EQ(outcome.kept, kept) << what;
    EXPECT_EQ(meaning(read_text(out_)), meaning(whole_)) << what;
    EXPECT_EQ(run().kept, 7) << what;
  }
  void expect_refused(const std::string& text, const testing::Matcher<std::string>& why, const std::string& what) {
    write_text(out_, text);
    const std::string job_file = read_text(manifest());
    EXPECT_THAT(error_of(), AllOf(why, HasSubstr(out_))) << what;
    EXPECT_EQ(read_text(out_), text) << what;
    EXPECT_EQ(read_text(manifest()), job_file) << what;
  }

  TemporaryDirectory directory_;
  std::string in_ = directory_.file("in.jsonl"), out_ = directory_.file("out.jsonl"), whole_;
  std::vector<std::string> lines_;
  BatchModel model_{{256, 1000, &kTokenizer}, "fake", "f00d", {{"backend", "fake"}}};
  OutputCalls calls_;
};

TEST_F(JobOutput, SavedAgainByAnotherToolIsKept) {
  const auto lines = half();
  auto each = [&](const std::function<std::string(const OrderedJson&)>& save) {
    std::vector<std::string> saved;
    for (const std::string& line : lines) saved.push_back(save(OrderedJson::parse(line)));
    return joined(saved);
  };
  const std::string plain = joined(lines);
  expect_kept(joined(lines, "\r\n"), 4, "CRLF");
  expect_kept("\xef\xbb\xbf" + plain, 4, "byte order mark");
  expect_kept("\xef\xbb\xbf" + joined(lines, "\r\n"), 4, "byte order mark and CRLF");
  expect_kept(plain.substr(0, plain.size() - 1), 4, "no line end at the end");
  expect_kept(joined(lines, "\n\n"), 4, "blank lines");
  expect_kept("\n \t\r\n" + joined(lines, "\r\n") + "\r\n   ", 4, "blank lines at both ends");
  expect_kept(each([](const OrderedJson& json) { return json.dump(-1, ' ', true); }), 4, "escapes");
  expect_kept(each([](const OrderedJson& json) { return nlohmann::json::parse(json.dump()).dump(); }), 4, "sorted keys");
  expect_kept(each([](const OrderedJson& json) {
                std::string text = json.dump(1, ' ');
                std::erase(text, '\n');
                return text;
              }),
              4, "spaces");
  expect_kept(each([](OrderedJson json) {
                json.erase("checksum");
                return json.dump();
              }),
              4, "without its checksums, as an earlier flexgen wrote it");
  expect_kept(each([](OrderedJson json) {
                for (const char* name : {"response", "error"})
                  if (json[name].is_null()) json.erase(name);
                return json.dump();
              }),
              4, "nulls left out");
  auto shuffled = lines;
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(3));
  expect_kept(joined(shuffled), 4, "another order");
  expect_kept(joined({lines[2]}), 1, "lines removed");
}

// Without a checksum nothing but the line itself tells.
TEST_F(JobOutput, ARecordHasTheCustomIdOfItsLine) {
  for (const size_t at : {size_t{0}, size_t{2}}) {  // the bad line's record and an answer
    auto lines = half();
    OrderedJson record = OrderedJson::parse(lines[at]);
    record.erase("checksum");
    record["custom_id"] = "other";
    lines[at] = record.dump();
    expect_refused(joined(lines), HasSubstr(fmt::format("line {} of the output", at + 1)), lines[at]);
  }
}

TEST_F(JobOutput, TheModelKeepsTheNameThatItHadAndThatIsTold) {
  std::ostringstream told;
  const auto usual = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("told", std::make_shared<spdlog::sinks::ostream_sink_mt>(told)));
  write_text(out_, joined(half()));
  model_.name = "another";
  EXPECT_NO_THROW(run());
  spdlog::set_default_logger(usual);
  EXPECT_THAT(told.str(), AllOf(HasSubstr("'fake'"), HasSubstr("not 'another'")));
  EXPECT_EQ(sorted_lines(read_text(out_)), lines_);
}

// Found by trying: it was looked for without end.
TEST_F(JobOutput, ALinkToAFileThatIsNotThereYetMakesIt) {
  const std::string target = directory_.file("answers.jsonl");
  fs::remove(out_);
  fs::remove(manifest());
  fs::create_symlink(target, out_);
  run();
  EXPECT_TRUE(fs::is_symlink(out_));
  EXPECT_EQ(meaning(read_text(target)), meaning(whole_));
  fs::remove(out_);
  fs::remove(manifest());
  fs::create_symlink(directory_.file("no-folder/answers.jsonl"), out_);
  EXPECT_THAT(error_of(), AllOf(HasSubstr(out_), HasSubstr("cannot write the output")));
}

TEST_F(JobOutput, RepeatedRecordsStay) {
  const auto lines = half();
  const std::string text = joined(lines) + lines[0] + "\n" + nlohmann::json::parse(lines[1]).dump() + "\n";
  write_text(out_, text);
  EXPECT_EQ(run().kept, 4);
  EXPECT_TRUE(read_text(out_).starts_with(text));
}

TEST_F(JobOutput, WhatCannotBeTheJobsOwnIsRefusedAndLeftAlone) {
  const auto lines = half();
  const std::string plain = joined(lines);
  auto with = [&](size_t at, const std::string& line) {
    auto more = lines;
    more.insert(more.begin() + static_cast<std::ptrdiff_t>(at), line);
    return joined(more);
  };
  expect_refused("my notes\nmore notes\n", HasSubstr("line 1"), "notes");
  expect_refused("my notes", HasSubstr("line 1"), "notes without a line end");
  expect_refused(with(2, "garbage"), HasSubstr("line 3"), "garbage inside");
  expect_refused(with(4, "garbage"), HasSubstr("line 5"), "garbage at the end");
  expect_refused(plain + "garbage", HasSubstr("line 5"), "garbage without a line end");
  expect_refused(plain + lines[0].substr(0, 50) + "\n", HasSubstr("line 5"), "a torn line that has an end");
  expect_refused(plain + " " + lines[0].substr(0, 50), HasSubstr("line 5"), "a torn line that is not as we write it");
  expect_refused(plain + R"({"id": "batch_req_0011)", HasSubstr("line 5"), "a torn line of another tool");
  expect_refused(plain + R"({"id":"batch_req_zz)", HasSubstr("line 5"), "a torn line with a wrong id");
  expect_refused(lines[0] + lines[1] + "\n", HasSubstr("line 1"), "two records in a line");
  expect_refused("\x1f\x8b\x08 and so on", HasSubstr("gzip"), "compressed");
  expect_refused("[\n" + plain + "]\n", HasSubstr("JSON array"), "an array");
  expect_refused(OrderedJson::parse(lines[0]).dump(2) + "\n", HasSubstr("line 1"), "pretty");
  std::string wide = "\xff\xfe";
  for (char c : plain) wide += std::string(1, c) + std::string(1, '\0');
  expect_refused(wide, HasSubstr("UTF-16"), "UTF-16");
  expect_refused(plain + std::string(5000, '\0') + "\n\n", HasSubstr("zero bytes"), "zeros that are no tail");
  expect_refused(lines[0] + std::string(1, '\0') + lines[1] + "\n",
                 AllOf(HasSubstr("line 1"), HasSubstr(fmt::format("zero bytes (after a power cut?), the first at its byte {}", lines[0].size() + 1))),
                 "records with a zero between them");
  expect_refused(lines[0] + std::string(1, '\0') + "\n" + lines[1] + "\n", AllOf(HasSubstr("line 1"), HasSubstr("zero bytes")), "a zero at a line's end");
  expect_refused(plain.substr(0, plain.size() / 2) + std::string(3, '\0') + plain.substr(plain.size() / 2), HasSubstr("line"), "zeros inside");
  OrderedJson labelled = OrderedJson::parse(lines[1]);
  labelled["label"] = "good";
  expect_refused(with(1, labelled.dump()), AllOf(HasSubstr("line 2"), HasSubstr("'label'")), "another field");
  std::string foreign = lines[0];
  foreign.replace(foreign.find("batch_req_") + 10, 4, "0000");
  OrderedJson unsealed = OrderedJson::parse(foreign);
  unsealed.erase("checksum");
  expect_refused(with(1, unsealed.dump()), HasSubstr("answer no line"), "a record of another input");
  OrderedJson changed = OrderedJson::parse(lines[1]);
  changed.erase("checksum");
  changed["custom_id"] = "other";
  expect_refused(with(4, changed.dump()), AllOf(HasSubstr("lines 2 and 5"), HasSubstr("differ")), "two answers");
  EXPECT_EQ(error_of(true), "");  // --overwrite
  EXPECT_EQ(sorted_lines(read_text(out_)), lines_);
}

TEST_F(JobOutput, ATailOfZerosAndATornRecordAreCut) {
  const std::string plain = joined(half());
  for (size_t bytes : {size_t{0}, size_t{1}, plain.size() / 3, plain.size() - 1, plain.size()})
    for (size_t zeros : {1, 4096, 3000000}) {
      const int64_t kept = std::count(plain.begin(), plain.begin() + static_cast<std::ptrdiff_t>(bytes), '\n') + (bytes + 1 == plain.size());
      expect_kept(plain.substr(0, bytes) + std::string(zeros, '\0'), kept, fmt::format("{} bytes and {} zeros", bytes, zeros));
      EXPECT_EQ(sorted_lines(read_text(out_)), lines_);
    }
}

TEST_F(JobOutput, DamagedRecordsAreNotTaken) {
  const std::string plain = joined(half());
  std::mt19937 random(7);
  int refused = 0;
  for (int round = 0; round < 300; ++round) {
    std::string text = plain;
    const size_t at = random() % text.size();
    text[at] = static_cast<char>(text[at] ^ 1 << random() % 8);
    write_text(out_, text);
    const std::string error = error_of();
    if (!error.empty()) {
      EXPECT_EQ(read_text(out_), text);
      EXPECT_THAT(error, AllOf(HasSubstr("line"), HasSubstr(out_)));
      ++refused;
    } else {
      EXPECT_EQ(meaning(read_text(out_)), meaning(whole_)) << "byte " << at;
    }
  }
  EXPECT_GT(refused, 270);
  std::string text = plain;
  text.replace(text.find("txet"), 1, "T");
  const int64_t line = 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(text.find("Txet")), '\n');
  expect_refused(text, AllOf(HasSubstr(fmt::format("line {} ", line)), HasSubstr("checksum"), HasSubstr(fmt::format("sed -i '{}d'", line))),
                 "a changed letter");
}

TEST_F(JobOutput, AbsurdJobFilesAreRefusedByName) {
  const std::string text = read_text(manifest()), answers = read_text(out_);
  const OrderedJson good = OrderedJson::parse(text);
  auto refused = [&](const std::string& job_file, const std::string& why) {
    write_text(manifest(), job_file);
    EXPECT_THAT(error_of(), AllOf(HasSubstr(manifest()), HasSubstr(why), HasSubstr("--overwrite"))) << job_file.substr(0, 500);
    EXPECT_EQ(read_text(manifest()), job_file);
    EXPECT_EQ(read_text(out_), answers);
  };
  refused("", "damaged");
  refused(std::string(300, '\0'), "damaged");
  refused(std::string(100000, '['), "damaged");
  write_text(manifest(), std::string(2 << 20, ' '));
  EXPECT_THAT(error_of(), AllOf(HasSubstr(manifest()), HasSubstr("2.00 MiB")));
  refused("[]", "no JSON object");
  refused(text.substr(0, text.size() / 2), "damaged");
  refused(R"({"flexgen_job":1,)" + text.substr(text.find('{') + 1), "twice");
  auto with = [&](const char* name, const OrderedJson& value) {
    OrderedJson json = good;
    json.erase("checksum");
    json[name] = value;
    return json.dump();
  };
  for (const OrderedJson& value : {OrderedJson(-1), OrderedJson(1e300), OrderedJson(1.5), OrderedJson("1"), OrderedJson(nullptr), OrderedJson(true),
                                   OrderedJson(253402300800), OrderedJson(18446744073709551615u), OrderedJson(OrderedJson::array({1}))})
    refused(with("created", value), "'created'");
  for (const OrderedJson& value : {OrderedJson(-1), OrderedJson(0.5), OrderedJson("1"), OrderedJson(1e30), OrderedJson(nullptr)})
    refused(with("flexgen_job", value), "'flexgen_job'");
  refused(with("flexgen_job", 2), "format 2");
  refused(with("model", 5), "'model'");
  refused(with("model", "other"), "says model 'other'");
  refused(with("created", 5), "says created 5");
  refused(with("options", OrderedJson::array()), "'options'");
  refused(with("options", OrderedJson{{"backend", 5}}), "'backend'");
  refused(with("input_sha256", nullptr), "'input_sha256'");
  refused(with("more", 1), "'more'");
  for (const OrderedJson& stamp :
       {OrderedJson({1, 2, 3}), OrderedJson({1, 2, 3, 4, 5}), OrderedJson({1e300, 2, 3, 4}), OrderedJson({1, 2.5, 3, 4}), OrderedJson({1, 2, -3, 4}),
        OrderedJson({1, 2, 3, 18446744073709551615u}), OrderedJson({true, 2, 3, 4}), OrderedJson(nullptr), OrderedJson("1")})
    refused(with("model_files", OrderedJson{{"model.safetensors", stamp}}), "'model.safetensors'");
  refused(with("model_files", OrderedJson::array()), "'model_files'");
  OrderedJson changed = good;
  changed["created"] = good["created"].get<int64_t>() + 1;
  refused(changed.dump(), "checksum");
  for (const char* name : {"flexgen_job", "input_sha256", "model_fingerprint", "model", "created", "options"}) {
    OrderedJson json = good;
    json.erase("checksum");
    json.erase(name);
    refused(json.dump(), fmt::format("'{}' is missing", name));
  }
  // Saved again, or from an earlier flexgen.
  write_text(manifest(), "\r\n" + good.dump() + "\r\n");
  EXPECT_EQ(run().kept, 7);
  OrderedJson without = good;
  without.erase("checksum");
  write_text(manifest(), without.dump());
  EXPECT_EQ(run().kept, 7);
}

TEST_F(JobOutput, FilesBesideItThatAreNotTheJobsStay) {
  fs::remove(out_);
  // Of a job that has nothing yet its own file may be anything of flexgen's, torn too.
  for (const std::string& text : {std::string(), std::string(100, '\0'), std::string("{\"flexgen_job\": 1, \"input")}) {
    write_text(manifest(), text);
    EXPECT_EQ(error_of(), "");
    fs::remove(out_);
  }
  write_text(manifest(), "my notes");
  EXPECT_THAT(error_of(), AllOf(HasSubstr(manifest()), HasSubstr("none of flexgen's")));
  EXPECT_EQ(read_text(manifest()), "my notes");
  EXPECT_FALSE(fs::exists(out_));
  EXPECT_EQ(error_of(true), "");
  for (const char* end : {".tmp", ".job.tmp"}) write_text(out_ + end, "mine");
  fs::remove(out_);
  fs::remove(manifest());
  EXPECT_EQ(error_of(), "");
  for (const char* end : {".tmp", ".job.tmp"}) EXPECT_EQ(read_text(out_ + end), "mine");
}

TEST_F(JobOutput, AnyTimeOfTheInputWill) {
  for (int64_t seconds : {int64_t{-5000000000}, int64_t{-1}, int64_t{0}, int64_t{4000000000}, int64_t{1} << 40}) EXPECT_GE(created_of(seconds), 0);
  const timespec times[2] = {{-100, 0}, {-100, 0}};
  if (utimensat(AT_FDCWD, in_.c_str(), times, 0) != 0) GTEST_SKIP() << "no times before 1970 here";
  out_ = directory_.file("old.jsonl");
  EXPECT_EQ(error_of(), "");
  EXPECT_EQ(run().kept, 7);
}

/// Others touch the output after the third record.
class TouchedOutput : public JobOutput {
 protected:
  std::string error_after(const std::function<void()>& touch, int64_t records = 3) {
    fs::remove(out_);
    fs::remove(manifest());
    calls_.write = [=](int descriptor, const void* data, size_t bytes) mutable {
      const ssize_t n = ::write(descriptor, data, bytes);
      if (std::string_view(static_cast<const char*>(data), bytes).starts_with(R"({"id")") && --records == 0) touch();
      return n;
    };
    const std::string error = error_of();
    calls_ = {};
    return error;
  }
  void expect_goes_on(int64_t kept) {
    EXPECT_EQ(run().kept, kept);
    EXPECT_EQ(sorted_lines(read_text(out_)), lines_);
  }
  std::string rescued() const { return out_ + ".rescued"; }
};

TEST_F(TouchedOutput, RemovedIsSaidAndSaved) {
  for (int64_t records : {1, 3, 7}) {
    EXPECT_THAT(error_after([&] { fs::remove(out_); }, records), AllOf(HasSubstr(out_), HasSubstr("was removed while the job ran"), HasSubstr(rescued())));
    EXPECT_FALSE(fs::exists(out_));
    const int64_t saved = std::min<int64_t>(7, records + 1);
    EXPECT_EQ(static_cast<int64_t>(sorted_lines(read_text(rescued())).size()), saved);
    fs::rename(rescued(), out_);
    fs::rename(rescued() + ".job", manifest());
    expect_goes_on(saved);
  }
}

TEST_F(TouchedOutput, RemovedWithItsFolder) {
  fs::create_directory(directory_.file("sub"));
  out_ = directory_.file("sub/out.jsonl");
  const fs::path before = fs::current_path();
  fs::current_path(directory_.path());
  EXPECT_THAT(error_after([&] { fs::remove_all(directory_.file("sub")); }), AllOf(HasSubstr("was removed"), HasSubstr("out.jsonl.rescued")));
  EXPECT_EQ(sorted_lines(read_text(directory_.file("out.jsonl.rescued"))).size(), 4u);
  EXPECT_TRUE(fs::exists(directory_.file("out.jsonl.rescued.job")));
  fs::current_path(before);
}

TEST_F(TouchedOutput, ReplacedLeavesTheOther) {
  write_text(rescued(), "an older one");
  EXPECT_THAT(error_after([&] {
                write_text(directory_.file("new"), "mine\n");
                fs::rename(directory_.file("new"), out_);
              }),
              AllOf(HasSubstr("was replaced by another file"), HasSubstr(rescued() + "-2")));
  EXPECT_EQ(read_text(out_), "mine\n");
  EXPECT_EQ(read_text(rescued()), "an older one");
  EXPECT_EQ(sorted_lines(read_text(rescued() + "-2")).size(), 4u);
  fs::rename(rescued() + "-2", out_);
  expect_goes_on(4);
}

TEST_F(TouchedOutput, MovedIsFound) {
  const std::string other = directory_.file("other.jsonl");
  EXPECT_THAT(error_after([&] { fs::rename(out_, other); }), AllOf(HasSubstr("was moved to " + other), HasSubstr("Move it back")));
  EXPECT_FALSE(fs::exists(rescued()));
  fs::rename(other, out_);
  expect_goes_on(4);
}

TEST_F(TouchedOutput, CutOrGrownIsNotTouchedFurther) {
  for (uintmax_t bytes : {uintmax_t{0}, uintmax_t{100}}) {
    EXPECT_THAT(error_after([&] { fs::resize_file(out_, bytes); }), AllOf(HasSubstr("was cut from"), HasSubstr("un the same command again")));
    EXPECT_EQ(fs::file_size(out_), bytes);
    expect_goes_on(0);
  }
  // At the end too.
  EXPECT_THAT(error_after([&] { fs::resize_file(out_, 0); }, 7), HasSubstr("was cut from"));
  expect_goes_on(0);
  EXPECT_THAT(error_after([&] { std::ofstream(out_, std::ios::app) << "my note\n"; }), HasSubstr("another program writes to it"));
  EXPECT_TRUE(read_text(out_).ends_with("}\nmy note\n"));
  EXPECT_THAT(error_of(), HasSubstr("line 4"));
}

TEST_F(TouchedOutput, AJobFileThatIsRemovedIsWrittenAgain) {
  EXPECT_EQ(error_after([&] { fs::remove(manifest()); }), "");
  EXPECT_EQ(run().kept, 7);
}

TEST_F(TouchedOutput, BeforeTheFirstAnswerNothingIsCut) {
  Job job(out_, in_, calls_);
  job.match({}, true);
  write_text(out_, "mine\n");
  EXPECT_THROW(job.start(), Error);
  EXPECT_EQ(read_text(out_), "mine\n");
}

}  // namespace
}  // namespace flexgen::job_output_test
