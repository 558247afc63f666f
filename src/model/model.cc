#include "model/model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "io/checked_json.h"
#include "io/file.h"
#include "io/gguf.h"
#include "io/whole_file.h"
#include "model/architecture.h"
#include "model/gguf_model.h"
#include "model/parts/experts.h"
#include "model/stacked_experts.h"

namespace flexgen {
namespace {

/// Bounds the scratch for logits.
constexpr int64_t kMaxHeadRows = 32768;
constexpr int64_t kHeadRowGrain = 64;

/// The name of the table that tokens are looked up in.
std::string table_name(const Architecture& architecture, const ModelConfig& config) {
  for (const WantedWeight& weight : architecture.embed(config))
    if (weight.role == Role::kTokens) return weight.name;
  FLEXGEN_CHECK(false, "{} has no table of tokens", config.model_type);
}

/// What a checkpoint's names start with: `wrapper` is what torch.compile, DDP, PEFT or a multimodal parent put before all of them, `family` one of the
/// family's own prefixes.
struct NamePrefix {
  std::string wrapper, family;
  std::string whole() const { return wrapper + family; }
};

/// Older checkpoints hold what transformers' classes computed for themselves: angles, and the causal mask with the value that it puts in.
bool is_constant(std::string_view name) {
  constexpr std::string_view kEnds[]{"rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"};
  return std::any_of(std::begin(kEnds), std::end(kEnds), [&](std::string_view end) { return name.ends_with(end); });
}

/// A block's weights with those of all its experts, and of what joins these.
std::vector<WantedWeight> whole_block(const Architecture& architecture, const ModelConfig& config, int64_t index) {
  std::vector<WantedWeight> weights = architecture.block(config, index);
  for (int64_t expert = 0; config.is_sparse(index) && expert < config.mixture.num_experts; ++expert)
    for (WantedWeight& weight : architecture.expert(config, index, expert)) weights.push_back(std::move(weight));
  if (config.is_sparse(index) && config.mixture.joined)
    for (WantedWeight& weight : architecture.join(config, index)) weights.push_back(std::move(weight));
  return weights;
}

std::vector<std::string> names_without_prefix(const Architecture& architecture, const ModelConfig& config) {
  std::vector<std::string> names;
  auto add = [&](const std::vector<WantedWeight>& wanted) {
    for (const WantedWeight& weight : wanted)
      if (weight.role != Role::kOutputBias && !weight.optional) names.push_back(weight.name);
  };
  for (int64_t i = 0; i < config.num_layers; ++i) add(whole_block(architecture, config, i));
  add(architecture.head(config));
  return names;
}

/// The prefix under which the model is whole: the family's own, else the one wrapper with which all of its tensors are there.
NamePrefix find_prefix(const Checkpoint& checkpoint, const Architecture& architecture, const ModelConfig& config, const std::string& directory) {
  const std::string first_block = architecture.block(config, 0).front().name;
  for (std::string_view prefix : architecture.prefixes())
    if (has_weight(checkpoint, std::string(prefix) + first_block)) return {"", std::string(prefix)};
  std::vector<NamePrefix> fitting;
  std::optional<std::vector<std::string>> names;
  for (const auto& [name, location] : checkpoint.tensors()) {
    if (!name.ends_with(first_block)) continue;
    const std::string before = name.substr(0, name.size() - first_block.size());
    if (!before.ends_with('.')) continue;
    if (!names) names = names_without_prefix(architecture, config);
    if (!std::all_of(names->begin(), names->end(), [&](const std::string& part) { return has_weight(checkpoint, before + part); })) continue;
    for (std::string_view family : architecture.prefixes())  // the last one is empty
      if (before.ends_with(family) && (before.size() == family.size() || before[before.size() - family.size() - 1] == '.')) {
        fitting.push_back({before.substr(0, before.size() - family.size()), std::string(family)});
        break;
      }
  }
  if (fitting.size() > 1)
    fail_user("{}: more than one model of this shape is in the checkpoint, with tensor names that start with '{}' and '{}'; keep one of them", directory,
              fitting[0].whole(), fitting[1].whole());
  if (fitting.empty()) return {"", std::string(architecture.prefixes().front())};
  spdlog::info("{}: tensor names start with '{}', which is taken off", directory, fitting[0].wrapper);
  return fitting[0];
}

/// Weights of an adapter (peft) beside those that it changes, or these under the name that peft gives them.
bool is_of_adapter(std::string_view name) {
  constexpr std::string_view kParts[] = {".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector", ".base_layer.",
                                         ".lokr_w",  ".hada_w"};
  return std::any_of(std::begin(kParts), std::end(kParts), [&](std::string_view part) { return name.find(part) != std::string_view::npos; });
}

void check_is_merged(const Checkpoint& checkpoint, const std::string& directory) {
  const auto& tensors = checkpoint.tensors();
  const auto found = std::find_if(tensors.begin(), tensors.end(), [](const auto& tensor) { return is_of_adapter(tensor.first); });
  if (found != tensors.end())
    fail_user(
        "{}: the tensor '{}' is of an adapter (LoRA) that was not merged into the weights; without it answers would be the base model's. Merge it: in Python "
        "with peft, model.merge_and_unload().save_pretrained(\"DIR\")",
        directory, printable(found->first));
}

/// What AutoAWQ divides an activation by, after it has multiplied the columns of the next matrix.
bool is_scale_of_activation(std::string_view name) { return name.ends_with(".act.scales") || name.ends_with(".gelu_impl.scales"); }

/// Whether two tensors of files say the same; reads both up to where they differ.
bool same_values(const Checkpoint& checkpoint, const TensorLocation& a, const TensorLocation& b) {
  if (a.shape != b.shape) return false;
  constexpr int64_t kPiece = 1 << 20;
  const std::shared_ptr<File> first = File::open(checkpoint.files()[static_cast<size_t>(a.file)], FileMode::kRead),
                              second = File::open(checkpoint.files()[static_cast<size_t>(b.file)], FileMode::kRead);
  const int64_t count = std::accumulate(a.shape.begin(), a.shape.end(), int64_t{1}, std::multiplies<>());
  std::vector<std::byte> ours, theirs;
  for (int64_t at = 0; at < count; at += kPiece) {
    const int64_t part = std::min(kPiece, count - at);
    ours.resize(static_cast<size_t>(size_bytes(a.dtype, part)));
    theirs.resize(static_cast<size_t>(size_bytes(b.dtype, part)));
    first->read(a.offset + size_bytes(a.dtype, at), ours);
    second->read(b.offset + size_bytes(b.dtype, at), theirs);
    if (a.dtype == b.dtype) {
      if (ours != theirs) return false;
    } else {
      for (int64_t i = 0; i < part; ++i)
        if (load_float(ours.data(), a.dtype, i) != load_float(theirs.data(), b.dtype, i)) return false;
    }
  }
  return true;
}

/// Adds weights to a model as layers ask for them; a tensor that is asked for twice is one weight.
class Builder {
 public:
  Builder(const Checkpoint& checkpoint, const std::string& directory, const Architecture& architecture, const ModelConfig& config)
      : checkpoint_(checkpoint), architecture_(architecture), quantization_(config.quantization), directory_(directory),
        prefix_(find_prefix(checkpoint, architecture, config, directory)), tied_(config.tied_embeddings), table_(table_name(architecture, config)),
        output_(architecture.output_name()) {}

  LayerSpec layer(LayerKind kind, int64_t index, const std::vector<WantedWeight>& wanted) {
    LayerSpec layer;
    layer.kind = kind;
    layer.index = index;
    for (const WantedWeight& weight : wanted) {
      if (weight.optional && !checkpoint_.find(prefix_.whole() + weight.name)) continue;
      layer.uses.push_back({index_of(weight), 0, weight.rows, weight.lookup(), weight.role});
      if (weight.multiplied()) layer.linear_flops_per_row += 2.0 * static_cast<double>(weight.rows) * static_cast<double>(weight.cols);
    }
    return layer;
  }

  /// Experts [first, end) of a block.
  LayerSpec experts(int64_t block, int64_t first, int64_t end, const ModelConfig& config) {
    std::vector<WantedWeight> wanted;
    for (int64_t expert = first; expert < end; ++expert)
      for (WantedWeight& weight : architecture_.expert(config, block, expert)) wanted.push_back(std::move(weight));
    LayerSpec spec = layer(LayerKind::kExperts, block, wanted);
    spec.first_expert = first;
    spec.num_experts = end - first;
    spec.row_share = static_cast<double>(config.mixture.experts_per_row) / static_cast<double>(config.mixture.num_experts);
    spec.linear_flops_per_row *= spec.row_share;
    return spec;
  }

  /// Whether a model that says it is tied has an output matrix of its own, with other values than the table's: transformers 5 does not tie it then. One that is
  /// quantized has, where the table is not.
  bool has_own_output() const {
    if (!tied_ || checkpoint_.stamps().empty()) return false;
    const TensorLocation* table = checkpoint_.find(prefix_.whole() + table_);
    const auto is_plain = [](const TensorLocation* tensor) { return tensor && tensor->stored_as.empty() && !is_quantized(tensor->dtype); };
    for (const std::string& name : {prefix_.wrapper + output_, prefix_.whole() + output_, output_}) {
      if (const TensorLocation* output = checkpoint_.find(name))
        return is_plain(table) && is_plain(output) && table != output && !same_values(checkpoint_, *table, *output);
      // One in a type that nobody reads leaves the table.
      const TensorLocation* coded = checkpoint_.find_coded(name);
      constexpr std::string_view kRead[]{"F8_E4M3", "I8", "U8"};
      if (coded && !(quantization_.there() && std::find(std::begin(kRead), std::end(kRead), coded->stored_as) != std::end(kRead))) continue;
      if (has_weight(checkpoint_, name)) return is_plain(table);
    }
    return false;
  }
  void untie() { tied_ = false; }

  /// Names of tensors that no layer asked for.
  /// Whether a tensor of the same block is used: one that begins with all but the last three names of `name`.
  bool uses_any_beside(const std::string& name) const {
    size_t end = name.size();
    for (int i = 0; i < 3 && end != std::string::npos && end > 0; ++i) end = name.rfind('.', end - 1);
    if (end == std::string::npos) return true;
    const auto at = used_.lower_bound(name.substr(0, end + 1));
    return at != used_.end() && at->starts_with(name.substr(0, end + 1));
  }
  std::vector<std::string> unused() const {
    std::vector<std::string> names;
    for (const auto& [name, location] : checkpoint_.tensors()) {
      const bool expected = used_.contains(name) || is_constant(name) || (tied_ && name.ends_with(output_));
      if (!expected) names.push_back(name);
    }
    return names;
  }

  std::vector<WeightSpec> weights;

 private:
  int index_of(const WantedWeight& wanted) {
    const std::string whole = prefix_.whole();
    std::vector<std::string> names{whole + wanted.name};
    const bool is_output = wanted.role == Role::kOutput || wanted.role == Role::kOutputBias;  // these may lie outside of what has the prefix
    if (is_output && wanted.name != table_) names = {prefix_.wrapper + wanted.name, whole + wanted.name, wanted.name};
    if (wanted.name == table_ && tied_) names.insert(names.end(), {prefix_.wrapper + output_, whole + output_, output_});
    auto there = std::find_if(names.begin(), names.end(), [&](const std::string& name) { return checkpoint_.find(name) != nullptr; });
    if (there == names.end()) {
      for (const std::string& name : names)
        if (std::optional<FoundCodes> codes = find_codes(checkpoint_, quantization_, name, wanted, directory_))
          return index_of_codes(name, wanted, std::move(*codes));
      fail_user("{}: the tensor '{}' is missing (or has a dtype other than F32, F16 and BF16); {}", directory_, names.front(),
                wanted.role == Role::kOutput ? "if this model shares its embeddings with the output, config.json must say tie_word_embeddings: true"
                                             : advice_on_missing(names.front()));
    }
    const TensorLocation& location = *checkpoint_.find(*there);
    used_.insert(*there);
    const std::vector<int64_t> shape = wanted.shape();
    if (location.shape != shape)
      fail_user("{}: the tensor '{}' has the shape [{}], config.json asks for [{}]; they do not belong together", directory_, *there,
                fmt::join(location.shape, ", "), fmt::join(shape, ", "));
    if (is_quantized(location.dtype) && wanted.always_resident())
      fail_user("{}: the tensor '{}' is {}, where flexgen reads F32, F16 and BF16 (norms, biases, small tables)", directory_, *there,
                dtype_name(location.dtype));
    // A part of a tensor is a weight of its own, which lies within the tensor.
    const bool is_vector = wanted.kind == WantedWeight::Kind::kVector;
    const int64_t count = is_vector ? wanted.cols : wanted.rows, stride = is_vector || wanted.turned ? 1 : wanted.cols;
    const std::string name = name_of_part(*there, wanted, count);
    int64_t first = wanted.part_first * stride;
    if (wanted.slices > 0) first += wanted.slice * std::accumulate(shape.begin() + 1, shape.end(), int64_t{1}, std::multiplies<>());
    auto [known, is_new] = known_.try_emplace(name, static_cast<int>(weights.size()));
    if (is_new)
      weights.push_back({name, location.dtype, wanted.rows, wanted.cols, location.file, location.offset + size_bytes(location.dtype, first),
                         wanted.always_resident(), wanted.turned ? shape.back() : 0});
    return known->second;
  }

  static std::string name_of_part(const std::string& tensor, const WantedWeight& wanted, int64_t count) {
    const std::string slice = wanted.slices == 0 ? tensor : fmt::format("{}[{}]", tensor, wanted.slice);
    return wanted.part_of == 0 ? slice : fmt::format("{}[{}:{}]", slice, wanted.part_first, wanted.part_first + count);
  }

  /// A quantized matrix.
  int index_of_codes(const std::string& tensor, const WantedWeight& wanted, FoundCodes codes) {
    used_.insert(codes.names.begin(), codes.names.end());
    auto [known, is_new] = known_.try_emplace(name_of_part(tensor, wanted, wanted.rows), static_cast<int>(weights.size()));
    if (is_new) weights.push_back({known->first, codes.dtype, wanted.rows, wanted.cols, codes.file, codes.offset, false, 0, std::move(codes.tensors)});
    return known->second;
  }

  /// Shows the name that ends most as the missing one does: how a wrapper named it, say.
  std::string advice_on_missing(const std::string& missing) const {
    if (checkpoint_.tensors().empty()) return "the checkpoint holds no tensor that flexgen can use: fetch it again";
    const auto common_end = [&](const std::string& name) {
      return std::mismatch(name.rbegin(), name.rend(), missing.rbegin(), missing.rend()).first - name.rbegin();
    };
    const auto nearest = std::max_element(checkpoint_.tensors().begin(), checkpoint_.tensors().end(),
                                          [&](const auto& a, const auto& b) { return common_end(a.first) < common_end(b.first); });
    return fmt::format("the checkpoint has names such as '{}': check that config.json belongs to it, or fetch it again", printable(nearest->first));
  }

  const Checkpoint& checkpoint_;
  const Architecture& architecture_;
  const Quantization& quantization_;
  std::string directory_;
  NamePrefix prefix_;
  bool tied_;
  std::string table_, output_;
  std::map<std::string, int> known_;
  std::set<std::string> used_;
};

/// A tied model uses its embedding table as the output matrix.
WantedWeight output_matrix(const Architecture& architecture, const ModelConfig& config) {
  return WantedWeight::matrix(config.tied_embeddings ? table_name(architecture, config) : std::string(architecture.output_name()), config.vocab_size,
                              config.embed_size, Role::kOutput);
}

/// Logits of a panel of rows, from `first` on; returns how many.
int64_t logits_of_panel(const LayerContext& c, const LayerSpec& spec, const HeadScratch& s, int64_t first, float* logits) {
  const int64_t rows = std::min(kLogitPanelRows, static_cast<int64_t>(c.in.logit_rows.size()) - first), D = c.config.hidden_size;
  std::vector<const std::byte*> wanted;
  wanted.reserve(static_cast<size_t>(rows));
  for (int64_t i = first; i < first + rows; ++i) wanted.push_back(reinterpret_cast<const std::byte*>(c.hidden + c.in.logit_rows[static_cast<size_t>(i)] * D));
  c.kernels.gather_rows(wanted, DType::kF32, D, false, s.x);
  const std::byte* act = architecture_of(c.config).forward_head(c, s, rows);
  FLEXGEN_CHECK(spec.kind == LayerKind::kHead);
  WeightView bias = c[Role::kOutputBias];
  if (!bias.empty()) {
    bias.cols = spec.vocab_count;
    bias.pieces.front().data += size_bytes(bias.dtype, spec.vocab_first);
  }
  c.kernels.linear(act, rows, c[Role::kOutput], bias, false, logits);
  if (c.config.logit_scale != 1 || c.config.logit_cap != 0) c.kernels.scale(logits, rows * spec.vocab_count, c.config.logit_scale, c.config.logit_cap);
  return rows;
}

/// A small vector's numbers, from its file.
std::vector<float> read_vector(const Model& model, const WeightSpec& weight) {
  std::vector<std::byte> bytes(static_cast<size_t>(weight.bytes()));
  File::open(model.files()[static_cast<size_t>(weight.file)], FileMode::kRead)->read(weight.offset, bytes);
  std::vector<float> numbers;
  for (int64_t i = 0; i < weight.cols; ++i) numbers.push_back(load_float(bytes.data(), weight.dtype, i));
  return numbers;
}

/// What parts take from the config, as every device's needs it in RAM.
void read_small_vectors(const Model& model, ModelConfig* config) {
  for (const LayerSpec& layer : model.layers())
    for (const WeightUse& use : layer.uses) {
      const auto block = static_cast<size_t>(layer.index);
      const WeightSpec& weight = model.weights()[static_cast<size_t>(use.weight)];
      if (use.role == Role::kSinks) config->attention[block].sinks = read_vector(model, weight);
      if (use.role == Role::kExpertScales) {
        config->mixture.expert_scales.resize(static_cast<size_t>(config->num_layers));
        config->mixture.expert_scales[block] = read_vector(model, weight);
      }
      if (use.role != Role::kBlockScale) continue;
      config->block_scales.resize(static_cast<size_t>(config->num_layers), 1);
      config->block_scales[block] = read_vector(model, weight).front();
    }
}

int64_t streamed_elements(const std::vector<WantedWeight>& weights) {
  int64_t elements = 0;
  for (const WantedWeight& weight : weights)
    if (!weight.always_resident()) elements += weight.rows * weight.cols;
  return elements;
}

/// How many experts make a layer: no more than the largest block's other matrices, as they stream through the same buffers; one at least.
int64_t experts_in_unit(const Architecture& architecture, const ModelConfig& config) {
  int64_t most = 0, expert = 1;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    most = std::max(most, streamed_elements(architecture.block(config, i)));
    if (config.is_sparse(i)) expert = streamed_elements(architecture.expert(config, i, 0));
    if (config.is_sparse(i) && config.mixture.joined) most = std::max(most, streamed_elements(architecture.join(config, i)));
  }
  return std::clamp<int64_t>(most / expert, 1, config.mixture.num_experts);
}

/// What no family's attention computes with yet is refused by name.
StateSpec checked_state(const StateSpec& state, const ModelConfig& config, int64_t block, const std::string& directory) {
  const HeadSizes heads = config.heads_of(block);
  if (state.kind != StateSpec::Kind::kPaged || state.rows != 2 || state.heads != heads.kv_heads || state.head_size != heads.head_size)
    fail_user("{}: layer {} keeps {}; flexgen computes with keys and values of {} heads of {} alone", directory, block, state.to_string(), heads.kv_heads,
              heads.head_size);
  return state;
}

/// Rows of the output matrix in a chunk: about a block's matrices or less, so that it streams through the same buffers, and
/// chunks of about the same size. A quantized matrix is cut where its rows can be read alone: not at all where it lies by columns.
int64_t head_chunk_rows(const ModelConfig& config, const std::vector<WantedWeight>& block, const WeightSpec& output) {
  if (is_transposed(output.dtype)) return config.vocab_size;
  const int64_t grain = std::lcm(kHeadRowGrain, output.codes ? output.codes->grain_rows : 1);
  const int64_t most = std::clamp<int64_t>(round_down(streamed_elements(block) / config.embed_size, grain), grain, std::max(grain, kMaxHeadRows));
  return round_up(ceil_div(config.vocab_size, ceil_div(config.vocab_size, most)), grain);
}

}  // namespace

std::unique_ptr<Model> Model::load(const std::string& directory, const std::vector<std::string>& ignored_config_fields) {
  if (is_gguf(directory)) {
    const GgufModel gguf = load_gguf_model(directory, ignored_config_fields);
    return build(gguf.config, gguf.checkpoint, directory);
  }
  const ModelConfig config = load_config(directory, ignored_config_fields);
  if (const std::filesystem::path adapter = std::filesystem::path(directory) / "adapter_config.json"; file_is_there(adapter.string()))
    spdlog::warn("{}: the adapter (LoRA) beside the weights is left out; answers are those of the weights alone. If they should have it, merge it first",
                 directory);
  Checkpoint checkpoint = Checkpoint::open(directory);
  name_stacked_experts(checkpoint, config, directory);
  return build(config, checkpoint, directory);
}

std::unique_ptr<Model> Model::of_shape(const ModelConfig& config, DType dtype) {
  return build(config, Checkpoint::imagined(expected_tensors(config, dtype), "(no file)"), config.model_type);
}

std::unique_ptr<Model> Model::build(const ModelConfig& config_of_model, const Checkpoint& checkpoint, const std::string& directory) {
  std::unique_ptr<Model> model(new Model());
  model->config_ = config_of_model;
  const ModelConfig& config = model->config_;
  const Architecture& architecture = architecture_of(config);
  check_is_merged(checkpoint, directory);
  model->files_ = checkpoint.files();
  model->stamps_ = checkpoint.stamps();
  model->fingerprint_ = checkpoint.fingerprint();

  Builder builder(checkpoint, directory, architecture, config);
  if (builder.has_own_output()) {
    spdlog::warn(
        "{}: config.json says that embeddings and output matrix are one (tie_word_embeddings), but the checkpoint holds both, and they differ: they are not tied, as in transformers 5",
        directory);
    model->config_.tied_embeddings = false;
    builder.untie();
  }
  model->layers_.push_back(builder.layer(LayerKind::kEmbed, 0, architecture.embed(config)));
  const int64_t unit = config.is_mixture() ? experts_in_unit(architecture, config) : 0;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    model->layers_.push_back(builder.layer(LayerKind::kBlock, i, architecture.block(config, i)));
    model->layers_.back().state = model->index_of_state(checked_state(architecture.state(config, i), config, i, directory));
    if (!config.is_sparse(i)) continue;
    const int64_t all = config.mixture.num_experts, num_units = ceil_div(all, unit);
    for (int64_t u = 0; u < num_units; ++u) model->layers_.push_back(builder.experts(i, u * all / num_units, (u + 1) * all / num_units, config));
    if (config.mixture.joined) model->layers_.push_back(builder.layer(LayerKind::kJoin, i, architecture.join(config, i)));
  }
  std::vector<WantedWeight> head_weights = architecture.head(config);
  head_weights.push_back(output_matrix(architecture, config));
  const int output = builder.layer(LayerKind::kHead, 0, head_weights).uses.back().weight;
  const int64_t chunk_rows = head_chunk_rows(config, architecture.block(config, 0), builder.weights[static_cast<size_t>(output)]);
  for (int64_t first = 0, chunk = 0; first < config.vocab_size; first += chunk_rows, ++chunk) {
    LayerSpec head = builder.layer(LayerKind::kHead, chunk, head_weights);
    head.vocab_first = first;
    head.vocab_count = std::min(chunk_rows, config.vocab_size - first);
    head.uses.back().row_first = first;
    head.uses.back().rows = head.vocab_count;
    head.linear_flops_per_row -= 2.0 * static_cast<double>(config.vocab_size - head.vocab_count) * static_cast<double>(config.embed_size);
    model->layers_.push_back(std::move(head));
  }
  model->weights_ = std::move(builder.weights);
  model->sum_up_layers();
  if (!checkpoint.stamps().empty()) read_small_vectors(*model, &model->config_);  // an imagined one has no numbers
  const std::vector<std::string> unused = builder.unused();
  // Of blocks that config.json leaves out nothing counts.
  const auto is_missed = [&](const std::string& name) { return is_scale_of_activation(name) && builder.uses_any_beside(name); };
  if (const auto scale = std::find_if(unused.begin(), unused.end(), is_missed); scale != unused.end())
    fail_user(
        "{}: the tensor '{}' says what an activation is divided by, as AutoAWQ writes it; flexgen does that of the quant_method awq, in starcoder2, falcon, mpt, "
        "gptj, gpt_neox and bloom. Without it answers would be wrong; take another checkpoint",
        directory, *scale);
  if (!unused.empty())
    spdlog::warn("{}: {} tensors of the checkpoint are no part of the model that config.json describes and are not read, such as '{}'", directory,
                 unused.size(), unused.front());
  return model;
}

std::vector<TensorToWrite> Model::expected_tensors(const ModelConfig& config, DType dtype) {
  const Architecture& architecture = architecture_of(config);
  const std::string prefix(architecture.prefixes().front());
  std::vector<TensorToWrite> tensors;
  auto add = [&](const std::vector<WantedWeight>& wanted) {
    for (const WantedWeight& weight : wanted) {
      const std::string name = (weight.role == Role::kOutputBias ? "" : prefix) + weight.name;
      if (weight.slice > 0 || weight.optional) continue;  // in the tensor of the first; not needed
      if (weight.mxfp4) {                                 // bytes
        std::vector<int64_t> sizes = weight.shape();
        sizes.back() /= 32;
        tensors.push_back({name + "_scales", DType::kCodes8, sizes});
        sizes.push_back(16);
        tensors.push_back({name + "_blocks", DType::kCodes8, sizes});
        continue;
      }
      if (weight.part_first > 0 && std::any_of(tensors.begin(), tensors.end(), [&](const TensorToWrite& tensor) { return tensor.name == name; })) continue;
      tensors.push_back({name, dtype, weight.shape()});
    }
  };
  add(architecture.embed(config));
  for (int64_t i = 0; i < config.num_layers; ++i) add(whole_block(architecture, config, i));
  add(architecture.head(config));
  if (!config.tied_embeddings) tensors.push_back({std::string(architecture.output_name()), dtype, {config.vocab_size, config.embed_size}});
  return tensors;
}

std::shared_ptr<File> Model::open_file(size_t file, FileSystem& files) const {
  std::shared_ptr<File> opened = files.open(files_[file], FileMode::kReadDirect);
  const auto sums = sums_.find(file);
  return sums == sums_.end() ? opened : check_sums(std::move(opened), sums->second);
}

std::unique_ptr<FileWatch> Model::watch_files(std::vector<std::shared_ptr<File>> open) const {
  FLEXGEN_CHECK(stamps_.size() == files_.size(), "{} stamps of {} files", stamps_.size(), files_.size());
  return std::make_unique<FileWatch>(files_, stamps_, std::move(open));
}

void Model::replace_weights(const std::vector<std::pair<int, WeightSpec>>& replaced, const std::vector<std::string>& files, const std::vector<SummedData>& sums,
                            const std::vector<FileStamp>& stamps) {
  const auto first_file = static_cast<int>(files_.size());
  FLEXGEN_CHECK(sums.empty() || sums.size() == files.size());
  for (size_t i = 0; i < sums.size(); ++i) sums_[files_.size() + i] = sums[i];
  files_.insert(files_.end(), files.begin(), files.end());
  stamps_.insert(stamps_.end(), stamps.begin(), stamps.end());
  for (auto [index, spec] : replaced) {
    WeightSpec& weight = weights_[static_cast<size_t>(index)];
    FLEXGEN_CHECK(weight.rows == spec.rows && weight.cols == spec.cols && !weight.always_resident, "{} is another tensor", spec.name);
    spec.file += first_file;
    weight = std::move(spec);
  }
  sum_up_checking();
}

void Model::sum_up_checking() {
  expert_checking_bytes_ = 0;
  for (const LayerSpec& layer : layers_) {
    if (layer.kind != LayerKind::kExperts) continue;
    int64_t bytes = 0;  // in a file of the unit's own
    for (const WeightUse& use : layer.uses)
      if (const WeightSpec& weight = weights_[static_cast<size_t>(use.weight)]; sums_.contains(static_cast<size_t>(weight.file))) bytes += weight.bytes();
    if (bytes > 0) expert_checking_bytes_ += SectorSummer::checking_bytes(bytes);
  }
}

size_t Model::loaded_with(const LayerSpec& layer, size_t use) const {
  const auto spec_of = [&](size_t of) -> const WeightSpec& { return weights_[static_cast<size_t>(layer.uses[of].weight)]; };
  const WeightSpec& part = spec_of(use);
  if (!part.is_part()) return use;
  size_t first = 0;
  while (!spec_of(first).is_part() || spec_of(first).file != part.file || spec_of(first).offset != part.offset) ++first;
  return first;
}

void Model::keep_blocks(int64_t first, int64_t count) {
  FLEXGEN_CHECK(layers_before_ == 0 && num_blocks() == config_.num_layers, "the model is a stage already");
  FLEXGEN_CHECK(first >= 0 && count > 0 && first + count <= config_.num_layers, "blocks [{}, {} + {}) of {}", first, first, count, config_.num_layers);
  auto kept = [&](const LayerSpec& layer) {
    if (layer.kind == LayerKind::kEmbed) return first == 0;
    if (layer.kind == LayerKind::kHead) return first + count == config_.num_layers;
    return layer.index >= first && layer.index < first + count;
  };
  layers_before_ = std::find_if(layers_.begin(), layers_.end(), kept) - layers_.begin();
  blocks_before_ = first;
  std::erase_if(layers_, [&](const LayerSpec& layer) { return !kept(layer); });
  std::vector<WeightSpec> weights;
  std::map<int, int> new_index;
  for (LayerSpec& layer : layers_)
    for (WeightUse& use : layer.uses) {
      auto [known, is_new] = new_index.try_emplace(use.weight, static_cast<int>(weights.size()));
      if (is_new) weights.push_back(weights_[static_cast<size_t>(use.weight)]);
      use.weight = known->second;
    }
  weights_ = std::move(weights);
  sum_up_layers();
  sum_up_checking();
}

void Model::sum_up_layers() {
  kinds_.clear();
  num_blocks_ = widest_head_ = 0;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    widest_head_ = std::max(widest_head_, layers_[layer].vocab_count);
    if (layers_[layer].kind != LayerKind::kBlock) continue;
    layers_[layer].cache = num_blocks_++;
    auto work_of = [&](int64_t of) {
      const LayerSpec& block = layers_[static_cast<size_t>(of)];
      return std::pair(block.state, block.linear_flops_per_row);
    };
    auto known = std::find_if(kinds_.begin(), kinds_.end(), [&](const auto& kind) { return work_of(kind.first) == work_of(static_cast<int64_t>(layer)); });
    if (known == kinds_.end()) kinds_.emplace_back(static_cast<int64_t>(layer), 1);
    else ++known->second;
  }
}

int64_t Model::index_of_state(const StateSpec& state) {
  const auto known = std::find(states_.begin(), states_.end(), state);
  if (known != states_.end()) return known - states_.begin();
  states_.push_back(state);
  return std::ssize(states_) - 1;
}

void Model::declare_state(int64_t index, const StateSpec& state) {
  const auto layer = std::find_if(layers_.begin(), layers_.end(), [&](const LayerSpec& each) { return each.kind == LayerKind::kBlock && each.index == index; });
  FLEXGEN_CHECK(layer != layers_.end(), "block {}", index);
  layer->state = index_of_state(state);
  // One that no layer has any more would be given memory.
  std::vector<StateSpec> used;
  std::swap(used, states_);
  for (LayerSpec& each : layers_)
    if (each.state >= 0) each.state = index_of_state(used[static_cast<size_t>(each.state)]);
  sum_up_layers();
}

VisitWork Model::mean_block_work(int64_t num_rows, std::span<const AttentionSlot> slots, DType kv_dtype) const {
  VisitWork mean;
  for (const auto& [layer, count] : kinds_) {
    const VisitWork one = work(layer, num_rows, slots, 0, kv_dtype);
    const double share = static_cast<double>(count) / static_cast<double>(num_blocks());
    mean.linear_flops += share * one.linear_flops;
    mean.attention_flops += share * one.attention_flops;
    mean.kv_read_bytes += share * one.kv_read_bytes;
    mean.decode_kv_bytes += share * one.decode_kv_bytes;
    mean.decode_context += share * one.decode_context;
    mean.chunk_attention_flops += share * one.chunk_attention_flops;
  }
  return mean;
}

void Model::set_attention_sparsity(double share) {
  if (share < 1 && !config_.alibi_slopes.empty())
    fail_user("--attention-sparsity: this model's scores depend on distances (ALiBi), which is lost among chosen positions; leave it out");
  config_.attention_sparsity = share;
}

int64_t Model::layer_of_cache(int64_t cache) const {
  const auto layer = std::find_if(layers_.begin(), layers_.end(), [&](const LayerSpec& each) { return each.cache == cache; });
  FLEXGEN_CHECK(cache >= 0 && layer != layers_.end(), "cache {} of {}", cache, num_blocks_);
  return layer - layers_.begin();
}

double Model::attention_input_flops_per_row(int64_t block) const {
  const HeadSizes heads = config_.heads_of(block);
  const int64_t num_kv = config_.attention[static_cast<size_t>(block)].keys_are_values ? 1 : 2;
  return 2.0 * static_cast<double>(heads.q_width() + num_kv * heads.kv_width()) * static_cast<double>(config_.hidden_size);
}

double Model::mean_attention_input_flops_per_row() const {
  double sum = 0;
  for (const auto& [layer, count] : kinds_) sum += static_cast<double>(count) * attention_input_flops_per_row(layers_[static_cast<size_t>(layer)].index);
  return sum / static_cast<double>(num_blocks());
}

void Model::rotate_keys() {
  for (int64_t block = 0; block < config_.num_layers; ++block)
    if (const int64_t size = config_.heads_of(block).head_size; !std::has_single_bit(static_cast<uint64_t>(size)))
      fail_user("--kv-cache-rotation hadamard: this model's heads have {} elements, and only a power of two can be rotated; leave it out", size);
  config_.rotate_keys = true;
}

KvGeometry Model::kv_geometry(DType dtype, int64_t page_tokens, int64_t state) const {
  const StateSpec& spec = states_[static_cast<size_t>(state)];
  return {dtype, config_.num_heads, spec.heads, spec.head_size, page_tokens};
}

int64_t Model::scratch_bytes(int64_t max_rows, int64_t max_logit_rows) const {
  Scratch embed(nullptr), block(nullptr), experts(nullptr), head(nullptr);
  if (layers_.front().kind == LayerKind::kEmbed) EmbedScratch(embed, config_, max_rows);
  BlockScratch(block, config_, max_rows);
  if (config_.is_mixture()) ExpertScratch(experts, config_, max_rows);
  if (widest_head_ > 0) HeadScratch(head, config_, max_logit_rows, widest_head_);
  return std::max({embed.used(), block.used(), experts.used(), head.used()});
}

double Model::weight_bytes(int64_t layer) const {
  double bytes = 0;
  for (const WeightUse& use : layers_[static_cast<size_t>(layer)].uses) {
    if (use.lookup || use.role == Role::kPositions) continue;
    const WeightSpec& weight = weights_[static_cast<size_t>(use.weight)];
    bytes += static_cast<double>(use.rows) * static_cast<double>(weight.stored_bytes()) / static_cast<double>(weight.rows);
  }
  return bytes;
}

VisitWork Model::work(int64_t layer, int64_t num_rows, std::span<const AttentionSlot> slots, int64_t num_logit_rows, DType kv_dtype) const {
  const LayerSpec& spec = layers_[static_cast<size_t>(layer)];
  VisitWork work;
  work.linear_flops = spec.linear_flops_per_row * static_cast<double>(spec.kind == LayerKind::kHead ? num_logit_rows : num_rows);
  if (spec.kind != LayerKind::kBlock) return work;
  const StateSpec& state = states_[static_cast<size_t>(spec.state)];
  if (state.kind == StateSpec::Kind::kFixed) {
    work.kv_read_bytes = static_cast<double>(std::ssize(slots) * state.fixed_bytes);
    return work;
  }
  AttentionRule rule = attention_rule(config_, spec.index);
  rule.window = state.window;
  const auto q_width = static_cast<double>(config_.heads_of(spec.index).q_width());
  const int64_t window = rule.window > 0 ? rule.window : std::numeric_limits<int64_t>::max();
  const auto token_bytes = static_cast<double>(state.page_bytes(kv_dtype, 1));
  double decoding_slots = 0, decode_positions = 0;
  for (const AttentionSlot& slot : slots) {
    const VisitWork before = work;
    const auto count_kind = [&] {
      if (slot.num_rows > 1) {
        work.chunk_attention_flops += work.attention_flops - before.attention_flops;
        return;
      }
      // What was read for the slot before it costs the products alone, as in a chunk; sparse rows and those with a window read for themselves.
      const double shared = !rule.is_sparse(slot, slot.past) && slot.past < window ? static_cast<double>(slot.shared) : 0;
      work.kv_read_bytes -= shared * token_bytes;
      work.chunk_attention_flops += 4 * q_width * shared;
      work.decode_kv_bytes += work.kv_read_bytes - before.kv_read_bytes;
      decode_positions += (work.kv_read_bytes - before.kv_read_bytes) / token_bytes;
      ++decoding_slots;
    };
    if (rule.is_sparse(slot, slot.past)) {
      for (int64_t i = 0; i < slot.num_rows; ++i) {
        const int64_t visible = rule.visible(slot.past + i);
        const auto keys_and_values = static_cast<double>(visible + rule.kept(visible));
        work.attention_flops += 2 * q_width * keys_and_values;
        work.kv_read_bytes += token_bytes / 2 * keys_and_values;
      }
      count_kind();
      continue;
    }
    const int64_t last = slot.past + slot.num_rows;
    // New token i attends to min(past + i + 1, window) positions.
    const int64_t growing = std::clamp<int64_t>(window - slot.past, 0, slot.num_rows);
    double attended = static_cast<double>(growing) * (static_cast<double>(slot.past) + static_cast<double>(growing + 1) / 2);
    if (growing < slot.num_rows) attended += static_cast<double>(slot.num_rows - growing) * static_cast<double>(window);
    work.attention_flops += 4 * q_width * attended;
    const int64_t first_read = window > slot.past ? 0 : slot.past + 1 - window;
    work.kv_read_bytes += token_bytes * static_cast<double>(last - first_read);
    count_kind();
  }
  if (decoding_slots > 0) work.decode_context = decode_positions / decoding_slots;
  return work;
}

void Model::forward(int64_t layer, std::span<const WeightView> weights, const VisitInput& input, const KvGeometry& geometry, float* hidden,
                    std::byte* scratch_memory, Kernels& kernels, LogitSink* sink) const {
  const LayerSpec& spec = layers_[static_cast<size_t>(layer)];
  FLEXGEN_CHECK(weights.size() == spec.uses.size(), "{} views for {} uses", weights.size(), spec.uses.size());
  const Architecture& architecture = architecture_of(config_);
  const LayerContext context{config_, spec, weights, input, geometry, hidden, kernels};
  const auto num_logit_rows = static_cast<int64_t>(input.logit_rows.size());
  if (spec.kind == LayerKind::kHead ? num_logit_rows == 0 : input.num_rows == 0) return;
  Scratch scratch(scratch_memory);
  if (spec.kind == LayerKind::kEmbed) {
    architecture.forward_embed(context, EmbedScratch(scratch, config_, input.num_rows));
  } else if (spec.kind == LayerKind::kBlock) {
    const BlockScratch s(scratch, config_, input.num_rows);
    architecture.before_attention(context, s);
    append_and_attend(context, s);
    architecture.after_attention(context, s);
  } else if (spec.kind == LayerKind::kExperts) {
    add_experts(context, ExpertScratch(scratch, config_, input.num_rows));
  } else if (spec.kind == LayerKind::kJoin) {
    join_experts(context, BlockScratch(scratch, config_, input.num_rows));
  } else {
    const HeadScratch s(scratch, config_, num_logit_rows, spec.vocab_count);
    for (int64_t first = 0; first < num_logit_rows;) {
      const int64_t rows = logits_of_panel(context, spec, s, first, s.logits);
      sink->accept(first, rows, spec.vocab_first, spec.vocab_count, s.logits, spec.vocab_count, nullptr);
      first += rows;
    }
  }
  FLEXGEN_CHECK(scratch.used() <= scratch_bytes(input.num_rows, num_logit_rows), "scratch {}", scratch.used());
}

bool Model::chooses_experts(int64_t layer) const {
  const LayerSpec& spec = layers_[static_cast<size_t>(layer)];
  return spec.kind == LayerKind::kBlock && config_.is_sparse(spec.index);
}

void Model::forward_before_attention(int64_t layer, std::span<const WeightView> weights, const VisitInput& input, float* hidden, std::byte* scratch_memory,
                                     Kernels& kernels, const AttentionInputs& to) const {
  const LayerSpec& spec = layers_[static_cast<size_t>(layer)];
  FLEXGEN_CHECK(spec.kind == LayerKind::kBlock);
  Scratch scratch(scratch_memory);
  BlockScratch s(scratch, config_, input.num_rows);
  s.q = to.q, s.k = to.k, s.v = to.v;
  architecture_of(config_).before_attention({config_, spec, weights, input, {}, hidden, kernels}, s);
}

void Model::attend(int64_t layer, const VisitInput& input, const KvGeometry& geometry, const AttentionInputs& from, std::byte* out, Kernels& kernels) const {
  Scratch nothing(nullptr);
  BlockScratch s(nothing, config_, input.num_rows);
  s.q = from.q, s.k = from.k, s.v = from.v;
  s.act = out;
  append_and_attend({config_, layers_[static_cast<size_t>(layer)], {}, input, geometry, nullptr, kernels}, s);
}

void Model::forward_after_attention(int64_t layer, std::span<const WeightView> weights, const VisitInput& input, float* hidden, std::byte* scratch_memory,
                                    Kernels& kernels, const std::byte* attended, DType dtype) const {
  const LayerSpec& spec = layers_[static_cast<size_t>(layer)];
  FLEXGEN_CHECK(spec.kind == LayerKind::kBlock);
  Scratch scratch(scratch_memory);
  const BlockScratch s(scratch, config_, input.num_rows);
  kernels.convert_rows(attended, dtype, input.num_rows, config_.heads_of(spec.index).q_width(), kernels.act_dtype(), GroupRange::kMinMax, s.act);
  architecture_of(config_).after_attention({config_, spec, weights, input, {}, hidden, kernels}, s);
}

int64_t Model::forward_logits(int64_t layer, std::span<const WeightView> weights, const VisitInput& input, int64_t first, float* hidden,
                              std::byte* scratch_memory, Kernels& kernels, float* logits) const {
  const LayerSpec& spec = layers_[static_cast<size_t>(layer)];
  Scratch scratch(scratch_memory);
  const HeadScratch s(scratch, config_, static_cast<int64_t>(input.logit_rows.size()), spec.vocab_count);
  return logits_of_panel({config_, spec, weights, input, {}, hidden, kernels}, spec, s, first, logits);
}

AttentionInputs AttentionInputs::at(std::byte* memory, const HeadSizes& heads, int64_t rows) {
  auto* q = reinterpret_cast<float*>(memory);
  float* k = q + rows * heads.q_width();
  return {q, k, k + rows * heads.kv_width()};
}

int64_t AttentionInputs::bytes(const HeadSizes& heads, int64_t rows) {
  return rows * (heads.q_width() + 2 * heads.kv_width()) * static_cast<int64_t>(sizeof(float));
}

}  // namespace flexgen
