// Model: what a checkpoint must hold, how it is cut into layers, and what a visit costs.

#include "model/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <thread>

#include "base/units.h"
#include "io/test_folder.h"
#include "model/architecture.h"
#include "model/dummy_checkpoint.h"

namespace flexgen::model_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const char* kLlama = R"({"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 1000, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
  "tie_word_embeddings": false})";
const char* kTied = R"({"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
  "intermediate_size": 48, "vocab_size": 100, "max_position_embeddings": 64, "tie_word_embeddings": true})";
const char* kMistral = R"({"model_type": "mistral", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
  "intermediate_size": 48, "vocab_size": 100, "max_position_embeddings": 64, "sliding_window": 5})";
const char* kOpt = R"({"model_type": "opt", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 64,
  "word_embed_proj_dim": 16, "do_layer_norm_before": false, "vocab_size": 100, "max_position_embeddings": 64})";

/// A checkpoint whose tensors a test may rename, drop or reshape before it is written.
struct TinyCheckpoint {
  TestFolder folder;
  std::vector<TensorToWrite> tensors;

  explicit TinyCheckpoint(const char* config, DType dtype = DType::kBF16) {
    folder.put("config.json", config);
    tensors = Model::expected_tensors(parse_config(config, "", "config.json"), dtype);
  }
  TensorToWrite& tensor(const std::string& name) {
    for (TensorToWrite& tensor : tensors)
      if (tensor.name == name) return tensor;
    throw std::runtime_error("no tensor " + name);
  }
  void drop(const std::string& name) {
    std::erase_if(tensors, [&](const TensorToWrite& tensor) { return tensor.name == name; });
  }
  void rename_prefix(const std::string& from, const std::string& to) {
    for (TensorToWrite& tensor : tensors)
      if (tensor.name.starts_with(from)) tensor.name = to + tensor.name.substr(from.size());
  }
  std::unique_ptr<Model> load() {
    SafetensorsWriter writer(folder.file("model.safetensors"), tensors);
    for (const TensorToWrite& tensor : tensors) {
      std::vector<std::byte> zeros(static_cast<size_t>(bytes_of(tensor)));
      writer.append(zeros.data(), static_cast<int64_t>(zeros.size()));
    }
    writer.close();
    return Model::load(folder.path().string());
  }
  std::string error() {
    return error_of(ErrorKind::kUser, [this] { load(); });
  }
};

/// A fused tensor's parts together are the tensor, once: the weights of every golden fixture take the bytes that its files hold of them.
TEST(Model, WeightsTakeTheBytesOfTheirTensors) {
  int64_t fixtures = 0, parts = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models")) {
    // Of quantized ones all tensors are counted by CodeTensors.EveryTensorIsRead.
    if (!std::filesystem::exists(entry.path() / "config.json") || entry.path().filename().string().starts_with("quantized-")) continue;
    SCOPED_TRACE(entry.path().filename().string());
    const auto model = Model::load(entry.path().string());
    int64_t of_weights = 0, of_tensors = 0;
    for (const WeightSpec& weight : model->weights()) {
      of_weights += weight.bytes();
      parts += weight.name.ends_with("]") ? 1 : 0;
    }
    const Checkpoint checkpoint = Checkpoint::open(entry.path().string());
    for (const auto& [name, location] : checkpoint.tensors()) {
      if (name.starts_with("model.vision_embedder.") || name.starts_with("model.embed_vision.") || name.starts_with("model.embed_audio.")) continue;
      int64_t count = 1;
      for (int64_t size : location.shape) count *= size;
      of_tensors += size_bytes(location.dtype, count);
    }
    EXPECT_EQ(of_weights, of_tensors);
    ++fixtures;
  }
  EXPECT_GE(fixtures, 40);
  EXPECT_GE(parts, 2 * 5);
}

TEST(Model, BlocksWithTheSameWindowCountTogether) {
  const auto config = parse_config(
      R"({"model_type": "gemma3_text", "hidden_size": 32, "num_hidden_layers": 6, "intermediate_size": 48, "head_dim": 16, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 4096, "sliding_window": 100})",
      "", "config.json");
  const auto model = Model::of_shape(config, DType::kBF16);
  const AttentionSlot slots[]{{0, 1, 999, nullptr}};
  const double token_bytes = 2 * 2 * 16 * 2;
  const VisitWork first = model->work(1, 1, slots, 0, DType::kBF16), last = model->work(6, 1, slots, 0, DType::kBF16),
                  mean = model->mean_block_work(1, slots, DType::kBF16);
  EXPECT_EQ(first.kv_read_bytes, 100 * token_bytes);
  EXPECT_EQ(last.kv_read_bytes, 1000 * token_bytes);
  EXPECT_DOUBLE_EQ(mean.kv_read_bytes, (5 * first.kv_read_bytes + last.kv_read_bytes) / 6);
  EXPECT_DOUBLE_EQ(mean.linear_flops, first.linear_flops);
}

/// As in Gemma 4: the last block has one kv head of 32 elements where the others have two of 16.
TEST(Model, BlocksMayHaveHeadsOfTheirOwn) {
  auto config = parse_config(
      R"({"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 48, "head_dim": 16, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 4096})",
      "", "config.json");
  const auto alike = Model::of_shape(config, DType::kBF16);
  config.attention[2].kv_heads = 1;
  config.attention[2].head_size = 32;
  EXPECT_EQ(config.heads_of(1), (HeadSizes{4, 2, 16}));
  EXPECT_EQ(config.heads_of(2), (HeadSizes{4, 1, 32}));
  EXPECT_EQ(config.widest_q(), 128);
  EXPECT_EQ(config.widest_kv(), 32);
  EXPECT_FLOAT_EQ(attention_rule(config, 2).scale, 1 / std::sqrt(32.0f));
  // Two kinds of pages, each of its layers.
  const StateSpec of_first{.heads = 2, .head_size = 16}, of_last{.heads = 1, .head_size = 32};
  const auto model = Model::of_shape(config, DType::kBF16);
  EXPECT_EQ(model->states(), (std::vector<StateSpec>{of_first, of_last}));
  EXPECT_EQ(model->kv_geometry(DType::kBF16, 16, 1).page_bytes(), 2 * 16 * 32 * 2);
  EXPECT_EQ(model->kv_geometry(DType::kBF16, 16, 1).query_heads, 4);
  const AttentionSlot slots[]{{0, 1, 99, nullptr}};
  EXPECT_EQ(model->work(1, 1, slots, 0, DType::kBF16).attention_flops, 4 * 64 * 100);
  EXPECT_EQ(model->work(3, 1, slots, 0, DType::kBF16).attention_flops, 4 * 128 * 100);
  EXPECT_EQ(model->attention_input_flops_per_row(0), 2 * 64 * (64 + 2 * 32));
  EXPECT_EQ(model->attention_input_flops_per_row(2), 2 * 64 * (128 + 2 * 32));
  EXPECT_DOUBLE_EQ(model->mean_attention_input_flops_per_row(), 2.0 * 64 * (2 * 128 + 192) / 3);
  EXPECT_GT(model->scratch_bytes(10, 1), alike->scratch_bytes(10, 1));
  EXPECT_EQ(AttentionInputs::bytes(config.heads_of(2), 10), 10 * 4 * (128 + 2 * 32));
}

/// Who wants a block's cache asks the layer, in a pipeline stage too.
TEST(Model, LayersSayWhichCacheTheyHave) {
  const auto whole = TinyCheckpoint(kLlama).load();
  auto stage = std::make_unique<Model>(*whole);
  const int64_t blocks = whole->config().num_layers;
  stage->keep_blocks(1, blocks - 1);
  EXPECT_EQ(whole->blocks_before(), 0);
  EXPECT_EQ(stage->blocks_before(), 1);
  for (const Model* model : {static_cast<const Model*>(whole.get()), static_cast<const Model*>(stage.get())}) {
    int64_t caches = 0;
    for (size_t layer = 0; layer < model->layers().size(); ++layer) {
      const LayerSpec& spec = model->layers()[layer];
      if (spec.kind != LayerKind::kBlock) {
        EXPECT_EQ(spec.cache, -1);
        continue;
      }
      EXPECT_EQ(spec.cache, caches);
      EXPECT_EQ(spec.index, caches + model->blocks_before());
      EXPECT_EQ(model->layer_of_cache(caches), static_cast<int64_t>(layer));
      ++caches;
    }
    EXPECT_EQ(model->num_blocks(), caches);
    EXPECT_EQ(caches, blocks - model->blocks_before());
  }
}

/// A mixture's sparse block is the layer that attends, and then units of experts no larger than that; a dense one stays whole.
TEST(Model, ExpertsAreLayersOfTheirOwn) {
  const auto config = parse_config(
      R"({"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 96, "moe_intermediate_size": 32, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 5, "num_experts_per_tok": 2, "mlp_only_layers": [1], "vocab_size": 100, "max_position_embeddings": 64})",
      "", "config.json");
  auto model = Model::of_shape(config, DType::kBF16);
  // Attention has 12288 elements, the dense block 18432 more, an expert 6144: five experts fit.
  std::vector<LayerKind> kinds;
  for (const LayerSpec& layer : model->layers()) kinds.push_back(layer.kind);
  const std::vector<LayerKind> start{LayerKind::kEmbed, LayerKind::kBlock,   LayerKind::kExperts, LayerKind::kBlock,
                                     LayerKind::kBlock, LayerKind::kExperts, LayerKind::kHead};
  EXPECT_EQ(kinds, start);
  EXPECT_EQ(model->num_blocks(), 3);
  const LayerSpec& experts = model->layers()[2];
  EXPECT_EQ(experts.cache, -1);
  EXPECT_EQ(experts.index, 0);
  EXPECT_EQ(experts.num_experts, 5);
  EXPECT_EQ(experts.uses.size(), 15u);
  EXPECT_DOUBLE_EQ(experts.row_share, 0.4);
  EXPECT_DOUBLE_EQ(experts.linear_flops_per_row, 2 * 2 * 3 * 64 * 32);  // two experts
  EXPECT_EQ(config.kept_row_floats(), 2 * 64);
  // The router is no part of what streams, nor of what other types are made of.
  const WeightUse& router =
      *std::find_if(model->layers()[1].uses.begin(), model->layers()[1].uses.end(), [](const WeightUse& use) { return use.role == Role::kRouter; });
  EXPECT_TRUE(model->weights()[static_cast<size_t>(router.weight)].always_resident);
  model->keep_blocks(2, 1);
  EXPECT_EQ(model->layers_before(), 4);
  EXPECT_EQ(model->blocks_before(), 2);
  EXPECT_EQ(model->layers().front().cache, 0);
  EXPECT_EQ(model->layers()[1].kind, LayerKind::kExperts);
}

/// Gemma 4's stand beside a feed-forward part, and a layer after them adds what both make: rows keep what experts make until then. One block's values are its keys.
TEST(Model, ExpertsMayBeJoinedLater) {
  const auto config = parse_config(
      R"({"model_type": "gemma4_text", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "moe_intermediate_size": 32, "head_dim": 16, "global_head_dim": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "attention_k_eq_v": true, "num_global_key_value_heads": 1, "enable_moe_block": true, "num_experts": 5, "top_k_experts": 2,
    "hidden_size_per_layer_input": 0, "layer_types": ["sliding_attention", "full_attention"], "vocab_size": 100, "max_position_embeddings": 64})",
      "", "config.json");
  const auto model = Model::of_shape(config, DType::kBF16);
  // The second block's attention has 18432 elements, the part beside experts as many, an expert 6144: three fit.
  std::vector<LayerKind> kinds;
  for (const LayerSpec& layer : model->layers()) kinds.push_back(layer.kind);
  const std::vector<LayerKind> expected{LayerKind::kEmbed, LayerKind::kBlock,   LayerKind::kExperts, LayerKind::kExperts, LayerKind::kJoin,
                                        LayerKind::kBlock, LayerKind::kExperts, LayerKind::kExperts, LayerKind::kJoin,    LayerKind::kHead};
  EXPECT_EQ(kinds, expected);
  EXPECT_EQ(model->num_blocks(), 2);
  const LayerSpec& join = model->layers()[4];
  EXPECT_EQ(join.index, 0);
  EXPECT_EQ(join.cache, -1);
  EXPECT_DOUBLE_EQ(join.linear_flops_per_row, 2 * 3 * 64 * 96);
  EXPECT_EQ(config.kept_row_floats(), 3 * 64);
  EXPECT_EQ(model->attention_input_flops_per_row(1), 2 * 64 * (128 + 32));
  auto has = [&](const std::string& name) {
    return std::any_of(model->weights().begin(), model->weights().end(), [&](const WeightSpec& weight) { return weight.name == name; });
  };
  EXPECT_TRUE(has("model.layers.0.self_attn.v_proj.weight"));
  EXPECT_FALSE(has("model.layers.1.self_attn.v_proj.weight"));
  EXPECT_TRUE(has("model.layers.1.experts.gate_up_proj[4][32:64]"));
  auto stage = std::make_unique<Model>(*model);
  stage->keep_blocks(0, 1);
  EXPECT_EQ(stage->layers().back().kind, LayerKind::kJoin);
}

/// Without a dense block there is less room for a unit, and units are of about the same size.
TEST(Model, ExpertsAreCutIntoUnits) {
  const auto config =
      parse_config(R"({"model_type": "olmoe", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 4, "num_experts": 5,
    "num_experts_per_tok": 2, "vocab_size": 100, "max_position_embeddings": 64})",
                   "", "config.json");
  const auto model = Model::of_shape(config, DType::kBF16);
  std::vector<std::pair<int64_t, int64_t>> units;
  for (const LayerSpec& layer : model->layers())
    if (layer.kind == LayerKind::kExperts) units.emplace_back(layer.first_expert, layer.num_experts);
  const std::vector<std::pair<int64_t, int64_t>> expected{{0, 1}, {1, 2}, {3, 2}};  // 16384 elements of attention, 6144 an expert
  EXPECT_EQ(units, expected);
}

const WeightSpec& weight_named(const Model& model, const std::string& name) {
  const auto found = std::find_if(model.weights().begin(), model.weights().end(), [&](const WeightSpec& weight) { return weight.name == name; });
  EXPECT_NE(found, model.weights().end()) << name;
  return found == model.weights().end() ? model.weights().front() : *found;
}

/// A tensor for all experts of a block is listed expert by expert, and those part by part.
TEST(Model, ExpertsMayBeInOneTensor) {
  const auto granite =
      Model::of_shape(parse_config(R"({"model_type": "granitemoe", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 4,
    "num_local_experts": 3, "vocab_size": 100, "max_position_embeddings": 64})",
                                   "", "config.json"),
                      DType::kBF16);
  const std::string both = "model.layers.0.block_sparse_moe.input_linear.weight";
  const WeightSpec& first = weight_named(*granite, both + "[0][0:32]");
  EXPECT_EQ(first.rows, 32);
  EXPECT_EQ(first.cols, 64);
  EXPECT_EQ(weight_named(*granite, both + "[0][32:64]").offset, first.offset + 2 * 32 * 64);
  EXPECT_EQ(weight_named(*granite, both + "[2][32:64]").offset, first.offset + 2 * (2 * 64 + 32) * 64);
  const std::string down = "model.layers.0.block_sparse_moe.output_linear.weight";
  EXPECT_EQ(weight_named(*granite, down + "[1]").offset, weight_named(*granite, down + "[0]").offset + 2 * 64 * 32);

  const auto oss = Model::of_shape(
      parse_config(R"({"model_type": "gpt_oss", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 32, "head_dim": 16, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2, "vocab_size": 100, "max_position_embeddings": 64})",
                   "", "config.json"),
      DType::kBF16);
  const std::string pairs = "model.layers.0.mlp.experts.gate_up_proj";
  const WeightSpec& turned = weight_named(*oss, pairs + "[1]");  // stored [in, out]
  EXPECT_EQ(turned.turned_of, 64);
  EXPECT_EQ(turned.rows, 64);
  EXPECT_EQ(turned.cols, 64);
  EXPECT_EQ(turned.offset, weight_named(*oss, pairs + "[0]").offset + 2 * 64 * 64);
  const WeightSpec& bias = weight_named(*oss, pairs + "_bias[2]");
  EXPECT_TRUE(bias.always_resident);
  EXPECT_EQ(bias.cols, 64);
  EXPECT_EQ(bias.offset, weight_named(*oss, pairs + "_bias[0]").offset + 2 * 2 * 64);
}

const char* const kMxfp4 =
    R"({"model_type": "gpt_oss", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 32, "head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_local_experts": 3, "num_experts_per_tok": 2, "vocab_size": 100, "max_position_embeddings": 64, "quantization_config": {"quant_method": "mxfp4"}})";

/// gpt-oss as it is shipped: codes [out, in] where 16 bits are [in, out], with scales in a tensor of their own.
TEST(Model, ExpertsMayBeInMxfp4) {
  const auto oss = Model::of_shape(parse_config(kMxfp4, "", "config.json"), DType::kBF16);
  const std::string pairs = "model.layers.0.mlp.experts.gate_up_proj";
  const WeightSpec &first = weight_named(*oss, pairs + "[0]"), &third = weight_named(*oss, pairs + "[2]");
  EXPECT_EQ(third.dtype, DType::kFp4);
  EXPECT_EQ(third.turned_of, 0);
  EXPECT_EQ(third.bytes(), 64 * 32);
  EXPECT_EQ(third.offset, first.offset + 2 * third.bytes());
  ASSERT_TRUE(third.codes);
  const TensorBeside &scales = third.codes->beside[kScales], &before = first.codes->beside[kScales];
  EXPECT_EQ(scales.rows, 64);
  EXPECT_EQ(scales.row_bytes, 2);
  EXPECT_EQ(scales.offset, before.offset + 2 * scales.bytes());
  EXPECT_EQ(third.codes->format.scale_type, ScaleType::kE8M0);
}

TEST(Model, BrokenMxfp4IsNamed) {
  TinyCheckpoint without(kMxfp4);
  without.drop("model.layers.0.mlp.experts.down_proj_scales");
  EXPECT_THAT(without.error(), AllOf(HasSubstr("down_proj_scales"), HasSubstr("is missing")));
  TinyCheckpoint other(kMxfp4);
  for (TensorToWrite& tensor : other.tensors)
    if (tensor.name.ends_with("gate_up_proj_blocks")) tensor.shape = {3, 32, 4, 16};
  EXPECT_THAT(other.error(), AllOf(HasSubstr("gate_up_proj_blocks"), HasSubstr("do not belong together")));
}

/// torch.compile, DDP, PEFT, multimodal parents: the same names behind a wrapper's.
TEST(Model, NamesMayStartWithAWrappers) {
  const auto plain = TinyCheckpoint(kLlama).load();
  for (const char* wrapper : {"_orig_mod.", "module.", "module._orig_mod.", "base_model.model.", "language_model.", "model.language_model."}) {
    SCOPED_TRACE(wrapper);
    TinyCheckpoint checkpoint(kLlama);
    checkpoint.rename_prefix("", wrapper);
    checkpoint.tensors.push_back({"vision_tower.layers.0.input_layernorm.weight", DType::kBF16, {8}});
    EXPECT_EQ(checkpoint.load()->weights().size(), plain->weights().size());
  }
  TinyCheckpoint headless(kLlama);  // the head may lie outside of the wrapper
  headless.rename_prefix("model.", "model.language_model.");
  EXPECT_EQ(headless.load()->weights().size(), plain->weights().size());
}

TEST(Model, NamesThatFitNoModelAreShown) {
  TinyCheckpoint other(kLlama);
  other.rename_prefix("", "transformer.h.");
  other.drop("transformer.h.model.layers.1.self_attn.q_proj.weight");
  EXPECT_THAT(other.error(), AllOf(HasSubstr("is missing"), HasSubstr("names such as 'transformer.h.")));
  TinyCheckpoint two(kLlama);
  for (TensorToWrite tensor : std::vector<TensorToWrite>(two.tensors)) {
    tensor.name = "teacher." + tensor.name;
    two.tensors.push_back(tensor);
  }
  for (size_t i = 0; i < two.tensors.size() / 2; ++i) two.tensors[i].name = "student." + two.tensors[i].name;
  EXPECT_THAT(two.error(), AllOf(HasSubstr("more than one model"), HasSubstr("student."), HasSubstr("teacher.")));
}

TEST(Model, LayersCoverTheCheckpointOnce) {
  TinyCheckpoint checkpoint(kLlama);
  std::unique_ptr<Model> model = checkpoint.load();
  EXPECT_EQ(model->weights().size(), checkpoint.tensors.size());
  ASSERT_GE(model->layers().size(), 5u);
  EXPECT_EQ(model->layers()[0].kind, LayerKind::kEmbed);
  EXPECT_EQ(model->layers()[1].kind, LayerKind::kBlock);
  EXPECT_EQ(model->layers()[2].index, 1);
  for (const WeightSpec& weight : model->weights()) {
    EXPECT_EQ(weight.always_resident, weight.rows == 1) << weight.name;  // here vectors alone
    EXPECT_EQ(weight.dtype, DType::kBF16);
  }
  // The rows that layers read of each weight are all of its rows, in order.
  std::map<int, int64_t> read;
  for (const LayerSpec& layer : model->layers())
    for (const WeightUse& use : layer.uses) {
      if (model->weights()[static_cast<size_t>(use.weight)].always_resident) continue;
      EXPECT_EQ(use.row_first, read[use.weight]);
      read[use.weight] += use.rows;
    }
  for (auto [weight, rows] : read) EXPECT_EQ(rows, model->weights()[static_cast<size_t>(weight)].rows);
}

TEST(Model, HeadChunksAreNoLargerThanABlock) {
  for (const char* config : {kLlama, kTied, kOpt}) {
    std::unique_ptr<Model> model = TinyCheckpoint(config).load();
    const ModelConfig& m = model->config();
    int64_t block_bytes = 0, vocab = 0;
    for (const WeightUse& use : model->layers()[1].uses) {
      const WeightSpec& weight = model->weights()[static_cast<size_t>(use.weight)];
      if (!weight.always_resident) block_bytes += use.rows * weight.row_bytes();
    }
    for (const LayerSpec& layer : model->layers()) {
      if (layer.kind != LayerKind::kHead) continue;
      EXPECT_EQ(layer.vocab_first, vocab);
      EXPECT_EQ(layer.vocab_first % 64, 0);
      EXPECT_EQ(layer.uses.back().row_first, layer.vocab_first);
      EXPECT_EQ(layer.uses.back().rows, layer.vocab_count);
      EXPECT_LE(layer.vocab_count * 2 * m.embed_size, block_bytes);
      vocab += layer.vocab_count;
    }
    EXPECT_EQ(vocab, m.vocab_size);
  }
  // 1000 rows of 32, a block of 7680 elements: chunks of at most 240 rows, so 192; five and more.
  EXPECT_GE(TinyCheckpoint(kLlama).load()->layers().size(), 1u + 2u + 5u);
}

TEST(Model, TiedEmbeddingsAreOneWeightUnderEitherName) {
  for (const char* name : {"model.embed_tokens.weight", "embed_tokens.weight", "lm_head.weight"}) {
    TinyCheckpoint checkpoint(kTied);
    checkpoint.tensor("model.embed_tokens.weight").name = name;
    if (std::string(name) == "embed_tokens.weight") checkpoint.rename_prefix("model.", "");
    std::unique_ptr<Model> model = checkpoint.load();
    const WeightUse& lookup = model->layers().front().uses[0];
    const WeightUse& output = model->layers().back().uses.back();
    EXPECT_EQ(lookup.weight, output.weight) << name;
    EXPECT_TRUE(lookup.lookup);
    EXPECT_FALSE(output.lookup);
    EXPECT_EQ(model->weights()[static_cast<size_t>(lookup.weight)].name, name);
    EXPECT_FALSE(model->weights()[static_cast<size_t>(lookup.weight)].always_resident);
  }
}

// As transformers 5: config.json is wrong then.
TEST(Model, TiedEmbeddingsThatDifferAreNotTied) {
  TinyCheckpoint checkpoint(kTied);
  TensorToWrite output = checkpoint.tensor("model.embed_tokens.weight");
  output.name = "lm_head.weight";
  checkpoint.tensors.push_back(output);
  auto names = [](const Model& model) {
    const auto& weights = model.weights();
    return std::pair(weights[static_cast<size_t>(model.layers().front().uses[0].weight)].name,
                     weights[static_cast<size_t>(model.layers().back().uses.back().weight)].name);
  };
  const std::unique_ptr<Model> same = checkpoint.load();
  EXPECT_TRUE(same->config().tied_embeddings);
  EXPECT_EQ(names(*same), std::pair(std::string("model.embed_tokens.weight"), std::string("model.embed_tokens.weight")));

  const std::string folder = checkpoint.folder.path().string();
  const TensorLocation head = *Checkpoint::open(folder).find("lm_head.weight");
  std::fstream(checkpoint.folder.file("model.safetensors"), std::ios::in | std::ios::out | std::ios::binary).seekp(head.offset + head.bytes - 1).put('\1');
  const std::unique_ptr<Model> other = Model::load(folder);
  EXPECT_FALSE(other->config().tied_embeddings);
  EXPECT_EQ(names(*other), std::pair(std::string("model.embed_tokens.weight"), std::string("lm_head.weight")));
}

// What a wrapper put into the middle is seen.
TEST(Model, AMissingTensorsMessageShowsTheNameThatIsNearest) {
  TinyCheckpoint checkpoint(kLlama);
  for (TensorToWrite& tensor : checkpoint.tensors)
    if (const size_t at = tensor.name.find("self_attn"); at != std::string::npos) tensor.name.insert(at, "_orig_mod.");
  EXPECT_THAT(checkpoint.error(), AllOf(HasSubstr("'model.layers.0.self_attn."), HasSubstr("names such as 'model.layers.0._orig_mod.self_attn.")));
}

TEST(Model, PrefixesOfAllKinds) {
  for (const char* prefix : {"model.decoder.", "decoder.", ""}) {
    TinyCheckpoint checkpoint(kOpt);
    checkpoint.rename_prefix("model.decoder.", prefix);
    EXPECT_NO_THROW(checkpoint.load()) << prefix;
  }
  TinyCheckpoint checkpoint(kLlama);
  checkpoint.rename_prefix("model.", "");
  EXPECT_NO_THROW(checkpoint.load());
}

TEST(Model, MissingTensorsAreNamed) {
  for (const char* name :
       {"model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"}) {
    TinyCheckpoint checkpoint(kLlama);
    checkpoint.drop(name);
    EXPECT_THAT(checkpoint.error(), AllOf(HasSubstr(std::string("'") + name + "'"), HasSubstr("missing"), HasSubstr(checkpoint.folder.path().string())));
  }
  TinyCheckpoint untied(kLlama);
  untied.drop("lm_head.weight");
  EXPECT_THAT(untied.error(), HasSubstr("tie_word_embeddings"));
}

TEST(Model, WrongShapesAreNamed) {
  const std::pair<const char*, std::vector<int64_t>> kWrong[] = {{"model.layers.0.self_attn.k_proj.weight", {32, 32}},
                                                                 {"model.layers.1.mlp.gate_proj.weight", {32, 48}},
                                                                 {"model.layers.1.mlp.gate_proj.weight", {48 * 32}},
                                                                 {"model.norm.weight", {33}},
                                                                 {"model.norm.weight", {1, 32}},
                                                                 {"lm_head.weight", {1008, 32}},
                                                                 {"model.embed_tokens.weight", {1000, 32, 1}}};
  for (const auto& [name, shape] : kWrong) {
    TinyCheckpoint checkpoint(kLlama);
    checkpoint.tensor(name).shape = shape;
    EXPECT_THAT(checkpoint.error(), AllOf(HasSubstr(std::string("'") + name + "'"), HasSubstr("shape")));
  }
}

/// What is logged meanwhile.
std::string notes_of(const std::function<void()>& call) {
  std::ostringstream out;
  const auto logger = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("", std::make_shared<spdlog::sinks::ostream_sink_mt>(out)));
  call();
  spdlog::set_default_logger(logger);
  return out.str();
}

/// Files of GPT-2 with and without the prefix, and with the constants that its class once kept.
TEST(Model, Gpt2ByEitherNames) {
  const char* config = R"({"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 100})";
  TinyCheckpoint plain(config), bare(config);
  EXPECT_EQ(plain.tensor("transformer.h.1.attn.c_attn.weight").shape, (std::vector<int64_t>{32, 96}));
  EXPECT_EQ(plain.tensor("transformer.h.1.mlp.c_proj.weight").shape, (std::vector<int64_t>{128, 32}));
  bare.rename_prefix("transformer.", "");
  for (const char* block : {"h.0.", "h.1."}) {
    bare.tensors.push_back({std::string(block) + "attn.bias", DType::kF32, {1, 1, 64, 64}});
    bare.tensors.push_back({std::string(block) + "attn.masked_bias", DType::kF32, {}});
  }
  const auto model = plain.load();
  std::unique_ptr<Model> other;
  const std::string told = notes_of([&] { other = bare.load(); });
  EXPECT_EQ(told, "");
  ASSERT_EQ(other->weights().size(), model->weights().size());
  const std::string untied = R"({"tie_word_embeddings": false, )" + std::string(config + 1);
  EXPECT_EQ(TinyCheckpoint(untied.c_str()).load()->weights().size(), model->weights().size() + 1);
  // q, k and v are columns side by side.
  std::map<Role, const WeightSpec*> of_role;
  for (const WeightUse& use : model->layers()[1].uses) of_role[use.role] = &model->weights()[static_cast<size_t>(use.weight)];
  EXPECT_EQ(of_role[Role::kK]->offset - of_role[Role::kQ]->offset, 32 * 2);
  EXPECT_EQ(of_role[Role::kV]->turned_of, 96);
  EXPECT_EQ(of_role[Role::kDown]->cols, 128);
}

TEST(Model, TensorsThatNobodyNeedsAreNoError) {
  TinyCheckpoint checkpoint(kLlama);
  checkpoint.tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::kF32, {4}});
  checkpoint.tensors.push_back({"model.layers.7.extra.weight", DType::kF32, {4}});
  EXPECT_EQ(checkpoint.load()->weights().size(), checkpoint.tensors.size() - 2);
}

/// AutoAWQ's, without which answers would be wrong: read where the family and the method have them, else refused.
TEST(Model, ScalesOfActivationsAreReadOrRefused) {
  const std::string starcoder =
      R"({"model_type": "starcoder2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    "vocab_size": 100, "max_position_embeddings": 64)";
  const std::string awq = starcoder + R"(, "quantization_config": {"quant_method": "awq", "bits": 4}})", plain = starcoder + "}";
  const TensorToWrite scales{"model.layers.1.mlp.act.scales", DType::kF16, {48}};
  TinyCheckpoint good(awq.c_str());
  good.tensors.push_back(scales);
  const std::unique_ptr<Model> model = good.load();
  const auto has_scales = [](const LayerSpec& layer) {
    return std::any_of(layer.uses.begin(), layer.uses.end(), [](const WeightUse& use) { return use.role == Role::kInnerScales; });
  };
  EXPECT_FALSE(has_scales(model->layers()[1]));  // one that has none goes without
  EXPECT_TRUE(has_scales(model->layers()[2]));
  good.tensors.back().shape = {47};
  EXPECT_THAT(good.error(), AllOf(HasSubstr("'model.layers.1.mlp.act.scales'"), HasSubstr("[47]")));
  for (const char* config : {plain.c_str(), kLlama})
    for (const char* name : {"model.layers.1.mlp.act.scales", "model.layers.1.mlp.gelu_impl.scales"}) {
      TinyCheckpoint bad(config);
      bad.tensors.push_back(scales);
      bad.tensors.back().name = name;
      EXPECT_THAT(bad.error(), AllOf(HasSubstr(name), HasSubstr("divided")));
    }
  TinyCheckpoint more(plain.c_str());  // blocks that config.json leaves out
  more.tensors.push_back(scales);
  more.tensors.back().name = "model.layers.2.mlp.act.scales";
  EXPECT_EQ(more.load()->layers().size(), model->layers().size());
}

/// Without what the adapter adds, answers would be those of another model.
TEST(Model, AnAdapterThatWasNotMergedIsRefused) {
  for (const char* name :
       {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", "model.layers.0.self_attn.q_proj.lora_B.weight",
        "model.embed_tokens.lora_embedding_A", "model.layers.1.mlp.up_proj.lora_magnitude_vector", "model.layers.0.self_attn.q_proj.base_layer.weight"}) {
    TinyCheckpoint checkpoint(kLlama);
    checkpoint.tensors.push_back({name, DType::kF32, {4}});
    EXPECT_THAT(checkpoint.error(), AllOf(HasSubstr(name), HasSubstr("merge_and_unload"))) << name;
  }
}

TEST(Model, MixedDtypesKeepTheirOwn) {
  TinyCheckpoint checkpoint(kLlama);
  checkpoint.tensor("model.norm.weight").dtype = DType::kF32;
  std::unique_ptr<Model> model = checkpoint.load();
  for (const WeightSpec& weight : model->weights()) EXPECT_EQ(weight.dtype, weight.name == "model.norm.weight" ? DType::kF32 : DType::kBF16) << weight.name;
}

TEST(Model, WorkOfABlock) {
  std::unique_ptr<Model> model = TinyCheckpoint(kLlama).load();
  // q 32x32, k and v 16x32, o 32x32, gate, up, down 48x32
  const double elements = 32 * 32 * 2 + 16 * 32 * 2 + 3 * 48 * 32;
  const AttentionSlot slots[] = {{0, 3, 10, nullptr}, {3, 1, 0, nullptr}};
  VisitWork work = model->work(1, 4, slots, 4, DType::kF32);
  EXPECT_DOUBLE_EQ(work.linear_flops, 2 * 4 * elements);
  EXPECT_DOUBLE_EQ(work.attention_flops, 4 * 32 * ((11 + 12 + 13) + 1));
  EXPECT_DOUBLE_EQ(work.kv_read_bytes, (13 + 1) * 2 * 16 * 4);
  EXPECT_DOUBLE_EQ(model->work(1, 4, slots, 4, DType::kBF16).kv_read_bytes, (13 + 1) * 2 * 16 * 2);

  double head = 0;
  for (size_t i = 3; i < model->layers().size(); ++i) head += model->work(static_cast<int64_t>(i), 4, {}, 3, DType::kBF16).linear_flops;
  EXPECT_DOUBLE_EQ(head, 2.0 * 3 * 1000 * 32);
  EXPECT_DOUBLE_EQ(model->work(0, 4, {}, 4, DType::kBF16).linear_flops, 0);
}

TEST(Model, WorkCountsProjectionsAndNoPositions) {
  std::unique_ptr<Model> model = TinyCheckpoint(kOpt).load();
  EXPECT_DOUBLE_EQ(model->work(0, 5, {}, 5, DType::kBF16).linear_flops, 2 * 5 * 32 * 16);
  double projection = 0;
  for (const WeightSpec& weight : model->weights())
    if (weight.name.ends_with("project_in.weight")) projection += static_cast<double>(weight.bytes());
  EXPECT_GT(projection, 0);
  EXPECT_DOUBLE_EQ(model->weight_bytes(0), projection);  // rows of tables are picked, not read whole
}

TEST(Model, WorkSeesTheWindow) {
  std::unique_ptr<Model> model = TinyCheckpoint(kMistral).load();
  // Window 5, tokens at 2..8: they see 3, 4, 5, 5, 5, 5, 5; the first at 0, so all 9 are read.
  const AttentionSlot crossing[] = {{0, 7, 2, nullptr}};
  EXPECT_DOUBLE_EQ(model->work(1, 7, crossing, 0, DType::kBF16).attention_flops, 4 * 32 * 32);
  EXPECT_DOUBLE_EQ(model->work(1, 7, crossing, 0, DType::kBF16).kv_read_bytes, 9 * 2 * 16 * 2);
  // A token at 20 sees 16..20.
  const AttentionSlot late[] = {{0, 1, 20, nullptr}};
  EXPECT_DOUBLE_EQ(model->work(1, 1, late, 0, DType::kBF16).attention_flops, 4 * 32 * 5);
  EXPECT_DOUBLE_EQ(model->work(1, 1, late, 0, DType::kBF16).kv_read_bytes, 5 * 2 * 16 * 2);
}

/// What the slot before has read already costs a single token its products alone; not with a window that has passed it, and not where the rows are sparse.
TEST(Model, WorkCountsWhatSlotsShareOnce) {
  std::unique_ptr<Model> model = TinyCheckpoint(kLlama).load();
  const int64_t dense = std::numeric_limits<int64_t>::max();
  const AttentionSlot apart[] = {{0, 1, 40, nullptr, 20, 0}, {1, 1, 50, nullptr, 20, 0}, {2, 3, 40, nullptr, dense, 0}};
  const AttentionSlot together[] = {{0, 1, 40, nullptr, 20, 0}, {1, 1, 50, nullptr, 20, 32}, {2, 3, 40, nullptr, dense, 32}};
  const double token_bytes = 2 * 16 * 2, flops = 4 * 32;
  const VisitWork alone = model->work(1, 5, apart, 0, DType::kBF16), work = model->work(1, 5, together, 0, DType::kBF16);
  EXPECT_DOUBLE_EQ(alone.decode_kv_bytes, (41 + 51) * token_bytes);
  EXPECT_DOUBLE_EQ(alone.decode_context, 46);
  EXPECT_DOUBLE_EQ(alone.chunk_attention_flops, (41 + 42 + 43) * flops);
  EXPECT_DOUBLE_EQ(work.attention_flops, alone.attention_flops);
  EXPECT_DOUBLE_EQ(work.decode_kv_bytes, alone.decode_kv_bytes - 32 * token_bytes);
  EXPECT_DOUBLE_EQ(work.kv_read_bytes, alone.kv_read_bytes - 32 * token_bytes);
  EXPECT_DOUBLE_EQ(work.decode_context, 46 - 16);
  EXPECT_DOUBLE_EQ(work.chunk_attention_flops, alone.chunk_attention_flops + 32 * flops);

  model->set_attention_sparsity(0.5);
  EXPECT_DOUBLE_EQ(model->work(1, 5, together, 0, DType::kBF16).kv_read_bytes, model->work(1, 5, apart, 0, DType::kBF16).kv_read_bytes);
  std::unique_ptr<Model> windowed = TinyCheckpoint(kMistral).load();
  EXPECT_DOUBLE_EQ(windowed->work(1, 5, together, 0, DType::kBF16).kv_read_bytes, windowed->work(1, 5, apart, 0, DType::kBF16).kv_read_bytes);
}

TEST(Model, ScratchIsBoundedInPanels) {
  std::unique_ptr<Model> model = TinyCheckpoint(kLlama).load();
  EXPECT_GT(model->scratch_bytes(1, 1), 0);
  // Logits are computed 256 rows at a time: their scratch stops growing.
  EXPECT_EQ(model->scratch_bytes(1, 256), model->scratch_bytes(1, 4096));
  // Beyond the feed-forward panel a row takes act, q, k and v alone: 4 bytes each.
  EXPECT_EQ(model->scratch_bytes(8192, 1) - model->scratch_bytes(4096, 1), 4096 * 4 * (32 + 32 + 16 + 16));
}

TEST(DummyCheckpoint, IsMadeOnceAndLoads) {
  for (const char* config : {kLlama, kTied, kOpt}) {
    TestFolder folder;
    const std::string directory = folder.file("dummy");
    int64_t calls = 0, last = 0;
    auto progress = [&](int64_t done, int64_t total) { ++calls, last = total - done; };
    ensure_dummy_checkpoint(directory, config, DType::kF16, 3, progress);
    EXPECT_GT(calls, 0);
    EXPECT_EQ(last, 0);
    const std::string first = Model::load(directory)->fingerprint();
    calls = 0;
    ensure_dummy_checkpoint(directory, config, DType::kF16, 3, progress);
    EXPECT_EQ(calls, 0) << "made again";
    ensure_dummy_checkpoint(directory, config, DType::kF16, 4, progress);
    EXPECT_NE(Model::load(directory)->fingerprint(), first);
  }
}

int64_t entries_of(const std::string& directory) {
  return std::distance(std::filesystem::directory_iterator(directory), std::filesystem::directory_iterator());
}

/// Killed at any moment, it is written again: no folder is taken for a user's own.
TEST(DummyCheckpoint, AKilledOneIsWrittenAgain) {
  TestFolder folder;
  const std::string directory = folder.file("dummy");
  ensure_dummy_checkpoint(directory, kLlama, DType::kF16, 3, nullptr);
  const std::string first = Model::load(directory)->fingerprint();
  const pid_t child = fork();
  if (child == 0) {
    ensure_dummy_checkpoint(directory, kLlama, DType::kF16, 4, [](int64_t, int64_t) { _exit(0); });
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(WEXITSTATUS(status), 0);
  ensure_dummy_checkpoint(directory, kLlama, DType::kF16, 3, nullptr);
  EXPECT_EQ(Model::load(directory)->fingerprint(), first);
  EXPECT_EQ(entries_of(directory), 3) << "something was left behind";
}

TEST(DummyCheckpoint, OfTwoProcessesOneWritesIt) {
  TestFolder folder;
  const std::string directory = folder.file("dummy");
  std::atomic<int64_t> calls = 0;
  std::thread second;
  ensure_dummy_checkpoint(directory, kLlama, DType::kF16, 3, [&](int64_t, int64_t) {
    if (!second.joinable()) {
      second = std::thread([&] { ensure_dummy_checkpoint(directory, kLlama, DType::kF16, 3, [&](int64_t, int64_t) { ++calls; }); });
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
  });
  second.join();
  EXPECT_EQ(calls, 0);
  EXPECT_EQ(entries_of(directory), 3);
}

}  // namespace
}  // namespace flexgen::model_test
