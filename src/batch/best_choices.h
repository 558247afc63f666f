#pragma once
// BestChoices: which of a request's sequences are its choices. Pure functions.

#include <span>
#include <vector>

#include "batch/batch_line.h"
#include "generation/request.h"

namespace flexgen {

/// Of the tokens of an answer.
float mean_logprob(const Completion& completion);

/// The sequences that are choices, best first by their mean logprobs; empty: all are, as they are numbered.
std::vector<int64_t> best_choices(const BatchRequest& request, std::span<const float> means);

}  // namespace flexgen
