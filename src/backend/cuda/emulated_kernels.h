#pragma once
// The kernels of the cuda backend on the block emulator: their logic, without a GPU, for tests. Pointers are the host's. One thread.

#include <memory>

#include "backend/kernels.h"

namespace flexgen {

/// act_dtype: kBF16, or kF16 as on GPUs before Ampere. num_uploads: counts copies of arguments to the device; outlives the kernels.
std::unique_ptr<Kernels> make_emulated_cuda_kernels(DType act_dtype, int64_t* num_uploads = nullptr);

}  // namespace flexgen
