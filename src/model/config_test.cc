// config.json: what is understood, what is refused, and that a refusal names the field.

#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "io/test_folder.h"
#include "model/model.h"

namespace flexgen::config_test {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

/// A config as transformers writes it, of each model type.
json config_of(const std::string& type) {
  json config = {{"model_type", type},
                 {"num_hidden_layers", 4},
                 {"hidden_size", 64},
                 {"num_attention_heads", 8},
                 {"vocab_size", 1000},
                 {"max_position_embeddings", 256},
                 {"transformers_version", "4.51.3"},
                 {"torch_dtype", "float16"},
                 {"use_cache", true},
                 {"architectures", {"SomeForCausalLM"}},
                 {"bos_token_id", 1},
                 {"eos_token_id", 2}};
  if (type == "opt") {
    config.update({{"ffn_dim", 128},
                   {"word_embed_proj_dim", 64},
                   {"activation_function", "relu"},
                   {"do_layer_norm_before", true},
                   {"enable_bias", true},
                   {"layerdrop", 0.0},
                   {"dropout", 0.1},
                   {"prefix", "</s>"}});
  } else {
    config.update({{"intermediate_size", 176},
                   {"num_key_value_heads", 2},
                   {"hidden_act", "silu"},
                   {"rms_norm_eps", 1e-5},
                   {"rope_theta", 10000.0},
                   {"rope_scaling", nullptr},
                   {"initializer_range", 0.02}});
  }
  return config;
}

ModelConfig parse(const json& config, const std::string& generation = "") { return parse_config(config.dump(), generation, "dir/config.json"); }

ModelConfig parse_patched(const std::string& type, const std::string& patch) {
  json config = config_of(type);
  // Not merge_patch: a null must stay.
  config.update(json::parse(patch));
  return parse(config);
}

Quantization quantization(const std::string& text) { return parse_patched("llama", R"({"quantization_config": )" + text + "}").quantization; }

TEST(Config, QuantizedAsCheckpointsSayIt) {
  using Method = Quantization::Method;
  EXPECT_FALSE(parse(config_of("llama")).quantization.there());
  // As DeepSeek, Qwen3 and MiniMax ship theirs.
  Quantization q = quantization(
      R"({"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0", "modules_to_not_convert": ["lm_head"]})");
  EXPECT_EQ(q.method, Method::kFp8);
  EXPECT_THAT(q.schemes, ElementsAre(QuantizationScheme{8, true, false, 128, 128}));
  EXPECT_THAT(quantization(R"({"quant_method": "fp8", "weight_block_size": null})").schemes, ElementsAre(QuantizationScheme{8, true, false, 0, 0}));
  EXPECT_THAT(quantization(R"({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]})").schemes,
              ElementsAre(QuantizationScheme{8, true, false, 128, 128}, QuantizationScheme{8, true, false, 0, 0}));
  q = quantization(
      R"({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "ignore": ["lm_head"], "producer": {"name": "modelopt"}, "config_groups": {"group_0": {}}})");
  EXPECT_THAT(q.schemes, ElementsAre(QuantizationScheme{8, true, false, 0, 0}));
  q = quantization(
      R"({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "kv_cache_scheme": {"num_bits": 8}, "exclude_modules": ["lm_head"], "config_groups": {
          "group_0": {"input_activations": {"num_bits": 4}, "weights": {"num_bits": 4, "group_size": 16}, "targets": ["Linear"]}}})");
  EXPECT_THAT(q.schemes, ElementsAre(QuantizationScheme{4, true, false, 1, 16}));
  q = quantization(
      R"({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true, "sym": true, "damp_percent": 0.1, "dynamic": {"-:.*gate": {}}, "lm_head": false, "meta": {"quantizer": ["a"]}})");
  EXPECT_EQ(q.method, Method::kGptq);
  EXPECT_TRUE(q.zeros_less_one);
  EXPECT_THAT(q.schemes, ElementsAre(QuantizationScheme{4, false, true, 1, 128}));
  q = quantization(R"({"quant_method": "gptq", "bits": 8, "group_size": -1, "checkpoint_format": "gptq_v2"})");
  EXPECT_FALSE(q.zeros_less_one);
  EXPECT_THAT(q.schemes, ElementsAre(QuantizationScheme{8, false, true, 1, 0}));
  q = quantization(R"({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "GEMM", "zero_point": true, "modules_to_not_convert": null})");
  EXPECT_EQ(q.method, Method::kAwq);
  EXPECT_EQ(quantization(R"({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq", "bits": 4, "group_size": 128, "sym": false})").method,
            Method::kAwq);
  q = quantization(
      R"({"quant_method": "auto-round", "packing_format": "auto_round:gptqmodel", "bits": 4, "group_size": 128, "sym": false, "extra_config": {"lm_head": {"bits": 16}, "a": {"bits": 4, "group_size": 128}}})");
  EXPECT_EQ(q.method, Method::kGptq);
  EXPECT_FALSE(q.zeros_less_one);
  q = quantization(
      R"({"quant_method": "compressed-tensors", "format": "mixed-precision", "quantization_status": "compressed", "ignore": ["lm_head", "re:.*gate$"], "kv_cache_scheme": null, "version": "0.9",
      "sparsity_config": {}, "transform_config": {}, "global_compression_ratio": null, "config_groups": {
      "group_0": {"targets": ["Linear"], "format": "float-quantized", "input_activations": {"dynamic": true, "num_bits": 8}, "output_activations": null,
                  "weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 64], "symmetric": true, "dynamic": false, "observer": "minmax", "observer_kwargs": {}, "actorder": null}},
      "group_1": {"targets": ["re:.*down_proj"], "format": "pack-quantized", "weights": {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": false, "actorder": "group"}},
      "group_2": {"targets": ["a"], "format": "int-quantized", "weights": {"num_bits": 8, "strategy": "channel", "group_size": null}}}})");
  EXPECT_EQ(q.method, Method::kCompressedTensors);
  EXPECT_THAT(q.schemes,
              ElementsAre(QuantizationScheme{8, true, false, 128, 64}, QuantizationScheme{4, false, true, 1, 32}, QuantizationScheme{8, false, false, 1, 0}));
}

/// AutoRound writes fields of its own whichever way it packs, and GPTQModel how it worked.
TEST(Config, QuantizedWithFieldsOfTheMaker) {
  using Method = Quantization::Method;
  const auto with = [](const std::string& method, const std::string& more) {
    return quantization(R"({"quant_method": ")" + method + R"(", "bits": 4, "group_size": 128, )" + more + "}");
  };
  const std::string auto_round =
      R"("autoround_version": "0.9.3", "data_type": "int", "act_bits": 16, "act_data_type": "int", "act_dynamic": true, "act_group_size": 128, "act_sym": true,
         "iters": 0, "provider": "auto-round", "static_attention_granularity": "tensor", "static_kv_granularity": "tensor", "static_attention_dtype": null,
         "quant_block_list": null, "supported_types": ["Linear"], "regex_config": null, "sym": true)";
  EXPECT_EQ(with("gptq", auto_round).method, Method::kGptq);
  EXPECT_EQ(with("awq", auto_round + R"(, "version": "gemm", "zero_point": false)").method, Method::kAwq);
  EXPECT_EQ(with("auto-round", auto_round).method, Method::kGptq);
  for (const char* method : {"gptq", "awq", "auto-round"})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { with(method, R"("data_type": "fp8")"); }), HasSubstr("'data_type' is \"fp8\"")) << method;
  EXPECT_EQ(with("gptq", R"("checkpoint_format": "gptq", "format": "gptq", "pack_dtype": "int32", "pack_impl": "cpu", "offload_to_disk": true,
                            "offload_to_disk_path": "a", "gc_mode": "interval", "vram_strategy": "exclusive", "wait_for_submodule_finalizers": false,
                            "auto_forward_data_parallel": true, "failsafe": {"strategy": "rtn"}, "fallback": {}, "hessian": {"chunk_size": null},
                            "mock_quantization": false, "gptaq": {"alpha": 0.25}, "gptaq_alpha": 0.25)")
                .method,
            Method::kGptq);
}

/// AutoRound's FP8, and a KV cache that is quantized while weights are not.
TEST(Config, QuantizedInFewerOrMoreWords) {
  const auto auto_round = [](const std::string& more) {
    return quantization(
        R"({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "bits": 8, "act_bits": 8, "act_data_type": "fp8",
            "act_dynamic": true, "act_group_size": [128, 128], "act_sym": true, "autoround_version": "0.13.0", "iters": 0, "packing_format": "fp8", "sym": true, )" +
        more + "}");
  };
  EXPECT_THAT(auto_round(R"("data_type": "fp8", "group_size": [128, 128])").schemes, ElementsAre(QuantizationScheme{8, true, false, 128, 128}));
  EXPECT_EQ(auto_round(R"("data_type": "fp")").schemes.size(), 1u);
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { auto_round(R"("group_size": [64, 64])"); }), HasSubstr("'group_size' is [64,64]"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { auto_round(R"("data_type": "int")"); }), HasSubstr("'data_type' is \"int\""));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { quantization(R"({"quant_method": "fp8", "group_size": [128, 128]})"); }), HasSubstr("weight_block_size"));
  const auto cache = [](const std::string& more) {
    return quantization(R"({"quant_method": "compressed-tensors", "format": "dense", "quantization_status": "frozen", "ignore": [], "config_groups": {})" +
                        more + "}");
  };
  const std::string scheme = R"(, "kv_cache_scheme": {"num_bits": 8, "type": "float"})";
  EXPECT_FALSE(cache(scheme).there());
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { cache(""); }), HasSubstr("config_groups"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { cache(scheme + R"(, "transform_config": {"r": 1})"); }), HasSubstr("transform_config"));
}

TEST(Config, NemotronSaysTwice) {
  const auto with = [](const char* fields) {
    return parse_patched("nemotron", std::string(R"({"hidden_act": "relu2", "rms_norm_eps": null, )") + fields + "}");
  };
  EXPECT_EQ(with(R"("layer_norm_eps": 1e-05, "rope_percent": 0.5)").ropes[0].inverse_frequencies.size(), 2u);
  EXPECT_EQ(with(R"("norm_eps": 1e-06, "layer_norm_eps": 1e-06)").norm_epsilon, 1e-6f);
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { with(R"("layer_norm_eps": 1e-06)"); }), HasSubstr("layer_norm_eps"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { with(R"("rope_percent": 0.25)"); }), HasSubstr("rope_percent"));
}

TEST(Config, FactorsOfYarnThatOthersRead) {
  const auto with = [](const char* more) {
    return parse_patched("llama", std::string(R"({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64)") + more + "}}");
  };
  EXPECT_EQ(with(R"(, "attn_factor": 1.0, "extrapolation_factor": 1)").ropes[0].inverse_frequencies, with("").ropes[0].inverse_frequencies);
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { with(R"(, "attn_factor": 1.5)"); }), HasSubstr("'attn_factor' is 1.5"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { with(R"(, "extrapolation_factor": 2.0)"); }), HasSubstr("'extrapolation_factor' is 2.0"));
}

/// Granite 4.0's dense models are of a type with recurrent blocks and experts, of which they have none.
TEST(Config, HybridOfAttentionAlone) {
  const std::string dense = R"("layer_types": ["attention", "attention", "attention", "attention"], "num_local_experts": 0)";
  const auto with = [](const std::string& fields) { return parse_patched("granitemoehybrid", "{" + fields + "}"); };
  const ModelConfig turned =
      with(dense + R"(, "position_embedding_type": "rope", "shared_intermediate_size": 96, "num_experts_per_tok": 0, "mamba_n_heads": 128,
                                               "normalization_function": "rmsnorm")");
  EXPECT_EQ(turned.ffn_size, 96);
  EXPECT_FALSE(turned.is_mixture());
  EXPECT_EQ(turned.attention[3].rope, 0);
  EXPECT_EQ(with(dense + R"(, "position_embedding_type": "nope")").attention[3].rope, -1);
  EXPECT_EQ(with(dense).attention[0].rope, -1);
}

/// Rules for some layers that leave them as all are.
TEST(Config, RulesOfGptqThatChangeNothing) {
  for (const char* rules : {R"({"+:.*": {}})", R"({".*down": {"bits": 4}})",
                            R"({"+:.*down": {"bits": 4, "group_size": 128, "desc_act": true, "sym": false}, "-:.*gate": {"bits": 8}})", "{}"})
    EXPECT_THAT(quantization(std::string(R"({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": )") + rules + "}").schemes,
                ElementsAre(QuantizationScheme{4, false, true, 1, 128}))
        << rules;
  EXPECT_THAT(quantization(R"({"quant_method": "gptq", "bits": 4, "group_size": -1, "dynamic": {"+:.*": {"group_size": -1}}})").schemes,
              ElementsAre(QuantizationScheme{4, false, true, 1, 0}));
}

/// Which layer has which is told by its tensors (code_tensors_test.cc).
TEST(Config, RulesOfLayersAreSchemesBesideTheUsualOne) {
  using Scheme = QuantizationScheme;
  const auto rules = [](const char* rules) {
    return quantization(std::string(R"({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": )") + rules + "}").schemes;
  };
  EXPECT_THAT(rules(
                  R"({"+:a": {"bits": 8}, "b": {"group_size": 64, "sym": false, "adapter": null}, "-:c": {"odd": 1}, "d": {"bits": 8, "group_size": -1},
              "e": {"bits": 16}, "f": {"bits": 3}})"),
              ElementsAre(Scheme{4, false, true, 1, 128}, Scheme{8, false, true, 1, 128}, Scheme{4, false, true, 1, 64}, Scheme{8, false, true, 1, 0},
                          Scheme{3, false, true, 1, 128}));
  EXPECT_THAT(quantization(R"({"quant_method": "awq", "bits": 4, "group_size": 128, "dynamic": {"a": {"group_size": 64}}})").schemes,
              ElementsAre(Scheme{4, false, true, 1, 128}, Scheme{4, false, true, 1, 64}));
  EXPECT_THAT(
      quantization(
          R"({"quant_method": "auto-round", "bits": 4, "group_size": 128, "extra_config": {"a": {"bits": 8, "group_size": 32, "data_type": "int", "act_bits": 16,
                               "super_bits": null, "sym": true}, "b": {"bits": 16, "data_type": "float"}}})")
          .schemes,
      ElementsAre(Scheme{4, false, true, 1, 128}, Scheme{8, false, true, 1, 32}));
  for (const auto& [rule, says] : {std::pair(R"({"bits": "4"})", "gives '+:.*' 'bits': \"4\""),
                                   {R"({"bits": -1})", "'bits': -1"},
                                   {R"({"group_size": 0})", "'group_size': 0"},
                                   {R"({"group_size": 18446744073709551615})", "'group_size': 184467"},
                                   {R"({"adapter": {"rank": 8}})", "'adapter': {\"rank\":8}"},
                                   {R"({"data_type": "mx_fp"})", "'data_type': \"mx_fp\""},
                                   {"3", "has '+:.*', which must be an object"},
                                   {"null", "must be an object"}})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { rules((std::string(R"({"+:.*": )") + rule + "}").c_str()); }), AllOf(HasSubstr("'dynamic'"), HasSubstr(says)))
        << rule;
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { rules("[]"); }), HasSubstr("'dynamic' must be an object"));
}

/// Model Optimizer's of several algorithms: types and shapes tell a layer's.
TEST(Config, LayersOfModelOptimizerWithAlgorithmsOfTheirOwn) {
  const auto mixed = [](const std::string& layers) {
    return quantization(
        R"({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head", "*.gate"])" + layers +
        "}");
  };
  EXPECT_THAT(
      mixed(R"(, "quantized_layers": {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "NVFP4", "group_size": 16}, "c": {"quant_algo": "FP8"}})").schemes,
      ElementsAre(QuantizationScheme{8, true, false, 0, 0}, QuantizationScheme{4, true, false, 1, 16}));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { mixed(R"(, "quantized_layers": {"a": {"quant_algo": "W4A8_AWQ"}})"); }),
              AllOf(HasSubstr("quantized_layers: a: "), HasSubstr("W4A8_AWQ")));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { mixed(R"(, "quantized_layers": {"a": {"quant_algo": "FP8", "odd": 1}})"); }), HasSubstr("odd"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { mixed(""); }), HasSubstr("quantized_layers"));
}

/// As Python reads it.
TEST(Config, OfAFieldThatComesTwiceTheLastCounts) {
  std::string text = config_of("llama").dump();
  text.insert(1, R"("vocab_size": [], "quantization_config": {"a": 1, "a": 2}, "quantization_config": null, )");
  const ModelConfig twice = parse_config(text, R"({"eos_token_id": 5, "eos_token_id": 7})", "dir/config.json");
  EXPECT_EQ(twice.vocab_size, parse(config_of("llama")).vocab_size);
  EXPECT_FALSE(twice.quantization.there());
  EXPECT_THAT(twice.eos, ElementsAre(7));
}

/// As older files of compressed-tensors have it: an object within the object.
TEST(Config, QuantizedAsItIsSaidWithin) {
  const auto nested = [](const std::string& more) {
    return quantization(
        R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "frozen", "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}}}})" +
        more + "}");
  };
  for (const char* more : {"", R"(, "quant_method": "compressed-tensors", "sparsity_config": {"format": "dense", "global_sparsity": 0.1, "ignore": []})",
                           R"(, "sparsity_config": null)"}) {
    const Quantization q = nested(more);
    EXPECT_EQ(q.method, Quantization::Method::kCompressedTensors) << more;
    EXPECT_THAT(q.schemes, ElementsAre(QuantizationScheme{4, false, false, 1, 128})) << more;
  }
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { nested(R"(, "sparsity_config": {"format": "sparse-24-bitmask"})"); }), HasSubstr("sparsity_config"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { nested(R"(, "format": "int-quantized")"); }), HasSubstr("'format' contradicts"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { nested(R"(, "odd": 1)"); }), HasSubstr("--ignore-config-field quantization_config.odd"));
}

TEST(Config, QuantizedInOtherWords) {
  using Method = Quantization::Method;
  EXPECT_THAT(quantization(R"({"quant_method": "fp8", "fmt": "float8_e4m3fn", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
                               "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]})")
                  .schemes,
              ElementsAre(QuantizationScheme{8, true, false, 128, 128}));  // MiniMax-M2
  EXPECT_THAT(quantization(R"({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]})").schemes,
              ElementsAre(QuantizationScheme{8, true, false, 1, 0}));
  // GPTQModel 5 and later.
  EXPECT_EQ(
      quantization(
          R"({"bits": 4, "checkpoint_format": "gptq", "format": "gptq", "group_size": 128, "method": "gptq", "quant_method": "gptq", "pack_dtype": "int32"})")
          .method,
      Method::kGptq);
  EXPECT_EQ(quantization(
                R"({"bits": 4, "checkpoint_format": "gemm", "format": "gemm", "version": "gemm", "group_size": 128, "method": "awq", "quant_method": "awq"})")
                .method,
            Method::kAwq);
  EXPECT_THAT(quantization(R"({"quant_method": "awq", "zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"})").schemes,
              ElementsAre(QuantizationScheme{4, false, true, 1, 64}));  // AutoAWQ's own file
  EXPECT_EQ(
      quantization(
          R"({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "supported_types": ["torch.nn.Linear"], "quant_block_list": null,
                             "static_kv_granularity": "tensor", "static_attention_granularity": "tensor", "rotation_configs": null})")
          .method,
      Method::kGptq);
}

/// AutoRound until 0.4, which says by its kernels how weights are packed.
TEST(Config, OldFilesOfAutoRound) {
  const auto old = [](const std::string& kernels) {
    return quantization(R"({"quant_method": "intel/auto-round", "autoround_version": "0.4.5", "bits": 4, "group_size": 128, "sym": true, "backend": ")" +
                        kernels + "\"}");
  };
  for (const char* kernels : {"auto_round:gptq:exllamav2", "auto_gptq:exllamav2"}) EXPECT_TRUE(old(kernels).zeros_less_one) << kernels;
  EXPECT_EQ(old("auto_round:exllamav2").method, Quantization::Method::kGptq);
  EXPECT_FALSE(old("auto_round:exllamav2").zeros_less_one);
  EXPECT_EQ(old("auto_round:auto_awq").method, Quantization::Method::kAwq);
  for (const char* kernels : {"autoround:exllamav2", "auto_round:marlin", ""})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { old(kernels); }), HasSubstr("'backend' is '" + std::string(kernels) + "'")) << kernels;
  // The newer name's files say it otherwise.
  EXPECT_TRUE(quantization(R"({"quant_method": "auto-round", "backend": "auto_round:exllamav2", "bits": 4, "model_free": true})").zeros_less_one);
}

TEST(Config, ModelOptimizersOwnFileIsRead) {
  TestFolder folder;
  folder.put("config.json", config_of("llama").dump());
  folder.put("hf_quant_config.json",
             R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}})");
  EXPECT_EQ(load_config(folder.path().string()).quantization.method, Quantization::Method::kModelOpt);
  folder.put("hf_quant_config.json", R"({"quantization": {"quant_algo": "W4A8_AWQ"}})");
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { load_config(folder.path().string()); }), AllOf(HasSubstr("quant_algo"), HasSubstr("W4A8_AWQ")));
  folder.put("hf_quant_config.json",
             R"({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": ["lm_head"]}})");
  EXPECT_THAT(load_config(folder.path().string()).quantization.schemes, ElementsAre(QuantizationScheme{4, true, false, 1, 16}));
}

TEST(Config, Opt) {
  ModelConfig m = parse(config_of("opt"));
  EXPECT_EQ(m.head_size, 8);
  EXPECT_EQ(m.num_kv_heads, 8);
  EXPECT_EQ(m.ffn_size, 128);
  EXPECT_EQ(m.dtype, DType::kF16);
  EXPECT_EQ(m.activation, Activation::kRelu);
  EXPECT_TRUE(m.tied_embeddings);
  EXPECT_TRUE(m.final_norm);
  EXPECT_FALSE(m.post_norm);
  EXPECT_FALSE(m.gated_ffn);
  EXPECT_TRUE(m.ropes.empty());
  EXPECT_EQ(m.bos, 1);
  EXPECT_THAT(m.eos, ElementsAre(2));
}

TEST(Config, Opt350mNormalizesAfterTheSum) {
  ModelConfig m = parse_patched("opt", R"({"do_layer_norm_before": false, "word_embed_proj_dim": 32})");
  EXPECT_TRUE(m.post_norm);
  EXPECT_FALSE(m.final_norm);
  EXPECT_EQ(m.embed_size, 32);
}

TEST(Config, LlamaFamily) {
  ModelConfig m = parse(config_of("llama"));
  EXPECT_EQ(m.num_kv_heads, 2);
  EXPECT_EQ(m.embed_size, 64);
  EXPECT_FALSE(m.tied_embeddings);
  EXPECT_FALSE(m.qkv_bias);
  EXPECT_TRUE(m.gated_ffn);
  EXPECT_EQ(m.attention[0].window, 0);
  ASSERT_EQ(m.ropes[0].inverse_frequencies.size(), 4u);
  EXPECT_FLOAT_EQ(m.ropes[0].inverse_frequencies[0], 1);
  EXPECT_FLOAT_EQ(m.ropes[0].inverse_frequencies[1], 0.1f);
  EXPECT_FLOAT_EQ(m.ropes[0].inverse_frequencies[3], 0.001f);

  ModelConfig biased = parse_patched("llama", R"({"attention_bias": true, "mlp_bias": true, "head_dim": 16})");
  EXPECT_TRUE(biased.qkv_bias && biased.output_bias && biased.mlp_bias);
  EXPECT_EQ(biased.head_size, 16);

  ModelConfig qwen2 = parse(config_of("qwen2"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.output_bias);

  ModelConfig qwen3 = parse(config_of("qwen3"));
  EXPECT_EQ(qwen3.qk_norm, QkNorm::kHead);
  EXPECT_EQ(qwen3.head_size, 128);  // transformers' default
}

TEST(Config, KeyValueHeadsByDefault) {
  for (auto [type, kv_heads] : {std::pair{"llama", 64}, {"mistral", 8}, {"qwen2", 32}}) {
    json config = config_of(type);
    config["num_attention_heads"] = 64;
    config["hidden_size"] = 128;
    config.erase("num_key_value_heads");
    EXPECT_EQ(parse(config).num_kv_heads, kv_heads) << type;
    config["num_key_value_heads"] = nullptr;
    EXPECT_EQ(parse(config).num_kv_heads, 64) << type;
  }
}

TEST(Config, Gpt2) {
  const json published =
      json::parse(R"({"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1,
    "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
    "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1, "summary_proj_to_labels": true, "summary_type": "cls_index",
    "summary_use_proj": true, "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}, "vocab_size": 50257,
    "n_special": 0, "predict_special_tokens": true, "_num_labels": 1})");
  const ModelConfig m = parse(published);
  EXPECT_EQ(m.ffn_size, 4 * 768);
  EXPECT_EQ(m.max_positions, 1024);
  EXPECT_TRUE(m.tied_embeddings);
  EXPECT_TRUE(m.ropes.empty());
  EXPECT_EQ(m.attention_scale, 0);
  json other = published;
  other.update(json::parse(R"({"n_inner": 99, "scale_attn_by_inverse_layer_idx": true, "reorder_and_upcast_attn": true})"));
  const ModelConfig scaled = parse(other);
  EXPECT_EQ(scaled.ffn_size, 99);
  EXPECT_FLOAT_EQ(scaled.attention[2].scale, 0.125f / 3);
  other["scale_attn_weights"] = false;
  EXPECT_FLOAT_EQ(parse(other).attention[2].scale, 1.0f / 3);
  for (const char* patch : {R"({"add_cross_attention": true})", R"({"activation_function": "tanh"})", R"({"scale_attn_weights": "no"})", R"({"n_head": 5})",
                            R"({"my_own_scale": 2})"}) {
    json wrong = published;
    wrong.update(json::parse(patch));
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse(wrong); }), HasSubstr(wrong.contains("my_own_scale") ? "my_own_scale"
                                                                             : patch[2] == 'n'              ? "n_embd"
                                                                                                            : std::string(patch).substr(2, 8)))
        << patch;
  }
}

TEST(Config, GptJ) {
  const ModelConfig m = parse(
      json::parse(R"({"activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "attn_pdrop": 0.0, "bos_token_id": 50256, "embd_pdrop": 0.0,
    "eos_token_id": 50256, "gradient_checkpointing": false, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 4096, "n_head": 16,
    "n_inner": null, "n_layer": 28, "n_positions": 2048, "resid_pdrop": 0.0, "rotary": true, "rotary_dim": 64, "scale_attn_weights": true,
    "summary_activation": null, "summary_first_dropout": 0.1, "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
    "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50, "temperature": 1.0}}, "tie_word_embeddings": false,
    "tokenizer_class": "GPT2Tokenizer", "transformers_version": "4.18.0.dev0", "use_cache": true, "vocab_size": 50400})"));
  EXPECT_EQ(m.ropes[0].inverse_frequencies.size(), 32u);
}

TEST(Config, SlidingWindow) {
  EXPECT_EQ(parse(config_of("mistral")).attention[0].window, 4096);  // transformers' default where nothing is said
  EXPECT_EQ(parse_patched("mistral", R"({"sliding_window": null})").attention[0].window, 0);
  EXPECT_EQ(parse_patched("mistral", R"({"sliding_window": 9})").attention[0].window, 9);
  EXPECT_EQ(parse_patched("qwen2", R"({"sliding_window": 9, "use_sliding_window": false, "max_window_layers": 2})").attention[0].window, 0);
  EXPECT_EQ(parse_patched("qwen2", R"({"sliding_window": 9, "use_sliding_window": true, "max_window_layers": 4})").attention[0].window, 0);
  EXPECT_EQ(parse_patched("qwen3", R"({"sliding_window": 9, "use_sliding_window": true, "max_window_layers": 0,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention"]})")
                .attention[0]
                .window,
            9);
  EXPECT_EQ(parse_patched("qwen3", R"({"layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"]})").attention[0].window, 0);
}

TEST(Config, CodeThatCameBeforeTransformersOwnMayBeNamed) {
  const char* config =
      R"({"model_type": "phi3", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 100, "intermediate_size": 48,
    "max_position_embeddings": 64, "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}})";
  EXPECT_EQ(parse_config(config, "", "c").hidden_size, 32);
}

TEST(Config, CodeThatComputesTheSameMayBeLeftOut) {
  json config = config_of("llama");
  for (const char* none : {"{}", R"({"AutoConfig": null})", "[]"}) {
    config["auto_map"] = json::parse(none);
    EXPECT_EQ(parse(config).hidden_size, 64) << none;
  }
  config["auto_map"] = {{"AutoModelForCausalLM", "modeling_llama_yarn.LlamaForCausalLM"}};
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse(config); }), HasSubstr("--ignore-config-field auto_map"));
  EXPECT_EQ(parse_config(config.dump(), "", "c", {"auto_map"}).hidden_size, 64);
}

TEST(Config, ATextModelAmongImagesIsReadAlone) {
  const ModelConfig m =
      parse_config(R"({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "mm_tokens_per_image": 256, "eos_token_id": [1, 106],
    "vision_config": {"hidden_size": 1152}, "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}, "torch_dtype": "bfloat16"})",
                   "", "c");
  EXPECT_EQ(m.model_type, "gemma3_text");
  EXPECT_EQ(m.num_heads, 8);  // the class's own numbers, which the file leaves out
  EXPECT_EQ(m.num_kv_heads, 4);
  EXPECT_EQ(m.head_size, 256);
  EXPECT_EQ(m.vocab_size, 262208);
  EXPECT_EQ(m.attention[4].window, 1024);
  EXPECT_EQ(m.attention[5].window, 0);
  EXPECT_FLOAT_EQ(m.ropes[static_cast<size_t>(m.attention[5].rope)].inverse_frequencies[0], 0.125f);
  EXPECT_FLOAT_EQ(m.ropes[static_cast<size_t>(m.attention[4].rope)].inverse_frequencies[0], 1);
  EXPECT_THAT(m.eos, ElementsAre(1, 106));
}

/// As the text part of published checkpoints says it, in a file that is of images and sounds too.
const char* const kGemma4 =
    R"({"model_type": "gemma4", "architectures": ["Gemma4ForConditionalGeneration"], "audio_config": null, "vision_config": {"hidden_size": 1152}, "image_token_id": 258880,
    "eos_token_id": [1, 106], "tie_word_embeddings": true, "text_config": {"model_type": "gemma4_text", "attention_bias": false, "attention_dropout": 0.0, "attention_k_eq_v": true,
    "dtype": "bfloat16", "enable_moe_block": false, "eos_token_id": 1, "final_logit_softcapping": 30.0, "global_head_dim": 512, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 512, "hidden_size_per_layer_input": 0, "intermediate_size": 1024, "max_position_embeddings": 262144, "moe_intermediate_size": null, "num_attention_heads": 8,
    "num_experts": null, "num_global_key_value_heads": 2, "num_hidden_layers": 7, "num_key_value_heads": 4, "num_kv_shared_layers": 0, "pad_token_id": 0, "rms_norm_eps": 1e-06,
    "rope_parameters": {"full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
                        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}},
    "sliding_window": 1024, "top_k_experts": null, "use_bidirectional_attention": "vision", "use_double_wide_mlp": false, "vocab_size": 262144, "vocab_size_per_layer_input": 262144}})";

TEST(Config, Gemma4sLayersDifferInTheirHeads) {
  const ModelConfig m = parse_config(kGemma4, "", "c");
  for (int64_t block = 0; block < 7; ++block) {
    const BlockAttention& attention = m.attention[static_cast<size_t>(block)];
    const bool full = block >= 5;  // every sixth, and the last
    EXPECT_EQ(m.heads_of(block), (full ? HeadSizes{8, 2, 512} : HeadSizes{8, 4, 256})) << block;
    EXPECT_EQ(attention.window, full ? 0 : 1024) << block;
    EXPECT_EQ(attention.keys_are_values, full) << block;
  }
  const std::vector<float>& turned = m.ropes[static_cast<size_t>(m.attention[5].rope)].inverse_frequencies;
  ASSERT_EQ(turned.size(), 256u);  // pairs of a whole head of 512, of which a quarter turns
  EXPECT_FLOAT_EQ(turned[63], static_cast<float>(std::pow(1e6, -126.0 / 512)));
  EXPECT_EQ(turned[64], 0);
  EXPECT_EQ(turned[255], 0);
  EXPECT_FLOAT_EQ(m.ropes[static_cast<size_t>(m.attention[0].rope)].inverse_frequencies[127], static_cast<float>(std::pow(1e4, -254.0 / 256)));
  EXPECT_EQ(m.logit_cap, 30);
  EXPECT_EQ(m.attention_scale, 1);
  EXPECT_TRUE(m.tied_embeddings);
  EXPECT_THAT(m.eos, ElementsAre(1, 106));
}

/// What transformers 5 writes says it layer by layer, and what a file leaves out is the class's own.
TEST(Config, Gemma4sHeadsMayBeSaidLayerByLayer) {
  json config = json::parse(kGemma4).at("text_config");
  for (const char* name : {"rope_parameters", "global_head_dim", "num_global_key_value_heads", "sliding_window", "final_logit_softcapping"}) config.erase(name);
  config["per_layer_config"] = {{"05", {{"head_dim", 64}, {"num_key_value_heads", 1}}}, {"06", {{"head_dim", 64}}}};
  const ModelConfig m = parse(config);
  EXPECT_EQ(m.heads_of(0), (HeadSizes{8, 4, 256}));
  EXPECT_EQ(m.heads_of(5), (HeadSizes{8, 1, 64}));
  EXPECT_EQ(m.heads_of(6), (HeadSizes{8, 4, 64}));
  EXPECT_TRUE(m.attention[6].keys_are_values);
  EXPECT_EQ(m.attention[0].window, 512);
  EXPECT_EQ(m.logit_cap, 0);
  ASSERT_EQ(m.ropes[1].inverse_frequencies.size(), 32u);
  EXPECT_GT(m.ropes[1].inverse_frequencies[7], 0);
  EXPECT_EQ(m.ropes[1].inverse_frequencies[8], 0);
  // With values of their own, layers without a window have as many heads as the others.
  config.erase("per_layer_config");
  config.update({{"attention_k_eq_v", false}, {"num_global_key_value_heads", 2}});
  EXPECT_EQ(parse(config).heads_of(6), (HeadSizes{8, 4, 512}));
  EXPECT_FALSE(parse(config).attention[6].keys_are_values);
}

TEST(Config, WhatGemma4sSmallModelsHaveBesideIsRefusedByName) {
  const std::pair<const char*, const char*> kRefused[] = {{"hidden_size_per_layer_input", "256"},
                                                          {"hidden_size_per_layer_input", "128"},
                                                          {"num_kv_shared_layers", "2"},
                                                          {"use_bidirectional_attention", R"("all")"},
                                                          {"num_global_key_value_heads", "3"},
                                                          {"global_head_dim", "0"},
                                                          {"per_layer_config", R"({"7": {}})"},
                                                          {"per_layer_config", R"({"x": {}})"},
                                                          {"per_layer_config", R"([1])"},
                                                          {"per_layer_config", R"({"5": {"head_dim": 64}})"},
                                                          {"intermediate_size", R"("wide")"},
                                                          {"rope_theta", "20000.0"},
                                                          {"rope_parameters", R"({"full_attention": {"rope_type": "default", "rope_theta": 1e6}})"}};
  for (const auto& [field, value] : kRefused) {
    json config = json::parse(kGemma4).at("text_config");
    config[field] = json::parse(value);
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse(config); }), HasSubstr("'" + std::string(field) + "'")) << value;
  }
  json config = json::parse(kGemma4).at("text_config");
  config.erase("hidden_size_per_layer_input");
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse(config); }), AllOf(HasSubstr("hidden_size_per_layer_input"), HasSubstr("not there"), HasSubstr("E2B")));
  config["hidden_size_per_layer_input"] = 0;
  config["per_layer_config"] = {{"0", {{"intermediate_size", 5}}}};
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse(config); }), HasSubstr("intermediate_size"));
  config.erase("per_layer_config");
  config["rope_parameters"]["full_attention"]["rope_type"] = "default";
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse(config); }), HasSubstr("proportional"));
}

/// 12B's file: a class of its own in transformers, which has no inputs by layer and no experts.
const char* const kGemma4Unified =
    R"({"model_type": "gemma4_unified", "architectures": ["Gemma4UnifiedForConditionalGeneration"], "audio_config": {"audio_embed_dim": 640, "hidden_size": 640},
    "vision_config": {"mm_embed_dim": 3840, "model_type": "gemma4_unified_vision"}, "image_token_id": 258880, "eoa_token_index": 258883, "tie_word_embeddings": true,
    "text_config": {"model_type": "gemma4_unified_text", "attention_k_eq_v": true, "enable_moe_block": false, "final_logit_softcapping": 30.0, "global_head_dim": 512,
    "hidden_size": 512, "hidden_size_per_layer_input": 0, "intermediate_size": 1024, "moe_intermediate_size": null, "num_attention_heads": 16, "num_experts": null,
    "num_global_key_value_heads": 1, "num_hidden_layers": 6, "num_key_value_heads": 8, "num_kv_shared_layers": 0, "top_k_experts": null, "use_bidirectional_attention": "vision",
    "use_double_wide_mlp": false, "vocab_size_per_layer_input": 262144}})";

TEST(Config, Gemma4UnifiedHasDefaultsOfItsOwn) {
  const ModelConfig m = parse_config(kGemma4Unified, "", "c");
  EXPECT_EQ(m.model_type, "gemma4_unified_text");
  EXPECT_EQ(m.attention[4].window, 1024);
  EXPECT_EQ(m.attention[5].window, 0);
  EXPECT_EQ(m.heads_of(4), (HeadSizes{16, 8, 256}));
  EXPECT_EQ(m.heads_of(5), (HeadSizes{16, 1, 512}));
  EXPECT_EQ(m.vocab_size, 262144);
  EXPECT_EQ(m.max_positions, 262144);
  EXPECT_TRUE(m.tied_embeddings);
  json least = {{"model_type", "gemma4_unified_text"}, {"hidden_size", 512}, {"intermediate_size", 1024}, {"num_hidden_layers", 6}};
  EXPECT_EQ(parse(least).heads_of(5), (HeadSizes{8, 4, 512}));  // nothing to say of inputs by layer
  EXPECT_EQ(parse(least).attention[0].window, 1024);
}

TEST(Config, WhatGemma4UnifiedDoesNotComputeIsRefusedByName) {
  const std::pair<const char*, const char*> kRefused[] = {
      {"hidden_size_per_layer_input", "256"}, {"num_kv_shared_layers", "2"}, {"use_bidirectional_attention", R"("all")"}, {"enable_moe_block", "true"}};
  for (const auto& [field, value] : kRefused) {
    json config = json::parse(kGemma4Unified);
    config["text_config"][field] = json::parse(value);
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse(config); }), HasSubstr("'" + std::string(field) + "'")) << value;
  }
  json config = json::parse(kGemma4Unified);
  config.erase("text_config");
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse(config); }), HasSubstr("gemma4_unified"));
}

TEST(Config, LongRopeEndsWhereItsShortFactorsDo) {
  json config = config_of("llama");
  config["max_position_embeddings"] = 1024;
  config["rope_scaling"] = {
      {"type", "longrope"}, {"short_factor", {1.0, 2.0, 4.0, 8.0}}, {"long_factor", {1, 2, 3, 4}}, {"original_max_position_embeddings", 256}};
  const ModelConfig m = parse(config);
  EXPECT_EQ(m.max_positions, 256);
  EXPECT_FLOAT_EQ(m.ropes[0].inverse_frequencies[1], 0.05f);
  EXPECT_FLOAT_EQ(m.ropes[0].scale, std::sqrt(1.25f));
}

TEST(Config, SomeLayersMayHaveAWindow) {
  const ModelConfig by_number = parse_patched("qwen2", R"({"use_sliding_window": true, "sliding_window": 9, "max_window_layers": 2})");
  const ModelConfig by_name = parse_patched("qwen2", R"({"use_sliding_window": true, "sliding_window": 9,
    "layer_types": ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]})");
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(by_number.attention[i].window, i < 2 ? 0 : 9) << i;
    EXPECT_EQ(by_name.attention[i].window, i < 2 ? 0 : 9) << i;
  }
}

TEST(Config, RopeOfTransformers5EqualsThatOf4) {
  const std::string llama3 = R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64)";
  ModelConfig old_style = parse_patched("llama", R"({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", )" + llama3 + "}}");
  json config = config_of("llama");
  for (const char* name : {"rope_theta", "rope_scaling", "torch_dtype"}) config.erase(name);
  config["dtype"] = "float32";
  config["rope_parameters"] = json::parse(R"({"rope_type": "llama3", "rope_theta": 500000.0, )" + llama3 + "}");
  ModelConfig new_style = parse(config);
  EXPECT_EQ(new_style.ropes[0].inverse_frequencies, old_style.ropes[0].inverse_frequencies);
  EXPECT_EQ(new_style.dtype, DType::kF32);
  // Wavelength 6.3 is far below 64 / 4 and stays; the last one, 2 pi * 18803, is far above 64 and slowed down by 8.
  EXPECT_FLOAT_EQ(old_style.ropes[0].inverse_frequencies[0], 1);
  EXPECT_FLOAT_EQ(old_style.ropes[0].inverse_frequencies[3], static_cast<float>(std::pow(500000.0, -0.75) / 8));
}

TEST(Config, RopeLinear) {
  for (const char* key : {"type", "rope_type"}) {
    ModelConfig m = parse_patched("llama", std::string(R"({"rope_scaling": {")") + key + R"(": "linear", "factor": 4.0}})");
    EXPECT_FLOAT_EQ(m.ropes[0].inverse_frequencies[0], 0.25f);
    EXPECT_FLOAT_EQ(m.ropes[0].inverse_frequencies[1], 0.025f);
  }
}

TEST(Config, EndTokensComeFromTheGenerationConfig) {
  EXPECT_THAT(parse(config_of("llama"), R"({"eos_token_id": [7, 8], "do_sample": true})").eos, ElementsAre(7, 8));
  EXPECT_THAT(parse(config_of("llama"), R"({"eos_token_id": 9, "bos_token_id": 5})").eos, ElementsAre(9));
  EXPECT_EQ(parse(config_of("llama"), R"({"bos_token_id": 5})").bos, 5);
  EXPECT_THAT(parse(config_of("llama"), R"({"eos_token_id": null})").eos, ElementsAre(2));
  EXPECT_THAT(parse_patched("llama", R"({"eos_token_id": [2, 3]})").eos, ElementsAre(2, 3));
  EXPECT_TRUE(parse_patched("llama", R"({"eos_token_id": null})").eos.empty());
}

TEST(Config, EndTokensThatTheVocabularyHasNotAreToldAndLeftOut) {
  const auto told_of = [](const std::string& config, const std::string& generation, const std::vector<int32_t>& eos) {
    std::ostringstream told;
    const auto usual = spdlog::default_logger();
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("told", std::make_shared<spdlog::sinks::ostream_sink_mt>(told)));
    EXPECT_EQ(parse_config(config, generation, "dir/config.json").eos, eos);
    spdlog::set_default_logger(usual);
    return told.str();
  };
  json config = config_of("llama");
  config["eos_token_id"] = {2, 999};
  EXPECT_EQ(told_of(config.dump(), "", {2, 999}), "");
  EXPECT_THAT(told_of(config.dump(), R"({"eos_token_id": 99999})", {}),
              AllOf(HasSubstr("dir/config.json: 'eos_token_id'"), HasSubstr("names the token 99999, and the vocabulary has 1000 tokens: no answer ends by it"),
                    HasSubstr("none before max_tokens")));
  config["eos_token_id"] = {2, 1000};
  EXPECT_THAT(told_of(config.dump(), "", {2}), AllOf(HasSubstr("the token 1000,"), testing::Not(HasSubstr("none before"))));
}

struct Refusal {
  const char* type;
  const char* patch;
  const char* field;
  const char* reason;
  friend std::ostream& operator<<(std::ostream& out, const Refusal& refusal) { return out << refusal.type << " " << refusal.patch; }
};
class RefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(RefusalTest, NamesFileFieldAndReason) {
  const Refusal& refusal = GetParam();
  const std::string message = error_of(ErrorKind::kUser, [&] { parse_patched(refusal.type, refusal.patch); });
  EXPECT_THAT(message, AllOf(HasSubstr("dir/config.json"), HasSubstr("'" + std::string(refusal.field) + "'"), HasSubstr(refusal.reason)));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, RefusalTest,
    testing::Values(
        Refusal{"llama", R"({"model_type": "gpt_bigcode"})", "model_type", "gpt_bigcode"},
        Refusal{"llama", R"({"model_type": null})", "model_type", "opt, llama, mistral, qwen2, qwen3"},
        Refusal{"llama", R"({"some_new_switch": true})", "some_new_switch", "--ignore-config-field some_new_switch"},
        Refusal{"llama", R"({"ffn_dim": 12})", "ffn_dim", "does not know"}, Refusal{"opt", R"({"rope_theta": 10000.0})", "rope_theta", "does not know"},
        Refusal{"opt", R"({"head_dim": 16})", "head_dim", "does not know"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}})", "quantization_config",
                "'bitsandbytes', which flexgen does not read"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "aqlm"}})", "quantization_config", "--weight-dtype int4"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "mxfp4"}})", "quantization_config", "of gpt_oss alone"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "quark\n"}})", "quantization_config", "quark\\x0a"},
        Refusal{"llama", R"({"quantization_config": {}})", "quantization_config", "quant_method ''"},
        Refusal{"llama", R"({"quantization_config": []})", "quantization_config", "object"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}})", "fmt", "e5m2"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}})", "weight_block_size", "two sizes"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 128]}})", "weight_block_size", "two sizes"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "fp8", "activation_scheme": "block"}})", "activation_scheme", "block"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "fp8", "new_switch": 1}})", "new_switch",
                "--ignore-config-field quantization_config.new_switch"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}})", "quant_algo", "W4A16_AWQ"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"}})", "quant_algo", "NVFP4_AWQ"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 32}})", "group_size", "only 16"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "gptq", "bits": 3}})", "bits", "4 and 8"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 0}})", "group_size", "is 0"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}})", "checkpoint_format", "marlin"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "awq", "bits": 8}})", "bits", "of AWQ's"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "awq", "version": "GEMV"}})", "version", "gemv"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "auto-round", "packing_format": "auto_round:mlx"}})", "packing_format", "mlx"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}})", "config_groups", "missing"},
        Refusal{"llama",
                R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"W4A16": ["Linear"]}}})",
                "W4A16", "preset"},
        Refusal{
            "llama",
            R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups": {"g": {"weights": {"num_bits": 4}}}}})",
            "format", "marlin-24"},
        Refusal{
            "llama",
            R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": {"weights": {"num_bits": 3}}}}})",
            "num_bits", "4 and 8"},
        Refusal{
            "llama",
            R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": {"weights": {"num_bits": 4, "strategy": "group"}}}}})",
            "group_size", "missing"},
        Refusal{
            "llama",
            R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"g": {"weights": {"num_bits": 8, "symmetric": false}}}}})",
            "symmetric", "zero points"},
        Refusal{
            "llama",
            R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": {"weights": {"num_bits": 4, "odd": 1}}}}})",
            "odd", "--ignore-config-field quantization_config.config_groups.g.weights.odd"},
        Refusal{
            "llama",
            R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": {"weights": {"num_bits": 4}}}, "transform_config": {"r": 1}}})",
            "transform_config", "transformed"},
        Refusal{"llama", R"({"auto_map": {"AutoModel": "code.py"}})", "auto_map", "code of its own"},
        Refusal{"llama", R"({"quantization": {"group_size": 64, "bits": 4}})", "quantization", "MLX"},
        Refusal{"llama", R"({"quantization_config": {"load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}})", "quantization_config", "'bitsandbytes'"},
        Refusal{"llama", R"({"quantization_config": {"quant_method": "gptq", "method": "qqq"}})", "method", "qqq"},
        Refusal{"granitemoehybrid", R"({"num_local_experts": 0})", "layer_types", "recurrent"},
        Refusal{"granitemoehybrid", R"({"num_local_experts": 0, "layer_types": ["attention", "attention", "mamba", "attention"]})", "layer_types", "mamba"},
        Refusal{"granitemoehybrid", R"({"num_local_experts": 0, "layers_block_type": ["mamba", "attention", "attention", "attention"]})", "layers_block_type",
                "mamba"},
        Refusal{"granitemoehybrid", R"({"num_local_experts": 64, "layer_types": ["attention", "attention", "attention", "attention"]})", "num_local_experts",
                "is 64"},
        Refusal{"granitemoehybrid", R"({"layer_types": ["attention", "attention", "attention", "attention"]})", "num_local_experts", "is 8"},
        Refusal{"bloom", R"({"n_layer": 2, "n_head": 8, "n_embed": 32})", "hidden_size", "contradicts 'n_embed'"},
        Refusal{"minimax_m2", R"({"attn_type_list": [1, 0, 1, 1]})", "attn_type_list", "only"},
        Refusal{"minimax_m2", R"({"num_hidden_layers": 100, "num_local_experts": 16000})", "num_local_experts", "1600000 experts in 100 layers"},
        Refusal{"gemma2", R"({"hidden_act": "gelu_pytorch_tanh", "sliding_window_size": 12})", "sliding_window_size", "only 4096"},
        Refusal{"llama", R"({"architectures": ["LlamaForSequenceClassification"]})", "architectures", "ForCausalLM"},
        Refusal{"llama", R"({"hidden_act": "quick_gelu"})", "hidden_act", "quick_gelu"},
        Refusal{"opt", R"({"activation_function": "tanh"})", "activation_function", "tanh"},
        Refusal{"llama", R"({"rope_scaling": {"rope_type": "proportional", "factor": 4.0}})", "rope_scaling", "proportional"},
        Refusal{"llama", R"({"rope_scaling": {"type": "dynamic"}})", "factor", "missing"},
        Refusal{"llama", R"({"rope_scaling": {"type": "longrope"}})", "short_factor", "list of 4"},
        Refusal{"llama", R"({"rope_scaling": {"rope_type": "linear"}})", "factor", "missing"},
        Refusal{"llama", R"({"rope_scaling": {"rope_type": "linear", "factor": 0}})", "factor", "above 0"},
        Refusal{"llama", R"({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
                             "original_max_position_embeddings": 64}})",
                "high_freq_factor", "larger"},
        Refusal{"llama", R"({"rope_scaling": {"rope_type": "default", "mrope_section": [1, 2]}})", "mrope_section", "does not know"},
        Refusal{"llama", R"({"rope_scaling": [1]})", "rope_scaling", "object"},
        Refusal{"llama", R"({"rope_parameters": {"rope_type": "axial", "rope_theta": 1e4}})", "rope_parameters", "axial"},
        Refusal{"llama", R"({"rope_parameters": {"rope_theta": 1e6}})", "rope_theta", "contradicts"},
        Refusal{"llama", R"({"rope_theta": -1})", "rope_theta", "above 0"}, Refusal{"llama", R"({"rope_theta": "10000"})", "rope_theta", "number"},
        Refusal{"llama", R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor", "only 1"},
        Refusal{"llama", R"({"sliding_window": 128})", "sliding_window", "does not know"}, Refusal{"llama", R"({"head_dim": 15})", "head_dim", "even"},
        Refusal{"llama", R"({"head_dim": -16})", "head_dim", "-16"}, Refusal{"mistral", R"({"attention_bias": true})", "attention_bias", "only false"},
        Refusal{"qwen2", R"({"attention_bias": false})", "attention_bias", "only true"}, Refusal{"qwen3", R"({"mlp_bias": true})", "mlp_bias", "only false"},
        Refusal{"qwen3", R"({"layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"]})", "layer_types", "how wide"},
        Refusal{"qwen3", R"({"layer_types": ["full_attention", "chunked_attention", "full_attention", "full_attention"]})", "layer_types", "chunked_attention"},
        Refusal{"qwen3", R"({"layer_types": ["full_attention"]})", "layer_types", "list of 4"},
        Refusal{"mistral", R"({"sliding_window": 9, "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"]})", "layer_types",
                "sliding_attention"},
        Refusal{"qwen2", R"({"use_mrope": true})", "use_mrope", "only false"}, Refusal{"opt", R"({"enable_bias": false})", "enable_bias", "only true"},
        Refusal{"opt", R"({"layer_norm_elementwise_affine": false})", "layer_norm_elementwise_affine", "only true"},
        Refusal{"opt", R"({"do_layer_norm_before": "yes"})", "do_layer_norm_before", "true or false"},
        Refusal{"opt", R"({"hidden_size": 63})", "hidden_size", "multiple"}, Refusal{"llama", R"({"hidden_size": 60})", "hidden_size", "multiple"},
        Refusal{"llama", R"({"num_key_value_heads": 3})", "num_key_value_heads", "divide"},
        Refusal{"llama", R"({"num_key_value_heads": 16})", "num_key_value_heads", "16"},
        Refusal{"llama", R"({"num_key_value_heads": 0})", "num_key_value_heads", "from 1 to 8"},
        Refusal{"llama", R"({"hidden_size": 1e300})", "hidden_size", "whole number"},
        Refusal{"llama", R"({"hidden_size": 64.0})", "hidden_size", "whole number"},
        Refusal{"llama", R"({"hidden_size": 18446744073709551615})", "hidden_size", "18446744073709551615"},
        Refusal{"llama", R"({"num_hidden_layers": -1})", "num_hidden_layers", "-1"},
        Refusal{"llama", R"({"num_hidden_layers": null})", "num_hidden_layers", "missing"}, Refusal{"llama", R"({"vocab_size": "many"})", "vocab_size", "many"},
        Refusal{"llama", R"({"head_dim": 65536, "num_attention_heads": 64, "num_key_value_heads": 64})", "head_dim", "absurd"},
        Refusal{"llama", R"({"rms_norm_eps": -1e-5})", "rms_norm_eps", "above 0"},
        Refusal{"llama", R"({"tie_word_embeddings": 1})", "tie_word_embeddings", "true or false"},
        Refusal{"llama", R"({"torch_dtype": "float8_e4m3fn"})", "torch_dtype", "float8_e4m3fn"}, Refusal{"llama", R"({"dtype": "int8"})", "dtype", "int8"},
        Refusal{"llama", R"({"eos_token_id": "</s>"})", "eos_token_id", "token id"}, Refusal{"llama", R"({"eos_token_id": [-3]})", "eos_token_id", "token id"},
        Refusal{"llama", R"({"is_encoder_decoder": true})", "is_encoder_decoder", "only false"},
        Refusal{"llama", R"({"pruned_heads": {"0": [1]}})", "pruned_heads", "only {}"}));

/// What transformers' classes take where a file says nothing, and which of two places counts.
TEST(Config, TextModelsOfOtherWrappers) {
  const auto of = [](const char* type, const char* text, const char* beside = "") {
    return parse_config(std::string(R"({"architectures": ["SomeForConditionalGeneration"], "vision_config": {}, "torch_dtype": "float16", "model_type": ")") +
                            type + R"(", "text_config": {)" + text + "}" + beside + "}",
                        "", "c");
  };
  const char* const llama = R"("model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-05, "vocab_size": 32064)";
  const ModelConfig vicuna = of("llava", llama);  // as LLaVA 1.5 says it
  EXPECT_EQ(vicuna.model_type, "llama");
  EXPECT_EQ(vicuna.hidden_size, 4096);
  EXPECT_EQ(vicuna.num_layers, 32);
  EXPECT_EQ(vicuna.num_kv_heads, 32);
  EXPECT_EQ(vicuna.ffn_size, 11008);
  EXPECT_EQ(vicuna.vocab_size, 32064);
  EXPECT_EQ(vicuna.max_positions, 2048);
  EXPECT_EQ(vicuna.dtype, DType::kF16);
  EXPECT_EQ(of("llava_next", R"("model_type": "mistral")").num_kv_heads, 8);
  EXPECT_EQ(
      of("smolvlm", R"("model_type": "llama", "perceiver_config": {}, "pixel_shuffle_factor": 4, "use_resampler": false, "qk_layer_norms": false)").num_layers,
      32);
  EXPECT_EQ(of("exaone4_5", R"("model_type": "exaone4_5_text")").model_type, "exaone4");
  const ModelConfig voxtral = of("voxtral", R"("model_type": "llama", "tie_word_embeddings": true)");
  EXPECT_EQ(voxtral.head_size, 128);
  EXPECT_EQ(voxtral.num_layers, 30);
  EXPECT_FALSE(voxtral.tied_embeddings);

  const std::string ties = std::string(llama) + R"(, "tie_word_embeddings": true)";
  const char *const yes = R"(, "tie_word_embeddings": true)", *const no = R"(, "tie_word_embeddings": false)";
  for (const char* type : {"llava", "llava_onevision", "llava_next", "idefics3", "smolvlm", "exaone4_5"}) {
    EXPECT_FALSE(of(type, llama).tied_embeddings) << type;
    EXPECT_TRUE(of(type, llama, yes).tied_embeddings) << type;
    EXPECT_EQ(of(type, ties.c_str(), no).tied_embeddings, std::string_view(type) == "llava" || std::string_view(type) == "llava_onevision") << type;
  }
  for (const char* type : {"internvl", "aya_vision", "cohere2_vision"}) {
    EXPECT_TRUE(of(type, llama).tied_embeddings) << type;
    EXPECT_FALSE(of(type, ties.c_str(), no).tied_embeddings) << type;
  }
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { of("paligemma", R"("model_type": "gemma")"); }), HasSubstr("'model_type' is 'paligemma'"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { of("llava", R"("model_type": "mamba")"); }), HasSubstr("'model_type' is 'mamba'"));
}

TEST(Config, BrokenTextsAreOneClearError) {
  for (const char* text : {"", "{", "[]", "3", "null", R"({"model_type": "llama", "rms_norm_eps": NaN})", R"({"model_type": "llama", "rms_norm_eps": 1e999})",
                           R"({"model_type": "llama", "model_type": "opt"})"}) {
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_config(text, "", "dir/config.json"); }), HasSubstr("dir/config.json")) << text;
  }
  EXPECT_THAT(error_of(ErrorKind::kUser, [] { parse_config(std::string(100000, '['), "", "x"); }), HasSubstr("x"));
}

TEST(Config, ABrokenGenerationConfigCostsAWarning) {
  for (const char* text : {"{", "[]", "3", "null", R"({"eos_token_id": 2.5})", R"({"eos_token_id": NaN})", "\xff\xfe{"})
    EXPECT_EQ(parse(config_of("opt"), text).eos, parse(config_of("opt")).eos) << text;
  EXPECT_THAT(parse(config_of("opt"), R"({"eos_token_id": 4, "temperature": Infinity})").eos, ElementsAre(4));
}

TEST(Config, FieldsThatChangeNothingAreKnown) {
  const auto plain = parse(config_of("llama"));
  for (const char* field :
       {R"({"is_llama_config": true, "rope_interleaved": false})", R"({"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}})",
        R"({"neftune_noise_alpha": 5.0})", R"({"max_sequence_length": 2048, "model_max_length": 4096, "_flash_attn_2_enabled": true})",
        R"({"use_sliding_window": false, "max_window_layers": 28})", R"({"embedding_multiplier": 1, "logits_scaling": 1.0})",
        R"({"num_experts": 0, "router_aux_loss_coef": 0.001})",
        R"({"custom_pipelines": {"text-generation": {"impl": "instruct_pipeline.InstructionTextGenerationPipeline", "pt": "AutoModelForCausalLM"}}})"})
    EXPECT_EQ(parse_patched("llama", field).ropes[0].inverse_frequencies, plain.ropes[0].inverse_frequencies) << field;
  auto text = config_of("llama").dump();
  text.insert(1, R"("neftune_noise_alpha": NaN, "label_smoothing": -Infinity,)");
  EXPECT_EQ(parse_config(text, "", "dir/config.json").hidden_size, plain.hidden_size);
}

/// Tools that make one family's checkpoint of another's leave fields of the other in it.
TEST(Config, OtherFamiliesFieldsThatChangeNothingAreKnown) {
  for (const char* type : {"mixtral", "qwen2_moe", "minimax_m2", "ernie4_5_moe"}) {
    const std::string types = R"(["full_attention", "full_attention", "full_attention", "full_attention"])";
    for (const std::string& field :
         {std::string(R"({"attention_bias": false})"), std::string(R"({"mlp_bias": false, "lm_head_bias": false})"), R"({"layer_types": )" + types + "}"})
      EXPECT_EQ(parse_patched(type, field).num_layers, parse(config_of(type)).num_layers) << type << field;
  }
  EXPECT_THROW(parse_patched("mixtral", R"({"mlp_bias": true})"), Error);
  EXPECT_THROW(parse_patched("qwen2_moe", R"({"layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"]})"), Error);
}

/// Fields that files on the Hub have beside those that count, or that say a default by another name.
TEST(Config, FieldsOfPublishedFilesAreKnown) {
  const struct {
    const char *type, *fields;
  } kFiles[] = {
      {"glm4_moe", R"({"num_nextn_predict_layers": 1, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 24, "use_qk_norm": true})"},
      {"ernie4_5_moe", R"({"num_nextn_predict_layers": 1, "moe_use_aux_free": true, "use_moe": true})"},
      {"dots1",
       R"({"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_layer_freq": 1, "scoring_func": "noaux_tc", "topk_method": "noaux_tc", "ep_size": 1, "seq_aux": true, "aux_loss_alpha": 0.001,
           "pretraining_tp": 1, "sliding_window": null})"},
      {"minimax_m2",
       R"({"attn_type_list": [1, 1, 1, 1], "mlp_intermediate_size": 8192, "layernorm_full_attention_beta": 1.0, "layernorm_linear_attention_beta": 1.0,
          "layernorm_mlp_beta": 1.0, "shared_moe_mode": "sigmoid", "shared_intermediate_size": 0, "use_mtp": true, "num_mtp_modules": 3})"},
      {"qwen3_moe", R"({"use_qk_norm": true, "qkv_bias": false, "shared_expert_intermediate_size": 0})"},
      {"qwen3", R"({"use_qk_norm": true})"},
      {"gemma2", R"({"hidden_act": "gelu_pytorch_tanh", "sliding_window": 4096, "sliding_window_size": 4096})"},
      {"hunyuan_v1_moe",
       R"({"num_experts": 8, "moe_topk": 2, "attention_head_dim": 8, "use_cla": false, "cla_share_factor": 2, "dense_list": [4096, 0], "norm_type": "rms",
          "use_rotary_pos_emb": true, "n_group": false, "routed_scaling_factor": false, "vit_patch": 1, "im_start_id": 5, "mlp_bias": false, "pool_type": "last"})"},
      {"starcoder2", R"({"hidden_act": "gelu_pytorch_tanh", "activation_function": "gelu", "layer_norm_epsilon": 1e-05, "scale_attention_softmax_in_fp32": true,
          "scale_attn_weights": true, "rms_norm_eps": null})"},
      {"stablelm", R"({"num_heads": 8, "rope_pct": 0.25, "rotary_scaling_factor": 1.0, "norm_eps": 1e-05, "rms_norm_eps": null})"},
      {"nemotron", R"({"hidden_act": "relu2", "kv_channels": 8, "rms_norm_eps": null, "pretraining_tp": 1})"},
      {"granitemoeshared", R"({"position_embedding_type": "rope", "num_local_experts": 4})"},
      {"cohere", R"({"pretraining_tp": 1, "rms_norm_eps": null, "use_parallel_embedding": false})"},
      {"cohere2", R"({"use_parallel_embedding": false, "rms_norm_eps": null})"},
      {"llama", R"({"pretraining_tp": 2, "torch_dtype": "torch.bfloat16", "rope_scaling": {"type": "yarn", "factor": 4.0, "finetuned": true}})"},
      {"llama", R"({"rope_scaling": {"type": "default", "factor": 1.0}})"},
      {"llama", R"({"_num_labels": 1, "summary_proj_to_labels": true})"},
      {"gpt_neox",
       R"({"num_key_value_heads": 8, "rms_norm_eps": null, "rope_theta": 10000, "rotary_emb_base": 10000, "partial_rotary_factor": 0.25, "rotary_pct": 0.25, "num_steps": "global_step320000"})"},
      {"qwen2", R"({"rope_theta": 1000000, "rotary_emb_base": 1000000, "rms_norm_eps": 1e-5, "seq_length": 65536})"},
      {"opt", R"({"learned_embeddings": true, "scale_embeddings": false})"},
      {"falcon",
       R"({"ffn_hidden_size": 256, "ff_factor": 4, "intermediate_size": null, "rms_norm_eps": null, "num_key_value_heads": null, "hidden_act": null})"}};
  for (const auto& [type, text] : kFiles) EXPECT_EQ(parse_patched(type, text).hidden_size, 64) << type << " " << text;
}

/// One number by two names, of which transformers reads the first.
TEST(Config, TwoNamesOfARopeMustAgree) {
  const auto neox = [](const std::string& fields) {
    return parse_patched("gpt_neox", R"({"num_key_value_heads": 8, "rms_norm_eps": null, "rope_theta": null, )" + fields + "}");
  };
  const ModelConfig both = neox(R"("rotary_pct": 0.5, "partial_rotary_factor": 0.5, "rotary_emb_base": 100, "rope_theta": 100)");
  ASSERT_EQ(both.ropes[0].inverse_frequencies.size(), 2u);
  EXPECT_FLOAT_EQ(both.ropes[0].inverse_frequencies[1], 0.1f);
  for (const char* fields : {R"("rope_theta": 500, "rotary_emb_base": 100)", R"("rope_theta": 500)"})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { neox(fields); }), AllOf(HasSubstr("'rope_theta' is not 100"), HasSubstr("'rotary_emb_base'"))) << fields;
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { neox(R"("partial_rotary_factor": 0.5)"); }),
              AllOf(HasSubstr("'partial_rotary_factor' is not 0.25"), HasSubstr("'rotary_pct'")));
  EXPECT_THAT(error_of(ErrorKind::kUser, [] { parse_patched("qwen2", R"({"rotary_emb_base": 5})"); }), HasSubstr("'rotary_emb_base' is not 10000"));
}

/// Qwen2.5-1M: beyond the length of training positions are others, which flexgen does not have.
TEST(Config, DualChunksEndSequencesAtTheLengthOfTraining) {
  const std::string chunks = R"("dual_chunk_attention_config": {"chunk_size": 128, "local_size": 16, "original_max_position_embeddings": )";
  EXPECT_EQ(parse_patched("qwen2", "{" + chunks + "128}}").max_positions, 128);
  EXPECT_EQ(parse_patched("qwen2", "{" + chunks + "512}}").max_positions, 256);
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_patched("qwen2", "{" + chunks + "128, \"other\": 1}}"); }), HasSubstr("other"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_patched("qwen2", R"({"dual_chunk_attention_config": {}})"); }),
              HasSubstr("original_max_position_embeddings"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_patched("llama", "{" + chunks + "128}}"); }), HasSubstr("dual_chunk_attention_config"));
}

TEST(Config, DefaultsAreThoseOfTransformers) {
  json falcon = config_of("falcon");
  for (const char* name : {"num_attention_heads", "vocab_size", "intermediate_size", "rms_norm_eps", "num_key_value_heads", "hidden_act"}) falcon.erase(name);
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse(falcon); }), HasSubstr("hidden_size"));  // 64 is no multiple of 71
  falcon["hidden_size"] = 71 * 2;
  EXPECT_EQ(parse(falcon).num_heads, 71);
  EXPECT_EQ(parse(falcon).vocab_size, 65024);
  const ModelConfig ministral = parse_patched("ministral3", R"({"rope_theta": null, "head_dim": 8, "max_position_embeddings": 262144})");
  EXPECT_EQ(ministral.max_positions, 16384);  // beyond these queries grow
  EXPECT_FLOAT_EQ(ministral.ropes[0].inverse_frequencies[3], std::pow(1e6f, -0.75f) / 16);
}

/// Devstral 2: queries that do not grow need no limit, and a scale of 0 is none, as in transformers.
TEST(Config, ZerosOfYarnSayNothing) {
  const auto devstral = [](const char* mscales, const char* beta) {
    return parse_patched(
        "ministral3",
        std::string(R"({"rope_theta": null, "head_dim": 8, "max_position_embeddings": 262144, "rope_parameters": {"beta_fast": 4.0, "beta_slow": 1.0,
      "factor": 64.0, "original_max_position_embeddings": 4096, "rope_theta": 1000000.0, "rope_type": "yarn", "type": "yarn", )") +
            mscales + R"(, "llama_4_scaling_beta": )" + beta + "}}");
  };
  for (const char* mscales : {R"("mscale": 1.0, "mscale_all_dim": 0.0)", R"("mscale": 0, "mscale_all_dim": 1.0)", R"("mscale": 0, "mscale_all_dim": 0)"})
    EXPECT_NEAR(devstral(mscales, "0").ropes[0].scale, 1 + 0.1 * std::log(64.0), 1e-6) << mscales;
  const char* const both = R"("mscale": 1.0, "mscale_all_dim": 1.0)";
  EXPECT_FLOAT_EQ(devstral(both, "0").ropes[0].scale, 1);
  EXPECT_EQ(devstral(both, "0").max_positions, 262144);
  EXPECT_EQ(devstral(both, "0.1").max_positions, 4096);
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { devstral(both, "-1"); }), HasSubstr("llama_4_scaling_beta"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { devstral(R"("mscale": -1)", "0"); }), HasSubstr("mscale"));
}

TEST(Config, ASizeMayBeSaidByBothOfItsNames) {
  json bloom = config_of("bloom");
  for (const char* name :
       {"num_hidden_layers", "intermediate_size", "rms_norm_eps", "rope_theta", "num_key_value_heads", "hidden_act", "max_position_embeddings"})
    bloom.erase(name);
  bloom.update({{"n_layer", 2}, {"n_embed", 64}, {"n_head", 8}});
  EXPECT_EQ(parse(bloom).num_heads, 8);
}

TEST(Config, ALimitOfQueriesKeysAndValues) {
  const auto of = [](const char* type, const std::string& limit) {
    json config = config_of(type);
    config.erase("rms_norm_eps");
    if (type == std::string("mpt")) config = {{"model_type", "mpt"}, {"d_model", 64}, {"n_heads", 8}, {"n_layers", 2}, {"max_seq_len", 64}, {"vocab_size", 96}};
    std::string text = config.dump();
    const std::string field = R"("clip_qkv": )" + limit;
    text.insert(1, type == std::string("mpt") ? R"("attn_config": {)" + field + "}, " : field + ", ");  // not as JSON, which has no NaN
    return parse_config(text, "", "dir/config.json");
  };
  for (const char* type : {"olmo", "olmoe", "mpt"}) {
    SCOPED_TRACE(type);
    EXPECT_EQ(of(type, "8.0").qkv_limit, 8.0f);
    EXPECT_EQ(of(type, "6").qkv_limit, 6.0f);
    EXPECT_EQ(of(type, "null").qkv_limit, std::nullopt);
    for (const char* bad : {"-8.0", "NaN", "Infinity", "1e300", "true", R"("8")"})
      EXPECT_THAT(error_of(ErrorKind::kUser, [&] { of(type, bad); }), AllOf(HasSubstr("dir/config.json"), HasSubstr("'clip_qkv' is"), HasSubstr("above 0")))
          << bad;
  }
  EXPECT_EQ(of("mpt", "0").qkv_limit, std::nullopt);
  for (const char* type : {"olmo", "olmoe"}) EXPECT_THAT(error_of(ErrorKind::kUser, [&] { of(type, "0"); }), HasSubstr("above 0")) << type;
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { of("olmo2", "8.0"); }), HasSubstr("'clip_qkv' is a field that flexgen does not know"));
  const ModelConfig first = of("olmo", "8.0");
  EXPECT_EQ(first.norm, NormKind::kLayer);
  EXPECT_FALSE(first.norm_weights || first.norm_bias || first.branch_norms);
  EXPECT_FLOAT_EQ(first.norm_epsilon, 1e-5f);
}

TEST(Config, NormsOfTheFirstOlmoAddWhatTransformersAdds) {
  json config = config_of("olmo");
  config.erase("rms_norm_eps");
  config["layer_norm_eps"] = 0.5;
  EXPECT_EQ(parse(config).norm_epsilon, 1e-5f);
}

TEST(Config, FieldsWithAnotherMeaningAreRefused) {
  for (const char* field : {R"({"rope_interleaved": true})", R"({"embedding_multiplier": 12})", R"({"use_qk_norm": true})", R"({"num_experts": 8})",
                            R"({"residual_multiplier": "1"})"})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_patched("llama", field); }), HasSubstr("flexgen supports only")) << field;
}

TEST(Config, GptOssTakesWhatItsClassTakes) {
  const ModelConfig m = parse_patched("gpt_oss", R"({"rope_theta": 150000, "experts_per_token": 4, "initial_context_length": 4096})");
  EXPECT_EQ(m.head_size, 64);
  EXPECT_TRUE(m.qkv_bias && m.output_bias);
  EXPECT_EQ(m.mixture.num_experts, 128);
  EXPECT_EQ(m.mixture.experts_per_row, 4);
  ASSERT_TRUE(m.mixture.clamped);
  EXPECT_FLOAT_EQ(m.mixture.clamped->alpha, 1.702f);
  EXPECT_FLOAT_EQ(m.mixture.clamped->limit, 7);
  EXPECT_EQ(m.attention[0].window, 128);
  EXPECT_EQ(m.attention[1].window, 0);
  EXPECT_NEAR(m.ropes[0].scale, 1 + 0.1 * std::log(32.0), 1e-6);  // YaRN
  EXPECT_EQ(m.max_positions, 131072);
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_patched("gpt_oss", R"({"hidden_act": "gelu"})"); }), HasSubstr("hidden_act"));
}

TEST(Config, GptOssMayBeInMxfp4) {
  const ModelConfig m =
      parse_patched("gpt_oss", R"({"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}})");
  EXPECT_EQ(m.quantization.method, Quantization::Method::kMxfp4);
  EXPECT_THAT(m.quantization.schemes, ElementsAre(QuantizationScheme{4, true, false, 1, 32}));
}

TEST(Config, NumbersOfAllLayersMustBeAlike) {
  const ModelConfig m = parse_patched(
      "hunyuan_v1_moe", R"({"num_experts": 8, "moe_topk": [2, 2, 2, 2], "num_shared_expert": [1, 1, 1, 1], "moe_intermediate_size": [176, 176, 176, 176]})");
  EXPECT_EQ(m.mixture.experts_per_row, 2);
  EXPECT_EQ(m.mixture.shared_size, 176);
  for (const char* patch : {R"({"num_experts": 8, "moe_topk": [2, 2, 1, 2]})", R"({"num_experts": 8, "moe_topk": [2, 2]})",
                            R"({"num_experts": 8, "moe_topk": [9, 9, 9, 9]})", R"({"num_experts": 8, "moe_topk": []})"})
    EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_patched("hunyuan_v1_moe", patch); }), HasSubstr("moe_topk")) << patch;
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_patched("hunyuan_v1_moe", R"({"num_experts": 8, "moe_intermediate_size": 100})"); }),
              HasSubstr("moe_intermediate_size"));
}

TEST(Config, UnknownFieldsAreIgnoredWhereTheUserSaysSo) {
  auto json = config_of("llama");
  json["my_own_note"] = 3;
  const std::string text = json.dump();
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_config(text, "", "c"); }),
              AllOf(HasSubstr("'my_own_note' is a field that flexgen does not know"), HasSubstr("--ignore-config-field my_own_note")));
  EXPECT_EQ(parse_config(text, "", "c", {"my_own_note"}).hidden_size, json["hidden_size"]);
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_config(text, "", "c", {"my_own_note", "hidden_size"}); }), HasSubstr("that flexgen reads"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_config(text, "", "c", {"my_own_note", "nowhere"}); }), HasSubstr("not in the file"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_config(text, "", "c", {"my_own_note", "label2id.x"}); }), HasSubstr("not in the file"));
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}, {"note", "x"}};
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_config(json.dump(), "", "c", {"my_own_note"}); }), HasSubstr("--ignore-config-field rope_scaling.note"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_config(json.dump(), "", "c", {"my_own_note", "rope_scaling.nowhere"}); }), HasSubstr("not in the file"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { parse_config(json.dump(), "", "c", {"my_own_note", "rope_scaling.factor"}); }), HasSubstr("that flexgen reads"));
  EXPECT_EQ(parse_config(json.dump(), "", "c", {"my_own_note", "rope_scaling.note"}).hidden_size, json["hidden_size"]);
}

TEST(Config, LoadNamesWhatIsNotThere) {
  TestFolder folder;
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { load_config(folder.file("none")); }), HasSubstr("no directory"));
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { load_config(folder.path().string()); }), HasSubstr("config.json"));
  folder.put("config.json", config_of("opt").dump());
  EXPECT_THAT(load_config(folder.path().string()).eos, ElementsAre(2));
  folder.put("generation_config.json", R"({"eos_token_id": 4})");
  EXPECT_THAT(load_config(folder.path().string()).eos, ElementsAre(4));
  std::ostringstream told;
  const auto usual = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("told", std::make_shared<spdlog::sinks::ostream_sink_mt>(told)));
  folder.put("generation_config.json", "");
  EXPECT_THAT(load_config(folder.path().string()).eos, ElementsAre(2));
  spdlog::set_default_logger(usual);
  EXPECT_THAT(told.str(), HasSubstr("generation_config.json: it is empty"));
}

/// Numbers of parameters as the models' authors count them.
TEST(Shapes, HaveTheKnownNumbersOfParameters) {
  const std::pair<const char*, int64_t> kKnown[] = {
      {"opt-125m", 125'239'296},           {"opt-350m", 331'196'416},         {"opt-1.3b", 1'315'758'080},     {"opt-2.7b", 2'651'596'800},
      {"opt-6.7b", 6'658'473'984},         {"opt-13b", 12'853'473'280},       {"opt-30b", 29'974'540'288},     {"llama-2-7b", 6'738'415'616},
      {"llama-2-13b", 13'015'864'320},     {"llama-2-70b", 68'976'648'192},   {"llama-3.1-8b", 8'030'261'248}, {"llama-3.1-70b", 70'553'706'496},
      {"llama-3.1-405b", 405'853'388'800}, {"llama-3.2-1b", 1'235'814'400},   {"llama-3.2-3b", 3'212'749'824}, {"mistral-7b", 7'248'023'552},
      {"qwen2.5-0.5b", 494'032'768},       {"qwen2.5-1.5b", 1'543'714'304},   {"qwen2.5-3b", 3'085'938'688},   {"qwen2.5-7b", 7'615'616'512},
      {"qwen2.5-14b", 14'770'033'664},     {"qwen2.5-32b", 32'763'876'352},   {"qwen2.5-72b", 72'706'203'648}, {"qwen3-0.6b", 596'049'920},
      {"qwen3-8b", 8'190'735'360},         {"qwen3-14b", 14'768'307'200},     {"qwen3-32b", 32'762'123'264},   {"smollm2-135m", 134'515'008},
      {"gemma-2-2b", 2'614'341'888},       {"gemma-2-9b", 9'241'705'984},     {"gemma-3-27b", 27'009'346'304}, {"phi-4", 14'659'507'200},
      {"mixtral-8x7b", 46'702'792'704},    {"qwen3-30b-a3b", 30'532'122'624}, {"gpt-oss-20b", 20'914'757'184}, {"gpt-oss-120b", 116'829'156'672},
      {"glm-4.5-air", 106'852'251'264},    {"minimax-m2", 228'689'764'864}};
  for (auto [shape, parameters] : kKnown) {
    const std::optional<std::string> text = shape_config_json(shape);
    ASSERT_TRUE(text) << shape;
    int64_t count = 0;
    for (const TensorToWrite& tensor : Model::expected_tensors(parse_config(*text, "", shape), DType::kBF16)) {
      int64_t elements = tensor.name.ends_with("_scales") ? 0 : tensor.name.ends_with("_blocks") ? 2 : 1;  // two codes a byte
      for (int64_t size : tensor.shape) elements *= size;
      count += elements;
    }
    EXPECT_EQ(count, parameters) << shape;
  }
}

double elements_of(const std::vector<TensorToWrite>& tensors) {
  double count = 0;
  for (const TensorToWrite& tensor : tensors) {
    double elements = 1;
    for (int64_t size : tensor.shape) elements *= static_cast<double>(size);
    count += elements;
  }
  return count;
}

/// Google counts 25.2 billion, and 30 layers of which every sixth sees everything.
TEST(Shapes, Gemma4) {
  const ModelConfig config = parse_config(*shape_config_json("gemma-4-26b-a4b"), "", "shape");
  EXPECT_NEAR(elements_of(Model::expected_tensors(config, DType::kBF16)), 25.2e9, 0.05e9);
  EXPECT_EQ(config.heads_of(28), (HeadSizes{16, 8, 256}));
  EXPECT_EQ(config.heads_of(29), (HeadSizes{16, 2, 512}));
  EXPECT_EQ(config.attention[28].window, 1024);
}

/// Google's file is said to have 677 tensors, 11 of them for images and sounds; it was not at hand.
TEST(Shapes, Gemma4Unified) {
  const ModelConfig config = parse_config(*shape_config_json("gemma-4-12b"), "", "shape");
  const std::vector<TensorToWrite> tensors = Model::expected_tensors(config, DType::kBF16);
  EXPECT_EQ(tensors.size(), 666u);
  EXPECT_NEAR(elements_of(tensors), 11.9e9, 0.05e9);
  EXPECT_EQ(config.heads_of(46), (HeadSizes{16, 8, 256}));
  EXPECT_EQ(config.heads_of(47), (HeadSizes{16, 1, 512}));
  EXPECT_EQ(config.attention[46].window, 1024);
}

TEST(Shapes, AllParse) {
  EXPECT_GE(known_shapes().size(), 25u);
  for (const std::string& shape : known_shapes()) {
    const ModelConfig config = parse_config(*shape_config_json(shape), "", shape);
    EXPECT_GT(config.num_layers, 0) << shape;
    EXPECT_TRUE(config.bos) << shape;
  }
  EXPECT_FALSE(shape_config_json("llama-9-1b"));
}

}  // namespace
}  // namespace flexgen::config_test
