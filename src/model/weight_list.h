#pragma once
// The tensors that a layer needs, by name, shape and what each is for. Pure data; any thread.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace flexgen {

struct ModelConfig;

/// What a weight is for: by this the parts of a model (model/parts/) find it among a layer's. A bias comes right after its weight.
enum class Role : uint8_t {
  // clang-format off
  kOther,  ///< the family knows it by its place in the list
  kTokens,
  kPositions,  ///< rows that are added to the embedding, by position
  kEmbedNorm, kEmbedNormBias,
  kNorm1, kNorm1Bias,  ///< what attention reads
  kQ, kQBias, kK, kKBias, kV, kVBias,
  kQkv, kQkvBias,      ///< one matrix, whose rows are q, k and v head after head
  kQNorm, kQNormBias, kKNorm, kKNormBias,
  kO, kOBias,
  kSinks,              ///< AttentionRule::sinks, which attention takes from BlockAttention
  kPostNorm1, kPostNorm1Bias,  ///< what attention adds
  kNorm2, kNorm2Bias,          ///< what the feed-forward part reads
  kRouterNorm, kRouterNormBias,  ///< what the router reads, where that is not what experts read
  kRouter, kRouterBias,        ///< scores experts; the bias is of the choice, or of the logits
  kExpertScales,               ///< [E], Mixture::expert_scales
  kSharedGate, kSharedGateBias,
  kGate, kGateBias, kUp, kUpBias, kDown, kDownBias,
  kInnerScales,                ///< [F], which act(Wup x) is divided by
  kGateUp, kGateUpBias,        ///< one matrix, whose rows are of gate and up in turn
  kDensePostNorm, kDensePostNormBias, kExpertsPostNorm, kExpertsPostNormBias,  ///< what a feed-forward part makes beside experts, and what these make
  kPostNorm2, kPostNorm2Bias,  ///< what the feed-forward part adds
  kBlockScale,                 ///< [1], ModelConfig::block_scales
  kFinalNorm, kFinalNormBias,
  kOutput, kOutputBias,
  // clang-format on
};
constexpr Role bias_of(Role weight) { return static_cast<Role>(static_cast<uint8_t>(weight) + 1); }

/// A tensor, or some of its rows; the name is without the checkpoint's prefix.
struct WantedWeight {
  enum class Kind {
    kMatrix,       ///< of a linear layer; streamed
    kSmallMatrix,  ///< of a linear layer too small to be worth streaming; always resident
    kVector,       ///< norms and biases; always resident
    kSmallTable,   ///< rows are picked; always resident (positions)
    kTable,        ///< rows are looked up where they lie (the embedding)
  };
  Kind kind;
  std::string name;
  int64_t rows = 1, cols = 0;  ///< a vector is [1, cols]
  Role role = Role::kOther;
  /// Of a tensor that holds several weights in turn: where this one begins, in rows (of a vector: elements), and what all have together. 0: it is all.
  int64_t part_first = 0, part_of = 0;
  /// The checkpoint has the matrix transposed, as [in features, out features]; rows, cols and parts are those of [out, in] all the same.
  bool turned = false;
  /// Of a tensor that holds a matrix (or a vector) for each expert, [slices, ...]: which one this is, or is a part of. 0 slices: it holds one alone.
  int64_t slice = 0, slices = 0;
  /// The checkpoint has codes and scales in its place, NAME_blocks [..., rows, cols / 32, 16] and NAME_scales [..., rows, cols / 32]: MXFP4 as gpt-oss is shipped.
  bool mxfp4 = false;
  /// A layer of a checkpoint that does not hold it goes without.
  bool optional = false;

  static WantedWeight matrix(std::string name, int64_t rows, int64_t cols, Role role = Role::kOther) {
    return {Kind::kMatrix, std::move(name), rows, cols, role};
  }
  static WantedWeight small_matrix(std::string name, int64_t rows, int64_t cols, Role role = Role::kOther) {
    return {Kind::kSmallMatrix, std::move(name), rows, cols, role};
  }
  static WantedWeight vector(std::string name, int64_t size, Role role = Role::kOther) { return {Kind::kVector, std::move(name), 1, size, role}; }
  static WantedWeight small_table(std::string name, int64_t rows, int64_t cols, Role role = Role::kOther) {
    return {Kind::kSmallTable, std::move(name), rows, cols, role};
  }
  static WantedWeight table(std::string name, int64_t rows, int64_t cols) { return {Kind::kTable, std::move(name), rows, cols, Role::kTokens}; }

  bool always_resident() const { return kind != Kind::kMatrix && kind != Kind::kTable; }
  bool lookup() const { return kind == Kind::kTable; }
  bool multiplied() const { return kind == Kind::kMatrix || kind == Kind::kSmallMatrix; }
  /// Of the whole tensor, as the checkpoint has it.
  std::vector<int64_t> shape() const;
};

/// Lists a layer's weights whose names start alike.
class WeightList {
 public:
  WeightList(const ModelConfig& config, std::string start) : config_(config), start_(std::move(start)) {}

  /// NAME.weight [size], and NAME.bias where the model's norms have one. size 0: hidden_size.
  WeightList& norm(Role role, const std::string& name, int64_t size = 0);
  /// NAME.weight [rows, cols], and NAME.bias [rows] if asked for.
  WeightList& linear(Role role, const std::string& name, int64_t rows, int64_t cols, bool bias);
  /// Of NAME.weight [of_rows, cols] the rows [first, first + rows), and of NAME.bias.
  WeightList& part(Role role, const std::string& name, int64_t first, int64_t rows, int64_t of_rows, int64_t cols, bool bias);

  /// The same where the checkpoint has the matrix transposed (transformers' Conv1D): of NAME.weight [cols, of_rows], and of NAME.bias.
  WeightList& turned_part(Role role, const std::string& name, int64_t first, int64_t rows, int64_t of_rows, int64_t cols);

  /// All so far are those of this expert, in tensors that hold all experts'.
  WeightList& of_expert(int64_t expert);

  /// A weight under the name that it has.
  WeightList& add(WantedWeight weight);

  /// The names that most families use: self_attn.{q,k,v,o}_proj; with the config's biases, and norms of q and k. All blocks have the model's heads.
  WeightList& attention(const std::string& q_norm = "q_norm", const std::string& k_norm = "k_norm");
  /// The same of a block that may have heads of its own, and no v_proj.
  WeightList& attention_of(int64_t block, const std::string& q_norm = "q_norm", const std::string& k_norm = "k_norm");
  /// mlp.{gate,up,down}_proj with the config's biases; without a gate where the model has none.
  WeightList& feed_forward();
  /// The same with gate and up in one tensor, mlp.gate_up_proj.
  WeightList& fused_feed_forward();

  /// Where weights are AWQ's: what AutoAWQ divides the activation by, a tensor of that name, if it is there.
  WeightList& inner_scales(const std::string& name);

  /// A mixture's router NAME.weight [E, D], and what biases its choice: a tensor of that name.
  WeightList& router(const std::string& name, const std::string& bias_name = "");
  /// A feed-forward part with a gate under other names: of one expert, or of the part that all rows share.
  WeightList& gated(const std::string& gate, const std::string& up, const std::string& down, int64_t size);

  operator std::vector<WantedWeight>() { return std::move(weights_); }

 private:
  const ModelConfig& config_;
  std::string start_;
  std::vector<WantedWeight> weights_;
};

/// "layers.7."
std::string layer_start(int64_t index);
/// "layers.7.PART.experts.3."
std::string expert_start(int64_t index, const std::string& part, int64_t expert);

}  // namespace flexgen
