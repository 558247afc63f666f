#pragma once
// Tekken: Mistral's tekken.json (a byte-level BPE as tiktoken has it: tokens in Base64, in the order of their ranks), as a tokenizer.json. Pure functions.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace flexgen {

struct Tekken {
  nlohmann::json tokenizer;           ///< model, pre_tokenizer, decoder as in a tokenizer.json
  std::vector<std::string> specials;  ///< in the order of their ids, from 0 on
};

/// Throws Error{user} that names `source` and the field for what is broken or not supported.
Tekken read_tekken(const nlohmann::json& json, const std::string& source);

}  // namespace flexgen
