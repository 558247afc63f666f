// Golden tests: every architecture against what Hugging Face transformers computes in fp32 with the same tiny checkpoint
// (tools/make_golden_fixtures.py), on every backend, in whole prompts, in ragged chunks and token by token.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "backend/cuda/emulated_kernels.h"
#include "backend/cuda_status.h"
#include "backend/device.h"
#include "backend/staged_kernels.h"
#include "io/file.h"
#include "io/test_folder.h"
#include "model/model.h"
#include "model/prepared_weights.h"
#include "model/test_as_gguf.h"
#include "model/test_code_checkpoints.h"
#include "model/test_safetensors.h"
#include "tensor/group_quant.h"

namespace flexgen::golden_test {
namespace {

constexpr int64_t kPageTokens = 16;

/// A model whose weights all lie in memory, and sequences with a paged cache: the plainest way to drive forward().
class WholeModel {
 public:
  /// split_seed: where weights are cut into pieces; 0: they are not.
  WholeModel(const std::string& directory, Kernels& kernels, DType kv_dtype, uint32_t split_seed = 0)
      : model_(Model::load(directory)), kernels_(kernels), kv_dtype_(kv_dtype), random_(split_seed), split_(split_seed != 0) {
    if (has_turned_weights(*model_)) {
      FileSystem files;
      use_prepared_weights(*model_, kernels, files, {.dtype = std::nullopt, .directory = turned_.path().string()});
    }
    for (const WeightSpec& weight : model_->weights()) {
      data_.emplace_back(static_cast<size_t>(weight.stored_rows() * weight.row_bytes()));
      File::open(model_->files()[static_cast<size_t>(weight.file)], FileMode::kRead)->read(weight.offset, data_.back());
      auto& beside = beside_.emplace_back();
      for (size_t part = 0; weight.codes && part < beside.size(); ++part) {
        const TensorBeside& tensor = weight.codes->beside[part];
        beside[part].resize(static_cast<size_t>(tensor.bytes()));
        File::open(model_->files()[static_cast<size_t>(tensor.file)], FileMode::kRead)->read(tensor.offset, beside[part]);
      }
    }
  }
  const Model& model() const { return *model_; }

  /// Some new tokens of one sequence.
  struct Part {
    int sequence = 0;
    std::vector<int32_t> tokens;
  };
  /// Runs all layers on these parts, packed. Logits [all rows, vocab].
  std::vector<float> step(const std::vector<Part>& parts) {
    const ModelConfig& config = model_->config();
    std::vector<int32_t> tokens, positions, logit_rows;
    for (const Part& part : parts)
      for (size_t i = 0; i < part.tokens.size(); ++i) {
        tokens.push_back(part.tokens[i]);
        positions.push_back(static_cast<int32_t>(lengths_[part.sequence] + static_cast<int64_t>(i)));
        logit_rows.push_back(static_cast<int32_t>(logit_rows.size()));
      }
    const auto T = static_cast<int64_t>(tokens.size());
    std::vector<float> hidden(static_cast<size_t>(T * config.kept_row_floats()), NAN);
    // Exactly as much as was promised, with a guard behind it.
    const int64_t scratch_bytes = model_->scratch_bytes(T, T);
    std::vector<std::byte> memory(static_cast<size_t>(scratch_bytes) + 64 + kGuardBytes, kGuard);
    std::byte* scratch = memory.data();
    while (reinterpret_cast<uintptr_t>(scratch) % 64 != 0) ++scratch;

    std::vector<ExpertChoice> choices(static_cast<size_t>(T * config.mixture.experts_per_row));
    Sink sink(T, config.vocab_size);
    for (size_t layer = 0; layer < model_->layers().size(); ++layer) {
      const LayerSpec& spec = model_->layers()[layer];
      VisitInput input{T, positions, {}, {}, {}, choices};
      const KvGeometry geometry = model_->kv_geometry(kv_dtype_, kPageTokens, std::max<int64_t>(0, spec.state));
      std::vector<WeightView> views;
      for (const WeightUse& use : spec.uses) views.push_back(view_of(use));
      std::vector<const std::byte*> embed_rows;
      std::vector<AttentionSlot> slots;
      if (spec.kind == LayerKind::kEmbed) {
        const WeightUse* table = nullptr;
        for (const WeightUse& use : spec.uses)
          if (use.lookup) table = &use;
        const WeightSpec& weight = model_->weights()[static_cast<size_t>(table->weight)];
        for (int32_t token : tokens) embed_rows.push_back(data_[static_cast<size_t>(table->weight)].data() + token * weight.row_bytes());
        input.embed_rows = embed_rows;
      } else if (spec.kind == LayerKind::kBlock) {
        int64_t row = 0;
        for (const Part& part : parts) {
          const auto num = static_cast<int64_t>(part.tokens.size());
          slots.push_back({row, num, lengths_[part.sequence], pages(part.sequence, spec.index, lengths_[part.sequence] + num, geometry.page_bytes())});
          row += num;
        }
        input.slots = slots;
      } else if (spec.kind == LayerKind::kHead) {
        input.logit_rows = logit_rows;
      }
      model_->forward(static_cast<int64_t>(layer), views, input, geometry, hidden.data(), scratch, kernels_, &sink);
    }
    for (int64_t i = 0; i < kGuardBytes; ++i) EXPECT_EQ(scratch[scratch_bytes + i], kGuard) << "scratch overrun at " << i;
    for (const Part& part : parts) lengths_[part.sequence] += static_cast<int64_t>(part.tokens.size());
    EXPECT_EQ(sink.filled, T * config.vocab_size);
    return sink.logits;
  }

  /// Logits [sum of lengths, vocab] of whole sequences; `chunk(sequence)`: tokens a step.
  template <typename Chunk>
  std::vector<float> run(const std::vector<std::vector<int32_t>>& prompts, Chunk chunk) {
    const int64_t vocab = model_->config().vocab_size;
    std::vector<std::vector<float>> logits(prompts.size());
    lengths_.clear();
    pages_.clear();
    for (bool more = true; more;) {
      std::vector<Part> parts;
      for (size_t s = 0; s < prompts.size(); ++s) {
        const auto at = static_cast<size_t>(lengths_[static_cast<int>(s)]);
        const size_t end = std::min(prompts[s].size(), at + static_cast<size_t>(chunk(s)));
        if (at < end) parts.push_back({static_cast<int>(s), {prompts[s].begin() + static_cast<int64_t>(at), prompts[s].begin() + static_cast<int64_t>(end)}});
      }
      more = !parts.empty();
      if (!more) break;
      std::vector<float> rows = step(parts);
      const float* from = rows.data();
      for (const Part& part : parts) {
        auto& into = logits[static_cast<size_t>(part.sequence)];
        into.insert(into.end(), from, from + static_cast<int64_t>(part.tokens.size()) * vocab);
        from += static_cast<int64_t>(part.tokens.size()) * vocab;
      }
    }
    std::vector<float> all;
    for (const auto& part : logits) all.insert(all.end(), part.begin(), part.end());
    return all;
  }

 private:
  static constexpr std::byte kGuard{0xa5};
  static constexpr int64_t kGuardBytes = 256;

  struct Sink : LogitSink {
    bool takes_largest(int64_t, int64_t) const override { return false; }
    std::vector<Draw> draws(int64_t, int64_t) const override { return {}; }
    Sink(int64_t rows, int64_t vocab) : vocab(vocab), logits(static_cast<size_t>(rows * vocab), NAN) {}
    void accept(int64_t first, int64_t num, int64_t vocab_first, int64_t vocab_count, const float* from, int64_t stride, const Largest*) override {
      for (int64_t i = 0; i < num; ++i) std::copy_n(from + i * stride, vocab_count, logits.data() + (first + i) * vocab + vocab_first);
      filled += num * vocab_count;
    }
    int64_t vocab, filled = 0;
    std::vector<float> logits;
  };

  WeightView view_of(const WeightUse& use) {
    const WeightSpec& weight = model_->weights()[static_cast<size_t>(use.weight)];
    WeightView view{weight.dtype, use.rows, weight.cols, {}, weight.codes ? &weight.codes->format : nullptr};
    if (use.lookup) return view;
    const int64_t grain = !weight.codes ? 1 : is_transposed(weight.dtype) ? use.rows : weight.codes->grain_rows;
    const int64_t cut = split_ && !weight.always_resident ? static_cast<int64_t>(random_() % static_cast<uint64_t>(use.rows)) / grain * grain : 0;
    if (cut > 0) view.pieces.push_back(piece_of(use, 0, cut));
    view.pieces.push_back(piece_of(use, cut, use.rows - cut));
    return view;
  }
  /// Of what is used of a weight the rows [first, first + count).
  WeightPiece piece_of(const WeightUse& use, int64_t first, int64_t count) const {
    const auto index = static_cast<size_t>(use.weight);
    const WeightSpec& weight = model_->weights()[index];
    WeightPiece piece{data_[index].data() + (use.row_first + first) * weight.row_bytes(), count};
    for (size_t part = 0; weight.codes && part < piece.beside.size(); ++part) {
      const TensorBeside& tensor = weight.codes->beside[part];
      if (tensor.rows > 0) piece.beside[part] = beside_[index][part].data() + tensor.range(use.row_first + first, count).first - tensor.offset;
    }
    return weight.is_part() ? weight.codes->part_of(weight.dtype, piece) : piece;
  }

  std::byte* const* pages(int sequence, int64_t layer, int64_t tokens, int64_t page_bytes) {
    auto& cache = pages_[{sequence, layer}];
    while (static_cast<int64_t>(cache.memory.size()) * kPageTokens < tokens) {
      cache.memory.push_back(std::make_unique<std::byte[]>(static_cast<size_t>(page_bytes)));
      std::fill_n(cache.memory.back().get(), page_bytes, std::byte{0xff});  // NaN, should anybody read it
      cache.pointers.push_back(cache.memory.back().get());
    }
    return cache.pointers.data();
  }
  struct Cache {
    std::vector<std::unique_ptr<std::byte[]>> memory;
    std::vector<std::byte*> pointers;
  };

  TestFolder turned_;
  std::unique_ptr<Model> model_;
  Kernels& kernels_;
  DType kv_dtype_;
  std::mt19937 random_;
  bool split_;
  std::vector<std::vector<std::byte>> data_;
  std::vector<std::array<std::vector<std::byte>, kNumCodeParts>> beside_;  ///< of each weight
  std::map<int, int64_t> lengths_;
  std::map<std::pair<int, int64_t>, Cache> pages_;
};

struct Golden {
  std::vector<std::vector<int32_t>> prompts, continuations;
  std::vector<std::vector<float>> margins;
  std::vector<float> logits;
  float deviation = 0;  ///< standard deviation of the logits
  int64_t num_blocks = 2;
  bool rounds_weights = false;  ///< in bf16, as they were quantized
};

std::string fixture(const std::string& name) { return std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/" + name; }

Golden load_golden(const std::string& name) {
  Golden golden;
  std::ifstream text(fixture(name) + "/golden.json");
  nlohmann::json json = nlohmann::json::parse(text);
  json.at("prompts").get_to(golden.prompts);
  json.at("continuations").get_to(golden.continuations);
  json.at("margins").get_to(golden.margins);
  std::ifstream in(fixture(name) + "/golden.bin", std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  golden.logits.resize(bytes.size() / sizeof(float));
  std::memcpy(golden.logits.data(), bytes.data(), golden.logits.size() * sizeof(float));
  double sum = 0, square = 0;
  for (float x : golden.logits) sum += x, square += static_cast<double>(x) * x;
  const auto count = static_cast<double>(golden.logits.size());
  if (count > 0) golden.deviation = static_cast<float>(std::sqrt(square / count - sum / count * sum / count));
  return golden;
}

struct Difference {
  float largest = 0;
  double mean = 0;
};
Difference difference_of(const std::vector<float>& got, const std::vector<float>& wanted) {
  EXPECT_EQ(got.size(), wanted.size());
  Difference error;
  for (size_t i = 0; i < std::min(got.size(), wanted.size()); ++i) {
    const float difference = std::abs(got[i] - wanted[i]);
    error.largest = std::isnan(difference) ? INFINITY : std::max(error.largest, difference);
    error.mean += difference / static_cast<double>(wanted.size());
  }
  return error;
}

struct Backend {
  std::string name;
  DType dtype;  ///< of computation and cache
  friend std::ostream& operator<<(std::ostream& out, const Backend& backend) { return out << backend.name << " " << dtype_name(backend.dtype); }
};
std::unique_ptr<Kernels> make_kernels(const Backend& backend) {
  if (backend.name == "reference") return make_reference_kernels();
  if (backend.name == "cuda_emulated") return make_emulated_cuda_kernels(backend.dtype);
  if (backend.name == "cuda") return make_staged_kernels(make_cuda_device(0), backend.dtype);
  return make_cpu_kernels({1, backend.dtype});
}

/// How far logits may be from transformers' fp32 ones, in units of the logits' standard deviation.
/// fp32: other summation orders. fp16 has three bits more than bf16, and is held to the same. bf16: each activation is rounded to 8 bits, a relative error of at most 2^-8 with an rms of
/// about 2^-9.8 = 0.0011. Between the embedding and a logit lie n = 7 roundings a block (norm, keys, values, attention, norm,
/// inner activation, queries) and 1 of the head, 15 here; as independent errors they add to sqrt(15) * 0.0011 =
/// 0.0043 of the signal. Norms and softmax pass errors on with gains of a few at these random weights: 3 makes the mean
/// error at most 0.013; the largest of some ten thousand normally distributed errors is about 5 times that, 0.065. With more blocks than two there
/// are more roundings. Where weights are rounded to bf16 as well, there are about twice as many.
struct Tolerance {
  float largest, mean;
};
Tolerance tolerance(const Backend& backend, const Golden& golden) {
  if (backend.dtype == DType::kF32) return {1e-4f, 1e-5f};
  const float of_two_blocks = golden.deviation * std::sqrt(static_cast<float>((golden.rounds_weights ? 2 : 1) * (7 * golden.num_blocks + 1)) / 15);
  return {0.065f * of_two_blocks, 0.013f * of_two_blocks};
}

class GoldenTest : public testing::TestWithParam<std::tuple<std::string, Backend>> {
 protected:
  void SetUp() override {
    backend_ = std::get<1>(GetParam());
    if (backend_.name == "cpu" && backend_.dtype == DType::kBF16 && !cpu_has_bf16()) GTEST_SKIP() << "this machine does not multiply bf16";
    if (const std::string why = backend_.name == "cuda" ? why_not_tested(cuda_status(), backend_.dtype) : ""; !why.empty()) GTEST_SKIP() << why;
    kernels_ = make_kernels(backend_);
    golden_ = load_golden(std::get<0>(GetParam()));
    const ModelConfig config = load_config(directory());
    golden_.num_blocks = config.num_layers;
    golden_.rounds_weights = config.quantization.there();
    ASSERT_FALSE(golden_.prompts.empty());
    ASSERT_FALSE(golden_.logits.empty());
  }
  std::string directory() const { return fixture(std::get<0>(GetParam())); }

  Backend backend_;
  std::unique_ptr<Kernels> kernels_;
  Golden golden_;
};

TEST_P(GoldenTest, LogitsAtEveryPosition) {
  WholeModel model(directory(), *kernels_, backend_.dtype);
  const std::vector<float> whole = model.run(golden_.prompts, [](size_t) { return 1000; });
  const Difference error = difference_of(whole, golden_.logits);
  const Tolerance allowed = tolerance(backend_, golden_);
  RecordProperty("largest_error_e6", static_cast<int>(1e6f * error.largest));
  if (std::getenv("FLEXGEN_SHOW_ERRORS"))
    std::printf("largest error %.2e, mean %.2e; of the deviation: %.4f, %.4f\n", error.largest, error.mean, error.largest / golden_.deviation,
                error.mean / golden_.deviation);
  EXPECT_LE(error.largest, allowed.largest);
  EXPECT_LE(error.mean, allowed.mean);
}

/// One answer: chunks, neighbours and cuts of the weights change no bit.
TEST_P(GoldenTest, ChunksChangeNothing) {
  WholeModel model(directory(), *kernels_, backend_.dtype), in_pieces(directory(), *kernels_, backend_.dtype, 7);
  const std::vector<float> whole = model.run(golden_.prompts, [](size_t) { return 1000; });
  EXPECT_EQ(in_pieces.run(golden_.prompts, [](size_t) { return 1000; }), whole);
  EXPECT_EQ(model.run(golden_.prompts, [](size_t sequence) { return 5 + 3 * static_cast<int>(sequence); }), whole);
  EXPECT_EQ(model.run(golden_.prompts, [](size_t) { return 1; }), whole);
  std::vector<float> alone;
  for (const auto& prompt : golden_.prompts) {
    const std::vector<float> logits = model.run({prompt}, [](size_t) { return 1000; });
    alone.insert(alone.end(), logits.begin(), logits.end());
  }
  EXPECT_EQ(alone, whole);
}

/// The fixtures see every field: a config that says something else gives other logits.
struct Change {
  const char* name;
  const char* patch;
  friend std::ostream& operator<<(std::ostream& out, const Change& change) { return out << change.name << " " << change.patch; }
};
class SensitivityTest : public testing::TestWithParam<Change> {};

TEST_P(SensitivityTest, OtherConfigOtherLogits) {
  const Change& change = GetParam();
  const Golden golden = load_golden(change.name);
  TestFolder folder;
  for (const auto& entry : std::filesystem::directory_iterator(fixture(change.name)))
    if (entry.path().filename().string().starts_with("model")) std::filesystem::copy(entry.path(), folder.path() / entry.path().filename());
  nlohmann::json config = nlohmann::json::parse(read_whole(fixture(change.name) + "/config.json"));
  config.merge_patch(nlohmann::json::parse(change.patch));
  folder.put("config.json", config.dump());
  std::unique_ptr<Kernels> kernels = make_reference_kernels();
  WholeModel model(folder.path().string(), *kernels, DType::kF32);
  EXPECT_GT(difference_of(model.run(golden.prompts, [](size_t) { return 1000; }), golden.logits).largest, 3e-4f);
}

INSTANTIATE_TEST_SUITE_P(Fields, SensitivityTest,
                         testing::Values(Change{"opt", R"({"activation_function": "gelu"})"}, Change{"opt", R"({"num_attention_heads": 2})"},
                                         Change{"opt", R"({"_remove_final_layer_norm": true})"}, Change{"mistral", R"({"sliding_window": 10})"},
                                         Change{"mistral", R"({"sliding_window": null})"}, Change{"llama3-tied", R"({"rope_scaling": {"factor": 7.0}})"},
                                         Change{"llama3-tied", R"({"rope_scaling": {"low_freq_factor": 1.5}})"},
                                         Change{"llama3-tied", R"({"rope_scaling": {"high_freq_factor": 5.0}})"},
                                         Change{"llama3-tied", R"({"rope_scaling": {"original_max_position_embeddings": 48}})"},
                                         Change{"llama-biases", R"({"rope_scaling": null})"}, Change{"llama-biases", R"({"attention_bias": false})"},
                                         Change{"llama-biases", R"({"mlp_bias": false})"}, Change{"llama-biases", R"({"hidden_act": "silu"})"},
                                         Change{"llama", R"({"rms_norm_eps": 0.001})"}, Change{"qwen2", R"({"rope_theta": 900000.0})"},
                                         Change{"qwen2", R"({"use_sliding_window": true, "sliding_window": 20, "max_window_layers": 0})"},
                                         Change{"qwen2", R"({"use_sliding_window": true, "sliding_window": 20, "max_window_layers": 1})"},
                                         Change{"qwen3", R"({"rope_theta": 900000.0})"}));
INSTANTIATE_TEST_SUITE_P(Quantized, SensitivityTest,
                         testing::Values(Change{"quantized-gptq", R"({"quantization_config": {"checkpoint_format": "gptq_v2"}})"},
                                         Change{"quantized-gptq8-v2", R"({"quantization_config": {"checkpoint_format": "gptq"}})"},
                                         Change{"quantized-autoround", R"({"quantization_config": {"packing_format": "auto_round:gptqmodel"}})"}));
INSTANTIATE_TEST_SUITE_P(
    Families, SensitivityTest,
    testing::Values(
        Change{"gemma", R"({"hidden_act": "silu"})"}, Change{"gemma2", R"({"attn_logit_softcapping": 2.2})"},
        Change{"gemma2", R"({"attn_logit_softcapping": null})"}, Change{"gemma2", R"({"final_logit_softcapping": 8.5})"},
        Change{"gemma2", R"({"query_pre_attn_scalar": 25})"}, Change{"gemma2", R"({"sliding_window": 10})"},
        Change{"gemma2", R"({"layer_types": ["full_attention", "full_attention", "sliding_attention"]})"},
        Change{"gemma3", R"({"rope_parameters": {"full_attention": {"factor": 7.0}}})"},
        Change{"gemma3", R"({"rope_parameters": {"sliding_attention": {"rope_theta": 9000.0}}})"},
        Change{"gemma3", R"({"layer_types": ["sliding_attention", "full_attention", "full_attention"]})"}, Change{"gemma4-experts", R"({"top_k_experts": 1})"},
        Change{"gemma4", R"({"sliding_window": 10})"}, Change{"gemma4", R"({"final_logit_softcapping": 8.5})"},
        Change{"gemma4", R"({"attention_bias": false})"}, Change{"gemma4", R"({"rms_norm_eps": 0.01})"},
        Change{"gemma4", R"({"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}})"},
        Change{"gemma4", R"({"rope_parameters": {"full_attention": {"factor": 2.0}}})"},
        Change{"gemma4", R"({"rope_parameters": {"sliding_attention": {"rope_theta": 9000.0}}})"},
        Change{"gemma4_unified", R"({"text_config": {"sliding_window": 10}})"}, Change{"gemma4_unified", R"({"text_config": {"rms_norm_eps": 0.01}})"},
        Change{"gemma4_unified", R"({"text_config": {"final_logit_softcapping": 8.5}})"},
        Change{"gemma4_unified", R"({"text_config": {"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}}})"},
        Change{"phi3", R"({"original_max_position_embeddings": 40})"}, Change{"phi3", R"({"sliding_window": 19})"},
        Change{"phi3", R"({"rope_parameters": {"short_factor": [1.0, 1.5, 2.0, 2.9]}})"},
        Change{"phi3-partial", R"({"partial_rotary_factor": 0.75, "rope_parameters": {"partial_rotary_factor": 0.75}})"},
        Change{"olmo3", R"({"rope_parameters": {"full_attention": {"factor": 5.0}}})"},
        Change{"olmo3", R"({"rope_parameters": {"full_attention": {"beta_fast": 2.0}}})"},
        Change{"olmo3", R"({"rope_parameters": {"full_attention": {"beta_slow": 0.5}}})"},
        Change{"olmo3", R"({"rope_parameters": {"full_attention": {"attention_factor": 1.2}}})"},
        Change{"olmo3", R"({"layer_types": ["sliding_attention", "full_attention", "full_attention"]})"}, Change{"granite", R"({"embedding_multiplier": 5.0})"},
        Change{"granite", R"({"attention_multiplier": 0.25})"}, Change{"granite", R"({"residual_multiplier": 0.45})"},
        Change{"granite", R"({"logits_scaling": 2.9})"}, Change{"smollm3", R"({"no_rope_layers": [0, 1, 1]})"},
        Change{"smollm3", R"({"use_sliding_window": false, "layer_types": null})"}, Change{"glm", R"({"rope_parameters": {"partial_rotary_factor": 0.75}})"},
        Change{"starcoder2", R"({"sliding_window": 19})"}, Change{"starcoder2", R"({"norm_epsilon": 0.001})"},
        Change{"stablelm", R"({"rope_parameters": {"partial_rotary_factor": 0.25}})"}, Change{"stablelm", R"({"use_qkv_bias": false})"},
        Change{"cohere", R"({"logit_scale": 0.31})"}, Change{"cohere2", R"({"layer_types": ["sliding_attention", "full_attention", "full_attention"]})"},
        Change{"gpt_neox", R"({"rope_parameters": {"partial_rotary_factor": 0.25}})"}, Change{"gpt_neox", R"({"use_parallel_residual": false})"},
        Change{"exaone4", R"({"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]})"}, Change{"nemotron", R"({"hidden_act": "relu"})"},
        Change{"nemotron", R"({"rope_parameters": {"partial_rotary_factor": 1.0}})"}, Change{"arcee", R"({"hidden_act": "relu"})"},
        Change{"arcee", R"({"mlp_bias": false})"}, Change{"arcee", R"({"rope_parameters": {"rope_theta": 2000.0}})"},
        Change{"helium", R"({"attention_bias": false})"}, Change{"helium", R"({"rope_parameters": {"rope_theta": 10000.0}})"},
        Change{"gptj", R"({"rotary_dim": 8})"}, Change{"gpt2", R"({"activation_function": "gelu"})"}, Change{"gpt2", R"({"layer_norm_epsilon": 0.001})"},
        Change{"gpt2-scales", R"({"scale_attn_weights": true})"}, Change{"gpt2-scales", R"({"scale_attn_by_inverse_layer_idx": false})"},
        Change{"falcon", R"({"activation": "relu"})"}, Change{"mpt", R"({"attn_config": {"alibi_bias_max": 6}})"},
        Change{"mpt", R"({"attn_config": {"softmax_scale": 0.3}})"},
        Change{"ministral", R"({"layer_types": ["sliding_attention", "full_attention", "full_attention"]})"},
        Change{"ministral3", R"({"rope_parameters": {"mscale": 2.0}})"}, Change{"ernie4_5", R"({"use_bias": false})"},
        Change{"hunyuan_dense", R"({"rope_parameters": {"alpha": 45.0}})"}, Change{"qwen3_moe", R"({"num_experts_per_tok": 2})"},
        Change{"qwen3_moe", R"({"norm_topk_prob": false})"}, Change{"mixtral", R"({"num_experts_per_tok": 1})"}, Change{"mixtral", R"({"sliding_window": 19})"},
        Change{"olmoe", R"({"norm_topk_prob": true})"}, Change{"qwen2_moe", R"({"norm_topk_prob": true})"},
        Change{"glm4_moe", R"({"routed_scaling_factor": 2.0})"}, Change{"glm4_moe", R"({"norm_topk_prob": false})"},
        Change{"glm4_moe-groups", R"({"topk_group": 3})"}, Change{"glm4_moe-groups", R"({"n_group": 2})"}, Change{"glm4_moe", R"({"use_qk_norm": false})"},
        Change{"minimax_m2", R"({"rotary_dim": 16, "rope_parameters": {"partial_rotary_factor": 1.0}})"}, Change{"dots1", R"({"routed_scaling_factor": 1.4})"},
        Change{"ernie4_5_moe", R"({"moe_k": 1})"}, Change{"gpt_oss", R"({"swiglu_alpha": 1.4})"}, Change{"gpt_oss", R"({"swiglu_limit": 0.9})"},
        Change{"gpt_oss", R"({"num_experts_per_tok": 1})"}, Change{"gpt_oss", R"({"layer_types": ["sliding_attention", "full_attention", "full_attention"]})"},
        Change{"gpt_oss", R"({"attention_bias": false})"}, Change{"gpt_oss", R"({"rope_parameters": {"truncate": true}})"},
        Change{"granitemoe", R"({"embedding_multiplier": 5.0})"}, Change{"granitemoe", R"({"attention_multiplier": 0.25})"},
        Change{"granitemoe", R"({"residual_multiplier": 0.45})"}, Change{"granitemoe", R"({"logits_scaling": 2.9})"},
        Change{"granitemoe", R"({"num_experts_per_tok": 1})"}, Change{"granitemoeshared", R"({"shared_intermediate_size": 0})"},
        Change{"phimoe", R"({"router_jitter_noise": 0.1})"}, Change{"phimoe", R"({"rope_parameters": {"short_mscale": 1.1}})"},
        Change{"phimoe", R"({"sliding_window": 19})"}, Change{"phimoe", R"({"lm_head_bias": false})"}, Change{"phimoe", R"({"attention_bias": false})"},
        Change{"phimoe", R"({"rms_norm_eps": 0.01})"}, Change{"hunyuan_moe", R"({"moe_topk": 1})"},
        Change{"hunyuan_moe", R"({"rope_parameters": {"alpha": 45.0}})"}, Change{"olmo", R"({"clip_qkv": 0.85})"}, Change{"olmo", R"({"clip_qkv": null})"},
        Change{"olmoe-clip", R"({"clip_qkv": 0.85})"}, Change{"olmoe-clip", R"({"clip_qkv": null})"},
        Change{"mpt-clip", R"({"attn_config": {"clip_qkv": 0.85}})"}, Change{"mpt-clip", R"({"attn_config": {"clip_qkv": null}})"}));

/// Greedy continuations agree wherever the reference was sure. Returns how many tokens were compared.
size_t compare_greedy(WholeModel& model, const Golden& golden, float least_margin) {
  const int64_t vocab = model.model().config().vocab_size;
  size_t compared = 0;
  for (size_t p = 0; p < golden.prompts.size(); ++p) {
    std::vector<int32_t> next = golden.prompts[p];
    for (size_t i = 0; i < golden.continuations[p].size(); ++i) {
      const std::vector<float> logits = model.step({{static_cast<int>(p), next}});
      auto last = logits.end() - vocab;
      const auto token = static_cast<int32_t>(std::max_element(last, logits.end()) - last);
      if (golden.margins[p][i] > least_margin) {
        EXPECT_EQ(token, golden.continuations[p][i]) << "prompt " << p << ", token " << i;
        ++compared;
      }
      next = {golden.continuations[p][i]};  // go on along the golden one
    }
  }
  return compared;
}

TEST_P(GoldenTest, GreedyContinuation) {
  WholeModel model(directory(), *kernels_, backend_.dtype);
  // Two logits that are both off by the largest error may change places.
  const size_t compared = compare_greedy(model, golden_, 2 * tolerance(backend_, golden_).largest);
  EXPECT_GE(compared, 12u) << "of 24: the fixture has too few clear margins to mean anything";
}

const auto kModels =
    testing::Values("opt", "opt-post-norm", "llama", "llama3-tied", "llama-biases", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma4",
                    "gemma4_unified", "phi3", "phi3-partial", "olmo2", "olmo3", "granite", "smollm3", "glm", "glm4", "starcoder2", "stablelm",
                    "stablelm-parallel", "cohere", "cohere2", "gpt_neox", "gpt_neox-sequential", "seed_oss", "exaone4", "ernie4_5", "hunyuan_dense", "nemotron",
                    "arcee", "helium", "phi", "gptj", "bloom", "falcon", "falcon-groups", "falcon-one-norm", "falcon-sequential", "mpt", "ministral",
                    "ministral3", "gpt2", "gpt2-scales", "qwen3_moe", "mixtral", "olmoe", "qwen2_moe", "glm4_moe", "glm4_moe-groups", "minimax_m2", "dots1",
                    "ernie4_5_moe", "gpt_oss", "granitemoe", "granitemoeshared", "phimoe", "hunyuan_moe", "gemma4-experts", "olmo", "olmoe-clip", "mpt-clip");
std::string name_of(const testing::TestParamInfo<GoldenTest::ParamType>& info) {
  std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param).name + "_" + std::string(dtype_name(std::get<1>(info.param).dtype));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         testing::Combine(kModels,
                                          testing::Values(Backend{"reference", DType::kF32}, Backend{"cpu", DType::kF32}, Backend{"cpu", DType::kBF16})),
                         name_of);
// As shipped (tools/make_format_fixtures.py): what transformers computes with the dequantized weights.
const auto kShipped = testing::Values("quantized-fp8", "quantized-fp8-experts", "quantized-fp8-modelopt", "quantized-fp8-channel", "quantized-int8-channel",
                                      "quantized-packed4", "quantized-packed4-zeros", "quantized-packed4-experts", "quantized-packed8", "quantized-nvfp4",
                                      "quantized-mxfp4", "quantized-gptq", "quantized-gptq8-v2", "quantized-awq", "quantized-autoround", "quantized-gpt_oss");
INSTANTIATE_TEST_SUITE_P(Quantized, GoldenTest,
                         testing::Combine(kShipped,
                                          testing::Values(Backend{"reference", DType::kF32}, Backend{"cpu", DType::kF32}, Backend{"cpu", DType::kBF16})),
                         name_of);
INSTANTIATE_TEST_SUITE_P(EmulatedQuantized, GoldenTest,
                         testing::Combine(kShipped, testing::Values(Backend{"cuda_emulated", DType::kBF16}, Backend{"cuda_emulated", DType::kF16})), name_of);
INSTANTIATE_TEST_SUITE_P(GpuQuantized, GoldenTest, testing::Combine(kShipped, testing::Values(Backend{"cuda", DType::kBF16}, Backend{"cuda", DType::kF16})),
                         name_of);
// The GPU's kernels: on an emulated block of threads, and where there is one, on a GPU.
INSTANTIATE_TEST_SUITE_P(Emulated, GoldenTest,
                         testing::Combine(kModels, testing::Values(Backend{"cuda_emulated", DType::kBF16}, Backend{"cuda_emulated", DType::kF16})), name_of);
INSTANTIATE_TEST_SUITE_P(Gpu, GoldenTest, testing::Combine(kModels, testing::Values(Backend{"cuda", DType::kBF16}, Backend{"cuda", DType::kF16})), name_of);

/// The same numbers in other words, in larger matrices or plain: the same logits.
struct Relaid {
  const char *name, *of;
  friend std::ostream& operator<<(std::ostream& out, const Relaid& one) { return out << one.name; }
};
class RelaidTest : public testing::TestWithParam<Relaid> {};
TEST_P(RelaidTest, SameBits) {
  const Golden golden = load_golden(std::string("quantized-") + GetParam().of);
  const std::string directory = quantized_checkpoint(GetParam().name);
  const auto all = [](size_t) { return 1000; };
  const bool has_plain = std::string_view(GetParam().name).starts_with("mixed");  // in F32, which is multiplied in another way where others are in bf16
  std::vector<Backend> backends{{"reference", DType::kF32}, {"cpu", DType::kF32}};
  if (!has_plain) backends.insert(backends.end(), {{"cpu", DType::kBF16}, {"cuda_emulated", DType::kBF16}, {"cuda_emulated", DType::kF16}});
  for (const Backend& backend : backends) {
    if (backend.name == "cpu" && backend.dtype == DType::kBF16 && !cpu_has_bf16()) continue;
    const auto kernels = make_kernels(backend);
    WholeModel of(quantized_fixture(GetParam().of), *kernels, backend.dtype), relaid(directory, *kernels, backend.dtype, 7);
    EXPECT_EQ(relaid.run(golden.prompts, all), of.run(golden.prompts, all)) << backend;
  }
}
INSTANTIATE_TEST_SUITE_P(Quantized, RelaidTest,
                         testing::Values(Relaid{"mixed-gptq", "autoround"}, Relaid{"mixed-autoround", "autoround"}, Relaid{"fused-gptq8-v2", "gptq8-v2"},
                                         Relaid{"fused-autoround", "autoround"}, Relaid{"fused-awq", "awq"}, Relaid{"fused-fp8-channel", "fp8-channel"},
                                         Relaid{"fused-packed4", "packed4"}, Relaid{"fused-packed8", "packed8"}));

/// An output matrix of a tied model that is quantized is its own, and one that lies by columns is no chunks.
TEST(QuantizedOutput, IsUsedWhereAModelSaysThatItIsTied) {
  constexpr int64_t kVocab = 1024;  // two chunks of a plain one
  RawTensors tensors = read_raw_tensors(quantized_fixture("autoround") + "/model.safetensors");
  tensors["model.embed_tokens.weight"].shape[0] = kVocab;
  tensors["model.embed_tokens.weight"].bytes.resize(static_cast<size_t>(kVocab * 64 * 2), '\x12');
  tensors.erase("lm_head.weight");
  put_random_gptq(tensors, "lm_head", kVocab, 64, 32);
  nlohmann::json config = nlohmann::json::parse(read_whole(quantized_fixture("autoround") + "/config.json"));
  config["vocab_size"] = kVocab;
  const std::string untied = put_checkpoint("own-output", tensors, config);
  config["tie_word_embeddings"] = true;
  const std::string tied = put_checkpoint("own-output-of-tied", tensors, config);
  tensors["lm_head.weight"] = plain_of_gptq(tensors, "lm_head");
  drop_parts(tensors, "lm_head");
  config["tie_word_embeddings"] = false;
  const std::string plain = put_checkpoint("own-output-plain", tensors, config);
  EXPECT_EQ(Model::load(plain)->layers().size(), 1u + 2u + 2u);
  EXPECT_EQ(Model::load(tied)->layers().size(), 1u + 2u + 1u);
  EXPECT_FALSE(Model::load(tied)->config().tied_embeddings);
  for (const Backend& backend : {Backend{"reference", DType::kF32}, Backend{"cpu", DType::kF32}}) {
    const auto kernels = make_kernels(backend);
    const auto logits = [&](const std::string& directory) {
      return WholeModel(directory, *kernels, backend.dtype, 7).run({{5, 3, 8}, {1}}, [](size_t) { return 9; });
    };
    const std::vector<float> expected = logits(plain);
    EXPECT_EQ(logits(tied), expected) << backend;
    EXPECT_EQ(logits(untied), expected) << backend;
  }
}

TEST(TrainedModel, ContinuesAsTransformersDoes) {
  const std::string directory = std::string(FLEXGEN_SOURCE_DIR) + "/../shared/models/tinystories-656k";
  if (!std::filesystem::exists(directory)) GTEST_SKIP() << directory << " is not there";
  const Golden golden = load_golden("tinystories-656k");
  ASSERT_EQ(golden.continuations.at(0).size(), 64u);
  for (const Backend& backend : {Backend{"reference", DType::kF32}, Backend{"cpu", DType::kF32}}) {
    std::unique_ptr<Kernels> kernels = make_kernels(backend);
    WholeModel model(directory, *kernels, backend.dtype);
    EXPECT_EQ(compare_greedy(model, golden, 1e-3f), 64u) << backend.name;
  }
}

/// AutoAWQ multiplies the columns of a matrix by what it then divides the activation before them by. With powers of 2 no logit changes.
struct ScaledCase {
  const char *name, *down, *scales;
  friend std::ostream& operator<<(std::ostream& out, const ScaledCase& one) { return out << one.name; }
};
class ScaledActivationTest : public testing::TestWithParam<ScaledCase> {
 protected:
  /// The fixture with scaled columns. Of what they are scaled by only the first block's tensor is written if `whole` is false.
  void write(bool whole) {
    const ScaledCase& one = GetParam();
    const Checkpoint checkpoint = Checkpoint::open(fixture(one.name));
    std::vector<TensorToWrite> tensors;
    std::vector<std::vector<std::byte>> data;
    for (const auto& [name, at] : checkpoint.tensors()) {
      tensors.push_back({name, at.dtype, at.shape});
      data.emplace_back(static_cast<size_t>(at.bytes));
      File::open(checkpoint.files()[static_cast<size_t>(at.file)], FileMode::kRead)->read(at.offset, data.back());
      if (!name.ends_with(one.down)) continue;
      const int64_t cols = at.shape[1];
      std::vector<float> row(static_cast<size_t>(cols)), scales(static_cast<size_t>(cols));
      for (float& scale : scales) scale = std::ldexp(1.0f, static_cast<int>(random_() % 4));
      for (int64_t r = 0; r < at.shape[0]; ++r) {
        for (int64_t i = 0; i < cols; ++i)
          row[static_cast<size_t>(i)] = load_float(data.back().data(), at.dtype, r * cols + i) * scales[static_cast<size_t>(i)];
        store_row(row.data(), cols, at.dtype, data.back().data() + size_bytes(at.dtype, r * cols));
      }
      if (!whole && num_scaled_++ > 0) continue;
      tensors.push_back({name.substr(0, name.size() - std::string_view(one.down).size()) + one.scales, DType::kF16, {cols}});
      data.emplace_back(static_cast<size_t>(2 * cols));
      store_row(scales.data(), cols, DType::kF16, data.back().data());
    }
    SafetensorsWriter writer(folder_.file("model.safetensors"), tensors);
    for (const std::vector<std::byte>& bytes : data) writer.append(bytes.data(), std::ssize(bytes));
    writer.close();
    nlohmann::json config = nlohmann::json::parse(read_whole(fixture(one.name) + "/config.json"));
    config["quantization_config"] = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 32}, {"version", "gemm"}, {"zero_point", true}};
    folder_.put("config.json", config.dump());
  }

  TestFolder folder_;
  std::mt19937 random_{7};
  int num_scaled_ = 0;
};

TEST_P(ScaledActivationTest, IsDividedByWhatTheNextMatrixIsMultipliedBy) {
  const Golden golden = load_golden(GetParam().name);
  const auto all = [](size_t) { return 1000; };
  write(true);
  for (const Backend& backend :
       {Backend{"reference", DType::kF32}, Backend{"cpu", DType::kF32}, Backend{"cpu", DType::kBF16}, Backend{"cuda_emulated", DType::kBF16}}) {
    if (backend.name == "cpu" && backend.dtype == DType::kBF16 && !cpu_has_bf16()) continue;
    const auto kernels = make_kernels(backend);
    WholeModel model(folder_.path().string(), *kernels, backend.dtype);
    EXPECT_LE(difference_of(model.run(golden.prompts, all), golden.logits).largest, tolerance(backend, golden).largest) << backend;
  }
}

TEST_P(ScaledActivationTest, WithoutScalesActivationsStay) {
  const Golden golden = load_golden(GetParam().name);
  write(false);
  const auto kernels = make_reference_kernels();
  WholeModel model(folder_.path().string(), *kernels, DType::kF32);
  EXPECT_GT(difference_of(model.run(golden.prompts, [](size_t) { return 1000; }), golden.logits).largest, 3e-2f);
}

INSTANTIATE_TEST_SUITE_P(Families, ScaledActivationTest,
                         testing::Values(ScaledCase{"starcoder2", "c_proj.weight", "act.scales"}, ScaledCase{"falcon", "dense_4h_to_h.weight", "act.scales"},
                                         ScaledCase{"falcon-groups", "dense_4h_to_h.weight", "act.scales"},
                                         ScaledCase{"mpt", "ffn.down_proj.weight", "ffn.act.scales"}, ScaledCase{"gptj", "fc_out.weight", "act.scales"},
                                         ScaledCase{"gpt_neox", "dense_4h_to_h.weight", "act.scales"},
                                         ScaledCase{"bloom", "dense_4h_to_h.weight", "gelu_impl.scales"}));

/// The same weights under other names, or several in one tensor, give the same bits.
struct LayoutCase {
  const char *what, *name;
  void (*change)(RawTensors&, nlohmann::json& config);
  friend std::ostream& operator<<(std::ostream& out, const LayoutCase& one) { return out << one.what; }
};
class LayoutTest : public testing::TestWithParam<LayoutCase> {};

TEST_P(LayoutTest, OtherNamesSameLogits) {
  const LayoutCase& one = GetParam();
  RawTensors tensors = read_raw_tensors(fixture(one.name) + "/model.safetensors");
  nlohmann::json config = nlohmann::json::parse(read_whole(fixture(one.name) + "/config.json"));
  one.change(tensors, config);
  TestFolder folder;
  folder.put("model.safetensors", as_safetensors(tensors));
  folder.put("config.json", config.dump());
  const Golden golden = load_golden(one.name);
  const auto kernels = make_reference_kernels();
  WholeModel model(fixture(one.name), *kernels, DType::kF32), other(folder.path().string(), *kernels, DType::kF32);
  const auto all = [](size_t) { return 1000; };
  EXPECT_EQ(other.run(golden.prompts, all), model.run(golden.prompts, all));
}

/// Granite 4.0's dense models: what a row's feed-forward part is called there holds gate and up in one.
void as_hybrid(RawTensors& tensors, nlohmann::json& config) {
  config.erase("mlp_bias");
  config.update({{"model_type", "granitemoehybrid"},
                 {"layer_types", {"attention", "full_attention"}},
                 {"num_local_experts", 0},
                 {"shared_intermediate_size", config.at("intermediate_size")},
                 {"intermediate_size", 7},
                 {"position_embedding_type", "rope"},
                 {"mamba_d_conv", 4}});
  for (int block = 0; block < 2; ++block) {
    const std::string start = "model.layers." + std::to_string(block) + ".";
    tensors[start + "shared_mlp.input_linear.weight"] = joined({take(tensors, start + "mlp.gate_proj.weight"), take(tensors, start + "mlp.up_proj.weight")});
    tensors[start + "shared_mlp.output_linear.weight"] = take(tensors, start + "mlp.down_proj.weight");
  }
}

/// As transformers 5 keeps experts, and writes them with save_original_format=False: `from` is what files call a block's part and its matrices.
void stack(RawTensors& tensors, const std::vector<std::string>& from) {
  std::map<std::string, std::map<size_t, std::array<RawTensor, 3>>> blocks;
  const std::string experts = "." + from[0] + ".experts.";
  for (const std::string& name : names_of(tensors)) {
    const size_t at = name.find(experts);
    if (at == std::string::npos) continue;
    const size_t dot = name.find('.', at + experts.size());
    const auto matrix = std::find(from.begin() + 1, from.end(), name.substr(dot + 1, name.rfind('.') - dot - 1)) - from.begin() - 1;
    blocks[name.substr(0, at)][std::stoul(name.substr(at + experts.size(), dot - at - experts.size()))].at(static_cast<size_t>(matrix)) = take(tensors, name);
  }
  for (const auto& [start, of_block] : blocks) {
    std::vector<RawTensor> pairs, downs;
    for (const auto& [expert, matrices] : of_block) {
      pairs.push_back(joined({matrices[0], matrices[1]}));
      downs.push_back(matrices[2]);
    }
    tensors[start + ".mlp.experts.gate_up_proj"] = stacked(pairs);
    tensors[start + ".mlp.experts.down_proj"] = stacked(downs);
  }
}
void rename_all(RawTensors& tensors, const std::string& from, const std::string& to) {
  for (const std::string& name : names_of(tensors))
    if (const size_t at = name.find(from); at != std::string::npos) tensors[std::string(name).replace(at, from.size(), to)] = take(tensors, name);
}
void stack_plain(RawTensors& tensors, nlohmann::json&) { stack(tensors, {"mlp", "gate_proj", "up_proj", "down_proj"}); }
void stack_wrapped(RawTensors& tensors, nlohmann::json&) {
  stack(tensors, {"mlp", "gate_proj", "up_proj", "down_proj"});
  rename_all(tensors, "model.", "wrapper.model.");
}
void stack_ernie(RawTensors& tensors, nlohmann::json&) {
  stack(tensors, {"mlp", "gate_proj", "up_proj", "down_proj"});
  rename_all(tensors, "mlp.moe_statics.", "mlp.gate.moe_statics.");
}
void stack_mixtral(RawTensors& tensors, nlohmann::json&) {
  stack(tensors, {"block_sparse_moe", "w1", "w3", "w2"});
  rename_all(tensors, ".block_sparse_moe.", ".mlp.");
}
void stack_phimoe(RawTensors& tensors, nlohmann::json&) {
  stack(tensors, {"block_sparse_moe", "w1", "w3", "w2"});
  rename_all(tensors, ".block_sparse_moe.gate.", ".mlp.router.");
}
void name_granitemoe(RawTensors& tensors, nlohmann::json&) {
  rename_all(tensors, "block_sparse_moe.input_linear.weight", "block_sparse_moe.experts.gate_up_proj");
  rename_all(tensors, "block_sparse_moe.output_linear.weight", "block_sparse_moe.experts.down_proj");
  rename_all(tensors, "block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight");
}

/// Text models within models of images: `from` "model." and "lm_head." to what files call them.
void wrap(RawTensors& tensors, nlohmann::json& config, const char* type, const std::string& model, const std::string& head) {
  for (const std::string& name : names_of(tensors)) {
    const bool is_head = name.starts_with("lm_head.");
    tensors[is_head ? head + name : model + name.substr(6)] = take(tensors, name);
  }
  tensors["model.vision_tower.encoder.layers.0.input_layernorm.weight"] = {"F32", {1}, "1234"};
  config = {{"model_type", type}, {"text_config", config}, {"vision_config", {{"model_type", "siglip_vision_model"}}}};
}
void wrap_old(RawTensors& tensors, nlohmann::json& config) { wrap(tensors, config, "llava", "language_model.model.", "language_model."); }
void wrap_new(RawTensors& tensors, nlohmann::json& config) { wrap(tensors, config, "internvl", "model.language_model.", ""); }
void wrap_idefics(RawTensors& tensors, nlohmann::json& config) { wrap(tensors, config, "smolvlm", "model.text_model.", ""); }
void wrap_cohere(RawTensors& tensors, nlohmann::json& config) { wrap(tensors, config, "aya_vision", "language_model.model.", "language_model."); }

INSTANTIATE_TEST_SUITE_P(Layouts, LayoutTest,
                         testing::Values(LayoutCase{"granite4", "granite", as_hybrid}, LayoutCase{"stacked", "qwen3_moe", stack_plain},
                                         LayoutCase{"stacked_wrapped", "qwen3_moe", stack_wrapped}, LayoutCase{"stacked", "qwen2_moe", stack_plain},
                                         LayoutCase{"stacked", "olmoe", stack_plain}, LayoutCase{"stacked", "glm4_moe", stack_plain},
                                         LayoutCase{"stacked", "dots1", stack_plain}, LayoutCase{"stacked", "hunyuan_moe", stack_plain},
                                         LayoutCase{"stacked", "ernie4_5_moe", stack_ernie}, LayoutCase{"stacked", "mixtral", stack_mixtral},
                                         LayoutCase{"stacked", "minimax_m2", stack_mixtral}, LayoutCase{"stacked", "phimoe", stack_phimoe},
                                         LayoutCase{"renamed", "granitemoe", name_granitemoe}, LayoutCase{"renamed", "granitemoeshared", name_granitemoe},
                                         LayoutCase{"llava", "llama", wrap_old}, LayoutCase{"internvl", "qwen2", wrap_new},
                                         LayoutCase{"smolvlm", "llama", wrap_idefics}, LayoutCase{"aya_vision", "cohere2", wrap_cohere}));

/// NVFP4 of compressed-tensors as Model Optimizer writes it: scales of all of a matrix multiply there, and divide here.
void as_model_optimizer(RawTensors& tensors, nlohmann::json& config) {
  config["quantization_config"] = {{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}, {"ignore", {"lm_head"}}};
  rename_all(tensors, ".weight_packed", ".weight");
  for (const std::string& name : names_of(tensors)) {
    if (!name.ends_with(".weight_global_scale")) continue;
    RawTensor scale = take(tensors, name);
    float global = 0;
    std::memcpy(&global, scale.bytes.data(), sizeof global);
    global = 1 / global;
    std::memcpy(scale.bytes.data(), &global, sizeof global);
    scale.shape.clear();
    const std::string stem = name.substr(0, name.rfind('.'));
    tensors[stem + ".weight_scale_2"] = scale;
    tensors[stem + ".input_scale"] = scale;  // unused
  }
}

TEST(ModelOptimizer, Nvfp4IsThatOfCompressedTensors) {
  constexpr const char* kName = "quantized-nvfp4";
  const Golden golden = load_golden(kName);
  const auto all = [](size_t) { return 1000; };
  const nlohmann::json config = nlohmann::json::parse(read_whole(fixture(kName) + "/config.json"));
  const RawTensors as_shipped = read_raw_tensors(fixture(kName) + "/model.safetensors");
  RawTensors rounded = as_shipped;  // to powers of 2, where to divide is to multiply
  for (auto& [name, tensor] : rounded) {
    if (!name.ends_with(".weight_global_scale")) continue;
    float global = 0;
    std::memcpy(&global, tensor.bytes.data(), sizeof global);
    global = std::exp2(std::floor(std::log2(global)));
    std::memcpy(tensor.bytes.data(), &global, sizeof global);
  }
  TestFolder folder;
  const auto logits_of = [&](RawTensors tensors, bool changed, const Backend& backend) {
    nlohmann::json own = config;
    if (changed) as_model_optimizer(tensors, own);
    folder.put("model.safetensors", as_safetensors(tensors));
    folder.put("config.json", own.dump());
    const auto kernels = make_kernels(backend);
    WholeModel model(folder.path().string(), *kernels, backend.dtype);
    return model.run(golden.prompts, all);
  };
  for (const Backend& backend :
       {Backend{"reference", DType::kF32}, Backend{"cpu", DType::kF32}, Backend{"cpu", DType::kBF16}, Backend{"cuda_emulated", DType::kBF16}}) {
    if (backend.name == "cpu" && backend.dtype == DType::kBF16 && !cpu_has_bf16()) continue;
    EXPECT_EQ(logits_of(rounded, true, backend), logits_of(rounded, false, backend)) << backend;
    EXPECT_LE(difference_of(logits_of(as_shipped, true, backend), golden.logits).largest, 2 * tolerance(backend, golden).largest) << backend;
  }
  RawTensors scaled = as_shipped;
  nlohmann::json own = config;
  as_model_optimizer(scaled, own);
  scaled["model.layers.1.mlp.up_proj.pre_quant_scale"] = {"F32", {1}, "1234"};
  folder.put("model.safetensors", as_safetensors(scaled));
  folder.put("config.json", own.dump());
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { Model::load(folder.path().string()); }), testing::HasSubstr("up_proj.pre_quant_scale' is there"));
}

TEST(StackedExperts, OfOtherSizesAreRefused) {
  RawTensors tensors = read_raw_tensors(fixture("qwen3_moe") + "/model.safetensors");
  stack(tensors, {"mlp", "gate_proj", "up_proj", "down_proj"});
  TestFolder folder;
  folder.put("config.json", read_whole(fixture("qwen3_moe") + "/config.json"));
  const auto refusal_with = [&](const std::string& name) {
    RawTensors changed = tensors;
    std::swap(changed.at(name).shape[0], changed.at(name).shape[1]);
    folder.put("model.safetensors", as_safetensors(changed));
    return error_of(ErrorKind::kUser, [&] { Model::load(folder.path().string()); });
  };
  for (const char* name : {"model.layers.2.mlp.experts.gate_up_proj", "model.layers.2.mlp.experts.down_proj"})
    EXPECT_THAT(refusal_with(name), testing::AllOf(testing::HasSubstr(name), testing::HasSubstr("do not belong together")));
}

struct GgufCase {
  const char *name, *architecture;
  const char* patch = "{}";  ///< of config.json: what a GGUF of the architecture cannot say otherwise
  friend std::ostream& operator<<(std::ostream& out, const GgufCase& one) { return out << one.name; }
};
class GgufTest : public testing::TestWithParam<GgufCase> {};

TEST_P(GgufTest, ComputesAsTheCheckpointItWasMadeFrom) {
  const Golden golden = load_golden(GetParam().name);
  TestFolder folder;
  for (const auto& entry : std::filesystem::directory_iterator(fixture(GetParam().name)))
    if (entry.path().filename().string().starts_with("model")) std::filesystem::copy(entry.path(), folder.path() / entry.path().filename());
  nlohmann::json config = nlohmann::json::parse(read_whole(fixture(GetParam().name) + "/config.json"));
  config.merge_patch(nlohmann::json::parse(GetParam().patch));
  folder.put("config.json", config.dump());
  const ModelConfig ours = load_config(folder.path());
  std::vector<float> factors;
  if (const nlohmann::json scaling = config.value("rope_scaling", nlohmann::json()); scaling.is_object())
    for (size_t i = 0; i < ours.ropes[0].inverse_frequencies.size(); ++i)
      factors.push_back(
          static_cast<float>(std::pow(config.at("rope_theta").get<double>(), -2.0 * static_cast<double>(i) / static_cast<double>(ours.head_size)) /
                             ours.ropes[0].inverse_frequencies[i]));
  const std::string gguf = folder.put("m.gguf", as_gguf(folder.path(), config, GetParam().architecture, factors));

  std::unique_ptr<Kernels> kernels = make_reference_kernels();
  WholeModel from_folder(folder.path(), *kernels, DType::kF32), from_gguf(gguf, *kernels, DType::kF32);
  EXPECT_EQ(from_gguf.model().config().eos, std::vector<int32_t>{2});
  const auto all = [](size_t) { return 1000; };
  EXPECT_LE(difference_of(from_gguf.run(golden.prompts, all), from_folder.run(golden.prompts, all)).largest, 1e-4f);
}

/// Experts as files may have them, in F32 and in blocks.
struct GgufExpertsCase {
  const char *name, *architecture;
  GgufExperts experts;
  bool in_q8_0;
  friend std::ostream& operator<<(std::ostream& out, const GgufExpertsCase& one) { return out << one.name; }
};
class GgufExpertsTest : public testing::TestWithParam<GgufExpertsCase> {};
TEST_P(GgufExpertsTest, GiveTheSameLogits) {
  const GgufExpertsCase& one = GetParam();
  const Golden golden = load_golden(one.name);
  TestFolder folder;
  nlohmann::json config = nlohmann::json::parse(read_whole(fixture(one.name) + "/config.json"));
  config.erase("sliding_window");
  const auto logits_of = [&](GgufExperts experts) {
    const std::string gguf = folder.put("m.gguf", as_gguf(fixture(one.name), config, one.architecture, {}, one.in_q8_0, experts));
    const auto kernels = make_reference_kernels();
    WholeModel model(gguf, *kernels, DType::kF32);
    return model.run(golden.prompts, [](size_t) { return 1000; });
  };
  EXPECT_EQ(logits_of(one.experts), logits_of(GgufExperts::kStacked));
}
INSTANTIATE_TEST_SUITE_P(
    Layouts, GgufExpertsTest,
    testing::Values(GgufExpertsCase{"qwen3_moe", "qwen3moe", GgufExperts::kPairs, false}, GgufExpertsCase{"qwen3_moe", "qwen3moe", GgufExperts::kPairs, true},
                    GgufExpertsCase{"olmoe", "olmoe", GgufExperts::kPairs, false}, GgufExpertsCase{"glm4_moe", "glm4moe", GgufExperts::kPairs, false},
                    GgufExpertsCase{"mixtral", "llama", GgufExperts::kApart, false}, GgufExpertsCase{"mixtral", "llama", GgufExperts::kApart, true}));

/// Quantized matrices, the embedding among them, by the GPU's kernels: what the reference makes of the same file, and for whatever cuts the same bits.
class GgufOnAGpu : public testing::TestWithParam<const char*> {};
TEST_P(GgufOnAGpu, ReadsBlocks) {
  const Golden golden = load_golden(GetParam());
  TestFolder folder;
  const std::string gguf =
      folder.put("m.gguf", as_gguf(fixture(GetParam()), nlohmann::json::parse(read_whole(fixture(GetParam()) + "/config.json")), GetParam(), {}, true));
  const auto all = [](size_t) { return 1000; };
  const auto reference = make_reference_kernels();
  WholeModel expected(gguf, *reference, DType::kF32);
  EXPECT_EQ(expected.model().weights().front().dtype, DType::kQ8_0);
  const std::vector<float> logits = expected.run(golden.prompts, all);
  for (const char* name : {"cuda_emulated", "cuda"})
    for (DType dtype : {DType::kBF16, DType::kF16}) {
      if (name == std::string("cuda") && !why_not_tested(cuda_status(), dtype).empty()) continue;
      const Backend backend{name, dtype};
      const auto kernels = make_kernels(backend);
      WholeModel whole(gguf, *kernels, dtype), in_pieces(gguf, *kernels, dtype, 7);
      const std::vector<float> found = whole.run(golden.prompts, all);
      EXPECT_LE(difference_of(found, logits).largest, tolerance(backend, golden).largest) << name << " " << dtype_name(dtype);
      EXPECT_EQ(in_pieces.run(golden.prompts, all), found);
    }
}

INSTANTIATE_TEST_SUITE_P(Blocks, GgufOnAGpu, testing::Values("llama", "olmoe"));
INSTANTIATE_TEST_SUITE_P(
    Families, GgufTest,
    testing::Values(
        GgufCase{"llama", "llama"}, GgufCase{"llama-biases", "llama", R"({"hidden_act": "silu"})"}, GgufCase{"llama3-tied", "llama"},
        GgufCase{"qwen2", "qwen2"}, GgufCase{"qwen3", "qwen3"}, GgufCase{"gemma", "gemma"}, GgufCase{"gemma2", "gemma2", R"({"query_pre_attn_scalar": 16})"},
        GgufCase{"gemma3", "gemma3", R"({"query_pre_attn_scalar": 16, "_sliding_window_pattern": 3, "layer_types": null})"}, GgufCase{"phi3", "phi3"},
        GgufCase{"phi3", "phi3", R"({"rope_parameters": null, "rope_theta": 10000.0, "original_max_position_embeddings": null})"},
        GgufCase{"phi3-partial", "phi3"}, GgufCase{"mixtral", "llama", R"({"sliding_window": null})"}, GgufCase{"qwen2_moe", "qwen2moe"},
        GgufCase{"qwen3_moe", "qwen3moe"}, GgufCase{"olmoe", "olmoe"}, GgufCase{"gpt_oss", "gpt-oss", R"({"swiglu_alpha": 1.702, "swiglu_limit": 7.0})"},
        GgufCase{"gpt_oss", "gpt-oss", R"({"swiglu_alpha": 1.702, "swiglu_limit": 7.0, "rope_parameters": {"attention_factor": 1.5}})"},
        GgufCase{"glm4_moe", "glm4moe"}, GgufCase{"glm4_moe-groups", "glm4moe"}, GgufCase{"dots1", "dots1", R"({"sliding_window": null})"},
        GgufCase{"minimax_m2", "minimax-m2"}, GgufCase{"granite", "granite"},
        GgufCase{"smollm3", "smollm3",
                 R"({"no_rope_layer_interval": 4, "no_rope_layers": null, "use_sliding_window": null, "sliding_window": null, "layer_types": null})"},
        GgufCase{"olmo", "olmo"}, GgufCase{"olmoe-clip", "olmoe"}, GgufCase{"olmo2", "olmo2"}, GgufCase{"olmo3", "olmo2"},
        GgufCase{"olmo3", "olmo2", R"({"rope_parameters": {"full_attention": {"attention_factor": 1.5}}})"}, GgufCase{"ernie4_5", "ernie4_5"},
        GgufCase{"ernie4_5_moe", "ernie4_5-moe"}, GgufCase{"glm4", "glm4"}, GgufCase{"cohere", "command-r"},
        GgufCase{"cohere2", "cohere2", R"({"_sliding_window_pattern": 2, "layer_types": null})"}, GgufCase{"seed_oss", "seed_oss"},
        GgufCase{"exaone4", "exaone4"}, GgufCase{"hunyuan_dense", "hunyuan-dense"}, GgufCase{"hunyuan_moe", "hunyuan-moe"}, GgufCase{"ministral3", "mistral3"},
        GgufCase{"ministral3", "mistral3", R"({"rope_parameters": {"mscale_all_dim": 0.5}})"}));

}  // namespace
}  // namespace flexgen::golden_test
