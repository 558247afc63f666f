#pragma once
// RoPE (Su et al. 2021) as config.json describes it, in the fields of transformers 4 (rope_theta, rope_scaling) or 5
// (rope_parameters). Pure functions.

#include <vector>

#include "model/config_fields.h"

namespace flexgen {

/// Inverse frequencies [head_size / 2], scaling applied: "default", "linear" (Chen et al. 2023) and "llama3" are
/// supported; other kinds are refused by name.
std::vector<float> read_rope(ConfigFields& fields, int64_t head_size);

}  // namespace flexgen
