#pragma once
// The plan of a pipeline: a block that all stages can do, a placement of each stage's own, and how long the job will take. The first rule's block comes first;
// blocks of as many slots in more or fewer micro-batches and groups are tried by each stage, simulated on the first (pipeline/simulate.h) at the stages' measured
// speeds and over the measured links, and the fastest is taken.

#include <vector>

#include "net/simulated_ports.h"
#include "plan/planner.h"

namespace flexgen {

/// What a stage knows of the job, the others and its own machine.
struct StagePlanInput {
  StageLink link;
  const Model& model;  ///< the stage's own layers
  const Model& whole;  ///< all, in the types in which the stages have them
  const Workload& workload;
  Budgets budgets;
  PolicyRequest request;  ///< what the user fixed wins
  Precision precision;
  const HardwareProfile& hardware;
  const std::vector<LinkSpeed>& links;  ///< a stage: to the next, and from the last to the first
  bool search = true;                   ///< else the first rule's block is taken, and only judged
};

/// All stages must call it, at the same time. Throws Error{user} on all of them if one cannot do any block that honours the request within its budgets. The
/// prediction and the candidates' times are on the first stage alone; lanes in it are the first stage's own.
Plan plan_stages(const StagePlanInput& input);

/// Blocks of as many slots and rows as `agreed`, which comes first, in 1 to 4 micro-batches a stage, and in groups as few or as many as there can be.
std::vector<BlockShape> block_candidates(const Model& model, const Workload& workload, DType kv, const PolicyRequest& request, const BlockShape& agreed,
                                         int64_t num_stages);

}  // namespace flexgen
