#pragma once
// A checkpoint of Hugging Face's as llama.cpp converts it, for tests: its tensors turned, stacked and named as a GGUF has them. One thread.

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint.h"
#include "io/test_gguf.h"
#include "tensor/dtype.h"

namespace flexgen {

/// Rows of whole blocks of 32 in q8_0.
inline std::string as_q8_0(const std::vector<float>& values) {
  std::string bytes;
  for (size_t first = 0; first < values.size(); first += 32) {
    float largest = 0;
    for (size_t i = first; i < first + 32; ++i) largest = std::max(largest, std::abs(values[i]));
    const uint16_t half = f16_from_float(largest / 127);
    const float scale = float_from_f16(half);
    bytes.push_back(static_cast<char>(half & 0xffu));
    bytes.push_back(static_cast<char>(half >> 8));
    for (size_t i = first; i < first + 32; ++i)
      bytes.push_back(static_cast<char>(scale == 0 ? 0 : static_cast<int>(std::clamp(std::nearbyint(values[i] / scale), -127.0f, 127.0f))));
  }
  return bytes;
}

/// How a file has experts: a tensor for each matrix of a block's, one for their gates and ups together, or, as in 2023, a tensor for each expert's.
enum class GgufExperts : uint8_t { kStacked, kPairs, kApart };

/// Converts one checkpoint to a GGUF in F32, or with matrices whose rows are whole blocks in q8_0.
class AsGguf {
 public:
  AsGguf(const nlohmann::json& config, std::string architecture, GgufExperts experts = GgufExperts::kStacked)
      : config_(config), architecture_(std::move(architecture)), start_(architecture_ + "."), is_gemma_(architecture_.starts_with("gemma")), experts_(experts) {
  }

  /// `rope_factors`: Llama 3's scaling as divisors; none: no such tensor.
  std::string convert(const std::string& directory, const std::vector<float>& rope_factors, bool in_q8_0 = false) {
    write_fields();
    if (!rope_factors.empty()) gguf_.tensor("rope_freqs.weight", {rope_factors.size()}, 0, TestGguf::floats(rope_factors));
    read(Checkpoint::open(directory));
    cut_pairs();
    stack_experts();
    join_pairs();
    for (auto& [name, tensor] : tensors_) {
      turn(name, tensor);
      if (name.ends_with("shared_expert_gate.weight")) tensor.shape.erase(tensor.shape.begin());
      const std::vector<uint64_t> shape(tensor.shape.rbegin(), tensor.shape.rend());
      const std::string other = named(name);
      if (in_q8_0 && shape.size() >= 2 && shape[0] % 32 == 0 && other.find("ffn_gate_inp") == std::string::npos)
        gguf_.tensor(other, shape, 8, as_q8_0(tensor.values));
      else gguf_.tensor(other, shape, 0, TestGguf::floats(tensor.values));
    }
    return gguf_.bytes();
  }

 private:
  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };

  void number(const char* name, const char* field) {
    if (config_.contains(field) && !config_.at(field).is_null()) gguf_.number(start_ + name, config_.at(field).get<uint32_t>());
  }
  void real(const char* name, const char* field) {
    if (config_.contains(field) && !config_.at(field).is_null()) gguf_.real(start_ + name, config_.at(field).get<float>());
  }
  void write_longrope(const nlohmann::json& rope) {
    const double original = config_.at("original_max_position_embeddings").get<double>(),
                 scale = config_.at("max_position_embeddings").get<double>() / original;
    gguf_.number(start_ + "rope.scaling.original_context_length", static_cast<uint32_t>(original));
    gguf_.real(start_ + "rope.scaling.attn_factor", scale > 1 ? static_cast<float>(std::sqrt(1 + std::log(scale) / std::log(original))) : 1.0f);
    for (const char* which : {"long", "short"}) {
      const auto factors = rope.at(std::string(which) + "_factor").get<std::vector<float>>();
      gguf_.tensor(std::string("rope_factors_") + which + ".weight", {factors.size()}, 0, TestGguf::floats(factors));
    }
  }
  bool is_mixture() const { return config_.contains("num_experts_per_tok") || config_.contains("moe_k") || config_.contains("moe_topk"); }

  void write_fields() {
    gguf_.text("general.architecture", architecture_).number("tokenizer.ggml.bos_token_id", 1).number("tokenizer.ggml.eos_token_id", 2);
    number("embedding_length", "hidden_size");
    number("block_count", "num_hidden_layers");
    number("feed_forward_length", "intermediate_size");
    number("context_length", "max_position_embeddings");
    number("attention.head_count", "num_attention_heads");
    number("attention.head_count_kv", "num_key_value_heads");
    number("attention.key_length", "head_dim");
    number("attention.value_length", "head_dim");
    if (!architecture_.starts_with("qwen")) number("attention.sliding_window", "sliding_window");
    number("attention.sliding_window_pattern", "_sliding_window_pattern");
    if ((architecture_ == "olmo2" || architecture_ == "exaone4") && config_.contains("layer_types")) {
      std::vector<uint8_t> windows;
      for (const nlohmann::json& type : config_.at("layer_types")) windows.push_back(type == "sliding_attention");
      gguf_.numbers<uint8_t>(start_ + "attention.sliding_window_pattern", 7, windows);
      if (architecture_ == "olmo2")
        gguf_.real(start_ + "rope.freq_base_swa", config_.at("rope_parameters").at("sliding_attention").at("rope_theta").get<float>());
    }
    real("attention.layer_norm_rms_epsilon", "rms_norm_eps");
    real("attention.layer_norm_epsilon", "layer_norm_eps");
    if (architecture_ == "olmo") gguf_.real(start_ + "attention.layer_norm_epsilon", 1e-5f);
    real("attention.clamp_kqv", "clip_qkv");
    real("attention.scale", "attention_multiplier");
    real("embedding_scale", "embedding_multiplier");
    real("residual_scale", "residual_multiplier");
    real("logit_scale", "logits_scaling");
    real("logit_scale", "logit_scale");
    real("attn_logit_softcapping", "attn_logit_softcapping");
    real("final_logit_softcapping", "final_logit_softcapping");
    if (is_mixture()) write_mixture();
    nlohmann::json rope = config_.value("rope_parameters", nlohmann::json());
    if (rope.contains("full_attention")) rope = rope.at("full_attention");
    const double heads = config_.at("num_attention_heads").get<double>();
    const nlohmann::json own = config_.value("head_dim", nlohmann::json());
    const double head = own.is_null() ? config_.at("hidden_size").get<double>() / heads : own.get<double>();
    const double partial = config_.value("partial_rotary_factor", rope.is_object() ? rope.value("partial_rotary_factor", 1.0) : 1.0);
    if (partial != 1) gguf_.number(start_ + "rope.dimension_count", static_cast<uint32_t>(partial * head));
    double theta = rope.is_null() ? config_.at("rope_theta").get<double>() : rope.at("rope_theta").get<double>();
    if (rope.is_object() && rope.contains("alpha")) theta *= std::pow(rope.at("alpha").get<double>(), head / (head - 2));  // Hunyuan
    gguf_.real(start_ + "rope.freq_base", static_cast<float>(theta));
    const std::string scaling = rope.is_object() ? rope.value("rope_type", "") : "";
    if (scaling == "linear" || scaling == "yarn")
      gguf_.text(start_ + "rope.scaling.type", scaling).real(start_ + "rope.scaling.factor", rope.at("factor").get<float>());
    if (scaling == "longrope") write_longrope(rope);
    if (scaling != "yarn") return;
    gguf_.number(start_ + "rope.scaling.original_context_length", rope.at("original_max_position_embeddings").get<uint32_t>());
    gguf_.real(start_ + "rope.scaling.yarn_beta_fast", rope.at("beta_fast").get<float>());
    gguf_.real(start_ + "rope.scaling.yarn_beta_slow", rope.at("beta_slow").get<float>());
    if (rope.contains("llama_4_scaling_beta"))
      gguf_.real(start_ + "rope.scaling.yarn_log_multiplier", rope.at("mscale_all_dim").get<float>())
          .real(start_ + "attention.temperature_scale", rope.at("llama_4_scaling_beta").get<float>());
    // llama.cpp's converter has a name of its own for OLMo's.
    if (rope.contains("attention_factor"))
      gguf_.real(start_ + (architecture_ == "olmo2" ? "rope.scaling.attn_factor" : "rope.scaling.yarn_attn_factor"), rope.at("attention_factor").get<float>());
  }

  void write_mixture() {
    for (const char* count : {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"}) number("expert_count", count);
    for (const char* per_row : {"num_experts_per_tok", "moe_k", "moe_topk"}) number("expert_used_count", per_row);
    number("expert_feed_forward_length", "moe_intermediate_size");
    number("expert_shared_feed_forward_length", "shared_expert_intermediate_size");
    if (architecture_ == "hunyuan-moe")
      for (const char* name : {"expert_feed_forward_length", "expert_shared_feed_forward_length"}) number(name, "intermediate_size");
    if (architecture_ == "qwen3moe") gguf_.number(start_ + "expert_shared_feed_forward_length", 0);
    number("expert_shared_count", "n_shared_experts");
    number("expert_shared_count", "moe_num_shared_experts");
    number("leading_dense_block_count", "first_k_dense_replace");
    number("leading_dense_block_count", "moe_layer_start_index");
    number("interleave_moe_layer_step", "moe_layer_interval");
    number("expert_group_count", "n_group");
    number("expert_group_used_count", "topk_group");
    real("expert_weights_scale", "routed_scaling_factor");
    if (config_.contains("norm_topk_prob")) gguf_.flag(start_ + "expert_weights_norm", config_.at("norm_topk_prob").get<bool>());
  }

  void read(const Checkpoint& checkpoint) {
    for (const auto& [name, at] : checkpoint.tensors()) {
      std::vector<std::byte> bytes(static_cast<size_t>(at.bytes));
      File::open(checkpoint.files()[static_cast<size_t>(at.file)], FileMode::kRead)->read(at.offset, bytes);
      Tensor& tensor = tensors_[name];
      tensor.shape = at.shape;
      tensor.values.resize(static_cast<size_t>(at.bytes / size_bytes(at.dtype, 1)));
      for (size_t i = 0; i < tensor.values.size(); ++i) tensor.values[i] = load_float(bytes.data(), at.dtype, static_cast<int64_t>(i));
    }
  }

  /// gpt-oss's experts: [E, in, out] with gate and up in turn, to [E, out, in] apart; biases [E, out] likewise.
  void cut_pairs() {
    std::map<std::string, Tensor> others;
    for (const auto& [name, tensor] : tensors_) {
      const size_t at = name.find("mlp.experts.");
      if (architecture_ != "gpt-oss" || at == std::string::npos) {
        others[name] = tensor;
        continue;
      }
      const bool is_bias = name.ends_with("_bias"), is_pairs = name.find("gate_up_proj") != std::string::npos;
      const int64_t experts = tensor.shape[0], in = is_bias ? 1 : tensor.shape[1], out = tensor.shape.back();
      const std::string start = name.substr(0, at + 12), end = is_bias ? ".bias" : ".weight";
      const std::vector<std::string> parts = is_pairs ? std::vector<std::string>{"gate_proj", "up_proj"} : std::vector<std::string>{"down_proj"};
      const auto step = std::ssize(parts);
      for (int64_t part = 0; part < step; ++part) {
        Tensor& to = others[start + parts[static_cast<size_t>(part)] + end];
        to.shape = is_bias ? std::vector<int64_t>{experts, out / step} : std::vector<int64_t>{experts, out / step, in};
        for (int64_t e = 0; e < experts; ++e)
          for (int64_t row = part; row < out; row += step)
            for (int64_t i = 0; i < in; ++i) to.values.push_back(tensor.values[static_cast<size_t>((e * in + i) * out + row)]);
      }
    }
    tensors_ = std::move(others);
  }

  /// "...experts.3.gate_proj.weight" of all experts as one "...experts.gate_proj.weight".
  void stack_experts() {
    std::map<std::string, Tensor> others;
    for (const auto& [name, tensor] : tensors_) {
      const size_t at = name.find(".experts.");
      const size_t end = at == std::string::npos ? at : name.find('.', at + 9);
      if (at == std::string::npos || !std::isdigit(static_cast<unsigned char>(name[at + 9]))) {
        others[name] = tensor;
        continue;
      }
      if (experts_ == GgufExperts::kApart) {  // "mlp.w1.3.weight" is named as the others are
        const size_t kind = name.rfind('.');
        others[name.substr(0, at) + name.substr(end, kind - end) + name.substr(at + 8, end - at - 8) + name.substr(kind)] = tensor;
        continue;
      }
      const auto expert = static_cast<size_t>(std::stoi(name.substr(at + 9, end - at - 9)));
      Tensor& to = others[name.substr(0, at + 8) + name.substr(end)];
      if (to.shape.empty()) {
        to.shape = tensor.shape;
        to.shape.insert(to.shape.begin(), 0);
      }
      ++to.shape[0];
      to.values.resize(std::max(to.values.size(), (expert + 1) * tensor.values.size()));
      std::copy(tensor.values.begin(), tensor.values.end(), to.values.begin() + static_cast<std::ptrdiff_t>(expert * tensor.values.size()));
    }
    tensors_ = std::move(others);
  }

  /// Of each expert gate, then up.
  void join_pairs() {
    std::map<std::string, Tensor> others;
    for (const auto& [name, gate] : tensors_) {
      const size_t at = name.find(".experts.gate_proj.");
      if (experts_ != GgufExperts::kPairs || at == std::string::npos) {
        if (experts_ != GgufExperts::kPairs || name.find(".experts.up_proj.") == std::string::npos) others[name] = gate;
        continue;
      }
      const Tensor& up = tensors_.at(std::string(name).replace(at, 19, ".experts.up_proj."));
      Tensor& to = others[std::string(name).replace(at, 19, ".experts.gate_up_proj.")];
      to.shape = gate.shape;
      to.shape[1] *= 2;
      const auto size = static_cast<std::ptrdiff_t>(gate.values.size()) / gate.shape[0];
      for (std::ptrdiff_t expert = 0; expert < gate.shape[0]; ++expert)
        for (const Tensor* half : {&gate, &up})
          to.values.insert(to.values.end(), half->values.begin() + expert * size, half->values.begin() + (expert + 1) * size);
    }
    tensors_ = std::move(others);
  }

  /// q and k of Llama with the two of a rotary pair side by side, norms of Gemma whole.
  void turn(const std::string& name, Tensor& tensor) const {
    const bool is_q = name.find("q_proj") != std::string::npos, is_k = name.find("k_proj") != std::string::npos;
    const bool is_paired =
        architecture_ == "llama" || architecture_ == "granite" || architecture_ == "smollm3" || architecture_ == "olmo" || architecture_ == "mistral3";
    if (is_paired && (is_q || is_k)) {
      const auto heads = config_.at(is_q ? "num_attention_heads" : "num_key_value_heads").get<int64_t>(), rows = tensor.shape[0],
                 cols = tensor.shape.size() == 1 ? 1 : tensor.shape[1], half = rows / heads / 2;
      const std::vector<float> from = tensor.values;
      for (int64_t head = 0; head < heads; ++head)
        for (int64_t pair = 0; pair < half; ++pair)
          for (int64_t side = 0; side < 2; ++side)
            std::copy_n(from.data() + ((head * 2 + side) * half + pair) * cols, cols, tensor.values.data() + ((head * half + pair) * 2 + side) * cols);
    }
    if (is_gemma_ && name.ends_with("norm.weight"))
      for (float& value : tensor.values) value += 1;
  }

  std::string named(const std::string& name) const {
    static const std::vector<std::pair<std::string, std::string>> kNames{{"model.embed_tokens", "token_embd"},
                                                                         {"model.norm", "output_norm"},
                                                                         {"lm_head", "output"},
                                                                         {"model.layers", "blk"},
                                                                         {"input_layernorm", "attn_norm"},
                                                                         {"self_attn.q_proj", "attn_q"},
                                                                         {"self_attn.k_proj", "attn_k"},
                                                                         {"self_attn.v_proj", "attn_v"},
                                                                         {"self_attn.qkv_proj", "attn_qkv"},
                                                                         {"self_attn.o_proj", "attn_output"},
                                                                         {"self_attn.q_norm", "attn_q_norm"},
                                                                         {"self_attn.k_norm", "attn_k_norm"},
                                                                         {"self_attn.sinks", "attn_sinks.weight"},
                                                                         {"block_sparse_moe", "mlp"},
                                                                         {"mlp.e_score", "mlp.gate.e_score"},
                                                                         {"mlp.moe_statics.e_score", "mlp.gate.e_score"},
                                                                         {"post_self_attn_layernorm", "post_attention_norm"},
                                                                         {"post_mlp_layernorm", "post_ffw_norm"},
                                                                         {".w1.", ".gate_proj."},
                                                                         {".w3.", ".up_proj."},
                                                                         {".w2.", ".down_proj."},
                                                                         {"self_attn.query_layernorm", "attn_q_norm"},
                                                                         {"self_attn.key_layernorm", "attn_k_norm"},
                                                                         {"mlp.gate.wg", "ffn_gate_inp"},
                                                                         {"mlp.shared_mlp.gate_proj", "ffn_gate_shexp"},
                                                                         {"mlp.shared_mlp.up_proj", "ffn_up_shexp"},
                                                                         {"mlp.shared_mlp.down_proj", "ffn_down_shexp"},
                                                                         {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
                                                                         {"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
                                                                         {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
                                                                         {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
                                                                         {"mlp.shared_experts.down_proj", "ffn_down_shexp"},
                                                                         {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
                                                                         {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
                                                                         {"mlp.shared_expert.down_proj", "ffn_down_shexp"},
                                                                         {"mlp.experts.gate_up_proj", "ffn_gate_up_exps"},
                                                                         {"mlp.experts.gate_proj", "ffn_gate_exps"},
                                                                         {"mlp.w1.", "ffn_gate."},
                                                                         {"mlp.w3.", "ffn_up."},
                                                                         {"mlp.w2.", "ffn_down."},
                                                                         {"mlp.experts.up_proj", "ffn_up_exps"},
                                                                         {"mlp.experts.down_proj", "ffn_down_exps"},
                                                                         {"mlp.router", "ffn_gate_inp"},
                                                                         {"mlp.gate.weight", "ffn_gate_inp.weight"},
                                                                         {"mlp.gate_up_proj", "ffn_up"},
                                                                         {"mlp.gate_proj", "ffn_gate"},
                                                                         {"mlp.up_proj", "ffn_up"},
                                                                         {"mlp.down_proj", "ffn_down"},
                                                                         {"pre_feedforward_layernorm", "ffn_norm"},
                                                                         {"post_feedforward_layernorm", "post_ffw_norm"}};
    const bool norm_of_attention = (is_gemma_ && architecture_ != "gemma") || architecture_ == "seed_oss" || architecture_ == "exaone4" ||
                                   architecture_ == "gpt-oss" || architecture_ == "glm4moe" || architecture_ == "olmo2";
    std::string other = name;
    const auto replace = [&](const std::string& from, const std::string& to) {
      if (const size_t found = other.find(from); found != std::string::npos) other.replace(found, from.size(), to);
    };
    replace("post_attention_layernorm", norm_of_attention ? "post_attention_norm" : "ffn_norm");
    for (const auto& [from, to] : kNames) replace(from, to);
    return other;
  }

  const nlohmann::json& config_;
  const std::string architecture_, start_;
  const bool is_gemma_;
  const GgufExperts experts_;
  TestGguf gguf_;
  std::map<std::string, Tensor> tensors_;
};

inline std::string as_gguf(const std::string& directory, const nlohmann::json& config, const std::string& architecture, const std::vector<float>& rope_factors,
                           bool in_q8_0 = false, GgufExperts experts = GgufExperts::kStacked) {
  return AsGguf(config, architecture, experts).convert(directory, rope_factors, in_q8_0);
}

}  // namespace flexgen
