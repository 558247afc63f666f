// EXAONE 4 (LG 2025): what attention and feed-forward add is normalized, what they read is not; each head of q and k is normalized; the larger one has a window in
// three layers of four, and no RoPE in the others.

#include "model/family_fields.h"
#include "model/parts/decoder.h"
#include "model/rope.h"

namespace flexgen {
namespace {

class Exaone4 : public Decoder {
 public:
  std::span<const std::string_view> model_types() const override {
    static constexpr std::string_view kTypes[]{"exaone4"};
    return kTypes;
  }
  bool brings_own_code() const override { return true; }

  void read_config(ConfigFields& fields, ModelConfig& m) const override {
    read_heads(fields, m, 0, 32);
    read_gated(fields, m);
    read_rms_norm(fields, m, 1e-5);
    m.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
    m.branch_norms = true;
    m.qk_norm = QkNorm::kHead;
    m.ropes = {read_rope(fields, m)};
    const int64_t window = read_window(fields, 4096);
    const std::vector<bool> windowed = read_layer_types(fields, m, window, pattern_of(fields, m, window));
    set_blocks(m, windowed, window, 0, window == 0 ? 0 : -1);
  }

  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override {
    return WeightList(m, layer_start(index))
        .attention()
        .norm(Role::kPostNorm1, "post_attention_layernorm")
        .feed_forward()
        .norm(Role::kPostNorm2, "post_feedforward_layernorm");
  }

 private:
  /// sliding_window_pattern: every so many-th layer has no window, or a word such as "LLLG" for layers with (L) and without one in turn, whose last
  /// layer of all has none.
  static std::function<bool(int64_t)> pattern_of(ConfigFields& fields, const ModelConfig& m, int64_t window) {
    const nlohmann::json* pattern = fields.find("sliding_window_pattern");
    if (pattern && pattern->is_string()) {
      const std::string word = pattern->get<std::string>();
      if (word.empty() || word.find_first_not_of("LG") != std::string::npos) fields.refuse("sliding_window_pattern", "must be a number, or a word of L and G");
      return [word, window, last = m.num_layers - 1](int64_t block) {
        return window > 0 && block != last && word[static_cast<size_t>(block) % word.size()] == 'L';
      };
    }
    const int64_t every = fields.integer_or("sliding_window_pattern", 4, 0, 1 << 20);
    return [every, window](int64_t block) { return window > 0 && every > 0 && (block + 1) % every != 0; };
  }
};

}  // namespace

const Architecture& exaone4_architecture() {
  static const Exaone4 architecture;
  return architecture;
}

}  // namespace flexgen
