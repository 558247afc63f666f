#pragma once
// DeviceRuntime: what the kernels' host side (device_kernels.h) needs of a device; the CUDA runtime and cuBLASLt, or in tests the block emulator. One thread.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "backend/cuda/device_code.h"
#include "backend/cuda/upload_places.h"
#include "backend/kernels.h"
#include "base/units.h"

namespace flexgen::inline FLEXGEN_SIDE {

/// y [num_rows, n] f32 with rows of y_stride = (accumulate ? y : 0) + x [num_rows, k] W^T + bias; W [n, k]; x, W of the act type at 16 bytes, k a
/// multiple of 8. W is a whole matrix, of y_stride rows, or a piece of one: matrix_piece_rows() of its rows, or what is left at its end; the first piece comes first.
struct MatrixProduct {
  const std::byte *x = nullptr, *weight = nullptr;
  int64_t num_rows = 0, n = 0, k = 0;
  const float* bias = nullptr;  ///< [n] or null
  bool accumulate = false;
  float* y = nullptr;
  int64_t y_stride = 0;
};

/// What DeviceKernels needs of a device. One thread.
class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;
  virtual Stream stream() = 0;
  /// Scratch that whatever is enqueued may use until the next that is: kDeviceWorkspaceBytes at 256 bytes.
  virtual std::byte* workspace() = 0;
  /// A copy on the device, in place before whatever is enqueued next and valid for what is enqueued until uploads that spend kUploadLife more
  /// (upload_spends()) have followed. At most kLargestUpload. At 256 bytes.
  virtual std::byte* upload(const void* data, int64_t bytes) = 0;
  /// Enqueues the product. A row's bits depend on y_stride, k, bias or not, accumulate or not, and the row, not on n. May use the first kProductWorkspaceBytes and the last kCheckBytes.
  virtual void multiply(const MatrixProduct& product) = 0;
  /// Waits for all that is enqueued and copies to the host; at most kLargestDownload, at 16 bytes, of memory that goes on to the next multiple of 16.
  virtual void download(const void* from, int64_t bytes, void* to) = 0;
  /// Throws Error{device} if the last launch was refused; `what` is for the message.
  virtual void check_launch(const char* what) = 0;
};

inline constexpr int64_t kProductWorkspaceBytes = 32 * kMiB, kBiasBytes = 1 * kMiB, kPaddedRowsBytes = 4 * kMiB, kMatrixBytes = 64 * kMiB;
inline constexpr int64_t kCheckBytes = 64 * kMiB;  ///< in which products are tried when they are first met
inline constexpr int64_t kDeviceWorkspaceBytes = kProductWorkspaceBytes + kBiasBytes + kPaddedRowsBytes + kMatrixBytes + kCheckBytes;
/// Of a matrix that does not lie as products need it, the rows that are put together at a time.
constexpr int64_t matrix_piece_rows(int64_t k) { return std::max<int64_t>(64, std::min(kMatrixBytes / (2 * k), kBiasBytes / 4) / 64 * 64); }
inline constexpr int64_t kLargestDownload = 256 * kKiB;
inline constexpr int64_t kLargestHead = 128;  ///< elements; larger ones (Gemma's) are refused, unless the processor attends

/// The kernels of device_kernels.h over a runtime, for act types bf16 and fp16. Two files, as they take long to compile.
std::unique_ptr<Kernels> make_bf16_kernels(std::unique_ptr<DeviceRuntime> runtime);
std::unique_ptr<Kernels> make_f16_kernels(std::unique_ptr<DeviceRuntime> runtime);

}  // namespace flexgen::inline FLEXGEN_SIDE
