#pragma once
// A GPU with its lanes and kernels, for programs that measure it. One thread; each call waits for what it enqueued.

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "backend/device.h"

namespace flexgen {

/// The device with its compute lane, copy lanes and kernels, made and destroyed in the right order.
class GpuSession {
 public:
  /// GPU 0. Throws Error where there is none, or it does not compute in `act`.
  explicit GpuSession(DType act) : GpuSession(make_cuda_device(0), act) {}
  /// In the type that it takes for weights in bf16.
  GpuSession() : GpuSession(make_cuda_device(0), std::nullopt) {}

  Device& device() { return *device_; }
  Kernels& kernels() { return *kernels_; }

  /// Of the GPU's memory, freed with the device.
  std::byte* allocate(int64_t bytes) { return device_->allocate(bytes); }

  /// Runs the body in the compute lane.
  template <typename Body>
  void run(Body&& body) {
    Work work;
    work.name = "run";
    work.run = std::forward<Body>(body);
    compute_->submit(std::move(work)).wait();
  }
  /// The same copy so many times, to the GPU or within it; RAM need not be locked.
  void upload(const void* from, std::byte* to, int64_t bytes, int times = 1) { copy(*up_, {static_cast<const std::byte*>(from), to, bytes}, times); }
  void download(const std::byte* from, void* to, int64_t bytes) { copy(*down_, {from, static_cast<std::byte*>(to), bytes}, 1); }

 private:
  GpuSession(std::unique_ptr<Device> device, std::optional<DType> act)
      : device_(std::move(device)), compute_(device_->make_compute_lane("compute", nullptr)), up_(device_->make_copy_lane("up", nullptr)),
        down_(device_->make_copy_lane("down", nullptr)), kernels_(device_->make_kernels(act.value_or(device_->best_compute_dtype(DType::kBF16)))) {}

  static void copy(Lane& lane, const Copy& one, int times) {
    Work work;
    work.name = "copy";
    work.copies.assign(static_cast<size_t>(times), one);
    lane.submit(std::move(work)).wait();
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Lane> compute_, up_, down_;
  std::unique_ptr<Kernels> kernels_;
};

}  // namespace flexgen
