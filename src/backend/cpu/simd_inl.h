// Loads and stores of any element type as vectors of float, for every target Highway compiles for.
// Included once a target by the .cc files that use foreach_target.h, so no #pragma once.

#if defined(FLEXGEN_BACKEND_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLEXGEN_BACKEND_CPU_SIMD_INL_H_
#undef FLEXGEN_BACKEND_CPU_SIMD_INL_H_
#else
#define FLEXGEN_BACKEND_CPU_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace flexgen::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Lanes(d) floats from p (no alignment needed).
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const hwy::bfloat16_t* p) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::bfloat16_t, D>(), p));
}
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const hwy::float16_t* p) {
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::float16_t, D>(), p));
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> v, float* p) {
  hn::StoreU(v, d, p);
}
template <class D>
HWY_INLINE void store([[maybe_unused]] D d, hn::Vec<D> v, hwy::float16_t* p) {
  const hn::Rebind<hwy::float16_t, D> narrow;
  hn::StoreU(hn::DemoteTo(narrow, v), narrow, p);
}
/// The bits of v as bf16: to nearest even, NaN kept, as bf16_from_float does (Highway's own conversion truncates).
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, D>> bf16_bits([[maybe_unused]] D d, hn::Vec<D> v) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, v);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(upper, hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd));
  const auto quiet = hn::Or(upper, hn::Set(du, 0x40u));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(v));
  return hn::TruncateTo(hn::Rebind<uint16_t, D>(), hn::IfThenElse(is_nan, quiet, rounded));
}
template <class D>
HWY_INLINE void store(D d, hn::Vec<D> v, hwy::bfloat16_t* p) {
  hn::StoreU(bf16_bits(d, v), hn::Rebind<uint16_t, D>(), reinterpret_cast<uint16_t*>(p));
}

/// The first n < Lanes(d) elements, the rest zero; never touches memory past them.
template <class D, typename T>
HWY_INLINE hn::Vec<D> load_first(D d, const T* p, size_t n) {
  alignas(64) T part[16] = {};
  static_assert(hn::MaxLanes(D()) <= 16);
  std::memcpy(part, p, n * sizeof(T));
  return load(d, static_cast<const T*>(part));
}
template <class D, typename T>
HWY_INLINE void store_first(D d, hn::Vec<D> v, T* p, size_t n) {
  alignas(64) T part[16];
  store(d, v, part);
  std::memcpy(p, part, n * sizeof(T));
}

/// n lanes at p, n <= Lanes(d).
template <class D, typename T>
HWY_INLINE hn::Vec<D> load(D d, const T* p, size_t n) {
  return n == hn::Lanes(d) ? load(d, p) : load_first(d, p, n);
}
template <class D, typename T>
HWY_INLINE void store(D d, hn::Vec<D> v, T* p, size_t n) {
  if (n == hn::Lanes(d)) {
    store(d, v, p);
  } else {
    store_first(d, v, p, n);
  }
}

/// Calls use(p) with p of the element type `dtype` names.
template <class Use>
HWY_INLINE void with_type(DType dtype, const void* p, const Use& use) {
  switch (dtype) {
    case DType::kF32: return use(static_cast<const float*>(p));
    case DType::kF16: return use(static_cast<const hwy::float16_t*>(p));
    case DType::kBF16: return use(static_cast<const hwy::bfloat16_t*>(p));
    default: break;  // no elements: vector_rows::convert() takes whole rows
  }
  HWY_ABORT("a quantized row where elements are wanted");
}
template <class Use>
HWY_INLINE void with_type(DType dtype, void* p, const Use& use) {
  switch (dtype) {
    case DType::kF32: return use(static_cast<float*>(p));
    case DType::kF16: return use(static_cast<hwy::float16_t*>(p));
    case DType::kBF16: return use(static_cast<hwy::bfloat16_t*>(p));
    default: break;
  }
  HWY_ABORT("a quantized row where elements are wanted");
}

}  // namespace flexgen::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
