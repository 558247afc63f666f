#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/report.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/json_output.h"
#include "model/model.h"
#include "setup/model_folder.h"

namespace flexgen {

int inspect_command(const InspectOptions& options) {
  std::unique_ptr<Model> model = Model::load(find_model(options.model, options.model_flags.revision), options.model_flags.ignored_config_fields);
  const ModelConfig& config = model->config();
  std::map<std::string, int64_t> parts;
  std::map<int, std::string> part_of;
  std::map<int, double> share_of;  ///< of a token's, by which experts count as those that it uses
  for (const LayerSpec& layer : model->layers())
    for (const WeightUse& use : layer.uses) {
      const WeightSpec& weight = model->weights()[static_cast<size_t>(use.weight)];
      const char* part = weight.always_resident              ? "norms, biases, positions"
                         : layer.kind == LayerKind::kBlock   ? "blocks"
                         : layer.kind == LayerKind::kJoin    ? "blocks"
                         : layer.kind == LayerKind::kExperts ? "experts"
                         : layer.kind == LayerKind::kEmbed   ? "embeddings"
                                                             : "head";
      part_of.try_emplace(use.weight, part);
      share_of.try_emplace(use.weight, layer.row_share);
    }
  int64_t parameters = 0, bytes = 0;
  std::map<DType, int64_t> of_type;
  double used = 0;
  for (const auto& [index, part] : part_of) {
    const WeightSpec& weight = model->weights()[static_cast<size_t>(index)];
    parts[part] += weight.stored_bytes();
    parameters += weight.rows * weight.cols;
    used += share_of[index] * static_cast<double>(weight.rows * weight.cols);
    bytes += weight.stored_bytes();
    of_type[weight.dtype] += weight.stored_bytes();
  }
  std::vector<std::pair<int64_t, std::string>> types;  ///< those with the most bytes first
  for (const auto& [type, size] : of_type) types.emplace_back(size, dtype_name(type));
  std::stable_sort(types.begin(), types.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::map<std::pair<int64_t, int64_t>, int64_t> other_heads;  ///< heads for keys and values and their size, where not the model's: in how many layers
  for (int64_t block = 0; block < config.num_layers; ++block)
    if (const HeadSizes heads = config.heads_of(block); heads != HeadSizes{config.num_heads, config.num_kv_heads, config.head_size})
      ++other_heads[{heads.kv_heads, heads.head_size}];
  int64_t kv_bytes = 0;
  std::map<int64_t, int64_t> windowed;  ///< a window: bytes of a token in its layers
  for (const LayerSpec& layer : model->layers()) {
    if (layer.state < 0) continue;
    const StateSpec& state = model->states()[static_cast<size_t>(layer.state)];
    kv_bytes += state.page_bytes(DType::kBF16, 1);
    if (state.window > 0) windowed[state.window] += state.page_bytes(DType::kBF16, 1);
  }
  const std::string& dtype = types.front().second;
  if (options.json) {
    nlohmann::ordered_json json{{"model_type", config.model_type}, {"dtype", dtype},
                                {"layers", config.num_layers},     {"hidden_size", config.hidden_size},
                                {"heads", config.num_heads},       {"kv_heads", config.num_kv_heads},
                                {"head_size", config.head_size},   {"ffn_size", config.ffn_size},
                                {"vocab_size", config.vocab_size}, {"max_positions", config.max_positions},
                                {"parameters", parameters},        {"bytes", bytes},
                                {"kv_bytes_per_token", kv_bytes},  {"parts", parts}};
    for (const auto& [size, name] : types) json["dtypes"][name] = size;
    for (const auto& [window, size] : windowed) json["kv_bytes_per_token_of_windows"][std::to_string(window)] = size;
    for (const auto& [heads, layers] : other_heads)
      json["layers_with_other_heads"].push_back({{"layers", layers}, {"kv_heads", heads.first}, {"head_size", heads.second}});
    if (config.is_mixture()) {
      json["experts"] = config.mixture.num_experts;
      json["experts_per_token"] = config.mixture.experts_per_row;
      json["parameters_per_token"] = std::llround(used);
    }
    put_json(json.dump(1), options.json_file);
    return kExitDone;
  }
  print_result("{}: {} layers, hidden {}, {} heads of {} ({} for keys and values), ffn {}, vocabulary {}, {} positions{}\n", config.model_type,
               config.num_layers, config.hidden_size, config.num_heads, config.head_size, config.num_kv_heads, config.ffn_size, format_count(config.vocab_size),
               format_count(config.max_positions), config.tied_embeddings ? ", tied embeddings" : "");
  for (const auto& [heads, layers] : other_heads)
    print_result("  in {} of the layers: heads of {} ({} for keys and values)\n", layers, heads.second, heads.first);
  std::vector<std::string> shown;
  for (const auto& [size, name] : types) shown.push_back(types.size() == 1 ? name : fmt::format("{} ({})", name, format_bytes(size)));
  print_result("  {} parameters in {}, {}\n", format_count(parameters), fmt::join(shown, ", "), format_bytes(bytes));
  if (config.is_mixture())
    print_result("  {} experts a block, {} of them for a token, for which {} parameters are used\n", config.mixture.num_experts, config.mixture.experts_per_row,
                 format_count(std::llround(used)));
  for (const auto& [part, size] : parts) print_result("  {:>10}  {}\n", format_bytes(size), part);
  print_result("  {:>10}  KV cache a token in 16 bits\n", format_bytes(kv_bytes));
  for (const auto& [window, size] : windowed)
    print_result("  {:>10}  of these in layers that keep the last {} tokens of a sequence\n", format_bytes(size), format_count(window));
  return kExitDone;
}

}  // namespace flexgen
