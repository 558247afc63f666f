#include "model/parts/decoder.h"

#include "base/error.h"
#include "model/parts/attention.h"
#include "model/parts/experts.h"
#include "model/parts/feed_forward.h"
#include "model/parts/norm.h"

namespace flexgen {

std::span<const std::string_view> Decoder::prefixes() const {
  static constexpr std::string_view kPrefixes[]{"model.", ""};
  return kPrefixes;
}

std::vector<WantedWeight> Decoder::embed(const ModelConfig& m) const { return {WantedWeight::table("embed_tokens.weight", m.vocab_size, m.hidden_size)}; }

std::vector<WantedWeight> Decoder::block(const ModelConfig& m, int64_t index) const {
  WeightList w(m, layer_start(index));
  w.norm(Role::kNorm1, "input_layernorm").attention_of(index).norm(Role::kNorm2, "post_attention_layernorm");
  if (!m.is_sparse(index)) return w.feed_forward();
  const MixtureNames names = mixture_names();
  w.router(names.router, names.bias);
  if (m.mixture.shared_size == 0) return w;
  const std::string shared = names.shared;
  if (m.mixture.shared_gate) w.add(WantedWeight::small_matrix(layer_start(index) + shared + "_gate.weight", 1, m.hidden_size, Role::kSharedGate));
  const auto name = [&](const char* matrix) { return shared + "." + matrix; };
  return w.gated(name(names.gate), name(names.up), name(names.down), m.mixture.shared_size);
}

std::vector<WantedWeight> Decoder::head(const ModelConfig& m) const {
  WeightList weights = WeightList(m, "").norm(Role::kFinalNorm, "norm");
  return m.logit_bias ? weights.add(WantedWeight::vector("lm_head.bias", m.vocab_size, Role::kOutputBias)) : weights;
}

void Decoder::forward_embed(const LayerContext& c, const EmbedScratch&) const {
  const ModelConfig& m = c.config;
  c.kernels.gather_rows(c.in.embed_rows, c[Role::kTokens].dtype, m.hidden_size, false, c.hidden);
  if (m.embed_scale != 1) c.kernels.scale(c.hidden, c.in.num_rows * m.hidden_size, m.embed_scale, 0);
  if (c.has(Role::kPositions)) add_position_rows(c, c[Role::kPositions], 0);
  normalize_in_place(c, Role::kEmbedNorm, c.hidden, c.in.num_rows);
}

void Decoder::before_attention(const LayerContext& c, const BlockScratch& s) const {
  normalize(c, Role::kNorm1, c.hidden, c.in.num_rows, s.act);
  project_attention_inputs(c, s);
}

void Decoder::after_attention(const LayerContext& c, const BlockScratch& s) const {
  if (c.config.parallel) {
    normalize(c, c.has(Role::kNorm2) ? Role::kNorm2 : Role::kNorm1, c.hidden, c.in.num_rows, s.beside);
    add_attention(c, s);
    add_feed_forward(c, s, s.beside);
  } else {
    add_attention(c, s);
    if (c.has(Role::kRouter)) return choose_experts(c, s);
    normalize(c, Role::kNorm2, c.hidden, c.in.num_rows, s.act);
    add_feed_forward(c, s, s.act);
  }
  scale_block(c);
}

const std::byte* Decoder::forward_head(const LayerContext& c, const HeadScratch& s, int64_t num_rows) const {
  normalize(c, Role::kFinalNorm, s.x, num_rows, s.act);
  return s.act;
}

void add_position_rows(const LayerContext& c, const WeightView& table, int64_t offset) {
  std::vector<const std::byte*> rows;
  rows.reserve(c.in.positions.size());
  for (int32_t position : c.in.positions) {
    FLEXGEN_CHECK(position >= 0 && position < c.config.max_positions, "position {}", position);
    rows.push_back(table.data() + (position + offset) * size_bytes(table.dtype, table.cols));
  }
  c.kernels.gather_rows(rows, table.dtype, c.config.hidden_size, true, c.hidden);
}

}  // namespace flexgen
