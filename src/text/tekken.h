#pragma once
// Tekken: Mistral's tekken.json (a byte-level BPE as tiktoken has it: tokens in Base64, in the order of their ranks), as a tokenizer.json; and how
// its texts are split, where a file of another kind has that wrong. Pure functions.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace flexgen {

/// What a text is split by before its merges.
inline constexpr const char* kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Tekken {
  nlohmann::json tokenizer;           ///< model, pre_tokenizer, decoder as in a tokenizer.json
  std::vector<std::string> specials;  ///< in the order of their ids, from 0 on
};

/// Throws Error{user} that names `source` and the field for what is broken or not supported.
Tekken read_tekken(const nlohmann::json& json, const std::string& source);

/// Whether transformers 5 does what fix_mistral_regex asks for: it mends the split of files that older versions wrote for models of Mistral, as
/// config.json says it. Throws Error{user} that names `source`, the config.json, for a version that is none.
bool split_was_written_wrong(const nlohmann::json& model_config, const std::string& source);
/// A pre_tokenizer mended so: Tekken's split in the place of its first step, or before the only one.
nlohmann::json with_tekken_split(nlohmann::json pre_tokenizer, const std::string& source);

}  // namespace flexgen
