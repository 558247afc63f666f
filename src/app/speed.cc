#include "app/speed.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/units.h"
#include "io/async_disk.h"
#include "memory/arena.h"

namespace flexgen {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Keeps a disk busy: one transfer a slot of the buffer, a new one as soon as an old one is done.
class DiskLoop {
 public:
  DiskLoop() : disk_(AsyncDisk::make(options_)), arena_(options_.depth * options_.block_bytes), memory_(arena_.allocate(options_.depth * options_.block_bytes)) {
    for (int i = 0; i < options_.depth; ++i) free_.push_back(i);
  }
  ~DiskLoop() { disk_.reset(); }  // waits, before the memory goes
  DiskLoop(const DiskLoop&) = delete;
  DiskLoop& operator=(const DiskLoop&) = delete;

  int64_t block_bytes() const { return options_.block_bytes; }
  std::string engine_name() const { return std::string(disk_->engine_name()); }

  void submit(const std::shared_ptr<File>& file, bool write, int64_t offset, int64_t bytes) {
    int slot = take_slot();
    disk_->submit({file, write, offset, memory_.data() + slot * options_.block_bytes, bytes, [this, slot](std::exception_ptr error) {
                     std::lock_guard lock(mutex_);
                     if (error && !error_) error_ = error;
                     free_.push_back(slot);
                     changed_.notify_all();
                   }});
  }
  /// Waits for all that was submitted; throws the first error.
  void drain() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return static_cast<int>(free_.size()) == options_.depth; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  int take_slot() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !free_.empty(); });
    int slot = free_.front();
    free_.pop_front();
    return slot;
  }

  AsyncDiskOptions options_;  // the engine's own
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<int> free_;
  std::exception_ptr error_;
  std::unique_ptr<AsyncDisk> disk_;
  Arena arena_;
  std::span<std::byte> memory_;
};

/// Bytes a second of reading `files` over and over. The blocks at the files' ends are left out: they may be short.
double read_speed(DiskLoop& loop, const std::vector<std::shared_ptr<File>>& files, double seconds) {
  double bytes = 0;
  Clock::time_point start = Clock::now();
  do {
    double before = bytes;
    for (const auto& file : files)
      for (int64_t offset = 0; offset + loop.block_bytes() <= file->size() && seconds_since(start) < seconds; offset += loop.block_bytes()) {
        loop.submit(file, false, offset, loop.block_bytes());
        bytes += static_cast<double>(loop.block_bytes());
      }
    if (bytes == before) break;  // too small to be measured
  } while (seconds_since(start) < seconds);
  loop.drain();
  return bytes / std::max(1e-9, seconds_since(start));
}

}  // namespace

DiskSpeed measure_read(const std::vector<std::string>& paths, double seconds) {
  DiskLoop loop;
  DiskSpeed speed;
  speed.engine = loop.engine_name();
  speed.direct = true;
  std::vector<std::shared_ptr<File>> files;
  for (const std::string& path : paths) {
    files.push_back(File::open(path, FileMode::kReadDirect));
    speed.direct = speed.direct && files.back()->direct();
  }
  speed.read_bytes_per_s = read_speed(loop, files, seconds);
  return speed;
}

DiskSpeed measure_disk(const std::string& directory, int64_t bytes) {
  DiskLoop loop;
  DiskSpeed speed;
  speed.engine = loop.engine_name();
  std::string path = fmt::format("{}/flexgen-speed-{}.tmp", directory, getpid());
  std::shared_ptr<File> file = File::open(path, FileMode::kWriteDirect);
  ::unlink(path.c_str());  // gone with the process, however that ends
  speed.direct = file->direct();
  bytes = round_up(bytes, loop.block_bytes());
  file->preallocate(bytes);
  // Twice: preallocated blocks are slower the first time, as spill files meet them too, but only once.
  for (int pass = 0; pass < 2; ++pass) {
    Clock::time_point start = Clock::now();
    for (int64_t offset = 0; offset < bytes; offset += loop.block_bytes()) loop.submit(file, true, offset, loop.block_bytes());
    loop.drain();
    speed.write_bytes_per_s = static_cast<double>(bytes) / std::max(1e-9, seconds_since(start));
  }
  speed.read_bytes_per_s = read_speed(loop, {file}, 1.0);
  return speed;
}

double measure_memory_read(int threads, double seconds) {
  constexpr int64_t kBytesEach = 64 << 20;
  std::atomic<int64_t> total{0};
  std::atomic<uint64_t> sink{0};
  std::atomic<int> ready{0};
  std::vector<std::thread> workers;
  Clock::time_point start;
  std::atomic<bool> go{false};
  for (int i = 0; i < threads; ++i)
    workers.emplace_back([&] {
      std::vector<uint64_t> data(kBytesEach / sizeof(uint64_t), 1);
      ++ready;
      while (!go) std::this_thread::yield();
      uint64_t sum[8] = {};
      do {
        for (size_t at = 0; at < data.size(); at += 8)
          for (size_t lane = 0; lane < 8; ++lane) sum[lane] += data[at + lane];
        total += kBytesEach;
      } while (seconds_since(start) < seconds);
      for (uint64_t part : sum) sink += part;
    });
  while (ready < threads) std::this_thread::yield();
  start = Clock::now();
  go = true;
  for (std::thread& worker : workers) worker.join();
  FLEXGEN_CHECK(sink > 0);
  return static_cast<double>(total) / seconds_since(start);
}

double measure_linear(Kernels& kernels, DType dtype, int64_t rows, int64_t cols, double seconds) {
  auto fill = [](std::vector<std::byte>& data, DType type) {
    for (size_t i = 0; i < data.size() / static_cast<size_t>(size_bytes(type, 1)); ++i) {
      float value = static_cast<float>(i * 2654435761u % 1000) * 1e-3f - 0.5f;
      uint16_t half = type == DType::kF16 ? f16_from_float(value) : bf16_from_float(value);
      if (type == DType::kF32) std::copy_n(reinterpret_cast<const std::byte*>(&value), 4, data.data() + 4 * i);
      else std::copy_n(reinterpret_cast<const std::byte*>(&half), 2, data.data() + 2 * i);
    }
  };
  std::vector<std::byte> weight(static_cast<size_t>(size_bytes(dtype, cols * cols)));
  std::vector<std::byte> x(static_cast<size_t>(size_bytes(kernels.act_dtype(), rows * cols)));
  std::vector<float> y(static_cast<size_t>(rows * cols));
  fill(weight, dtype);
  fill(x, kernels.act_dtype());
  WeightView view{dtype, cols, cols, {{weight.data(), cols}}};
  kernels.linear(x.data(), rows, view, {}, false, y.data());  // warm up
  double best = 0;
  Clock::time_point start = Clock::now();
  do {
    Clock::time_point begin = Clock::now();
    kernels.linear(x.data(), rows, view, {}, false, y.data());
    best = std::max(best, 2.0 * static_cast<double>(rows) * static_cast<double>(cols) * static_cast<double>(cols) / std::max(1e-9, seconds_since(begin)));
  } while (seconds_since(start) < seconds);
  return best;
}

}  // namespace flexgen
