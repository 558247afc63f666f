#pragma once
// What ends answers beside the tokens that a model's own files name. Pure functions; any thread.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "io/gguf.h"
#include "model/config.h"
#include "text/tokenizer.h"

namespace flexgen {

/// The tokenizer's end token (null: no tokenizer), where config.json and generation_config.json do not name it; fine-tunes name theirs there alone, and vLLM has answers end by it. A GGUF says it in one place.
inline std::optional<int32_t> end_of_tokenizer(const std::string& folder, const ModelConfig& config, const Tokenizer* tokenizer) {
  const std::optional<int32_t> end = tokenizer && !is_gguf(folder) ? tokenizer->eos() : std::nullopt;
  const bool is_new = end && *end < config.vocab_size && std::find(config.eos.begin(), config.eos.end(), *end) == config.eos.end();
  return is_new ? end : std::nullopt;
}

}  // namespace flexgen
