#pragma once
// Experts that lie in one tensor for all of a block, under the names of one for each. Pure functions.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "model/config.h"

namespace flexgen {

/// The matrices of single experts in a tensor of all: [E, F, ...] of one matrix, or [E, 2 F, ...] of two, one after the other; FLEXGEN_CHECK: they are of one size. `name` gives each its own.
std::vector<NamedTensor> matrices_of_stack(const TensorLocation& stack, const std::vector<const char*>& matrices,
                                           const std::function<std::string(int64_t expert, const char* matrix)>& name);

/// Gives what transformers 5 keeps in memory, and writes with save_original_format=False, the names of files: mlp.experts.gate_up_proj [E, 2 F, D], gate before
/// up, and mlp.experts.down_proj [E, D, F] become matrices of single experts, and routers have the family's own names. Files of other names stay as they are.
/// Throws Error{user} naming `directory` and the tensor where sizes are not those of `config`.
void name_stacked_experts(Checkpoint& checkpoint, const ModelConfig& config, const std::string& directory);

}  // namespace flexgen
