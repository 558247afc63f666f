#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/error.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

/// Fields that change nothing about inference.
const std::set<std::string>& harmless_fields() {
  static const std::set<std::string> kFields{
      "_name_or_path", "_remove_final_layer_norm", "_attn_implementation_autoset", "architectures", "attention_dropout", "dropout",
      "activation_dropout", "layerdrop", "init_std", "initializer_range", "transformers_version", "use_cache", "pad_token_id",
      "prefix", "torch_dtype", "dtype", "model_type", "return_dict", "output_attentions", "output_hidden_states", "id2label",
      "label2id", "problem_type", "task_specific_params", "unk_token_id", "sep_token_id", "cls_token_id", "is_decoder",
      "is_encoder_decoder", "chunk_size_feed_forward", "tokenizer_class", "bos_token_id", "eos_token_id", "resid_pdrop", "embd_pdrop",
      "max_window_layers", "use_mrope", "auto_map", "finetuning_task", "torchscript", "gradient_checkpointing"};
  return kFields;
}

/// Reads fields and remembers which were looked at, so that what is left over can be refused by name.
class Fields {
 public:
  Fields(const Json& json, std::string source) : json_(json), source_(std::move(source)) {}

  template <typename... Args>
  [[noreturn]] void refuse(const std::string& name, const std::string& why) const {
    fail_user("{}: '{}' {}", source_, name, why);
  }
  const Json* find(const std::string& name) {
    seen_.insert(name);
    auto found = json_.find(name);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  int64_t integer(const std::string& name, std::optional<int64_t> fallback = std::nullopt, int64_t smallest = 1) {
    const Json* value = find(name);
    if (!value && fallback) return *fallback;
    if (!value) refuse(name, "is missing");
    if (!value->is_number_integer()) refuse(name, fmt::format("is {}, not a whole number", value->dump()));
    auto number = value->get<int64_t>();
    if (number < smallest || number > 1'000'000'000) refuse(name, fmt::format("is {}, which makes no sense", value->dump()));
    return number;
  }
  double number(const std::string& name, double fallback) {
    const Json* value = find(name);
    if (!value) return fallback;
    if (!value->is_number() || !std::isfinite(value->get<double>())) refuse(name, fmt::format("is {}, not a number", value->dump()));
    return value->get<double>();
  }
  bool flag(const std::string& name, bool fallback) {
    const Json* value = find(name);
    if (!value) return fallback;
    if (!value->is_boolean()) refuse(name, fmt::format("is {}, not true or false", value->dump()));
    return value->get<bool>();
  }
  std::string text(const std::string& name, const std::string& fallback) {
    const Json* value = find(name);
    if (!value) return fallback;
    if (!value->is_string()) refuse(name, fmt::format("is {}, not a text", value->dump()));
    return value->get<std::string>();
  }
  /// The field may only have this value (or be absent).
  void only(const std::string& name, const Json& supported) {
    const Json* value = find(name);
    if (value && *value != supported)
      refuse(name, fmt::format("is {}; flexgen supports only {}", value->dump(), supported.dump()));
  }
  void finish() const {
    for (const auto& [name, value] : json_.items())
      if (!seen_.contains(name) && !harmless_fields().contains(name) && !value.is_null())
        refuse(name, "is a field that flexgen does not know; if it does not change the model's answers, remove it");
  }
  const std::string& source() const { return source_; }

 private:
  const Json& json_;
  std::string source_;
  std::set<std::string> seen_;
};

Activation activation_named(Fields& fields, const std::string& field, const std::string& name) {
  if (name == "relu") return Activation::kRelu;
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::kGeluTanh;
  fields.refuse(field, fmt::format("is '{}'; flexgen supports relu, silu, gelu and gelu_new", name));
}

/// RoPE (Su et al. 2021) with Llama 3's scaling: low frequencies are slowed down, a band in between blended.
void read_rope(Fields& fields, ModelConfig& config) {
  Json scaling = Json::object();
  double theta = fields.number("rope_theta", 10000.0);
  for (const char* name : {"rope_scaling", "rope_parameters"})
    if (const Json* found = fields.find(name)) {
      if (!found->is_object()) fields.refuse(name, "is not an object");
      scaling = *found;
    }
  Fields rope(scaling, fields.source() + " rope scaling");
  theta = rope.number("rope_theta", theta);
  if (!(theta > 0)) fields.refuse("rope_theta", "must be positive");
  std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (rope.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1)) != 1)
    fields.refuse("partial_rotary_factor", "is not 1; flexgen rotates whole heads only");
  int64_t half = config.head_size / 2;
  for (int64_t i = 0; i < half; ++i)
    config.inverse_frequencies.push_back(static_cast<float>(
        1.0 / std::pow(theta, static_cast<double>(2 * i) / static_cast<double>(config.head_size))));
  if (type == "linear") {
    double factor = rope.number("factor", 1);
    if (!(factor > 0)) rope.refuse("factor", "must be positive");
    for (float& frequency : config.inverse_frequencies) frequency = static_cast<float>(frequency / factor);
  } else if (type == "llama3") {
    double factor = rope.number("factor", 8), low = rope.number("low_freq_factor", 1), high = rope.number("high_freq_factor", 4);
    double old_context = rope.number("original_max_position_embeddings", 8192);
    if (!(factor > 0 && high > low && old_context > 0)) rope.refuse("factor", "and the other llama3 numbers contradict each other");
    for (float& frequency : config.inverse_frequencies) {
      double wavelength = 2 * M_PI / frequency;
      if (wavelength > old_context / low) {
        frequency = static_cast<float>(frequency / factor);
      } else if (wavelength >= old_context / high) {
        double smooth = (old_context / wavelength - low) / (high - low);
        frequency = static_cast<float>((1 - smooth) * frequency / factor + smooth * frequency);
      }
    }
  } else if (type != "default") {
    fields.refuse("rope_scaling", fmt::format("has the type '{}'; flexgen supports default, linear and llama3", type));
  }
  rope.finish();
}

void read_opt(Fields& fields, ModelConfig& config) {
  config.ffn_size = fields.integer("ffn_dim");
  config.embed_size = fields.integer("word_embed_proj_dim", config.hidden_size);
  config.post_norm = !fields.flag("do_layer_norm_before", true);
  config.final_norm = !config.post_norm && !fields.flag("_remove_final_layer_norm", false);
  config.activation = activation_named(fields, "activation_function", fields.text("activation_function", "relu"));
  config.tied_embeddings = fields.flag("tie_word_embeddings", true);
  config.norm_epsilon = 1e-5f;
  config.num_kv_heads = config.num_heads;
  fields.only("enable_bias", true);
  fields.only("layer_norm_elementwise_affine", true);
}

void read_llama_family(Fields& fields, ModelConfig& config) {
  const std::string& type = config.model_type;
  config.ffn_size = fields.integer("intermediate_size");
  config.embed_size = config.hidden_size;
  config.num_kv_heads = fields.integer("num_key_value_heads", type == "mistral" ? 8 : config.num_heads);
  config.activation = activation_named(fields, "hidden_act", fields.text("hidden_act", "silu"));
  config.norm_epsilon = static_cast<float>(fields.number("rms_norm_eps", 1e-6));
  if (!(config.norm_epsilon >= 0 && config.norm_epsilon < 1)) fields.refuse("rms_norm_eps", "makes no sense");
  config.tied_embeddings = fields.flag("tie_word_embeddings", false);
  bool bias = fields.flag("attention_bias", false);
  config.qkv_bias = type == "qwen2" ? true : bias;
  config.output_bias = type == "llama" && bias;
  if (type == "qwen3" && bias) config.output_bias = true;
  config.mlp_bias = fields.flag("mlp_bias", false);
  config.qk_norm = type == "qwen3";
  fields.only("pretraining_tp", 1);
  if (const Json* layers = fields.find("layer_types"))
    for (const Json& layer : *layers)
      if (layer != "full_attention" && !(type == "mistral" && layer == "sliding_attention"))
        fields.refuse("layer_types", fmt::format("has {}; flexgen supports one kind of attention in all layers", layer.dump()));
  int64_t window = fields.integer("sliding_window", 0, 0);
  if (type == "mistral") config.sliding_window = window;
  else if (fields.flag("use_sliding_window", false)) fields.refuse("use_sliding_window", "is true; flexgen supports it for mistral only");
  read_rope(fields, config);
}

std::vector<int32_t> read_tokens(const Json* value) {
  std::vector<int32_t> ids;
  if (!value || value->is_null()) return ids;
  for (const Json& id : value->is_array() ? *value : Json::array({*value}))
    if (id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < (1 << 30)) ids.push_back(id.get<int32_t>());
  return ids;
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

struct Shape {
  const char* name;
  const char* type;
  int64_t layers, hidden, heads, kv_heads, head_size, ffn, vocab, positions;
  bool tied;
};
constexpr Shape kShapes[] = {
    {"opt-125m", "opt", 12, 768, 12, 12, 64, 3072, 50272, 2048, true},
    {"opt-350m", "opt", 24, 1024, 16, 16, 64, 4096, 50272, 2048, true},
    {"opt-1.3b", "opt", 24, 2048, 32, 32, 64, 8192, 50272, 2048, true},
    {"opt-2.7b", "opt", 32, 2560, 32, 32, 80, 10240, 50272, 2048, true},
    {"opt-6.7b", "opt", 32, 4096, 32, 32, 128, 16384, 50272, 2048, true},
    {"opt-13b", "opt", 40, 5120, 40, 40, 128, 20480, 50272, 2048, true},
    {"opt-30b", "opt", 48, 7168, 56, 56, 128, 28672, 50272, 2048, true},
    {"opt-66b", "opt", 64, 9216, 72, 72, 128, 36864, 50272, 2048, true},
    {"opt-175b", "opt", 96, 12288, 96, 96, 128, 49152, 50272, 2048, true},
    {"llama-2-7b", "llama", 32, 4096, 32, 32, 128, 11008, 32000, 4096, false},
    {"llama-2-13b", "llama", 40, 5120, 40, 40, 128, 13824, 32000, 4096, false},
    {"llama-2-70b", "llama", 80, 8192, 64, 8, 128, 28672, 32000, 4096, false},
    {"llama-3.2-1b", "llama3", 16, 2048, 32, 8, 64, 8192, 128256, 131072, true},
    {"llama-3.2-3b", "llama3", 28, 3072, 24, 8, 128, 8192, 128256, 131072, true},
    {"llama-3.1-8b", "llama3", 32, 4096, 32, 8, 128, 14336, 128256, 131072, false},
    {"llama-3.1-70b", "llama3", 80, 8192, 64, 8, 128, 28672, 128256, 131072, false},
    {"llama-3.1-405b", "llama3", 126, 16384, 128, 8, 128, 53248, 128256, 131072, false},
    {"mistral-7b", "mistral", 32, 4096, 32, 8, 128, 14336, 32000, 32768, false},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, 32768, true},
    {"qwen2.5-1.5b", "qwen2", 28, 1536, 12, 2, 128, 8960, 151936, 32768, true},
    {"qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152064, 32768, false},
    {"qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072, 151936, 40960, true},
    {"qwen3-1.7b", "qwen3", 28, 2048, 16, 8, 128, 6144, 151936, 40960, true},
    {"qwen3-4b", "qwen3", 36, 2560, 32, 8, 128, 9728, 151936, 40960, true},
    {"qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12288, 151936, 40960, false},
    {"qwen3-14b", "qwen3", 40, 5120, 40, 8, 128, 17408, 151936, 40960, false},
    {"qwen3-32b", "qwen3", 64, 5120, 64, 8, 128, 25600, 151936, 40960, false},
};

}  // namespace

ModelConfig parse_config(const std::string& config_json, const std::string& generation_json, const std::string& source_name) {
  Json json = Json::parse(config_json, nullptr, false);
  if (!json.is_object()) fail_user("{}: no JSON object; fetch the file again", source_name);
  Fields fields(json, source_name);
  ModelConfig config;
  config.model_type = fields.text("model_type", "");
  static const std::set<std::string> kTypes{"opt", "llama", "mistral", "qwen2", "qwen3"};
  if (!kTypes.contains(config.model_type))
    fields.refuse("model_type", fmt::format("is '{}'; flexgen knows opt, llama, mistral, qwen2 and qwen3", config.model_type));
  fields.only("quantization_config", nullptr);
  config.num_layers = fields.integer("num_hidden_layers");
  config.hidden_size = fields.integer("hidden_size");
  config.num_heads = fields.integer("num_attention_heads");
  config.vocab_size = fields.integer("vocab_size");
  config.max_positions = fields.integer("max_position_embeddings");
  int64_t head_size = fields.integer("head_dim", config.model_type == "qwen3" ? 128 : 0, 0);
  if (head_size == 0 && config.hidden_size % config.num_heads != 0)
    fields.refuse("hidden_size", "is not a multiple of num_attention_heads");
  config.head_size = head_size ? head_size : config.hidden_size / config.num_heads;
  if (config.model_type == "opt") read_opt(fields, config);
  else read_llama_family(fields, config);
  if (config.num_heads % config.num_kv_heads != 0)
    fields.refuse("num_attention_heads", "is not a multiple of num_key_value_heads");
  if (config.model_type != "opt" && config.head_size % 2 != 0) fields.refuse("head_dim", "is odd; RoPE needs an even head size");
  std::string dtype = fields.text("dtype", fields.text("torch_dtype", "bfloat16"));
  config.dtype = dtype == "float32" ? DType::kF32 : dtype == "float16" ? DType::kF16 : DType::kBF16;
  fields.finish();

  auto bos = read_tokens(fields.find("bos_token_id"));
  config.eos = read_tokens(fields.find("eos_token_id"));
  if (!generation_json.empty()) {
    Json generation = Json::parse(generation_json, nullptr, false);
    if (!generation.is_object()) fail_user("{}: generation_config.json beside it is no JSON object", source_name);
    if (generation.contains("eos_token_id")) config.eos = read_tokens(&generation["eos_token_id"]);
    if (generation.contains("bos_token_id")) bos = read_tokens(&generation["bos_token_id"]);
  }
  if (!bos.empty()) config.bos = bos.front();
  return config;
}

ModelConfig load_config(const std::string& directory) {
  namespace fs = std::filesystem;
  fs::path root(directory);
  if (!fs::is_directory(root)) fail_user("{} is no directory; --model takes a folder as Hugging Face lays it out", directory);
  if (!fs::exists(root / "config.json")) fail_user("{} holds no config.json", directory);
  fs::path generation = root / "generation_config.json";
  return parse_config(read_text(root / "config.json"), fs::exists(generation) ? read_text(generation) : "",
                      (root / "config.json").string());
}

std::optional<std::string> shape_config_json(const std::string& wanted) {
  for (const Shape& shape : kShapes) {
    if (wanted != shape.name) continue;
    std::string type = shape.type;
    nlohmann::ordered_json json;
    json["model_type"] = type == "llama3" ? "llama" : type;
    json["num_hidden_layers"] = shape.layers;
    json["hidden_size"] = shape.hidden;
    json["num_attention_heads"] = shape.heads;
    json["vocab_size"] = shape.vocab;
    json["max_position_embeddings"] = shape.positions;
    json["tie_word_embeddings"] = shape.tied;
    json["torch_dtype"] = "bfloat16";
    if (type == "opt") {
      bool post_norm = wanted == "opt-350m";
      json["ffn_dim"] = shape.ffn;
      json["word_embed_proj_dim"] = post_norm ? 512 : shape.hidden;
      json["do_layer_norm_before"] = !post_norm;
      json["activation_function"] = "relu";
      json["bos_token_id"] = 2;
      json["eos_token_id"] = 2;
    } else {
      json["intermediate_size"] = shape.ffn;
      json["num_key_value_heads"] = shape.kv_heads;
      json["head_dim"] = shape.head_size;
      json["hidden_act"] = "silu";
      json["rms_norm_eps"] = 1e-5;
      json["rope_theta"] = type == "llama3" ? 500000.0 : type == "llama" ? 10000.0 : 1000000.0;
      if (type == "llama3")
        json["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", wanted.starts_with("llama-3.2") ? 32.0 : 8.0},
                                {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
      json["bos_token_id"] = 1;
      json["eos_token_id"] = 2;
    }
    return json.dump(2);
  }
  return std::nullopt;
}

std::vector<std::string> known_shapes() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

}  // namespace flexgen
