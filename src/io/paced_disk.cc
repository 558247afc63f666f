#include "io/paced_disk.h"

#include <mutex>
#include <thread>

#include "base/thread.h"
#include "base/units.h"
#include "io/block_queue.h"

namespace flexgen {
namespace {

class PacedDisk : public AsyncDisk {
 public:
  PacedDisk(std::unique_ptr<AsyncDisk> disk, std::shared_ptr<Pacer> pacer)
      : disk_(std::move(disk)), pacer_(std::move(pacer)), thread_(start_thread("reading and writing files at a limited speed", [this] { loop(); })) {}
  ~PacedDisk() override {
    queue_.close();
    thread_.join();
    disk_.reset();  // waits for what it has, whose callbacks use this
  }
  void submit(DiskTransfer transfer) override { queue_.push(std::move(transfer)); }
  std::string_view engine_name() const override { return disk_->engine_name(); }

 private:
  void loop() {
    while (std::optional<Block> block = queue_.wait_pop()) {
      const std::shared_ptr<TransferState> state = block->state;
      const Piece& piece = block->piece;
      ++state->blocks_left;  // the end of its turn counts as one block more
      auto part_done = [this, state](std::exception_ptr error) {
        if (!state->block_done(std::move(error))) return;
        std::lock_guard lock(callback_mutex_);
        state->transfer.done(std::move(state->error));
      };
      const Pacer::Turn turn = pacer_->take(piece.bytes);
      std::this_thread::sleep_until(turn.begin);
      disk_->submit({state->transfer.file, piece.write, piece.offset, piece.data, piece.bytes, part_done});
      std::this_thread::sleep_until(turn.end);
      part_done(nullptr);
    }
  }

  std::unique_ptr<AsyncDisk> disk_;
  const std::shared_ptr<Pacer> pacer_;
  BlockQueue queue_{kMiB};
  std::mutex callback_mutex_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<AsyncDisk> make_paced_disk(std::unique_ptr<AsyncDisk> disk, std::shared_ptr<Pacer> pacer) {
  return std::make_unique<PacedDisk>(std::move(disk), std::move(pacer));
}

}  // namespace flexgen
