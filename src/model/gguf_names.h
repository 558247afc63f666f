#pragma once
// The tensors of a GGUF under the names that its family's checkpoints have. Pure functions.

#include "io/checkpoint.h"
#include "model/config.h"

namespace flexgen {

/// Gives each tensor the family's name, and the experts of a block, which a GGUF has as one stack, each its own. Those of blocks that the config does not have (of layers that
/// predict further tokens), and angles of RoPE, are left out; what flexgen does not know keeps its name. Throws Error{user} for a broken file.
void name_tensors_as_family(Checkpoint& checkpoint, const ModelConfig& config);

}  // namespace flexgen
