// MPT (MosaicML 2023): ALiBi instead of positions, LayerNorm without a bias and no other biases, q, k and v in one matrix, cut where it lies,
// and held within a limit where clip_qkv says so.
//
//   h += Wout attention(Wq n, Wk n, Wv n);  h += Wdown gelu(Wup n),  n a norm of h

#include "model/family_fields.h"
#include "model/parts/decoder.h"

namespace flexgen {
namespace {

class Mpt : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"mpt"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }
  std::span<const std::string_view> prefixes() const override {
    static constexpr std::string_view kPrefixes[]{"transformer.", ""};
    return kPrefixes;
  }
  SizeFields size_fields() const override { return {.layers = "n_layers", .hidden = "d_model", .heads = "n_heads", .positions = "max_seq_len"}; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    split_heads(fields, m, "d_model", "n_heads");
    fields.only("expansion_ratio", 4);  // transformers computes with 4, whatever this says
    m.ffn_size = 4 * m.hidden_size;
    m.activation = Activation::kGelu;
    read_layer_norm(fields, m, false, "layer_norm_epsilon");
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", true);
    fields.only("no_bias", true);
    fields.only("logit_scale", nullptr);
    fields.only("embedding_fraction", 1.0);
    fields.only("norm_type", "low_precision_layernorm");
    // With ALiBi there are no learned positions, whatever this says. The others are of training.
    fields.harmless({"learned_pos_emb", "init_device", "init_config", "verbose", "emb_pdrop"});
    read_attention(fields, m);
  }

  std::vector<WantedWeight> embed(const ModelConfig& m) const override { return {WantedWeight::table("wte.weight", m.vocab_size, m.hidden_size)}; }
  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    const int64_t D = m.hidden_size;
    return WeightList(m, "blocks." + std::to_string(index) + ".")
        .norm(Role::kNorm1, "norm_1")
        .part(Role::kQ, "attn.Wqkv", 0, D, 3 * D, D, false)
        .part(Role::kK, "attn.Wqkv", D, D, 3 * D, D, false)
        .part(Role::kV, "attn.Wqkv", 2 * D, D, 3 * D, D, false)
        .linear(Role::kO, "attn.out_proj", D, D, false)
        .norm(Role::kNorm2, "norm_2")
        .linear(Role::kUp, "ffn.up_proj", m.ffn_size, D, false)
        .inner_scales("ffn.act.scales")
        .linear(Role::kDown, "ffn.down_proj", D, m.ffn_size, false);
  }
  std::vector<WantedWeight> head(const ModelConfig& m) const override { return WeightList(m, "").norm(Role::kFinalNorm, "norm_f"); }

 private:
  static void read_attention(ConfigFields& fields, ModelConfig& m) {
    const nlohmann::json none = nlohmann::json::object(), *object = fields.find("attn_config");
    if (object && !object->is_object()) fields.refuse("attn_config", "must be an object");
    ConfigFields attention = fields.inner(object ? *object : none, "attn_config");
    attention.only("attn_type", "multihead_attention");
    attention.only("alibi", true);
    attention.only("qk_ln", false);
    // As in transformers, 0 is none.
    if (const nlohmann::json* limit = attention.find("clip_qkv"); !limit || *limit != 0) read_qkv_limit(attention, m);
    attention.only("prefix_lm", false);
    attention.only("attn_uses_sequence_id", false);
    attention.harmless({"attn_pdrop", "attn_impl", "model_type"});
    // transformers takes it for a config of its own, and writes what every config has.
    attention.only("is_encoder_decoder", false);
    attention.harmless({"_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "torch_dtype", "id2label", "label2id", "output_attentions",
                        "output_hidden_states", "problem_type", "return_dict", "transformers_version"});
    if (attention.find("softmax_scale")) m.attention_scale = static_cast<float>(attention.positive("softmax_scale", 1e9));
    // transformers computes with 8, whatever this says: MosaicML's own code, which such models were trained with, goes by it.
    m.alibi_slopes = alibi_slopes(m.num_heads, attention.positive_or("alibi_bias_max", 8, 1e9));
    attention.finish();
  }
};

}  // namespace

const Architecture& mpt_architecture() {
  static const Mpt architecture;
  return architecture;
}

}  // namespace flexgen
