// Quantized matrices of checkpoints in safetensors: which tensors make one up, and what is said of broken ones. That they compute as transformers does is in
// golden_test.cc.

#include "model/code_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "io/test_folder.h"
#include "model/model.h"
#include "model/test_code_checkpoints.h"

namespace flexgen::code_tensors_test {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

/// The header of a safetensors file, and its data.
std::pair<json, std::string> parts_of(const std::string& path) {
  const std::string file = read_whole(path);
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  return {json::parse(file.substr(8, length)), file.substr(8 + length)};
}

/// A copy of a fixture with another header and config.json.
void put_changed(const TestFolder& folder, const std::string& name, const std::function<void(json&, json&)>& change) {
  const std::string from = quantized_checkpoint(name);
  auto [header, data] = parts_of(from + "/model.safetensors");
  json config = json::parse(read_whole(from + "/config.json"));
  change(header, config);
  const std::string text = header.dump();
  const uint64_t length = text.size();
  folder.put("model.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) + text + data);
  folder.put("config.json", config.dump());
}

constexpr const char* kMatrix = "model.layers.1.self_attn.q_proj.";

struct Broken {
  const char* what;
  const char* fixture;
  std::function<void(json&, json&)> change;
  std::vector<std::string> says;
};

void rename(json& header, const std::string& part, const std::string& to) {
  header[kMatrix + to] = header.at(kMatrix + part);
  header.erase(kMatrix + part);
}
std::function<void(json&, json&)> without(const char* part) {
  return [=](json& header, json&) { rename(header, part, "elsewhere"); };
}
std::function<void(json&, json&)> reshaped(const char* part, std::vector<int64_t> shape) {
  return [=](json& header, json&) { header.at(kMatrix + std::string(part)).at("shape") = shape; };
}
std::function<void(json&, json&)> typed(const char* part, const char* dtype) {
  return [=](json& header, json&) { header.at(kMatrix + std::string(part)).at("dtype") = dtype; };
}
std::function<void(json&, json&)> configured(const char* patch) {
  return [=](json&, json& config) { config.merge_patch(json::parse(patch)); };
}
std::function<void(json&, json&)> both(std::function<void(json&, json&)> one, std::function<void(json&, json&)> other) {
  return [=](json& header, json& config) {
    one(header, config);
    other(header, config);
  };
}

TEST(CodeTensors, BrokenOnesGetOneClearError) {
  const std::vector<Broken> all{
      {"no scale", "fp8", without("weight_scale_inv"), {"weight_scale' is missing"}},
      {"a scale of another shape", "fp8", reshaped("weight_scale_inv", {1, 2}), {"weight_scale_inv", "[1, 2]", "asks for [2, 1]"}},
      {"codes of another shape", "fp8", reshaped("weight", {32, 128}), {"q_proj.weight'", "[32, 128]", "need [64, 64]"}},
      {"codes of experts in one stack", "fp8", reshaped("weight", {1, 64, 64}), {"q_proj.weight'", "3 dimensions: quantized experts in one stack"}},
      {"codes of one dimension", "fp8", reshaped("weight", {4096}), {"q_proj.weight'", "1 dimensions", "the file is broken"}},
      {"other blocks", "fp8", configured(R"({"quantization_config": {"weight_block_size": [64, 64]}})"), {"weight_scale_inv", "asks for [1, 1]"}},
      {"blocks that nobody names",
       "fp8",
       both(configured(R"({"quantization_config": {"weight_block_size": null}})"), reshaped("weight_scale_inv", {1, 2})),
       {"weight_scale_inv", "asks for [1, 1] with"}},
      {"scales of integers", "fp8", typed("weight_scale_inv", "I32"), {"weight_scale_inv", "I32"}},
      {"codes that are no e4m3", "fp8", typed("weight", "F8_E5M2"), {"q_proj.weight' is missing (or has a dtype"}},
      {"nothing said of codes", "fp8", configured(R"({"quantization_config": null})"), {"F8_E4M3", "no quantization_config"}},
      {"another method",
       "fp8",
       configured(R"({"quantization_config": {"quant_method": "awq", "bits": 4, "fmt": null, "activation_scheme": null, "weight_block_size": null}})"),
       {"'awq'"}},
      {"another layout", "gptq", configured(R"({"quantization_config": {"quant_method": "awq"}})"), {"qweight", "[8, 64]", "need [64, 8]"}},
      {"no scales", "packed4", without("weight_scale"), {"weight_scale' is missing"}},
      {"other groups",
       "packed4",
       configured(R"({"quantization_config": {"config_groups": {"group_0": {"weights": {"group_size": 64}}}}})"),
       {"weight_scale'", "asks for [64, 1]"}},
      {"other bits",
       "packed4",
       configured(R"({"quantization_config": {"config_groups": {"group_0": {"weights": {"num_bits": 8}}}}})"),
       {"of 4 bits", "says nothing"}},
      {"words of another shape", "packed4", reshaped("weight_packed", {32, 16}), {"weight_packed", "[32, 16]"}},
      {"no zero points", "packed4-zeros", without("weight_zero_point"), {"weight_zero_point' is missing"}},
      {"zero points that should not be",
       "packed4-zeros",
       configured(R"({"quantization_config": {"config_groups": {"group_0": {"weights": {"symmetric": true}}}}})"),
       {"weight_zero_point", "symmetric"}},
      {"zero points of another shape", "packed4-zeros", reshaped("weight_zero_point", {2, 8}), {"weight_zero_point", "need [8, 2]"}},
      {"an order of another length", "packed4-zeros", reshaped("weight_g_idx", {8, 8}), {"weight_g_idx", "need [64]"}},
      {"no factor", "nvfp4", without("weight_global_scale"), {"weight_global_scale' is missing"}},
      {"no zero points of GPTQ's", "gptq", without("qzeros"), {"qzeros' is missing"}},
      {"scales of GPTQ's of another shape", "gptq", reshaped("scales", {64, 2}), {"scales'", "need [2, 64]"}},
      {"bits of GPTQ's", "gptq", configured(R"({"quantization_config": {"bits": 8}})"), {"qweight", "need [16, 64]"}},
      {"zero points of AWQ's of another type", "awq", typed("qzeros", "F32"), {"qzeros", "where I32 is wanted"}},
      {"bits that no rule gives",
       "mixed-gptq",
       configured(R"({"quantization_config": {"dynamic": null}})"),
       {"layers.0.self_attn.q_proj.qweight'", "[16, 64]", "need [8, 64]"}},
      {"groups that no rule gives",
       "mixed-autoround",
       configured(
           R"({"quantization_config": {"extra_config": {"model.layers.0.self_attn.k_proj": null, "model.layers.1.mlp.gate_proj": {"group_size": 32}}}})"),
       {"layers.0.self_attn.k_proj.scales'", "[4, 32]", "need [2, 32]"}},
      {"groups of two sizes",
       "mixed-autoround",
       configured(R"({"quantization_config": {"extra_config": {"lm_head": {"bits": 4, "group_size": 33}}}})"),
       {"self_attn.v_proj.qweight'", "of 32 or 33 columns"}},
      {"bits that are not read",
       "gptq",
       both(configured(R"({"quantization_config": {"dynamic": {".*1.self_attn.q_proj": {"bits": 2}}}})"), reshaped("qweight", {4, 128})),
       {"q_proj.qweight'", "2 bits", "reads 4 and 8"}},
      {"bits that AWQ does not have",
       "awq",
       both(configured(R"({"quantization_config": {"dynamic": {".*1.self_attn.q_proj": {"bits": 8}}}})"), reshaped("qweight", {32, 16})),
       {"q_proj.qweight'", "8 bits", "reads 4"}},
      {"a fused matrix that cannot be cut",
       "fused-awq",
       configured(R"({"num_attention_heads": 62, "num_key_value_heads": 1, "head_dim": 2})"),
       {"qkv_proj.qweight'", "has 124", "multiples of 8"}},
  };
  for (const Broken& broken : all) {
    SCOPED_TRACE(broken.what);
    TestFolder folder;
    put_changed(folder, broken.fixture, broken.change);
    const std::string message = error_of(ErrorKind::kUser, [&] { Model::load(folder.path().string()); });
    EXPECT_THAT(message, HasSubstr(folder.path().string()));
    for (const std::string& part : broken.says) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(CodeTensors, WhatIsReadIn16BitsAloneIsRefused) {
  TestFolder folder;
  put_changed(folder, "fp8", [](json& header, json&) {
    header.at("model.embed_tokens.weight") = {
        {"dtype", "F8_E4M3"}, {"shape", {208, 128}}, {"data_offsets", header.at("model.embed_tokens.weight").at("data_offsets")}};
  });
  EXPECT_THAT(error_of(ErrorKind::kUser, [&] { Model::load(folder.path().string()); }),
              AllOf(HasSubstr("embed_tokens.weight"), HasSubstr("embeddings, norms")));
}

/// All of a file but what is of no use here belongs to one weight or another.
TEST(CodeTensors, EveryTensorIsRead) {
  for (const char* name : {"fp8", "fp8-experts", "fp8-modelopt", "fp8-channel", "int8-channel", "packed4", "packed4-zeros", "packed4-experts", "packed8",
                           "nvfp4", "mxfp4", "gptq", "gptq8-v2", "awq", "autoround", "gpt_oss", "mixed-gptq", "fused-autoround", "fused-awq"}) {
    SCOPED_TRACE(name);
    const std::unique_ptr<Model> model = Model::load(quantized_checkpoint(name));
    int64_t read = 0, stored = 0;
    for (const WeightSpec& weight : model->weights()) read += weight.stored_bytes();
    const json header = parts_of(quantized_checkpoint(name) + "/model.safetensors").first;
    for (const auto& [tensor, entry] : header.items())
      if (tensor != "__metadata__" && !tensor.ends_with("weight_shape") && !tensor.ends_with("input_scale"))
        stored += entry.at("data_offsets").at(1).get<int64_t>() - entry.at("data_offsets").at(0).get<int64_t>();
    EXPECT_EQ(read, stored);
  }
}

TEST(CodeTensors, RowsHaveTheirPartOfEachTensor) {
  const std::unique_ptr<Model> model = Model::load(quantized_checkpoint("packed4-zeros"));
  const auto weight =
      std::find_if(model->weights().begin(), model->weights().end(), [](const WeightSpec& each) { return each.name == std::string(kMatrix) + "weight"; });
  ASSERT_NE(weight, model->weights().end());
  EXPECT_EQ(weight->dtype, DType::kPacked4);
  EXPECT_EQ(weight->codes->grain_rows, 8);
  const auto& beside = weight->codes->beside;
  const auto at = [&](CodePart part, int64_t first, int64_t count) {
    return std::pair(beside[part].range(first, count).first - beside[part].offset, beside[part].range(first, count).second);
  };
  EXPECT_EQ(at(kScales, 16, 24), std::pair(int64_t{16 * 4}, int64_t{24 * 4}));  // two groups in bf16
  EXPECT_EQ(at(kZeros, 16, 24), std::pair(int64_t{2 * 8}, int64_t{3 * 8}));     // eight rows in a word
  EXPECT_EQ(at(kOrder, 16, 24), std::pair(int64_t{0}, int64_t{64 * 4}));
  EXPECT_EQ(at(kOrder, 16, 0).second, 0);
  EXPECT_EQ(beside[kGlobal].rows, 0);
}

}  // namespace
}  // namespace flexgen::code_tensors_test
