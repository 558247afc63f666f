#pragma once
// The experts of a mixture (Shazeer et al. 2017; Mixtral: Jiang et al. 2024). Called from a compute lane. What rows choose is
// known to the processor, also beside a GPU, which sends it down and gets for each expert the rows that it packs.
//
// A row's sum is made in the order of its experts' numbers, whatever layer they are in and whoever its neighbours are.

#include "model/architecture.h"

namespace flexgen {

/// What a sparse block does after attention: normalizes its rows for the experts, chooses those, and adds what all rows share.
void choose_experts(const LayerContext& c, const BlockScratch& s);

/// Adds what the layer's experts make of the rows that chose them.
void add_experts(const LayerContext& c, const ExpertScratch& s);

/// What the layer after experts does that were summed apart: h = scale * (h + norm(norm(mlp(norm(h))) + norm(what experts made))).
void join_experts(const LayerContext& c, const BlockScratch& s);

}  // namespace flexgen
