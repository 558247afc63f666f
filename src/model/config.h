#pragma once
// ModelConfig: config.json as the rest of flexgen needs it. Pure data; parsing refuses what it does not
// know, by name.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/kernels.h"
#include "model/quantization.h"

namespace flexgen {

class ExpertChances;

/// RMSNorm (Zhang and Sennrich 2019) and LayerNorm (Ba et al. 2016).
enum class NormKind { kRms, kLayer };

/// What of q and k is normalized: each head by itself, or all of a token's heads together.
enum class QkNorm { kNone, kHead, kWhole };

/// A table of angles, which one or more of a model's blocks turn queries and keys by.
struct Rope {
  std::vector<float> inverse_frequencies;  ///< [R/2], scaling applied: the first R elements of a head are turned
  float scale = 1;                         ///< of cosine and sine
};

/// How many heads a block attends with, and how large they are.
struct HeadSizes {
  int64_t heads = 0, kv_heads = 0, head_size = 0;  ///< A, G, H
  int64_t q_width() const { return heads * head_size; }
  int64_t kv_width() const { return kv_heads * head_size; }
  bool operator==(const HeadSizes&) const = default;
};

/// What the attention of one block may have of its own.
struct BlockAttention {
  int64_t window = 0;                   ///< tokens that a token sees, itself included; 0: all
  int rope = -1;                        ///< index into ModelConfig::ropes; -1: nothing is turned
  float scale = 0;                      ///< of scores; 0: the model's
  std::vector<float> sinks;             ///< [num_heads], AttentionRule::sinks; read from the checkpoint. Empty: none
  int64_t kv_heads = 0, head_size = 0;  ///< 0: the model's
  bool keys_are_values = false;         ///< what is projected as keys is the values too, before norms and angles: no matrix makes these
};

/// A mixture of experts: in place of one feed-forward part a sparse block has many, of which each row uses a few, chosen by a router.
struct Mixture : RouterRule {
  int64_t expert_size = 0;             ///< F of each
  int64_t shared_size = 0;             ///< F of a part that all rows use beside their experts; 0: none
  bool shared_gate = false;            ///< what that gives is multiplied by the sigmoid of a product of its own
  bool choice_bias = false;            ///< a bias is added to the scores, for the choice alone
  bool logit_bias = false;             ///< a bias is added to the logits
  std::optional<ClampedGate> clamped;  ///< how experts gate; none: as other feed-forward parts
  bool in_pairs = false;               ///< an expert has one matrix whose rows are of gate and up in turn; with `clamped` alone
  /// Experts stand beside a feed-forward part of the block's own (Gemma 4): what they make is kept apart from the stream, and a layer after them (LayerKind::kJoin)
  /// normalizes and adds both.
  bool joined = false;
  float logit_factor = 1;                                ///< of the router's logits
  std::vector<std::vector<float>> expert_scales;         ///< [num_layers][E], of the weights of choices; read from the checkpoint. Empty: 1 each
  std::vector<bool> sparse;                              ///< [num_layers]: which blocks have experts
  std::shared_ptr<const ExpertChances> drawn = nullptr;  ///< experts are not chosen but drawn (Model::draw_experts_by())
};

struct ModelConfig {
  std::string model_type;  ///< as in config.json: "opt", "llama", "gemma2", ...
  // Sizes that every family has; heads are what blocks have that have none of their own (heads_of()). Products of any two fit 2^48.
  int64_t num_layers = 0, hidden_size = 0, num_heads = 0, num_kv_heads = 0, head_size = 0, ffn_size = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;  ///< tokens that a sequence may have
  bool tied_embeddings = false;
  DType dtype = DType::kBF16;  ///< what config.json says of the weights (the files decide)
  Quantization quantization;
  // Norms
  NormKind norm = NormKind::kRms;
  bool norm_bias = false;
  bool norm_weights = true;  ///< false: what attention, feed-forward and head read is normalized without any (OLMo 1)
  float norm_epsilon = 1e-5f;
  float norm_offset = 0;  ///< 1 where the checkpoint has a norm's weights less one
  QkNorm qk_norm = QkNorm::kNone;
  bool value_norm = false;       ///< the heads of v are normalized, without weights
  bool norm_after_rope = false;  ///< q and k are normalized after they are turned
  bool branch_norms = false;     ///< what attention and feed-forward add is normalized before it is added
  // Attention
  bool qkv_bias = false, output_bias = false;
  bool fused_qkv = false;           ///< q, k and v come from one matrix (Role::kQkv)
  std::optional<float> qkv_limit;   ///< q and k, normalized, and v are held within [-limit, limit] before q and k are turned
  float attention_scale = 0;        ///< of scores; 0: 1 / sqrt(a block's head_size)
  float attention_cap = 0;          ///< AttentionRule::soft_cap
  std::vector<float> alibi_slopes;  ///< [num_heads]; empty: none
  bool rope_interleaved = false;
  std::vector<Rope> ropes;
  std::vector<BlockAttention> attention;  ///< [num_layers]
  // Feed-forward
  Activation activation = Activation::kSilu;
  bool gated_ffn = false;  ///< down(act(gate x) * up x) instead of down(act(up x))
  bool mlp_bias = false;
  Mixture mixture;
  // The residual stream
  bool parallel = false;                      ///< attention and feed-forward read the same stream
  bool separate_norms = false;                ///< Falcon: which of two names the norms have
  float embed_scale = 1, residual_scale = 1;  ///< of what the embedding gives; of what attention and feed-forward add
  std::vector<float> block_scales;            ///< [num_layers], of what a block leaves in the stream; read from the checkpoint. Empty: 1 each
  bool logit_bias = false;                    ///< the output matrix has one, where the file says so and not the family
  float logit_scale = 1, logit_cap = 0;       ///< logits x become scale * x, with a cap cap * tanh(scale * x / cap)
  // OPT
  int64_t embed_size = 0;  ///< word_embed_proj_dim; = hidden_size in all others, and in OPT but for opt-350m
  bool post_norm = false;  ///< do_layer_norm_before = false
  bool final_norm = true;
  // Not the checkpoint's but the user's:
  bool rotate_keys = false;       ///< keys are kept rotated by a Hadamard matrix, and queries too
  double attention_sparsity = 1;  ///< the share of positions whose values a generated token uses
  // generation_config.json / config.json
  std::optional<int32_t> bos;
  std::vector<int32_t> eos;  ///< any of these ends a sequence

  /// With what the block attends.
  HeadSizes heads_of(int64_t block) const;
  /// The most elements that q, and each of k and v, has in any block: a row's room in buffers that all blocks use.
  int64_t widest_q() const;
  int64_t widest_kv() const;
  bool is_mixture() const { return mixture.num_experts > 0; }
  bool is_sparse(int64_t block) const { return is_mixture() && mixture.sparse[static_cast<size_t>(block)]; }
  /// The widest feed-forward part that all rows go through.
  int64_t widest_ffn() const;
  /// What a micro-batch keeps of a row from layer to layer, in floats: the stream, in a mixture what its experts read (expert_rows()), and what they make where
  /// that is kept apart (expert_sums()).
  int64_t kept_row_floats() const;
  NormRule norm_rule() const { return {norm_epsilon, norm_offset}; }
  /// What attention and feed-forward add is made apart from the stream, as something is done to it first.
  bool adds_apart() const { return branch_norms || residual_scale != 1; }
};

/// Reads config.json (and generation_config.json if there; what is wrong with that one is warned of). Throws Error{user} naming the file and the
/// field: unknown model_type, unsupported or contradictory fields, numbers that are missing, NaN or absurd.
/// `ignored_fields`: fields of config.json that flexgen does not know and the user takes for harmless.
ModelConfig load_config(const std::string& directory, const std::vector<std::string>& ignored_fields = {});
/// The same from JSON texts; `generation_json` may be empty.
ModelConfig parse_config(const std::string& config_json, const std::string& generation_json, const std::string& source_name,
                         const std::vector<std::string>& ignored_fields = {});
/// The config.json text of a known shape: opt-125m ... opt-175b, llama-2-7b/13b/70b, llama-3.1-8b/70b/405b,
/// llama-3.2-1b/3b, mistral-7b (v0.3), qwen2.5-0.5b ... 72b, qwen3-0.6b ... 32b, smollm2-135m, gemma-2-2b/9b, gemma-3-4b/12b/27b, phi-4,
/// mixtral-8x7b/8x22b, qwen3-30b-a3b/235b-a22b, gpt-oss-20b/120b, glm-4.5-air, minimax-m2, gemma-4-12b/26b-a4b. Null if the name is unknown.
std::optional<std::string> shape_config_json(const std::string& shape);
std::vector<std::string> known_shapes();

}  // namespace flexgen
