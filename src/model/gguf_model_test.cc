// What a GGUF's fields mean, and what is refused; that it computes as its checkpoint does is in golden_test.cc.

#include "model/gguf_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "io/test_folder.h"
#include "io/test_gguf.h"
#include "model/model.h"

namespace flexgen::gguf_model_test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint64_t kWidth = 64, kTokens = 5;

TestGguf fields(const std::string& architecture, const std::vector<std::string>& tokens = {"a", "b", "<|im_end|>", "c", "</s>"}) {
  TestGguf gguf;
  gguf.text("general.architecture", architecture)
      .number(architecture + ".embedding_length", kWidth)
      .number(architecture + ".block_count", 1)
      .number(architecture + ".feed_forward_length", kWidth)
      .number(architecture + ".context_length", 128)
      .number(architecture + ".attention.head_count", 2)
      .number(architecture + ".attention.head_count_kv", 1)
      .real(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f)
      .texts("tokenizer.ggml.tokens", tokens)
      .number("tokenizer.ggml.eos_token_id", 4)
      .number("tokenizer.ggml.bos_token_id", 1);
  return gguf;
}

/// Its matrices in Q8_0.
void add_tensors(TestGguf& gguf, bool norms_in_blocks = false) {
  const auto matrix = [&](const char* name, uint64_t rows) { gguf.tensor(name, {kWidth, rows}, 8, std::string(rows * kWidth / 32 * 34, '\0')); };
  const auto vector = [&](const char* name) { gguf.tensor(name, {kWidth}, 0, std::string(4 * kWidth, '\0')); };
  matrix("token_embd.weight", kTokens);
  vector("output_norm.weight");
  vector("blk.0.attn_norm.weight");
  if (norms_in_blocks) gguf.tensor("blk.0.ffn_norm.weight", {kWidth}, 8, std::string(68, '\0'));
  else vector("blk.0.ffn_norm.weight");
  for (const char* name : {"blk.0.attn_q.weight", "blk.0.attn_output.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"})
    matrix(name, kWidth);
  matrix("blk.0.attn_k.weight", kWidth / 2);
  matrix("blk.0.attn_v.weight", kWidth / 2);
}

std::string refusal(const TestFolder& folder, const TestGguf& gguf, const std::vector<std::string>& ignored = {}) {
  const std::string path = folder.put("m.gguf", gguf.bytes());
  return error_of(ErrorKind::kUser, [&] { Model::load(path, ignored); });
}

TEST(GgufModel, FieldsBecomeAConfig) {
  TestFolder folder;
  TestGguf gguf = fields("llama");
  gguf.real("llama.rope.freq_base", 5e5f);
  add_tensors(gguf);
  const std::string path = folder.put("m.gguf", gguf.bytes());
  const GgufModel model = load_gguf_model(path);
  EXPECT_EQ(model.config.hidden_size, 64);
  EXPECT_EQ(model.config.head_size, 32);
  EXPECT_EQ(model.config.num_kv_heads, 1);
  EXPECT_EQ(model.config.vocab_size, 5);
  EXPECT_EQ(model.config.max_positions, 128);
  EXPECT_TRUE(model.config.tied_embeddings);
  EXPECT_TRUE(model.config.rope_interleaved);
  EXPECT_FLOAT_EQ(model.config.ropes[0].inverse_frequencies[1], std::pow(5e5f, -2.0f / 32));
  EXPECT_EQ(model.config.bos, 1);
  EXPECT_THAT(model.config.eos, ElementsAre(2, 4));  // <|im_end|> ends a turn
  const auto loaded = Model::load(path);
  EXPECT_EQ(loaded->weights()[0].name, "model.embed_tokens.weight");
  EXPECT_EQ(loaded->weights()[0].dtype, DType::kQ8_0);
  EXPECT_EQ(loaded->weights()[0].bytes(), 5 * 68);
  EXPECT_EQ(loaded->files(), std::vector<std::string>{path});
}

// gpt-oss ends each message so, and its answers have several; other models end their turns so.
TEST(GgufModel, TheEndOfAMessageEndsNoAnswer) {
  TestFolder folder;
  const auto end_tokens = [&](const std::vector<std::string>& tokens) {
    TestGguf gguf = fields("llama", tokens);
    gguf.number("tokenizer.ggml.eot_token_id", 0);
    add_tensors(gguf);
    return load_gguf_model(folder.put("m.gguf", gguf.bytes())).config.eos;
  };
  EXPECT_THAT(end_tokens({"<|end|>", "a", "<|call|>", "b", "<|return|>"}), ElementsAre(2, 4));
  EXPECT_THAT(end_tokens({"<|end|>", "<|flush|>", "<|calls|>", "b", "</s>"}), ElementsAre(1, 2, 4));
  EXPECT_THAT(end_tokens({"<|end|>", "a", "b", "<turn|>", "</s>"}), ElementsAre(0, 3, 4));
}

TEST(GgufModel, AnIdOfNoTokenEndsNoAnswer) {
  TestFolder folder;
  TestGguf gguf = fields("llama");
  gguf.number("tokenizer.ggml.eot_token_id", ~0u).number("tokenizer.ggml.eom_token_id", kTokens);
  add_tensors(gguf);
  EXPECT_THAT(load_gguf_model(folder.put("m.gguf", gguf.bytes())).config.eos, ElementsAre(2, 4));
}

TEST(GgufModel, AnglesAreScaledLinearlyWhereNoTypeIsGiven) {  // files from before there were types, as llama.cpp reads them
  TestFolder folder;
  const auto frequency = [&](const auto& add) {
    TestGguf gguf = fields("llama");
    add(gguf);
    add_tensors(gguf);
    return load_gguf_model(folder.put("m.gguf", gguf.bytes())).config.ropes[0].inverse_frequencies[1];
  };
  const float plain = frequency([](TestGguf&) {});
  EXPECT_FLOAT_EQ(frequency([](TestGguf& gguf) { gguf.real("llama.rope.scale_linear", 4); }), plain / 4);
  EXPECT_FLOAT_EQ(frequency([](TestGguf& gguf) { gguf.real("llama.rope.scaling.factor", 4); }), plain / 4);
  EXPECT_FLOAT_EQ(frequency([](TestGguf& gguf) { gguf.text("llama.rope.scaling.type", "linear").real("llama.rope.scaling.factor", 4); }), plain / 4);
  EXPECT_FLOAT_EQ(frequency([](TestGguf& gguf) { gguf.text("llama.rope.scaling.type", "none").real("llama.rope.scaling.factor", 4); }), plain);
  EXPECT_FLOAT_EQ(frequency([](TestGguf& gguf) { gguf.real("llama.rope.scale_linear", 1); }), plain);
}

TEST(GgufModel, WhatIsNotDoneIsRefusedByName) {
  TestFolder folder;
  const auto with = [&](const auto& add, const std::string& architecture = "llama", const std::vector<std::string>& ignored = {}) {
    TestGguf gguf = fields(architecture);
    add(gguf);
    add_tensors(gguf);
    return refusal(folder, gguf, ignored);
  };
  const auto nothing = [](TestGguf&) {};
  EXPECT_THAT(with(nothing, "mamba"), AllOf(HasSubstr("general.architecture is 'mamba'"), HasSubstr("llama, qwen2")));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.number("llama.expert_count", 8); }), HasSubstr("'llama.expert_used_count' is missing"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.number("qwen2.expert_count", 8); }, "qwen2"), HasSubstr("'qwen2.expert_count' is 8"));
  EXPECT_THAT(with(nothing, "qwen3moe"), HasSubstr("'qwen3moe.expert_count' is missing"));
  const auto experts = [](TestGguf& gguf) { gguf.number("qwen3moe.expert_count", 8).number("qwen3moe.expert_used_count", 2); };
  EXPECT_THAT(with([&](TestGguf& gguf) { experts(gguf), gguf.number("qwen3moe.expert_gating_func", 2); }, "qwen3moe"), HasSubstr("expert_gating_func' is 2"));
  EXPECT_THAT(with([&](TestGguf& gguf) { experts(gguf), gguf.flag("qwen3moe.expert_weights_norm", false); }, "qwen3moe"),
              HasSubstr("expert_weights_norm' is false"));
  EXPECT_THAT(with([&](TestGguf& gguf) { experts(gguf), gguf.number("qwen3moe.expert_shared_feed_forward_length", 8); }, "qwen3moe"),
              HasSubstr("expert_shared_feed_forward_length' is 8"));
  EXPECT_THAT(with([&](TestGguf& gguf) { experts(gguf), gguf.number("qwen3moe.nextn_predict_layers", 1); }, "qwen3moe"),
              HasSubstr("nextn_predict_layers' is 1 of 1 blocks"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.tensor("blk.0.nextn.eh_proj.weight", {1}, 0, "1234"); }, "glm4moe"),
              HasSubstr("nextn_predict_layers' does not count the block 0, which has the tensor 'blk.0.nextn.eh_proj.weight'"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.tensor("blk.1.nextn.eh_proj.weight", {1}, 0, "1234"); }, "glm4moe"),
              HasSubstr("'glm4moe.expert_count' is missing"));
  EXPECT_THAT(with(
                  [&](TestGguf& gguf) {
                    experts(gguf), gguf.tensor("blk.0.ffn_gate_exps.weight", {2, 2, 7}, 0, std::string(112, '\0'));
                  },
                  "qwen3moe"),
              HasSubstr("'blk.0.ffn_gate_exps.weight' has 7 parts, and the model 8 experts"));
  EXPECT_THAT(with(
                  [&](TestGguf& gguf) {
                    experts(gguf), gguf.tensor("blk.0.ffn_gate_up_exps.weight", {2, 3, 8}, 0, std::string(192, '\0'));
                  },
                  "qwen3moe"),
              AllOf(HasSubstr("'blk.0.ffn_gate_up_exps.weight'"), HasSubstr("odd number")));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.number("llama.odd", 8); }), AllOf(HasSubstr("'llama.odd' is 8"), HasSubstr("--ignore-config-field llama.odd")));
  EXPECT_THAT(with(nothing, "llama", {"llama.block_count"}), HasSubstr("a field that flexgen reads"));
  EXPECT_THAT(with(nothing, "llama", {"llama.none"}), HasSubstr("no such field"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.number("llama.rope.dimension_count", 16); }), HasSubstr("'llama.rope.dimension_count' is 16 of the 32"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.text("llama.rope.scaling.type", "yarn").real("llama.rope.scaling.factor", 2); }),
              HasSubstr("original_context_length"));
  EXPECT_THAT(with([](TestGguf& gguf) {
                gguf.text("llama.rope.scaling.type", "linear").real("llama.rope.scaling.factor", 2).real("llama.rope.scaling.attn_factor", 1.5f);
              }),
              HasSubstr("attn_factor' is 1.5"));
  EXPECT_THAT(with([](TestGguf& gguf) {
                gguf.text("llama.rope.scaling.type", "yarn").real("llama.rope.scaling.factor", 2).number("llama.rope.scaling.original_context_length", 64);
                gguf.real("llama.rope.scaling.yarn_attn_factor", 1.5f).real("llama.rope.scaling.attn_factor", 1.25f);
              }),
              HasSubstr("attn_factor' is 1.25, but rope.scaling.yarn_attn_factor is another"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.text("llama.rope.scaling.type", "longrope").real("llama.rope.scaling.factor", 2); }), HasSubstr("longrope"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.number("llama.attention.key_length", 32).number("llama.attention.value_length", 16); }),
              HasSubstr("value_length"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.tensor("rope_factors_long.weight", {1}, 0, "1234"); }), HasSubstr("'rope_factors_short.weight' is missing"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.tensor("rope_freqs.weight", {1}, 0, "1234"); }), HasSubstr("[16] in F32"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.tensor("rope_freqs.weight", {16}, 0, std::string(64, '\0')); }), HasSubstr("the divisor 0"));
  EXPECT_THAT(with(  // Command R+
                  [](TestGguf& gguf) {
                    gguf.real("command-r.attention.layer_norm_epsilon", 1e-5f).tensor("blk.0.attn_q_norm.weight", {32, 2}, 0, std::string(256, '\0'));
                  },
                  "command-r", {"command-r.attention.layer_norm_rms_epsilon"}),
              HasSubstr("use_qk_norm"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.real("llama.rope.freq_base", NAN); }), HasSubstr("'llama.rope.freq_base' is not finite"));
  const auto clamped = [&](float limit) {
    const auto add = [&](TestGguf& gguf) { gguf.real("olmo.attention.layer_norm_epsilon", 1e-5f).real("olmo.attention.clamp_kqv", limit); };
    return with(add, "olmo", {"olmo.attention.layer_norm_rms_epsilon"});
  };
  for (float limit : {NAN, INFINITY}) EXPECT_THAT(clamped(limit), HasSubstr("'olmo.attention.clamp_kqv' is not finite"));
  EXPECT_THAT(with([](TestGguf& gguf) { gguf.real("llama.attention.clamp_kqv", 8); }), HasSubstr("'llama.attention.clamp_kqv' is 8.0"));
  TestGguf per_layer;
  per_layer.text("general.architecture", "llama").numbers<uint32_t>("llama.embedding_length", 4, {1, 2});
  add_tensors(per_layer);
  EXPECT_THAT(refusal(folder, per_layer), HasSubstr("differs from layer to layer"));
  TestGguf empty = fields("llama");
  EXPECT_THAT(refusal(folder, empty), HasSubstr("token_embd.weight"));
  TestGguf of_blocks = fields("llama");
  add_tensors(of_blocks, true);
  EXPECT_THAT(refusal(folder, of_blocks), AllOf(HasSubstr("post_attention_layernorm.weight"), HasSubstr("q8_0")));
  TestGguf odd = fields("llama");
  add_tensors(odd.number("llama.odd", 8));
  EXPECT_EQ(Model::load(folder.put("m.gguf", odd.bytes()), {"llama.odd"})->num_blocks(), 1);
}

TEST(GgufModel, FieldsOfGranite4ThatMeanNothingWithoutItsOtherTensors) {
  TestFolder folder;
  const auto with = [&](const auto& add) {
    TestGguf gguf = fields("granite");
    gguf.number("granite.expert_count", 0).number("granite.expert_shared_feed_forward_length", kWidth).number("granite.ssm.conv_kernel", 4);
    gguf.number("granite.ssm.state_size", 128).number("granite.ssm.group_count", 1).number("granite.ssm.inner_size", 64);
    gguf.number("granite.ssm.time_step_rank", 8);
    add(gguf);
    add_tensors(gguf);
    return folder.put("m.gguf", gguf.bytes());
  };
  EXPECT_EQ(Model::load(with([](TestGguf& gguf) { gguf.flag("granite.rope.scaling.finetuned", true); }))->num_blocks(), 1);
  const auto refused = [&](const auto& add) { return error_of(ErrorKind::kUser, [&] { load_gguf_model(with(add)); }); };
  EXPECT_THAT(refused([](TestGguf& gguf) { gguf.tensor("blk.0.ssm_a", {1}, 0, "1234"); }), HasSubstr("'blk.0.ssm_a'"));
  EXPECT_THAT(refused([](TestGguf& gguf) { gguf.tensor("blk.0.ffn_up_shexp.weight", {1}, 0, "1234"); }), HasSubstr("'blk.0.ffn_up_shexp.weight'"));
  EXPECT_THAT(refused([](TestGguf& gguf) { gguf.flag("granite.rope.scaling.finetuned", false); }), HasSubstr("finetuned' is false"));
}

TEST(GgufModel, Ministral3EndsWhereQueriesGrow) {
  TestFolder folder;
  const auto loaded = [&](const auto& add) {
    TestGguf gguf = fields("mistral3");
    add(gguf);
    add_tensors(gguf);
    return load_gguf_model(folder.put("m.gguf", gguf.bytes())).config;
  };
  const auto yarn = [](TestGguf& gguf) {
    gguf.text("mistral3.rope.scaling.type", "yarn").real("mistral3.rope.scaling.factor", 4).number("mistral3.rope.scaling.original_context_length", 32);
    gguf.real("mistral3.rope.scaling.yarn_log_multiplier", 1);
  };
  const ModelConfig grows = loaded([&](TestGguf& gguf) { yarn(gguf), gguf.real("mistral3.attention.temperature_scale", 0.1f); });
  EXPECT_EQ(grows.max_positions, 32);
  EXPECT_EQ(grows.head_size, 32);
  EXPECT_TRUE(grows.rope_interleaved);
  EXPECT_EQ(grows.ropes[0].scale, 1);
  EXPECT_EQ(loaded([&](TestGguf& gguf) { yarn(gguf), gguf.real("mistral3.attention.temperature_scale", 0); }).max_positions, 128);  // Devstral 2
  const auto refused = [&](const auto& add) { return error_of(ErrorKind::kUser, [&] { loaded(add); }); };
  EXPECT_THAT(refused([](TestGguf& gguf) { gguf.text("mistral3.rope.scaling.type", "linear").real("mistral3.rope.scaling.factor", 2); }),
              HasSubstr("'mistral3.rope.scaling.type' is not yarn"));
  const ModelConfig small = loaded([](TestGguf&) {});  // Mistral Small 3.2
  EXPECT_EQ(small.head_size, 32);
  EXPECT_TRUE(small.rope_interleaved);
  EXPECT_EQ(small.attention[0].window, 0);
  EXPECT_THAT(refused([&](TestGguf& gguf) { yarn(gguf), gguf.real("mistral3.rope.scaling.yarn_attn_factor", 1.5f); }), HasSubstr("yarn_attn_factor' is 1.5"));
  EXPECT_THAT(refused([&](TestGguf& gguf) { yarn(gguf), gguf.number("mistral3.expert_count", 8); }), HasSubstr("expert_count"));
}

TEST(GgufModel, LongropeEndsWhereItsOtherFactorsBegin) {
  TestFolder folder;
  const auto loaded = [&](const auto& add, float least = 1) {
    TestGguf gguf = fields("phi3");
    add(gguf);
    gguf.number("phi3.rope.dimension_count", 16);  // half of a head, as Phi-4-mini's three quarters
    for (const char* name : {"rope_factors_short.weight", "rope_factors_long.weight"})
      gguf.tensor(name, {8}, 0, TestGguf::floats({least, 1, 1, 2, 2, 2, 4, 4}));
    add_tensors(gguf);
    return load_gguf_model(folder.put("m.gguf", gguf.bytes())).config;
  };
  const ModelConfig config =
      loaded([](TestGguf& gguf) { gguf.number("phi3.rope.scaling.original_context_length", 48).real("phi3.rope.scaling.attn_factor", 1.25f); });
  EXPECT_EQ(config.max_positions, 48);
  EXPECT_EQ(config.ropes[0].scale, 1.25f);
  EXPECT_FLOAT_EQ(config.ropes[0].inverse_frequencies[7], std::pow(10000.0f, -14.0f / 16) / 4);
  EXPECT_EQ(loaded([](TestGguf&) {}).max_positions, 128);
  const auto refused = [&](const auto& add, float least = 1) { return error_of(ErrorKind::kUser, [&] { loaded(add, least); }); };
  EXPECT_THAT(refused([](TestGguf& gguf) { gguf.real("phi3.rope.scaling.factor", 2); }), HasSubstr("'phi3.rope.scaling.factor' is 2.0"));
  EXPECT_THAT(refused([](TestGguf& gguf) { gguf.text("phi3.rope.scaling.type", "yarn"); }), HasSubstr("rope.scaling.type' is"));
  EXPECT_THAT(refused([](TestGguf& gguf) { gguf.real("phi3.rope.scaling.attn_factor", -1); }), HasSubstr("attention_factor"));
  for (float none : {0.0f, -1.0f, NAN}) EXPECT_THAT(refused([](TestGguf&) {}, none), HasSubstr("'rope_factors_short.weight' has the divisor"));
}

TEST(GgufModel, NoWindowIsSaidByZeroOrByNoField) {
  TestFolder folder;
  TestGguf phi = fields("phi3");  // as Phi-4's files
  phi.number("phi3.attention.sliding_window", 0);
  add_tensors(phi);
  EXPECT_EQ(load_gguf_model(folder.put("phi.gguf", phi.bytes())).config.attention[0].window, 0);
  TestGguf gemma = fields("gemma3");
  gemma.number("gemma3.attention.key_length", 32).number("gemma3.attention.value_length", 32);
  add_tensors(gemma);
  EXPECT_EQ(load_gguf_model(folder.put("gemma.gguf", gemma.bytes())).config.attention[0].window, 0);
  TestGguf exaone = fields("exaone4");  // of 1.2B
  add_tensors(exaone);
  const BlockAttention attention = load_gguf_model(folder.put("exaone.gguf", exaone.bytes())).config.attention[0];
  EXPECT_EQ(attention.window, 0);
  EXPECT_EQ(attention.rope, 0);
}

TEST(GgufModel, NoLimitOfQueriesKeysAndValuesIsSaidByZero) {
  TestFolder folder;
  const auto limit_of = [&](float limit) {
    TestGguf gguf = fields("olmo");
    gguf.real("olmo.attention.layer_norm_epsilon", 1e-5f).real("olmo.attention.clamp_kqv", limit);
    add_tensors(gguf);
    return load_gguf_model(folder.put("olmo.gguf", gguf.bytes()), {"olmo.attention.layer_norm_rms_epsilon"}).config.qkv_limit;
  };
  EXPECT_EQ(limit_of(8), 8.0f);
  for (float none : {0.0f, -1.0f}) EXPECT_EQ(limit_of(none), std::nullopt);
}

TEST(GgufModel, WhatNormsOfTheFirstOlmoAddIsTheFiles) {
  TestFolder folder;
  const auto epsilon_of = [&](float epsilon) {
    TestGguf gguf = fields("olmo");
    gguf.real("olmo.attention.layer_norm_epsilon", epsilon);
    add_tensors(gguf);
    return load_gguf_model(folder.put("olmo.gguf", gguf.bytes()), {"olmo.attention.layer_norm_rms_epsilon"}).config.norm_epsilon;
  };
  EXPECT_EQ(epsilon_of(0.25f), 0.25f);
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { epsilon_of(-1); }), HasSubstr("layer_norm_eps"));
}

TEST(GgufModel, AValueForEachLayerMayBeTheSame) {
  TestFolder folder;
  TestGguf gguf;
  gguf.text("general.architecture", "llama").number("llama.embedding_length", kWidth).number("llama.block_count", 2).number("llama.context_length", 128);
  gguf.numbers<uint32_t>("llama.feed_forward_length", 4, {96, 96}).numbers<uint32_t>("llama.attention.head_count", 4, {2, 2});
  gguf.numbers<uint32_t>("llama.attention.head_count_kv", 4, {1, 1})
      .real("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .texts("tokenizer.ggml.tokens", {"a"});
  add_tensors(gguf);
  const ModelConfig config = load_gguf_model(folder.put("m.gguf", gguf.bytes())).config;
  EXPECT_EQ(config.ffn_size, 96);
  EXPECT_EQ(config.num_kv_heads, 1);
}

}  // namespace
}  // namespace flexgen::gguf_model_test
