#include "io/paced_disk.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <thread>

#include "base/units.h"

namespace flexgen {
namespace {

constexpr int64_t kBlock = kMiB;

class PacedDisk : public AsyncDisk {
 public:
  PacedDisk(std::unique_ptr<AsyncDisk> disk, std::shared_ptr<Pacer> pacer) : disk_(std::move(disk)), pacer_(std::move(pacer)), thread_([this] { work(); }) {}
  ~PacedDisk() override {
    {
      std::lock_guard lock(mutex_);
      closed_ = true;
    }
    changed_.notify_one();
    thread_.join();
    disk_.reset();  // waits for what it has, whose callbacks use this
  }
  void submit(DiskTransfer transfer) override {
    {
      std::lock_guard lock(mutex_);
      waiting_.push_back(std::move(transfer));
    }
    changed_.notify_one();
  }
  std::string_view engine_name() const override { return disk_->engine_name(); }

 private:
  struct Pending {
    std::function<void(std::exception_ptr)> done;
    std::atomic<int64_t> left;
    std::mutex mutex;
    std::exception_ptr error;  ///< the first one
  };

  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      DiskTransfer transfer = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      pass_on(std::move(transfer));
    }
  }

  void pass_on(DiskTransfer transfer) {
    auto pending = std::make_shared<Pending>();
    pending->done = std::move(transfer.done);
    pending->left = std::max<int64_t>(1, ceil_div(transfer.bytes, kBlock)) + 1;
    auto part_done = [this, pending](std::exception_ptr error) {
      if (error) {
        std::lock_guard lock(pending->mutex);
        if (!pending->error) pending->error = error;
      }
      if (pending->left.fetch_sub(1) != 1) return;
      std::lock_guard lock(callbacks_);  // one at a time, as users of a disk may rely on
      pending->done(pending->error);
    };
    int64_t at = 0;
    Pacer::Turn turn{};
    do {
      const int64_t bytes = std::min(kBlock, transfer.bytes - at);
      turn = pacer_->take(bytes);
      std::this_thread::sleep_until(turn.begin);
      disk_->submit({transfer.file, transfer.write, transfer.offset + at, transfer.data + at, bytes, part_done});
      at += bytes;
    } while (at < transfer.bytes);
    std::this_thread::sleep_until(turn.end);
    part_done(nullptr);
  }

  std::unique_ptr<AsyncDisk> disk_;
  const std::shared_ptr<Pacer> pacer_;
  std::mutex mutex_, callbacks_;
  std::condition_variable changed_;
  std::deque<DiskTransfer> waiting_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<AsyncDisk> make_paced_disk(std::unique_ptr<AsyncDisk> disk, std::shared_ptr<Pacer> pacer) {
  return std::make_unique<PacedDisk>(std::move(disk), std::move(pacer));
}

}  // namespace flexgen
