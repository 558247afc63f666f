#include "batch/kept_input.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "base/log.h"
#include "batch/fake_runner.h"

namespace flexgen::kept_input_test {
namespace {

namespace fs = std::filesystem;
const std::atomic<bool> kGoOn{false};

class KeptInputTest : public testing::Test {
 protected:
  KeptInputTest() { spdlog::set_level(spdlog::level::err); }
  /// Reads `text` through a pipe.
  template <typename Use>
  void piped(const std::string& text, Use use, const std::atomic<bool>& stop = kGoOn) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    std::thread writer([&, end = ends[1]] {
      for (size_t at = 0; at < text.size();) {
        const ssize_t n = write(end, text.data() + at, text.size() - at);
        if (n <= 0) break;
        at += static_cast<size_t>(n);
      }
      close(end);
    });
    try {
      KeptInput input(out_, ends[0], stop);
      use(input);
    } catch (const Error& error) {
      error_ = error.what();
    }
    writer.join();
    close(ends[0]);
  }

  TemporaryDirectory directory_;
  std::string out_ = directory_.file("out.jsonl"), kept_ = KeptInput::path_for(out_), error_;
};

TEST_F(KeptInputTest, IsThereOnceItIsKept) {
  const std::string text(3 << 20, 'x');
  piped(text, [&](KeptInput& input) {
    EXPECT_EQ(read_text(input.path()), text);
    EXPECT_FALSE(fs::exists(kept_));
  });
  EXPECT_TRUE(fs::is_empty(directory_.path()));  // the job was refused
  write_text(kept_ + ".tmp", "mine");
  piped(text, [&](KeptInput& input) { input.keep(); });
  EXPECT_EQ(read_text(kept_), text);
  // The same again, or nothing: that is used. Something else takes its place once the job begins.
  piped(text, [&](KeptInput& input) { EXPECT_EQ(input.path(), kept_); });
  piped("", [&](KeptInput& input) { EXPECT_EQ(input.path(), kept_); });
  // A file of that name that no job has kept is somebody's.
  piped("other", [](KeptInput&) { ADD_FAILURE(); });
  EXPECT_THAT(error_, testing::HasSubstr("no job"));
  EXPECT_EQ(read_text(kept_), text);
  error_.clear();
  write_text(out_ + ".job", "");
  piped("other", [&](KeptInput& input) {
    EXPECT_EQ(read_text(input.path()), "other");
    EXPECT_EQ(read_text(kept_), text);
    input.keep();
    EXPECT_EQ(input.path(), kept_);
  });
  EXPECT_EQ(read_text(kept_), "other");
  EXPECT_EQ(read_text(kept_ + ".tmp"), "mine");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_.path()), fs::directory_iterator()), 3);
  EXPECT_EQ(error_, "");
}

TEST_F(KeptInputTest, NothingIsNothingToDo) {
  piped("", [](KeptInput&) {});
  EXPECT_THAT(error_, testing::HasSubstr("standard input is empty"));
  EXPECT_TRUE(fs::is_empty(directory_.path()));
}

TEST_F(KeptInputTest, AStopIsHeard) {
  std::atomic<bool> stop{true};
  piped(
      "x", [](KeptInput& input) { EXPECT_TRUE(input.stopped()); }, stop);
  EXPECT_TRUE(fs::is_empty(directory_.path()));
}

}  // namespace
}  // namespace flexgen::kept_input_test
