#include "io/new_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>

#include "base/error.h"
#include "io/test_folder.h"
#include "io/whole_file.h"

namespace flexgen::new_file_test {
namespace {

namespace fs = std::filesystem;

class NewFileTest : public testing::TestWithParam<bool> {
 protected:
  void write(NewFile& file, const std::string& text) { ASSERT_EQ(::write(file.descriptor(), text.data(), text.size()), std::ssize(text)); }
  int64_t entries() const { return std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()); }
  /// Where flexgen, or another program, could want to put something beside it.
  std::vector<std::string> neighbours() const {
    return {path_ + ".tmp", path_ + fmt::format(".{}-0.tmp", getpid()), path_ + fmt::format(".{}-1.tmp", getpid())};
  }

  TestFolder folder_;
  std::string path_ = folder_.file("out.jsonl");
};
INSTANTIATE_TEST_SUITE_P(MayBeNameless, NewFileTest, testing::Bool());

TEST_P(NewFileTest, TakesThePlaceAndNothingElse) {
  for (const std::string& name : neighbours()) write_whole_file(name, "mine");
  write_whole_file(path_, "old");
  {
    NewFile file(path_, GetParam());
    write(file, "new");
    EXPECT_EQ(read_whole_file(path_), "old");
    EXPECT_EQ(read_whole_file(file.opened_by()), "new");
    EXPECT_EQ(file.replace(), 0);
  }
  EXPECT_EQ(read_whole_file(path_), "new");
  for (const std::string& name : neighbours()) EXPECT_EQ(read_whole_file(name), "mine") << name;
  EXPECT_EQ(entries(), 4);
  struct stat info {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  const mode_t mask = umask(0);
  umask(mask);
  EXPECT_EQ(info.st_mode & 0777, 0644 & ~mask);
}

TEST_P(NewFileTest, IsGoneWhereItTookNoPlace) {
  {
    NewFile file(path_, GetParam());
    write(file, "new");
    EXPECT_EQ(entries(), GetParam() ? 0 : 1);
  }
  EXPECT_EQ(entries(), 0);
}

TEST_P(NewFileTest, ALinksTargetIsMeant) {
  const std::string target = folder_.file("elsewhere");
  write_whole_file(target, "old");
  fs::create_symlink(target, path_);
  NewFile file(path_, GetParam());
  write(file, "new");
  EXPECT_EQ(file.replace(), 0);
  EXPECT_TRUE(fs::is_symlink(path_));
  EXPECT_EQ(read_whole_file(target), "new");
}

TEST_P(NewFileTest, SaysWhyThereIsNone) {
  try {
    NewFile(folder_.file("no/such/folder"), GetParam());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("no directory"));
  }
}

TEST(WholeFile, IsReplacedByAnother) {
  TestFolder folder;
  const std::string path = folder.file("a.json");
  replace_whole_file(path, "first text");
  replace_whole_file(path, "second");
  EXPECT_EQ(read_whole_file(path), "second");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace flexgen::new_file_test
