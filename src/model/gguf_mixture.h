#pragma once
// What a GGUF says of a mixture of experts, as the fields that the family's config.json has. Pure functions.

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "io/checkpoint.h"
#include "model/gguf_fields.h"

namespace flexgen {

/// Adds the fields of a mixture to `config`, which has those that all families share; of a `model_type` that is none, the file must not have experts. Throws Error{user} for fields that are missing, or that the family does not have.
void read_gguf_mixture(GgufFields& fields, const std::string& model_type, const Checkpoint& checkpoint, nlohmann::json& config);

}  // namespace flexgen
