#pragma once
// The types of a run: what its options' names mean for a model. Pure functions; Error{user} for unknown names.

#include <optional>
#include <string>

#include "backend/device.h"
#include "engine/engine_options.h"
#include "model/model.h"
#include "plan/hardware_profile.h"

namespace flexgen {

/// The arithmetic of a run, and the type of its cache, as the options' names and the model's weights give them: the whole model's, as its files have it.
DType compute_dtype_of(const EngineOptions& options, const Model& model, const Device* device = nullptr);
DType kv_dtype_of(const std::string& name, DType compute_dtype);
/// The type that the matrices are to have; nothing if they are to be used as they are.
std::optional<DType> weight_dtype_of(const EngineOptions& options);
/// The same, where the files have matrices of another type, so that these must be made first.
std::optional<DType> dtype_to_make(const EngineOptions& options, const Model& model);
/// Throws Error{user} where products were to be in integers and the model, whole and as its files have it, would have no weight for that.
void check_matmul_dtype(const EngineOptions& options, const Model& model);
/// The arithmetic and the types of a run. The first: of a whole model, as its files have it. The second: whether its weights are prepared already or not, and of a pipeline stage too.
Precision precision_of(const EngineOptions& options, const Model& model);
Precision precision_of(const EngineOptions& options, const Model& model, DType compute);
/// How the ranges of int4 and int8 weights are chosen. Error{user} too for a way that is given where no weights are quantized.
GroupRange weight_range_of(const EngineOptions& options);

}  // namespace flexgen
