#include "measure/device_peaks.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/random_numbers.h"
#include "base/clock.h"
#include "base/units.h"
#include "measure/measured_weight.h"
#include "memory/arena.h"

namespace flexgen {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kTimeS = 0.1;

/// Seconds that one of a piece of work's `parts` takes a lane, with several pieces in its queue; the best of some rounds. Parts are many where one is short, so that neither
/// starting a piece nor waiting for it counts.
double best_time_s(Lane& lane, int parts, const std::function<Work()>& work, double time_s = kTimeS) {
  constexpr int kQueued = 4;
  double best_s = 1e9;
  lane.submit(work()).wait();
  for (const auto start = Clock::now(); seconds_since(start) < time_s;) {
    const auto begin = Clock::now();
    Event done;
    for (int i = 0; i < kQueued; ++i) done = lane.submit(work());
    done.wait();
    best_s = std::min(best_s, seconds_since(begin) / kQueued / parts);
  }
  return best_s;
}

Work copy_work(const std::byte* from, std::byte* to, int64_t bytes, int times = 1) {
  Work work;
  work.name = "peak";
  work.copies.assign(static_cast<size_t>(times), {from, to, bytes});
  work.bytes = times * static_cast<double>(bytes);
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

/// RAM that is locked for as long as this lives.
class LockedRam {
 public:
  LockedRam(Device& device, std::span<std::byte> ram) : device_(device), ram_(ram) { device.pin(ram); }
  ~LockedRam() { device_.unpin(ram_); }
  LockedRam(const LockedRam&) = delete;
  LockedRam& operator=(const LockedRam&) = delete;

 private:
  Device& device_;
  std::span<std::byte> ram_;
};

/// A product that is measured.
struct ProductSize {
  DType dtype = DType::kBF16;
  int64_t cols = 0, weight_rows = 0, num_rows = 0;

  int64_t x_bytes() const { return 4 * num_rows * cols; }
  int64_t y_bytes() const { return 4 * num_rows * weight_rows; }
  int64_t bytes() const {
    int64_t sum = weight_rows * row_bytes(dtype, cols) + x_bytes() + y_bytes();
    const auto format = measured_format(dtype, weight_rows, cols);
    for (int part = 0; format && part < kNumCodeParts; ++part) sum += beside_bytes(*format, dtype, static_cast<CodePart>(part), weight_rows, cols);
    return sum;
  }
  /// Less of what is more, until it has room.
  void shrink_to(int64_t room) {
    while (bytes() > room && std::max(weight_rows, num_rows) > 8) {
      int64_t& more = weight_rows >= num_rows ? weight_rows : num_rows;
      more = round_up(more / 2, 8);  // AWQ has words of eight rows
    }
  }
};

/// A device with lanes, and numbers in RAM to fill its memory with.
class Measuring {
 public:
  Measuring(Device& device, Kernels& kernels, int64_t room)
      : device_(device), kernels_(kernels), room_(room), copied_(std::clamp<int64_t>(round_down(room / 2, kLeastCopied), kLeastCopied, 128 * kMiB)),
        ram_(copied_), host_(ram_.allocate(copied_).data()), locked_(device, ram_.memory()), up_(device.make_copy_lane("peak", nullptr)),
        down_(device.make_copy_lane("peak", nullptr)), compute_(device.make_compute_lane("peak", nullptr)) {
    fill_with_numbers({host_, static_cast<size_t>(copied_)});
  }

  void copies(DevicePeaks& peaks) {
    constexpr int kCopies = 8;
    const Block block(device_, copied_), other(device_, copied_);
    const auto bytes = static_cast<double>(copied_);
    peaks.h2d_bytes_per_s = bytes / best_time_s(*up_, 1, [&] { return copy_work(host_, block.get(), copied_); });
    peaks.d2h_bytes_per_s = bytes / best_time_s(*down_, 1, [&] { return copy_work(block.get(), host_, copied_); });
    peaks.memory_bytes_per_s = 2 * bytes / best_time_s(*up_, kCopies, [&] { return copy_work(block.get(), other.get(), copied_, kCopies); });
  }

  /// FLOP/s of a block's matrices, in this type or in their own.
  double products(const Model& model, int64_t num_rows, std::optional<DType> type) {
    double flops = 0, seconds = 0;
    for (const WeightUse& use : model.layers()[1].uses) {
      const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
      if (weight.always_resident) continue;
      ProductSize size{type.value_or(weight.dtype), weight.cols, std::min<int64_t>(use.rows, 4096), num_rows};
      size.shrink_to(room_);
      const double all = 2.0 * static_cast<double>(num_rows) * static_cast<double>(weight.cols) * static_cast<double>(use.rows);
      flops += all;
      seconds += product_s(size) * all / (2.0 * static_cast<double>(size.num_rows) * static_cast<double>(size.cols) * static_cast<double>(size.weight_rows));
    }
    return flops / seconds;
  }

 private:
  static constexpr int64_t kLeastCopied = 64 * kKiB;

  /// A matrix in the device's memory: codes of no pattern, scales all alike.
  struct Matrix {
    std::unique_ptr<CodeFormat> format;  ///< which the view points to
    std::vector<std::unique_ptr<Block>> memory;
    WeightView view;
  };

  Matrix make_matrix(const ProductSize& size) {
    Matrix matrix;
    matrix.format = measured_format(size.dtype, size.weight_rows, size.cols);
    const int64_t bytes = size.weight_rows * row_bytes(size.dtype, size.cols);
    matrix.memory.push_back(std::make_unique<Block>(device_, bytes));
    fill(*matrix.memory.back(), bytes);
    matrix.view = {size.dtype, size.weight_rows, size.cols, {{matrix.memory.back()->get(), size.weight_rows}}, matrix.format.get()};
    for (int part = 0; matrix.format && part < kNumCodeParts; ++part) {
      const int64_t beside = beside_bytes(*matrix.format, size.dtype, static_cast<CodePart>(part), size.weight_rows, size.cols);
      if (beside == 0) continue;
      const std::vector<std::byte> alike(static_cast<size_t>(beside), std::byte{0x3c});  // a small normal number in every type
      matrix.memory.push_back(std::make_unique<Block>(device_, beside));
      up_->submit(copy_work(alike.data(), matrix.memory.back()->get(), beside)).wait();
      matrix.view.pieces.front().beside[static_cast<size_t>(part)] = matrix.memory.back()->get();
    }
    return matrix;
  }

  double product_s(const ProductSize& size) {
    const Matrix matrix = make_matrix(size);
    const Block x(device_, size.x_bytes()), y(device_, size.y_bytes());
    fill(x, size.x_bytes());
    auto calls = [&](int count) {
      return compute_work([&, count] {
        for (int i = 0; i < count; ++i) kernels_.linear(x.get(), size.num_rows, matrix.view, {}, false, reinterpret_cast<float*>(y.get()));
      });
    };
    // As many as a millisecond has, for a GPU that needs tens of microseconds to be told of one.
    const double one_s = best_time_s(
        *compute_, 1, [&] { return calls(1); }, kTimeS / 4);
    const int count = static_cast<int>(std::clamp(1e-3 / one_s, 1.0, 32.0));
    return count == 1 ? one_s : best_time_s(*compute_, count, [&] { return calls(count); });
  }

  void fill(const Block& block, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += copied_) up_->submit(copy_work(host_, block.get() + at, std::min(copied_, bytes - at))).wait();
  }

  Device& device_;
  Kernels& kernels_;
  int64_t room_, copied_;
  Arena ram_;
  std::byte* host_;
  LockedRam locked_;
  std::unique_ptr<Lane> up_, down_, compute_;
};

}  // namespace

DevicePeaks measure_device_peaks(Device& device, const Model& model, Kernels& kernels, int64_t room) {
  Measuring measuring(device, kernels, room);
  DevicePeaks peaks;
  measuring.copies(peaks);
  for (int64_t num_rows : {256, 1024}) {
    peaks.visit_flops_per_s = std::max(peaks.visit_flops_per_s, measuring.products(model, num_rows, std::nullopt));
    // A model in 16 bits is the same again.
    const bool packed = std::any_of(model.weights().begin(), model.weights().end(),
                                    [](const WeightSpec& weight) { return !weight.always_resident && is_quantized(weight.dtype); });
    if (packed) peaks.matmul_flops_per_s = std::max(peaks.matmul_flops_per_s, measuring.products(model, num_rows, kernels.act_dtype()));
    peaks.matmul_flops_per_s = std::max(peaks.matmul_flops_per_s, peaks.visit_flops_per_s);
  }
  return peaks;
}

}  // namespace flexgen
