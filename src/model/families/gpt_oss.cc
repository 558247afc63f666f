// gpt-oss (OpenAI 2025: 20b, 120b): windows and full attention in turn, a learned sink for each query head, YaRN, biases everywhere, and experts with
// a clamped gate. The matrices of all experts of a block are one tensor, rows of gate and up in turn; in MXFP4 as it is shipped,
// two: codes and scales.
//
//   e = the k experts with the largest r = Wrouter x + b;  p = softmax of these k (softmax over all r, divided by the sum of the k, is the same);
//   h += sum of p_e (Wdown_e (g sigmoid(alpha g) (u + 1)) + b),   g = min(Wgate_e x + b, limit),  u = Wup_e x + b from -limit to limit

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class GptOss : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"gpt_oss"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 64, 8);
    read_gated(fields, m);
    fields.only("hidden_act", "silu");
    read_rms_norm(fields, m, 1e-5);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", true);

    Mixture& mixture = m.mixture;
    read_experts(fields, m, {.count = "num_local_experts", .count_too = "num_experts", .usual_count = 128, .usual_per_row = 4, .size = "intermediate_size"});
    mixture.normalized = mixture.logit_bias = true;
    mixture.in_pairs = true;  // of a GGUF they are apart
    mixture.clamped = {static_cast<float>(fields.positive_or("swiglu_alpha", 1.702, 1e6)), static_cast<float>(fields.positive_or("swiglu_limit", 7, 1e30))};

    m.ropes = {read_rope(fields, m, {.theta = 150000, .usual = R"({"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
                                                                    "original_max_position_embeddings": 4096})"})};
    const int64_t window = read_window(fields, 128);
    set_blocks(m, read_layer_types(fields, m, window, [](int64_t block) { return block % 2 == 0; }), window, 0, 0);
    // Said a second time under other names.
    fields.harmless({"experts_per_token", "initial_context_length"});
  }

  MixtureNames mixture_names() const override { return {.router = "mlp.router", .bias = "mlp.router.bias"}; }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    std::vector<WantedWeight> weights = Decoder::block(m, index);
    weights.push_back(WantedWeight::vector(layer_start(index) + "self_attn.sinks", m.num_heads, Role::kSinks));
    return weights;
  }

  std::vector<WantedWeight> expert(const ModelConfig& m, int64_t index, int64_t expert) const override {
    const int64_t D = m.hidden_size, F = m.mixture.expert_size;
    if (!m.mixture.in_pairs)
      return WeightList(m, expert_start(index, "mlp", expert))
          .linear(Role::kGate, "gate_proj", F, D, true)
          .linear(Role::kUp, "up_proj", F, D, true)
          .linear(Role::kDown, "down_proj", D, F, true);
    const std::string start = layer_start(index) + "mlp.experts.";
    // As codes they are [out, in], in 16 bits [in, out].
    auto stored = [&](WantedWeight matrix) {
      matrix.mxfp4 = m.quantization.method == Quantization::Method::kMxfp4;
      matrix.turned = !matrix.mxfp4;
      return matrix;
    };
    return WeightList(m, "")
        .add(stored(WantedWeight::matrix(start + "gate_up_proj", 2 * F, D, Role::kGateUp)))
        .add(WantedWeight::vector(start + "gate_up_proj_bias", 2 * F, Role::kGateUpBias))
        .add(stored(WantedWeight::matrix(start + "down_proj", D, F, Role::kDown)))
        .add(WantedWeight::vector(start + "down_proj_bias", D, Role::kDownBias))
        .of_expert(expert);
  }
};

}  // namespace

const Architecture& gpt_oss_architecture() {
  static const GptOss architecture;
  return architecture;
}

}  // namespace flexgen
