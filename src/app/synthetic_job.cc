#include "app/synthetic_job.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include <fmt/ranges.h>

#include "base/error.h"

namespace flexgen {
namespace {

std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

std::string config_text(const std::string& model) {
  namespace fs = std::filesystem;
  if (fs::is_directory(model)) return read_text(fs::path(model) / "config.json");
  if (model.ends_with(".json") && fs::is_regular_file(model)) return read_text(model);
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
