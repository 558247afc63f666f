#pragma once
// Fields of config.json that many families have in common, with what a family takes where the file does not say. Pure functions; errors as ConfigFields'.

#include <functional>

#include "model/config.h"
#include "model/config_fields.h"

namespace flexgen {

/// head_size is hidden_size over the heads, which must divide it; what the two fields are called, for the message.
void split_heads(ConfigFields& fields, ModelConfig& config, const std::string& hidden_field, const std::string& heads_field);

/// head_dim (0: hidden_size over the heads) and num_key_value_heads (0: as many as heads). Where the file has num_key_value_heads: null, as many as heads.
void read_heads(ConfigFields& fields, ModelConfig& config, int64_t head_size = 0, int64_t kv_heads = 0);

/// activation_function, hidden_act, ... as a value; refuses by name what there is no kernel for.
Activation read_activation(ConfigFields& fields, const std::string& field, const std::string& fallback);

/// intermediate_size of a feed-forward part without a gate, and its activation.
void read_ungated(ConfigFields& fields, ModelConfig& config, const std::string& activation_field, const std::string& activation);

/// The same of one with a gate.
void read_gated(ConfigFields& fields, ModelConfig& config, const std::string& activation_field = "hidden_act", const std::string& activation = "silu");

/// What the fields of a mixture are called, by a second name too, and what they are where the file does not say; 0: it must.
struct ExpertFields {
  const char *count, *count_too = nullptr;
  int64_t usual_count = 0;
  const char* per_row = "num_experts_per_tok";
  int64_t usual_per_row = 0;
  const char* size;
  int64_t usual_size = 0;
};
/// How many experts there are, how many a row uses and how wide they are; all blocks are sparse. After what reads intermediate_size.
void read_experts(ConfigFields& fields, ModelConfig& config, const ExpertFields& names);

/// RouterRule::num_groups and groups_per_row; 1 where the file does not say. After read_experts().
void read_expert_groups(ConfigFields& fields, ModelConfig& config, const char* count, const char* per_row);

/// RMSNorm with rms_norm_eps.
void read_rms_norm(ConfigFields& fields, ModelConfig& config, double epsilon);

/// LayerNorm with or without a bias; `field` holds its epsilon (1e-5).
void read_layer_norm(ConfigFields& fields, ModelConfig& config, bool bias, const std::string& field);

/// ALiBi's slopes [num_heads] as Press et al. 2022 and transformers' BLOOM and MPT choose them; the least is 2^-most.
std::vector<float> alibi_slopes(int64_t num_heads, double most = 8);

/// clip_qkv (absent or null: none).
void read_qkv_limit(ConfigFields& fields, ModelConfig& config);

/// Sequences have no more than so many positions, and the log says why: `what` ("'NAME' has other rules") counts beyond.
void hold_to_positions(const ConfigFields& fields, ModelConfig& config, const std::string& what, int64_t positions);

/// A cap of logits or scores (absent: `usual`; null: 0, which is none).
float read_cap(ConfigFields& fields, const char* name, double usual);

/// sliding_window (absent: `usual`; null: 0, which is none).
int64_t read_window(ConfigFields& fields, int64_t usual);

/// Every so many-th layer has no window: sliding_window_pattern, or _sliding_window_pattern.
int64_t read_window_pattern(ConfigFields& fields, int64_t usual);

/// All blocks have this window, and the first rope.
void set_all_blocks(ModelConfig& config, int64_t window = 0);

/// The blocks that are `windowed` have this window and one rope, the others no window and the other rope.
void set_blocks(ModelConfig& config, const std::vector<bool>& windowed, int64_t window, int rope_with_window, int rope_without);

/// Which blocks have a window: layer_types, or where that is missing `usual(block)`. Refuses other kinds of layers, and windows where `window` is 0.
std::vector<bool> read_layer_types(ConfigFields& fields, const ModelConfig& config, int64_t window, const std::function<bool(int64_t)>& usual);

}  // namespace flexgen
