#pragma once
// What a GGUF says of a mixture of experts, as the fields that the family's config.json has. Pure functions.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "io/checkpoint.h"
#include "model/gguf_fields.h"

namespace flexgen {

/// Whether files of this family have experts.
bool is_gguf_mixture(std::string_view model_type);

/// Adds the fields of the mixture `model_type` to `config`, which has those that all families share. Throws Error{user} for fields that are missing, or that the family does not have.
void read_gguf_mixture(GgufFields& fields, const std::string& model_type, const Checkpoint& checkpoint, nlohmann::json& config);

}  // namespace flexgen
