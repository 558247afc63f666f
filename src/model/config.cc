#include "model/config.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/units.h"
#include "io/checked_json.h"
#include "model/architecture.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr int kMaxJsonDepth = 16;
constexpr int64_t kMaxFileBytes = 16 * kMiB;

/// Fields of every family that change nothing about what a model computes.
void name_harmless_fields(ConfigFields& fields) {
  fields.harmless({"_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset",
                   "attn_implementation", "transformers_version", "use_cache", "tokenizer_class", "problem_type",
                   "finetuning_task", "task_specific_params", "id2label", "label2id", "unsloth_fixed", "unsloth_version"});
  // Of training.
  fields.harmless({"initializer_range", "attention_dropout", "gradient_checkpointing"});
  // Of transformers' own output objects.
  fields.harmless({"return_dict", "output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate",
                   "torchscript", "keys_to_ignore_at_inference", "chunk_size_feed_forward"});
  // Special tokens that only padding and encoders use.
  fields.harmless({"pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id", "prefix"});
  // Defaults of generation; here a request says how it samples.
  fields.harmless({"max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
                   "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty",
                   "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
                   "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
                   "forced_bos_token_id", "forced_eos_token_id"});
}

/// Fields that mean another computation than the family's own.
void refuse_other_computations(ConfigFields& fields) {
  for (const char* name : {"quantization_config", "compression_config"})
    if (fields.find(name))
      fields.refuse(name, "is there: flexgen reads weights in F32, F16 and BF16 only; get the checkpoint that was not quantized");
  if (fields.find("auto_map"))
    fields.refuse("auto_map", "is there: the model brings code of its own, which flexgen does not run");
  for (const char* name : {"is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder", "use_bfloat16"})
    fields.only(name, false);
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
  const std::string name = fields.text_or(field, "bfloat16");
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

Json parse_object(const std::string& text, const std::string& source) {
  Json json = parse_checked_json(text, kMaxJsonDepth, source, "it");
  if (!json.is_object()) fail_user("{}: it must be a JSON object; fetch the file again", source);
  return json;
}

std::string read_text(const std::filesystem::path& path) {
  std::error_code failed;
  const auto size = std::filesystem::file_size(path, failed);
  if (failed) fail_io("cannot read {}: {}; check the path and its permissions", path.string(), failed.message());
  if (size > static_cast<uintmax_t>(kMaxFileBytes))
    fail_user("{} has {}, which no configuration has; fetch the file again", path.string(), format_bytes(static_cast<int64_t>(size)));
  std::string text(size, '\0');
  std::ifstream in(path, std::ios::binary);
  if (!in.read(text.data(), static_cast<std::streamsize>(size))) fail_io("cannot read {}; check its permissions", path.string());
  return text;
}

}  // namespace

ModelConfig parse_config(const std::string& config_json, const std::string& generation_json, const std::string& source_name) {
  const Json json = parse_object(config_json, source_name);
  ConfigFields fields(json, source_name);
  ModelConfig config;
  config.model_type = fields.text_or("model_type", "");
  const Architecture* architecture = find_architecture(config.model_type);
  if (!architecture)
    fields.refuse("model_type", fmt::format("is '{}'; flexgen knows {}", printable(config.model_type), known_model_types()));
  refuse_other_computations(fields);

  config.num_layers = fields.integer("num_hidden_layers", 1, 10'000);
  config.hidden_size = fields.integer("hidden_size", 1, 1 << 20);
  config.num_heads = fields.integer("num_attention_heads", 1, 1 << 16);
  config.num_kv_heads = config.num_heads;
  config.vocab_size = fields.integer("vocab_size", 2, 1 << 26);
  config.max_positions = fields.integer("max_position_embeddings", 1, 1 << 28);
  config.embed_size = config.hidden_size;
  config.dtype = read_dtype(fields);
  architecture->read_config(fields, config);
  std::vector<int32_t> bos = read_tokens(fields, "bos_token_id");
  config.eos = read_tokens(fields, "eos_token_id");
  name_harmless_fields(fields);
  fields.finish();

  if (!generation_json.empty()) {
    const std::string source = (std::filesystem::path(source_name).parent_path() / "generation_config.json").string();
    const Json generation_object = parse_object(generation_json, source);
    ConfigFields generation(generation_object, source);
    if (auto ids = read_tokens(generation, "bos_token_id"); !ids.empty()) bos = ids;
    if (auto ids = read_tokens(generation, "eos_token_id"); !ids.empty()) config.eos = ids;
  }
  if (!bos.empty()) config.bos = bos.front();
  return config;
}

ModelConfig load_config(const std::string& directory) {
  namespace fs = std::filesystem;
  const fs::path root(directory);
  std::error_code ignored;
  if (!fs::is_directory(root, ignored))
    fail_user("{} is no directory; a model is a folder as Hugging Face lays it out", directory);
  if (!fs::exists(root / "config.json", ignored))
    fail_user("{} holds no config.json; a model is a folder as Hugging Face lays it out", directory);
  const fs::path generation = root / "generation_config.json";
  return parse_config(read_text(root / "config.json"), fs::exists(generation, ignored) ? read_text(generation) : "",
                      (root / "config.json").string());
}

}  // namespace flexgen
