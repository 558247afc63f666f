#include "app/device_peaks.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "base/clock.h"
#include "base/units.h"
#include "memory/arena.h"

namespace flexgen {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kTimeS = 0.2;

/// Seconds that one piece of work takes a lane, with several in its queue; the best of some rounds.
double best_time_s(Lane& lane, const std::function<Work()>& work) {
  constexpr int kQueued = 4;
  double best_s = 1e9;
  lane.submit(work()).wait();
  for (const auto start = Clock::now(); seconds_since(start) < kTimeS;) {
    const auto begin = Clock::now();
    Event done;
    for (int i = 0; i < kQueued; ++i) done = lane.submit(work());
    done.wait();
    best_s = std::min(best_s, seconds_since(begin) / kQueued);
  }
  return best_s;
}

Work copy_work(const std::byte* from, std::byte* to, int64_t bytes) {
  Work work;
  work.name = "peak";
  work.copies = {{from, to, bytes}};
  work.bytes = static_cast<double>(bytes);
  return work;
}

Work compute_work(std::function<void()> run) {
  Work work;
  work.name = "peak";
  work.run = std::move(run);
  return work;
}

/// Device memory for as long as this lives.
class Block {
 public:
  Block(Device& device, int64_t bytes) : device_(device), memory_(device.allocate(bytes)) {}
  ~Block() { device_.deallocate(memory_); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  std::byte* get() const { return memory_; }

 private:
  Device& device_;
  std::byte* memory_;
};

}  // namespace

DevicePeaks measure_device_peaks(Device& device, const Model& model, Kernels& kernels) {
  const int64_t copied = std::clamp<int64_t>(round_down(device.free_bytes() / 8, kMiB), kMiB, 128 * kMiB);
  Arena ram(copied);
  std::byte* host = ram.allocate(copied).data();
  std::fill_n(host, copied, std::byte{0x3c});  // a small normal number in every type
  device.pin(ram.memory());
  DevicePeaks peaks;
  {
    auto up = device.make_copy_lane("peak", nullptr), down = device.make_copy_lane("peak", nullptr), compute = device.make_compute_lane("peak", nullptr);
    const Block block(device, copied), other(device, copied);
    peaks.h2d_bytes_per_s = static_cast<double>(copied) / best_time_s(*up, [&] { return copy_work(host, block.get(), copied); });
    peaks.d2h_bytes_per_s = static_cast<double>(copied) / best_time_s(*down, [&] { return copy_work(block.get(), host, copied); });

    constexpr int64_t kCols = 65536;
    std::vector<const std::byte*> rows;
    for (int64_t at = 0; at + 4 * kCols <= copied; at += 4 * kCols) rows.push_back(block.get() + at);
    peaks.memory_bytes_per_s = 2 * static_cast<double>(static_cast<int64_t>(rows.size()) * 4 * kCols) / best_time_s(*compute, [&] {
      return compute_work([&] { kernels.gather_rows(rows, DType::kF32, kCols, false, reinterpret_cast<float*>(other.get())); });
    });

    for (int64_t num_rows : {256, 1024}) {
      double flops = 0, seconds = 0;
      for (const WeightUse& use : model.layers()[1].uses) {
        const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
        if (weight.always_resident) continue;
        const int64_t few = std::min<int64_t>(use.rows, 4096), bytes = few * weight.row_bytes();
        const Block w(device, bytes), x(device, 4 * num_rows * weight.cols), y(device, 4 * num_rows * few);
        for (auto [memory, size] : {std::pair{w.get(), bytes}, std::pair{x.get(), 4 * num_rows * weight.cols}})
          for (int64_t at = 0; at < size; at += copied) up->submit(copy_work(host, memory + at, std::min(copied, size - at))).wait();
        const WeightView view{weight.dtype, few, weight.cols, {{w.get(), few}}};
        const double time_s = best_time_s(*compute, [&] {
          return compute_work([&] { kernels.linear(x.get(), num_rows, view, {}, false, reinterpret_cast<float*>(y.get())); });
        });
        flops += 2.0 * static_cast<double>(num_rows) * static_cast<double>(weight.cols) * static_cast<double>(use.rows);
        seconds += time_s * static_cast<double>(use.rows) / static_cast<double>(few);
      }
      peaks.matmul_flops_per_s = std::max(peaks.matmul_flops_per_s, flops / seconds);
    }
  }
  device.unpin(ram.memory());
  return peaks;
}

}  // namespace flexgen
