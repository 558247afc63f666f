#pragma once
// What `doctor` says of the GPU tier. Implemented in cuda/, or in no_cuda/ where no toolkit was found, but for what is plain arithmetic. Any thread; never throws.

#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace flexgen {

inline constexpr int kBf16Capability = 80;  ///< compute capability from which GPUs multiply bf16

/// The GPU tier in words. Pure data.
struct CudaStatus {
  std::string toolkit;               ///< "13.0": what this program was built with; empty: without
  std::string driver;                ///< "13.1": the newest CUDA the driver knows; empty: no driver
  std::string problem;               ///< why there are no devices, and what to do; empty if there are
  std::string cublas;                ///< the library that products need: its name if it is found, else empty
  std::vector<std::string> devices;  ///< "NVIDIA H200, compute capability 9.0, 139 GiB"
  std::vector<int> capabilities;     ///< of each: 90
};

CudaStatus cuda_status();

/// Why tests do not run in `act` on the first GPU: "needs a GPU: ..." or "needs compute capability ..."; empty: they do. tools/gpu_check tells these apart.
std::string why_not_tested(const CudaStatus& status, DType act);

}  // namespace flexgen
