#pragma once
// A list of requests as a job: what the planner must know of it, with or without what its prompts have in common. Pure functions.

#include <vector>

#include "generation/request.h"
#include "plan/workload.h"

namespace flexgen {

/// Each request computed by itself.
Workload workload_of(const std::vector<Request>& requests);

/// Puts the requests in the order in which those that share stay together, and tells each of them what it shares. Pages of `page_tokens` tokens.
Workload share_prefixes(std::vector<Request>& requests, int64_t page_tokens);

}  // namespace flexgen
