#include "model/architecture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "base/error.h"

namespace flexgen {
namespace {

constexpr std::array kArchitectures{
    &opt_architecture,
    &llama_architecture,
};

}  // namespace

const Architecture* find_architecture(std::string_view model_type) {
  for (auto* architecture : kArchitectures)
    for (std::string_view known : architecture().model_types())
      if (known == model_type) return &architecture();
  return nullptr;
}

const Architecture& architecture_of(const ModelConfig& config) {
  const Architecture* architecture = find_architecture(config.model_type);
  FLEXGEN_CHECK(architecture, "model_type '{}'", config.model_type);
  return *architecture;
}

std::string known_model_types() {
  std::vector<std::string_view> names;
  for (auto* architecture : kArchitectures) {
    auto types = architecture().model_types();
    names.insert(names.end(), types.begin(), types.end());
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

Activation read_activation(ConfigFields& fields, const std::string& field, const std::string& fallback) {
  const std::string name = fields.text_or(field, fallback);
  if (name == "relu") return Activation::kRelu;
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::kGeluTanh;
  fields.refuse(field, fmt::format("is '{}'; flexgen supports relu, silu, gelu and gelu_new", name));
}

void append_and_attend(const LayerContext& c, const BlockScratch& s) {
  const ModelConfig& m = c.config;
  if (m.rotate_keys) {
    c.kernels.hadamard(s.q, c.in.num_rows, m.num_heads, m.head_size);
    c.kernels.hadamard(s.k, c.in.num_rows, m.num_kv_heads, m.head_size);
  }
  c.kernels.append_kv(s.k, s.v, c.in.slots, c.kv);
  c.kernels.attention(s.q, c.in.slots, c.kv, attention_rule(m), s.act);
}

AttentionRule attention_rule(const ModelConfig& config) {
  return {1.0f / std::sqrt(static_cast<float>(config.head_size)), config.sliding_window, config.attention_sparsity};
}

}  // namespace flexgen
