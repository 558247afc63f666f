#pragma once
// Architecture: one family of transformers, as a list of weights and the forward of its three kinds of layers.
// To add a family: one file with a class like those in opt.cc and llama.cc, one line in architecture_of() (model.cc),
// and its fields in config.cc. Stateless; any thread.

#include <algorithm>
#include <string>
#include <vector>

#include "base/units.h"
#include "model/config.h"
#include "model/model.h"

namespace flexgen {

/// A tensor that a layer needs; the name is without the checkpoint's prefix.
struct WantedWeight {
  std::string name;
  int64_t rows = 1, cols = 0;  ///< a vector is [1, cols]
  bool always_resident = false;
  bool lookup = false;

  static WantedWeight matrix(std::string name, int64_t rows, int64_t cols) { return {std::move(name), rows, cols, false, false}; }
  /// Norms and biases.
  static WantedWeight vector(std::string name, int64_t size) { return {std::move(name), 1, size, true, false}; }
  /// Small matrices that are not worth streaming.
  static WantedWeight small(std::string name, int64_t rows, int64_t cols) { return {std::move(name), rows, cols, true, false}; }
  static WantedWeight table(std::string name, int64_t rows, int64_t cols) { return {std::move(name), rows, cols, false, true}; }
};

/// Hands out pieces of the scratch memory; with no memory behind it, it only counts. The same code runs for both, so
/// what was planned and what is used cannot disagree.
class Scratch {
 public:
  explicit Scratch(std::byte* base) : base_(base) {}
  float* floats(int64_t count) { return reinterpret_cast<float*>(bytes(4 * count)); }
  std::byte* bytes(int64_t size) {
    std::byte* at = base_ + used_;
    used_ += round_up(size, 64);
    return at;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

/// Rows that go through the feed-forward part at a time: bounds its scratch.
inline constexpr int64_t kFfnPanelRows = 512;
/// Rows of logits computed at a time.
inline constexpr int64_t kLogitPanelRows = 256;

/// The scratch of a block for T rows. An act element counts as 4 bytes.
struct BlockScratch {
  BlockScratch(Scratch& scratch, const ModelConfig& config, int64_t rows) {
    int64_t panel = std::min(rows, kFfnPanelRows);
    int64_t attention_width = config.num_heads * config.head_size, kv_width = config.num_kv_heads * config.head_size;
    act = scratch.bytes(4 * rows * std::max(config.hidden_size, attention_width));
    q = scratch.floats(rows * attention_width);
    k = scratch.floats(rows * kv_width);
    v = scratch.floats(rows * kv_width);
    up = scratch.floats(panel * config.ffn_size);
    gate = scratch.floats(panel * config.ffn_size);
    inner = scratch.bytes(4 * panel * config.ffn_size);
  }
  std::byte* act;    ///< [T, max(D, A*H)] act: normalized rows, then what attention gives
  float *q, *k, *v;  ///< [T, A*H], [T, G*H], [T, G*H]
  float *up, *gate;  ///< [panel, F]
  std::byte* inner;  ///< [panel, F] act
};

/// What a layer's forward works with.
struct LayerContext {
  const ModelConfig& config;
  std::span<const WeightView> w;  ///< in the order of the layer's list
  const VisitInput& in;
  const KvGeometry& kv;
  float* hidden;  ///< [T, D]
  Scratch& scratch;
  Kernels& kernels;
};

class Architecture {
 public:
  virtual ~Architecture() = default;
  virtual std::vector<WantedWeight> embed(const ModelConfig& config) const = 0;
  virtual std::vector<WantedWeight> block(const ModelConfig& config, int64_t index) const = 0;
  /// All that the head needs besides the output matrix.
  virtual std::vector<WantedWeight> head(const ModelConfig& config) const = 0;

  virtual void forward_embed(LayerContext& c) const = 0;
  virtual void forward_block(LayerContext& c) const = 0;
  /// x [R, D] f32, R = rows that want logits (may be changed) -> act [R, embed_size], the input of the output matrix.
  virtual void forward_head(LayerContext& c, float* x, int64_t num_rows, std::byte* out) const = 0;
};

const Architecture& opt_architecture();
const Architecture& llama_architecture();

}  // namespace flexgen
