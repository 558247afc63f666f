#pragma once
// The blocks of each stage, as all stages agree on them: each tells what it brings. Host thread of the stage.

#include <string>
#include <vector>

#include "net/port.h"
#include "pipeline/stage_split.h"
#include "tensor/dtype.h"

namespace flexgen {

/// What a stage tells the others.
struct SplitInput {
  StageResources mine;
  DType compute_dtype;      ///< must be the same on all
  std::string planner;      ///< must be the same on all; "search": speeds were measured, and stages of one machine share its disk's
  std::string stage_split;  ///< "10:22"; empty: by what the stages bring
  double rows = 0;          ///< as split_blocks() takes them
};

/// How all stages have agreed to split the model.
struct SplitAgreement {
  std::vector<int64_t> blocks;  ///< a stage
  double disk_sharers = 1;      ///< stages on this machine
};

/// All stages must call it, at the same time; `model`: whole. Throws Error{user} on all of them.
SplitAgreement agree_on_split(Port& port, const Model& model, const SplitInput& input);

}  // namespace flexgen
