#pragma once
// Experts that lie in one tensor for all of a block, under the names of one for each. Pure functions.

#include <vector>

#include "io/checkpoint.h"
#include "model/config.h"

namespace flexgen {

/// Of a tensor [2 F, ...] the two [F, ...] that lie one after the other in it; FLEXGEN_CHECK: the first size is even.
std::vector<TensorLocation> halves_of(const TensorLocation& tensor);

/// Gives what transformers 5 keeps in memory, and writes with save_original_format=False, the names of files: mlp.experts.gate_up_proj [E, 2 F, D], gate before
/// up, and mlp.experts.down_proj [E, D, F] become matrices of single experts, and routers have the family's own names. Files of other names stay as they are.
/// Throws Error{user} naming `directory` and the tensor where sizes are not those of `config`.
void name_stacked_experts(Checkpoint& checkpoint, const ModelConfig& config, const std::string& directory);

}  // namespace flexgen
