#include "text/tokenizer_class.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "io/checked_json.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr const char* kQwen2Pattern = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen35Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json byte_level(bool prefix_space, bool use_regex) { return {{"type", "ByteLevel"}, {"add_prefix_space", prefix_space}, {"use_regex", use_regex}}; }
Json sequence(const char* list, Json steps) { return {{"type", "Sequence"}, {list, std::move(steps)}}; }

void make_gpt2(Json& tokenizer, const ClassOptions& options) {
  tokenizer["normalizer"] = nullptr;
  tokenizer["pre_tokenizer"] = byte_level(options.add_prefix_space, true);
  tokenizer["decoder"] = {{"type", "ByteLevel"}};
}
void make_neox(Json& tokenizer, const ClassOptions& options) {
  make_gpt2(tokenizer, options);
  tokenizer["normalizer"] = {{"type", "NFC"}};
}
void make_cohere(Json& tokenizer, const ClassOptions& options) {
  make_neox(tokenizer, options);
  tokenizer["pre_tokenizer"] =
      sequence("pretokenizers", Json::array({{{"type", "Digits"}, {"individual_digits", true}}, byte_level(options.add_prefix_space, true)}));
}
void make_qwen(Json& tokenizer, const ClassOptions& options, const char* pattern) {
  make_neox(tokenizer, options);
  Json split = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  tokenizer["pre_tokenizer"] = sequence("pretokenizers", Json::array({split, byte_level(options.add_prefix_space, false)}));
}
void make_qwen2(Json& tokenizer, const ClassOptions& options) { make_qwen(tokenizer, options, kQwen2Pattern); }
void make_qwen35(Json& tokenizer, const ClassOptions& options) { make_qwen(tokenizer, options, kQwen35Pattern); }

Json sentencepiece_decoder(bool strip) {
  Json steps = Json::array({{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}}, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (strip) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1u}, {"stop", 0u}});  // counts are unsigned in JSON
  return sequence("decoders", std::move(steps));
}
void make_sentencepiece(Json& tokenizer, const char* scheme, bool strip) {
  tokenizer["model"]["fuse_unk"] = true;
  tokenizer["model"]["byte_fallback"] = true;
  tokenizer["normalizer"] = nullptr;
  tokenizer["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", false}};
  tokenizer["decoder"] = sentencepiece_decoder(strip);
}
void make_llama(Json& tokenizer, const ClassOptions& options) {
  make_sentencepiece(tokenizer, !options.add_prefix_space ? "never" : options.legacy ? "always" : "first", options.add_prefix_space);
}
void make_code_llama(Json& tokenizer, const ClassOptions& options) {
  make_sentencepiece(tokenizer, options.add_prefix_space ? "first" : "never", true);
  tokenizer["model"]["unk_token"] = options.unknown_token;
}
void make_gemma(Json& tokenizer, const ClassOptions& options) {
  make_sentencepiece(tokenizer, "never", false);
  tokenizer["model"]["unk_token"] = options.unknown_token;
  tokenizer["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
  tokenizer["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}};
}

const std::vector<TokenizerClass>& classes() {
  constexpr const char* kEnd = "<|endoftext|>";
  // clang-format off
  static const std::vector<TokenizerClass> table{
      {"GPT2Tokenizer", true, false, false, false, false, {{"unk_token", kEnd}, {"bos_token", kEnd}, {"eos_token", kEnd}, {"pad_token", nullptr}}, make_gpt2},
      {"CodeGenTokenizer", true, false, false, false, false, {{"unk_token", kEnd}, {"bos_token", kEnd}, {"eos_token", kEnd}, {"pad_token", nullptr}}, make_gpt2},
      {"GPTNeoXTokenizer", true, false, false, true, false,
       {{"unk_token", kEnd}, {"bos_token", kEnd}, {"eos_token", kEnd}, {"pad_token", "<|padding|>"}}, make_neox},
      {"Qwen2Tokenizer", true, false, false, false, false, {{"unk_token", kEnd}, {"eos_token", kEnd}, {"pad_token", kEnd}}, make_qwen2},
      {"Qwen3_5Tokenizer", false, false, false, false, false, {{"unk_token", kEnd}, {"eos_token", kEnd}, {"pad_token", kEnd}}, make_qwen35},
      {"CohereTokenizer", true, false, false, false, false,
       {{"unk_token", "<UNK>"}, {"bos_token", "<BOS_TOKEN>"}, {"eos_token", "<|END_OF_TURN_TOKEN|>"}, {"pad_token", "<PAD>"},
        {"cls_token", "<CLS>"}, {"sep_token", "<SEP>"}, {"mask_token", "<MASK_TOKEN>"}}, make_cohere},
      {"LlamaTokenizer", false, true, true, false, false, {{"unk_token", "<unk>"}, {"bos_token", "<s>"}, {"eos_token", "</s>"}}, make_llama},
      {"CodeLlamaTokenizer", false, true, true, true, true,
       {{"unk_token", "<unk>"}, {"bos_token", "<s>"}, {"eos_token", "</s>"}, {"prefix_token", "▁<PRE>"}, {"middle_token", "▁<MID>"},
        {"suffix_token", "▁<SUF>"}, {"eot_token", "▁<EOT>"}, {"fill_token", "<FILL_ME>"}}, make_code_llama},
      {"GemmaTokenizer", false, true, false, false, false,
       {{"unk_token", "<unk>"}, {"bos_token", "<bos>"}, {"eos_token", "<eos>"}, {"pad_token", "<pad>"}, {"mask_token", "<mask>"}}, make_gemma}};
  // clang-format on
  return table;
}

/// Classes of transformers that make their own steps, and that flexgen doesn't have.
constexpr std::string_view kOtherClasses[] = {"AlbertTokenizer",
                                              "BartTokenizer",
                                              "BarthezTokenizer",
                                              "BartphoTokenizer",
                                              "BertGenerationTokenizer",
                                              "BertJapaneseTokenizer",
                                              "BertTokenizer",
                                              "BertTokenizerLegacy",
                                              "BertweetTokenizer",
                                              "BigBirdTokenizer",
                                              "BioGptTokenizer",
                                              "BlenderbotSmallTokenizer",
                                              "BlenderbotTokenizer",
                                              "ByT5Tokenizer",
                                              "CLIPTokenizer",
                                              "CTRLTokenizer",
                                              "CamembertTokenizer",
                                              "CanineTokenizer",
                                              "ClvpTokenizer",
                                              "ConvBertTokenizer",
                                              "CpmAntTokenizer",
                                              "CpmTokenizer",
                                              "DPRContextEncoderTokenizer",
                                              "DPRQuestionEncoderTokenizer",
                                              "DPRReaderTokenizer",
                                              "DebertaTokenizer",
                                              "DebertaV2Tokenizer",
                                              "DiaTokenizer",
                                              "DistilBertTokenizer",
                                              "ElectraTokenizer",
                                              "EsmTokenizer",
                                              "EsmcTokenizer",
                                              "FNetTokenizer",
                                              "FSMTTokenizer",
                                              "FastSpeech2ConformerTokenizer",
                                              "FlaubertTokenizer",
                                              "FunnelTokenizer",
                                              "GPTNeoXJapaneseTokenizer",
                                              "GPTSw3Tokenizer",
                                              "HerbertTokenizer",
                                              "LEDTokenizer",
                                              "LasrTokenizer",
                                              "LayoutLMTokenizer",
                                              "LayoutLMv2Tokenizer",
                                              "LayoutLMv3Tokenizer",
                                              "LayoutXLMTokenizer",
                                              "LongformerTokenizer",
                                              "LukeTokenizer",
                                              "LxmertTokenizer",
                                              "M2M100Tokenizer",
                                              "MBart50Tokenizer",
                                              "MBartTokenizer",
                                              "MLukeTokenizer",
                                              "MPNetTokenizer",
                                              "MarianTokenizer",
                                              "MarkupLMTokenizer",
                                              "MgpstrTokenizer",
                                              "MistralCommonBackend",
                                              "MobileBertTokenizer",
                                              "MvpTokenizer",
                                              "MyT5Tokenizer",
                                              "NllbTokenizer",
                                              "NougatTokenizer",
                                              "OpenAIGPTTokenizer",
                                              "PLBartTokenizer",
                                              "ParakeetTokenizer",
                                              "PegasusTokenizer",
                                              "PerceiverTokenizer",
                                              "PhobertTokenizer",
                                              "Pop2PianoTokenizer",
                                              "ProphetNetTokenizer",
                                              "RagTokenizer",
                                              "ReformerTokenizer",
                                              "RemBertTokenizer",
                                              "RoCBertTokenizer",
                                              "RoFormerTokenizer",
                                              "RobertaTokenizer",
                                              "SeamlessM4TTokenizer",
                                              "Siglip2Tokenizer",
                                              "SiglipTokenizer",
                                              "Speech2TextTokenizer",
                                              "SpeechT5Tokenizer",
                                              "SplinterTokenizer",
                                              "SqueezeBertTokenizer",
                                              "T5Tokenizer",
                                              "TapasTokenizer",
                                              "Tipsv2Tokenizer",
                                              "UdopTokenizer",
                                              "VideoPrismTokenizer",
                                              "VitsTokenizer",
                                              "Wav2Vec2CTCTokenizer",
                                              "Wav2Vec2PhonemeCTCTokenizer",
                                              "WhisperTokenizer",
                                              "XGLMTokenizer",
                                              "XLMRobertaTokenizer",
                                              "XLMTokenizer",
                                              "XLNetTokenizer"};

/// The class that transformers lists for a type of model; "" for the plain one, none where it lists nothing.
std::optional<std::string> listed_class(std::string_view model_type) {
  static const std::vector<std::pair<const char*, std::vector<std::string_view>>> table{
      {"GPT2Tokenizer", {"gpt2", "gpt_neo", "gptj", "codegen", "dbrx", "opt", "phi", "starcoder2", "jais2"}},
      {"GPTNeoXTokenizer", {"gpt_neox", "olmo", "olmoe", "mpt", "mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"}},
      {"Qwen2Tokenizer",
       {"qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen2_audio", "qwen2_5_omni", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe",
        "qwen3_omni_moe", "qwen3_asr"}},
      {"Qwen3_5Tokenizer", {"qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp"}},
      {"GemmaTokenizer", {"gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "recurrent_gemma"}},
      {"CohereTokenizer", {"cohere", "cohere2"}},
      {"CodeLlamaTokenizer", {"code_llama"}},
      {"", {"mistral",      "mistral3", "ministral",     "ministral3",  "mixtral",    "pixtral",          "glm",
            "glm4",         "glm4_moe", "glm4_moe_lite", "granite",     "granitemoe", "granitemoehybrid", "granitemoeshared",
            "olmo2",        "olmo3",    "stablelm",      "gpt_bigcode", "kimi_k25",   "kimi_linear",      "phi3",
            "phimoe",       "jamba",    "internlm2",     "internlm3",   "minicpm3",   "minimax_m2",       "ernie4_5",
            "ernie4_5_moe", "nemotron", "arctic",        "persimmon"}}};
  for (const auto& [name, types] : table)
    if (std::find(types.begin(), types.end(), model_type) != types.end()) return name;
  return std::nullopt;
}

/// Types whose checkpoints often name a wrong class: the listed one counts.
bool class_is_often_wrong(std::string_view model_type) {
  constexpr std::string_view kTypes[] = {"qwen2",     "qwen3_5",   "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp", "phi3",         "phimoe",   "jamba",
                                         "internlm2", "internlm3", "minicpm3",    "minimax_m2",       "ernie4_5",  "ernie4_5_moe", "nemotron", "arctic"};
  return std::find(std::begin(kTypes), std::end(kTypes), model_type) != std::end(kTypes);
}

std::string without_fast(const std::string& name) { return name.ends_with("Fast") ? name.substr(0, name.size() - 4) : name; }

bool is_own_class(const std::string& name) {
  return std::any_of(classes().begin(), classes().end(), [&](const TokenizerClass& entry) { return entry.name == name; }) ||
         std::find(std::begin(kOtherClasses), std::end(kOtherClasses), name) != std::end(kOtherClasses);
}
/// The class by its own name (transformers has others for some), if it makes its own steps; else "".
std::string own_class(const std::string& name) {
  const std::string real = name == "Phi3Tokenizer" ? "LlamaTokenizer" : name;
  return is_own_class(real) ? real : "";
}
bool is_plain_class(const std::string& name) {
  return name == "PreTrainedTokenizer" || name == "TokenizersBackend" || name == "PythonBackend" || name == "BloomTokenizer";
}

}  // namespace

std::string choose_tokenizer_class(const ClassHints& hints, const std::string& directory) {
  // The order of AutoTokenizer.from_pretrained().
  const std::string named = without_fast(hints.declared.empty() ? hints.config_class : hints.declared);
  const std::optional<std::string> listed = hints.model_type.empty() ? std::nullopt : listed_class(hints.model_type);
  const bool often_wrong = class_is_often_wrong(hints.model_type);
  if (!hints.remote_code) {
    if (named == "LlamaTokenizer" && !often_wrong && hints.byte_level_file) return "";
    if (!named.empty() && listed && *listed != named) {
      if (listed->empty()) return "";
      return own_class(often_wrong ? *listed : named);
    }
  } else if (!often_wrong && !listed && !is_own_class(named) && !is_plain_class(named)) {
    fail_user(
        "{}: tokenizer_config.json wants the checkpoint's own Python code (auto_map); save it in a common form with that code: "
        "AutoTokenizer.from_pretrained(dir, trust_remote_code=True).save_pretrained(dir)",
        directory);
  }
  if (!named.empty()) return own_class(named);
  return listed.value_or("");
}

const TokenizerClass* find_tokenizer_class(const std::string& name, const std::string& directory) {
  if (name.empty()) return nullptr;
  for (const TokenizerClass& entry : classes())
    if (entry.name == name) return &entry;
  fail_user(
      "{}: the tokenizer class is {}, which flexgen does not know. If its tokenizer.json is right as it is, set tokenizer_class "
      "to PreTrainedTokenizerFast in tokenizer_config.json",
      directory, printable(name));
}

}  // namespace flexgen
