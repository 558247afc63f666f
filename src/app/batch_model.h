#pragma once
// BatchModel of an engine: what a job's answers depend on besides its lines. One thread.

#include "app/options.h"
#include "app/run_batch.h"

namespace flexgen {

/// The job's option that says where attention runs beside a GPU, "cpu" or "gpu".
inline constexpr const char* kAttentionOn = "attention on";

/// What a line may ask for.
ModelLimits batch_limits(const RunBatchOptions& options, const ModelConfig& config, const Tokenizer* tokenizer);

/// Reads samples of the weights. `chosen`: that the engine was made with.
BatchModel batch_model_of(const RunBatchOptions& options, const EngineOptions& chosen, const Engine& engine);

}  // namespace flexgen
