#include <cstring>

#include "backend/cuda/emulated_kernels.h"
#include "backend/device.h"
#include "backend/emulated/emulated_kernels.h"
#include "backend/emulated/emulated_memory.h"
#include "base/error.h"

namespace flexgen {
namespace {

/// Copies between RAM and the device's memory, or within that, in its thread.
class EmulatedCopyLane : public QueueLane {
 public:
  EmulatedCopyLane(std::string name, Trace* trace, const EmulatedMemory& memory) : QueueLane(std::move(name), trace), memory_(memory) { start(); }
  ~EmulatedCopyLane() override { stop(); }

 private:
  void perform(Work work, const Event& event) override {
    FLEXGEN_CHECK(!work.run && work.transfers.empty(), "{}: a copy lane does copies", work.name);
    const auto begin = Clock::now();
    begin_busy(begin);
    for (const Copy& copy : work.copies) {
      const bool to_device = memory_.touches(copy.to, copy.bytes), from_device = memory_.touches(copy.from, copy.bytes);
      FLEXGEN_CHECK(to_device || from_device, "{}: one end of a copy lies in device memory, or both do", work.name);
      const Copy& first = work.copies.front();
      FLEXGEN_CHECK(to_device == memory_.touches(first.to, 1) && from_device == memory_.touches(first.from, 1), "{}: copies in several directions", work.name);
      std::byte* to = to_device ? memory_.behind(copy.to, copy.bytes, work.name) : copy.to;
      const std::byte* from = from_device ? memory_.behind(copy.from, copy.bytes, work.name) : copy.from;
      std::memcpy(to, from, static_cast<size_t>(copy.bytes));
    }
    const auto end = Clock::now();
    end_busy(end);
    account(work, begin, end);
    work = Work();
    finish(event, nullptr);
  }

  const EmulatedMemory& memory_;
};

class EmulatedDevice : public Device {
 public:
  EmulatedDevice(EmulatedKernels kernels, int num_threads, int64_t memory_bytes) : kernels_(kernels), num_threads_(num_threads), memory_(memory_bytes) {}

  std::string name() const override { return "emulated GPU"; }
  int64_t total_bytes() const override { return memory_.total_bytes(); }
  int64_t free_bytes() const override { return memory_.free_bytes(); }
  std::byte* allocate(int64_t bytes) override { return memory_.allocate(bytes); }
  void deallocate(std::byte* memory) noexcept override { memory_.deallocate(memory); }
  void pin(std::span<std::byte>) override {}
  void unpin(std::span<std::byte>) noexcept override {}

  std::unique_ptr<Lane> make_compute_lane(std::string lane_name, Trace* trace) override { return std::make_unique<ThreadLane>(std::move(lane_name), trace); }
  std::unique_ptr<Lane> make_copy_lane(std::string lane_name, Trace* trace) override {
    return std::make_unique<EmulatedCopyLane>(std::move(lane_name), trace, memory_);
  }
  std::unique_ptr<Kernels> make_kernels(DType compute_dtype) override {
    return make_emulated_kernels(memory_, kernels_ == EmulatedKernels::kReference ? make_reference_kernels()
                                          : kernels_ == EmulatedKernels::kCuda    ? make_emulated_cuda_kernels(compute_dtype)
                                                                                  : make_cpu_kernels({num_threads_, compute_dtype}));
  }
  DType best_compute_dtype(DType weights) const override {
    if (kernels_ == EmulatedKernels::kCuda) return weights == DType::kF16 ? DType::kF16 : DType::kBF16;
    return kernels_ == EmulatedKernels::kCpu && weights != DType::kF32 && cpu_has_bf16() ? DType::kBF16 : DType::kF32;
  }

 private:
  EmulatedKernels kernels_;
  int num_threads_;
  EmulatedMemory memory_;
};

}  // namespace

std::unique_ptr<Device> make_emulated_device(EmulatedKernels kernels, int num_threads, int64_t memory_bytes) {
  return std::make_unique<EmulatedDevice>(kernels, num_threads, memory_bytes);
}

}  // namespace flexgen
