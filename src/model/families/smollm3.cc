// SmolLM3 (Hugging Face 2025): Llama without RoPE in every fourth layer (NoPE: Yang et al. 2025).

#include <fmt/format.h>

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class SmolLm3 : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"smollm3"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 0, 4);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-6);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    m.mlp_bias = fields.flag_or("mlp_bias", false);
    m.ropes = {read_rope(fields, m, {.theta = 2e6})};
    const std::vector<bool> turns = read_turning_layers(fields, m);
    const int64_t wide = read_window(fields, 0), window = fields.flag_or("use_sliding_window", false) ? wide : 0;
    const std::vector<bool> windowed = read_layer_types(fields, m, window, [&](int64_t block) { return window > 0 && !turns[static_cast<size_t>(block)]; });
    for (size_t i = 0; i < windowed.size(); ++i) m.attention[i] = {windowed[i] ? window : 0, turns[i] ? 0 : -1};
  }

 private:
  /// no_rope_layers: 1 where queries and keys are turned, 0 where they are not, whatever the name says.
  static std::vector<bool> read_turning_layers(ConfigFields& fields, const ModelConfig& m) {
    const int64_t interval = fields.integer_or("no_rope_layer_interval", 4, 1, 1 << 20);
    std::vector<bool> turns;
    for (int64_t block = 0; block < m.num_layers; ++block) turns.push_back((block + 1) % interval != 0);
    const nlohmann::json* listed = fields.find("no_rope_layers");
    if (!listed) return turns;
    if (!listed->is_array() || static_cast<int64_t>(listed->size()) != m.num_layers)
      fields.refuse("no_rope_layers", fmt::format("must be a list of {} numbers, one a layer", m.num_layers));
    for (size_t i = 0; i < turns.size(); ++i) {
      if ((*listed)[i] != 0 && (*listed)[i] != 1) fields.refuse("no_rope_layers", "must hold 0 and 1 alone");
      turns[i] = (*listed)[i] == 1;
    }
    return turns;
  }
};

}  // namespace

const Architecture& smollm3_architecture() {
  static const SmolLm3 architecture;
  return architecture;
}

}  // namespace flexgen
