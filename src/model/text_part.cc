#include "model/text_part.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "io/checked_json.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

/// Whether the output matrix is the table of embeddings, as transformers 5.24's classes have it.
enum class Ties : uint8_t {
  kAsText,      ///< what the text model's object says, else what stands beside it
  kNo,          ///< what stands beside it, else no
  kNoUnlessIn,  ///< the same, but yes where the text model's object says so
  kYes,         ///< what stands beside it, else yes
  kNever,
};

/// Classes that compute of a text alone what the text model does. (Not PaliGemma, whose prompts see both ways.)
struct Wrapper {
  std::string_view type;
  Ties ties;
};
constexpr Wrapper kWrappers[]{{"gemma3", Ties::kAsText},      {"gemma4", Ties::kAsText},    {"gemma4_unified", Ties::kAsText},
                              {"mistral3", Ties::kAsText},    {"llava", Ties::kNoUnlessIn}, {"llava_onevision", Ties::kNoUnlessIn},
                              {"llava_next", Ties::kNo},      {"idefics3", Ties::kNo},      {"smolvlm", Ties::kNo},
                              {"exaone4_5", Ties::kNo},       {"internvl", Ties::kYes},     {"aya_vision", Ties::kYes},
                              {"cohere2_vision", Ties::kYes}, {"voxtral", Ties::kNever}};

const Wrapper* wrapper_of(const Json& config) {
  const auto type = config.find("model_type");
  if (type == config.end() || !config.contains("text_config")) return nullptr;
  const auto* found = std::find_if(std::begin(kWrappers), std::end(kWrappers), [&](const Wrapper& one) { return *type == one.type; });
  return found == std::end(kWrappers) ? nullptr : found;
}

/// What transformers' classes take where a file says nothing, which those of wrappers often do.
struct UsualSizes {
  std::string_view type;
  int64_t hidden, layers, heads, ffn, vocab, positions;
};
constexpr UsualSizes kUsual[]{{"llama", 4096, 32, 32, 11008, 32000, 2048},    {"mistral", 4096, 32, 32, 14336, 32000, 131072},
                              {"qwen2", 4096, 32, 32, 22016, 151936, 32768},  {"qwen3", 4096, 32, 32, 22016, 151936, 32768},
                              {"cohere2", 8192, 40, 64, 22528, 256000, 8192}, {"exaone4", 4096, 32, 32, 16384, 102400, 2048},
                              {"granite", 4096, 32, 32, 11008, 32000, 2048}};

void fill(Json& text, const char* name, const Json& value) {
  if (!text.contains(name)) text[name] = value;
}

void fill_sizes(Json& text, std::string_view wrapper) {
  if (wrapper == "voxtral") {  // this class has numbers of its own for a Llama
    for (const auto& [name, value] : {std::pair("hidden_size", 3072),
                                      {"intermediate_size", 8192},
                                      {"num_hidden_layers", 30},
                                      {"num_key_value_heads", 8},
                                      {"max_position_embeddings", 131072},
                                      {"vocab_size", 131072},
                                      {"head_dim", 128}})
      fill(text, name, value);
    fill(text, "rms_norm_eps", 1e-5);
    fill(text, "rope_theta", 1e8);
  }
  for (const UsualSizes& usual : kUsual) {
    if (text.at("model_type") != usual.type) continue;
    fill(text, "hidden_size", usual.hidden);
    fill(text, "num_hidden_layers", usual.layers);
    fill(text, "num_attention_heads", usual.heads);
    fill(text, "intermediate_size", usual.ffn);
    fill(text, "vocab_size", usual.vocab);
    fill(text, "max_position_embeddings", usual.positions);
  }
}

/// Nothing: as what stands beside says, where the text model says nothing itself.
std::optional<bool> ties_of(const Json& config, const Json& text, Ties ties) {
  const auto says = [](const Json& object) {
    const auto found = object.find("tie_word_embeddings");
    return found == object.end() || !found->is_boolean() ? std::nullopt : std::optional<bool>(found->get<bool>());
  };
  if (ties == Ties::kAsText) return std::nullopt;
  if (ties == Ties::kNever) return false;
  if (ties == Ties::kNoUnlessIn) return says(config).value_or(false) ? std::optional(true) : says(text);  // or as the text model's class does
  return says(config).value_or(ties == Ties::kYes);
}

}  // namespace

bool holds_text_model(const Json& config) { return wrapper_of(config) != nullptr; }

Json text_part(const Json& config, const std::string& source) {
  const Wrapper& wrapper = *wrapper_of(config);
  Json text = config.at("text_config");
  if (!text.is_object() || !text.contains("model_type")) fail_user("{}: 'text_config' must be an object with a model_type", source);
  if (text.at("model_type") == "exaone4_5_text") text["model_type"] = "exaone4";  // its first name
  if (wrapper.ties != Ties::kAsText) fill_sizes(text, wrapper.type);
  if (const std::optional<bool> ties = ties_of(config, text, wrapper.ties)) text["tie_word_embeddings"] = *ties;
  if (wrapper.ties == Ties::kAsText && config.contains("tie_word_embeddings") && !text.contains("tie_word_embeddings"))
    text["tie_word_embeddings"] = config.at("tie_word_embeddings");
  for (const char* name : {"bos_token_id", "eos_token_id", "torch_dtype", "dtype", "quantization_config", "compression_config", "auto_map"})
    if (config.contains(name) && !text.contains(name)) text[name] = config.at(name);
  // What begins and ends a text is the outer object's, as transformers' GenerationConfig has it.
  for (const char* name : {"bos_token_id", "eos_token_id"})
    if (config.contains(name) && !config.at(name).is_null()) text[name] = config.at(name);
  text.erase("architectures");
  // Of images, where Idefics' files keep it.
  for (const char* name : {"perceiver_config", "pixel_shuffle_factor", "use_resampler", "qk_layer_norms", "vision_config"})
    if (wrapper.type == "idefics3" || wrapper.type == "smolvlm") text.erase(name);
  spdlog::info("{}: a '{}' takes {} too; flexgen runs its text part, {}, alone", source, wrapper.type, wrapper.type == "voxtral" ? "sounds" : "images",
               printable(text.at("model_type").dump()));
  return text;
}

}  // namespace flexgen
