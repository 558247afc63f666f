#pragma once
// Planner: the policy for a job on a machine. Blocks, buffers, rows and, beside a GPU, where attention runs are enumerated; for each a linear program
// places weights, KV cache and activations (FlexGen, section 4.3); what it says is rounded to what the stores can do, shrunk until it fits to the
// byte, and judged by the cost model. Pure functions, but for the clock that limits the search.

#include <string>
#include <vector>

#include "plan/cost_model.h"
#include "plan/first_rule.h"
#include "plan/memory_plan.h"

namespace flexgen {

/// A policy that was looked at.
struct Candidate {
  Policy policy;
  double time_s = 0;   ///< predicted
  bool judged = true;  ///< by the cost model; else by the linear program alone, as it was clearly slower
};

/// A policy, what is expected of it, and how it was found.
struct Plan {
  Policy policy;
  Prediction prediction;
  double program_time_s = 0;          ///< what the linear program said of this block, before rounding; 0 without one
  std::vector<Candidate> candidates;  ///< all that fit
  int64_t num_too_large = 0;          ///< blocks for which no placement fits
  bool complete = true;               ///< else the time for planning ran out first
  double planning_s = 0;              ///< processor time
};

/// What a policy is chosen for. All that is referred to must live as long.
struct PlanInput {
  const Model& model;
  const Workload& workload;
  Budgets budgets;
  PolicyRequest request;  ///< what the user fixed wins
  DType compute = DType::kF32, kv = DType::kBF16;
  const HardwareProfile& hardware;
  double time_limit_s = 4;
  bool thorough = false;  ///< judges slow candidates too, for pictures
};

/// Throws Error{user} if nothing that honours the request fits the budgets: it names what is short, and the smallest budget that would do.
Plan make_plan(const PlanInput& input);

/// What the first rule chooses, judged by the cost model.
Plan plan_by_first_rule(const PlanInput& input);

}  // namespace flexgen
