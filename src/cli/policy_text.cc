#include "cli/policy_text.h"

#include <fmt/format.h>

namespace flexgen {

std::string buffers_text(const Policy& policy) {
  const int of_weights = policy.num_weight_buffers();
  return fmt::format("{} buffers{}", policy.buffers, of_weights > policy.buffers ? fmt::format(", {} of weights", of_weights) : "");
}

std::string policy_text(const Policy& policy) {
  return fmt::format("{} x {} sequences, {} tokens a micro-batch, {}, weights {}, KV cache {}, activations {}{}", policy.micro_batch_size,
                     policy.num_micro_batches, policy.max_rows, buffers_text(policy), policy.weights.to_string(), policy.kv_cache.to_string(),
                     policy.activations.to_string(),
                     !policy.on_gpu()            ? ""
                     : policy.attention_beside() ? ", attention on the CPU beside the GPU"
                                                 : ", attention on the GPU");
}

nlohmann::ordered_json policy_json(const Policy& policy) {
  return {{"micro_batch_size", policy.micro_batch_size},
          {"num_micro_batches", policy.num_micro_batches},
          {"max_rows", policy.max_rows},
          {"buffers", policy.buffers},
          {"weight_buffers", policy.num_weight_buffers()},
          {"weights", policy.weights.to_string()},
          {"kv_cache", policy.kv_cache.to_string()},
          {"activations", policy.activations.to_string()}};
}

}  // namespace flexgen
