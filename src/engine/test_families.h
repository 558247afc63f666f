#pragma once
// For tests that go through all families.

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace flexgen {

/// Families by the configs of their golden fixtures, which show all of their rules; here with room for longer texts, and random weights.
// clang-format off
inline const char* const kFamilies[] = {"gemma",    "gemma2", "gemma3",     "gemma4",     "gemma4_unified", "phi3",     "olmo2",  "olmo3",    "granite",  "smollm3",       "glm4",
                                 "starcoder2", "stablelm-parallel", "cohere2", "gpt_neox", "gpt_neox-sequential", "seed_oss", "exaone4", "ernie4_5", "hunyuan_dense",
                                 "nemotron", "arcee", "helium", "gptj", "bloom", "falcon-groups", "mpt", "ministral3", "gpt2-scales",
                                 "qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "glm4_moe-groups", "minimax_m2", "dots1", "ernie4_5_moe", "gpt_oss",
                                 "granitemoe", "granitemoeshared", "phimoe", "hunyuan_moe", "gemma4-experts", "olmo", "olmoe-clip"};
// clang-format on
inline std::string config_of_family(const std::string& name) {
  std::ifstream in(std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/" + name + "/config.json");
  nlohmann::json whole = nlohmann::json::parse(in);
  nlohmann::json& config = whole.contains("text_config") ? whole["text_config"] : whole;
  config["vocab_size"] = 331;
  for (const char* positions : {"max_position_embeddings", "n_positions", "max_seq_len"})
    if (config.contains(positions)) config[positions] = 256;
  if (config.contains("original_max_position_embeddings")) config["original_max_position_embeddings"] = 200;
  if (name == "ministral3") config["rope_parameters"]["original_max_position_embeddings"] = 200;
  return whole.dump();
}

/// A name that gtest takes.
inline std::string family_of(const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace flexgen
