#pragma once
// Architecture: one family of transformers, as a list of weights and the forward of its three kinds of layers: embed,
// block, head. Stateless; any thread.
//
// A family is a file in families/ and a line in the table of architecture.cc; docs/add_a_model.md walks through one. Most are a Decoder
// (parts/decoder.h), which leaves them their config fields and the names of their tensors.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/config_fields.h"
#include "model/layer.h"
#include "model/scratch.h"
#include "model/state_spec.h"
#include "model/weight_list.h"

namespace flexgen {

/// What a layer's forward works with.
struct LayerContext {
  const ModelConfig& config;
  const LayerSpec& layer;
  std::span<const WeightView> w;  ///< in the order of the layer's list
  const VisitInput& in;
  const KvGeometry& kv;
  float* hidden;  ///< [T, D]
  Kernels& kernels;

  /// With what the block attends.
  HeadSizes heads() const { return config.heads_of(layer.index); }
  bool has(Role role) const;
  /// The weight of this role; empty where the layer has none, as a bias may.
  const WeightView& operator[](Role role) const;
};

/// What the fields are called that every family has, by a second name too; no positions: any number. Of the model_type `usual_of` those that the file leaves out.
struct SizeFields {
  const char *layers = "num_hidden_layers", *hidden = "hidden_size", *heads = "num_attention_heads", *positions = "max_position_embeddings";
  const char *hidden_too = nullptr, *heads_too = nullptr;
  std::string_view usual_of = {};
  int64_t usual_heads = 0, usual_vocab = 0, usual_positions = 0;
};

/// What a mixture's sparse block leaves to its experts behind the stream [T, D] of a micro-batch: the rows that they read, [T, D] act, normalized, where an act may be as wide as 4 bytes.
inline std::byte* expert_rows(float* stream, const ModelConfig& config, int64_t num_rows) {
  return reinterpret_cast<std::byte*>(stream + num_rows * config.hidden_size);
}
/// The rows that experts add to, [T, D] f32: the stream, or where they are joined later (Mixture::joined) rows behind those that they read.
inline float* expert_sums(float* stream, const ModelConfig& config, int64_t num_rows) {
  return config.mixture.joined ? stream + 2 * num_rows * config.hidden_size : stream;
}

/// What a mixture's tensors are called, behind "layers.7." or "layers.7.PART.experts.3."; a bias and a shared part where the config has them.
struct MixtureNames {
  const char *router = "mlp.gate", *bias = "mlp.gate.e_score_correction_bias", *shared = "mlp.shared_experts", *part = "mlp";
  const char *gate = "gate_proj", *up = "up_proj", *down = "down_proj";
};
/// Mixtral's.
inline constexpr MixtureNames kMixtralNames{"block_sparse_moe.gate", "block_sparse_moe.e_score_correction_bias", nullptr, "block_sparse_moe", "w1", "w3", "w2"};

class Architecture {
 public:
  virtual ~Architecture() = default;

  /// Values of config.json's model_type that this class does.
  virtual std::span<const std::string_view> model_types() const = 0;
  /// What tensor names may start with; the first is how we name them ourselves.
  virtual std::span<const std::string_view> prefixes() const = 0;
  virtual SizeFields size_fields() const { return {}; }
  /// Checkpoints bring along the code from before transformers had the family's own, which computes the same.
  virtual bool brings_own_code() const { return false; }
  /// The output matrix of a model that is not tied; looked for with and without the prefix.
  virtual std::string_view output_name() const { return "lm_head.weight"; }
  /// Fills the rest of `config`, whose sizes that all families share are there.
  virtual void read_config(ConfigFields& fields, ModelConfig& config) const = 0;

  virtual std::vector<WantedWeight> embed(const ModelConfig& config) const = 0;
  virtual std::vector<WantedWeight> block(const ModelConfig& config, int64_t index) const = 0;
  /// What a block keeps of every sequence; most: keys and values of its heads, within its window.
  virtual StateSpec state(const ModelConfig& config, int64_t index) const;
  virtual MixtureNames mixture_names() const { return {}; }
  /// Of a mixture: one expert of a sparse block, whose other weights are block()'s: gate, up and down, by their roles.
  virtual std::vector<WantedWeight> expert(const ModelConfig& config, int64_t index, int64_t expert) const;
  /// Where experts are joined later (Mixture::joined): what the layer after a sparse block's experts reads.
  virtual std::vector<WantedWeight> join(const ModelConfig&, int64_t) const { return {}; }
  /// All that the head needs besides the output matrix; a bias of that has its role.
  virtual std::vector<WantedWeight> head(const ModelConfig& config) const = 0;

  virtual void forward_embed(const LayerContext& c, const EmbedScratch& s) const = 0;
  /// A block in three stages, as the middle one may run beside the device that does the others: q, k and v of the rows into s.q, s.k, s.v; the
  /// attention (append_and_attend()), which puts its result into s.act; the rest of the block from there.
  virtual void before_attention(const LayerContext& c, const BlockScratch& s) const = 0;
  virtual void after_attention(const LayerContext& c, const BlockScratch& s) const = 0;
  /// s.x holds `num_rows` rows [D] f32 that want logits (they may be changed). Returns the input of the output matrix:
  /// act [num_rows, embed_size], in s.
  virtual const std::byte* forward_head(const LayerContext& c, const HeadScratch& s, int64_t num_rows) const = 0;
};

/// The family of a model_type; null if there is none.
const Architecture* find_architecture(std::string_view model_type);
/// The same for a config that was parsed.
const Architecture& architecture_of(const ModelConfig& config);
/// "llama, mistral, opt, ...", for messages.
std::string known_model_types();

/// The middle stage of every family's blocks: s.k and s.v go into the cache, s.q attends, the result is in s.act.
void append_and_attend(const LayerContext& c, const BlockScratch& s);
/// How a block attends, with the sparsity that was asked for. Refers to `config`.
AttentionRule attention_rule(const ModelConfig& config, int64_t block);

}  // namespace flexgen
