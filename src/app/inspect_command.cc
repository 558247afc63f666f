#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "app/commands.h"
#include "app/run_batch.h"
#include "base/units.h"
#include "model/model.h"

namespace flexgen {
namespace {

/// Bytes and parameters of a part of a model. A weight that two parts use is counted in the first.
struct Part {
  int64_t bytes = 0, parameters = 0;
};

std::map<std::string, Part> parts_of(const Model& model) {
  std::map<std::string, Part> parts{{"embeddings", {}}, {"blocks", {}}, {"head", {}}, {"norms and biases", {}}};
  std::set<int> seen;
  for (const LayerSpec& layer : model.layers())
    for (const WeightUse& use : layer.uses) {
      if (!seen.insert(use.weight).second) continue;
      const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
      const char* name = layer.kind == LayerKind::kEmbed ? "embeddings" : layer.kind == LayerKind::kHead ? "head" : "blocks";
      Part& part = parts[weight.rows == 1 ? "norms and biases" : name];
      part.bytes += weight.bytes();
      part.parameters += weight.rows * weight.cols;
    }
  return parts;
}

}  // namespace

std::string inspect_report(const InspectOptions& options) {
  std::unique_ptr<Model> model = Model::load(options.model);
  const ModelConfig& config = model->config();
  std::map<std::string, Part> parts = parts_of(*model);
  Part total;
  for (const auto& [name, part] : parts) {
    total.bytes += part.bytes;
    total.parameters += part.parameters;
  }
  std::set<std::string> dtypes;
  for (const WeightSpec& weight : model->weights()) dtypes.insert(std::string(dtype_name(weight.dtype)));
  int64_t blocks = 0;
  for (const LayerSpec& layer : model->layers()) blocks += layer.kind == LayerKind::kBlock;
  auto kv_bytes = [&](DType dtype) { return blocks * model->kv_geometry(dtype, 1).page_bytes(); };

  if (options.json) {
    nlohmann::ordered_json json;
    json["model"] = model_name_of(options.model);
    json["model_type"] = config.model_type;
    json["dtypes"] = dtypes;
    json["parameters"] = total.parameters;
    json["weight_bytes"] = total.bytes;
    for (const auto& [name, part] : parts) json["parts"][name] = {{"bytes", part.bytes}, {"parameters", part.parameters}};
    json["num_layers"] = config.num_layers;
    json["hidden_size"] = config.hidden_size;
    json["ffn_size"] = config.ffn_size;
    json["num_heads"] = config.num_heads;
    json["num_kv_heads"] = config.num_kv_heads;
    json["head_size"] = config.head_size;
    json["vocab_size"] = config.vocab_size;
    json["max_positions"] = config.max_positions;
    json["sliding_window"] = config.sliding_window;
    json["tied_embeddings"] = config.tied_embeddings;
    json["kv_bytes_per_token"] = {{"bf16", kv_bytes(DType::kBF16)}, {"f32", kv_bytes(DType::kF32)}};
    json["files"] = model->files();
    return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  }

  auto row = [](std::string_view name, const std::string& text) { return fmt::format("{:<20}{}\n", name, text); };
  std::string text = row("model", fmt::format("{} ({})", model_name_of(options.model), config.model_type));
  text += row("parameters", format_count(total.parameters));
  text += row("weights", fmt::format("{} in {} ({} file{})", format_bytes(total.bytes), fmt::join(dtypes, ", "), model->files().size(),
                                     model->files().size() == 1 ? "" : "s"));
  for (const char* name : {"embeddings", "blocks", "norms and biases", "head"}) {
    std::string note = std::string_view(name) == "blocks" ? fmt::format("{} of {}", blocks, format_bytes(parts[name].bytes / std::max<int64_t>(1, blocks)))
                       : std::string_view(name) == "head" && config.tied_embeddings ? "tied to the embeddings" : "";
    std::string line = fmt::format("  {:<18}{:<12}{}", name, format_bytes(parts[name].bytes), note);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  text += row("shape", fmt::format("{} layers, hidden {}, ffn {}, {} heads of {} ({} for keys and values)", config.num_layers, config.hidden_size,
                                   config.ffn_size, config.num_heads, config.head_size, config.num_kv_heads));
  text += row("vocabulary", format_count(config.vocab_size));
  text += row("positions", format_count(config.max_positions) + (config.sliding_window > 0 ? fmt::format(", window {}", config.sliding_window) : ""));
  text += row("KV cache per token", fmt::format("{} in bf16, {} in f32", format_bytes(kv_bytes(DType::kBF16)), format_bytes(kv_bytes(DType::kF32))));
  return text;
}

int inspect_command(const InspectOptions& options) {
  std::fputs(inspect_report(options).c_str(), stdout);
  return kExitDone;
}

}  // namespace flexgen
