#include "io/partial_file.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <iterator>

#include "io/test_folder.h"

namespace flexgen::partial_file_test {
namespace {

namespace fs = std::filesystem;

class PartialFileTest : public testing::Test {
 protected:
  int64_t entries() const { return std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()); }
  void write(PartialFile& file, const std::string& text) { file.file()->write(0, std::as_bytes(std::span(text))); }
  /// What a process that was killed leaves; its name.
  std::string abandoned() {
    const pid_t child = fork();
    if (child == 0) {
      new PartialFile(path_, files_);
      _exit(0);
    }
    EXPECT_EQ(waitpid(child, nullptr, 0), child);
    return fs::directory_iterator(folder_.path())->path().string();
  }
  static void make_old(const std::string& path) { fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(2)); }

  TestFolder folder_;
  std::string path_ = folder_.file("part.safetensors");
  FileSystem files_;
};

TEST_F(PartialFileTest, EachWriterHasItsOwn) {
  {
    PartialFile first(path_, files_), second(path_, files_);
    write(first, "one");
    write(second, "another");
    EXPECT_TRUE(first.take_free_name());
    EXPECT_FALSE(second.take_free_name());
    EXPECT_EQ(read_whole(path_), "one");
    EXPECT_EQ(entries(), 2);
  }
  EXPECT_EQ(entries(), 1);
  PartialFile third(path_, files_);
  write(third, "the third");
  third.replace();
  EXPECT_EQ(read_whole(path_), "the third");
}

TEST_F(PartialFileTest, WhatAKilledProcessLeftIsRemoved) {
  abandoned();
  EXPECT_EQ(entries(), 1);
  remove_abandoned_partials(folder_.path());
  EXPECT_EQ(entries(), 0);
}

TEST_F(PartialFileTest, WhatIsInUseStays) {
  PartialFile file(path_, files_);
  make_old(fs::directory_iterator(folder_.path())->path());
  remove_abandoned_partials(folder_.path());
  EXPECT_EQ(entries(), 1);
  EXPECT_TRUE(file.take_free_name());
}

/// Locks of another machine may not be seen here.
TEST_F(PartialFileTest, AnotherMachinesStaysForAWhile) {
  const std::string other = folder_.file("part.safetensors.elsewhere-1-0.partial");
  fs::rename(abandoned(), other);
  remove_abandoned_partials(folder_.path());
  EXPECT_EQ(entries(), 1);
  make_old(other);
  remove_abandoned_partials(folder_.path());
  EXPECT_EQ(entries(), 0);
}

}  // namespace
}  // namespace flexgen::partial_file_test
