#include "backend/cuda/emulated_kernels.h"

#include <deque>

#include "backend/cuda/copy_words.h"
#include "backend/cuda/device_kernels.h"

namespace flexgen {
namespace {

/// Runs everything at once in the calling thread.
template <typename Half>
class EmulatedRuntime : public DeviceRuntime {
 public:
  explicit EmulatedRuntime(int64_t* num_uploads) : workspace_(static_cast<size_t>(kDeviceWorkspaceBytes)), num_uploads_(num_uploads) {}
  Stream stream() override { return {}; }
  std::byte* workspace() override { return workspace_.get(); }

  std::byte* upload(const void* data, int64_t bytes) override {
    FLEXGEN_CHECK(bytes <= kLargestUpload, "{} bytes", bytes);
    if (num_uploads_ != nullptr) ++*num_uploads_;
    std::vector<std::byte> pinned(static_cast<const std::byte*>(data), static_cast<const std::byte*>(data) + bytes);
    pinned.resize(static_cast<size_t>(upload_spends(bytes)));
    uploads_.emplace_back(pinned.size());
    launch_copy(pinned.data(), bytes, uploads_.back().data(), {});
    spent_since_first_ += upload_spends(bytes);
    while (spent_since_first_ - std::ssize(uploads_.front()) > kUploadLife) {  // all that came after it
      spent_since_first_ -= std::ssize(uploads_.front());
      uploads_.pop_front();
    }
    return uploads_.back().data();
  }

  void multiply(const MatrixProduct& p) override {
    FLEXGEN_CHECK(p.k % 8 == 0 && reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && reinterpret_cast<uintptr_t>(p.weight) % 16 == 0);
    FLEXGEN_CHECK(p.n == p.y_stride || p.n == matrix_piece_rows(p.k) || p.n == p.y_stride % matrix_piece_rows(p.k), "{} of {} rows", p.n, p.y_stride);
    // What the product may use as scratch is not the caller's to keep anything in.
    std::memset(workspace_.get(), 0xff, 4096);
    std::memset(workspace_.get() + kDeviceWorkspaceBytes - kCheckBytes, 0xff, 4096);
    std::vector<float> x = floats(p.x, p.num_rows * p.k), w = floats(p.weight, p.n * p.k);
    for (int64_t t = 0; t < p.num_rows; ++t)
      for (int64_t n = 0; n < p.n; ++n) {
        float sums[8] = {};  // which vector instructions add at once
        const float *row = x.data() + t * p.k, *column = w.data() + n * p.k;
        for (int64_t k = 0; k < p.k; k += 8)
          for (int64_t i = 0; i < 8; ++i) sums[i] += row[k + i] * column[k + i];
        float sum = 0;
        for (float part : sums) sum += part;
        float& y = p.y[t * p.y_stride + n];
        y = (p.accumulate ? y : 0.0f) + sum + (p.bias == nullptr ? 0.0f : p.bias[n]);
      }
  }

  void download(const void* from, int64_t bytes, void* to) override {
    FLEXGEN_CHECK(bytes <= kLargestDownload && reinterpret_cast<uintptr_t>(from) % 16 == 0);
    alignas(16) std::byte result[kLargestDownload];
    launch_copy(static_cast<const std::byte*>(from), bytes, result, {});
    std::memcpy(to, result, static_cast<size_t>(bytes));
  }
  void check_launch(const char*) override {}

 private:
  static std::vector<float> floats(const std::byte* data, int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = load_float(data, Half::kType, i);
    return values;
  }

  /// Untouched until used, and of the alignment that cudaMalloc() gives.
  class Workspace {
   public:
    explicit Workspace(size_t bytes) : memory_(new std::byte[bytes + kAlignment]) {}
    std::byte* get() const { return memory_.get() + (kAlignment - reinterpret_cast<uintptr_t>(memory_.get()) % kAlignment); }

   private:
    static constexpr uintptr_t kAlignment = 256;
    std::unique_ptr<std::byte[]> memory_;
  };

  Workspace workspace_;
  std::deque<std::vector<std::byte>> uploads_;
  int64_t spent_since_first_ = 0;  ///< by uploads_
  int64_t* num_uploads_;
};

}  // namespace

std::unique_ptr<Kernels> make_emulated_cuda_kernels(DType act_dtype, int64_t* num_uploads) {
  FLEXGEN_CHECK(act_dtype == DType::kBF16 || act_dtype == DType::kF16);
  if (act_dtype == DType::kBF16) return std::make_unique<DeviceKernels<Bf16>>("cuda (emulated)", std::make_unique<EmulatedRuntime<Bf16>>(num_uploads));
  return std::make_unique<DeviceKernels<F16>>("cuda (emulated)", std::make_unique<EmulatedRuntime<F16>>(num_uploads));
}

}  // namespace flexgen
