#pragma once
// Kernels that take device addresses of an EmulatedMemory, check each for its whole extent, and let other kernels compute on the bytes behind them.

#include <memory>

#include "backend/emulated/emulated_memory.h"
#include "backend/kernels.h"

namespace flexgen {

std::unique_ptr<Kernels> make_emulated_kernels(const EmulatedMemory& memory, std::unique_ptr<Kernels> kernels);

}  // namespace flexgen
