#include "model/gguf_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "base/error.h"
#include "io/checked_json.h"
#include "io/gguf.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

/// What differs from one of llama.cpp's architectures to the next.
struct GgufFamily {
  const char *architecture, *model_type;
  /// Rows of a head's q and k have the two of a rotary pair side by side, where Hugging Face has them half a head apart.
  bool pairs_adjoin = false;
  /// Norms' weights are as they are used, where Hugging Face's are less one.
  bool whole_norms = false;
};
constexpr GgufFamily kGgufFamilies[]{{"llama", "llama", true},
                                     {"qwen2", "qwen2"},
                                     {"qwen3", "qwen3"},
                                     {"phi3", "phi3"},
                                     {"gemma", "gemma", false, true},
                                     {"gemma2", "gemma2", false, true},
                                     {"gemma3", "gemma3_text", false, true}};

constexpr const char* kRopeFactors = "rope_freqs.weight";

/// The architecture's own fields, all of which must be asked for.
class GgufFields {
 public:
  GgufFields(const Json& metadata, std::string source, std::string architecture, const std::vector<std::string>& ignored)
      : metadata_(metadata), source_(std::move(source)), start_(std::move(architecture) + "."), ignored_(ignored.begin(), ignored.end()) {}

  const Json* find(const char* name) {
    seen_.insert(start_ + name);
    return gguf_field(metadata_, start_ + name);
  }
  [[noreturn]] void refuse(const char* name, const std::string& why) const { fail_user("{}: '{}{}' {}", source_, start_, name, why); }
  /// The value under another name, if it is there.
  void copy(const char* name, Json& to, const char* as) {
    const Json* value = find(name);
    if (value && value->is_array()) refuse(name, "differs from layer to layer, which flexgen does not do");
    if (value && value->is_number_float() && !std::isfinite(value->get<double>())) refuse(name, "is not finite; the file is broken, fetch it again");
    if (value) to[as] = *value;
  }
  std::optional<int64_t> integer(const char* name) {
    const Json* value = find(name);
    if (!value) return std::nullopt;
    if (value->is_array()) refuse(name, "differs from layer to layer, which flexgen does not do");
    if (!value->is_number_integer() || *value < 0 || *value > 1 << 30) refuse(name, "is no whole number from 0 to 2^30");
    return value->get<int64_t>();
  }
  /// There with this value, or not there.
  void only(const char* name, const Json& value) {
    if (const Json* given = find(name); given && *given != value) refuse(name, fmt::format("is {}; flexgen does {} alone", shown_value(*given), value.dump()));
  }
  void harmless(std::initializer_list<const char*> names) {
    for (const char* name : names) find(name);
  }
  void finish() const {
    for (const auto& [name, value] : metadata_.items())
      if (name.starts_with(start_) && !seen_.contains(name) && !ignored_.contains(name))
        fail_user("{}: '{}' is {}, a field that flexgen does not know; if it changes nothing: --ignore-config-field {}", source_, printable(name),
                  shown_value(value), printable(name));
    for (const std::string& name : ignored_)
      if (!metadata_.contains(name) || seen_.contains(name))
        fail_user("--ignore-config-field {}: {} {}; leave it out", printable(name), source_,
                  metadata_.contains(name) ? "has it as a field that flexgen reads" : "has no such field");
  }
  const std::string& source() const { return source_; }
  static std::string shown_value(const Json& value) { return printable(value.dump(-1, ' ', true, Json::error_handler_t::replace)); }

 private:
  const Json& metadata_;
  std::string source_, start_;
  std::set<std::string> ignored_, seen_;
};

/// What an answer ends with: the tokens that the file names, and those that end a turn by what they are called, as in llama.cpp.
Json end_tokens(const Json& metadata, const std::string& source) {
  std::set<int64_t> ids;
  for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"})
    if (const int64_t id = gguf_id_or(metadata, std::string("tokenizer.ggml.") + name, -1, source); id >= 0) ids.insert(id);
  if (const Json* tokens = gguf_field(metadata, "tokenizer.ggml.tokens"); tokens && tokens->is_array())
    for (size_t id = 0; id < tokens->size(); ++id)
      for (const char* known : {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
                                "<|eom_id|>", "<EOT>", "_<EOT>"})
        if ((*tokens)[id] == known) ids.insert(static_cast<int64_t>(id));
  return ids;
}

Json rope_scaling_of(GgufFields& fields) {
  const Json* type = fields.find("rope.scaling.type");
  const Json *factor = fields.find("rope.scaling.factor"), *original = fields.find("rope.scaling.original_context_length");
  if (!factor) factor = fields.find("rope.scale_linear");
  fields.harmless({"rope.scaling.finetuned", "rope.scale_linear"});
  for (const char* name : {"rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor"}) fields.only(name, 1.0);
  fields.only("rope.scaling.yarn_beta_fast", 32.0);
  fields.only("rope.scaling.yarn_beta_slow", 1.0);
  const Json kind = type ? *type : Json("linear");  // as llama.cpp reads files from before there were types
  if (kind == "none" || !factor || *factor == 1 || *factor == 0) return nullptr;
  if (factor->is_array()) fields.refuse("rope.scaling.factor", "differs from layer to layer, which flexgen does not do");
  Json scaling{{"rope_type", kind}, {"factor", *factor}};
  if (kind == "yarn" && original) scaling["original_max_position_embeddings"] = *original;
  else if (kind == "yarn") fields.refuse("rope.scaling.original_context_length", "is missing, which yarn needs; convert the model anew with llama.cpp");
  else if (kind != "linear") fields.refuse("rope.scaling.type", fmt::format("is {}; flexgen does none, linear and yarn", GgufFields::shown_value(kind)));
  return scaling;
}

/// Fields of Gemma 2 and 3.
void read_gemma(GgufFields& fields, const GgufFamily& family, Json& config) {
  fields.copy("attn_logit_softcapping", config, "attn_logit_softcapping");
  fields.copy("final_logit_softcapping", config, "final_logit_softcapping");
  const bool is_third = family.model_type == std::string_view("gemma3_text");
  if (is_third) {
    config["rope_local_base_freq"] = 10000.0;  // files leave it out
    fields.copy("rope.freq_base_swa", config, "rope_local_base_freq");
    fields.copy("attention.sliding_window_pattern", config, "sliding_window_pattern");
  }
  // The scale of scores is in no field: llama.cpp knows it of the largest model by its layers.
  const bool is_27b = config.at("num_hidden_layers") == (is_third ? 62 : 46);
  if (is_27b) config["query_pre_attn_scalar"] = config.at("hidden_size").get<int64_t>() / config.at("num_attention_heads").get<int64_t>();
  else config["query_pre_attn_scalar"] = config.at("head_dim");
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
  needed("block_count", "num_hidden_layers");
  needed("feed_forward_length", "intermediate_size");
  needed("context_length", "max_position_embeddings");
  const int64_t heads = needed("attention.head_count", "num_attention_heads");
  config["num_key_value_heads"] = fields.integer("attention.head_count_kv").value_or(heads);
  fields.copy("attention.layer_norm_rms_epsilon", config, "rms_norm_eps");
  if (!config.contains("rms_norm_eps")) fields.refuse("attention.layer_norm_rms_epsilon", "is missing; convert the model anew with llama.cpp");
  config["rope_theta"] = 10000.0;
  fields.copy("rope.freq_base", config, "rope_theta");
  if (const Json scaling = rope_scaling_of(fields); !scaling.is_null()) config["rope_scaling"] = scaling;
  fields.harmless({"vocab_size", "tensor_data_layout"});
  for (const char* name : {"expert_count", "expert_used_count"}) fields.only(name, 0);
  fields.only("attention.causal", true);

  const std::optional<int64_t> key = fields.integer("attention.key_length"), value = fields.integer("attention.value_length"),
                               turned = fields.integer("rope.dimension_count");
  if (key.value_or(0) != value.value_or(key.value_or(0))) fields.refuse("attention.value_length", "is not that of keys, which flexgen does not do");
  const int64_t head = key.value_or(hidden / heads);
  if (key || family.whole_norms || family.model_type == std::string_view("qwen3")) config["head_dim"] = head;
  if (turned && *turned != head) {
    if (family.model_type != std::string_view("phi3"))
      fields.refuse("rope.dimension_count", fmt::format("is {} of the {} elements of a head; this family turns all", *turned, head));
    config["partial_rotary_factor"] = static_cast<double>(*turned) / static_cast<double>(head);
  }
  if (family.model_type == std::string_view("llama")) {
    config["attention_bias"] = has("blk.0.attn_q.bias");
    config["mlp_bias"] = has("blk.0.ffn_gate.bias");
  } else if (family.model_type == std::string_view("phi3") || family.model_type == std::string_view("gemma2") ||
             family.model_type == std::string_view("gemma3_text")) {
    fields.copy("attention.sliding_window", config, "sliding_window");
  }
  if (family.model_type == std::string_view("gemma2") || family.model_type == std::string_view("gemma3_text")) read_gemma(fields, family, config);
  if (const int64_t bos = gguf_id_or(metadata, "tokenizer.ggml.bos_token_id", -1, fields.source()); bos >= 0) config["bos_token_id"] = bos;
  config["eos_token_id"] = end_tokens(metadata, fields.source());
  return config;
}

/// Llama's name of a tensor of blocks, "attn_q.weight"; empty if it is none that flexgen knows.
std::string block_part(const std::string& part, bool has_branch_norms) {
  const size_t dot = part.rfind('.');
  if (dot == std::string::npos) return "";
  const std::string stem = part.substr(0, dot), kind = part.substr(dot);
  if (kind != ".weight" && kind != ".bias") return "";
  static const std::map<std::string, std::string> kNames{{"attn_norm", "input_layernorm"},
                                                         {"attn_q", "self_attn.q_proj"},
                                                         {"attn_k", "self_attn.k_proj"},
                                                         {"attn_v", "self_attn.v_proj"},
                                                         {"attn_qkv", "self_attn.qkv_proj"},
                                                         {"attn_output", "self_attn.o_proj"},
                                                         {"attn_q_norm", "self_attn.q_norm"},
                                                         {"attn_k_norm", "self_attn.k_norm"},
                                                         {"ffn_gate", "mlp.gate_proj"},
                                                         {"ffn_up", "mlp.up_proj"},
                                                         {"ffn_down", "mlp.down_proj"},
                                                         {"post_attention_norm", "post_attention_layernorm"},
                                                         {"post_ffw_norm", "post_feedforward_layernorm"}};
  if (stem == "ffn_norm") return (has_branch_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm") + kind;
  const auto found = kNames.find(stem);
  return found == kNames.end() ? "" : found->second + kind;
}

/// A tensor's name as Hugging Face's checkpoint has it; as it is where flexgen does not know it.
std::string family_name(const std::string& name, const std::string& model_type) {
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  constexpr std::string_view kBlock = "blk.";
  const size_t dot = name.find('.', kBlock.size());
  if (!name.starts_with(kBlock) || dot == std::string::npos) return name;
  std::string part = block_part(name.substr(dot + 1), model_type == "gemma2" || model_type == "gemma3_text");
  if (model_type == "phi3" && part == "mlp.up_proj.weight") part = "mlp.gate_up_proj.weight";  // both in one
  return part.empty() ? name : fmt::format("model.layers.{}.{}", name.substr(kBlock.size(), dot - kBlock.size()), part);
}

/// Llama 3's scaling of its angles is a tensor of divisors.
void apply_rope_factors(const Checkpoint& checkpoint, const TensorLocation& at, ModelConfig& config) {
  const std::string& path = checkpoint.files()[static_cast<size_t>(at.file)];
  const size_t count = config.ropes.front().inverse_frequencies.size();
  if (at.dtype != DType::kF32 || at.shape != std::vector<int64_t>{static_cast<int64_t>(count)})
    fail_user("{}: the tensor '{}' is not [{}] in F32; the file is broken, fetch it again", path, kRopeFactors, count);
  std::vector<float> factors(count);
  File::open(path, FileMode::kRead)->read(at.offset, std::as_writable_bytes(std::span(factors)));
  for (Rope& rope : config.ropes)
    for (size_t i = 0; i < count; ++i) {
      if (!(factors[i] > 0)) fail_user("{}: the tensor '{}' has the divisor {}; the file is broken, fetch it again", path, kRopeFactors, factors[i]);
      rope.inverse_frequencies[i] /= factors[i];
    }
}

}  // namespace

GgufModel load_gguf_model(const std::string& path, const std::vector<std::string>& ignored_fields) {
  Json metadata;
  Checkpoint checkpoint = Checkpoint::open_gguf(path, &metadata);
  const std::string architecture = gguf_text(metadata, "general.architecture", path);
  const auto* family =
      std::find_if(std::begin(kGgufFamilies), std::end(kGgufFamilies), [&](const GgufFamily& one) { return one.architecture == architecture; });
  if (family == std::end(kGgufFamilies)) {
    std::vector<std::string> known;
    for (const GgufFamily& one : kGgufFamilies) known.push_back(one.architecture);
    fail_user(
        "{}: its general.architecture is '{}'; of GGUF files flexgen reads {}. The model's own checkpoint, with safetensors, may be of a family that flexgen knows",
        path, printable(architecture), fmt::join(known, ", "));
  }
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"})
    if (checkpoint.find(name))
      fail_user(
          "{}: it has the tensor '{}', angles that depend on a sequence's length, which flexgen does not read from a GGUF; give the model's own checkpoint",
          path, name);
  GgufFields fields(metadata, path, architecture, ignored_fields);
  const Json config_json = config_of_gguf(metadata, *family, fields, checkpoint);
  fields.finish();
  ModelConfig config = parse_config(config_json.dump(), "", path);
  config.rope_interleaved |= family->pairs_adjoin;
  if (family->whole_norms) config.norm_offset = 0;
  if (const TensorLocation* factors = checkpoint.find(kRopeFactors)) apply_rope_factors(checkpoint, *factors, config);
  checkpoint.rename([&](const std::string& name) { return name == kRopeFactors ? "" : family_name(name, config.model_type); });
  return {std::move(config), std::move(checkpoint)};
}

}  // namespace flexgen
