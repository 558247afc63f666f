#pragma once
// Decoder: what nearly all families compute, by the config's fields and by which weights a block has. A family says what its fields mean and
// what its tensors are called. Stateless; any thread.
//
//   h = embed_scale * embedding                          (and a row of its position, and a norm of it, where there are these)
//   h += norm(attention(norm(h)));  h += norm(mlp(norm(h)))     each norm where the block has its weight; and the block's scale times what is there then
//   or, in parallel,  h += attention(norm(h)) + mlp(norm(h))    with a norm each, or one for both
//   of a mixture's sparse block (unless its experts are joined later: parts/experts.h)  x = norm(h);  h += shared(x);  h += weight * expert(x) of each chosen expert, in the order of their numbers
//   logits = cap(logit_scale * Woutput norm(h))

#include "model/architecture.h"

namespace flexgen {

class Decoder : public Architecture {
 public:
  std::span<const std::string_view> prefixes() const override;
  /// embed_tokens
  std::vector<WantedWeight> embed(const ModelConfig& m) const override;
  /// input_layernorm, self_attn, post_attention_layernorm and mlp, as Llama has them; in place of mlp a sparse block has a router and what all rows share (mixture_names())
  std::vector<WantedWeight> block(const ModelConfig& m, int64_t index) const override;
  /// norm
  std::vector<WantedWeight> head(const ModelConfig& m) const override;

  void forward_embed(const LayerContext& c, const EmbedScratch& s) const override;
  void before_attention(const LayerContext& c, const BlockScratch& s) const override;
  void after_attention(const LayerContext& c, const BlockScratch& s) const override;
  const std::byte* forward_head(const LayerContext& c, const HeadScratch& s, int64_t num_rows) const override;
};

/// Adds rows of `table`, those of the visit's positions + offset, to the stream.
void add_position_rows(const LayerContext& c, const WeightView& table, int64_t offset);

}  // namespace flexgen
