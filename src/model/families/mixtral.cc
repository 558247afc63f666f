// Mixtral (Jiang et al. 2024): Mistral with 8 experts in each block, of which a row uses two.
//
//   p = softmax(Wrouter x);  h += sum over the k largest of p_e / (their sum) * Wdown_e (silu(Wgate_e x) * Wup_e x),  x = norm2(h)

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Mixtral : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"mixtral"};
    return kTypes;
  }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 0, 8);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-5);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    read_experts(fields, m, {.count = "num_local_experts", .usual_count = 8, .usual_per_row = 2, .size = "intermediate_size"});
    m.mixture.normalized = true;
    m.ropes = {read_rope(fields, m, {.theta = 1e6})};
    set_all_blocks(m, read_window(fields, 0));
  }

  MixtureNames mixture_names() const override { return kMixtralNames; }
};

}  // namespace

const Architecture& mixtral_architecture() {
  static const Mixtral architecture;
  return architecture;
}

}  // namespace flexgen
