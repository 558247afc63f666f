// Stands in for cuda/ where no CUDA toolkit was found.

#include "backend/cuda_status.h"
#include "backend/device.h"
#include "base/error.h"

namespace flexgen {
namespace {
constexpr const char* kAdvice = "this build has no CUDA support: install a CUDA toolkit (12 or 13), so that nvcc is found, and build again";
}

CudaStatus cuda_status() { return {.problem = kAdvice}; }

std::unique_ptr<Device> make_cuda_device(int) { fail_user("{}", kAdvice); }

}  // namespace flexgen
