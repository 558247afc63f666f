#pragma once
// SlotWalk: what every micro-batch does in every step of a job, from the lengths alone: the batcher's slots, pages and refill without tokens. Sequences
// take the pages for all of their max_tokens and leave when they have generated what is expected. A long job is walked in part, and a large block with
// fewer slots that count for several each; of very long answers steps that are like those before them are counted and not walked. Pure functions.

#include <vector>

#include "backend/lane.h"
#include "model/model.h"
#include "plan/walked_pages.h"
#include "plan/workload.h"
#include "schedule/policy.h"

namespace flexgen {

/// One micro-batch in one step. No rows: it is idle.
struct BatchLoad {
  double rows = 0, logit_rows = 0;
  ComputeAmount block;                    ///< of one transformer layer
  std::vector<PageMoves> moves;           ///< of a layer with each of Model::states()
  double old_bytes = 0, dirty_bytes = 0;  ///< of such pages wherever they are, in all layers together
};

/// `count` steps in a row that are alike (within some percent: their mean).
struct StepLoad {
  double count = 1;
  std::vector<BatchLoad> batches;
  double rows_done = 0;  ///< by the end of these steps, since the start
  bool prompts = false;  ///< some rows were of prompts
};

struct SlotWalk {
  std::vector<StepLoad> steps;
  double rows = 0;    ///< that were walked
  bool whole = true;  ///< else the job goes on as in the middle third of the walk
};

/// Rows (tokens that enter the model) of a whole job under this policy, as it is expected to be.
double rows_of(const Workload& workload, const Policy& policy);

/// `effort`: slot-steps to walk, about; three blocks at least, if the job has them. Where these take many times the effort, steps are passed over in which each sequence generates as in those before.
SlotWalk walk_slots(const Model& model, const Policy& policy, DType kv_dtype, const Workload& workload, double effort = 60000);

}  // namespace flexgen
