#pragma once
// The experts of a mixture (Shazeer et al. 2017; Mixtral: Jiang et al. 2024). Called from a compute lane, on memory that the processor reads: a GPU would have to send
// its choices down.
//
// A row's sum is made in the order of its experts' numbers, whatever layer they are in and whoever its neighbours are.

#include <span>

#include "model/architecture.h"

namespace flexgen {

/// The experts of one row, by its router's logits [E] (which are changed) and bias [E] or none: their numbers to experts [k], their weights to weights [k]. Of equal
/// scores the first counts as the larger.
void choose_experts_of_row(const Mixture& mixture, std::span<float> logits, std::span<const float> bias, int32_t* experts, float* weights);

/// What a sparse block does after attention: normalizes its rows for the experts, chooses those, and adds what all rows share.
void choose_experts(const LayerContext& c, const BlockScratch& s);

/// Adds what the layer's experts make of the rows that chose them.
void add_experts(const LayerContext& c, const ExpertScratch& s);

}  // namespace flexgen
