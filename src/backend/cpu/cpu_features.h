#pragma once
// What this processor computes products with, as oneDNN sees it, which DNNL_MAX_CPU_ISA binds. Any thread.

namespace flexgen {

/// Whether products of bf16 are AMX's: oneDNN would use it, and amx_product::is_supported().
bool uses_amx();

}  // namespace flexgen
