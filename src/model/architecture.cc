#include "model/architecture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/units.h"

namespace flexgen {

// The families, a line each: of family X the class behind X_architecture() in families/.
// clang-format off
#define FLEXGEN_FAMILIES(family) \
  family(opt)                    \
  family(llama)                  \
  family(gemma)                  \
  family(gemma4)                 \
  family(gemma4_unified)         \
  family(phi3)                   \
  family(olmo)                   \
  family(granite)                \
  family(smollm3)                \
  family(glm)                    \
  family(starcoder2)             \
  family(stablelm)               \
  family(cohere)                 \
  family(gpt_neox)               \
  family(seed_oss)               \
  family(exaone4)                \
  family(ernie4_5)               \
  family(hunyuan_dense)          \
  family(nemotron)               \
  family(arcee)                  \
  family(helium)                 \
  family(phi)                    \
  family(gptj)                   \
  family(gpt2)                   \
  family(bloom)                  \
  family(falcon)                 \
  family(mpt)                    \
  family(mixtral)                \
  family(qwen_moe)               \
  family(olmoe)                  \
  family(glm4_moe)               \
  family(minimax_m2)             \
  family(ernie4_5_moe)           \
  family(gpt_oss)                \
  family(phimoe)                 \
  family(hunyuan_moe)
// clang-format on

#define FLEXGEN_DECLARE(name) const Architecture& name##_architecture();
FLEXGEN_FAMILIES(FLEXGEN_DECLARE)

namespace {

#define FLEXGEN_LIST(name) &name##_architecture,
constexpr std::array kArchitectures{FLEXGEN_FAMILIES(FLEXGEN_LIST)};

}  // namespace

bool LayerContext::has(Role role) const {
  return std::any_of(layer.uses.begin(), layer.uses.end(), [&](const WeightUse& use) { return use.role == role; });
}

const WeightView& LayerContext::operator[](Role role) const {
  static const WeightView kNone;
  for (size_t i = 0; i < layer.uses.size(); ++i)
    if (layer.uses[i].role == role) return w[i];
  return kNone;
}

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

std::vector<WantedWeight> Architecture::expert(const ModelConfig& config, int64_t index, int64_t expert) const {
  const MixtureNames names = mixture_names();
  return WeightList(config, expert_start(index, names.part, expert)).gated(names.gate, names.up, names.down, config.mixture.expert_size);
}

StateSpec Architecture::state(const ModelConfig& config, int64_t index) const {
  const HeadSizes heads = config.heads_of(index);
  return {.heads = heads.kv_heads, .head_size = heads.head_size, .window = config.attention[static_cast<size_t>(index)].window};
}

void append_and_attend(const LayerContext& c, const BlockScratch& s) {
  const ModelConfig& m = c.config;
  const auto [A, G, H] = c.heads();
  FLEXGEN_CHECK(c.kv.query_heads == A && c.kv.kv_heads == G && c.kv.head_size == H, "block {} with a cache of another block's heads", c.layer.index);
  if (m.rotate_keys) {
    c.kernels.hadamard(s.q, c.in.num_rows, A, H);
    c.kernels.hadamard(s.k, c.in.num_rows, G, H);
  }
  c.kernels.append_kv(s.k, s.v, c.in.slots, c.kv);
  c.kernels.attention(s.q, c.in.slots, c.kv, attention_rule(m, c.layer.index), s.act);
}

AttentionRule attention_rule(const ModelConfig& config, int64_t block) {
  const BlockAttention& own = config.attention[static_cast<size_t>(block)];
  const float of_model = config.attention_scale != 0 ? config.attention_scale : 1.0f / std::sqrt(static_cast<float>(config.heads_of(block).head_size));
  return {.scale = own.scale != 0 ? own.scale : of_model,
          .window = own.window,
          .sparsity = config.attention_sparsity,
          .soft_cap = config.attention_cap,
          .slopes = config.alibi_slopes,
          .sinks = own.sinks};
}

#undef FLEXGEN_LIST
#undef FLEXGEN_DECLARE
#undef FLEXGEN_FAMILIES

}  // namespace flexgen
