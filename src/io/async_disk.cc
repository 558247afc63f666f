#include "io/async_disk.h"

#include <unistd.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "io/block_queue.h"
#include "io/uring_disk.h"

namespace flexgen {
namespace {

/// A pool of threads with blocking calls, where the kernel has no io_uring for us.
class ThreadDisk : public AsyncDisk {
 public:
  explicit ThreadDisk(const AsyncDiskOptions& options) : queue_(options.block_bytes) {
    for (int i = 0; i < std::min(options.depth, kMaxThreads); ++i) threads_.emplace_back([this] { loop(); });
  }
  ~ThreadDisk() override {
    queue_.close();
    for (std::thread& thread : threads_) thread.join();
  }
  void submit(DiskTransfer transfer) override { queue_.push(std::move(transfer)); }
  std::string_view engine_name() const override { return "threads"; }

 private:
  static constexpr int kMaxThreads = 16;

  void loop() {
    while (std::optional<Block> block = queue_.pop(true)) {
      while (!take_result(*block, transfer(*block))) {
      }
    }
  }
  static int64_t transfer(const Block& block) {
    const DiskTransfer& transfer = block.state->transfer;
    int64_t offset = transfer.offset + block.at, bytes = block.bytes;
    if (int error = transfer.file->before_transfer(transfer.write, offset, &bytes)) return -error;
    std::byte* data = transfer.data + block.at;
    ssize_t n = transfer.write ? pwrite(transfer.file->descriptor(), data, static_cast<size_t>(bytes), offset)
                               : pread(transfer.file->descriptor(), data, static_cast<size_t>(bytes), offset);
    return n < 0 ? -errno : n;
  }

  BlockQueue queue_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<AsyncDisk> AsyncDisk::make(const AsyncDiskOptions& options) {
  if (options.engine != AsyncDiskOptions::Engine::kThreads)
    if (auto disk = make_uring_disk(options)) return disk;
  return std::make_unique<ThreadDisk>(options);
}

}  // namespace flexgen
