#pragma once
// What this processor computes products with, as oneDNN sees it, which DNNL_MAX_CPU_ISA binds. Any thread.

#include <string>

#include "tensor/dtype.h"

namespace flexgen {

/// Whether products of bf16 are AMX's: oneDNN would use it, and amx_product::is_supported().
bool uses_amx();

/// Kernels::arithmetic() of the cpu backend that computes in this type.
std::string cpu_arithmetic(DType compute_dtype);

}  // namespace flexgen
