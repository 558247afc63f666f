#pragma once
// What attention reads and adds. Called from a compute lane.

#include "model/architecture.h"

namespace flexgen {

/// q, k and v of the rows that s.act has, normalized, clamped and turned as the config and the block say, into s.q, s.k, s.v.
void project_attention_inputs(const LayerContext& c, const BlockScratch& s);

/// h += residual_scale * norm(W x + b) for the rows [first, first + num_rows) of the stream; x [num_rows, K] act; the weight of role `weight`, and the
/// norm of role `norm` where the layer has one.
void add_product(const LayerContext& c, const BlockScratch& s, const std::byte* x, int64_t first, int64_t num_rows, Role weight, Role norm);

/// The same of the attention's result in s.act, for all rows.
void add_attention(const LayerContext& c, const BlockScratch& s);

}  // namespace flexgen
