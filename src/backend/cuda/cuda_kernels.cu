#include "backend/cuda/cuda_kernels.h"

#include <cstring>

#include "backend/cuda/cublas_product.h"
#include "backend/cuda/cuda_call.h"
#include "backend/cuda/device_runtime.h"

namespace flexgen {
namespace {

/// Small host data on its way to kernels: a ring of pinned RAM and device memory in segments. A segment is used again once the copies out of it are over, which
/// they are long before, unless the GPU is whole segments behind.
class UploadRing {
 public:
  // Two segments that follow one another have more than kLargestUpload between them, so five hold kUploadLife.
  static constexpr int kSegments = 6;
  static_assert(kUploadLife == 2 * kLargestUpload);
  static constexpr int64_t kBytes = kSegments * kLargestUpload;

  UploadRing(std::byte* device, cudaStream_t stream) : device_(device), stream_(stream) {
    check_cuda(cudaHostAlloc(reinterpret_cast<void**>(&host_), kBytes, cudaHostAllocDefault), "allocating pinned memory for arguments");
    for (cudaEvent_t& event : left_) check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
  }
  ~UploadRing() {
    cudaStreamSynchronize(stream_);
    for (cudaEvent_t event : left_) cudaEventDestroy(event);
    cudaFreeHost(host_);
  }

  std::byte* upload(const void* data, int64_t bytes) {
    FLEXGEN_CHECK(bytes <= kLargestUpload, "{} bytes", bytes);
    if (used_ + bytes > kLargestUpload) {
      check_cuda(cudaEventRecord(left_[segment_], stream_), "recording an event");
      segment_ = (segment_ + 1) % kSegments;
      used_ = 0;
      // An event that nobody recorded yet counts as over, and so is its segment.
      check_cuda(cudaEventSynchronize(left_[segment_]), "waiting for arguments to be copied");
    }
    const int64_t at = segment_ * kLargestUpload + used_;
    used_ += round_up(bytes, 256);
    std::memcpy(host_ + at, data, static_cast<size_t>(bytes));
    check_cuda(cudaMemcpyAsync(device_ + at, host_ + at, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_), "copying arguments");
    return device_ + at;
  }

 private:
  std::byte *host_ = nullptr, *device_;
  cudaStream_t stream_;
  cudaEvent_t left_[kSegments] = {};
  int segment_ = 0;
  int64_t used_ = 0;
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
    check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_), "copying a result");
    check_cuda(cudaStreamSynchronize(stream_), "waiting for a result");
  }
  void check_launch(const char* what) override { check_cuda(cudaGetLastError(), what); }

 private:
  cudaStream_t stream_;
  DeviceMemory memory_;
  UploadRing ring_;
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
