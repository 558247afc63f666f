#pragma once
// BatchModel of an engine: what a job's answers depend on besides its lines. One thread.

#include "batch/run_batch.h"
#include "batch/run_batch_options.h"
#include "engine/engine.h"

namespace flexgen {

/// What a line may ask for. `chat_template`: a file; empty: the one of the model's folder. Throws Error{user} for a template that cannot be read.
ModelLimits limits_of(const std::string& folder, const std::string& chat_template, const ModelConfig& config, const Tokenizer* tokenizer);

/// Reads samples of the weights. `chosen`: that the engine was made with.
BatchModel batch_model_of(const RunBatchOptions& options, const EngineOptions& chosen, const Engine& engine);

}  // namespace flexgen
