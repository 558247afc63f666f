#include "text/gguf_tokenizer.h"

#include <fmt/ranges.h>

#include <algorithm>
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

/// How a text is split before its merges, by the name that llama.cpp gives it (tokenizer.ggml.pre).
struct GgufSplit {
  const char* name;
  const char* pattern;          ///< null: GPT-2's
  bool single_digits = false;   ///< before GPT-2's pattern
  bool composes = false;        ///< texts are composed first (NFC)
  bool ignores_merges = false;  ///< a stretch that is a token is that token
  bool begins = false;          ///< begins texts where the file does not say
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
                                  {"command-r", nullptr, true, true}};

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
    if (split->pattern) steps.push_back({{"type", "Split"}, {"pattern", {{"Regex", split->pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
    steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", split->pattern == nullptr}});
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
