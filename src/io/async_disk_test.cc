#include "io/async_disk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <deque>
#include <future>
#include <latch>
#include <random>
#include <thread>

#include "base/units.h"
#include "io/aligned_buffer.h"
#include "io/faulty_file.h"
#include "io/test_folder.h"

namespace flexgen::async_disk_test {
namespace {

using Engine = AsyncDiskOptions::Engine;
using testing::AllOf;
using testing::HasSubstr;

class AsyncDiskTest : public testing::TestWithParam<Engine> {
 protected:
  /// Null (and the test skipped) where the kernel has no io_uring.
  std::unique_ptr<AsyncDisk> make_disk(int depth = 8, int64_t block_bytes = 64 * kKiB) { return AsyncDisk::make({GetParam(), depth, block_bytes}); }
  void SetUp() override {
    try {
      make_disk();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }
  TestFolder folder_;
};

/// Submits and waits; throws what the disk reports.
void run(AsyncDisk& disk, DiskTransfer transfer) {
  auto promise = std::make_shared<std::promise<void>>();  // lives until the callback is through with it
  std::future<void> over = promise->get_future();
  transfer.done = [promise](std::exception_ptr error) {
    if (error) promise->set_exception(error);
    else promise->set_value();
  };
  disk.submit(std::move(transfer));
  over.get();
}

TEST_P(AsyncDiskTest, EngineIsTheOneAskedFor) { EXPECT_EQ(make_disk()->engine_name(), GetParam() == Engine::kThreads ? "threads" : "io_uring"); }

/// Writes and reads 16 MiB with two disks that share a pacer, at the same time; what was read is what was written. Seconds for both.
double paced_pass_s(TestFolder& folder, Engine engine, double bytes_per_s) {
  const auto pacer = std::make_shared<Pacer>(bytes_per_s);
  auto reader = AsyncDisk::make({engine, 8, 64 * kKiB, pacer}), writer = AsyncDisk::make({engine, 8, 64 * kKiB, pacer});
  const int64_t size = 16 * kMiB;
  AlignedBuffer source(size), sink(size);
  const std::string content = random_text(size, 3);
  std::memcpy(source.data(), content.data(), content.size());
  auto file = File::open(folder.file("there"), FileMode::kWriteDirect), other = File::open(folder.file("other"), FileMode::kWriteDirect);
  run(*AsyncDisk::make({engine}), {file, true, 0, source.data(), size, {}});
  const auto begin = std::chrono::steady_clock::now();
  std::future<void> written = std::async(std::launch::async, [&] { run(*writer, {other, true, 0, source.data(), size, {}}); });
  run(*reader, {file, false, 0, sink.data(), size, {}});
  written.get();
  const double passed_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  EXPECT_EQ(std::memcmp(source.data(), sink.data(), static_cast<size_t>(size)), 0);
  return passed_s;
}

TEST_P(AsyncDiskTest, DisksKeepToTheirPacerTogether) {
  EXPECT_GE(paced_pass_s(folder_, GetParam(), 64 * kMiB), 0.49);  // of half a second, less what a late sleeper gets back
}

TEST_P(AsyncDiskTest, APausePaysForNoBurst) {
  Pacer pacer(static_cast<double>(kMiB));
  pacer.take(kMiB / 8);
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  const auto before = Pacer::Clock::now();
  const Pacer::Turn turn = pacer.take(kMiB / 8);
  EXPECT_GE(turn.begin, before - std::chrono::milliseconds(5));
  EXPECT_EQ(turn.end - turn.begin, std::chrono::milliseconds(125));
}

TEST_P(AsyncDiskTest, APacedDiskReportsErrors) {
  auto disk = AsyncDisk::make({GetParam(), 8, 64 * kKiB, std::make_shared<Pacer>(1e9)});
  auto file = File::open(folder_.file("short"), FileMode::kWriteDirect);
  AlignedBuffer buffer(4 * kMiB);
  run(*disk, {file, true, 0, buffer.data(), kMiB, {}});
  EXPECT_THROW(run(*disk, {file, false, 0, buffer.data(), 4 * kMiB, {}}), Error);
}

TEST_P(AsyncDiskTest, RandomRoundTrips) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 6; ++round) {
    const int depth = 1 + static_cast<int>(random() % 20);
    const int64_t block = kDirectAlignment * (1 + static_cast<int64_t>(random() % 40));
    SCOPED_TRACE(fmt::format("depth {} block {}", depth, block));
    auto disk = make_disk(depth, block);
    auto file = File::open(folder_.file("data"), FileMode::kWriteDirect);
    const int64_t size = 8 * kMiB;
    AlignedBuffer source(size), sink(size);
    const std::string content = random_text(size, random());
    std::memcpy(source.data(), content.data(), content.size());
    // Pieces of random length, all in flight at once, in random order.
    std::vector<std::pair<int64_t, int64_t>> pieces;
    for (int64_t at = 0; at < size;) {
      const int64_t bytes = std::min(size - at, kDirectAlignment * (1 + static_cast<int64_t>(random() % 100)));
      pieces.emplace_back(at, bytes);
      at += bytes;
    }
    for (bool write : {true, false}) {
      std::shuffle(pieces.begin(), pieces.end(), random);
      std::latch left(static_cast<ptrdiff_t>(pieces.size()));
      std::atomic<int> failures = 0;
      for (auto [at, bytes] : pieces)
        disk->submit({file, write, at, (write ? source : sink).data() + at, bytes, [&](std::exception_ptr error) {
                        if (error) ++failures;
                        left.count_down();
                      }});
      left.wait();
      ASSERT_EQ(failures, 0);
    }
    ASSERT_EQ(std::memcmp(source.data(), sink.data(), static_cast<size_t>(size)), 0);
  }
}

TEST_P(AsyncDiskTest, BufferedFilesTakeAnyAlignment) {
  const std::string content = random_text(300'001, 4);
  auto file = File::open(folder_.put("data", content), FileMode::kRead);
  auto disk = make_disk(4, 4096);
  std::string got(200'000, '?');
  run(*disk, {file, false, 77'777, reinterpret_cast<std::byte*>(got.data()), 200'000, {}});
  EXPECT_EQ(got, content.substr(77'777, 200'000));
}

TEST_P(AsyncDiskTest, AnEmptyTransferCallsBackFromTheDisk) {
  auto file = File::open(folder_.put("data", "x"), FileMode::kReadDirect);
  auto disk = make_disk();
  std::promise<std::thread::id> caller;
  disk->submit({file, false, 0, nullptr, 0, [&](std::exception_ptr error) {
                  EXPECT_FALSE(error);
                  caller.set_value(std::this_thread::get_id());
                }});
  EXPECT_NE(caller.get_future().get(), std::this_thread::get_id());
}

TEST_P(AsyncDiskTest, ReadMayRunPastTheEndByLessThanASector) {
  auto disk = make_disk(4, 8192);
  for (int64_t size : {1, 4095, 4096, 4097, 100'000, 131'072, 131'073}) {
    SCOPED_TRACE(size);
    const std::string content = random_text(size, static_cast<uint64_t>(size));
    const std::string path = folder_.put("data", content);
    for (FileMode mode : {FileMode::kReadDirect, FileMode::kRead}) {
      auto file = File::open(path, mode);
      const int64_t superset = round_up(size, kDirectAlignment);
      AlignedBuffer buffer(superset + kDirectAlignment);
      run(*disk, {file, false, 0, buffer.data(), superset, {}});
      EXPECT_EQ(std::string(reinterpret_cast<char*>(buffer.data()), content.size()), content);
      EXPECT_THAT(error_of(ErrorKind::kIo,
                           [&] {
                             run(*disk, {file, false, 0, buffer.data(), superset + kDirectAlignment, {}});
                           }),
                  AllOf(HasSubstr(path), HasSubstr(fmt::format("ends at byte {}", size)), HasSubstr("truncated")));
    }
  }
}

TEST_P(AsyncDiskTest, BlocksStartInOrderAndAtMostDepthAreInFlight) {
  struct Watch : FaultyFile {
    using FaultyFile::FaultyFile;
    int before_transfer(bool, int64_t offset, int64_t*) override {
      std::lock_guard lock(mutex);
      offsets.push_back(offset);
      most = std::max(most, ++in_flight);
      return 0;
    }
    void after_transfer(bool, int64_t, int64_t) override {
      std::lock_guard lock(mutex);
      --in_flight;
    }
    std::mutex mutex;
    std::vector<int64_t> offsets;
    int in_flight = 0, most = 0;
  };
  auto plan = std::make_shared<FaultPlan>();
  const std::string path = folder_.put("data", std::string(4 * kMiB, 'x'));
  AlignedBuffer buffer(4 * kMiB);
  for (int depth : {1, 5}) {
    auto file = std::make_shared<Watch>(File::open(path, FileMode::kReadDirect), plan);
    {
      auto disk = make_disk(depth, 64 * kKiB);
      for (int i = 0; i < 4; ++i) disk->submit({file, false, i * kMiB, buffer.data() + i * kMiB, kMiB, [](std::exception_ptr) {}});
    }
    ASSERT_EQ(file->offsets.size(), 64u);
    EXPECT_LE(file->most, depth);
    // Threads take blocks in order, but may reach the hook in another order, by a thread's turn.
    if (GetParam() != Engine::kThreads || depth == 1) {
      EXPECT_TRUE(std::is_sorted(file->offsets.begin(), file->offsets.end()));
    }
  }
}

TEST_P(AsyncDiskTest, DestructorWaitsForEverything) {
  const std::string path = folder_.put("data", std::string(kMiB, 'x'));
  auto file = File::open(path, FileMode::kReadDirect);
  AlignedBuffer buffer(50 * kMiB);
  std::atomic<int> done = 0;
  {
    auto disk = make_disk(2, 4096);
    for (int i = 0; i < 50; ++i) disk->submit({file, false, 0, buffer.data() + i * kMiB, kMiB, [&](std::exception_ptr error) { done += error ? 1000 : 1; }});
  }
  EXPECT_EQ(done, 50);
}

TEST_P(AsyncDiskTest, CallbacksMaySubmitAndComeOneAtATime) {
  auto file = File::open(folder_.put("data", std::string(kMiB, 'x')), FileMode::kReadDirect);
  AlignedBuffer buffer(kMiB);
  auto disk = make_disk(4, 16 * kKiB);
  std::atomic<int> left = 200, inside = 0;
  std::promise<void> over;
  std::function<void(int)> submit = [&](int chain) {
    constexpr int64_t kPiece = kMiB / 8;
    disk->submit({file, false, 0, buffer.data() + chain * kPiece, kPiece, [&, chain](std::exception_ptr error) {
                    EXPECT_FALSE(error);
                    EXPECT_EQ(++inside, 1);
                    const int before = left.fetch_sub(1);
                    if (before > 4) submit(chain);
                    --inside;
                    if (before == 1) over.set_value();
                  }});
  };
  for (int chain = 0; chain < 4; ++chain) submit(chain);
  over.get_future().get();
  disk.reset();
  EXPECT_EQ(left, 0);
}

TEST_P(AsyncDiskTest, ManyThreadsSubmit) {
  const std::string content = random_text(kMiB, 8);
  auto file = File::open(folder_.put("data", content), FileMode::kReadDirect);
  auto disk = make_disk(8, 8192);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      AlignedBuffer buffer(64 * kKiB);
      for (int i = 0; i < 60; ++i) {
        const int64_t at = kDirectAlignment * static_cast<int64_t>(random() % 240);
        const int64_t bytes = kDirectAlignment * (1 + static_cast<int64_t>(random() % 16));
        run(*disk, {file, false, at, buffer.data(), bytes, {}});
        ASSERT_EQ(std::memcmp(buffer.data(), content.data() + at, static_cast<size_t>(bytes)), 0);
        if (i % 16 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // let the disk fall asleep
      }
    });
  for (std::thread& thread : threads) thread.join();
}

TEST_P(AsyncDiskTest, ShortTransfersAreContinued) {
  std::mt19937_64 random(5);
  for (int64_t keep : {1, 1000, 4096, 5000, 30'000}) {
    SCOPED_TRACE(keep);
    auto plan = std::make_shared<FaultPlan>();
    FaultyFileSystem files(plan);
    for (FileOperation operation : {FileOperation::kRead, FileOperation::kWrite}) plan->add({.operation = operation, .error = 0, .keep_bytes = keep});
    auto file = files.open(folder_.file("data"), FileMode::kWriteDirect);
    const std::string content = random_text(400 * kKiB, random());
    AlignedBuffer source(400 * kKiB), sink(400 * kKiB);
    std::memcpy(source.data(), content.data(), content.size());
    auto disk = make_disk();
    run(*disk, {file, true, 0, source.data(), source.bytes(), {}});
    run(*disk, {file, false, 0, sink.data(), sink.bytes(), {}});
    EXPECT_EQ(std::memcmp(sink.data(), content.data(), content.size()), 0);
    EXPECT_GT(plan->injected(), 2 * 6);
    // Blocking calls take the same way; unaligned ones too.
    std::string piece(100'000, '?');
    file->read(12'345, std::as_writable_bytes(std::span(piece)));
    EXPECT_EQ(piece, content.substr(12'345, piece.size()));
  }
}

TEST_P(AsyncDiskTest, ErrorsNameFileOffsetAndReason) {
  const std::string path = folder_.put("weights", std::string(kMiB, 'x'));
  auto plan = std::make_shared<FaultPlan>();
  FaultyFileSystem files(plan);
  plan->add({.operation = FileOperation::kRead, .error = EIO, .begin = 600 * kKiB, .end = 600 * kKiB + 1});
  auto file = files.open(path, FileMode::kReadDirect);
  AlignedBuffer buffer(kMiB);
  auto disk = make_disk(4, 64 * kKiB);
  EXPECT_THAT(
      error_of(ErrorKind::kIo,
               [&] {
                 run(*disk, {file, false, 0, buffer.data(), kMiB, {}});
               }),
      AllOf(HasSubstr(path), HasSubstr("cannot read 65536 bytes"), HasSubstr(std::to_string(576 * kKiB)), HasSubstr("Input/output error"), HasSubstr("dmesg")));
  EXPECT_EQ(plan->injected(), 1);
  run(*disk, {file, false, 0, buffer.data(), 512 * kKiB, {}});  // the disk goes on
}

TEST_P(AsyncDiskTest, AFullDiskIsNamed) {
  auto plan = std::make_shared<FaultPlan>();
  FaultyFileSystem files(plan);
  plan->add({.operation = FileOperation::kWrite, .error = ENOSPC, .skip = 2, .times = 1});
  auto file = files.open(folder_.file("spill"), FileMode::kWriteDirect);
  AlignedBuffer buffer(kMiB);
  std::memset(buffer.data(), 1, kMiB);
  auto disk = make_disk();
  EXPECT_THAT(error_of(ErrorKind::kIo,
                       [&] {
                         run(*disk, {file, true, 0, buffer.data(), kMiB, {}});
                       }),
              AllOf(HasSubstr("spill: cannot write"), HasSubstr("No space left"), HasSubstr(folder_.path().string() + " is full")));
  run(*disk, {file, true, 0, buffer.data(), kMiB, {}});
}

TEST_P(AsyncDiskTest, PassingErrorsAreRetriedAndLastingOnesReported) {
  auto plan = std::make_shared<FaultPlan>();
  FaultyFileSystem files(plan);
  auto file = files.open(folder_.put("data", std::string(100'000, 'x')), FileMode::kReadDirect);
  AlignedBuffer buffer(100'000);
  auto disk = make_disk();
  plan->add({.operation = FileOperation::kRead, .error = EINTR, .times = 20});
  plan->add({.operation = FileOperation::kRead, .error = EAGAIN, .times = 5});
  run(*disk, {file, false, 0, buffer.data(), buffer.bytes(), {}});
  EXPECT_GE(plan->injected(), 25);
  for (int error : {EINTR, EAGAIN, 0}) {  // 0: nothing is let through
    plan->clear();
    plan->add({.operation = FileOperation::kRead, .error = error, .keep_bytes = 0});
    error_of(ErrorKind::kIo, [&] { run(*disk, {file, false, 0, buffer.data(), buffer.bytes(), {}}); });
  }
}

/// From here on io_uring_enter() fails in all threads of this process. False where that cannot be had.
bool refuse_io_uring(int error) {
  sock_filter filter[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 1),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  sock_fprog program{static_cast<unsigned short>(std::size(filter)), filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
}

/// Transfers before and after the kernel begins to refuse requests: 0 if all bytes are right.
int transfers_while_io_uring_is_refused(const std::string& path, Engine engine, int error) {
  auto disk = AsyncDisk::make({engine, 8, 64 * kKiB});
  AlignedBuffer buffer(1000 * kKiB);
  auto read_all = [&] {
    std::memset(buffer.data(), 0, static_cast<size_t>(buffer.bytes()));
    run(*disk, {File::open(path, FileMode::kReadDirect), false, 0, buffer.data(), buffer.bytes(), {}});
    return std::all_of(buffer.data(), buffer.data() + buffer.bytes(), [](std::byte byte) { return byte == std::byte{'x'}; });
  };
  if (!read_all()) return 1;
  if (!refuse_io_uring(error)) return 77;
  for (int i = 0; i < 3; ++i)
    if (!read_all()) return 2;
  auto file = File::open(path + ".out", FileMode::kSpill);
  run(*disk, {file, true, 0, buffer.data(), buffer.bytes(), {}});
  run(*disk, {file, false, 0, buffer.data(), buffer.bytes(), {}});
  return file->size() == buffer.bytes() ? 0 : 3;
}

TEST_P(AsyncDiskTest, GoesOnWhereTheKernelTakesNoMoreRequests) {
  const std::string path = folder_.put("data", std::string(1000 * kKiB, 'x'));
  for (int error : {ENOMEM, EAGAIN, EPERM}) {
    const pid_t child = fork();  // the filter stays for good
    if (child == 0) _exit(transfers_while_io_uring_is_refused(path, GetParam(), error));
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFEXITED(status)) << std::strerror(error);
    if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no seccomp filters here";
    EXPECT_EQ(WEXITSTATUS(status), 0) << std::strerror(error);
  }
}

TEST_P(AsyncDiskTest, AClosedDescriptorIsAnErrorFromTheKernelItself) {
  struct Closed : FaultyFile {
    using FaultyFile::FaultyFile;
    int descriptor() const override { return 1 << 28; }
  };
  auto file = std::make_shared<Closed>(File::open(folder_.put("data", std::string(9999, 'x')), FileMode::kRead), std::make_shared<FaultPlan>());
  AlignedBuffer buffer(8192);
  auto disk = make_disk();
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { run(*disk, {file, false, 0, buffer.data(), 8192, {}}); }), HasSubstr("Bad file descriptor"));
}

TEST_P(AsyncDiskTest, RandomFaultsNeverLoseACallbackOrLie) {
  const std::string content = random_text(2 * kMiB, 6);
  const std::string path = folder_.put("data", content);
  std::mt19937_64 random(7);
  for (int round = 0; round < 20; ++round) {
    auto plan = std::make_shared<FaultPlan>();
    FaultyFileSystem files(plan);
    for (int i = 0; i < 4; ++i)
      plan->add({.operation = FileOperation::kRead,
                 .error = i % 2 ? EIO : 0,
                 .keep_bytes = static_cast<int64_t>(random() % 9000 + 1),
                 .skip = static_cast<int64_t>(random() % 40),
                 .times = static_cast<int64_t>(random() % 5)});
    auto file = files.open(path, FileMode::kReadDirect);
    constexpr int64_t kPiece = 128 * kKiB;
    AlignedBuffer buffer(2 * kMiB);
    std::vector<std::exception_ptr> errors(16);
    std::vector<int> calls(16);
    {
      auto disk = make_disk(1 + round % 7, 32 * kKiB);
      for (size_t i = 0; i < errors.size(); ++i) {
        const int64_t at = kPiece * static_cast<int64_t>(i);
        disk->submit({file, false, at, buffer.data() + at, kPiece, [&, i](std::exception_ptr error) {
                        errors[i] = error;
                        ++calls[i];
                      }});
      }
    }
    for (size_t i = 0; i < errors.size(); ++i) {
      ASSERT_EQ(calls[i], 1);
      if (errors[i]) continue;
      ASSERT_EQ(std::memcmp(buffer.data() + kPiece * i, content.data() + kPiece * i, kPiece), 0) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Engines, AsyncDiskTest, testing::Values(Engine::kIoUring, Engine::kThreads),
                         [](const auto& info) { return info.param == Engine::kThreads ? "Threads" : "IoUring"; });

TEST(AsyncDisk, AutoAlwaysGivesADisk) {
  auto disk = AsyncDisk::make({});
  EXPECT_THAT(disk->engine_name(), testing::AnyOf("io_uring", "threads"));
}

TEST(FaultyFile, PreallocateAndOpenFailOnDemand) {
  TestFolder folder;
  auto plan = std::make_shared<FaultPlan>();
  FaultyFileSystem files(plan);
  plan->add({.operation = FileOperation::kPreallocate, .error = ENOSPC, .path_part = "spill"});
  plan->add({.operation = FileOperation::kOpen, .error = EACCES, .path_part = "secret"});
  auto file = files.open(folder.file("spill"), FileMode::kWriteDirect);
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { file->preallocate(kMiB); }), HasSubstr("No space left"));
  files.open(folder.file("other"), FileMode::kWriteDirect)->preallocate(kMiB);
  EXPECT_THAT(error_of(ErrorKind::kIo, [&] { files.open(folder.file("secret"), FileMode::kRead); }), HasSubstr("Permission denied"));
}

}  // namespace
}  // namespace flexgen::async_disk_test
