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

constexpr std::string_view kByAmx = "bf16 by AMX", kByDots = "bf16 by AVX512-BF16";

}  // namespace

bool cpu_has_bf16() { return onednn_has(dnnl::cpu_isa::avx512_core_bf16); }

bool uses_amx() {
  static const bool uses = onednn_has(dnnl::cpu_isa::avx512_core_amx) && amx_product::is_supported();
  return uses;
}

std::string cpu_arithmetic(DType compute_dtype) {
  // Sums over a row or a head go by the width of vectors, which Highway's targets of 512 bits have in common. Products in fp32 and in integers are the same on all.
  const std::string_view target = vector_rows::target_name(), width = target.starts_with("AVX3") ? "AVX512" : target;
  std::string products;
  if (compute_dtype == DType::kBF16)
    products = fmt::format("{}, ", uses_amx() ? kByAmx : onednn_has(dnnl::cpu_isa::avx512_core_amx) ? "bf16 by oneDNN's AMX" : kByDots);
  return fmt::format("{}sums by {}, version {}", products, width, kArithmeticVersion);
}

std::string how_to_round_as(const std::string& wanted, const std::string& now) {
  if (!wanted.starts_with(kByDots) || !now.starts_with(kByAmx) || wanted.substr(kByDots.size()) != now.substr(kByAmx.size())) return "";
  return ", and this one does with DNNL_MAX_CPU_ISA=AVX512_CORE_BF16 in the environment";
}

std::string cpu_features() { return fmt::format("oneDNN {}, Highway {}", isa_name(dnnl::get_effective_cpu_isa()), vector_rows::target_name()); }

}  // namespace flexgen
