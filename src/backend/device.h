#pragma once
// Device: an accelerator with memory of its own, as the engine sees it: memory, lanes, kernels. Implementations: cuda/ (a stub that throws where
// no toolkit was found: no_cuda/) and emulated/ (the same rules without a GPU, for tests). One host thread; what it makes may be used
// as the Lane and Kernels headers say, and is destroyed before it.
//
// Rules. Addresses of device memory are numbers to the host: only the device's own lanes and kernels look behind them. Bytes cross
// between RAM and device memory in Work::copies on a copy lane alone. Every lane keeps the contract of Lane: work starts in order, each piece
// once everything in its `after` is done, submit() returns at once, and an event is finished when the work is over on the device (not when it
// was handed to the driver). A lane may hand work n + 1 to the device before n is over: nobody waits for all of it.

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "backend/kernels.h"
#include "backend/lane.h"
#include "backend/trace.h"

namespace flexgen {

class Device {
 public:
  virtual ~Device() = default;

  /// For messages and `doctor`, like "NVIDIA H200".
  virtual std::string name() const = 0;
  virtual int64_t total_bytes() const = 0;
  /// What could be allocated now.
  virtual int64_t free_bytes() const = 0;
  /// Device memory that make_kernels() takes for itself: part of what --gpu-memory promises, beside what is allocated.
  virtual int64_t kernel_bytes() const { return 0; }
  /// Of free_bytes(), what must stay free: the driver, libraries and displays take more while a job runs.
  virtual int64_t margin_bytes() const { return 0; }

  /// Device memory of exactly `bytes`, aligned to kDeviceAlignment at least; freed with deallocate() or the device. Error{device} if there is not enough.
  virtual std::byte* allocate(int64_t bytes) = 0;
  /// Destructors call this and unpin(). After a fault of the device neither can do anything, and says nothing: the fault was told to whoever waited.
  virtual void deallocate(std::byte* memory) noexcept = 0;
  /// Locks RAM that is already there (the engine's arena), so that copies from and to it run at full speed and asynchronously. Undone with unpin().
  virtual void pin(std::span<std::byte> ram) = 0;
  virtual void unpin(std::span<std::byte> ram) noexcept = 0;

  /// Runs Work::run, which calls this device's kernels; they enqueue and return.
  virtual std::unique_ptr<Lane> make_compute_lane(std::string lane_name, Trace* trace) = 0;
  /// Does Work::copies, all from RAM to the device, all from the device to RAM, or all within the device. Two of them, one a direction, overlap each other and compute.
  virtual std::unique_ptr<Lane> make_copy_lane(std::string lane_name, Trace* trace) = 0;
  /// Pointers that the kernels get (views, pages, rows, scratch) are device addresses; the arrays that list them (spans, positions, draws) lie in RAM and may
  /// change as soon as a kernel's function has returned. The kernels are called from the compute lane.
  virtual std::unique_ptr<Kernels> make_kernels(DType compute_dtype) = 0;
  /// Arithmetic for a model whose weights have this type, as "auto" means it.
  virtual DType best_compute_dtype(DType weights) const = 0;
  /// As Kernels::arithmetic() has it.
  virtual std::string arithmetic() const { return ""; }
};

/// Everything in device memory starts at multiples of this.
inline constexpr int64_t kDeviceAlignment = 256;

/// The GPU number `ordinal`. Throws Error{user} that says what is missing: support in this build, a driver, a GPU.
std::unique_ptr<Device> make_cuda_device(int ordinal);

/// Device memory that is played by RAM which no address of it leads to, with another backend's kernels behind checks: code that would fail on a GPU
/// fails here. kCuda are the cuda backend's own on an emulated block of threads, hundreds of times slower than the others. `memory_bytes`: what it says it has.
enum class EmulatedKernels { kCpu, kReference, kCuda };
std::unique_ptr<Device> make_emulated_device(EmulatedKernels kernels, int num_threads, int64_t memory_bytes);

}  // namespace flexgen
