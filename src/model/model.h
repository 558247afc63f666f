#pragma once
// Model: a checkpoint as a list of layers: which weights each reads, what it computes, and what a visit
// costs. The planner and the executor both ask it, so they cannot disagree. Const after load; forward() is
// called from one compute lane.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/kernels.h"
#include "io/checkpoint.h"
#include "io/sector_sums.h"
#include "model/code_tensors.h"
#include "model/config.h"
#include "model/expert_chances.h"
#include "model/layer.h"
#include "model/state_spec.h"
#include "model/weight_list.h"
#include "tensor/weight_view.h"

namespace flexgen {

/// One tensor of the checkpoint as a matrix [rows, cols] (a vector is [1, cols]).
struct WeightSpec {
  std::string name;
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  int file = 0;        ///< index into Model::files()
  int64_t offset = 0;  ///< bytes from the start of that file
  /// Small (norms, biases, position tables, opt-350m's projections): always kept in the compute tier.
  bool always_resident = false;
  /// Not 0: the file has the matrix transposed, as [cols, turned_of], and these rows are columns of that, the first at `offset`. Only
  /// use_prepared_weights() can read such a one.
  int64_t turned_of = 0;
  /// Of a type with scales of its own: the tensors beside the codes, which lie at `offset`.
  std::shared_ptr<const CodeTensors> codes = nullptr;

  int64_t row_bytes() const { return flexgen::row_bytes(dtype, cols); }
  int64_t bytes() const { return rows * row_bytes(); }
  /// Of what is read of it in one piece at `offset`: more than `rows` where it is a part of a matrix that is read whole (CodeTensors::part_rows).
  int64_t stored_rows() const { return is_part() ? codes->format.stored_rows : rows; }
  bool is_part() const { return codes && codes->part_rows > 0; }
  /// With all that lies beside the codes.
  int64_t stored_bytes() const { return bytes() + (codes ? codes->bytes() : 0); }
};

/// A block's q [T, A, H], k and v [T, G, H] of the rows, f32, between the stages of a block.
struct AttentionInputs {
  float *q = nullptr, *k = nullptr, *v = nullptr;

  /// One after the other from `memory` on, for `rows` rows.
  static AttentionInputs at(std::byte* memory, const HeadSizes& heads, int64_t rows);
  static int64_t bytes(const HeadSizes& heads, int64_t rows);
};

/// Receives logits as the head computes them. Called in the compute lane, or in that of the processor beside a GPU; takes_largest() and draws() from any thread.
class LogitSink {
 public:
  virtual ~LogitSink() = default;
  /// logits [num, vocab_count] f32, row stride `stride`; row i belongs to logit_rows[first + i]. `largest`: what Kernels::largest() says of each row with its
  /// draw, `at` counted from vocab_first; null: it is for the sink to find. With it, logits are null where takes_largest().
  virtual void accept(int64_t first, int64_t num, int64_t vocab_first, int64_t vocab_count, const float* logits, int64_t stride, const Largest* largest) = 0;
  /// Whether `largest` tells all there is to know of these rows. A GPU's logits then stay there.
  virtual bool takes_largest(int64_t first, int64_t num) const = 0;
  /// How each of these rows is drawn; empty: none is.
  virtual std::vector<Draw> draws(int64_t first, int64_t num) const = 0;
};

/// Work of one visit, as the cost model and the statistics count it.
struct VisitWork {
  double linear_flops = 0;     ///< 2 * rows * weights; the head's rows are those that want logits
  double attention_flops = 0;  ///< 4 * A * H * sum over new tokens of the positions each attends to
  double kv_read_bytes =
      0;  ///< keys and values that attention reads: once a slot, and what a single new token shares with the slot before it (AttentionSlot::shared) not again
  // Single new tokens are limited by reading, prompt chunks by arithmetic.
  double decode_kv_bytes = 0;        ///< of kv_read_bytes, those for slots with one new token
  double decode_context = 0;         ///< positions that such a token reads, on average
  double chunk_attention_flops = 0;  ///< of attention_flops, those for slots with several, and for what is shared
};

class Model {
 public:
  /// Opens a checkpoint directory, or a GGUF; checks that every tensor is there with the right shape. Error{user}
  /// names what is missing.
  static std::unique_ptr<Model> load(const std::string& directory, const std::vector<std::string>& ignored_config_fields = {});
  /// A model without a checkpoint, for planning and simulations: weights() say where they would lie, files() names none that exists.
  static std::unique_ptr<Model> of_shape(const ModelConfig& config, DType dtype);
  /// The tensors a checkpoint of this config must have, for writing a dummy one: names and shapes.
  static std::vector<TensorToWrite> expected_tensors(const ModelConfig& config, DType dtype);

  /// From now on these weights are read elsewhere, in another type: index into weights() -> the new WeightSpec, whose `file` counts
  /// from the first of `files`; `sums`: of each of those, if they have any; `stamps`: if
  /// they exist. Before anything else uses the model.
  void replace_weights(const std::vector<std::pair<int, WeightSpec>>& replaced, const std::vector<std::string>& files, const std::vector<SummedData>& sums = {},
                       const std::vector<FileStamp>& stamps = {});

  /// From now on the model is a pipeline stage: blocks [first, first + count), the embed layer before the first block, the head after the last.
  /// weights() are those that these layers use, files() stay. Before anything else uses the model.
  void keep_blocks(int64_t first, int64_t count);

  /// From now on keys are kept rotated by a Hadamard matrix, which int4 and int8 caches lose less of. Before anything else uses the model.
  /// Throws Error{user} where the head size is no power of two.
  void rotate_keys();
  /// From now on generated tokens use the values of this share of their positions, in (0, 1]. Before anything else uses the model.
  /// Throws Error{user} where scores depend on distances (ALiBi).
  void set_attention_sparsity(double share);

  /// From now on it is known how often experts are chosen: expected hits go by it, and where it was counted, placement may. Answers do not. Before anything else uses the model, which is a mixture.
  void set_expert_chances(std::shared_ptr<const ExpertChances> chances) { expert_chances_ = std::move(chances); }
  /// Null where nothing is known: then each expert is taken to be chosen as often as another.
  const ExpertChances* expert_chances() const { return expert_chances_.get(); }
  /// For dummy weights, whose routers know nothing: from now on a row's experts are drawn by these chances, and by the row alone. Their weights are the router's still.
  void draw_experts_by(std::shared_ptr<const ExpertChances> chances) { config_.mixture.drawn = std::move(chances); }

  const ModelConfig& config() const { return config_; }
  /// `token` ends a sequence too.
  void add_end(int32_t token) { config_.eos.push_back(token); }
  const std::vector<std::string>& files() const { return files_; }
  /// Opens files()[file] for streaming; one that has sums is checked by them as it is read.
  std::shared_ptr<File> open_file(size_t file, FileSystem& files) const;
  /// Watches the checkpoint's files, from before their headers were read, and all others that weights are read from now.
  /// `open`: of files(), those that are open, as FileWatch takes them.
  std::unique_ptr<FileWatch> watch_files(std::vector<std::shared_ptr<File>> open = {}) const;
  /// RAM that comparing prepared files with their sums takes at the most where not all experts are ever read: of files that are read whole the sums go.
  int64_t expert_checking_bytes() const { return expert_checking_bytes_; }
  /// Of each of files(), where it is not imagined.
  const std::vector<FileStamp>& stamps() const { return stamps_; }
  const std::string& fingerprint() const { return fingerprint_; }
  const std::vector<WeightSpec>& weights() const { return weights_; }
  /// In the order of a step: one embed, the blocks, the head chunks; of a pipeline stage its own.
  const std::vector<LayerSpec>& layers() const { return layers_; }
  /// Of a layer's uses the one with whose bytes uses[use] is loaded: itself, but for further parts of a matrix that is read whole (WeightSpec::is_part()).
  size_t loaded_with(const LayerSpec& layer, size_t use) const;
  /// How many layers of the whole model come before layers(), and how many blocks.
  int64_t layers_before() const { return layers_before_; }
  int64_t blocks_before() const { return blocks_before_; }
  /// How many blocks layers() has, whatever the number of layers of each: as many as caches.
  int64_t num_blocks() const { return num_blocks_; }
  /// What the layers of the whole model keep of sequences, each kind once, in the order of the first layer that does: the same list in every pipeline stage.
  const std::vector<StateSpec>& states() const { return states_; }
  /// Of the model's block `index`, from now on. It cannot compute with another state: for those who plan, move and count it. Before anything else uses the model.
  void declare_state(int64_t index, const StateSpec& state);
  /// Which of layers() attends with this cache.
  int64_t layer_of_cache(int64_t cache) const;
  /// Of a block's products, those that compute q, k and v; and their mean over the blocks.
  double attention_input_flops_per_row(int64_t block) const;
  double mean_attention_input_flops_per_row() const;

  /// KvGeometry of a layer with this state, for pages of `page_tokens`.
  KvGeometry kv_geometry(DType dtype, int64_t page_tokens, int64_t state = 0) const;
  /// Bytes of scratch that forward() needs for visits of at most max_rows rows, max_logit_rows of which want logits: exact for
  /// kernels whose act_dtype() takes 4 bytes, enough for those with 2.
  int64_t scratch_bytes(int64_t max_rows, int64_t max_logit_rows) const;
  /// Of the weights that a visit to the layer reads, rows that are looked up aside; of experts those of all.
  double weight_bytes(int64_t layer) const;
  VisitWork work(int64_t layer, int64_t num_rows, std::span<const AttentionSlot> slots, int64_t num_logit_rows, DType kv_dtype) const;
  /// The mean over the blocks, which may keep something else each.
  VisitWork mean_block_work(int64_t num_rows, std::span<const AttentionSlot> slots, DType kv_dtype) const;

  /// Runs one layer. hidden [T, hidden_size] f32 is the residual stream, written by the embed layer,
  /// updated by blocks and experts, read by the head; in a mixture [T, kept_row_floats()] floats, the stream first (expert_rows()). weights: one view per LayerSpec::uses entry (empty view for
  /// lookups, with its dtype). scratch: scratch_bytes(), 64-byte aligned. sink: head only; accept() is called for panels of rows in order.
  void forward(int64_t layer, std::span<const WeightView> weights, const VisitInput& input, const KvGeometry& geometry, float* hidden, std::byte* scratch,
               Kernels& kernels, LogitSink* sink) const;

  /// Whether rows choose their experts in this layer: it is a sparse block's that attends.
  bool chooses_experts(int64_t layer) const;

  // The same in parts, for visits that a device and the processor beside it do together.

  /// A block's stages: the device computes q, k and v; attend() writes k and v into the pages of input.slots and the result, [T, A, H] in the
  /// act_dtype() of its own kernels, to `out`; with that, `attended` of type `dtype`, the device goes on.
  void forward_before_attention(int64_t layer, std::span<const WeightView> weights, const VisitInput& input, float* hidden, std::byte* scratch,
                                Kernels& kernels, const AttentionInputs& to) const;
  void attend(int64_t layer, const VisitInput& input, const KvGeometry& geometry, const AttentionInputs& from, std::byte* out, Kernels& kernels) const;
  void forward_after_attention(int64_t layer, std::span<const WeightView> weights, const VisitInput& input, float* hidden, std::byte* scratch, Kernels& kernels,
                               const std::byte* attended, DType dtype) const;
  /// A panel of the head: of input.logit_rows those from `first` on, kLogitPanelRows or what is left; logits [rows, vocab_count] f32.
  /// Returns how many rows that is.
  int64_t forward_logits(int64_t layer, std::span<const WeightView> weights, const VisitInput& input, int64_t first, float* hidden, std::byte* scratch,
                         Kernels& kernels, float* logits) const;

 private:
  Model() = default;
  /// Whenever layers_ have changed: numbers the caches, and keeps what is asked of all layers together.
  void sum_up_layers();
  /// Whenever layers or files have changed.
  void sum_up_checking();
  /// Index into states_, where it is added if it is new.
  int64_t index_of_state(const StateSpec& state);
  /// `name` for messages.
  static std::unique_ptr<Model> build(const ModelConfig& config, const Checkpoint& checkpoint, const std::string& name);

  ModelConfig config_;
  std::shared_ptr<const ExpertChances> expert_chances_;
  std::vector<std::string> files_;
  std::vector<FileStamp> stamps_;
  std::map<size_t, SummedData> sums_;  ///< of a file, where it has them
  int64_t expert_checking_bytes_ = 0;
  std::string fingerprint_;
  std::vector<WeightSpec> weights_;
  std::vector<LayerSpec> layers_;
  std::vector<StateSpec> states_;
  int64_t layers_before_ = 0, blocks_before_ = 0, num_blocks_ = 0;
  int64_t widest_head_ = 0;                         ///< the largest vocab_count of layers_
  std::vector<std::pair<int64_t, int64_t>> kinds_;  ///< of blocks with the same work: the first one's layer, and how many there are
};

}  // namespace flexgen
