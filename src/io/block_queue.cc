#include "io/block_queue.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/units.h"

namespace flexgen {

void TransferState::block_done(std::exception_ptr block_error) {
  if (block_error) {
    std::lock_guard lock(mutex);
    if (!error) error = block_error;
  }
  if (blocks_left.fetch_sub(1) == 1) transfer.done(error);
}

void BlockQueue::push(DiskTransfer transfer) {
  auto state = std::make_shared<TransferState>();
  int64_t bytes = transfer.bytes;
  state->transfer = std::move(transfer);
  if (bytes == 0) {
    state->transfer.done(nullptr);
    return;
  }
  state->blocks_left = ceil_div(bytes, block_bytes_);
  std::lock_guard lock(mutex_);
  for (int64_t at = 0; at < bytes; at += block_bytes_)
    blocks_.push_back({state, at, std::min(block_bytes_, bytes - at)});
  changed_.notify_all();
}

std::optional<Block> BlockQueue::pop(bool wait) {
  std::unique_lock lock(mutex_);
  if (wait) changed_.wait(lock, [&] { return closed_ || !blocks_.empty(); });
  if (blocks_.empty()) return std::nullopt;
  Block block = std::move(blocks_.front());
  blocks_.pop_front();
  return block;
}

void BlockQueue::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

bool BlockQueue::drained() const {
  std::lock_guard lock(mutex_);
  return closed_ && blocks_.empty();
}

bool take_result(Block& block, int64_t result) {
  const DiskTransfer& transfer = block.state->transfer;
  const int64_t offset = transfer.offset + block.at;
  if (result == -EINTR || result == -EAGAIN) return false;
  if (result < 0) {
    int error = static_cast<int>(-result);
    std::string advice;
    if (error == ENOSPC)
      advice = fmt::format("; free some space in {}, or give another --disk-dir",
                           std::filesystem::path(transfer.file->path()).parent_path().string());
    block.state->block_done(std::make_exception_ptr(
        Error(ErrorKind::kIo, fmt::format("{}: cannot {} {} bytes at offset {}: {}{}", transfer.file->path(),
                                          transfer.write ? "write" : "read", block.bytes, offset,
                                          std::strerror(error), advice))));
    return true;
  }
  block.at += result;
  block.bytes -= result;
  if (block.bytes == 0) {
    block.state->block_done(nullptr);
    return true;
  }
  // Short. At the end of a file the aligned superset of its last tensor is allowed to run over.
  bool past_end = !transfer.write && transfer.offset + block.at >= transfer.file->size();
  if (past_end && block.bytes < kDirectAlignment && block.at + block.bytes == transfer.bytes) {
    block.state->block_done(nullptr);
    return true;
  }
  if (past_end || result == 0) {
    block.state->block_done(std::make_exception_ptr(
        Error(ErrorKind::kIo, fmt::format("{}: {} at offset {}: {} bytes are missing; the file is truncated or was changed "
                                          "during the run", transfer.file->path(),
                                          transfer.write ? "short write" : "short read", offset, block.bytes))));
    return true;
  }
  return false;
}

}  // namespace flexgen
