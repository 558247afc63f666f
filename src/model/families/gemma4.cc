// Gemma 4 (Google 2026), its text part: 31B, 12B, and 26B-A4B, whose blocks have experts beside the feed-forward part. Layers with a window and those without differ in their
// heads (of 256 and of 512 elements), in how many of them are keys and values, and in their angles; those without take what they project as keys for values, too. What E2B
// and E4B have beside is refused: inputs that each layer looks up by token, and layers that attend to the keys and values of an earlier one.
//
//   q = turn(norm(Wq n)), k = turn(norm(Wk n)), v = norm(Wv n) by its length alone, or norm(Wk n);  n = norm(h)
//   h += norm(Wo attention(q, k, v));  h += norm(mlp(norm(h)));  h *= the block's scale;  mlp(x) = Wdown (gelu(Wgate x) * Wup x)
//
//   with experts  h += norm(norm(mlp(norm(h))) + norm(sum of p_e s_e expert_e(norm(h)))),  p = softmax(Wrouter r / sqrt(D)) of the k largest, divided by their sum,
//   where r is one more norm of h, and s_e a number of each expert

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "io/checked_json.h"
#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

/// What transformers' two classes for the text part differ in: what holds where the file says nothing, and what one of them does not compute.
struct Usual {
  std::string_view model_type;
  int64_t positions, window;
  int64_t layer_inputs;  ///< elements of inputs that each layer looks up by token
  bool may_have_experts;
};
constexpr Usual kGemma4Text{"gemma4_text", 131072, 512, 256, true};
/// Of 12B, which projects images and sounds straight into the stream of a dense decoder.
constexpr Usual kUnifiedText{"gemma4_unified_text", 262144, 1024, 0, false};

class Gemma4 : public Decoder {
 public:
  explicit Gemma4(const Usual& usual) : usual_(usual) {}
  std::span<const std::string_view> model_types() const override { return {&usual_.model_type, 1}; }
  SizeFields size_fields() const override {
    SizeFields fields;
    fields.usual_heads = 8;
    fields.usual_vocab = 262144;
    fields.usual_positions = usual_.positions;
    fields.usual_of = usual_.model_type;
    return fields;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    refuse_small_models(fields, usual_.layer_inputs);
    read_heads(fields, m, 256, 4);
    read_gated(fields, m, "hidden_activation", "gelu_pytorch_tanh");
    read_rms_norm(fields, m, 1e-6);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    m.embed_scale = std::sqrt(static_cast<float>(m.hidden_size));
    m.qkv_bias = m.output_bias = fields.flag_or("attention_bias", false);
    m.branch_norms = m.value_norm = true;
    m.qk_norm = QkNorm::kHead;
    m.attention_scale = 1;
    m.logit_cap = read_cap(fields, "final_logit_softcapping", 0);
    // Images' tokens would see each other; those of a text do not.
    if (const nlohmann::json* both_ways = fields.find("use_bidirectional_attention"); both_ways && *both_ways != "vision" && *both_ways != false)
      fields.refuse("use_bidirectional_attention", fmt::format("is {}; flexgen runs causal models alone", printable(both_ways->dump())));
    if (!usual_.may_have_experts) fields.only("enable_moe_block", false);
    if (fields.flag_or("enable_moe_block", false)) {
      read_experts(fields, m, {.count = "num_experts", .per_row = "top_k_experts", .size = "moe_intermediate_size"});
      m.mixture.normalized = m.mixture.joined = true;
      m.mixture.logit_factor = 1 / m.embed_scale;
    }
    fields.harmless({"num_experts", "top_k_experts", "moe_intermediate_size"});  // of these alone

    const int64_t window = read_window(fields, usual_.window);
    std::vector<bool> windowed = read_layer_types(fields, m, window, [](int64_t block) { return (block + 1) % 6 != 0; });
    windowed.back() = false;  // transformers' class sees to it, whatever the file says
    set_blocks(m, windowed, window, 0, 1);
    read_own_heads(fields, m, windowed);
    read_angles(fields, m, windowed);
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    WeightList w(m, layer_start(index));
    w.norm(Role::kNorm1, "input_layernorm").attention_of(index).norm(Role::kPostNorm1, "post_attention_layernorm");
    if (!m.is_sparse(index)) return add_dense(w, index);
    return w.norm(Role::kNorm2, "pre_feedforward_layernorm_2")
        .add(WantedWeight::vector(layer_start(index) + "router.scale", m.hidden_size, Role::kRouterNorm))
        .router("router.proj")
        .add(WantedWeight::vector(layer_start(index) + "router.per_expert_scale", m.mixture.num_experts, Role::kExpertScales));
  }

  std::vector<WantedWeight> expert(const ModelConfig& m, int64_t index, int64_t expert) const override {
    const int64_t D = m.hidden_size, F = m.mixture.expert_size;
    const std::string start = layer_start(index) + "experts.";
    auto half = [&](Role role, int64_t first) {
      WantedWeight matrix = WantedWeight::matrix(start + "gate_up_proj", F, D, role);
      matrix.part_first = first;
      matrix.part_of = 2 * F;
      return matrix;
    };
    return WeightList(m, "")
        .add(half(Role::kGate, 0))
        .add(half(Role::kUp, F))
        .add(WantedWeight::matrix(start + "down_proj", D, F, Role::kDown))
        .of_expert(expert);
  }

  std::vector<WantedWeight> join(const ModelConfig& m, int64_t index) const override {
    WeightList w(m, layer_start(index));
    w.norm(Role::kDensePostNorm, "post_feedforward_layernorm_1").norm(Role::kExpertsPostNorm, "post_feedforward_layernorm_2");
    return add_dense(w, index);
  }

 private:
  static WeightList& add_dense(WeightList& w, int64_t index) {
    return w.norm(Role::kNorm2, "pre_feedforward_layernorm")
        .feed_forward()
        .norm(Role::kPostNorm2, "post_feedforward_layernorm")
        .add(WantedWeight::vector(layer_start(index) + "layer_scalar", 1, Role::kBlockScale));
  }

  static void refuse_small_models(ConfigFields& fields, int64_t usual_inputs) {
    const bool is_said = fields.contains("hidden_size_per_layer_input");
    if (const int64_t size = fields.integer_or("hidden_size_per_layer_input", is_said ? 0 : usual_inputs, 0, 1 << 20); size != 0)
      fields.refuse("hidden_size_per_layer_input", fmt::format("{} {}: layers have inputs of their own (E2B, E4B), which flexgen does not compute",
                                                               is_said ? "is" : "is not there, which means", size));
    if (const int64_t shared = fields.integer_or("num_kv_shared_layers", 0, 0, 1 << 20); shared != 0)
      fields.refuse("num_kv_shared_layers", fmt::format("is {}: layers attend to the keys and values of others (E2B, E4B), which flexgen does not do", shared));
    fields.harmless({"vocab_size_per_layer_input", "use_double_wide_mlp"});  // of these alone
  }

  /// Of layers without a window in published files; of each layer that has some in those that transformers 5 writes.
  static void read_own_heads(ConfigFields& fields, ModelConfig& m, const std::vector<bool>& windowed) {
    const bool keys_are_values = fields.flag_or("attention_k_eq_v", false), by_layer = fields.contains("per_layer_config");
    const int64_t head_size = fields.integer_or("global_head_dim", 512, 1, 1 << 16);
    const int64_t kv_heads = fields.integer_or("num_global_key_value_heads", m.num_kv_heads, 1, m.num_heads);
    for (size_t i = 0; i < windowed.size(); ++i) {
      if (windowed[i]) continue;
      m.attention[i].keys_are_values = keys_are_values;
      if (by_layer) continue;
      m.attention[i].head_size = head_size;
      if (keys_are_values) m.attention[i].kv_heads = kv_heads;
    }
    if (const nlohmann::json* layers = fields.find("per_layer_config")) read_layers(fields, *layers, m);
    const char* const field = by_layer ? "per_layer_config" : "num_global_key_value_heads";
    for (int64_t block = 0; block < m.num_layers; ++block) {
      const HeadSizes heads = m.heads_of(block);
      if (heads.heads % heads.kv_heads != 0)
        fields.refuse(field, fmt::format("gives layer {} {} heads for keys and values, which does not divide num_attention_heads", block, heads.kv_heads));
      if (heads.q_width() > (1 << 20))
        fields.refuse(by_layer ? field : "global_head_dim", fmt::format("is {}, which is absurd with {} heads", heads.head_size, heads.heads));
    }
  }

  static void read_layers(ConfigFields& fields, const nlohmann::json& layers, ModelConfig& m) {
    if (!layers.is_object()) fields.refuse("per_layer_config", "must be an object with layers' numbers");
    for (const auto& [name, own] : layers.items()) {
      int64_t block = -1;
      const auto [rest, error] = std::from_chars(name.data(), name.data() + name.size(), block);
      if (error != std::errc() || rest != name.data() + name.size() || block < 0 || block >= m.num_layers || !own.is_object())
        fields.refuse("per_layer_config", fmt::format("has '{}'; it must have objects for layers 0 to {}", printable(name), m.num_layers - 1));
      ConfigFields layer = fields.inner(own, "per_layer_config." + name);
      BlockAttention& attention = m.attention[static_cast<size_t>(block)];
      attention.head_size = layer.integer_or("head_dim", m.head_size, 1, 1 << 16);
      attention.kv_heads = layer.integer_or("num_key_value_heads", m.num_kv_heads, 1, m.num_heads);
      layer.finish();
    }
  }

  /// One table for layers with a window, one for the others.
  static void read_angles(ConfigFields& fields, ModelConfig& m, const std::vector<bool>& windowed) {
    for (const char* older : {"rope_theta", "rope_scaling"}) fields.only(older, nullptr);  // older names of what rope_parameters says
    struct Kind {
      bool windowed;
      RopeFields rope;
    };
    const Kind kinds[]{{true, {.theta = 1e4, .layer_type = "sliding_attention"}},
                       {false,
                        {.theta = 1e6,
                         .may_be_partial = true,
                         .layer_type = "full_attention",
                         .usual = R"({"rope_type": "proportional", "partial_rotary_factor": 0.25})",
                         .may_be_proportional = true}}};
    for (Kind kind : kinds) {
      for (size_t i = 0; i < windowed.size(); ++i) {
        if (windowed[i] != kind.windowed) continue;
        const int64_t size = m.heads_of(static_cast<int64_t>(i)).head_size;
        if (kind.rope.head_size != 0 && kind.rope.head_size != size)
          fields.refuse("per_layer_config", fmt::format("gives layers of {} heads of {} and of {} elements", kind.rope.layer_type, kind.rope.head_size, size));
        kind.rope.head_size = size;
      }
      const nlohmann::json* all = fields.find("rope_parameters");
      if (all && all->is_object() && kind.rope.head_size != 0 && !all->contains(std::string(kind.rope.layer_type)))
        fields.refuse("rope_parameters", fmt::format("says nothing of {}", kind.rope.layer_type));
      m.ropes.push_back(read_rope(fields, m, kind.rope));
    }
  }

  const Usual& usual_;
};

}  // namespace

const Architecture& gemma4_architecture() {
  static const Gemma4 architecture(kGemma4Text);
  return architecture;
}

const Architecture& gemma4_unified_architecture() {
  static const Gemma4 architecture(kUnifiedText);
  return architecture;
}

}  // namespace flexgen
