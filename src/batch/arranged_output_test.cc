// --in-order and --error-output: what an output looks like once its job is done, and that nothing is lost on the way there.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "batch/fake_runner.h"
#include "batch/job.h"

namespace flexgen::arranged_output_test {
namespace {

using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

const ByteTokenizer kTokenizer;
const std::atomic<bool> kGoOn{false};
namespace fs = std::filesystem;

class ArrangedOutput : public testing::Test {
 protected:
  ArrangedOutput() {
    spdlog::set_level(spdlog::level::err);
    for (int i = 0; i < 9; ++i)
      text_ += i % 4 == 3 ? "broken\n"
                          : fmt::format(R"({{"custom_id":"{}","method":"POST","url":"/v1/completions","body":{{"prompt":"{}"}}}})"
                                        "\n",
                                        i, i);
    write_text(in_, text_);
  }
  BatchOutcome run(bool in_order, const std::string& errors, int64_t stop_after = -1, bool overwrite = false) {
    FakeRunner runner;
    runner.backwards = true;
    runner.stop_after = stop_after;
    BatchFiles files{in_, out_, overwrite, calls_};
    files.in_order = in_order;
    files.error_output = errors;
    return run_batch(files, model_, runner, kGoOn);
  }
  std::string error_of(bool in_order, const std::string& errors, bool overwrite = false) {
    return message_of([&] { run(in_order, errors, -1, overwrite); });
  }
  static std::string ids(const std::string& path) {
    std::string all;
    std::istringstream in(read_text(path));
    for (std::string line; std::getline(in, line);) {
      const std::string id = Json::parse(line)["custom_id"];
      all += (all.empty() ? "" : " ") + (id.starts_with("line-") ? id.substr(5) + "!" : id);
    }
    return all;
  }

  TemporaryDirectory directory_;
  std::string in_ = directory_.file("in.jsonl"), out_ = directory_.file("out.jsonl"), errors_ = directory_.file("errors.jsonl"), text_;
  BatchModel model_{{256, 1000, &kTokenizer}, "fake", "f00d", {{"backend", "fake"}}};
  OutputCalls calls_;
};

TEST_F(ArrangedOutput, AsItComesWithoutFlags) {
  run(false, "");
  EXPECT_EQ(ids(out_), "4! 8! 8 6 5 4 2 1 0");
}

TEST_F(ArrangedOutput, InOrder) {
  run(true, "");
  EXPECT_EQ(ids(out_), "0 1 2 4! 4 5 6 8! 8");
  EXPECT_EQ(run(true, "").kept, 9);
  EXPECT_EQ(ids(out_), "0 1 2 4! 4 5 6 8! 8");
}

TEST_F(ArrangedOutput, ErrorsApart) {
  run(false, errors_);
  EXPECT_EQ(ids(out_), "8 6 5 4 2 1 0");
  EXPECT_EQ(ids(errors_), "4! 8!");
  struct stat before {};
  struct stat after {};
  stat(out_.c_str(), &before);
  EXPECT_EQ(run(false, errors_).kept, 9);
  stat(out_.c_str(), &after);
  EXPECT_EQ(before.st_ino, after.st_ino);  // nothing was to be done
  // Another order later.
  run(true, errors_);
  EXPECT_EQ(ids(out_), "0 1 2 4 5 6 8");
  EXPECT_EQ(ids(errors_), "4! 8!");
  // Without the file its lines have no records, and get them.
  run(false, "");
  EXPECT_EQ(ids(out_), "0 1 2 4 5 6 8 4! 8!");
  // Both have them now, as after a kill.
  run(false, errors_);
  EXPECT_EQ(ids(out_), "0 1 2 4 5 6 8");
  EXPECT_EQ(ids(errors_), "4! 8!");
}

TEST_F(ArrangedOutput, AfterAStop) {
  EXPECT_TRUE(run(true, errors_, 3).stopped);
  EXPECT_EQ(ids(out_), "4! 8! 2 1 0");
  EXPECT_FALSE(fs::exists(errors_));
  EXPECT_EQ(run(true, errors_).kept, 5);
  EXPECT_EQ(ids(out_), "0 1 2 4 5 6 8");
  EXPECT_EQ(ids(errors_), "4! 8!");
}

TEST_F(ArrangedOutput, AllBadOrNone) {
  write_text(in_, "x\ny\n");
  run(true, errors_);
  EXPECT_EQ(read_text(out_), "");
  EXPECT_EQ(ids(errors_), "1! 2!");
  EXPECT_EQ(run(true, errors_).kept, 2);
  EXPECT_EQ(ids(errors_), "1! 2!");
  write_text(in_, text_.substr(0, text_.find("broken")));
  run(true, errors_);
  EXPECT_EQ(ids(out_), "0 1 2");
  EXPECT_TRUE(fs::exists(errors_));
  EXPECT_EQ(read_text(errors_), "");
}

TEST_F(ArrangedOutput, ManyLines) {
  std::string text;
  constexpr int kLines = 5000;
  for (int i = 0; i < kLines; ++i) text += i % 10 == 7 ? "broken\n" : fmt::format("{{\"prompt\":\"{}\"}}\n", i);
  write_text(in_, text);
  run(true, errors_);
  std::string expected, errors;
  for (int i = 0; i < kLines; ++i) (i % 10 == 7 ? errors : expected) += fmt::format("{}{}!", (i % 10 == 7 ? errors : expected).empty() ? "" : " ", i + 1);
  EXPECT_EQ(ids(out_), expected);
  EXPECT_EQ(ids(errors_), errors);
}

TEST_F(ArrangedOutput, AFullDiskChangesNothing) {
  run(false, "");
  const std::string whole = read_text(out_);
  int64_t room = 0;
  calls_.write = [&](int descriptor, const void* data, size_t bytes) -> ssize_t {
    const auto most = static_cast<size_t>(std::max<int64_t>(0, room));
    room -= static_cast<int64_t>(bytes);
    if (most == 0) {
      errno = ENOSPC;
      return -1;
    }
    return ::write(descriptor, data, std::min(bytes, most));
  };
  const auto entries = std::distance(fs::directory_iterator(directory_.path()), fs::directory_iterator());
  for (int64_t bytes = 0; bytes < static_cast<int64_t>(whole.size()); bytes += 500) {
    room = bytes;
    EXPECT_THAT(error_of(true, errors_), HasSubstr("cannot write")) << bytes;
    EXPECT_EQ(read_text(out_), whole);
    EXPECT_FALSE(fs::exists(errors_));
    EXPECT_EQ(std::distance(fs::directory_iterator(directory_.path()), fs::directory_iterator()), entries);
  }
  calls_ = {};
  run(true, errors_);
  EXPECT_EQ(ids(out_), "0 1 2 4 5 6 8");
}

TEST_F(ArrangedOutput, ALinkAndItsModeStay) {
  const std::string real = directory_.file("elsewhere.jsonl");
  write_text(real, "");
  chmod(real.c_str(), 0600);
  fs::create_symlink(real, out_);
  run(true, "");
  EXPECT_TRUE(fs::is_symlink(out_));
  EXPECT_EQ(ids(real), "0 1 2 4! 4 5 6 8! 8");
  struct stat info {};
  stat(real.c_str(), &info);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(ArrangedOutput, OnlyThisJobsErrorsAreReplaced) {
  write_text(errors_, "my notes\n");
  EXPECT_THAT(error_of(false, errors_), HasSubstr(errors_));
  EXPECT_EQ(read_text(errors_), "my notes\n");
  EXPECT_FALSE(fs::exists(out_));
  for (const std::string& same : {in_, out_, out_ + ".job"}) EXPECT_THAT(error_of(false, same), HasSubstr("as well")) << same;
  EXPECT_THAT(error_of(false, directory_.file("no/such/errors")), HasSubstr("cannot write the error output"));
  EXPECT_EQ(error_of(false, errors_, true), "");  // --overwrite
  EXPECT_EQ(ids(errors_), "4! 8!");
  // An answer does not belong there, and records of another job, or of an input before it was edited, are moved away.
  const std::string errors = read_text(errors_);
  write_text(errors_, errors + read_text(out_));
  EXPECT_THAT(error_of(false, errors_), HasSubstr("is an answer"));
  std::string other = errors;
  other.replace(other.find("batch_req_") + 10, 4, "0000");
  Json unsealed = Json::parse(other.substr(0, other.find('\n')));
  unsealed.erase("checksum");
  write_text(errors_, unsealed.dump() + "\n");
  EXPECT_EQ(error_of(false, errors_), "");
  EXPECT_EQ(read_text(errors_ + ".removed"), unsealed.dump() + "\n") << "they are not lost";
}

}  // namespace
}  // namespace flexgen::arranged_output_test
