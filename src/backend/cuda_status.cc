#include "backend/cuda_status.h"

#include "base/error.h"

namespace flexgen {

std::string why_not_tested(const CudaStatus& status, DType act) {
  if (status.devices.empty()) return "needs a GPU: " + status.problem;
  if (act != DType::kBF16 || status.capabilities.front() >= kBf16Capability) return "";
  return fmt::format("needs compute capability {}.{}: {} does not multiply bf16", kBf16Capability / 10, kBf16Capability % 10, status.devices.front());
}

}  // namespace flexgen
