#include "backend/cpu/cpu_features.h"

#include <fmt/format.h>

#include <dnnl.hpp>

#include "backend/cpu/amx_product.h"
#include "backend/cpu/vector_rows.h"
#include "backend/kernels.h"

namespace flexgen {
namespace {

std::string_view isa_name(dnnl::cpu_isa isa) {
  switch (isa) {
    case dnnl::cpu_isa::sse41: return "SSE4.1";
    case dnnl::cpu_isa::avx: return "AVX";
    case dnnl::cpu_isa::avx2: return "AVX2";
    case dnnl::cpu_isa::avx2_vnni: return "AVX2-VNNI";
    case dnnl::cpu_isa::avx512_core: return "AVX512";
    case dnnl::cpu_isa::avx512_core_vnni: return "AVX512-VNNI";
    case dnnl::cpu_isa::avx512_core_bf16: return "AVX512-BF16";
    case dnnl::cpu_isa::avx512_core_amx: return "AMX";
    default: return "generic";
  }
}

/// Each of oneDNN's ISA values has the bits of those it includes.
bool onednn_has(dnnl::cpu_isa isa) {
  const auto has = static_cast<unsigned>(dnnl::get_effective_cpu_isa()), needed = static_cast<unsigned>(isa);
  return (has & needed) == needed;
}

}  // namespace

bool cpu_has_bf16() { return onednn_has(dnnl::cpu_isa::avx512_core_bf16); }

bool uses_amx() {
  static const bool uses = onednn_has(dnnl::cpu_isa::avx512_core_amx) && amx_product::is_supported();
  return uses;
}

std::string cpu_features() { return fmt::format("oneDNN {}, Highway {}", isa_name(dnnl::get_effective_cpu_isa()), vector_rows::target_name()); }

}  // namespace flexgen
