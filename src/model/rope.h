#pragma once
// RoPE (Su et al. 2021) as config.json describes it, in the fields of transformers 4 (rope_theta, rope_scaling) or 5
// (rope_parameters). Pure functions.

#include <string_view>

#include "model/config.h"
#include "model/config_fields.h"

namespace flexgen {

/// What a family takes where the file says nothing, and what its fields are called.
struct RopeFields {
  double theta = 10000;
  bool may_be_partial = false;  ///< a share of a head's elements may be turned alone
  double partial = 1;           ///< that share
  const char* theta_name = "rope_theta";
  const char* partial_name = "partial_rotary_factor";
  /// Names that other versions have for the two: what they say must be the same.
  const char *theta_too = nullptr, *partial_too = nullptr;
  std::string_view layer_type = {};  ///< rope_parameters has an object for each kind of layer: which one; else rope_scaling is of full_attention
  int64_t original = 0;              ///< original_max_position_embeddings; 0: as the scaling says, or max_position_embeddings
  bool has_alpha = false;            ///< "dynamic" scaling with a field alpha is a longer base for all sequences (Hunyuan)
  bool grows_queries = false;        ///< queries beyond the old context are multiplied (llama_4_scaling_beta): not done, so sequences end there
  bool has_mscales = false;          ///< the scale of "longrope" is short_mscale (Phi-3.5-MoE)
  const char* usual = nullptr;       ///< rope_parameters where the file has none, as JSON; null: nothing is scaled
  bool su_is_longrope = false;       ///< the types "su" and "yarn" of old files mean longrope (Phi-3)
  int64_t head_size = 0;             ///< of the layers that these angles are for; 0: the config's
  bool may_be_proportional =
      false;  ///< the type "proportional" (Gemma 4): of a whole head's pairs that share of the fastest is turned, at a whole head's angles
};

/// Inverse frequencies and scale, scaling applied: "default", "linear" (Chen et al. 2023), "llama3", "yarn" (Peng et al. 2023); "dynamic" and "longrope"
/// (Ding et al. 2024) have other angles for sequences longer than the model was trained on, which are left out: `config.max_positions` becomes
/// what the angles are good for, and a note is logged. Other kinds are refused by name. Takes head_size, where `names` has none, and max_positions from `config`.
Rope read_rope(ConfigFields& fields, ModelConfig& config, const RopeFields& names = {});

}  // namespace flexgen
