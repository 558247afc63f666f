#include "io/whole_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/error.h"
#include "io/test_folder.h"
#include "io/transfer.h"

namespace flexgen::whole_file_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

template <typename Call>
std::string error_text(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(WholeFile, ReadsAndWrites) {
  TestFolder folder;
  const std::string path = folder.file("a");
  EXPECT_FALSE(file_is_there(path));
  EXPECT_EQ(read_file_if_there(path), "");
  write_whole_file(path, "first text");
  write_whole_file(path, "second");
  EXPECT_EQ(read_whole_file(path), "second");
  EXPECT_EQ(read_file_if_there(path, 6), "second");
  EXPECT_THAT(error_text([&] { read_whole_file(path, 5); }), AllOf(HasSubstr(path), HasSubstr("6 B")));
}

TEST(WholeFile, SaysWhyAndWhatToDo) {
  TestFolder folder;
  const std::string path = folder.file("a"), directory = folder.file("d"), loop = folder.file("loop");
  fs::create_directory(directory);
  fs::create_symlink(loop, loop);
  EXPECT_THAT(error_text([&] { read_whole_file(path); }), AllOf(HasSubstr(path), HasSubstr("No such file"), HasSubstr("check the path")));
  EXPECT_THAT(error_text([&] { read_whole_file(folder.file("no/a")); }), HasSubstr("there is no directory " + folder.file("no")));
  EXPECT_THAT(error_text([&] { read_whole_file(directory); }), HasSubstr("a directory"));
  EXPECT_THAT(error_text([&] { write_whole_file(directory, "x"); }), HasSubstr("a directory"));
  EXPECT_THAT(error_text([&] { read_whole_file(loop); }), HasSubstr("symbolic links"));
  EXPECT_THAT(error_text([&] { file_is_there(loop); }), HasSubstr("symbolic links"));
  fs::create_symlink(folder.file("nowhere"), folder.file("dangling"));
  EXPECT_THAT(error_text([&] { file_is_there(folder.file("dangling")); }), HasSubstr("a link to a file that is not there"));
  EXPECT_THAT(error_text([&] { read_whole_file(folder.file(std::string(300, 'n'))); }), HasSubstr("shorter name"));
  EXPECT_THAT(error_text([&] { write_whole_file("/dev/full", "x"); }), HasSubstr("is full"));
  if (geteuid() == 0) return;  // who may everything; tests/streams.py becomes somebody else
  write_whole_file(path, "x");
  fs::permissions(path, fs::perms::none);
  EXPECT_THAT(error_text([&] { read_whole_file(path); }), AllOf(HasSubstr("Permission denied"), HasSubstr("ls -ld")));
}

// Whatever the system says, no advice sends a user to fetch a file that is whole.
TEST(WholeFile, NoErrorOfOpeningIsABrokenFile) {
  for (int error :
       {EACCES, EPERM, EISDIR, ENOTDIR, ENOSPC, EDQUOT, EROFS, EMFILE, ENFILE, ELOOP, ENAMETOOLONG, ENOENT, ENXIO, ENODEV, ESTALE, ETXTBSY, ENOMEM}) {
    const std::string text = file_error("/tmp/x", "open it", error).what();
    EXPECT_THAT(text, AllOf(HasSubstr("/tmp/x: cannot open it: "), HasSubstr("; "))) << error;
    EXPECT_EQ(text.find("fetch"), std::string::npos) << text;
    EXPECT_EQ(text.find("broken"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace flexgen::whole_file_test
