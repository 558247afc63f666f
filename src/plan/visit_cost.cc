#include "plan/visit_cost.h"

#include <algorithm>

#include "base/error.h"
#include "schedule/expert_hits.h"

namespace flexgen {

namespace {

/// The type of a layer's matrices; norms may have another.
std::optional<DType> matrix_type(const Model& model, const LayerSpec& layer) {
  for (const WeightUse& use : layer.uses) {
    const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
    if (!weight.always_resident && weight.rows > 1) return weight.dtype;
  }
  return std::nullopt;
}

}  // namespace

Precision Precision::of(const Model& model, DType compute, DType kv) {
  Precision precision{compute, model.weights().front().dtype, kv,
                      static_cast<double>(model.config().num_heads) / static_cast<double>(model.config().num_kv_heads),
                      static_cast<double>(model.config().hidden_size)};
  precision.weights = matrix_type(model, model.layers()[static_cast<size_t>(model.layer_of_cache(0))]).value_or(precision.weights);
  const auto experts = std::find_if(model.layers().begin(), model.layers().end(), [](const LayerSpec& layer) { return layer.kind == LayerKind::kExperts; });
  if (experts != model.layers().end()) precision.experts = matrix_type(model, *experts);
  return precision;
}

double visit_time_s(const ComputeProfile& processor, const Precision& precision, const ComputeAmount& amount) {
  return processor.visit_s + processor.matmul_s(precision.compute, precision.weights, precision.width, amount.rows, amount.flops) +
         processor.decode_attention_s(precision.kv, precision.queries_per_kv_head, amount.decode_context, amount.decode_kv_bytes) +
         processor.chunk_attention_s(precision.kv, precision.queries_per_kv_head, amount.chunk_attention_flops) + processor.logit_s * amount.logits;
}

double layer_visit_time_s(const ComputeProfile& processor, const Precision& precision, const LayerSpec& layer, const ComputeAmount& amount) {
  if (layer.kind != LayerKind::kExperts || amount.rows <= 0) return visit_time_s(processor, precision, amount);
  Precision of_experts = precision;
  of_experts.weights = precision.experts.value_or(precision.weights);
  const double time_s = visit_time_s(processor, of_experts, amount);
  const double expert_flops = layer.linear_flops_per_row / layer.row_share / static_cast<double>(layer.num_experts) * amount.rows;
  return time_s + std::max(0.0, kVisitsOfAnExpert * amount.flops / expert_flops - 1) * processor.visit_s;
}

const ComputeProfile& processor_of(const HardwareProfile& hardware, const Policy& policy) {
  if (policy.on_gpu() && !hardware.gpu) fail_user("the hardware profile '{}' has no GPU, but the policy computes on one", hardware.name);
  return policy.on_gpu() ? *hardware.gpu : hardware.cpu;
}

BlockTimes block_times(const Model& model, const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const ComputeAmount& whole) {
  const ComputeProfile& processor = processor_of(hardware, policy);
  if (!policy.attention_beside()) return {visit_time_s(processor, precision, whole), 0, 0};
  ComputeAmount before = whole, attention = whole;
  attention.flops = before.decode_kv_bytes = before.chunk_attention_flops = 0;
  before.flops = whole.rows * model.mean_attention_input_flops_per_row();
  ComputeAmount after = before;
  after.flops = whole.flops - before.flops;
  // A profile's attention was measured on a cache that large processors hold in their own caches. That of a GPU's job lies in RAM.
  const double attention_s = std::max(visit_time_s(hardware.cpu, precision, attention), attention.decode_kv_bytes / hardware.ram_read_bytes_per_s);
  return {visit_time_s(processor, precision, before), attention_s, visit_time_s(processor, precision, after)};
}

double outer_visit_time_s(const HardwareProfile& hardware, const Precision& precision, const Policy& policy, const LayerSpec& layer, double rows,
                          double hit_share) {
  ComputeAmount amount;
  amount.rows = product_rows(layer, rows);
  amount.flops = layer.linear_flops_per_row * rows / hit_share;
  amount.logits = layer.kind == LayerKind::kHead && !policy.on_gpu() ? static_cast<double>(layer.vocab_count) * rows : 0;
  return layer_visit_time_s(processor_of(hardware, policy), precision, layer, amount);
}

double logit_bytes_down(const LayerSpec& head, double rows, bool reads_logits) {
  return rows * (static_cast<double>(sizeof(Largest)) + (reads_logits ? sizeof(float) * static_cast<double>(head.vocab_count) : 0));
}

}  // namespace flexgen
