#include "model/gguf_names.h"

#include <charconv>
#include <map>

#include "base/error.h"
#include "model/architecture.h"
#include "model/stacked_experts.h"

namespace flexgen {
namespace {

/// A tensor's name behind its block's: what it is of ("attn_q") and whether its weight or its bias (".weight").
struct BlockPart {
  int64_t block = -1;
  std::string stem, kind;
};

/// "blk.7.attn_q.weight" cut up; no block where the name is another.
BlockPart block_part(const std::string& name) {
  constexpr std::string_view kBlock = "blk.";
  const size_t dot = name.find('.', kBlock.size()), last = name.rfind('.');
  BlockPart part;
  if (!name.starts_with(kBlock) || dot == std::string::npos || last <= dot) return part;
  const char* const end = name.data() + dot;
  if (const auto read = std::from_chars(name.data() + kBlock.size(), end, part.block); read.ec != std::errc() || read.ptr != end) part.block = -1;
  part.stem = name.substr(dot + 1, last - dot - 1);
  part.kind = name.substr(last);
  if (part.kind != ".weight" && part.kind != ".bias") part.block = -1;
  return part;
}

class FamilyNames {
 public:
  FamilyNames(const ModelConfig& config, const std::vector<std::string>& files)
      : config_(config), files_(files), mixture_(architecture_of(config).mixture_names()) {}

  std::vector<NamedTensor> operator()(const std::string& name, const TensorLocation& at) const {
    if (name == "rope_freqs.weight" || name.starts_with("rope_factors_")) return {};
    if (name == "token_embd.weight") return {{"model.embed_tokens.weight", at}};
    if (name == "output_norm.weight") return {{"model.norm.weight", at}};
    if (name == "output.weight") return {{"lm_head.weight", at}};
    const BlockPart part = block_part(name);
    if (part.block < 0) return {{name, at}};
    if (part.block >= config_.num_layers) return {};
    const std::string start = fmt::format("model.layers.{}.", part.block);
    if (config_.mixture.num_experts > 0) {
      if (part.stem == "ffn_gate_up_exps") return experts(part, {mixture_.gate, mixture_.up}, name, at);
      if (const char* matrix = expert_matrix(part.stem, "_exps")) return experts(part, {matrix}, name, at);
      if (const std::string own = single_expert(part); !own.empty()) return {{own, at}};
      if (const std::string own = mixture_name(part); !own.empty()) return {{start + own, as_rows(part, at)}};
    }
    const std::string own = plain_name(part);
    return {{own.empty() ? name : start + own, at}};
  }

 private:
  /// What the family calls a matrix of experts, by its stem with this end; null if it is none.
  const char* expert_matrix(const std::string& stem, const char* end) const {
    if (stem == std::string("ffn_gate") + end) return mixture_.gate;
    if (stem == std::string("ffn_up") + end) return mixture_.up;
    if (stem == std::string("ffn_down") + end) return mixture_.down;
    return nullptr;
  }

  /// "ffn_gate.3" of a block, as Mixtral's files of 2023 have it; empty if it is none.
  std::string single_expert(const BlockPart& part) const {
    const size_t dot = part.stem.find('.');
    if (dot == std::string::npos) return "";
    const char* const matrix = expert_matrix(part.stem.substr(0, dot), "");
    int64_t expert = -1;
    const char* const end = part.stem.data() + part.stem.size();
    const auto read = std::from_chars(part.stem.data() + dot + 1, end, expert);
    if (matrix == nullptr || read.ec != std::errc() || read.ptr != end || expert < 0) return "";
    return "model." + expert_start(part.block, mixture_.part, expert) + matrix + part.kind;
  }

  /// A tensor of all experts: of one matrix of theirs, or of gate and up, one after the other.
  std::vector<NamedTensor> experts(const BlockPart& part, const std::vector<const char*>& matrices, const std::string& name, const TensorLocation& at) const {
    if (at.shape.size() < 2 || at.shape[0] != config_.mixture.num_experts)
      fail_user("{}: the tensor '{}' has {} parts, and the model {} experts; the file is broken, fetch it again", files_[static_cast<size_t>(at.file)], name,
                at.shape.empty() ? 0 : at.shape[0], config_.mixture.num_experts);
    if (at.shape[1] % std::ssize(matrices) != 0)
      fail_user("{}: the tensor '{}' holds two matrices of {} rows together, an odd number; the file is broken, fetch it again",
                files_[static_cast<size_t>(at.file)], name, at.shape[1]);
    return matrices_of_stack(
        at, matrices, [&](int64_t expert, const char* matrix) { return "model." + expert_start(part.block, mixture_.part, expert) + matrix + part.kind; });
  }

  /// A router, what biases its choice, and the part that all rows share; empty if it is none.
  std::string mixture_name(const BlockPart& part) const {
    if (part.stem == "ffn_gate_inp") return part.kind == ".bias" ? mixture_.bias : mixture_.router + part.kind;
    if (part.stem == "exp_probs_b") return mixture_.bias;
    if (mixture_.shared == nullptr) return "";
    if (part.stem == "ffn_gate_inp_shexp") return std::string(mixture_.shared) + "_gate" + part.kind;
    if (const char* matrix = expert_matrix(part.stem, "_shexp")) return fmt::format("{}.{}{}", mixture_.shared, matrix, part.kind);
    return "";
  }

  /// The gate of the shared part is a matrix of one row, and so is what biases ERNIE's choice, which a GGUF may have as a vector.
  TensorLocation as_rows(const BlockPart& part, const TensorLocation& at) const {
    TensorLocation rows = at;
    const bool is_row = part.stem == "ffn_gate_inp_shexp" || (part.stem == "exp_probs_b" && config_.model_type == "ernie4_5_moe");
    if (is_row && at.shape.size() == 1) rows.shape.insert(rows.shape.begin(), 1);
    return rows;
  }

  /// "self_attn.q_proj.weight"; empty if it is none that flexgen knows.
  std::string plain_name(const BlockPart& part) const {
    static const std::map<std::string, std::string> kNames{{"attn_norm", "input_layernorm"},
                                                           {"attn_q", "self_attn.q_proj"},
                                                           {"attn_k", "self_attn.k_proj"},
                                                           {"attn_v", "self_attn.v_proj"},
                                                           {"attn_qkv", "self_attn.qkv_proj"},
                                                           {"attn_output", "self_attn.o_proj"},
                                                           {"attn_q_norm", "self_attn.q_norm"},
                                                           {"attn_k_norm", "self_attn.k_norm"},
                                                           {"ffn_norm", "post_attention_layernorm"},
                                                           {"ffn_gate", "mlp.gate_proj"},
                                                           {"ffn_up", "mlp.up_proj"},
                                                           {"ffn_down", "mlp.down_proj"},
                                                           {"post_attention_norm", "post_attention_layernorm"},
                                                           {"post_ffw_norm", "post_feedforward_layernorm"}};
    struct OwnName {
      std::string_view model_type, stem, name;
    };
    static constexpr OwnName kOwn[]{{"gemma2", "ffn_norm", "pre_feedforward_layernorm"},
                                    {"gemma3_text", "ffn_norm", "pre_feedforward_layernorm"},
                                    {"phi3", "ffn_up", "mlp.gate_up_proj"},  // both in one, without a name of its own
                                    {"glm4", "ffn_up", "mlp.gate_up_proj"},
                                    {"glm4", "post_attention_norm", "post_self_attn_layernorm"},
                                    {"glm4", "post_ffw_norm", "post_mlp_layernorm"},
                                    {"hunyuan_v1_dense", "attn_q_norm", "self_attn.query_layernorm"},
                                    {"hunyuan_v1_dense", "attn_k_norm", "self_attn.key_layernorm"},
                                    {"hunyuan_v1_moe", "attn_q_norm", "self_attn.query_layernorm"},
                                    {"hunyuan_v1_moe", "attn_k_norm", "self_attn.key_layernorm"}};
    if (part.stem == "attn_sinks" && part.kind == ".weight") return "self_attn.sinks";
    for (const OwnName& own : kOwn)
      if (own.model_type == config_.model_type && own.stem == part.stem) return std::string(own.name) + part.kind;
    const auto found = kNames.find(part.stem);
    return found == kNames.end() ? "" : found->second + part.kind;
  }

  const ModelConfig& config_;
  const std::vector<std::string>& files_;
  MixtureNames mixture_;
};

}  // namespace

void name_tensors_as_family(Checkpoint& checkpoint, const ModelConfig& config) { checkpoint.replace_each(FamilyNames(config, checkpoint.files())); }

}  // namespace flexgen
