#include "engine/run_types.h"

#include <algorithm>
#include <utility>

#include "backend/backends.h"
#include "backend/symmetric_quant.h"
#include "base/error.h"

namespace flexgen {
namespace {

/// The precision class of the checkpoint: what the first matrix of its blocks has, as embeddings and heads of a GGUF may be kept wider than all others. Of codes,
/// what lies beside them in 16 bits, where something does.
DType stored_dtype(const Model& model) {
  const auto is_plain = [](DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; };
  DType stored = model.weights().front().dtype;
  for (const WeightUse& use : model.layers()[static_cast<size_t>(model.layer_of_cache(0))].uses)
    if (const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)]; !weight.always_resident) {
      stored = weight.dtype;
      break;
    }
  if (is_plain(stored)) return stored;
  for (const WeightSpec& weight : model.weights())
    if (weight.dtype == DType::kF16 || weight.dtype == DType::kBF16) return weight.dtype;
  return stored;
}

}  // namespace

DType compute_dtype_of(const EngineOptions& options, const Model& model, const Device* device) {
  if (find_backend(options.backend).in_fp32_alone) return DType::kF32;
  if (options.compute_dtype == "bf16") return DType::kBF16;
  if (options.compute_dtype == "f32") return DType::kF32;
  // The checkpoint's precision class: 16 bits in, fp32 accumulated; fp32 stays fp32.
  const DType stored = stored_dtype(model);
  if (device) return device->best_compute_dtype(stored);
  return stored != DType::kF32 && cpu_has_bf16() ? DType::kBF16 : DType::kF32;
}

DType kv_dtype_of(const std::string& name, DType compute_dtype) {
  if (name == "auto") return compute_dtype;
  for (DType dtype : {DType::kBF16, DType::kInt8, DType::kInt4})
    if (name == dtype_name(dtype)) return dtype;
  fail_user("--kv-cache-dtype {}: auto, bf16, int8 or int4", name);
}

std::optional<DType> weight_dtype_of(const EngineOptions& options) {
  if (options.weight_dtype == "auto") return std::nullopt;
  const std::pair<const char*, DType> known[] = {{"bf16", DType::kBF16}, {"fp16", DType::kF16}, {"int8", DType::kInt8}, {"int4", DType::kInt4}};
  for (auto [name, dtype] : known)
    if (options.weight_dtype == name) return dtype;
  fail_user("--weight-dtype {}: auto, bf16, fp16, int8 or int4", options.weight_dtype);
}

std::optional<DType> dtype_to_make(const EngineOptions& options, const Model& model) {
  const std::optional<DType> dtype = weight_dtype_of(options);
  const auto has_it = [&](const WeightSpec& weight) { return weight.always_resident || weight.dtype == *dtype; };
  return dtype && std::all_of(model.weights().begin(), model.weights().end(), has_it) ? std::nullopt : dtype;
}

void check_matmul_dtype(const EngineOptions& options, const Model& model) {
  if (options.matmul_dtype != "int8") return;
  const std::optional<DType> made = weight_dtype_of(options);
  const auto in_integers = [&](const WeightSpec& weight) {
    return !weight.always_resident && integer_group(weight.dtype, weight.codes ? &weight.codes->format : nullptr) > 0;
  };
  if (made ? integer_group(*made, nullptr) == 0 : std::none_of(model.weights().begin(), model.weights().end(), in_integers))
    fail_user(
        "--matmul-dtype int8: int4 and int8 weights are multiplied in integers, and those that are shipped as MXFP4, Q4_0, Q8_0 or IQ4_NL; of these there are none here; add --weight-dtype int4 or int8");
}

Precision precision_of(const EngineOptions& options, const Model& model) { return precision_of(options, model, compute_dtype_of(options, model)); }

Precision precision_of(const EngineOptions& options, const Model& model, DType compute) {
  Precision precision = Precision::of(model, options.matmul_dtype == "int8" ? DType::kInt8 : compute, kv_dtype_of(options.kv_cache_dtype, compute));
  if (const auto weights = weight_dtype_of(options)) {
    precision.weights = *weights;
    precision.experts.reset();
  }
  return precision;
}

GroupRange weight_range_of(const EngineOptions& options) {
  const std::string& name = options.weight_quantization;
  const std::optional<DType> weights = weight_dtype_of(options);
  if (name == "auto") return weights == DType::kInt4 ? GroupRange::kMse : GroupRange::kMinMax;
  if (name != "minmax" && name != "mse") fail_user("--weight-quantization {}: auto, minmax or mse", name);
  if (!weights || !is_quantized(*weights)) fail_user("--weight-quantization {}: the weights are not quantized; add --weight-dtype int4 or int8", name);
  return name == "mse" ? GroupRange::kMse : GroupRange::kMinMax;
}

}  // namespace flexgen
