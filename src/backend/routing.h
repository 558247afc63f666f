#pragma once
// Routing as a processor does it, for the backends whose memory it reads, and as the definition for those that do it themselves. Any thread.

#include <cstdint>
#include <span>

#include "backend/kernels.h"

namespace flexgen {

/// The experts of one row, by its router's logits [E] (which are changed) and bias [E] or none, to choices [k]: the best first. Of equal scores the first counts as the larger; NaN is
/// chosen last, and then like others: what is not finite is found in the logits of the answer.
void choose_experts_of_row(const RouterRule& rule, std::span<float> logits, std::span<const float> bias, ExpertChoice* choices);

/// Kernels::choose_experts(), row by row.
void choose_experts_by_row(const RouterRule& rule, float* logits, int64_t num_rows, const WeightView& bias, ExpertChoice* choices);

}  // namespace flexgen
