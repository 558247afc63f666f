#include "plan/visit_cost.h"

namespace flexgen {

Precision Precision::of(const Model& model, DType compute, DType kv) {
  Precision precision{compute, model.weights().front().dtype, kv,
                      static_cast<double>(model.config().num_heads) / static_cast<double>(model.config().num_kv_heads)};
  // The type of the matrices; norms may have another.
  for (const WeightUse& use : model.layers()[static_cast<size_t>(model.first_block())].uses) {
    const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
    if (weight.always_resident || weight.rows == 1) continue;
    precision.weights = weight.dtype;
    break;
  }
  return precision;
}

double visit_time_s(const ComputeProfile& processor, const Precision& precision, const ComputeAmount& amount) {
  return processor.visit_s + processor.matmul_s(precision.compute, precision.weights, amount.rows, amount.flops) +
         processor.decode_attention_s(precision.kv, precision.queries_per_kv_head, amount.decode_context, amount.decode_kv_bytes) +
         processor.chunk_attention_s(precision.kv, precision.queries_per_kv_head, amount.chunk_attention_flops) + processor.logit_s * amount.logits;
}

}  // namespace flexgen
