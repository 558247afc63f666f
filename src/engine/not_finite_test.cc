// Logits that are not finite end the answers that saw them, say so, and touch no other answer: on every backend, for tokens that are chosen in whatever way.

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "base/units.h"
#include "engine/engine.h"
#include "generation/list_source.h"
#include "io/test_folder.h"
#include "model/dummy_checkpoint.h"
#include "model/test_poisoned_checkpoint.h"

namespace flexgen::not_finite_test {
namespace {

constexpr int64_t kVocab = 211, kHidden = 64;
const char* kLlama = R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 211, "max_position_embeddings": 256, "hidden_act": "silu",
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "eos_token_id": 5, "bos_token_id": 1})";
const char* kOpt = R"({"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128,
  "vocab_size": 211, "max_position_embeddings": 256, "word_embed_proj_dim": 64, "do_layer_norm_before": true,
  "activation_function": "relu", "eos_token_id": 2, "bos_token_id": 2})";
constexpr int32_t kMarked = 200;  ///< a token that one request alone has

class MapSink : public CompletionSink {
 public:
  void accept(Completion completion) override { completions[completion.key] = std::move(completion); }
  std::map<int64_t, Completion> completions;
};

/// Greedy, drawn, drawn from a part, with logprobs, scored: each with the marked token and without.
std::vector<Request> requests() {
  std::vector<Request> all;
  for (bool marked : {false, true})
    for (int how = 0; how < 6; ++how) {
      Request request;
      request.key = static_cast<int64_t>(all.size());
      for (int i = 0; i < 9; ++i) request.prompt.push_back(10 + 7 * how + i);
      if (marked) request.prompt[4] = kMarked;
      SamplingParams& params = request.params;
      params.max_tokens = 5;
      params.ignore_eos = true;
      params.temperature = how == 1 || how == 2 ? 0.9 : 0;
      params.top_k = how == 2 ? 20 : 0;
      params.seed = 5;
      if (how >= 3) params.top_logprobs = how == 3 ? 2 : 0;
      if (how >= 4) params.echo = true;
      if (how == 5) params.max_tokens = 0;
      all.push_back(std::move(request));
    }
  return all;
}

std::map<int64_t, Completion> run(const std::string& directory, const std::string& backend, const std::string& compute_dtype = "auto",
                                  const std::string& kv_dtype = "auto") {
  EngineOptions options;
  options.model_directory = directory;
  options.load_tokenizer = false;
  options.backend = backend;
  options.compute_dtype = compute_dtype;
  options.kv_cache_dtype = kv_dtype;
  options.budgets = {64 * kMiB, 0};
  if (backend.starts_with("emulated")) options.budgets.gpu_bytes = 64 * kMiB;
  options.threads = 2;
  Engine engine(options);
  Workload workload;
  for (const Request& request : requests())
    workload.add(static_cast<int64_t>(request.prompt.size()), request.params.max_tokens, request.params.keeps_logits(), request.params.echo);
  engine.prepare(workload);
  ListSource source(requests());
  MapSink sink;
  engine.run(source, sink, std::atomic<bool>{false});
  return std::move(sink.completions);
}

class NotFinite : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    llama_ = process_folder() + "/finite-llama";
    opt_ = process_folder() + "/finite-opt";
    ensure_dummy_checkpoint(llama_, kLlama, DType::kBF16, 3, nullptr);
    ensure_dummy_checkpoint(opt_, kOpt, DType::kF16, 3, nullptr);
  }
  std::string poisoned(const std::string& from, const std::string& tensor, float value, const std::function<bool(int64_t)>& wanted) const {
    const std::string to = process_folder() + "/poisoned";
    poison_checkpoint(from, to, tensor, value, wanted);
    return to;
  }
  /// Of the completions, all without an answer.
  static void expect_none(const std::map<int64_t, Completion>& completions, const std::string& what) {
    ASSERT_EQ(completions.size(), requests().size());
    for (const auto& [key, completion] : completions) EXPECT_EQ(completion.reason, FinishReason::kNotFinite) << what << ", request " << key;
  }
  std::string llama_, opt_;
};

TEST_P(NotFinite, WithoutAPoisonThereIsAnAnswer) {
  for (const auto& [key, completion] : run(llama_, GetParam())) EXPECT_EQ(completion.reason, FinishReason::kLength) << key;
}

TEST_P(NotFinite, ARowOfTheEmbeddingEndsOnlyWhoHasIt) {
  const auto clean = run(llama_, GetParam());
  const auto found = run(poisoned(llama_, "model.embed_tokens.weight", NAN, [](int64_t i) { return i == kMarked * kHidden + 3; }), GetParam());
  ASSERT_EQ(found.size(), clean.size());
  const auto half = static_cast<int64_t>(clean.size() / 2);
  for (const auto& [key, completion] : found) {
    SCOPED_TRACE(key);
    if (key < half) {
      EXPECT_EQ(completion.reason, clean.at(key).reason);
      EXPECT_EQ(completion.tokens, clean.at(key).tokens);
      ASSERT_EQ(completion.logprobs.size(), clean.at(key).logprobs.size());
      for (size_t i = 0; i < completion.logprobs.size(); ++i) EXPECT_EQ(completion.logprobs[i].logprob, clean.at(key).logprobs[i].logprob);
    } else {
      EXPECT_EQ(completion.reason, FinishReason::kNotFinite);
      EXPECT_EQ(completion.failed_position, requests()[static_cast<size_t>(key)].params.echo ? 5 : 9);
    }
  }
}

TEST_P(NotFinite, TheLastRowOfTheHeadEndsAll) {
  const auto found = run(poisoned(llama_, "lm_head.weight", NAN, [](int64_t i) { return i == kVocab * kHidden - 1; }), GetParam());
  expect_none(found, "lm_head");
  for (const auto& [key, completion] : found) EXPECT_EQ(completion.not_finite_entry, kVocab - 1) << key;
}

TEST_P(NotFinite, AWeightOfAnyMatrixEndsAll) {
  for (const char* name : {"input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "mlp.gate_proj.weight",
                           "mlp.down_proj.weight"})
    expect_none(run(poisoned(llama_, fmt::format("model.layers.1.{}", name), NAN, [](int64_t i) { return i == 60; }), GetParam()), name);
  // Behind a ReLU, which a maximum with zero would let swallow it.
  for (const char* name : {"fc1.weight", "fc1.bias", "self_attn.v_proj.weight"})
    expect_none(run(poisoned(opt_, fmt::format("model.decoder.layers.0.{}", name), NAN, [](int64_t i) { return i == 60; }), GetParam()), name);
}

/// Codes and scales that are NaN, as checkpoints are shipped quantized.
TEST_P(NotFinite, ACodeOrAScaleEndsAll) {
  const std::string fixtures = std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/quantized-";
  const std::vector<std::pair<const char*, const char*>> places{{"fp8", "weight"},
                                                                {"fp8", "weight_scale_inv"},
                                                                {"fp8-modelopt", "weight_scale"},
                                                                {"fp8-channel", "weight_scale"},
                                                                {"int8-channel", "weight_scale"},
                                                                {"packed4", "weight_scale"},
                                                                {"nvfp4", "weight_scale"},
                                                                {"nvfp4", "weight_global_scale"},
                                                                {"gptq", "scales"},
                                                                {"awq", "scales"}};
  for (const auto& [fixture, tensor] : places)
    expect_none(run(poisoned(fixtures + fixture, fmt::format("model.layers.1.self_attn.v_proj.{}", tensor), NAN, [](int64_t i) { return i == 0; }), GetParam()),
                fmt::format("{} {}", fixture, tensor));
}

TEST_P(NotFinite, OverflowEndsAll) {
  expect_none(run(poisoned(llama_, "model.layers.1.mlp.up_proj.weight", 3e38f, [](int64_t) { return true; }), GetParam()), "bf16");
  expect_none(run(poisoned(opt_, "model.decoder.layers.1.fc1.weight", INFINITY, [](int64_t i) { return i % 3 == 0; }), GetParam()), "f16");
}

/// fp16 ends at 65,504: what bf16 and f32 hold is infinite there, and an answer that saw it is none.
TEST_P(NotFinite, OverflowOfHalfPrecisionEndsAll) {
  const std::string large = poisoned(opt_, "model.decoder.layers.1.fc1.weight", 60000.0f, [](int64_t i) { return i % 3 == 0; });
  if (GetParam() == std::string("emulated-gpu-cuda")) return expect_none(run(large, GetParam()), "fp16 activations");
  for (const auto& [key, completion] : run(large, GetParam())) EXPECT_EQ(completion.reason, FinishReason::kLength) << key;
}

TEST_P(NotFinite, NoTypeOfCacheHidesIt) {
  for (const char* kv : {"bf16", "int8", "int4"})
    expect_none(run(poisoned(llama_, "model.layers.0.self_attn.k_proj.weight", NAN, [](int64_t i) { return i == 60; }), GetParam(), "auto", kv), kv);
}

INSTANTIATE_TEST_SUITE_P(Backends, NotFinite, testing::Values("reference", "cpu", "emulated-gpu", "emulated-gpu-cuda"), [](const auto& info) {
  std::string name = info.param;
  std::erase(name, '-');
  return name;
});

}  // namespace
}  // namespace flexgen::not_finite_test
