#include "io/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <thread>

#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/file_stamp.h"
#include "io/test_folder.h"

namespace flexgen::file_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string read_text(File& file, int64_t offset, int64_t bytes) {
  std::string text(static_cast<size_t>(bytes), '?');
  file.read(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

TEST(File, ReadsAnyRangeInEveryMode) {
  TestFolder folder;
  const std::string content = random_text(9 * kMiB + 1234, 1);
  const std::string path = folder.put("data", content);
  std::mt19937_64 random(2);
  for (FileMode mode : {FileMode::kRead, FileMode::kReadDirect}) {
    auto file = File::open(path, mode);
    EXPECT_EQ(file->size(), static_cast<int64_t>(content.size()));
    EXPECT_EQ(read_text(*file, 0, file->size()), content);
    for (int i = 0; i < 100; ++i) {
      const auto at = static_cast<int64_t>(random() % content.size());
      const auto bytes = static_cast<int64_t>(random() % std::min<uint64_t>(20000, content.size() - at));
      ASSERT_EQ(read_text(*file, at, bytes), content.substr(at, bytes)) << at << " " << bytes;
    }
  }
}

TEST(File, WritesAnyRange) {
  TestFolder folder;
  auto file = File::open(folder.file("data"), FileMode::kWriteDirect);
  std::string model;  // what the file should hold
  std::mt19937_64 random(3);
  for (int i = 0; i < 200; ++i) {
    const auto at = static_cast<int64_t>(random() % 60000);
    std::string piece = random_text(static_cast<int64_t>(random() % 30000), random());
    if (i % 10 == 0) piece = random_text(5 * kMiB + 17, random());
    if (!piece.empty() && model.size() < at + piece.size()) model.resize(at + piece.size(), '\0');
    model.replace(at, piece.size(), piece);
    file->write(at, bytes_of(piece));
    ASSERT_EQ(file->size(), static_cast<int64_t>(model.size())) << i;
  }
  EXPECT_EQ(read_text(*file, 0, file->size()), model);
  EXPECT_EQ(read_whole(folder.file("data")), model);
}

TEST(File, UnalignedWritesOfThreadsDoNotTearEachOther) {
  TestFolder folder;
  auto file = File::open(folder.file("data"), FileMode::kWriteDirect);
  file->preallocate(100000);
  constexpr int kThreads = 4, kPiece = 1000, kPieces = 100;  // neighbours share sectors
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      const std::string piece(kPiece, static_cast<char>('a' + t));
      for (int i = t; i < kPieces; i += kThreads) file->write(i * kPiece, bytes_of(piece));
    });
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < kPieces; ++i) ASSERT_EQ(read_text(*file, i * kPiece, kPiece), std::string(kPiece, static_cast<char>('a' + i % kThreads))) << i;
}

TEST(File, EndingEarlyIsAnErrorThatSaysWhere) {
  TestFolder folder;
  const std::string path = folder.put("data", std::string(5000, 'x'));
  for (FileMode mode : {FileMode::kRead, FileMode::kReadDirect}) {
    auto file = File::open(path, mode);
    EXPECT_THAT(error_of(ErrorKind::kIo, [&] { read_text(*file, 4000, 1001); }),
                AllOf(HasSubstr(path), HasSubstr("ends at byte 5000"), HasSubstr("truncated")));
    AlignedBuffer buffer(8192);
    EXPECT_THAT(error_of(ErrorKind::kIo, [&] { file->read(0, {buffer.data(), 8192}); }), HasSubstr("ends at byte 5000"));
    error_of(ErrorKind::kIo, [&] { read_text(*file, 1 << 20, 1); });
    EXPECT_EQ(read_text(*file, 4999, 1), "x");
  }
}

TEST(File, OpenRefusesWhatIsNoFile) {
  TestFolder folder;
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { File::open(folder.file("none"), FileMode::kRead); }), AllOf(HasSubstr("none"), HasSubstr("No such file")));
  for (FileMode mode : {FileMode::kRead, FileMode::kReadDirect})
    EXPECT_THAT(error_of(ErrorKind::kIo, [&] { File::open(folder.path(), mode); }), HasSubstr("directory"));
  error_of(ErrorKind::kIo, [&] { File::open(folder.path(), FileMode::kWriteDirect); });
  error_of(ErrorKind::kIo, [&] { File::open(folder.file("no/such/folder"), FileMode::kWriteDirect); });
  ASSERT_EQ(mkfifo(folder.file("pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { File::open(folder.file("pipe"), FileMode::kRead); }),
              HasSubstr("no regular file but a pipe; write what comes from it to a file"));
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { File::open("/dev/null", FileMode::kReadDirect); }), HasSubstr("no regular file"));
}

TEST(File, DirectModesAreDirectWhereTheDiskAllowsIt) {
  TestFolder folder;
  folder.put("data", std::string(5000, 'x'));
  const int probe = ::open(folder.file("data").c_str(), O_RDONLY | O_DIRECT);
  if (probe < 0) GTEST_SKIP() << "no O_DIRECT in " << folder.path();
  ::close(probe);
  auto file = File::open(folder.file("data"), FileMode::kReadDirect);
  EXPECT_TRUE(file->direct());
  EXPECT_TRUE(fcntl(file->descriptor(), F_GETFL) & O_DIRECT);
  EXPECT_FALSE(fcntl(file->descriptor(), F_GETFL) & O_NONBLOCK);
  EXPECT_FALSE(File::open(folder.file("data"), FileMode::kRead)->direct());
  EXPECT_TRUE(File::open(folder.file("new"), FileMode::kWriteDirect)->direct());
}

TEST(File, WriteModeTruncates) {
  TestFolder folder;
  folder.put("data", std::string(50000, 'x'));
  EXPECT_EQ(File::open(folder.file("data"), FileMode::kWriteDirect)->size(), 0);
}

TEST(File, SpillFilesHaveNoName) {
  TestFolder folder;
  const std::string path = folder.file("spill");
  auto file = File::open(path, FileMode::kSpill), other = File::open(path, FileMode::kSpill);
  file->preallocate(3 * kMiB);
  const std::string text = random_text(100000, 4);
  file->write(5000, bytes_of(text));
  other->write(5000, bytes_of(std::string(100000, 'x')));
  EXPECT_EQ(read_text(*file, 5000, 100000), text);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { File::open(folder.file("no/such/folder"), FileMode::kSpill); }), HasSubstr("cannot create it"));
}

TEST(File, PreallocateTakesRealBlocksAndKeepsContent) {
  TestFolder folder;
  auto file = File::open(folder.file("data"), FileMode::kWriteDirect);
  file->write(0, bytes_of("hello"));
  file->preallocate(3 * kMiB + 1);
  struct stat info {};
  ASSERT_EQ(fstat(file->descriptor(), &info), 0);
  EXPECT_EQ(info.st_size, 3 * kMiB + 1);
  EXPECT_GE(info.st_blocks * 512, 3 * kMiB);
  EXPECT_EQ(read_text(*file, 0, 6), std::string("hello\0", 6));
  EXPECT_EQ(read_text(*file, 3 * kMiB, 1), std::string(1, '\0'));
  file->preallocate(0);
}

/// A disk of 16 MiB; skips where mounting is not allowed.
/// The weights of a mixture may lie in thousands of files.
TEST(FileWatch, TakesNoDescriptorOfAFileThatIsOpen) {
  TestFolder folder;
  const std::vector<std::string> paths{folder.put("open", "old"), folder.put("not open", "old")};
  std::vector<FileStamp> stamps;
  for (const std::string& path : paths) stamps.push_back(FileStamp::of(File::open(path, FileMode::kRead)->descriptor(), path));
  const std::shared_ptr<File> open = File::open(paths[0], FileMode::kReadDirect);
  const int64_t before = num_open_files();
  {
    FileWatch watch(paths, stamps, {open, nullptr});
    EXPECT_EQ(num_open_files(), before + 1);
    watch.check_bytes();
    // Another file of its name: what is open stays what it was.
    std::filesystem::rename(folder.put("next", "new"), paths[0]);
    watch.check_bytes();
    EXPECT_THAT(error_of(ErrorKind::kIo, [&] { watch.check_names(2); }), HasSubstr("replaced by another file"));
    folder.put("not open", "longer");
    EXPECT_THAT(error_of(ErrorKind::kIo, [&] { watch.check_bytes(); }), AllOf(HasSubstr("not open"), HasSubstr("was written to")));
  }
  EXPECT_EQ(num_open_files(), before);
  EXPECT_EQ(read_text(*open, 0, 3), "old") << "the watch has not closed it";
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { FileWatch(paths, stamps, {File::open(paths[0], FileMode::kRead)}); }), HasSubstr("while it was being opened"));
}

class SmallDisk : public testing::Test {
 protected:
  void SetUp() override {
    if (mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, "size=16m") != 0) GTEST_SKIP() << "mounting a tmpfs needs root: " << std::strerror(errno);
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) umount2(folder_.path().c_str(), MNT_DETACH);
  }
  TestFolder folder_;
  bool mounted_ = false;
};

TEST_F(SmallDisk, PreallocateSaysHowMuchIsMissingAndTakesNothing) {
  auto file = File::open(folder_.file("spill"), FileMode::kWriteDirect);
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { file->preallocate(20 * kMiB); }),
              AllOf(HasSubstr("spill"), HasSubstr(folder_.path().string() + " has 16.0"), HasSubstr("16.0"), HasSubstr(std::to_string(4 * kMiB) + " bytes"),
                    HasSubstr("--disk-dir")));
  EXPECT_EQ(file->size(), 0);
  file->preallocate(16 * kMiB);  // all of it is still there
}

TEST_F(SmallDisk, WriteToAFullDiskNamesTheFolder) {
  auto file = File::open(folder_.file("spill"), FileMode::kWriteDirect);
  const std::string block(kMiB, 'x');
  const std::string message = error_of(ErrorKind::kIo, [&] {
    for (int i = 0; i < 17; ++i) file->write(i * kMiB, bytes_of(block));
  });
  EXPECT_THAT(message, AllOf(HasSubstr("No space left"), HasSubstr("offset"), HasSubstr(folder_.path().string() + " is full")));
}

TEST_F(SmallDisk, RoundTrip) {  // tmpfs: direct since Linux 6.6, buffered before
  auto file = File::open(folder_.file("data"), FileMode::kWriteDirect);
  const std::string content = random_text(3 * kMiB + 5, 9);
  file->write(11, bytes_of(content));
  EXPECT_EQ(read_text(*file, 11, static_cast<int64_t>(content.size())), content);
  EXPECT_EQ(read_text(*File::open(folder_.file("data"), FileMode::kReadDirect), 11, 100), content.substr(0, 100));
}

}  // namespace
}  // namespace flexgen::file_test
