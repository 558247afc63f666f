#pragma once
// ServeLoad: what a server plans for, as it does not know what will come. Pure functions.

#include "model/config.h"
#include "plan/workload.h"
#include "serve/serve_options.h"

namespace flexgen {

/// Logprobs of a token that a call may ask for: of the best, or by id.
inline constexpr int64_t kMostLogprobs = 20;

/// As many sequences as may be in flight, of the lengths that are expected, and room for one of the longest. Whatever a call may ask for has its memory: logits that are drawn from, prompts that are
/// scored, logprobs. Throws Error{user} for lengths that the model does not take.
Workload load_to_plan_for(const ServeOptions& options, const ModelConfig& config, int64_t page_tokens);

}  // namespace flexgen
