#pragma once
// Scratch memory of a visit: which pieces each kind of layer needs. The same code plans the memory and hands it out, so
// that what was planned and what is used cannot disagree. One thread.

#include <algorithm>
#include <cstddef>

#include "base/units.h"
#include "model/config.h"

namespace flexgen {

/// Hands out pieces in order, 64-byte aligned; with no memory behind it, it only counts.
class Scratch {
 public:
  explicit Scratch(std::byte* base) : base_(base) {}
  float* floats(int64_t count) { return reinterpret_cast<float*>(take(4 * count)); }
  /// `count` elements of act, which may be as wide as 4 bytes.
  std::byte* acts(int64_t count) { return take(4 * count); }
  int64_t used() const { return used_; }

 private:
  std::byte* take(int64_t size) {
    std::byte* at = base_ ? base_ + used_ : nullptr;
    used_ += round_up(size, 64);
    return at;
  }
  std::byte* base_;
  int64_t used_ = 0;
};

/// Rows that go through the feed-forward part at a time: bounds its scratch. A multiple of the matmul's own panels.
inline constexpr int64_t kFfnPanelRows = 512;
/// Rows of logits computed at a time.
inline constexpr int64_t kLogitPanelRows = 256;

/// For T rows; nothing unless embeddings are narrower than the residual stream (opt-350m).
struct EmbedScratch {
  EmbedScratch(Scratch& scratch, const ModelConfig& config, int64_t rows) {
    if (config.embed_size == config.hidden_size) return;
    narrow = scratch.floats(rows * config.embed_size);
    act = scratch.acts(rows * config.embed_size);
  }
  float* narrow = nullptr;   ///< [T, E]
  std::byte* act = nullptr;  ///< [T, E] act
};

/// For T rows. What attention reads and gives is of the whole visit, as it wants all of it; the inside of the feed-forward part, and what is added to the stream, in panels.
struct BlockScratch {
  BlockScratch(Scratch& scratch, const ModelConfig& config, int64_t rows) {
    const int64_t panel = std::min(rows, kFfnPanelRows);
    const int64_t q_width = config.widest_q(), kv_width = config.widest_kv();
    act = scratch.acts(rows * std::max(config.hidden_size, q_width));
    q = scratch.floats(rows * q_width);
    k = scratch.floats(rows * kv_width);
    v = scratch.floats(rows * kv_width);
    const int64_t ffn = config.widest_ffn();
    up = scratch.floats(panel * ffn);
    if (config.gated_ffn) gate = scratch.floats(panel * ffn);
    inner = scratch.acts(panel * ffn);
    if (config.fused_qkv) fused = scratch.floats(rows * (q_width + 2 * kv_width));
    if (config.parallel) beside = scratch.acts(rows * config.hidden_size);
    if (config.adds_apart() || config.mixture.shared_gate) branch = scratch.floats(panel * config.hidden_size);
    if (config.is_mixture()) router = scratch.floats(rows * config.mixture.num_experts);
    if (config.mixture.shared_gate) shared_gate = scratch.floats(panel);
  }
  std::byte* act;                ///< [T, max(D, A*H)] act: normalized rows, then what attention gives
  float *q, *k, *v;              ///< [T, A*H], [T, G*H], [T, G*H], each of the block's own heads
  float* up;                     ///< [panel, F]
  float* gate = nullptr;         ///< [panel, F]
  std::byte* inner;              ///< [panel, F] act
  float* fused = nullptr;        ///< [T, (A + 2 G) * H]: q, k and v of one product
  std::byte* beside = nullptr;   ///< [T, D] act: what a feed-forward part beside attention reads
  float* branch = nullptr;       ///< [panel, D]: what is to be added to the stream
  float* router = nullptr;       ///< [T, E]: a mixture's logits, as its choices are of the whole visit too
  float* shared_gate = nullptr;  ///< [panel]
};

/// For T rows that meet a unit of experts; an expert's rows go through it in panels.
struct ExpertScratch {
  ExpertScratch(Scratch& scratch, const ModelConfig& config, int64_t rows) {
    const int64_t panel = std::min(rows, kFfnPanelRows), size = config.mixture.expert_size;
    x = scratch.acts(panel * config.hidden_size);
    if (config.mixture.in_pairs) {
      pairs = scratch.floats(panel * 2 * size);
    } else {
      gate = scratch.floats(panel * size);
      up = scratch.floats(panel * size);
    }
    inner = scratch.acts(panel * size);
    out = scratch.floats(panel * config.hidden_size);
  }
  std::byte* x;                          ///< [panel, D] act
  float *gate = nullptr, *up = nullptr;  ///< [panel, F]
  float* pairs = nullptr;                ///< [panel, F, 2]: both, where one matrix makes them
  std::byte* inner;                      ///< [panel, F] act
  float* out;                            ///< [panel, D]
};

/// For a panel of rows that want logits, of a chunk of the vocabulary.
struct HeadScratch {
  HeadScratch(Scratch& scratch, const ModelConfig& config, int64_t logit_rows, int64_t vocab_count) {
    const int64_t panel = std::min(logit_rows, kLogitPanelRows);
    x = scratch.floats(panel * config.hidden_size);
    act = scratch.acts(panel * config.hidden_size);
    if (config.embed_size != config.hidden_size) {
      projected = scratch.floats(panel * config.embed_size);
      narrow = scratch.acts(panel * config.embed_size);
    }
    logits = scratch.floats(panel * vocab_count);
  }
  float* x;                     ///< [panel, D]
  std::byte* act;               ///< [panel, D] act
  float* projected = nullptr;   ///< [panel, E]
  std::byte* narrow = nullptr;  ///< [panel, E] act
  float* logits;                ///< [panel, vocab_count]
};

}  // namespace flexgen
