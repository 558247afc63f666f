#include "io/block_queue.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/units.h"

namespace flexgen {
namespace {

constexpr int64_t kMaxBlock = kGiB;  // a system call takes no more than 2 GiB

int64_t sane_block(int64_t bytes) { return std::clamp(round_up(std::max<int64_t>(bytes, 1), kDirectAlignment), kDirectAlignment, kMaxBlock); }

}  // namespace

bool TransferState::block_done(std::exception_ptr block_error) {
  if (block_error) {
    std::lock_guard lock(mutex);
    if (!error) error = std::move(block_error);
  }
  return blocks_left.fetch_sub(1) == 1;
}

BlockQueue::BlockQueue(int64_t block_bytes) : block_bytes_(sane_block(block_bytes)) {}

bool BlockQueue::push(DiskTransfer transfer) {
  FLEXGEN_CHECK(transfer.file != nullptr && transfer.done != nullptr);
  FLEXGEN_CHECK(transfer.offset >= 0 && transfer.bytes >= 0, "offset {} bytes {}", transfer.offset, transfer.bytes);
  const auto address = reinterpret_cast<uintptr_t>(transfer.data);
  FLEXGEN_CHECK(!transfer.file->direct() || (transfer.offset % kDirectAlignment == 0 && transfer.bytes % kDirectAlignment == 0 &&
                                             address % static_cast<uintptr_t>(kDirectAlignment) == 0),
                "{}: direct transfer of {} bytes at {}, memory at {:#x}", transfer.file->path(), transfer.bytes, transfer.offset, address);
  auto state = std::make_shared<TransferState>();
  // An empty transfer is one empty block, so that its callback comes from the disk's thread like any other.
  const int64_t blocks = std::max<int64_t>(ceil_div(transfer.bytes, block_bytes_), 1);
  state->blocks_left = blocks;
  state->transfer = std::move(transfer);
  std::lock_guard lock(mutex_);
  transfers_.push_back(std::move(state));
  if (blocks == 1) changed_.notify_one();
  else changed_.notify_all();
  return std::exchange(consumer_sleeps_, false);
}

std::optional<Block> BlockQueue::cut_next() {
  if (transfers_.empty()) return std::nullopt;
  const std::shared_ptr<TransferState>& state = transfers_.front();
  const DiskTransfer& transfer = state->transfer;
  const int64_t bytes = std::min(block_bytes_, transfer.bytes - cut_), end = transfer.offset + transfer.bytes;
  Block block{state,
              {transfer.file.get(), transfer.write, transfer.data + cut_, transfer.offset + cut_, bytes,
               transfer.write ? end : std::max<int64_t>(end - kDirectAlignment + 1, 0)}};
  cut_ += bytes;
  if (cut_ == transfer.bytes) {
    transfers_.pop_front();
    cut_ = 0;
  }
  return block;
}

std::optional<Block> BlockQueue::wait_pop() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_ || !transfers_.empty(); });
  return cut_next();
}

std::optional<Block> BlockQueue::try_pop() {
  std::lock_guard lock(mutex_);
  std::optional<Block> block = cut_next();
  consumer_sleeps_ = !block;
  return block;
}

bool BlockQueue::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
  return std::exchange(consumer_sleeps_, false);
}

bool BlockQueue::closed_and_empty() const {
  std::lock_guard lock(mutex_);
  return closed_ && transfers_.empty();
}

}  // namespace flexgen
