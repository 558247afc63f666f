#pragma once
// How long a job takes a pipeline: simulated (pipeline/simulate.h), as a whole or, where that takes too long, in two parts of it. Pure functions.

#include "pipeline/simulate.h"
#include "plan/cost_model.h"

namespace flexgen {

/// Of all visits of all stages; a million take some seconds to simulate.
inline constexpr double kMostSimulatedVisits = 200000;

/// A job of more visits than `most_visits`, or of which only a sample's lengths are known, is simulated twice: evenly spread sequences of it, of about so many visits but
/// two for each slot at least, and half of these. What the second half takes, in time and in all lanes, the rest is taken to take as well, by the number of steps.
/// Where two sequences for each slot are still far too many visits, it is the tokens that each generates that are cut. The lanes are the first rank's.
Prediction predict_pipeline(std::span<const SimulatedRank> ranks, const std::vector<LinkSpeed>& links, DType kv, const Workload& workload,
                            double most_visits = kMostSimulatedVisits);

}  // namespace flexgen
