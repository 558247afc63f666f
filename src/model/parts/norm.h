#pragma once
// Norms as a model's config has them. Called from a compute lane.

#include "model/architecture.h"

namespace flexgen {

/// x [num_rows, D] f32, normalized by the weight of this role, to `out` act; where the layer has no such weight, x as it is,
/// or normalized without one in a model whose norms have none (ModelConfig::norm_weights).
void normalize(const LayerContext& c, Role role, const float* x, int64_t num_rows, std::byte* out);
/// In place on x [num_rows, D] f32; nothing where the layer has no such weight.
void normalize_in_place(const LayerContext& c, Role role, float* x, int64_t num_rows);
/// What the block leaves in the stream, times the block's scale where it has one.
void scale_block(const LayerContext& c);

}  // namespace flexgen
