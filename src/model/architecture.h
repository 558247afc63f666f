#pragma once
// Architecture: one family of transformers, as a list of weights and the forward of its three kinds of layers: embed,
// block, head. Stateless; any thread.
//
// To add a family: one file with a class like those in opt.cc and llama.cc, and one line in the table of architecture.cc.
//   1. model_types() and read_config(): the fields of config.json that belong to the family. Ask for every field that changes
//      what is computed and refuse the values that the class does not do; name the harmless ones. What is
//      left is refused.
//   2. embed(), block(), head(): the tensors by name and shape, in an order of your own.
//   3. forward_*(), before_ and after_attention(): the same order in c.w; scratch as in scratch.h.
//   4. A line in tools/make_golden_fixtures.py, whose fixture golden_test.cc then runs.

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/config_fields.h"
#include "model/model.h"
#include "model/scratch.h"

namespace flexgen {

/// A tensor that a layer needs; the name is without the checkpoint's prefix.
struct WantedWeight {
  enum class Kind {
    kMatrix,       ///< of a linear layer; streamed
    kSmallMatrix,  ///< of a linear layer too small to be worth streaming; always resident
    kVector,       ///< norms and biases; always resident
    kSmallTable,   ///< rows are picked; always resident (positions)
    kTable,        ///< rows are looked up where they lie (the embedding)
  };
  Kind kind;
  std::string name;
  int64_t rows = 1, cols = 0;  ///< a vector is [1, cols]

  static WantedWeight matrix(std::string name, int64_t rows, int64_t cols) { return {Kind::kMatrix, std::move(name), rows, cols}; }
  static WantedWeight small_matrix(std::string name, int64_t rows, int64_t cols) { return {Kind::kSmallMatrix, std::move(name), rows, cols}; }
  static WantedWeight vector(std::string name, int64_t size) { return {Kind::kVector, std::move(name), 1, size}; }
  static WantedWeight small_table(std::string name, int64_t rows, int64_t cols) { return {Kind::kSmallTable, std::move(name), rows, cols}; }
  static WantedWeight table(std::string name, int64_t rows, int64_t cols) { return {Kind::kTable, std::move(name), rows, cols}; }

  bool always_resident() const { return kind != Kind::kMatrix && kind != Kind::kTable; }
  bool lookup() const { return kind == Kind::kTable; }
  bool multiplied() const { return kind == Kind::kMatrix || kind == Kind::kSmallMatrix; }
};

/// What a layer's forward works with.
struct LayerContext {
  const ModelConfig& config;
  std::span<const WeightView> w;  ///< in the order of the layer's list
  const VisitInput& in;
  const KvGeometry& kv;
  float* hidden;  ///< [T, D]
  Kernels& kernels;
};

class Architecture {
 public:
  virtual ~Architecture() = default;

  /// Values of config.json's model_type that this class does.
  virtual std::span<const std::string_view> model_types() const = 0;
  /// What tensor names may start with; the first is how we name them ourselves.
  virtual std::span<const std::string_view> prefixes() const = 0;
  /// Fills the rest of `config`, whose sizes that all families share are there.
  virtual void read_config(ConfigFields& fields, ModelConfig& config) const = 0;

  virtual std::vector<WantedWeight> embed(const ModelConfig& config) const = 0;
  virtual std::vector<WantedWeight> block(const ModelConfig& config, int64_t index) const = 0;
  /// All that the head needs besides the output matrix.
  virtual std::vector<WantedWeight> head(const ModelConfig& config) const = 0;

  virtual void forward_embed(const LayerContext& c, const EmbedScratch& s) const = 0;
  /// A block in three stages, as the middle one may run beside the device that does the others: q, k and v of the rows into s.q, s.k, s.v; the
  /// attention (append_and_attend()), which puts its result into s.act; the rest of the block from there.
  virtual void before_attention(const LayerContext& c, const BlockScratch& s) const = 0;
  virtual void after_attention(const LayerContext& c, const BlockScratch& s) const = 0;
  /// s.x holds `num_rows` rows [D] f32 that want logits (they may be changed). Returns the input of the output matrix:
  /// act [num_rows, embed_size], in s.
  virtual const std::byte* forward_head(const LayerContext& c, const HeadScratch& s, int64_t num_rows) const = 0;
};

/// The family of a model_type; null if there is none.
const Architecture* find_architecture(std::string_view model_type);
/// The same for a config that was parsed.
const Architecture& architecture_of(const ModelConfig& config);
/// "llama, mistral, opt, ...", for messages.
std::string known_model_types();

/// activation_function, hidden_act, ... as a value; refuses by name what there is no kernel for.
Activation read_activation(ConfigFields& fields, const std::string& field, const std::string& fallback);

/// The middle stage of every family's blocks: s.k and s.v go into the cache, s.q attends, the result is in s.act.
void append_and_attend(const LayerContext& c, const BlockScratch& s);
/// How the model attends: scores scaled by 1 / sqrt(H), its window, the sparsity that was asked for.
AttentionRule attention_rule(const ModelConfig& config);

const Architecture& opt_architecture();
const Architecture& llama_architecture();

}  // namespace flexgen
