#include "io/uring_disk.h"

#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "io/block_queue.h"

namespace flexgen {
namespace {

/// The ring and the descriptor that interrupts its waiting. Made whole or not at all.
class Ring {
 public:
  static std::unique_ptr<Ring> make(int depth, int* error) {
    auto ring = std::unique_ptr<Ring>(new Ring);
    *error = ring->set_up(depth);
    return *error == 0 ? std::move(ring) : nullptr;
  }
  ~Ring() {
    if (made_) io_uring_queue_exit(&ring_);
    if (wake_ >= 0) ::close(wake_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  io_uring* get() { return &ring_; }
  int wake_descriptor() const { return wake_; }

 private:
  Ring() = default;
  int set_up(int depth) {
    // One entry more than blocks: the poll on the wake descriptor.
    if (int result = io_uring_queue_init(static_cast<unsigned>(depth) + 1, &ring_, 0); result < 0) return -result;
    made_ = true;
    io_uring_probe* probe = io_uring_get_probe_ring(&ring_);  // null before Linux 5.6, which also lacks our operations
    const bool able = probe != nullptr && io_uring_opcode_supported(probe, IORING_OP_READ) && io_uring_opcode_supported(probe, IORING_OP_WRITE) &&
                      io_uring_opcode_supported(probe, IORING_OP_POLL_ADD);
    if (probe) io_uring_free_probe(probe);
    if (!able) return ENOSYS;
    // A sandbox may allow the set-up and refuse the work.
    io_uring_prep_nop(io_uring_get_sqe(&ring_));
    if (int result = io_uring_submit_and_wait(&ring_, 1); result < 0) return -result;
    io_uring_cqe* cqe = nullptr;
    if (int result = io_uring_peek_cqe(&ring_, &cqe); result < 0) return -result;
    io_uring_cqe_seen(&ring_, cqe);
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return wake_ < 0 ? errno : 0;
  }

  io_uring ring_{};
  bool made_ = false;
  int wake_ = -1;
};

class UringDisk : public AsyncDisk {
 public:
  UringDisk(std::unique_ptr<Ring> ring, int depth, int64_t block_bytes) : ring_(std::move(ring)), queue_(block_bytes), in_flight_(static_cast<size_t>(depth)) {
    for (size_t place = in_flight_.size(); place-- > 0;) free_.push_back(place);
    thread_ = start_thread("reading and writing files", [this] { loop(); });
  }
  ~UringDisk() override {
    if (queue_.close()) wake();
    thread_.join();
  }
  void submit(DiskTransfer transfer) override {
    if (queue_.push(std::move(transfer))) wake();
  }
  std::string_view engine_name() const override { return "io_uring"; }

 private:
  static constexpr uint64_t kWake = ~uint64_t{0};
  static constexpr int kMaxStalls = 200;
  static constexpr std::chrono::milliseconds kStallPause{1};

  void wake() {
    const uint64_t one = 1;
    // Fails only when the counter is full, and then the thread is awake anyway.
    [[maybe_unused]] ssize_t n = ::write(ring_->wake_descriptor(), &one, sizeof one);
  }

  /// Each turn of a ring is one system call: everything new goes in with it, and it returns with one completion or more.
  void loop() {
    arm_wake();
    while (true) {
      while (!free_.empty()) {
        std::optional<Block> block = queue_.try_pop();
        if (!block) break;
        const size_t place = free_.back();
        free_.pop_back();
        in_flight_[place] = std::move(*block);
        start(place);
      }
      if (free_.size() == in_flight_.size() && queue_.closed_and_empty()) return;
      // Here every place is taken or the queue was seen empty: a completion or a wake is bound to come.
      if (blocking_) wait_for_wake();
      else turn();
    }
  }

  void turn() {
    const int result = io_uring_submit_and_wait(ring_->get(), 1);
    if (result >= 0) {
      stalls_ = 0;
      for (int i = 0; i < result; ++i) {
        if (entered_.front() != kWake) ++in_kernel_;
        entered_.pop_front();
      }
    } else if (result != -EINTR) {
      // Short of memory, most likely: what is under way ends and gives some back.
      const bool passing = result == -EAGAIN || result == -EBUSY || result == -ENOMEM;
      if (!passing || ++stalls_ > kMaxStalls) return leave_ring(-result);
      std::this_thread::sleep_for(kStallPause);
    }
    reap();
  }

  /// The kernel takes no more requests: what it has not taken, and all that comes, goes by blocking calls. Slower, but the job goes on.
  void leave_ring(int error) {
    spdlog::warn("io_uring takes no more requests ({}{}): files are read and written one block at a time from here on", std::strerror(error),
                 error == ENOMEM || error == EAGAIN ? "; the kernel or this container is short of memory" : "");
    blocking_ = true;
    while (in_kernel_ > 0) {  // completions come into memory that we share with the kernel
      std::this_thread::sleep_for(kStallPause);
      reap();
    }
    for (const uint64_t tag : std::exchange(entered_, {}))
      if (tag != kWake) start(tag);
  }

  void wait_for_wake() {
    pollfd waiting{ring_->wake_descriptor(), POLLIN, 0};
    ::poll(&waiting, 1, -1);
    forget_wake();
  }

  void reap() {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(ring_->get(), &cqe) == 0) {
      const uint64_t tag = io_uring_cqe_get_data64(cqe);
      const int64_t result = cqe->res;
      io_uring_cqe_seen(ring_->get(), cqe);
      if (tag == kWake) {
        if (blocking_) continue;
        forget_wake();
        arm_wake();
        continue;
      }
      --in_kernel_;
      if (take(tag, result)) start(tag);
    }
  }

  void arm_wake() {
    io_uring_sqe* sqe = next_entry();
    io_uring_prep_poll_add(sqe, ring_->wake_descriptor(), POLLIN);
    io_uring_sqe_set_data64(sqe, kWake);
    entered_.push_back(kWake);
  }

  void forget_wake() {
    uint64_t count = 0;
    [[maybe_unused]] ssize_t n = ::read(ring_->wake_descriptor(), &count, sizeof count);
  }

  io_uring_sqe* next_entry() {
    io_uring_sqe* sqe = io_uring_get_sqe(ring_->get());
    FLEXGEN_CHECK(sqe != nullptr, "the ring has an entry for each place");
    return sqe;
  }

  /// Puts the block of `place` into the ring, or ends it if its file's hook fails it or there is no ring any more.
  void start(size_t place) {
    while (true) {
      if (blocking_) {
        if (!take(place, in_flight_[place].piece.bytes > 0 ? transfer_once(in_flight_[place].piece) : 0)) return;
        continue;
      }
      const Piece& piece = in_flight_[place].piece;
      int64_t bytes = 0;
      const int error = piece.bytes > 0 ? ask_before_transfer(piece, &bytes) : 0;
      if (error == 0 && bytes > 0) {
        io_uring_sqe* sqe = next_entry();
        const auto size = static_cast<unsigned>(bytes);
        const auto offset = static_cast<uint64_t>(piece.offset);
        if (piece.write) io_uring_prep_write(sqe, piece.file->descriptor(), piece.data, size, offset);
        else io_uring_prep_read(sqe, piece.file->descriptor(), piece.data, size, offset);
        io_uring_sqe_set_data64(sqe, place);
        entered_.push_back(place);
        return;
      }
      if (!take(place, -error)) return;
    }
  }

  /// Takes a result into account; true if the block must be started again for what is left.
  bool take(size_t place, int64_t result) {
    Block& block = in_flight_[place];
    std::exception_ptr error;
    if (block.piece.bytes > 0 && advance(block.piece, result, &error) == Outcome::kAgain) return true;
    // The place is free before the callback, which may submit.
    const std::shared_ptr<TransferState> state = std::move(block.state);
    block = {};
    free_.push_back(place);
    if (state->block_done(std::move(error))) state->transfer.done(std::move(state->error));
    return false;
  }

  std::unique_ptr<Ring> ring_;
  BlockQueue queue_;
  std::vector<Block> in_flight_;  ///< by place
  std::vector<size_t> free_;      ///< places
  std::deque<uint64_t> entered_;  ///< in the ring, not yet taken by the kernel: places and kWake
  int64_t in_kernel_ = 0;         ///< blocks
  int stalls_ = 0;                ///< calls in a row that the kernel refused
  bool blocking_ = false;         ///< the ring is out of use
  std::thread thread_;
};

}  // namespace

std::unique_ptr<AsyncDisk> make_uring_disk(const AsyncDiskOptions& options, int* error) {
  const int depth = std::clamp(options.depth, 1, 4096);
  std::unique_ptr<Ring> ring = Ring::make(depth, error);
  if (!ring) return nullptr;
  return std::make_unique<UringDisk>(std::move(ring), depth, options.block_bytes);
}

}  // namespace flexgen
