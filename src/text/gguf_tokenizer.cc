#include "text/gguf_tokenizer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <span>
#include <unordered_set>

#include "base/error.h"
#include "io/checked_json.h"
#include "io/gguf.h"
#include "text/sentencepiece_model.h"
#include "text/tekken.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;
using PieceKind = SentencePieceModel::Kind;

constexpr const char* kWordsPattern = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDigitPattern = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kCasesPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// DeepSeek's splits, one after the other. In the first letters are those that have capitals, of an older Unicode.
constexpr const char* kDeepseekLetters =
    R"(\s?[A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}\x{295}-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f})"
    R"(\x{386}\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5})"
    R"(\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}\x{1f18}-\x{1f1d})"
    R"(\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe})"
    R"(\x{1fc2}-\x{1fc4}\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}\x{1ff6}-\x{1ffc}\x{2102}\x{2107})"
    R"(\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}\x{2145}-\x{2149}\x{214e})"
    R"(\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f})"
    R"(\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f})"
    R"(\x{104b0}-\x{104d3}\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}\x{1e900}-\x{1e943}]+)";
constexpr const char* kDeepseekAsian = R"([\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]+)";
constexpr const char* kDeepseekSplits[]{"[\\r\\n]", kDeepseekLetters, R"(\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+)",
                                        "\\s+$",    kDeepseekAsian,   R"(\p{N}+)"};
constexpr const char* kDeepseekCoderSplits[]{"[\\r\\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepseekAsian, R"(\p{N})"};
/// DeepSeek V3's; its tokenizer.json has no other.
constexpr const char* kDeepseek3Splits[]{
    R"(\p{N}{1,3})", R"([\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+)",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
constexpr const char* kVikingSplits[]{" ?[^(\\s|.,!?…。，、।۔،)]+", R"(\p{N})"};
constexpr const char* kSeedCoderPattern = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// How a text is split before its merges, by the name that llama.cpp gives it (tokenizer.ggml.pre).
struct GgufSplit {
  const char* name;
  const char* pattern;                         ///< null: GPT-2's
  bool single_digits = false;                  ///< before GPT-2's pattern
  bool composes = false;                       ///< texts are composed first (NFC)
  bool ignores_merges = false;                 ///< a stretch that is a token is that token
  bool begins = false;                         ///< begins texts where the file does not say
  std::span<const char* const> patterns = {};  ///< one after the other, in place of the one
};
constexpr GgufSplit kGgufSplits[]{{"gpt-2", nullptr},
                                  {"phi-2", nullptr},
                                  {"exaone4", nullptr},
                                  {"mellum", nullptr},
                                  {"gigachat", nullptr},
                                  {"trillion", nullptr},
                                  {"a.x-4.0", nullptr},
                                  {"smollm", nullptr, true},
                                  {"llama-bpe", kWordsPattern, false, false, true, true},
                                  {"llama3", kWordsPattern, false, false, true, true},
                                  {"llama-v3", kWordsPattern, false, false, true, true},
                                  {"falcon3", kWordsPattern, false, false, true, true},
                                  {"pixtral", kWordsPattern, false, false, true, true},
                                  {"midm-2.0", kWordsPattern, false, false, true, true},
                                  {"dbrx", kWordsPattern},
                                  {"smaug-bpe", kWordsPattern},
                                  {"qwen2", kDigitPattern, false, true},
                                  {"deepseek-r1-qwen", kDigitPattern, false, true},
                                  {"kormo", kDigitPattern},
                                  {"megrez", kDigitPattern},
                                  {"hunyuan", kDigitPattern},
                                  {"solar-open", kDigitPattern},
                                  {"grok-2", kDigitPattern},
                                  {"tekken", kTekkenPattern, false, false, true, true},
                                  {"gpt-4o", kCasesPattern},
                                  {"llama4", kCasesPattern},
                                  {"kanana2", kCasesPattern},
                                  {"minimax-m2", kCasesPattern},
                                  {"chatglm-bpe", kWordsPattern},
                                  {"glm4", kWordsPattern, false, false, true},
                                  {"olmo", nullptr, false, true},
                                  {"starcoder", nullptr, true},
                                  {"refact", nullptr, true},
                                  {"minerva-7b", nullptr, true},
                                  {"viking", nullptr, false, false, false, false, kVikingSplits},
                                  {"command-r", nullptr, true, true},
                                  {"deepseek-llm", nullptr, false, false, false, false, kDeepseekSplits},
                                  {"deepseek-coder", nullptr, false, false, false, false, kDeepseekCoderSplits},
                                  {"deepseek-v3", nullptr, false, false, false, false, kDeepseek3Splits},
                                  {"hunyuan-dense", nullptr, false, false, false, false, kDeepseek3Splits},
                                  {"joyai-llm", nullptr, false, false, false, false, kDeepseek3Splits},
                                  {"seed-coder", kSeedCoderPattern}};

Json step_sequence(const char* list, Json steps) { return {{"type", "Sequence"}, {list, std::move(steps)}}; }
Json replace_step(const char* kind, const char* from, const char* to) { return {{"type", "Replace"}, {"pattern", {{kind, from}}}, {"content", to}}; }

class GgufTokenizer {
 public:
  explicit GgufTokenizer(const std::string& path) : path_(path), metadata_(gguf_metadata(path, true)) {}

  TokenizerFiles read() {
    out_.source = path_;
    read_pieces();
    const std::string kind = gguf_text(metadata_, "tokenizer.ggml.model", path_);
    if (kind == "gpt2") make_byte_level();
    else if (kind == "llama") make_pieces();
    else fail_user("{}: the field 'tokenizer.ggml.model' is '{}'; flexgen knows gpt2 and llama", path_, printable(kind));
    add_tokens(kind == "llama");
    return std::move(out_);
  }

 private:
  const Json& list(const char* name) const {
    const Json* field = gguf_field(metadata_, name);
    if (!field || !field->is_array()) fail_user("{}: the field '{}' is missing, or no list; convert the model anew with llama.cpp", path_, name);
    return *field;
  }

  void read_pieces() {
    const Json& tokens = list("tokenizer.ggml.tokens");
    const Json* types = gguf_field(metadata_, "tokenizer.ggml.token_type");
    if (types && (!types->is_array() || types->size() != tokens.size()))
      fail_user("{}: the field 'tokenizer.ggml.token_type' has not one for each token; the file is broken, fetch it again", path_);
    std::unordered_set<std::string> seen;
    for (size_t id = 0; id < tokens.size(); ++id) {
      SentencePieceModel::Piece piece;
      if (!tokens[id].is_string()) fail_user("{}: the token {} of 'tokenizer.ggml.tokens' is no text; the file is broken, fetch it again", path_, id);
      piece.text = tokens[id].get<std::string>();
      if (piece.text.empty()) piece.text = fmt::format("[EMPTY_{}]", id);  // as in llama.cpp: there may be several
      if (types) {
        const Json& type = (*types)[id];
        if (!type.is_number_integer() || type < 0 || type > 6) fail_user("{}: the token {} is of the unknown type {}", path_, id, type.dump());
        if (type != 0) piece.kind = static_cast<PieceKind>(type.get<int>());  // 0 says nothing of it
      }
      if (!seen.insert(piece.text).second) fail_user("{}: the token '{}' is there twice; the file is broken, fetch it again", path_, printable(piece.text));
      pieces_.pieces.push_back(std::move(piece));
    }
  }

  Json vocabulary() const {
    Json vocab = Json::object();
    for (size_t id = 0; id < pieces_.pieces.size(); ++id) vocab[pieces_.pieces[id].text] = id;
    return vocab;
  }

  void make_byte_level() {
    const std::string name = gguf_text(metadata_, "tokenizer.ggml.pre", path_);
    const auto* split = std::find_if(std::begin(kGgufSplits), std::end(kGgufSplits), [&](const GgufSplit& one) { return one.name == name; });
    if (split == std::end(kGgufSplits)) {
      std::vector<std::string> known;
      for (const GgufSplit& one : kGgufSplits) known.push_back(one.name);
      fail_user("{}: the field 'tokenizer.ggml.pre' is '{}', a way to split texts that flexgen does not know ({}); give the model's own checkpoint", path_,
                printable(name), fmt::join(known, ", "));
    }
    begins_ = split->begins;
    out_.json["model"] = {{"type", "BPE"}, {"vocab", vocabulary()}, {"merges", list("tokenizer.ggml.merges")}, {"ignore_merges", split->ignores_merges}};
    if (split->composes) out_.json["normalizer"] = {{"type", "NFC"}};
    Json steps = Json::array();
    if (split->single_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
    std::vector<const char*> patterns(split->patterns.begin(), split->patterns.end());
    if (split->pattern) patterns.push_back(split->pattern);
    for (const char* pattern : patterns) steps.push_back({{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
    steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", patterns.empty()}});
    out_.json["pre_tokenizer"] = step_sequence("pretokenizers", std::move(steps));
    out_.json["decoder"] = {{"type", "ByteLevel"}};
  }

  /// SentencePiece's pieces, merged by their scores.
  void make_pieces() {
    const Json& scores = list("tokenizer.ggml.scores");
    if (scores.size() != pieces_.pieces.size())
      fail_user("{}: the field 'tokenizer.ggml.scores' has not one for each token; the file is broken, fetch it again", path_);
    for (size_t id = 0; id < scores.size(); ++id) {
      if (!scores[id].is_number()) fail_user("{}: the token {} has no score; the file is broken, fetch it again", path_, id);
      pieces_.pieces[id].score = scores[id].get<float>();
    }
    begins_ = true;
    Json merges = Json::array();
    for (const auto& [left, right] : merges_by_score(pieces_)) merges.push_back(Json::array({left, right}));
    const bool leads = gguf_flag_or(metadata_, "tokenizer.ggml.add_space_prefix", true, path_);
    out_.json["model"] = {{"type", "BPE"}, {"vocab", vocabulary()}, {"merges", std::move(merges)}, {"fuse_unk", true}, {"byte_fallback", true}};
    if (const std::string unknown = token_of("unknown_token_id"); !unknown.empty()) out_.json["model"]["unk_token"] = unknown;
    Json normalizers = Json::array({replace_step("String", " ", "▁")}),
         decoders = Json::array({replace_step("String", "▁", " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
    if (leads) {
      normalizers.push_back(replace_step("Regex", R"(\A▁)", "▁▁"));  // Metaspace puts none before one
      out_.json["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}, {"split", false}};
      decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1u}, {"stop", 0u}});
    }
    out_.json["normalizer"] = step_sequence("normalizers", std::move(normalizers));
    out_.json["decoder"] = step_sequence("decoders", std::move(decoders));
  }

  /// The text of a token by the field that holds its id; empty if it is not there.
  std::string token_of(const std::string& name) const {
    const int64_t id = gguf_token_or_none(metadata_, name, std::ssize(pieces_.pieces), path_);
    return id < 0 ? "" : pieces_.pieces[static_cast<size_t>(id)].text;
  }

  /// What is taken for a token whose id is none's.
  void warn_of_wrong_id(const std::string& name, const std::string& taken) {
    const Json* field = gguf_field(metadata_, "tokenizer.ggml." + name);
    if (!field || field->get<uint64_t>() < pieces_.pieces.size()) return;
    out_.warnings.push_back(fmt::format("{}: the field 'tokenizer.ggml.{}' is {}, and there are {} tokens; {}", path_, name, field->dump(),
                                        pieces_.pieces.size(),
                                        taken.empty() ? "taken for one that is not there" : fmt::format("'{}' is taken, as in llama.cpp", printable(taken))));
  }

  void add_tokens(bool of_pieces) {
    // Phi-3's tokens of control take the blanks behind them, which no field says.
    const Json* architecture = gguf_field(metadata_, "general.architecture");
    const bool is_phi3 = of_pieces && architecture && *architecture == "phi3";
    for (const SentencePieceModel::Piece& piece : pieces_.pieces) {
      if (piece.kind != PieceKind::kControl && piece.kind != PieceKind::kUserDefined && piece.kind != PieceKind::kUnknown) continue;
      AddedToken token{piece.text, piece.kind != PieceKind::kUserDefined, false, false, false, false};
      token.rstrip = is_phi3 && piece.kind == PieceKind::kControl && piece.text != "<s>" && piece.text != "<|endoftext|>";
      out_.added.push_back(std::move(token));
    }
    out_.own_template = true;
    if (gguf_flag_or(metadata_, "tokenizer.ggml.add_bos_token", begins_, path_)) out_.begin_token = token_of("bos_token_id");
    if (gguf_flag_or(metadata_, "tokenizer.ggml.add_eos_token", false, path_)) out_.end_token = token_of("eos_token_id");
    out_.eos = token_of("eos_token_id");
    constexpr std::pair<const char*, const char*> kNames[]{{"bos_token", "bos_token_id"},
                                                           {"eos_token", "eos_token_id"},
                                                           {"unk_token", "unknown_token_id"},
                                                           {"sep_token", "seperator_token_id"},
                                                           {"pad_token", "padding_token_id"}};
    for (const auto& [name, field] : kNames) {
      const std::string text = token_of(field);
      if (!text.empty()) out_.special_tokens.emplace_back(name, text);
      warn_of_wrong_id(field, text);
    }
  }

  std::string path_;
  Json metadata_;
  SentencePieceModel pieces_;
  bool begins_ = false;
  TokenizerFiles out_;
};

}  // namespace

TokenizerFiles read_gguf_tokenizer(const std::string& path) { return GgufTokenizer(path).read(); }

std::map<std::string, std::string> read_gguf_chat_templates(const std::string& path) {
  const Json metadata = gguf_metadata(path, false);
  constexpr std::string_view kStart = "tokenizer.chat_template";
  std::map<std::string, std::string> templates;
  for (const auto& [name, value] : metadata.items()) {
    if (!name.starts_with(kStart) || name == "tokenizer.chat_templates") continue;
    const std::string own = name.size() == kStart.size() ? "default" : name.substr(kStart.size() + 1);
    templates[own] = gguf_text(metadata, name, path);
  }
  return templates;
}

}  // namespace flexgen
