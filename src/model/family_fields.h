#pragma once
// Fields of config.json that many families have in common, with what a family takes where the file does not say. Pure functions; errors as ConfigFields'.

#include <functional>

#include "model/config.h"
#include "model/config_fields.h"

namespace flexgen {

/// head_dim (0: hidden_size over the heads) and num_key_value_heads (0: as many as heads). Where the file has num_key_value_heads: null, as many as heads.
void read_heads(ConfigFields& fields, ModelConfig& config, int64_t head_size = 0, int64_t kv_heads = 0);

/// activation_function, hidden_act, ... as a value; refuses by name what there is no kernel for.
Activation read_activation(ConfigFields& fields, const std::string& field, const std::string& fallback);

/// intermediate_size of a feed-forward part with a gate, and its activation.
void read_gated(ConfigFields& fields, ModelConfig& config, const std::string& activation_field = "hidden_act", const std::string& activation = "silu");

/// RMSNorm with rms_norm_eps.
void read_rms_norm(ConfigFields& fields, ModelConfig& config, double epsilon);

/// LayerNorm with or without a bias; `field` holds its epsilon.
void read_layer_norm(ConfigFields& fields, ModelConfig& config, bool bias, const std::string& field, double epsilon);

/// ALiBi's slopes [num_heads] as Press et al. 2022 and transformers' BLOOM choose them.
std::vector<float> alibi_slopes(int64_t num_heads);

/// All blocks have these.
void set_all_blocks(ModelConfig& config, int64_t window, int rope);

/// Which blocks have a window: layer_types, or where that is missing `usual(block)`. Refuses other kinds of layers, and windows where `window` is 0.
std::vector<bool> read_layer_types(ConfigFields& fields, const ModelConfig& config, int64_t window, const std::function<bool(int64_t)>& usual);

}  // namespace flexgen
