#include "model/config.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "io/checked_json.h"
#include "io/python_json.h"
#include "io/whole_file.h"
#include "model/architecture.h"
#include "model/text_part.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr int kMaxJsonDepth = 16;
constexpr int64_t kMaxFileBytes = 16 * kMiB;

/// Fields that change nothing about what a model computes, whatever they hold. Found in public checkpoints; none is read by the classes of transformers that
/// compute these families, or it is read for training, printing or storage alone.
void name_harmless_fields(ConfigFields& fields) {
  // clang-format off
  fields.harmless({"_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
                   "attn_implementation", "_flash_attn_2_enabled", "use_flash_attn", "use_flash_attn_2", "use_flash_attention", "use_flash_attention_2",
                   "flash_attention", "use_sdpa", "use_fused_rope", "use_fused_rms_norm", "use_fused_mlp", "use_cache_quantization", "use_cache_kernel",
                   "softmax_in_fp32", "attention_softmax_in_fp32", "experts_implementation", "_experts_implementation"});
  fields.harmless({"transformers_version", "transformers.js_config", "unsloth_fixed", "unsloth_version", "is_llama_config", "_from_model_config",
                   "use_cache", "problem_type", "finetuning_task", "task_specific_params", "custom_pipelines", "id2label", "label2id", "num_labels", "_num_labels",
                   "name", "model_name", "version", "license", "language", "tags", "base_model", "max_window_layers"});
  // The tokenizer's, which has files of its own.
  fields.harmless({"tokenizer_class", "tokenizer_name", "tokenizer_file", "tokenizer_model_max_length", "tokenizer_padding_side", "tokenizer_vocab_size",
                   "model_max_length", "max_sequence_length", "max_seq_length", "max_seq_len", "seq_length", "bos_token", "eos_token", "pad_token",
                   "unk_token", "additional_special_tokens"});
  // Of training.
  fields.harmless({"initializer_range", "initializer_cutoff_factor", "init_std", "embedding_init_std", "attention_dropout", "attn_pdrop", "resid_pdrop",
                   "embd_pdrop", "dropout", "hidden_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout", "layerdrop",
                   "embedding_dropout", "residual_dropout", "ffn_dropout", "classifier_dropout", "gradient_checkpointing", "neftune_noise_alpha",
                   "router_aux_loss_coef", "router_jitter_noise", "output_router_logits", "z_loss_coefficient", "label_smoothing", "loss_type", "ignore_index",
                   "tensor_parallel", "sequence_parallel", "pretraining_tp", "aux_loss_alpha", "seq_aux", "ep_size", "training_args"});
  // Of transformers' own output objects.
  fields.harmless({"return_dict", "output_attentions", "output_hidden_states", "output_scores", "output_past", "return_dict_in_generate",
                   "torchscript", "keys_to_ignore_at_inference", "chunk_size_feed_forward", "tf_legacy_loss", "is_composition", "summary_type",
                   "summary_use_proj", "summary_activation", "summary_first_dropout", "summary_proj_to_logits", "summary_proj_to_labels"});
  // Special tokens that only padding and encoders use.
  fields.harmless({"pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "decoder_start_token_id", "prefix"});
  // Defaults of generation; here a request says how it samples.
  fields.harmless({"max_length", "min_length", "max_new_tokens", "min_new_tokens", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
                   "diversity_penalty", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "length_penalty", "penalty_alpha",
                   "epsilon_cutoff", "eta_cutoff", "guidance_scale", "renormalize_logits", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
                   "encoder_repetition_penalty", "bad_words_ids", "num_return_sequences", "remove_invalid_values", "exponential_decay_length_penalty",
                   "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "cache_implementation"});
  // clang-format on
}

/// Fields that would mean another computation, but not with these values.
void name_neutral_fields(ConfigFields& fields, int64_t num_layers) {
  for (const char* name : {"rope_interleaved",      "use_qk_norm",    "qk_norm",   "qk_layernorm",     "use_moe",         "parallel_attn",
                           "use_parallel_residual", "alibi",          "use_alibi", "scale_embeddings", "use_mup",         "use_sliding_window",
                           "multi_query",           "use_mla",        "use_bias",  "layer_norm_bias",  "add_bias_linear", "use_logn_attn",
                           "use_dynamic_ntk",       "attention_bias", "mlp_bias",  "qkv_bias",         "lm_head_bias"})
    fields.neutral(name, {false});
  for (const char* name : {"is_causal", "causal", "use_rope", "use_rotary"}) fields.neutral(name, {true});
  for (const char* name : {"embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale", "embedding_scale", "residual_scale", "rotary_pct",
                           "rotary_percentage", "scale_emb", "scale_depth"})
    fields.neutral(name, {1, 1.0});
  for (const char* name : {"num_nextn_predict_layers", "num_mtp_layers", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok",
                           "attention_logit_cap", "num_key_value_shared_layers"})
    fields.neutral(name, {0});
  fields.neutral("layer_types", {std::vector<std::string>(static_cast<size_t>(num_layers), "full_attention")});
}

/// Whether an auto_map names code for anything.
bool names_code(const Json& map) {
  if (!map.is_object()) return !map.empty();
  return std::any_of(map.begin(), map.end(), [](const Json& code) { return !code.is_null(); });
}

/// Fields that mean another computation than the family's own.
void refuse_other_computations(ConfigFields& fields, const Architecture& architecture) {
  const bool knows_code = architecture.brings_own_code();
  const Json* code = knows_code || !fields.is_ignored("auto_map") ? fields.find("auto_map") : nullptr;
  if (code && !knows_code && names_code(*code))
    fields.refuse(
        "auto_map",
        "is there: the model brings code of its own, which flexgen does not run; if that computes what transformers' class of this model_type does, give "
        "--ignore-config-field auto_map");
  for (const char* name : {"is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder", "use_bfloat16"}) fields.only(name, false);
  fields.find("is_decoder");  // true or false, these models are
  fields.only("cross_attention_hidden_size", nullptr);
  fields.only("pruned_heads", Json::object());
  if (const Json* architectures = fields.find("architectures")) {
    for (const Json& name : architectures->is_array() ? *architectures : Json::array({*architectures})) {
      const std::string text = name.is_string() ? name.get<std::string>() : name.dump();
      if (text.find("For") != std::string::npos && !text.ends_with("ForCausalLM"))
        fields.refuse("architectures", fmt::format("is {}; flexgen runs language models (...ForCausalLM)", printable(text)));
    }
  }
}

DType read_dtype(ConfigFields& fields) {
  const char* field = fields.find("dtype") ? "dtype" : "torch_dtype";
  fields.find("torch_dtype");
  std::string name = fields.text_or(field, "bfloat16");
  if (name.starts_with("torch.")) name.erase(0, 6);
  if (name == "float32") return DType::kF32;
  if (name == "float16") return DType::kF16;
  if (name == "bfloat16") return DType::kBF16;
  fields.refuse(field, fmt::format("is '{}'; flexgen reads float32, float16 and bfloat16", printable(name)));
}

/// One token id, or a list of them.
std::vector<int32_t> read_tokens(ConfigFields& fields, const char* name) {
  std::vector<int32_t> ids;
  const Json* value = fields.find(name);
  if (!value) return ids;
  for (const Json& id : value->is_array() ? *value : Json::array({*value})) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= (1 << 30))
      fields.refuse(name, fmt::format("is {}; it must be a token id or a list of them", printable(value->dump())));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

/// Of a field that is there twice the last counts, as in transformers; a warning says so, if wanted.
Json parse_object(const std::string& text, const std::string& source, bool warns = true) {
  std::vector<std::string> twice;
  Json json = parse_checked_json(with_python_numbers_quoted(text), kMaxJsonDepth, source, "it", "the file is broken, fetch it again", &twice);
  if (warns && !twice.empty()) spdlog::warn("{}: {}", source, said_of_twice(twice));
  if (!json.is_object()) fail_user("{}: it must be a JSON object; fetch the file again", source);
  return json;
}

/// A token that the vocabulary does not have is never generated, and nothing may look for its logit.
void leave_out_unreachable_ends(ModelConfig& config, const std::string& source_name) {
  const auto is_missing = [&](int32_t id) { return id >= config.vocab_size; };
  const auto found = std::find_if(config.eos.begin(), config.eos.end(), is_missing);
  if (found == config.eos.end()) return;
  const int32_t first = *found;
  std::erase_if(config.eos, is_missing);
  spdlog::warn(
      "{}: 'eos_token_id' (generation_config.json's, if it has one) names the token {}, and the vocabulary has {} tokens: no answer ends by it{}; correct the file",
      source_name, first, config.vocab_size, config.eos.empty() ? ", and none before max_tokens or a stop string" : "");
}

std::string read_text(const std::filesystem::path& path) { return read_whole_file(path.string(), kMaxFileBytes); }

/// NVIDIA's Model Optimizer long wrote what it did into a file of its own, hf_quant_config.json: as the field that config.json has since.
std::string with_model_optimizer_file(const std::filesystem::path& root, const std::string& config_json) {
  const std::filesystem::path path = root / "hf_quant_config.json";
  if (!file_is_there(path.string())) return config_json;
  Json config = parse_object(config_json, (root / "config.json").string(), false);
  const Json file = parse_object(read_text(path), path.string());
  if (config.contains("quantization_config") || !file.contains("quantization")) return config_json;
  Json quantization = file.at("quantization");
  if (!quantization.is_object()) fail_user("{}: 'quantization' must be an object; fetch the file again", path.string());
  quantization["quant_method"] = "modelopt";
  config = parse_object(config_json, (root / "config.json").string());  // once more, for its warnings
  config["quantization_config"] = std::move(quantization);
  return config.dump();
}

}  // namespace

ModelConfig parse_config(const std::string& config_json, const std::string& generation_json, const std::string& source_name,
                         const std::vector<std::string>& ignored_fields) {
  Json json = parse_object(config_json, source_name);
  if (holds_text_model(json)) json = text_part(json, source_name);
  ConfigFields fields(json, source_name, {ignored_fields.begin(), ignored_fields.end()});
  ModelConfig config;
  config.model_type = fields.text_or("model_type", "");
  const Architecture* architecture = find_architecture(config.model_type);
  if (!architecture) fields.refuse("model_type", fmt::format("is '{}'; flexgen knows {}", printable(config.model_type), known_model_types()));
  refuse_other_computations(fields, *architecture);

  const SizeFields names = architecture->size_fields();
  config.num_layers = fields.integer(names.layers, 1, 10'000);
  auto one_of = [&](const char* name, const char* too) {
    const Json* second = too == nullptr ? nullptr : fields.find(too);
    if (!second) return name;
    const Json* first = fields.find(name);
    if (first && *first != *second) fields.refuse(too, fmt::format("contradicts '{}'; remove one of them", name));
    return first ? name : too;
  };
  config.hidden_size = fields.integer(one_of(names.hidden, names.hidden_too), 1, 1 << 20);
  auto size = [&](const char* name, int64_t usual, int64_t low, int64_t high) {
    return config.model_type == names.usual_of ? fields.integer_or(name, usual, low, high) : fields.integer(name, low, high);
  };
  config.num_heads = size(one_of(names.heads, names.heads_too), names.usual_heads, 1, 1 << 16);
  config.num_kv_heads = config.num_heads;
  config.vocab_size = size("vocab_size", names.usual_vocab, 2, 1 << 26);
  config.max_positions = names.positions == nullptr ? 1 << 28 : size(names.positions, names.usual_positions, 1, 1 << 28);
  config.attention.resize(static_cast<size_t>(config.num_layers));
  config.embed_size = config.hidden_size;
  config.dtype = read_dtype(fields);
  config.quantization = read_quantization(fields);
  architecture->read_config(fields, config);
  std::vector<int32_t> bos = read_tokens(fields, "bos_token_id");
  config.eos = read_tokens(fields, "eos_token_id");
  name_harmless_fields(fields);
  name_neutral_fields(fields, config.num_layers);
  fields.finish();

  if (!generation_json.empty()) {
    const std::string source = (std::filesystem::path(source_name).parent_path() / "generation_config.json").string();
    try {
      const Json generation_object = parse_object(generation_json, source);
      ConfigFields generation(generation_object, source);
      const std::vector<int32_t> first = read_tokens(generation, "bos_token_id"), last = read_tokens(generation, "eos_token_id");
      if (!first.empty()) bos = first;
      if (!last.empty()) config.eos = last;
    } catch (const Error& error) {  // it has defaults alone
      spdlog::warn("{}; the file is left out, and the tokens that end an answer are config.json's", error.what());
    }
  }
  if (!bos.empty()) config.bos = bos.front();
  leave_out_unreachable_ends(config, source_name);
  return config;
}

ModelConfig load_config(const std::string& directory, const std::vector<std::string>& ignored_fields) {
  namespace fs = std::filesystem;
  const fs::path root(directory);
  std::error_code ignored;
  if (!file_is_there(directory)) fail_user("there is no directory {}; a model is a folder as Hugging Face lays it out", directory);
  if (!fs::is_directory(root, ignored)) fail_user("{} is no directory; a model is a folder as Hugging Face lays it out", directory);
  if (!file_is_there((root / "config.json").string())) fail_user("{} holds no config.json; a model is a folder as Hugging Face lays it out", directory);
  const fs::path generation = root / "generation_config.json";
  std::string generation_json;
  try {
    if (file_is_there(generation.string())) generation_json = read_text(generation);
    if (file_is_there(generation.string()) && generation_json.empty()) fail_user("{}: it is empty", generation.string());
  } catch (const Error& error) {
    spdlog::warn("{}; the file is left out, and the tokens that end an answer are config.json's", error.what());
  }
  return parse_config(with_model_optimizer_file(root, read_text(root / "config.json")), generation_json, (root / "config.json").string(), ignored_fields);
}

}  // namespace flexgen
