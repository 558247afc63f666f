#pragma once
// BlockQueue: transfers cut into blocks, in order of submission; what both disk engines share. Thread-safe.

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "io/async_disk.h"

namespace flexgen {

/// A transfer with blocks still under way.
struct TransferState {
  DiskTransfer transfer;
  std::atomic<int64_t> blocks_left{0};
  std::mutex mutex;
  std::exception_ptr error;

  /// One block is over; the last one calls back.
  void block_done(std::exception_ptr block_error);
};

struct Block {
  std::shared_ptr<TransferState> state;
  int64_t at = 0;     ///< bytes from the start of the transfer
  int64_t bytes = 0;  ///< still to move
};

class BlockQueue {
 public:
  explicit BlockQueue(int64_t block_bytes) : block_bytes_(block_bytes) {}
  void push(DiskTransfer transfer);
  /// The next block; waits for one if `wait`. None if there is none, or (waiting) the queue was closed and is empty.
  std::optional<Block> pop(bool wait);
  void close();
  bool drained() const;

 private:
  int64_t block_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Block> blocks_;
  bool closed_ = false;
};

/// What to do with the result of a transfer of `block` (bytes moved, or -errno): true if the block is over (and
/// block_done() was called), false if it must be issued again for what is left.
bool take_result(Block& block, int64_t result);

}  // namespace flexgen
