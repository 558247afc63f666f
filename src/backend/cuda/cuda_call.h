#pragma once
// Calls of the CUDA runtime: a failure becomes an Error{device} that says what was tried and what to do. Any thread.

#include <cuda_runtime.h>

#include <string>

#include "base/error.h"

namespace flexgen {

/// Throws where `status` is not cudaSuccess; `what` was tried.
void check_cuda(cudaError_t status, const std::string& what);

}  // namespace flexgen
