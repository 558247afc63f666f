#include "model/model.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "base/error.h"
#include "base/units.h"
#include "model/architecture.h"

namespace flexgen {
namespace {

/// Head chunks: no larger than a block, so that they stream through the same buffers; and small enough that their logits are cheap.
constexpr int64_t kMaxHeadRows = 16384;

const Architecture& architecture_of(const ModelConfig& config) {
  if (config.model_type == "opt") return opt_architecture();
  return llama_architecture();
}

int64_t bytes_of(const std::vector<WantedWeight>& weights) {
  int64_t bytes = 0;
  for (const WantedWeight& weight : weights) bytes += weight.rows * weight.cols;
  return 2 * bytes;
}

/// Where a checkpoint's names start: "model.", "model.decoder.", ... or nothing.
std::string find_prefix(const Checkpoint& checkpoint) {
  for (const char* prefix : {"model.decoder.", "decoder.", "model.", ""})
    if (checkpoint.find(std::string(prefix) + "embed_tokens.weight")) return prefix;
  // A tied checkpoint may store its table as lm_head.weight alone.
  for (const char* prefix : {"model.decoder.", "decoder.", "model.", ""})
    for (const char* norm : {"layers.0.self_attn.q_proj.weight"})
      if (checkpoint.find(std::string(prefix) + norm)) return prefix;
  return "model.";
}

/// Adds weights to a model as layers ask for them; a tensor that is asked for twice is one weight.
class Builder {
 public:
  Builder(const Checkpoint& checkpoint, const std::string& directory, bool tied)
      : checkpoint_(checkpoint), directory_(directory), prefix_(find_prefix(checkpoint)), tied_(tied) {}

  WeightUse use(const WantedWeight& wanted) {
    int weight = index_of(wanted);
    return {weight, 0, wanted.rows, wanted.lookup};
  }
  WantedWeight output_matrix(const ModelConfig& config) const {
    return WantedWeight::matrix(tied_ ? "embed_tokens.weight" : "lm_head.weight", config.vocab_size, config.embed_size);
  }
  std::vector<WeightSpec> weights;

 private:
  int index_of(const WantedWeight& wanted) {
    std::vector<std::string> names{prefix_ + wanted.name};
    if (wanted.name == "lm_head.weight") names = {"lm_head.weight", prefix_ + "lm_head.weight"};
    if (wanted.name == "embed_tokens.weight" && tied_) names.push_back("lm_head.weight");
    const TensorLocation* location = nullptr;
    for (const std::string& name : names)
      if (!location && (location = checkpoint_.find(name))) names.front() = name;
    const std::string& name = names.front();
    if (!location) fail_user("{}: tensor '{}' is missing from the checkpoint (or has a dtype other than F32, F16, BF16)", directory_, name);
    auto known = known_.find(name);
    if (known != known_.end()) return known->second;
    bool is_vector = location->shape.size() == 1;
    bool fits = is_vector ? wanted.rows == 1 && location->shape[0] == wanted.cols
                          : location->shape.size() == 2 && location->shape[0] == wanted.rows && location->shape[1] == wanted.cols;
    if (!fits)
      fail_user("{}: tensor '{}' has the shape [{}], config.json asks for [{}, {}]", directory_, name,
                fmt::join(location->shape, ", "), wanted.rows, wanted.cols);
    weights.push_back({name, location->dtype, wanted.rows, wanted.cols, location->file, location->offset, wanted.always_resident});
    return known_[name] = static_cast<int>(weights.size()) - 1;
  }

  const Checkpoint& checkpoint_;
  std::string directory_, prefix_;
  bool tied_;
  std::map<std::string, int> known_;
};

std::vector<std::pair<int64_t, int64_t>> head_chunks(const ModelConfig& config, int64_t block_bytes) {
  int64_t rows = std::clamp<int64_t>(round_down(block_bytes / (2 * config.embed_size), 64), 64, kMaxHeadRows);
  std::vector<std::pair<int64_t, int64_t>> chunks;
  for (int64_t first = 0; first < config.vocab_size; first += rows)
    chunks.emplace_back(first, std::min(rows, config.vocab_size - first));
  return chunks;
}

/// The scratch of a head chunk: hidden rows that want logits, what goes into the output matrix, a panel of logits.
struct HeadScratch {
  HeadScratch(Scratch& scratch, const ModelConfig& config, int64_t logit_rows, int64_t vocab_count) {
    x = scratch.floats(logit_rows * config.hidden_size);
    act = scratch.bytes(4 * logit_rows * config.embed_size);
    logits = scratch.floats(std::min(logit_rows, kLogitPanelRows) * vocab_count);
  }
  float* x;
  std::byte* act;
  float* logits;
};

}  // namespace

std::unique_ptr<Model> Model::load(const std::string& directory) {
  std::unique_ptr<Model> model(new Model());
  model->config_ = load_config(directory);
  const ModelConfig& config = model->config_;
  const Architecture& architecture = architecture_of(config);
  Checkpoint checkpoint = Checkpoint::open(directory);
  model->files_ = checkpoint.files();
  model->fingerprint_ = checkpoint.fingerprint();

  Builder builder(checkpoint, directory, config.tied_embeddings);
  auto layer_of = [&](LayerKind kind, int64_t index, const std::vector<WantedWeight>& wanted) {
    LayerSpec layer;
    layer.kind = kind;
    layer.index = index;
    for (const WantedWeight& weight : wanted) layer.uses.push_back(builder.use(weight));
    return layer;
  };
  model->layers_.push_back(layer_of(LayerKind::kEmbed, 0, architecture.embed(config)));
  for (int64_t i = 0; i < config.num_layers; ++i)
    model->layers_.push_back(layer_of(LayerKind::kBlock, i, architecture.block(config, i)));
  int64_t chunk = 0;
  for (auto [first, rows] : head_chunks(config, bytes_of(architecture.block(config, 0)))) {
    LayerSpec head = layer_of(LayerKind::kHead, chunk++, architecture.head(config));
    WeightUse output = builder.use(builder.output_matrix(config));
    output.row_first = first;
    output.rows = rows;
    head.uses.push_back(output);
    head.vocab_first = first;
    head.vocab_count = rows;
    model->layers_.push_back(std::move(head));
  }
  model->weights_ = std::move(builder.weights);
  return model;
}

std::vector<TensorToWrite> Model::expected_tensors(const ModelConfig& config, DType dtype) {
  const Architecture& architecture = architecture_of(config);
  const std::string prefix = config.model_type == "opt" ? "model.decoder." : "model.";
  std::vector<TensorToWrite> tensors;
  auto add = [&](const std::vector<WantedWeight>& wanted) {
    for (const WantedWeight& weight : wanted) {
      bool is_vector = weight.rows == 1;
      tensors.push_back({prefix + weight.name, dtype,
                         is_vector ? std::vector<int64_t>{weight.cols} : std::vector<int64_t>{weight.rows, weight.cols}});
    }
  };
  add(architecture.embed(config));
  for (int64_t i = 0; i < config.num_layers; ++i) add(architecture.block(config, i));
  add(architecture.head(config));
  if (!config.tied_embeddings) tensors.push_back({"lm_head.weight", dtype, {config.vocab_size, config.embed_size}});
  return tensors;
}

KvGeometry Model::kv_geometry(DType dtype, int64_t page_tokens) const {
  return {dtype, config_.num_heads, config_.num_kv_heads, config_.head_size, page_tokens};
}

int64_t Model::scratch_bytes(int64_t max_rows, int64_t max_logit_rows) const {
  Scratch block(nullptr), embed(nullptr), head(nullptr);
  BlockScratch(block, config_, max_rows);
  if (config_.embed_size != config_.hidden_size) {  // the projections in and out
    embed.floats(2 * max_rows * config_.embed_size);
    embed.bytes(64);
    head.floats(max_logit_rows * (config_.hidden_size + config_.embed_size));
    head.bytes(64);
  }
  int64_t widest = 0;
  for (const LayerSpec& layer : layers_) widest = std::max(widest, layer.vocab_count);
  HeadScratch(head, config_, max_logit_rows, widest);
  return std::max({block.used(), embed.used(), head.used()});
}

VisitWork Model::work(int64_t layer, int64_t num_rows, std::span<const AttentionSlot> slots, int64_t num_logit_rows) const {
  const LayerSpec& spec = layers_[static_cast<size_t>(layer)];
  VisitWork work;
  int64_t rows = spec.kind == LayerKind::kHead ? num_logit_rows : num_rows;
  for (const WeightUse& use : spec.uses) {
    const WeightSpec& weight = weights_[static_cast<size_t>(use.weight)];
    if (!use.lookup && !weight.always_resident)
      work.linear_flops += 2.0 * static_cast<double>(rows) * static_cast<double>(use.rows) * static_cast<double>(weight.cols);
  }
  double width = static_cast<double>(config_.num_heads * config_.head_size);
  double kv_width = static_cast<double>(config_.num_kv_heads * config_.head_size);
  for (const AttentionSlot& slot : slots) {
    double first = static_cast<double>(slot.past + 1), last = static_cast<double>(slot.past + slot.num_rows);
    work.attention_flops += 4 * width * static_cast<double>(slot.num_rows) * (first + last) / 2;
    work.kv_read_bytes += 2 * kv_width * last * 2;
  }
  return work;
}

void Model::forward(int64_t layer, std::span<const WeightView> weights, const VisitInput& input, const KvGeometry& geometry,
                    float* hidden, std::byte* scratch_memory, Kernels& kernels, LogitSink* sink) const {
  const LayerSpec& spec = layers_[static_cast<size_t>(layer)];
  const Architecture& architecture = architecture_of(config_);
  Scratch scratch(scratch_memory);
  LayerContext context{config_, weights, input, geometry, hidden, scratch, kernels};
  if (spec.kind == LayerKind::kEmbed) return architecture.forward_embed(context);
  if (spec.kind == LayerKind::kBlock) return architecture.forward_block(context);

  const auto num_rows = static_cast<int64_t>(input.logit_rows.size());
  HeadScratch s(scratch, config_, num_rows, spec.vocab_count);
  for (int64_t i = 0; i < num_rows; ++i)
    std::memcpy(s.x + i * config_.hidden_size, hidden + input.logit_rows[static_cast<size_t>(i)] * config_.hidden_size,
                static_cast<size_t>(config_.hidden_size) * sizeof(float));
  architecture.forward_head(context, s.x, num_rows, s.act);
  const int64_t row_bytes = size_bytes(kernels.act_dtype(), config_.embed_size);
  for (int64_t first = 0; first < num_rows; first += kLogitPanelRows) {
    int64_t rows = std::min(kLogitPanelRows, num_rows - first);
    kernels.linear(s.act + first * row_bytes, rows, weights.back(), {}, false, s.logits);
    sink->accept(first, rows, spec.vocab_first, spec.vocab_count, s.logits, spec.vocab_count);
  }
}

}  // namespace flexgen
