#include "model/gguf_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "io/checked_json.h"
#include "io/gguf.h"
#include "model/config_fields.h"
#include "model/gguf_families.h"
#include "model/gguf_fields.h"
#include "model/gguf_mixture.h"
#include "model/gguf_names.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr const char *kRopeFactors = "rope_freqs.weight", *kShortFactors = "rope_factors_short.weight", *kLongFactors = "rope_factors_long.weight";

/// What an answer ends with: the tokens that the file names, and those that end a turn by what they are called, as in llama.cpp.
Json end_tokens(const Json& metadata, int64_t vocab_size, const std::string& source) {
  std::set<int64_t> ids;
  for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    const int64_t id = gguf_token_or_none(metadata, name, vocab_size, source);
    if (id >= 0) ids.insert(id);
    else if (const Json* field = gguf_field(metadata, std::string("tokenizer.ggml.") + name))
      spdlog::warn("{}: the field 'tokenizer.ggml.{}' is {}, and the vocabulary has {} tokens: no answer ends by it", source, name, field->dump(), vocab_size);
  }
  std::map<std::string, int64_t> known;
  if (const Json* tokens = gguf_field(metadata, "tokenizer.ggml.tokens"); tokens && tokens->is_array())
    for (size_t id = 0; id < tokens->size(); ++id)
      for (const char* name :
           {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<end_of_turn>", "<turn|>", "<|tool_response>",
            "<end_of_utterance>", "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]"})
        if ((*tokens)[id] == name) known[name] = static_cast<int64_t>(id);
  for (const auto& [name, id] : known) ids.insert(id);
  // In gpt-oss's answers it ends a message, after which others come: the last ends with another.
  const bool has_messages = (known.contains("<|return|>") && known.contains("<|call|>")) || (known.contains("<|calls|>") && known.contains("<|flush|>"));
  if (has_messages && known.contains("<|end|>")) ids.erase(known["<|end|>"]);
  return ids;
}

Json rope_scaling_of(GgufFields& fields) {
  const Json* type = fields.find("rope.scaling.type");
  const Json *factor = fields.find("rope.scaling.factor"), *original = fields.find("rope.scaling.original_context_length");
  if (!factor) factor = fields.find("rope.scale_linear");
  fields.harmless({"rope.scaling.finetuned", "rope.scale_linear"});
  fields.only("rope.scaling.yarn_ext_factor", 1.0);
  Json betas = Json::object();  // of yarn alone
  fields.copy("rope.scaling.yarn_beta_fast", betas, "beta_fast");
  fields.copy("rope.scaling.yarn_beta_slow", betas, "beta_slow");
  const Json kind = type ? *type : Json("linear");  // as llama.cpp reads files from before there were types
  const bool scales = kind != "none" && factor && *factor != 1 && *factor != 0;
  constexpr const char* kOfScores[] = {"rope.scaling.yarn_attn_factor", "rope.scaling.attn_factor"};
  if (!scales || kind != "yarn")
    for (const char* name : kOfScores) fields.only(name, 1.0);
  if (!scales) return nullptr;
  if (factor->is_array()) fields.refuse("rope.scaling.factor", "differs from layer to layer, which flexgen does not do");
  Json scaling{{"rope_type", kind}, {"factor", *factor}};
  if (kind == "yarn") {
    scaling.update(betas);
    for (const char* name : kOfScores) {  // 1 says nothing
      const Json* own = fields.find(name);
      if (!own || *own == 1.0) continue;
      if (scaling.value("attention_factor", *own) != *own) fields.refuse(name, fmt::format("is {}, but {} is another", GgufFields::shown(*own), kOfScores[0]));
      fields.copy(name, scaling, "attention_factor");
    }
  }
  if (kind == "yarn" && original) scaling["original_max_position_embeddings"] = *original;
  else if (kind == "yarn") fields.refuse("rope.scaling.original_context_length", "is missing, which yarn needs; convert the model anew with llama.cpp");
  else if (kind != "linear") fields.refuse("rope.scaling.type", fmt::format("is {}; flexgen does none, linear and yarn", GgufFields::shown(kind)));
  return scaling;
}

/// A tensor of what angles are divided by: one for each rotary pair.
std::vector<float> read_factors(const Checkpoint& checkpoint, const char* name, size_t count, const std::string& source) {
  const TensorLocation* at = checkpoint.find(name);
  if (at == nullptr) fail_user("{}: the tensor '{}' is missing; the file is broken, fetch it again", source, name);
  if (at->dtype != DType::kF32 || at->shape != std::vector<int64_t>{static_cast<int64_t>(count)})
    fail_user("{}: the tensor '{}' is not [{}] in F32; the file is broken, fetch it again", source, name, count);
  std::vector<float> factors(count);
  File::open(checkpoint.files()[static_cast<size_t>(at->file)], FileMode::kRead)->read(at->offset, std::as_writable_bytes(std::span(factors)));
  for (float factor : factors)
    if (!(factor > 0)) fail_user("{}: the tensor '{}' has the divisor {}; the file is broken, fetch it again", source, name, factor);
  return factors;
}

/// LongRoPE's factors are tensors. The scale of cosine and sine is a field; without one it is 1, as in llama.cpp.
Json longrope_of(GgufFields& fields, const Checkpoint& checkpoint, size_t num_pairs) {
  for (const char* name : {"rope.scaling.factor", "rope.scale_linear"}) fields.only(name, 1.0);
  fields.only("rope.scaling.type", "longrope");
  fields.harmless({"rope.scaling.finetuned"});
  Json scaling{{"rope_type", "longrope"}, {"attention_factor", 1.0}};
  fields.copy("rope.scaling.attn_factor", scaling, "attention_factor");
  scaling["short_factor"] = read_factors(checkpoint, kShortFactors, num_pairs, fields.source());
  scaling["long_factor"] = read_factors(checkpoint, kLongFactors, num_pairs, fields.source());
  return scaling;
}

/// A block that predicts a further token is none that the stream goes through.
void refuse_further_predictors(const GgufFields& fields, const Checkpoint& checkpoint, int64_t num_blocks) {
  constexpr std::string_view kBlock = "blk.";
  for (const auto& [name, at] : checkpoint.tensors()) {
    const size_t dot = name.find(".nextn.");
    int64_t block = num_blocks;
    if (dot != std::string::npos && name.starts_with(kBlock)) std::from_chars(name.data() + kBlock.size(), name.data() + dot, block);
    if (block < num_blocks)
      fields.refuse(
          "nextn_predict_layers",
          fmt::format("does not count the block {}, which has the tensor '{}': it predicts a further token, and is no layer of the model; convert the "
                      "model anew with llama.cpp",
                      block, printable(name)));
  }
}

/// The config.json that Hugging Face's checkpoint of the model has.
Json config_of_gguf(const Json& metadata, const GgufFamily& family, GgufFields& fields, const Checkpoint& checkpoint) {
  const auto has = [&](const char* name) { return checkpoint.find(name) != nullptr; };
  const TensorLocation* embedding = checkpoint.find("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2)
    fail_user("{}: the tensor 'token_embd.weight' is missing, or no matrix; the file is no language model, or broken", fields.source());
  Json config{
      {"model_type", family.model_type}, {"vocab_size", embedding->shape[0]}, {"tie_word_embeddings", !has("output.weight")}, {"torch_dtype", "bfloat16"}};
  const auto needed = [&](const char* name, const char* as) {
    const std::optional<int64_t> value = fields.integer(name);
    if (!value || *value == 0) fields.refuse(name, "is missing, or 0; convert the model anew with llama.cpp");
    config[as] = *value;
    return *value;
  };
  const int64_t hidden = needed("embedding_length", "hidden_size");
  const int64_t blocks = needed("block_count", "num_hidden_layers");
  // Layers that predict further tokens come after the others and are left out.
  if (const int64_t further = fields.integer("nextn_predict_layers").value_or(0); further > 0) {
    if (further >= blocks) fields.refuse("nextn_predict_layers", fmt::format("is {} of {} blocks; the file is broken, fetch it again", further, blocks));
    config["num_hidden_layers"] = blocks - further;
  }
  refuse_further_predictors(fields, checkpoint, config["num_hidden_layers"].get<int64_t>());
  needed("feed_forward_length", "intermediate_size");
  needed("context_length", "max_position_embeddings");
  const int64_t heads = needed("attention.head_count", "num_attention_heads");
  config["num_key_value_heads"] = fields.integer("attention.head_count_kv").value_or(heads);
  const char* const epsilon = family.layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
  if (fields.find(epsilon) == nullptr) fields.refuse(epsilon, "is missing; convert the model anew with llama.cpp");
  fields.copy(epsilon, config, family.layer_norm ? "layer_norm_eps" : "rms_norm_eps");
  config["rope_theta"] = 10000.0;
  fields.copy("rope.freq_base", config, "rope_theta");
  fields.harmless({"vocab_size", "tensor_data_layout"});
  read_gguf_mixture(fields, family.model_type, checkpoint, config);
  fields.only("attention.causal", true);

  const std::optional<int64_t> key = fields.integer("attention.key_length"), value = fields.integer("attention.value_length"),
                               turned = fields.integer("rope.dimension_count");
  if (key.value_or(0) != value.value_or(key.value_or(0))) fields.refuse("attention.value_length", "is not that of keys, which flexgen does not do");
  const int64_t head = key.value_or(hidden / heads);
  if (key || family.says_head) config["head_dim"] = head;
  if (turned && *turned != head) {
    if (family.partial == nullptr)
      fields.refuse("rope.dimension_count", fmt::format("is {} of the {} elements of a head; this family turns all", *turned, head));
    if (family.partial == std::string_view("rotary_dim")) config["rotary_dim"] = *turned;
    else config[family.partial] = static_cast<double>(*turned) / static_cast<double>(head);
  }
  if (has(kShortFactors) || has(kLongFactors)) {
    config["rope_scaling"] = longrope_of(fields, checkpoint, static_cast<size_t>(turned.value_or(head)) / 2);
    config["original_max_position_embeddings"] = config["max_position_embeddings"];
    fields.copy("rope.scaling.original_context_length", config, "original_max_position_embeddings");
  } else if (const Json scaling = rope_scaling_of(fields); !scaling.is_null()) {
    config["rope_scaling"] = scaling;
  }
  if (family.has_windows) fields.copy("attention.sliding_window", config, "sliding_window");
  if (config.contains("sliding_window") && config["sliding_window"] == 0) config["sliding_window"] = nullptr;  // none, as Phi-4 says it
  read_own_gguf_fields(fields, family.model_type, checkpoint, config);
  const int64_t vocab_size = embedding->shape[0];
  if (const int64_t bos = gguf_token_or_none(metadata, "bos_token_id", vocab_size, fields.source()); bos >= 0) config["bos_token_id"] = bos;
  config["eos_token_id"] = end_tokens(metadata, vocab_size, fields.source());
  return config;
}

/// Llama 3's scaling of its angles is a tensor of divisors.
void apply_rope_factors(const Checkpoint& checkpoint, const std::string& source, ModelConfig& config) {
  const std::vector<float> factors = read_factors(checkpoint, kRopeFactors, config.ropes.front().inverse_frequencies.size(), source);
  for (Rope& rope : config.ropes)
    for (size_t i = 0; i < factors.size(); ++i) rope.inverse_frequencies[i] /= factors[i];
}

}  // namespace

GgufModel load_gguf_model(const std::string& path, const std::vector<std::string>& ignored_fields) {
  Json metadata;
  Checkpoint checkpoint = Checkpoint::open_gguf(path, &metadata);
  const std::string architecture = gguf_text(metadata, "general.architecture", path);
  const GgufFamily* family = find_gguf_family(architecture, metadata);
  if (family == nullptr)
    fail_user(
        "{}: its general.architecture is '{}'; of GGUF files flexgen reads {}. The model's own checkpoint, with safetensors, may be of a family that flexgen knows",
        path, printable(architecture), known_gguf_architectures());
  GgufFields fields(metadata, path, architecture, ignored_fields);
  const Json config_json = config_of_gguf(metadata, *family, fields, checkpoint);
  fields.finish();
  ModelConfig config = parse_config(config_json.dump(), "", path);
  config.rope_interleaved |= family->pairs_adjoin;
  if (family->whole_norms) config.norm_offset = 0;
  if (family->says_epsilon) config.norm_epsilon = static_cast<float>(ConfigFields(config_json, path).positive("layer_norm_eps", 1));
  if (checkpoint.find(kRopeFactors)) apply_rope_factors(checkpoint, path, config);
  config.mixture.in_pairs = false;  // GGUFs have gate and up apart
  name_tensors_as_family(checkpoint, config);
  return {std::move(config), std::move(checkpoint)};
}

}  // namespace flexgen
