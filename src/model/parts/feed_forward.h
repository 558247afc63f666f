#pragma once
// The feed-forward part of a block. Called from a compute lane.

#include "model/architecture.h"

namespace flexgen {

/// s.inner [rows, F] act = act(Wgate x) * Wup x, or without a gate act(Wup x), over the layer's kInnerScales where it has these; for a panel of rows
/// x [rows, D] act, at most kFfnPanelRows.
void compute_inner(const LayerContext& c, const BlockScratch& s, const std::byte* x, int64_t rows);

/// h += Wdown (act(Wgate x) * Wup x), or without a gate Wdown act(Wup x); x [T, D] act.
void add_feed_forward(const LayerContext& c, const BlockScratch& s, const std::byte* x);

}  // namespace flexgen
