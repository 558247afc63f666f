#pragma once
// Calls of the CUDA runtime: a failure becomes an Error{device} that says what was tried and what to do. Any thread.

#include <cuda_runtime.h>

#include <string>

#include "base/error.h"

namespace flexgen {

/// Throws where `status` is not cudaSuccess; `what` was tried.
void check_cuda(cudaError_t status, const std::string& what);

/// For destructors, where nothing can be done: whoever waits for the work is told of a fault.
inline void try_cuda(cudaError_t status) noexcept {
  if (status != cudaSuccess) cudaGetLastError();  // so that nobody takes it for an error of what comes next
}

}  // namespace flexgen
