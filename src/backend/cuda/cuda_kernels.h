#pragma once
// The kernels of an NVIDIA GPU, over a stream. One thread, that of the compute lane.

#include <cuda_runtime.h>

#include <memory>

#include "backend/kernels.h"

namespace flexgen {

/// Device memory that make_cuda_kernels() takes: workspace and upload ring.
int64_t cuda_kernel_bytes();
/// act: kBF16 (Ampere and later) or kF16. Kernels are enqueued on `stream`, which must outlive them.
std::unique_ptr<Kernels> make_cuda_kernels(int ordinal, DType act, cudaStream_t stream);

}  // namespace flexgen
