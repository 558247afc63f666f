#pragma once
// Jobs that come from flags instead of files: a model by directory, config.json or name of a shape, and lengths drawn at random. One thread.

#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "model/config.h"

namespace flexgen {

/// config.json of a directory, of a file, or of a shape known by name. Throws Error{user} naming the shapes for anything else.
std::string config_text(const std::string& model);

/// (prompt, tokens to generate) of each sequence, uniform in the ranges. Throws Error{user} if the longest are more than the model takes.
std::vector<std::pair<int64_t, int64_t>> synthetic_lengths(const std::pair<int64_t, int64_t>& prompt, const std::pair<int64_t, int64_t>& gen, int64_t count,
                                                           const ModelConfig& config, std::mt19937_64& random);

}  // namespace flexgen
