#pragma once
// Checkpoints made of the fixtures of quantized ones (tests/fixtures/models/quantized-*): the same numbers, laid out in other ways, so that answers are the same
// to the bit. One thread.

#include <filesystem>
#include <fstream>
#include <random>

#include "model/test_safetensors.h"
#include "tensor/dtype.h"

namespace flexgen {

inline std::string quantized_fixture(const std::string& name) { return std::string(FLEXGEN_SOURCE_DIR) + "/tests/fixtures/models/quantized-" + name; }

/// Codes [rows, cols] in words, along the rows (GPTQ's codes) or the columns (its zero points), the lowest bits first.
struct WordCodes {
  int64_t rows = 0, cols = 0;
  std::vector<uint32_t> codes;

  static WordCodes of(const RawTensor& words, int bits, bool along_rows) {
    const int64_t each = 32 / bits;
    WordCodes out{words.shape[0] * (along_rows ? each : 1), words.shape[1] * (along_rows ? 1 : each), {}};
    for (int64_t row = 0; row < out.rows; ++row)
      for (int64_t col = 0; col < out.cols; ++col) {
        uint32_t word = 0;
        const int64_t at = along_rows ? row / each * out.cols + col : row * words.shape[1] + col / each;
        std::memcpy(&word, words.bytes.data() + 4 * at, 4);
        out.codes.push_back(word >> (static_cast<int64_t>(bits) * ((along_rows ? row : col) % each)) & ((1u << bits) - 1));
      }
    return out;
  }
  RawTensor words(int bits, bool along_rows) const {
    const int64_t each = 32 / bits;
    RawTensor out{"I32", {rows / (along_rows ? each : 1), cols / (along_rows ? 1 : each)}, ""};
    std::vector<uint32_t> words(static_cast<size_t>(out.shape[0] * out.shape[1]));
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t col = 0; col < cols; ++col)
        words[static_cast<size_t>(along_rows ? row / each * cols + col : row * out.shape[1] + col / each)] |=
            codes[static_cast<size_t>(row * cols + col)] << (static_cast<int64_t>(bits) * ((along_rows ? row : col) % each));
    out.bytes.assign(reinterpret_cast<const char*>(words.data()), 4 * words.size());
    return out;
  }
};

/// Each row twice.
inline RawTensor doubled_rows(const RawTensor& tensor) {
  RawTensor out{tensor.dtype, tensor.shape, ""};
  const size_t bytes = tensor.bytes.size() / static_cast<size_t>(tensor.shape[0]);
  for (size_t row = 0; row < static_cast<size_t>(tensor.shape[0]); ++row)
    for (int i = 0; i < 2; ++i) out.bytes += tensor.bytes.substr(row * bytes, bytes);
  out.shape[0] *= 2;
  return out;
}

/// A matrix of GPTQ's first form with 4 bits as floats [out, in].
inline RawTensor plain_of_gptq(const RawTensors& tensors, const std::string& stem) {
  const WordCodes codes = WordCodes::of(tensors.at(stem + ".qweight"), 4, true), zeros = WordCodes::of(tensors.at(stem + ".qzeros"), 4, false);
  const RawTensor& scales = tensors.at(stem + ".scales");
  RawTensor out{"F32", {codes.cols, codes.rows}, ""};
  for (int64_t row = 0; row < codes.cols; ++row)
    for (int64_t col = 0; col < codes.rows; ++col) {
      const int64_t at = col / (codes.rows / zeros.rows) * codes.cols + row;
      const auto code = static_cast<float>(codes.codes[static_cast<size_t>(col * codes.cols + row)]),
                 zero = static_cast<float>(zeros.codes[static_cast<size_t>(at)] + 1);
      const float value = (code - zero) * load_float(scales.bytes.data(), DType::kF16, at);
      out.bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
  return out;
}

/// GPTQ's first form with 4 bits, of random codes.
inline void put_random_gptq(RawTensors& tensors, const std::string& stem, int64_t rows, int64_t cols, int64_t group) {
  std::mt19937 random(11);
  WordCodes codes{cols, rows, {}}, zeros{cols / group, rows, {}};
  RawTensor scales{"F16", {cols / group, rows}, ""};
  for (int64_t i = 0; i < rows * cols; ++i) codes.codes.push_back(random() % 16);
  for (int64_t i = 0; i < rows * cols / group; ++i) {
    zeros.codes.push_back(random() % 15);
    const uint16_t scale = f16_from_float(0.01f + 0.0001f * static_cast<float>(random() % 100));
    scales.bytes.append(reinterpret_cast<const char*>(&scale), sizeof scale);
  }
  tensors[stem + ".qweight"] = codes.words(4, true);
  tensors[stem + ".qzeros"] = zeros.words(4, false);
  tensors[stem + ".scales"] = scales;
}

inline void drop_parts(RawTensors& tensors, const std::string& stem) {
  for (const char* part : {".qweight", ".qzeros", ".scales"}) tensors.erase(stem + part);
}

inline std::string put_checkpoint(const std::string& name, const RawTensors& tensors, const nlohmann::json& config) {
  const std::filesystem::path folder = std::filesystem::path(process_folder()) / name;
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "model.safetensors", std::ios::binary) << as_safetensors(tensors);
  std::ofstream(folder / "config.json") << config.dump();
  return folder.string();
}

/// The fixture "autoround", of whose matrices some have 8 bits, groups of half the size, both, or are plain; as AutoRound says it, or GPTQModel.
inline std::string mixed_bits_checkpoint(bool by_gptq_model) {
  RawTensors tensors = read_raw_tensors(quantized_fixture("autoround") + "/model.safetensors");
  std::erase_if(tensors, [](const auto& tensor) { return tensor.first.ends_with(".g_idx"); });
  const std::string first = "model.layers.0.", second = "model.layers.1.";
  for (const std::string& stem : {first + "self_attn.q_proj", second + "self_attn.o_proj", second + "mlp.gate_proj"}) {
    tensors[stem + ".qweight"] = WordCodes::of(tensors.at(stem + ".qweight"), 4, true).words(8, true);
    tensors[stem + ".qzeros"] = WordCodes::of(tensors.at(stem + ".qzeros"), 4, false).words(8, false);
  }
  for (const std::string& stem : {first + "self_attn.k_proj", second + "mlp.gate_proj"})
    for (const char* part : {".scales", ".qzeros"}) tensors[stem + part] = doubled_rows(tensors.at(stem + part));
  const std::string plain = first + "mlp.down_proj";
  tensors[plain + ".weight"] = plain_of_gptq(tensors, plain);
  drop_parts(tensors, plain);
  nlohmann::json config = nlohmann::json::parse(read_whole(quantized_fixture("autoround") + "/config.json"));
  if (by_gptq_model)
    config["quantization_config"] =
        nlohmann::json::parse(R"({"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": 32, "desc_act": false,
        "dynamic": {"+:.*layers\\.0\\.self_attn\\.q_proj": {"bits": 8}, ".*\\.0\\..*k_proj": {"group_size": 16}, "-:.*\\.0\\..*down_proj": {},
                    "+:.*\\.1\\..*o_proj": {"bits": 8, "sym": true}, "+:.*\\.1\\..*gate_proj": {"bits": 8, "group_size": 16, "mse": 0.0}}})");
  else
    config["quantization_config"]["extra_config"] = nlohmann::json::parse(R"({".*layers.0.self_attn.q_proj": {"bits": 8},
        "model.layers.0.self_attn.k_proj": {"group_size": 16}, "model.layers.0.mlp.down_proj": {"bits": 16, "data_type": "float"},
        "model.layers.1.self_attn.o_proj": {"bits": 8, "group_size": 32, "data_type": "int", "act_bits": 16},
        "model.layers.1.mlp.gate_proj": {"bits": 8, "group_size": 16, "sym": true}, "lm_head": {"bits": 16}})");
  return put_checkpoint(by_gptq_model ? "mixed-gptq" : "mixed-autoround", tensors, config);
}

/// One after the other along the second dimension.
inline RawTensor joined_columns(const std::vector<RawTensor>& parts) {
  RawTensor whole{parts.front().dtype, parts.front().shape, ""};
  whole.shape[1] = 0;
  for (const RawTensor& part : parts) whole.shape[1] += part.shape[1];
  for (size_t row = 0; row < static_cast<size_t>(whole.shape[0]); ++row)
    for (const RawTensor& part : parts) {
      const size_t bytes = part.bytes.size() / static_cast<size_t>(whole.shape[0]);
      whole.bytes += part.bytes.substr(row * bytes, bytes);
    }
  return whole;
}

/// A fixture whose matrices have no order of columns, as a Phi-3: q, k and v in one, gate and up in one.
inline std::string fused_checkpoint(const std::string& fixture) {
  RawTensors tensors = read_raw_tensors(quantized_fixture(fixture) + "/model.safetensors");
  std::erase_if(tensors, [](const auto& tensor) { return tensor.first.ends_with(".weight_shape"); });
  for (const std::string layer : {"model.layers.0.", "model.layers.1."})
    for (const auto& [names, whole] : {std::pair(std::vector<std::string>{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, "self_attn.qkv_proj"),
                                       {{"mlp.gate_proj", "mlp.up_proj"}, "mlp.gate_up_proj"}})
      for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx", ".weight", ".weight_packed", ".weight_scale", ".weight_zero_point"}) {
        if (!tensors.contains(layer + names.front() + part)) continue;
        std::vector<RawTensor> parts;
        for (const std::string& name : names) parts.push_back(take(tensors, layer + name + part));
        const std::string_view is(part);
        tensors[layer + whole + part] = is == ".g_idx" ? parts.front() : is.starts_with(".weight") ? joined(parts) : joined_columns(parts);
      }
  nlohmann::json config = nlohmann::json::parse(read_whole(quantized_fixture(fixture) + "/config.json"));
  config.update({{"model_type", "phi3"}, {"architectures", {"Phi3ForCausalLM"}}, {"original_max_position_embeddings", 256}});
  return put_checkpoint("fused-" + fixture, tensors, config);
}

/// The folder of a quantized checkpoint by the name of its fixture, or "mixed-gptq", "mixed-autoround", "fused-FIXTURE".
inline std::string quantized_checkpoint(const std::string& name) {
  constexpr std::string_view kFused = "fused-";
  if (name.starts_with("mixed-")) return mixed_bits_checkpoint(name == "mixed-gptq");
  return name.starts_with(kFused) ? fused_checkpoint(name.substr(kFused.size())) : quantized_fixture(name);
}

}  // namespace flexgen
