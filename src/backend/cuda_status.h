#pragma once
// What `doctor` says of the GPU tier. Implemented in cuda/, or in no_cuda/ where no toolkit was found. Any thread; never throws.

#include <string>
#include <vector>

namespace flexgen {

/// The GPU tier in words. Pure data.
struct CudaStatus {
  std::string toolkit;               ///< "13.0": what this program was built with; empty: without
  std::string driver;                ///< "13.1": the newest CUDA the driver knows; empty: no driver
  std::string problem;               ///< why there are no devices, and what to do; empty if there are
  std::string cublas;                ///< the library that products need: its name if it is found, else empty
  std::vector<std::string> devices;  ///< "NVIDIA H200, compute capability 9.0, 139 GiB"
};

CudaStatus cuda_status();

}  // namespace flexgen
