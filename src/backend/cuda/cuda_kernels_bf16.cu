#include "backend/cuda/device_kernels.h"

namespace flexgen::inline FLEXGEN_SIDE {

std::unique_ptr<Kernels> make_bf16_kernels(std::unique_ptr<DeviceRuntime> runtime) { return std::make_unique<DeviceKernels<Bf16>>("cuda", std::move(runtime)); }

}  // namespace flexgen::inline FLEXGEN_SIDE
