#include "backend/cuda/cuda_kernels.h"

#include <cstring>

#include "backend/cuda/copy_words.h"
#include "backend/cuda/cublas_product.h"
#include "backend/cuda/cuda_call.h"
#include "backend/cuda/device_runtime.h"

namespace flexgen {
namespace {

/// RAM that is locked, and that kernels read and write where it is.
class PinnedMemory {
 public:
  explicit PinnedMemory(int64_t bytes) {
    check_cuda(cudaHostAlloc(reinterpret_cast<void**>(&data_), static_cast<size_t>(bytes), cudaHostAllocMapped), "allocating pinned memory for arguments");
    check_cuda(cudaHostGetDevicePointer(reinterpret_cast<void**>(&on_device_), data_, 0), "mapping pinned memory");
  }
  ~PinnedMemory() { cudaFreeHost(data_); }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  std::byte* data() const { return data_; }
  std::byte* on_device() const { return on_device_; }

 private:
  std::byte *data_ = nullptr, *on_device_ = nullptr;
};

/// Small host data on its way to kernels: a ring of pinned RAM and device memory in segments. A segment is used again once the copies out of it are over, which
/// they are long before, unless the GPU is whole segments behind. A kernel copies: see copy_words.h.
class UploadRing {
 public:
  static constexpr int64_t kBytes = UploadPlaces::kBytes;
  UploadRing(std::byte* device, cudaStream_t stream) : device_(device), stream_(stream) {
    for (cudaEvent_t& event : left_) check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
  }
  ~UploadRing() {
    cudaStreamSynchronize(stream_);
    for (cudaEvent_t event : left_) cudaEventDestroy(event);
  }

  std::byte* upload(const void* data, int64_t bytes) {
    FLEXGEN_CHECK(bytes <= kLargestUpload, "{} bytes", bytes);
    const auto [at, segment, left] = places_.next(bytes);
    if (left >= 0) {
      check_cuda(cudaEventRecord(left_[left], stream_), "recording an event");
      // An event that nobody recorded yet counts as over, and so is its segment.
      check_cuda(cudaEventSynchronize(left_[segment]), "waiting for arguments to be copied");
    }
    std::memcpy(host_.data() + at, data, static_cast<size_t>(bytes));
    launch_copy(host_.on_device() + at, bytes, device_ + at, stream_);
    check_cuda(cudaGetLastError(), "copying arguments");
    return device_ + at;
  }

 private:
  PinnedMemory host_{kBytes};
  std::byte* device_;
  cudaStream_t stream_;
  cudaEvent_t left_[UploadPlaces::kSegments] = {};
  UploadPlaces places_;
};

/// Device memory that frees itself.
class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t bytes) {
    check_cuda(cudaMalloc(reinterpret_cast<void**>(&data_), static_cast<size_t>(bytes)), fmt::format("allocating {} for kernels", format_bytes(bytes)));
  }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};

class CudaRuntime : public DeviceRuntime {
 public:
  CudaRuntime(DType act, cudaStream_t stream)
      : stream_(stream), memory_(cuda_kernel_bytes()), ring_(memory_.data() + kDeviceWorkspaceBytes, stream), product_(act) {}

  Stream stream() override { return stream_; }
  std::byte* workspace() override { return memory_.data(); }
  std::byte* upload(const void* data, int64_t bytes) override { return ring_.upload(data, bytes); }
  void multiply(const MatrixProduct& product) override { product_.multiply(product, memory_.data(), stream_); }
  void download(const void* from, int64_t bytes, void* to) override {
    FLEXGEN_CHECK(bytes <= kLargestDownload, "{} bytes", bytes);
    launch_copy(static_cast<const std::byte*>(from), bytes, result_.on_device(), stream_);
    check_cuda(cudaGetLastError(), "copying a result");
    check_cuda(cudaStreamSynchronize(stream_), "waiting for a result");
    std::memcpy(to, result_.data(), static_cast<size_t>(bytes));
  }
  void check_launch(const char* what) override { check_cuda(cudaGetLastError(), what); }

 private:
  cudaStream_t stream_;
  DeviceMemory memory_;
  UploadRing ring_;
  PinnedMemory result_{kLargestDownload};
  CublasProduct product_;
};

}  // namespace

int64_t cuda_kernel_bytes() { return kDeviceWorkspaceBytes + UploadRing::kBytes; }

std::unique_ptr<Kernels> make_cuda_kernels(int ordinal, DType act, cudaStream_t stream) {
  check_cuda(cudaSetDevice(ordinal), fmt::format("choosing GPU {}", ordinal));
  auto runtime = std::make_unique<CudaRuntime>(act, stream);
  FLEXGEN_CHECK(act == DType::kBF16 || act == DType::kF16);
  return act == DType::kBF16 ? make_bf16_kernels(std::move(runtime)) : make_f16_kernels(std::move(runtime));
}

}  // namespace flexgen
