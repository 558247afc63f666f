#pragma once
// The file of --expert-statistics: how many rows chose each expert of a mixture, in all runs so far (docs/file_formats.md). Processes that end together add up.

#include <string>

#include "engine/engine_options.h"
#include "model/expert_chances.h"

namespace flexgen {

/// What the options say of a mixture's choices: the model learns of what was counted, or of the skew that is assumed, and with one draws its experts (`draws`). Throws Error{user} for a model that is no mixture, and for counts
/// of another.
void learn_expert_chances(const EngineOptions& options, Model& model, bool draws);

/// Zeros, for the sparse blocks that the model has: of a pipeline stage its own.
ExpertCounts no_counts(const Model& model);

/// Nothing was counted yet where the file is not there: then it is empty. Throws Error{user} for a file that is damaged or of another model, Error{io}.
ExpertCounts read_expert_counts(const std::string& path, const ModelConfig& config);
/// Adds to the file, or makes it; written whole or not at all. Throws as read_expert_counts().
void add_expert_counts(const std::string& path, const ModelConfig& config, const ExpertCounts& counts);

}  // namespace flexgen
