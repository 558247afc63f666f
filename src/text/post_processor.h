#pragma once
// The post-processor of a tokenizer.json: tokens that are put around a text. Immutable; any thread.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace flexgen {

/// The tokens that stand before and behind every text.
struct PostProcessor {
  std::vector<int32_t> before, behind;
};

/// json may be null: nothing is put around. `source` is for messages. Throws Error{user} for what is not supported, and for more
/// than kMaxTemplateTokens tokens.
PostProcessor read_post_processor(const nlohmann::json& json, const std::string& source);
inline constexpr size_t kMaxTemplateTokens = 4096;

}  // namespace flexgen
