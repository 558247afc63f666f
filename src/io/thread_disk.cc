#include "io/thread_disk.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/thread.h"
#include "io/block_queue.h"

namespace flexgen {
namespace {

class ThreadDisk : public AsyncDisk {
 public:
  explicit ThreadDisk(const AsyncDiskOptions& options) : queue_(options.block_bytes) {
    const int count = std::clamp(options.depth, 1, kMaxThreads);
    threads_.reserve(static_cast<size_t>(count));
    try {
      for (int i = 0; i < count; ++i) threads_.push_back(start_thread("reading and writing files", [this] { loop(); }));
    } catch (const Error&) {
      if (threads_.empty()) throw;  // fewer do as well, with less in flight
    }
  }
  ~ThreadDisk() override {
    queue_.close();
    for (std::thread& thread : threads_) thread.join();
  }
  void submit(DiskTransfer transfer) override { queue_.push(std::move(transfer)); }
  std::string_view engine_name() const override { return "threads"; }

 private:
  static constexpr int kMaxThreads = 64;

  void loop() {
    while (std::optional<Block> block = queue_.wait_pop()) {
      std::exception_ptr error;
      Outcome outcome = block->piece.bytes > 0 ? Outcome::kAgain : Outcome::kOver;
      while (outcome == Outcome::kAgain) outcome = advance(block->piece, transfer_once(block->piece), &error);
      if (!block->state->block_done(std::move(error))) continue;
      std::lock_guard lock(callback_mutex_);
      block->state->transfer.done(std::move(block->state->error));
      block.reset();
    }
  }

  BlockQueue queue_;
  std::mutex callback_mutex_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<AsyncDisk> make_thread_disk(const AsyncDiskOptions& options) { return std::make_unique<ThreadDisk>(options); }

}  // namespace flexgen
