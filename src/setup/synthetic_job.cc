#include "setup/synthetic_job.h"

#include <algorithm>
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

DType shape_dtype(const std::string& name) { return name == "f32" ? DType::kF32 : name == "f16" ? DType::kF16 : DType::kBF16; }

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

PrefixLevels::PrefixLevels(const std::vector<int64_t>& tokens, const std::vector<int64_t>& groups, int64_t num_prompts) : num_prompts_(num_prompts) {
  FLEXGEN_CHECK(tokens.size() == groups.size(), "{} prefixes, {} groups", tokens.size(), groups.size());
  int64_t in_all = 1;
  for (size_t i = 0; i < tokens.size(); ++i) {
    in_all *= groups[i];
    levels_.push_back({tokens[i], in_all});
  }
  FLEXGEN_CHECK(in_all <= num_prompts, "{} groups of {} prompts", in_all, num_prompts);
}

int64_t PrefixLevels::tokens() const {
  int64_t sum = 0;
  for (const Level& level : levels_) sum += level.tokens;
  return sum;
}

int64_t PrefixLevels::common_tokens(int64_t a, int64_t b) const {
  int64_t common = 0;
  for (const Level& level : levels_) {
    if (group_of(level, a) != group_of(level, b)) break;
    common += level.tokens;
  }
  return common;
}

int64_t PrefixLevels::shared_tokens(int64_t prompt) const {
  return std::max(prompt > 0 ? common_tokens(prompt - 1, prompt) : 0, prompt + 1 < num_prompts_ ? common_tokens(prompt, prompt + 1) : 0);
}

std::vector<int64_t> PrefixLevels::shared_ends(int64_t prompt) const {
  std::vector<int64_t> ends;
  const int64_t shared = shared_tokens(prompt);
  int64_t end = 0;
  for (const Level& level : levels_)
    if ((end += level.tokens) <= shared) ends.push_back(end);
  return ends;
}

std::vector<int32_t> PrefixLevels::draw(int64_t prompt, uint64_t seed, int64_t vocab_size) const {
  std::vector<int32_t> drawn;
  uint64_t before = seed + 1;  // the groups of a level have seeds after those of the level before
  for (const Level& level : levels_) {
    std::mt19937_64 of_group(before + static_cast<uint64_t>(group_of(level, prompt)));
    for (int64_t i = 0; i < level.tokens; ++i) drawn.push_back(static_cast<int32_t>(of_group() % static_cast<uint64_t>(vocab_size)));
    before += static_cast<uint64_t>(level.groups);
  }
  return drawn;
}

}  // namespace flexgen
