#pragma once
// A device's kernels for callers whose memory is the host's: everything goes up before a call and the results come back after it. For tests and
// benchmarks of kernels; one thread.

#include <memory>

#include "backend/device.h"
#include "backend/kernels.h"

namespace flexgen {

std::unique_ptr<Kernels> make_staged_kernels(std::unique_ptr<Device> device, DType compute_dtype);

}  // namespace flexgen
