#include "setup/synthetic_job.h"

#include <filesystem>
#include <optional>

#include <fmt/ranges.h>

#include "base/error.h"
#include "io/whole_file.h"

namespace flexgen {
std::string config_text(const std::string& model) {
  namespace fs = std::filesystem;
  if (fs::is_directory(model)) return read_whole_file((fs::path(model) / "config.json").string());
  if (model.ends_with(".json") && fs::is_regular_file(model)) return read_whole_file(model);
  const std::optional<std::string> config = shape_config_json(model);
  if (!config) fail_user("--model {}: no directory, no config.json and no known shape ({})", model, fmt::join(known_shapes(), ", "));
  return *config;
}

std::vector<std::pair<int64_t, int64_t>> synthetic_lengths(const std::pair<int64_t, int64_t>& prompt, const std::pair<int64_t, int64_t>& gen, int64_t count,
                                                           const ModelConfig& config, std::mt19937_64& random) {
  if (prompt.second + gen.second > config.max_positions)
    fail_user("--prompt-len {} and --gen-len {}: together more than the {} tokens that the model takes", prompt.second, gen.second, config.max_positions);
  auto draw = [&](const std::pair<int64_t, int64_t>& range) {
    return range.first + static_cast<int64_t>(random() % static_cast<uint64_t>(range.second - range.first + 1));
  };
  std::vector<std::pair<int64_t, int64_t>> lengths;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t prompt_tokens = draw(prompt);
    lengths.emplace_back(prompt_tokens, draw(gen));
  }
  return lengths;
}

}  // namespace flexgen
