#include "text/tokenizer_files.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include "base/error.h"
#include "io/checked_json.h"
#include "io/gguf.h"
#include "io/lfs_pointer.h"
#include "io/python_json.h"
#include "io/whole_file.h"
#include "text/base64.h"
#include "text/gguf_tokenizer.h"
#include "text/pipeline.h"
#include "text/regex.h"
#include "text/sentencepiece_model.h"
#include "text/tekken.h"
#include "text/tokenizer.h"
#include "text/tokenizer_class.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int kMaxDepth = 100;
constexpr const char* kSpecific = "model_specific_special_tokens";
constexpr const char* kStandardTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

bool is_standard(const std::string& name) { return std::find(std::begin(kStandardTokens), std::end(kStandardTokens), name) != std::end(kStandardTokens); }

/// The largest tokenizers take some 35 MB.
constexpr int64_t kMaxFileBytes = int64_t{1} << 28;

std::string read_file(const fs::path& path) {
  std::string text = read_whole_file(path.string(), kMaxFileBytes);
  if (is_lfs_pointer(text)) refuse_lfs_pointer(path.string());
  return text;
}

Json parse_object(const std::string& text, const std::string& source, std::vector<std::string>* twice = nullptr) {
  Json json = parse_checked_json(text, kMaxDepth, source, "the text", "the file is broken, fetch it again", twice);
  if (!json.is_object()) fail_user("{}: no JSON object; the file is broken, fetch it again", source);
  return json;
}

/// One that Python reads: NaN and Infinity may stand where nothing is read (model_max_length). With `twice` names may come twice, as parse_checked_json() has it.
Json read_object(const fs::path& path, std::vector<std::string>* twice = nullptr) {
  return file_is_there(path.string()) ? parse_object(with_large_numbers_for_python(read_file(path)), path.string(), twice) : Json::object();
}

/// {"content": ..., flags}; a missing `normalized` is the opposite of special, as in PyPI tokenizers.
AddedToken token_of(const Json& json, const std::string& source) {
  AddedToken token;
  token.content = json_text(json, "content", source);
  token.special = json_flag(json, "special", false);
  token.normalized = json_flag(json, "normalized", !token.special);
  token.lstrip = json_flag(json, "lstrip", false);
  token.rstrip = json_flag(json, "rstrip", false);
  token.single_word = json_flag(json, "single_word", false);
  return token;
}

/// A token that is given by its text alone is special.
AddedToken special_of(const std::string& content) { return {content, true, false, false, false, false}; }

int64_t checked_id(const Json& id, const std::string& what, const std::string& source) {
  constexpr int64_t kMaxId = 10'000'000;
  if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxId || (id.is_number_unsigned() && id.get<uint64_t>() > kMaxId))
    fail_user("{}: {} has the id {}; flexgen takes 0 to {}", source, what, shown(id), kMaxId);
  return id.get<int64_t>();
}

struct TokenWithId {
  int64_t id;
  AddedToken token;
};

std::vector<TokenWithId> listed_tokens(const Json& tokenizer, const std::string& source) {
  std::vector<TokenWithId> tokens;
  if (!tokenizer.contains("added_tokens") || tokenizer["added_tokens"].is_null()) return tokens;
  for (const Json& entry : json_list(tokenizer, "added_tokens", source))
    tokens.push_back({checked_id(json_field(entry, "id", source), "an added token", source), token_of(entry, source)});
  return tokens;
}

/// Reads a directory's files into one TokenizerFiles, step by step as transformers' _from_pretrained() and __init__() do.
class Reader {
 public:
  explicit Reader(const std::string& directory) : root_(directory), directory_(directory) {}
  TokenizerFiles read();

 private:
  struct Named {
    AddedToken token;
    bool is_text;  ///< given by its content alone
  };
  using Names = std::vector<std::pair<std::string, Named>>;

  std::string path(const char* file) const { return (root_ / file).string(); }
  bool has(const char* file) const { return file_is_there(path(file)); }
  std::string declared_class(const Json& json, const char* file) const;
  void choose_class();
  void refuse_other_settings() const;
  void read_vocab_and_merges();
  void read_pieces();
  void rename_pieces();
  void make_steps_of_pieces();
  void take_class_steps();
  void mend_split();
  void merge_special_tokens_map();
  void read_decoder();
  std::optional<Named> named_of(const Json& value, const std::string& name) const;
  void read_names();
  /// As in transformers, tokens that are named beside it in other ways take the place of the whole field.
  void drop_specific();
  bool in_vocabulary(const std::string& content) const;
  void read_extra(const Json& list);
  void add_tokens();
  void add_tokens_of_class();
  void set_template();
  void expect_ids(const std::vector<TokenWithId>& listed, const char* file);
  const Named* find_name(const std::string& name) const;

  fs::path root_;
  std::string directory_;
  bool whole_ = false;                        ///< there is a tokenizer.json
  std::optional<SentencePieceModel> pieces_;  ///< there is a tokenizer.model, and neither that nor vocab.json and merges.txt
  std::optional<Tekken> tekken_;              ///< there is a tekken.json, and nothing else
  Json config_, model_config_;
  const TokenizerClass* class_ = nullptr;
  std::map<int64_t, AddedToken> decoder_;         ///< added_tokens_decoder, or what stands for it
  std::map<std::string, AddedToken> by_content_;  ///< the same
  Names names_;                                   ///< bos_token and so on, the standard ones first
  std::vector<Named> extra_;
  TokenizerFiles out_;
};

std::string Reader::declared_class(const Json& json, const char* file) const {
  auto found = json.find("tokenizer_class");
  if (found == json.end() || found->is_null()) return "";
  return json_text(json, "tokenizer_class", path(file));
}

void Reader::choose_class() {
  ClassHints hints;
  auto type = model_config_.find("model_type");
  if (type != model_config_.end() && type->is_string()) hints.model_type = type->get<std::string>();
  hints.declared = declared_class(config_, "tokenizer_config.json");
  hints.config_class = declared_class(model_config_, "config.json");
  if (auto map = config_.find("auto_map"); map != config_.end())
    hints.remote_code = map->is_array() || (map->is_object() && map->contains("AutoTokenizer") && !(*map)["AutoTokenizer"].is_null());
  hints.byte_level_file = whole_ && read_file(root_ / "tokenizer.json").find("\"ByteLevel\"") != std::string::npos;
  std::string name = choose_tokenizer_class(hints, directory_);
  if (name.empty() && !whole_ && hints.declared.empty() && hints.config_class.empty() && hints.model_type.empty() && !pieces_ && !tekken_)
    name = "GPT2Tokenizer";
  class_ = find_tokenizer_class(name, directory_);
  if (whole_) return;
  if (pieces_ || tekken_) {
    if (class_ && (tekken_ || !class_->reads_pieces))
      fail_user(
          "{} is all there is, and its tokenizer class {} does not read that; make a tokenizer.json with AutoTokenizer.from_pretrained(dir).save_pretrained(dir), or "
          "copy it from where the model is from",
          out_.source, class_->name);
    return;
  }
  if (!class_ || !class_->reads_vocab_json)
    fail_user(
        "{} has vocab.json and merges.txt, but no tokenizer.json, and {} does not say by which rule to read them; make a tokenizer.json "
        "with AutoTokenizer.from_pretrained(dir).save_pretrained(dir), or copy it from where the model is from",
        directory_, class_ ? fmt::format("its class {}", class_->name) : "tokenizer_config.json");
  for (const char* other : {"tokenizer.model", "tekken.json", "tiktoken.model"})
    if (has(other))
      fail_user(
          "{} has no tokenizer.json, and {} beside vocab.json; transformers would read {}, which flexgen does not; make a tokenizer.json with "
          "AutoTokenizer.from_pretrained(dir).save_pretrained(dir)",
          directory_, other, other);
}

void Reader::refuse_other_settings() const {
  const std::string source = path("tokenizer_config.json");
  if (auto files = config_.find("fast_tokenizer_files"); files != config_.end() && files->is_array())
    for (const Json& file : *files)
      if (file != "tokenizer.json") fail_user("{}: the field 'fast_tokenizer_files' names {}, which is not supported", source, shown(file));
  constexpr const char* kCleansUp = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
  if (json_flag(config_, kCleansUp, false)) fail_user("{}: the field '{}' is not supported", source, kCleansUp);
}

void Reader::read_vocab_and_merges() {
  out_.json["model"] = {{"type", "BPE"}, {"vocab", read_object(root_ / "vocab.json")}};
  Json merges = Json::array();
  std::istringstream lines(read_file(root_ / "merges.txt"));
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line.starts_with("#version")) continue;
    merges.push_back(line);
  }
  out_.json["model"]["merges"] = std::move(merges);
}

/// A BPE of SentencePiece's pieces, as transformers makes it. A class brings the steps around it; without one they go by what the file says, which may be a Unigram too.
void Reader::read_pieces() {
  SentencePieceModel& model = *pieces_;
  using Kind = SentencePieceModel::Kind;
  // What the file calls control tokens and symbols of the user is added. A list in tokenizer_config.json counts in its stead.
  if (!config_.contains("extra_special_tokens")) {
    Json& extra = config_["extra_special_tokens"] = Json::array();
    for (const SentencePieceModel::Piece& piece : model.pieces)
      if (piece.kind == Kind::kControl || (piece.kind == Kind::kUserDefined && class_))
        extra.push_back({{"content", piece.text}, {"normalized", false}, {"special", piece.kind == Kind::kControl}});
  }
  if (!class_) {
    if (model.type == SentencePieceModel::Type::kWord || model.type == SentencePieceModel::Type::kChar)
      fail_user("{}: its model is one of words or characters; flexgen knows BPE and unigram", out_.source);
    rename_pieces();
    if (model.type == SentencePieceModel::Type::kUnigram) {
      Json scored = Json::array();
      for (const SentencePieceModel::Piece& piece : model.pieces) scored.push_back(Json::array({piece.text, static_cast<double>(piece.score)}));
      out_.json["model"] = {{"type", "Unigram"}, {"vocab", std::move(scored)}, {"unk_id", model.unknown_id}, {"byte_fallback", model.byte_fallback}};
      return make_steps_of_pieces();
    }
  }
  Json vocab = Json::object(), merges = Json::array();
  for (size_t id = 0; id < model.pieces.size(); ++id) vocab[model.pieces[id].text] = id;
  for (const auto& [left, right] : class_ ? merges_by_id(model) : merges_by_score(model)) merges.push_back(Json::array({left, right}));
  out_.json["model"] = {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", std::move(merges)}};
  if (!class_) make_steps_of_pieces();
}

/// Placeholders whose ids tokenizer_config.json gives to other tokens.
void Reader::rename_pieces() {
  std::set<std::string> kept;
  const bool is_renamed = pieces_->type == SentencePieceModel::Type::kBpe;  // transformers renames those of a BPE alone
  for (size_t id = 0; id < pieces_->pieces.size() && is_renamed; ++id)
    if (!decoder_.contains(static_cast<int64_t>(id))) kept.insert(pieces_->pieces[id].text);
  for (size_t id = 0; id < pieces_->pieces.size() && is_renamed; ++id)
    if (auto named = decoder_.find(static_cast<int64_t>(id)); named != decoder_.end() && !kept.contains(named->second.content))
      pieces_->pieces[id].text = named->second.content;
  if (pieces_->begins_with_blank)
    for (auto& [id, token] : decoder_) token.normalized = false;  // each stretch between them gets its own blank
}

/// SentencePiece's own way with blanks and with symbols of the user.
void Reader::make_steps_of_pieces() {
  const SentencePieceModel& model = *pieces_;
  const Json* legacy_value = config_.contains("legacy") ? &config_["legacy"] : nullptr;
  const bool legacy = !legacy_value || *legacy_value == true;
  if (!legacy && model.begins_with_blank && (model.drops_extra_blanks || !model.charsmap.empty()))
    fail_user(
        "{}: with legacy: false in tokenizer_config.json, whether a blank is put before a text depends on what its normalizer drops there, which flexgen does not follow; set legacy to "
        "true if the model was trained so",
        out_.source);
  std::vector<std::string> symbols;
  for (const SentencePieceModel::Piece& piece : model.pieces)
    if (piece.kind == SentencePieceModel::Kind::kUserDefined) symbols.push_back(piece.text);
  if (model.type == SentencePieceModel::Type::kBpe) {
    Json& bpe = out_.json["model"];
    bpe["unk_token"] = model.unknown;
    bpe["fuse_unk"] = true;
    bpe["byte_fallback"] = model.byte_fallback;
    bpe["ignore_merges"] = !symbols.empty();
  }

  const auto replace = [](const char* kind, const char* from, const char* to) {
    return Json{{"type", "Replace"}, {"pattern", {{kind, from}}}, {"content", to}};
  };
  Json normalizers = Json::array(), cuts = Json::array(), decoders = Json::array({replace("String", "▁", " ")});
  if (!model.charsmap.empty()) normalizers.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", base64_text(model.charsmap)}});
  if (model.drops_extra_blanks) {
    normalizers.push_back(replace("Regex", R"(\A +| +\z)", ""));
    normalizers.push_back(replace("Regex", " {2,}", " "));
  }
  if (model.marks_blanks) normalizers.push_back(replace("String", " ", "▁"));
  if (model.begins_with_blank && legacy) normalizers.push_back(replace("Regex", R"(\A▁)", "▁▁"));  // Metaspace puts none before one
  if (model.begins_with_blank) cuts.push_back({{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", legacy ? "always" : "first"}, {"split", false}});
  if (!symbols.empty()) {
    const auto length = [](const std::string& text) {
      return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
    };
    std::stable_sort(symbols.begin(), symbols.end(), [&](const std::string& a, const std::string& b) { return length(a) > length(b); });
    std::string pattern;
    for (const std::string& symbol : symbols) pattern += (pattern.empty() ? "" : "|") + escape_regex(symbol);
    cuts.push_back({{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  if (model.byte_fallback) decoders.push_back({{"type", "ByteFallback"}});
  if (model.byte_fallback || model.begins_with_blank) decoders.push_back({{"type", "Fuse"}});
  if (model.begins_with_blank) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1u}, {"stop", 0u}});
  out_.json["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}};
  if (!cuts.empty()) out_.json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::move(cuts)}};
  out_.json["decoder"] = {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
  const auto set_default = [&](const char* name, int64_t id, const std::string& text) {
    if (id >= 0 && !config_.contains(name)) config_[name] = text;
  };
  set_default("bos_token", model.begin_id, model.begin);
  set_default("eos_token", model.end_id, model.end);
  set_default("unk_token", model.unknown_id, model.unknown);
}

/// Without what changes offsets alone.
Json bare(Json step) {
  if (!step.is_object()) return step;
  for (const char* list : {"normalizers", "pretokenizers", "decoders"})
    if (step.contains(list) && step[list].is_array())
      for (Json& part : step[list]) part = bare(std::move(part));
  step.erase("trim_offsets");
  if (step.value("type", Json()) == "ByteLevel" && !step.contains("use_regex")) step["use_regex"] = true;
  return step;
}

/// What most files for LlamaTokenizer have: by another way nearly what the class does, so there is nothing to warn of.
bool is_common_llama_step(const Json& step) {
  static const Json prepend = {
      {"type", "Sequence"},
      {"normalizers", {{{"type", "Prepend"}, {"prepend", "▁"}}, {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}};
  return step == prepend || (step.is_object() && step.value("type", Json()) == "Metaspace");
}

void Reader::take_class_steps() {
  if (!class_) return;
  ClassOptions options;
  options.add_prefix_space = json_flag(config_, "add_prefix_space", class_->prefix_space_by_default);
  options.legacy = json_flag(config_, "legacy", false);
  if (const Named* unknown = find_name("unk_token")) options.unknown_token = unknown->token.content;
  Json made;
  const Json& model = json_field(out_.json, "model", out_.source);
  if (std::string type = model.is_object() && model.contains("type") ? json_text(model, "type", out_.source) : "BPE"; type != "BPE")
    fail_user(
        "{}: the model '{}' is not supported; {} takes a BPE. Set tokenizer_class to PreTrainedTokenizerFast in tokenizer_config.json if tokenizer.json is right",
        out_.source, printable(type), class_->name);
  json_field(model, "vocab", out_.source), json_field(model, "merges", out_.source);
  Json& old = out_.json["model"];
  made["model"] = {{"type", "BPE"}};
  made["model"]["vocab"] = std::move(old["vocab"]);
  made["model"]["merges"] = std::move(old["merges"]);
  made["post_processor"] = out_.json.value("post_processor", Json());
  class_->make_steps(made, options);
  for (const char* step : {"normalizer", "pre_tokenizer", "decoder"}) {
    const Json file_step = out_.json.value(step, Json());
    check_chain_limits(file_step, step, out_.source);
    const bool common = bare(file_step) == bare(made[step]) || is_common_llama_step(file_step);
    const bool absent = file_step.is_null() && std::string_view(class_->name).find("Llama") != std::string_view::npos;
    if (whole_ && !common && !absent && step != std::string("decoder"))
      out_.warnings.push_back(
          fmt::format("{}: the {} is not used: the tokenizer class is {}, which brings its own in transformers 5, and so here. If tokenizer.json is right, set "
                      "tokenizer_class to PreTrainedTokenizerFast in tokenizer_config.json",
                      out_.source, step, class_->name));
  }
  out_.json = std::move(made);
}

/// Files of Mistral's models that older versions wrote split texts in a wrong way; where tokenizer_config.json asks for it, transformers mends that in large vocabularies.
void Reader::mend_split() {
  constexpr size_t kLarge = 100'000;
  const Json pre_tokenizer = out_.json.value("pre_tokenizer", Json());
  if (!json_flag(config_, "fix_mistral_regex", false) || !pre_tokenizer.is_object() || !has("config.json")) return;
  std::set<std::string> tokens;
  for (const auto& [text, value] : json_field(json_field(out_.json, "model", out_.source), "vocab", out_.source).items())
    tokens.insert(value.is_array() && !value.empty() && value[0].is_string() ? value[0].get<std::string>() : text);  // of a Unigram a text with its score
  for (const AddedToken& token : out_.added) tokens.insert(token.content);
  if (tokens.size() > kLarge && split_was_written_wrong(model_config_, path("config.json")))
    out_.json["pre_tokenizer"] = with_tekken_split(pre_tokenizer, out_.source);
}

/// Older files. What they say counts only where there is no added_tokens_decoder.
void Reader::merge_special_tokens_map() {
  const Json map = read_object(root_ / "special_tokens_map.json");
  for (const auto& [key, value] : map.items()) {
    if (key == "extra_special_tokens" && value.is_array()) {
      if (!config_[key].is_array()) config_[key] = Json::array();
      for (Json token : value) {
        if (token.is_object()) token["special"] = true;
        config_[key].push_back(std::move(token));
      }
      continue;
    }
    config_[key] = value;
    if (value.is_object() && key != "extra_special_tokens") config_[key]["special"] = true;
  }
}

void Reader::read_decoder() {
  auto put = [&](int64_t id, const AddedToken& token) {
    decoder_[id] = token;
    by_content_[token.content] = token;
  };
  if (auto listed = config_.find("added_tokens_decoder"); listed != config_.end()) {
    const std::string source = path("tokenizer_config.json");
    if (!listed->is_object()) fail_user("{}: the field 'added_tokens_decoder' is {}, not an object", source, shown(*listed));
    for (const auto& [key, value] : listed->items()) {
      int64_t id = -1;
      auto end = key.data() + key.size();
      if (auto parsed = std::from_chars(key.data(), end, id); parsed.ec != std::errc() || parsed.ptr != end) id = -1;
      checked_id(id < 0 ? Json(key) : Json(id), "a token of added_tokens_decoder", source);
      put(id, token_of(value, source));
    }
    return;
  }
  merge_special_tokens_map();
  if (has("added_tokens.json")) {
    std::set<std::string> special_contents;
    auto note = [&](const Json& value, const char* name) {
      if (value.is_object() && value.contains("__type")) return;  // transformers hasn't read it as a token yet, so it's not special
      if (auto named = named_of(value, name)) special_contents.insert(named->token.content);
    };
    for (const char* name : kStandardTokens)
      if (auto found = config_.find(name); found != config_.end()) note(*found, name);
    if (auto extra = config_.find("extra_special_tokens"); extra != config_.end() && extra->is_array())
      for (const Json& value : *extra) note(value, "extra_special_tokens");
    const std::string source = path("added_tokens.json");
    const Json listed = read_object(root_ / "added_tokens.json");
    for (const auto& [content, id] : listed.items()) {
      const bool special = special_contents.contains(content);
      put(checked_id(id, fmt::format("the token '{}'", printable(content)), source), {content, special, !special, false, false, false});
    }
  }
  if (whole_)
    for (const TokenWithId& entry : listed_tokens(out_.json, out_.source)) put(entry.id, entry.token);
}

std::optional<Reader::Named> Reader::named_of(const Json& value, const std::string& name) const {
  if (value.is_null()) return std::nullopt;
  std::string content;
  bool is_text = value.is_string();
  AddedToken token;
  if (is_text) {
    token = special_of(value.get<std::string>());
  } else if (value.is_object()) {
    token = token_of(value, path("tokenizer_config.json"));
  } else {
    fail_user("{}: the field '{}' is {}, not a token", path("tokenizer_config.json"), name, shown(value));
  }
  return Named{token, is_text};
}

const Reader::Named* Reader::find_name(const std::string& name) const {
  for (const auto& [key, named] : names_)
    if (key == name) return &named;
  return nullptr;
}

void Reader::read_names() {
  names_.clear();
  extra_.clear();
  auto default_of = [&](const std::string& name) -> std::optional<std::string> {
    if (class_)
      for (const auto& [key, content] : class_->default_tokens)
        if (key == name) return content ? std::optional<std::string>(content) : std::nullopt;
    // What texts are padded with becomes a special token.
    const Json padding = out_.json.value("padding", Json());
    if (name != "pad_token" || !padding.is_object() || !padding.contains(name)) return std::nullopt;
    return json_text(padding, "pad_token", out_.source);
  };
  for (const char* name : kStandardTokens) {
    auto found = config_.find(name);
    std::optional<Named> named;
    if (found != config_.end()) named = named_of(*found, name);
    else if (const auto content = default_of(name)) named = Named{special_of(*content), true};
    if (!named) continue;
    // A name stands for the token of that content that is listed, with its flags.
    if (auto listed = by_content_.find(named->token.content); found != config_.end() && listed != by_content_.end()) named = Named{listed->second, false};
    names_.emplace_back(name, *named);
  }
  std::map<std::string, size_t> places;
  for (const auto& [name, named] : names_) places.emplace(name, places.size());
  auto set = [&](const std::string& key, const Named& named) {
    const auto [place, fresh] = places.emplace(key, names_.size());
    if (fresh) names_.emplace_back(key, named);
    else names_[place->second].second = named;
  };
  auto set_all = [&](const Json& tokens) {
    for (const auto& [key, value] : tokens.items())
      if (auto named = named_of(value, key)) set(key, *named);
  };
  if (class_)
    for (const auto& [key, content] : class_->default_tokens)
      if (!is_standard(key)) set(key, Named{special_of(content), true});
  for (const auto& [key, value] : config_.items())  // image_token and the like
    if (key.ends_with("_token") && !is_standard(key) && (value.is_string() || (value.is_object() && value.contains("content"))))
      set(key, *named_of(value, key));
  if (auto specific = config_.find(kSpecific); specific != config_.end() && !specific->is_null()) {
    if (!specific->is_object()) fail_user("{}: the field '{}' is {}, not an object of tokens", path("tokenizer_config.json"), kSpecific, shown(*specific));
    set_all(*specific);
  }
  auto extra = config_.find("extra_special_tokens");
  if (extra == config_.end()) extra = config_.find("additional_special_tokens");  // of special_tokens_map.json
  if (extra == config_.end() || extra->is_null()) return;
  if (extra->is_object()) {
    set_all(*extra);
  } else if (extra->is_array()) {
    read_extra(*extra);
  } else {
    fail_user("{}: the field 'extra_special_tokens' is {}, not a list of tokens", path("tokenizer_config.json"), shown(*extra));
  }
}

void Reader::read_extra(const Json& list) {
  for (const Json& value : list)
    if (auto named = named_of(value, "extra_special_tokens")) extra_.push_back(*named);
}

void Reader::drop_specific() {
  const auto is_token = [](const auto& field) { return field.key().ends_with("_token") && !is_standard(field.key()) && field.value().is_string(); };
  const Json extra = config_.value("extra_special_tokens", Json());
  bool others = extra.is_object() && !extra.empty();
  for (auto field = config_.begin(); field != config_.end() && !others; ++field) others = is_token(field);
  if (others) config_.erase(kSpecific);
}

bool Reader::in_vocabulary(const std::string& content) const {
  const auto model = out_.json.find("model");
  if (model == out_.json.end() || !model->is_object()) return false;
  const auto vocab = model->find("vocab");
  return vocab != model->end() && vocab->is_object() && vocab->contains(content);
}

void Reader::expect_ids(const std::vector<TokenWithId>& listed, const char* file) {
  // What ids they'll get is known when the vocabulary is: JsonTokenizer gives them out in this order.
  for (const TokenWithId& entry : listed) out_.expected_ids.push_back({entry.token.content, entry.id, file});
}

void Reader::add_tokens() {
  if (whole_) {
    const auto listed = listed_tokens(out_.json, out_.source);
    if (!class_)
      for (const TokenWithId& entry : listed) out_.added.push_back(entry.token);
    expect_ids(listed, "tokenizer.json");
  }
  if (tekken_)
    for (const std::string& content : tekken_->specials) out_.added.push_back(special_of(content));
  // The order and the conditions of TokenizersBackend.__init__().
  std::vector<TokenWithId> from_decoder;
  std::map<std::string, bool> known;
  for (const AddedToken& token : out_.added) known[token.content] = true;
  for (const auto& [id, token] : decoder_) from_decoder.push_back({id, token});
  std::vector<AddedToken> later;
  std::set<std::string_view> contents_of_names;
  for (const auto& [name, named] : names_) contents_of_names.insert(named.token.content);
  for (const TokenWithId& entry : from_decoder) {
    known[entry.token.content] = true;
    later.push_back(entry.token);
  }
  expect_ids(from_decoder, "the added tokens");
  // Two names for one new token: given in two ways it's added twice, and the last flags count.
  std::map<std::string_view, std::vector<const Named*>> considered;  // of one content a few, with other flags
  auto consider = [&](const Named& named) {
    auto same = [&](const Named* other) { return other->is_text == named.is_text && other->token == named.token; };
    std::vector<const Named*>& others = considered[named.token.content];
    if (known.contains(named.token.content) || std::any_of(others.begin(), others.end(), same)) return false;
    others.push_back(&named);
    later.push_back(named.token);
    return true;
  };
  int new_names = 0;  // of config_, whose order is lost
  const auto is_default = [&](const std::string& name) {
    return class_ && !config_.contains(name) &&
           std::any_of(class_->default_tokens.begin(), class_->default_tokens.end(), [&](const auto& entry) { return entry.first == name; });
  };
  for (const auto& [name, named] : names_)
    if (consider(named) && !is_standard(name) && !is_default(name) && !in_vocabulary(named.token.content)) ++new_names;
  if (new_names > 1)
    fail_user(
        "{}: {} tokens beside the usual ones are named, but not listed with their ids; write all files anew with "
        "AutoTokenizer.from_pretrained(dir).save_pretrained(dir)",
        path("tokenizer_config.json"), new_names);
  for (const Named& named : extra_) consider(named);
  for (AddedToken& token : later) {
    if (contents_of_names.contains(token.content)) token.special = true;
    out_.added.push_back(token);
  }
  if (class_) add_tokens_of_class();
}

/// What a class adds once more, with other flags.
void Reader::add_tokens_of_class() {
  const std::string name = class_->name;
  if (name != "Qwen2Tokenizer" && name != "CohereTokenizer") return;
  auto again = [&](const Named& named) {
    AddedToken token = special_of(named.token.content);
    if (name == "CohereTokenizer" && !named.is_text) token = named.token, token.special = true;
    out_.added.push_back(token);
  };
  for (const auto& [key, named] : names_) again(named);
  for (const Named& named : extra_) again(named);
}

void Reader::set_template() {
  auto says = [&](const char* name) { return config_.contains(name) && config_[name].is_boolean(); };
  const bool begins = json_flag(config_, "add_bos_token", false), ends = json_flag(config_, "add_eos_token", false);
  if (!whole_ || (class_ && class_->always_own_template)) {
    out_.own_template = true;
    const bool by_default = class_ && class_->begins_by_default;
    const bool with_begin = whole_ || !says("add_bos_token") ? by_default : begins, with_end = !whole_ && ends;
    if (const Named* bos = find_name("bos_token"); bos && with_begin) out_.begin_token = bos->token.content;
    if (const Named* eos = find_name("eos_token"); eos && with_end) out_.end_token = eos->token.content;
  }
  if (tekken_ && out_.begin_token.empty())
    out_.warnings.push_back(fmt::format(
        "{}: no token is put before a text, as in transformers 5; models of Mistral want one, so begin prompts with <s>, or set bos_token and add_bos_token in "
        "tokenizer_config.json",
        out_.source));
  if (whole_ && says("add_bos_token")) out_.says_begin = begins;
  if (whole_ && says("add_eos_token")) out_.says_end = ends;
}

TokenizerFiles Reader::read() {
  whole_ = has("tokenizer.json");
  const bool parts = has("vocab.json") && has("merges.txt");
  out_.source = path(whole_ ? "tokenizer.json" : parts ? "vocab.json" : "tokenizer.model");
  if (!whole_ && !parts && has("tokenizer.model")) pieces_ = read_sentencepiece_model(read_file(root_ / "tokenizer.model"), out_.source);
  if (!whole_ && !parts && !pieces_ && has("tekken.json")) {
    out_.source = path("tekken.json");
    tekken_ = read_tekken(parse_object(read_file(root_ / "tekken.json"), out_.source), out_.source);
  }
  if (!whole_ && !parts && !pieces_ && !tekken_) {
    for (const char* other : {"tiktoken.model", "spiece.model", "sentencepiece.bpe.model"})
      if (has(other))
        fail_user(
            "{0} holds {1}, which flexgen does not read, and no tokenizer.json; make one with transformers 5: "
            "python -c \"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('{0}').save_pretrained('{0}')\"",
            directory_, other);
    fail_user("{} has no tokenizer: it holds neither tokenizer.json, nor vocab.json and merges.txt, nor tokenizer.model", directory_);
  }
  config_ = read_object(root_ / "tokenizer_config.json");
  if (config_.contains("additional_special_tokens") && config_.value("extra_special_tokens", Json()).empty()) {
    config_["extra_special_tokens"] = std::move(config_["additional_special_tokens"]);
    config_.erase("additional_special_tokens");
  }
  drop_specific();
  std::vector<std::string> twice;  // of which model/read_config.cc warns
  model_config_ = read_object(root_ / "config.json", &twice);
  choose_class();
  refuse_other_settings();
  if (whole_) out_.json = parse_object(read_file(root_ / "tokenizer.json"), out_.source);
  else if (tekken_) out_.json = std::move(tekken_->tokenizer);
  else if (!pieces_) read_vocab_and_merges();
  out_.split_special_tokens = json_flag(config_, "split_special_tokens", false);
  const Json type = model_config_.value("model_type", Json());
  const bool opt_without_config = !whole_ && !pieces_ && !tekken_ && !has("tokenizer_config.json") && (type.is_null() || type == "opt") &&
                                  json_field(out_.json["model"], "vocab", out_.source).value("</s>", Json()) == 2;
  if (opt_without_config) {
    // Old folders of OPT have nothing else. transformers would take GPT-2's tokens and none before a text.
    out_.warnings.push_back(fmt::format("{} has no tokenizer_config.json; taken for OPT's, with </s> before every text", directory_));
    config_ = {{"bos_token", "</s>"},  {"eos_token", "</s>"},   {"unk_token", "</s>"},
               {"pad_token", "<pad>"}, {"add_bos_token", true}, {"extra_special_tokens", {"<s>", "<unk>"}}};
  }
  read_decoder();
  if (pieces_) read_pieces();
  read_names();
  add_tokens();
  take_class_steps();
  mend_split();
  set_template();
  if (const Named* eos = find_name("eos_token")) out_.eos = eos->token.content;
  for (const char* name : kStandardTokens)
    if (const Named* named = find_name(name)) out_.special_tokens.emplace_back(name, named->token.content);
  out_.json.erase("added_tokens");
  return std::move(out_);
}

}  // namespace

bool has_tokenizer_files(const std::string& directory) {
  if (is_gguf(directory)) return gguf_metadata(directory, false).contains("tokenizer.ggml.tokens");
  for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
                           "tekken.json", "tiktoken.model"})
    if (file_is_there((fs::path(directory) / name).string())) return true;
  return false;
}

TokenizerFiles read_tokenizer_files(const std::string& directory) { return is_gguf(directory) ? read_gguf_tokenizer(directory) : Reader(directory).read(); }

TokenizerFiles tokenizer_files_of(const std::string& tokenizer_json, const std::string& source) {
  TokenizerFiles files;
  files.source = source;
  files.json = parse_object(tokenizer_json, source);
  for (const TokenWithId& entry : listed_tokens(files.json, source)) {
    files.added.push_back(entry.token);
    files.expected_ids.push_back({entry.token.content, entry.id, "tokenizer.json"});
  }
  files.json.erase("added_tokens");
  return files;
}

}  // namespace flexgen
