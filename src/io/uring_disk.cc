#include "io/uring_disk.h"

#include <liburing.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "base/error.h"
#include "io/block_queue.h"

namespace flexgen {
namespace {

class UringDisk : public AsyncDisk {
 public:
  UringDisk(const AsyncDiskOptions& options, const io_uring& ring)
      : ring_(ring), queue_(options.block_bytes), depth_(options.depth), thread_([this] { loop(); }) {}
  ~UringDisk() override {
    queue_.close();
    thread_.join();
    io_uring_queue_exit(&ring_);
  }
  void submit(DiskTransfer transfer) override { queue_.push(std::move(transfer)); }
  std::string_view engine_name() const override { return "io_uring"; }

 private:
  /// With nothing in flight the thread sleeps on the queue; otherwise on completions, and takes new blocks when one comes.
  void loop() {
    std::vector<Block> in_flight(static_cast<size_t>(depth_));
    std::vector<int> free;
    for (int i = 0; i < depth_; ++i) free.push_back(i);
    auto busy = [&] { return static_cast<int>(free.size()) < depth_; };
    while (true) {
      while (!free.empty()) {
        std::optional<Block> block = queue_.pop(!busy());
        if (!block) break;
        int place = free.back();
        in_flight[static_cast<size_t>(place)] = std::move(*block);
        if (issue(in_flight[static_cast<size_t>(place)], place)) free.pop_back();
        else in_flight[static_cast<size_t>(place)] = {};
      }
      if (!busy()) {
        if (queue_.drained()) return;
        continue;
      }
      // A timeout, because new blocks may come while the queue is not full.
      io_uring_cqe* cqe = nullptr;
      __kernel_timespec patience{0, 500'000};
      int waited = free.empty() ? io_uring_submit_and_wait(&ring_, 1)
                                : io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &patience, nullptr);
      FLEXGEN_CHECK(waited >= 0 || waited == -ETIME || waited == -EINTR || waited == -EAGAIN || waited == -EBUSY,
                    "io_uring: {}", waited);
      while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
        auto place = static_cast<int>(io_uring_cqe_get_data64(cqe));
        int64_t result = cqe->res;
        io_uring_cqe_seen(&ring_, cqe);
        if (place < 0) continue;
        Block& block = in_flight[static_cast<size_t>(place)];
        if (take_result(block, result) || !issue(block, place)) {
          block = {};
          free.push_back(place);
        }
      }
    }
  }

  /// Queues the block; false if it failed (and was reported) before it got there.
  bool issue(Block& block, int place) {
    const DiskTransfer& transfer = block.state->transfer;
    int64_t offset = transfer.offset + block.at, bytes = block.bytes;
    if (int error = transfer.file->before_transfer(transfer.write, offset, &bytes)) {
      take_result(block, -error);
      return false;
    }
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    FLEXGEN_CHECK(sqe != nullptr);
    std::byte* data = transfer.data + block.at;
    auto size = static_cast<unsigned>(bytes);
    if (transfer.write) io_uring_prep_write(sqe, transfer.file->descriptor(), data, size, static_cast<uint64_t>(offset));
    else io_uring_prep_read(sqe, transfer.file->descriptor(), data, size, static_cast<uint64_t>(offset));
    io_uring_sqe_set_data64(sqe, static_cast<uint64_t>(place));
    return true;
  }

  io_uring ring_;
  BlockQueue queue_;
  int depth_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<AsyncDisk> make_uring_disk(const AsyncDiskOptions& options) {
  io_uring ring{};
  // Twice the depth: a timeout of submit_and_wait_timeout may take an entry on old kernels.
  if (io_uring_queue_init(static_cast<unsigned>(2 * options.depth), &ring, 0) != 0) return nullptr;
  return std::make_unique<UringDisk>(options, ring);
}

}  // namespace flexgen
