#pragma once
// BlockQueue: transfers cut into blocks, in order of submission; what both disk engines share. Thread-safe.

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "io/async_disk.h"
#include "io/transfer.h"

namespace flexgen {

/// A transfer with blocks still under way.
struct TransferState {
  DiskTransfer transfer;
  std::atomic<int64_t> blocks_left{0};
  std::mutex mutex;
  std::exception_ptr error;  ///< the first one

  /// One block is over. True if it was the last: the engine then calls transfer.done(error).
  bool block_done(std::exception_ptr block_error);
};

/// A piece of a transfer, small enough for one system call.
struct Block {
  std::shared_ptr<TransferState> state;
  Piece piece;
};

class BlockQueue {
 public:
  explicit BlockQueue(int64_t block_bytes);
  /// True if a consumer that found nothing in try_pop() is to be woken.
  bool push(DiskTransfer transfer);
  /// The next block, waiting for one; none once the queue is closed and empty.
  std::optional<Block> wait_pop();
  /// The next block; if there is none, the next push() or close() says that the consumer is to be woken.
  std::optional<Block> try_pop();
  bool close();
  bool closed_and_empty() const;

 private:
  std::optional<Block> cut_next();

  const int64_t block_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<TransferState>> transfers_;
  int64_t cut_ = 0;  ///< bytes of the front transfer that left as blocks
  bool closed_ = false;
  bool consumer_sleeps_ = false;
};

}  // namespace flexgen
