#include "model/weight_list.h"

#include "model/config.h"

namespace flexgen {

std::vector<int64_t> WantedWeight::shape() const {
  std::vector<int64_t> sizes;
  if (slices > 0) sizes.push_back(slices);
  if (kind != Kind::kVector && turned) sizes.push_back(cols);
  sizes.push_back(part_of > 0 ? part_of : kind == Kind::kVector ? cols : rows);
  if (kind != Kind::kVector && !turned) sizes.push_back(cols);
  return sizes;
}

WeightList& WeightList::norm(Role role, const std::string& name, int64_t size) {
  if (size == 0) size = config_.hidden_size;
  weights_.push_back(WantedWeight::vector(start_ + name + ".weight", size, role));
  if (config_.norm_bias) weights_.push_back(WantedWeight::vector(start_ + name + ".bias", size, bias_of(role)));
  return *this;
}

WeightList& WeightList::linear(Role role, const std::string& name, int64_t rows, int64_t cols, bool bias) { return part(role, name, 0, rows, 0, cols, bias); }

WeightList& WeightList::part(Role role, const std::string& name, int64_t first, int64_t rows, int64_t of_rows, int64_t cols, bool bias) {
  auto add_part = [&](WantedWeight weight) {
    weight.part_first = first;
    weight.part_of = of_rows;
    add(std::move(weight));
  };
  add_part(WantedWeight::matrix(start_ + name + ".weight", rows, cols, role));
  if (bias) add_part(WantedWeight::vector(start_ + name + ".bias", rows, bias_of(role)));
  return *this;
}

WeightList& WeightList::turned_part(Role role, const std::string& name, int64_t first, int64_t rows, int64_t of_rows, int64_t cols) {
  const size_t matrix = weights_.size();
  part(role, name, first, rows, of_rows, cols, true);
  weights_[matrix].turned = true;
  return *this;
}

WeightList& WeightList::of_expert(int64_t expert) {
  for (WantedWeight& weight : weights_) {
    weight.slice = expert;
    weight.slices = config_.mixture.num_experts;
  }
  return *this;
}

WeightList& WeightList::add(WantedWeight weight) {
  weights_.push_back(std::move(weight));
  return *this;
}

WeightList& WeightList::attention(const std::string& q_norm, const std::string& k_norm) { return attention_of(0, q_norm, k_norm); }

WeightList& WeightList::attention_of(int64_t block, const std::string& q_norm, const std::string& k_norm) {
  const ModelConfig& m = config_;
  const HeadSizes heads = m.heads_of(block);
  const int64_t D = m.hidden_size, QH = heads.q_width(), KH = heads.kv_width();
  linear(Role::kQ, "self_attn.q_proj", QH, D, m.qkv_bias);
  linear(Role::kK, "self_attn.k_proj", KH, D, m.qkv_bias);
  if (!m.attention[static_cast<size_t>(block)].keys_are_values) linear(Role::kV, "self_attn.v_proj", KH, D, m.qkv_bias);
  linear(Role::kO, "self_attn.o_proj", D, QH, m.output_bias);
  if (m.qk_norm == QkNorm::kNone) return *this;
  norm(Role::kQNorm, "self_attn." + q_norm, m.qk_norm == QkNorm::kHead ? heads.head_size : QH);
  return norm(Role::kKNorm, "self_attn." + k_norm, m.qk_norm == QkNorm::kHead ? heads.head_size : KH);
}

WeightList& WeightList::feed_forward() {
  const ModelConfig& m = config_;
  if (m.gated_ffn) linear(Role::kGate, "mlp.gate_proj", m.ffn_size, m.hidden_size, m.mlp_bias);
  linear(Role::kUp, "mlp.up_proj", m.ffn_size, m.hidden_size, m.mlp_bias);
  return linear(Role::kDown, "mlp.down_proj", m.hidden_size, m.ffn_size, m.mlp_bias);
}

WeightList& WeightList::fused_feed_forward() {
  const ModelConfig& m = config_;
  part(Role::kGate, "mlp.gate_up_proj", 0, m.ffn_size, 2 * m.ffn_size, m.hidden_size, m.mlp_bias);
  part(Role::kUp, "mlp.gate_up_proj", m.ffn_size, m.ffn_size, 2 * m.ffn_size, m.hidden_size, m.mlp_bias);
  return linear(Role::kDown, "mlp.down_proj", m.hidden_size, m.ffn_size, m.mlp_bias);
}

WeightList& WeightList::inner_scales(const std::string& name) {
  if (config_.quantization.method != Quantization::Method::kAwq) return *this;
  add(WantedWeight::vector(start_ + name, config_.ffn_size, Role::kInnerScales));
  weights_.back().optional = true;
  return *this;
}

WeightList& WeightList::router(const std::string& name, const std::string& bias_name) {
  const Mixture& mixture = config_.mixture;
  // Small, and a choice is no place for rounding: it is kept as it is, whatever type the other matrices get.
  add(WantedWeight::small_matrix(start_ + name + ".weight", mixture.num_experts, config_.hidden_size, Role::kRouter));
  if (mixture.choice_bias || mixture.logit_bias) add(WantedWeight::vector(start_ + bias_name, mixture.num_experts, Role::kRouterBias));
  return *this;
}

WeightList& WeightList::gated(const std::string& gate, const std::string& up, const std::string& down, int64_t size) {
  linear(Role::kGate, gate, size, config_.hidden_size, false);
  linear(Role::kUp, up, size, config_.hidden_size, false);
  return linear(Role::kDown, down, config_.hidden_size, size, false);
}

std::string layer_start(int64_t index) { return "layers." + std::to_string(index) + "."; }

std::string expert_start(int64_t index, const std::string& part, int64_t expert) {
  return layer_start(index) + part + ".experts." + std::to_string(expert) + ".";
}

}  // namespace flexgen
