#include "engine/expert_statistics.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "io/checked_json.h"
#include "io/directory_lock.h"
#include "io/new_file.h"
#include "io/whole_file.h"

namespace flexgen {
namespace {

constexpr const char* kFlag = "--expert-statistics ";
constexpr int64_t kLargestFile = 64 << 20;
/// Floats hold such counts, and sums of as many as a model has experts do not overflow.
constexpr int64_t kMostCounted = int64_t{1} << 52;
constexpr double kLongestWait_s = 20;

int64_t count_from(const nlohmann::json& json, const std::string& path) {
  const int64_t count = json.is_number_integer() ? json.get<int64_t>() : -1;
  if (count < 0 || count > kMostCounted) fail_user("{}{}: a count is no whole number from 0 to 2^52; delete the file, runs make it anew", kFlag, path);
  return count;
}

ExpertCounts counts_from(const std::string& text, const std::string& path, const ModelConfig& config) {
  const nlohmann::json json = parse_checked_json(text, 3, kFlag + path, "the file of counts", "delete it, runs make it anew");
  if (!json.is_object() || json.value("format", nlohmann::json()) != 1 || !json.contains("blocks") || !json["blocks"].is_array())
    fail_user("{}{}: these are no counts of experts in format 1; give another file", kFlag, path);
  ExpertCounts counts;
  bool fits = std::ssize(json["blocks"]) == config.num_layers;
  for (const nlohmann::json& block : json["blocks"]) {
    const auto index = std::ssize(counts);
    std::vector<int64_t>& own = counts.emplace_back();
    if (!block.is_array()) fail_user("{}{}: a block must be a list of counts; delete the file, runs make it anew", kFlag, path);
    fits = fits && (block.empty() || (config.is_sparse(index) && std::ssize(block) == config.mixture.num_experts));
    if (!fits) break;
    for (const nlohmann::json& count : block) own.push_back(count_from(count, path));
  }
  if (!fits)
    fail_user("{}{}: the counts are of another model (this one has {} blocks and {} experts); give each model a file of its own", kFlag, path,
              config.num_layers, config.mixture.num_experts);
  return counts;
}

}  // namespace

void learn_expert_chances(const EngineOptions& options, Model& model, bool draws) {
  const ModelConfig& config = model.config();
  if (options.expert_statistics_file.empty() && !options.expert_skew) return;
  if (!config.is_mixture())
    fail_user("{}: this model ({}) is no mixture of experts; leave it out", options.expert_skew ? "--expert-skew" : "--expert-statistics", config.model_type);
  if (options.expert_skew) {
    const auto chances = ExpertChances::zipf(config, *options.expert_skew);
    model.set_expert_chances(chances);
    if (draws) model.draw_experts_by(chances);
  }
  if (options.expert_statistics_file.empty()) return;
  if (const ExpertCounts counts = read_expert_counts(options.expert_statistics_file, config); !counts.empty())
    model.set_expert_chances(ExpertChances::of_counts(config, counts));
}

ExpertCounts no_counts(const Model& model) {
  ExpertCounts counts(static_cast<size_t>(model.config().num_layers));
  for (size_t layer = 0; layer < model.layers().size(); ++layer)
    if (model.chooses_experts(static_cast<int64_t>(layer)))
      counts[static_cast<size_t>(model.layers()[layer].index)].resize(static_cast<size_t>(model.config().mixture.num_experts));
  return counts;
}

ExpertCounts read_expert_counts(const std::string& path, const ModelConfig& config) {
  const std::string text = read_file_if_there(path, kLargestFile);
  if (text.empty() && !file_is_there(path)) return {};
  return counts_from(text, path, config);
}

void add_expert_counts(const std::string& path, const ModelConfig& config, const ExpertCounts& counts) {
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  std::error_code ignored;  // what is wrong shows when the file is written
  if (!directory.empty()) std::filesystem::create_directories(directory, ignored);
  const DirectoryLock lock(directory.empty() ? "." : directory.string(), kLongestWait_s, [&](bool gives_up) {
    if (gives_up) spdlog::warn("another process has had {} locked for {:.0f} s: adding counts of experts beside it", directory.string(), kLongestWait_s);
  });
  ExpertCounts all = read_expert_counts(path, config);
  all.resize(counts.size());
  nlohmann::ordered_json json{{"format", 1},
                              {"model_type", config.model_type},
                              {"experts", config.mixture.num_experts},
                              {"experts_per_token", config.mixture.experts_per_row},
                              {"blocks", nlohmann::ordered_json::array()}};
  for (size_t block = 0; block < all.size(); ++block) {
    all[block].resize(std::max(all[block].size(), counts[block].size()));
    for (size_t expert = 0; expert < counts[block].size(); ++expert) all[block][expert] = std::min(kMostCounted, all[block][expert] + counts[block][expert]);
    json["blocks"].push_back(all[block]);
  }
  replace_whole_file(path, json.dump() + "\n");
}

}  // namespace flexgen
