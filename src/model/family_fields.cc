#include "model/family_fields.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "base/log.h"
#include "io/checked_json.h"

namespace flexgen {

void split_heads(ConfigFields& fields, ModelConfig& m, const std::string& hidden_field, const std::string& heads_field) {
  if (m.hidden_size % m.num_heads != 0) fields.refuse(hidden_field, fmt::format("is {}, which is not a multiple of {}", m.hidden_size, heads_field));
  m.head_size = m.hidden_size / m.num_heads;
}

void read_heads(ConfigFields& fields, ModelConfig& m, int64_t head_size, int64_t kv_heads) {
  m.head_size = fields.integer_or("head_dim", fields.contains("head_dim") ? 0 : head_size, 1, 1 << 16);
  if (m.head_size == 0) split_heads(fields, m, "hidden_size", "num_attention_heads");
  if (m.num_heads * m.head_size > (1 << 20)) fields.refuse("head_dim", fmt::format("is {}, which is absurd with {} heads", m.head_size, m.num_heads));
  const int64_t usual = kv_heads == 0 || fields.contains("num_key_value_heads") ? m.num_heads : kv_heads;
  m.num_kv_heads = fields.integer_or("num_key_value_heads", usual, 1, m.num_heads);
  if (m.num_kv_heads > m.num_heads || m.num_heads % m.num_kv_heads != 0)
    fields.refuse("num_key_value_heads", fmt::format("is {}, which does not divide num_attention_heads", m.num_kv_heads));
}

Activation read_activation(ConfigFields& fields, const std::string& field, const std::string& fallback) {
  const std::string name = fields.text_or(field, fallback);
  if (name == "relu") return Activation::kRelu;
  if (name == "relu2") return Activation::kReluSquared;
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::kGeluTanh;
  fields.refuse(field, fmt::format("is '{}'; flexgen supports relu, relu2, silu, gelu and gelu_new", name));
}

void read_ungated(ConfigFields& fields, ModelConfig& m, const std::string& activation_field, const std::string& activation) {
  m.ffn_size = fields.integer("intermediate_size", 1, 1 << 24);
  m.activation = read_activation(fields, activation_field, activation);
}

void read_gated(ConfigFields& fields, ModelConfig& m, const std::string& activation_field, const std::string& activation) {
  read_ungated(fields, m, activation_field, activation);
  m.gated_ffn = true;
}

void read_experts(ConfigFields& fields, ModelConfig& m, const ExpertFields& names) {
  Mixture& mixture = m.mixture;
  auto size = [&](const char* name, int64_t usual, int64_t high) {
    return usual > 0 ? fields.integer_or(name, usual, 1, high) : fields.integer(name, 1, high);
  };
  const bool other_name = names.count_too != nullptr && !fields.find(names.count) && fields.find(names.count_too);
  mixture.num_experts = size(other_name ? names.count_too : names.count, names.usual_count, 1 << 14);
  constexpr int64_t kMostExperts = 1 << 20;
  if (m.num_layers * mixture.num_experts > kMostExperts)
    fields.refuse(other_name ? names.count_too : names.count, fmt::format("is {}, which makes {} experts in {} layers; flexgen takes up to {} in all",
                                                                          mixture.num_experts, m.num_layers * mixture.num_experts, m.num_layers, kMostExperts));
  mixture.experts_per_row = size(names.per_row, names.usual_per_row, 1 << 14);
  if (mixture.experts_per_row > mixture.num_experts)
    fields.refuse(names.per_row, fmt::format("is {}, but there are {} experts", mixture.experts_per_row, mixture.num_experts));
  mixture.expert_size = size(names.size, names.usual_size, 1 << 24);
  mixture.sparse.assign(static_cast<size_t>(m.num_layers), true);
}

void read_expert_groups(ConfigFields& fields, ModelConfig& m, const char* count, const char* per_row) {
  Mixture& mixture = m.mixture;
  mixture.num_groups = fields.integer_or(count, 1, 1, 64);
  mixture.groups_per_row = fields.integer_or(per_row, 1, 1, 64);
  if (mixture.num_experts % mixture.num_groups != 0 || (mixture.num_groups > 1 && mixture.num_experts < 2 * mixture.num_groups))
    fields.refuse(count, fmt::format("is {}, into which {} experts cannot be divided", mixture.num_groups, mixture.num_experts));
  if (mixture.groups_per_row > mixture.num_groups)
    fields.refuse(per_row, fmt::format("is {}, but there are {} groups", mixture.groups_per_row, mixture.num_groups));
  if (mixture.experts_per_row > mixture.groups_per_row * (mixture.num_experts / mixture.num_groups))
    fields.refuse(per_row, fmt::format("is {}: so many groups have fewer than the {} experts of a row", mixture.groups_per_row, mixture.experts_per_row));
}

void read_rms_norm(ConfigFields& fields, ModelConfig& m, double epsilon) {
  m.norm = NormKind::kRms;
  m.norm_epsilon = static_cast<float>(fields.positive_or("rms_norm_eps", epsilon, 1));
}

void read_layer_norm(ConfigFields& fields, ModelConfig& m, bool bias, const std::string& field) {
  m.norm = NormKind::kLayer;
  m.norm_bias = bias;
  m.norm_epsilon = static_cast<float>(fields.positive_or(field, 1e-5, 1));
}

std::vector<float> alibi_slopes(int64_t num_heads, double most) {
  std::vector<float> slopes;
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(num_heads)));
  auto add = [&](double bias, int64_t i) { slopes.push_back(static_cast<float>(std::exp2(-bias * static_cast<double>(i) / static_cast<double>(power)))); };
  for (int64_t i = 1; i <= power; ++i) add(most, i);
  // Those of twice as many heads, every other one.
  for (int64_t i = 1; std::ssize(slopes) < num_heads; i += 2) add(most / 2, i);
  return slopes;
}

void read_qkv_limit(ConfigFields& fields, ModelConfig& m) {
  if (fields.find("clip_qkv")) m.qkv_limit = static_cast<float>(fields.positive("clip_qkv", 1e30));
}

void hold_to_positions(const ConfigFields& fields, ModelConfig& config, const std::string& what, int64_t positions) {
  if (positions >= config.max_positions) return;
  spdlog::info("{}: {} for sequences of more than {} tokens, which flexgen does not do: they may have up to so many", fields.source(), what, positions);
  config.max_positions = positions;
}

float read_cap(ConfigFields& fields, const char* name, double usual) {
  if (!fields.find(name)) return fields.contains(name) ? 0 : static_cast<float>(usual);
  return static_cast<float>(fields.positive(name, 1e9));
}

int64_t read_window(ConfigFields& fields, int64_t usual) {
  return fields.integer_or("sliding_window", fields.contains("sliding_window") ? 0 : usual, 1, 1 << 30);
}

int64_t read_window_pattern(ConfigFields& fields, int64_t usual) {
  return fields.integer_or("sliding_window_pattern", fields.integer_or("_sliding_window_pattern", usual, 1, 1 << 20), 1, 1 << 20);
}

void set_all_blocks(ModelConfig& m, int64_t window) { m.attention.assign(static_cast<size_t>(m.num_layers), {window, 0}); }

void set_blocks(ModelConfig& m, const std::vector<bool>& windowed, int64_t window, int rope_with_window, int rope_without) {
  for (size_t i = 0; i < windowed.size(); ++i) m.attention[i] = {windowed[i] ? window : 0, windowed[i] ? rope_with_window : rope_without};
}

std::vector<bool> read_layer_types(ConfigFields& fields, const ModelConfig& m, int64_t window, const std::function<bool(int64_t)>& usual) {
  std::vector<bool> windowed;
  const nlohmann::json* types = fields.find("layer_types");
  if (types && (!types->is_array() || static_cast<int64_t>(types->size()) != m.num_layers))
    fields.refuse("layer_types", fmt::format("must be a list of {} kinds, one a layer", m.num_layers));
  for (int64_t i = 0; i < m.num_layers; ++i) {
    if (!types) {
      windowed.push_back(usual(i));
    } else {
      const nlohmann::json& type = (*types)[static_cast<size_t>(i)];
      if (type != "sliding_attention" && type != "full_attention")
        fields.refuse("layer_types", fmt::format("names {}; flexgen supports sliding_attention and full_attention here", printable(type.dump())));
      windowed.push_back(type == "sliding_attention");
    }
    if (windowed.back() && window == 0) fields.refuse(types ? "layer_types" : "sliding_window", "says that layers have a window, and no field says how wide");
  }
  return windowed;
}

}  // namespace flexgen
