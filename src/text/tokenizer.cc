#include "text/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/error.h"
#include "io/whole_file.h"
#include "text/bpe.h"
#include "text/pipeline.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false, normalized = false, lstrip = false, rstrip = false, single_word = false;
};

bool is_word_character(std::string_view text, size_t at) {
  // As Rust's regex defines \w, wider than PCRE2's.
  static const Regex word(R"(\A[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])", "word");
  bool found = false;
  size_t length = utf8_length(text, at);
  if (length > 0) word.for_each(text.substr(at, length), [&](size_t, size_t) { found = true; });
  return found;
}

bool is_space_at(std::string_view text, size_t at, size_t* length) {
  static const Regex space(R"(\A\s)", "space");
  bool found = false;
  *length = utf8_length(text, at);
  if (*length > 0) space.for_each(text.substr(at, *length), [&](size_t, size_t) { found = true; });
  return found;
}

/// Added tokens as they are found in text: leftmost, then longest.
class AddedTokens {
 public:
  void add(const AddedToken& token) {
    if (!token.content.empty()) tokens_[static_cast<unsigned char>(token.content[0])].push_back(token);
  }
  void finish() {
    for (auto& [first, list] : tokens_)
      std::stable_sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.content.size() > b.content.size(); });
  }
  /// Calls text(begin, end) and token(token) in order.
  template <typename OnText, typename OnToken>
  void scan(std::string_view text, OnText on_text, OnToken on_token) const {
    size_t done = 0;
    for (size_t at = 0; at < text.size();) {
      const AddedToken* match = match_at(text, at);
      if (!match) {
        ++at;
        continue;
      }
      size_t begin = at, end = at + match->content.size(), length = 0;
      if (match->lstrip)
        while (begin > done) {
          size_t back = begin - 1;
          while (back > done && (static_cast<unsigned char>(text[back]) & 0xc0) == 0x80) --back;
          if (!is_space_at(text, back, &length)) break;
          begin = back;
        }
      if (match->rstrip)
        while (end < text.size() && is_space_at(text, end, &length)) end += length;
      if (begin > done) on_text(done, begin);
      on_token(*match);
      at = done = end;
    }
    if (done < text.size()) on_text(done, text.size());
  }

 private:
  const AddedToken* match_at(std::string_view text, size_t at) const {
    auto list = tokens_.find(static_cast<unsigned char>(text[at]));
    if (list == tokens_.end()) return nullptr;
    for (const AddedToken& token : list->second) {
      if (text.compare(at, token.content.size(), token.content) != 0) continue;
      if (token.single_word) {
        size_t end = at + token.content.size(), before = at;
        while (before > 0 && (static_cast<unsigned char>(text[--before]) & 0xc0) == 0x80) {
        }
        if ((at > 0 && is_word_character(text, before)) || (end < text.size() && is_word_character(text, end))) continue;
      }
      return &token;
    }
    return nullptr;
  }
  std::map<unsigned char, std::vector<AddedToken>> tokens_;
};

class JsonTokenizer : public Tokenizer {
 public:
  JsonTokenizer(const Json& json, const std::string& source)
      : bpe_(make_bpe(json, source)),
        normalizer_(make_normalizer(json.value("normalizer", Json()), source)),
        pre_tokenizer_(make_pre_tokenizer(json.value("pre_tokenizer", Json()), source)),
        decoder_(make_decoder(json.value("decoder", Json()), source)) {
    for (const auto& [text, id] : bpe_.vocab()) set_text(id, text);
    if (json.contains("added_tokens") && json["added_tokens"].is_array())
      for (const Json& entry : json["added_tokens"]) {
        AddedToken token;
        const Json& id = json_field(entry, "id", source);
        if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxId)
          fail_user("{}: an added token has the id {}", source, id.dump().substr(0, 40));
        token.id = id.get<int32_t>();
        token.content = json_text(entry, "content", source);
        token.special = json_flag(entry, "special", false);
        token.normalized = json_flag(entry, "normalized", !token.special);
        token.lstrip = json_flag(entry, "lstrip", false);
        token.rstrip = json_flag(entry, "rstrip", false);
        token.single_word = json_flag(entry, "single_word", false);
        add(token);
      }
    raw_added_.finish();
    normalized_added_.finish();
    if (json.contains("post_processor")) read_post_processor(json["post_processor"], source);
  }

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override {
    std::vector<int32_t> out;
    if (add_special_tokens) out = prefix_;
    std::string clean = sanitize_utf8(text);
    raw_added_.scan(
        clean,
        [&](size_t begin, size_t end) { encode_normalized(normalizer_(clean.substr(begin, end - begin)), begin == 0, out); },
        [&](const AddedToken& token) { out.push_back(token.id); });
    if (add_special_tokens) out.insert(out.end(), suffix_.begin(), suffix_.end());
    return out;
  }

  std::string decode(std::span<const int32_t> tokens, bool skip_special_tokens) const override {
    std::vector<std::string> parts;
    for (int32_t token : tokens) {
      if (token < 0 || token >= vocab_size() || (skip_special_tokens && special_.contains(token))) continue;
      parts.push_back(texts_[static_cast<size_t>(token)]);
    }
    std::string out;
    for (const std::string& part : decoder_(std::move(parts))) out += part;
    return sanitize_utf8(out);
  }

  std::string token_text(int32_t token) const override {
    if (token < 0 || token >= vocab_size()) return "";
    if (special_.contains(token) || is_byte_token(token)) return texts_[static_cast<size_t>(token)];
    // Behind another token, so that a decoder which strips the start of a text leaves a leading space alone.
    std::string lead = decode(std::vector<int32_t>{plain_token_}, false);
    std::string both = decode(std::vector<int32_t>{plain_token_, token}, false);
    return both.starts_with(lead) ? both.substr(lead.size()) : decode(std::vector<int32_t>{token}, false);
  }

  bool is_byte_token(int32_t token) const override {
    if (token < 0 || token >= vocab_size()) return false;
    const std::string& text = texts_[static_cast<size_t>(token)];
    return text.size() == 6 && text.starts_with("<0x") && text[5] == '>';
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(texts_.size()); }
  std::optional<int32_t> bos() const override { return prefix_.empty() ? std::nullopt : std::optional(prefix_.front()); }
  std::optional<int32_t> eos() const override { return eos_; }

  /// For what other files of the checkpoint say.
  void add(const AddedToken& token) {
    set_text(token.id, token.content);
    if (token.special) special_.insert(token.id);
    AddedToken entry = token;
    if (token.normalized) entry.content = normalizer_(token.content);
    (token.normalized ? normalized_added_ : raw_added_).add(entry);
  }
  void set_prefix(std::vector<int32_t> prefix) { prefix_ = std::move(prefix); }
  void set_eos(const std::string& content) {
    if (auto id = id_of(content)) eos_ = *id;
  }
  std::optional<int32_t> id_of(const std::string& content) const {
    for (int32_t id : special_)
      if (texts_[static_cast<size_t>(id)] == content) return id;
    return bpe_.find(content);
  }

 private:
  static constexpr int32_t kMaxId = 10'000'000;

  static Bpe make_bpe(const Json& json, const std::string& source) {
    const Json& model = json_field(json, "model", source);
    std::string type = model.is_object() && model.contains("type") ? json_text(model, "type", source) : "BPE";
    if (type != "BPE") fail_user("{}: the model '{}' is not supported; flexgen knows BPE", source, type);
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (model.contains(name) && !model[name].is_null() && model[name] != "")
        fail_user("{}: '{}' is not supported", source, name);
    const Json& vocab_json = json_field(model, "vocab", source);
    if (!vocab_json.is_object()) fail_user("{}: the vocabulary is no object", source);
    std::unordered_map<std::string, int32_t> vocab;
    vocab.reserve(vocab_json.size());
    for (const auto& [text, id] : vocab_json.items()) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxId)
        fail_user("{}: the token '{}' has the id {}", source, text, id.dump().substr(0, 40));
      vocab[text] = id.get<int32_t>();
    }
    std::vector<std::pair<std::string, std::string>> merges;
    const Json& merges_json = json_field(model, "merges", source);
    if (!merges_json.is_array()) fail_user("{}: the merges are no list", source);
    for (const Json& merge : merges_json) {
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
        continue;
      }
      std::string text = merge.is_string() ? merge.get<std::string>() : "";
      size_t space = text.find(' ');
      // Old files leave merges of tokens that contain spaces ambiguous: the vocabulary tells.
      while (space != std::string::npos && text.find(' ', space + 1) != std::string::npos &&
             !(vocab.contains(text.substr(0, space)) && vocab.contains(text.substr(space + 1))))
        space = text.find(' ', space + 1);
      if (space == std::string::npos) fail_user("{}: the merge {} is not two tokens", source, merge.dump().substr(0, 80));
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
    BpeOptions options;
    options.byte_fallback = json_flag(model, "byte_fallback", false);
    options.ignore_merges = json_flag(model, "ignore_merges", false);
    options.fuse_unknown = json_flag(model, "fuse_unk", false);
    if (model.contains("unk_token") && model["unk_token"].is_string()) options.unknown_token = model["unk_token"].get<std::string>();
    return Bpe(std::move(vocab), merges, options, source);
  }

  void set_text(int32_t id, const std::string& text) {
    if (id >= vocab_size()) texts_.resize(static_cast<size_t>(id) + 1);
    texts_[static_cast<size_t>(id)] = text;
    if (text == "a") plain_token_ = id;
  }

  void read_post_processor(const Json& json, const std::string& source) {
    if (json.is_null()) return;
    std::string type = json_text(json, "type", source);
    if (type == "ByteLevel") return;  // changes offsets only
    if (type == "Sequence") {
      for (const Json& step : json_field(json, "processors", source)) read_post_processor(step, source);
      return;
    }
    if (type != "TemplateProcessing") fail_user("{}: the post-processor '{}' is not supported", source, type);
    const Json& specials = json_field(json, "special_tokens", source);
    bool behind = false;
    for (const Json& part : json_field(json, "single", source)) {
      if (part.is_object() && part.contains("Sequence")) {
        behind = true;
        continue;
      }
      std::string name = json_text(json_field(part, "SpecialToken", source), "id", source);
      for (const Json& id : json_field(json_field(specials, name.c_str(), source), "ids", source)) {
        if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxId)
          fail_user("{}: the template's token '{}' has a broken id", source, name);
        (behind ? suffix_ : prefix_).push_back(id.get<int32_t>());
      }
    }
  }

  void encode_normalized(const std::string& text, bool first, std::vector<int32_t>& out) const {
    normalized_added_.scan(
        text,
        [&](size_t begin, size_t end) {
          for (const Piece& piece : pre_tokenizer_({{text.substr(begin, end - begin), first && begin == 0}}))
            bpe_.encode(piece.text, out);
        },
        [&](const AddedToken& token) { out.push_back(token.id); });
  }

  Bpe bpe_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Decoder decoder_;
  AddedTokens raw_added_, normalized_added_;
  std::vector<std::string> texts_;  ///< of each id
  std::set<int32_t> special_;
  std::vector<int32_t> prefix_, suffix_;
  std::optional<int32_t> eos_;
  int32_t plain_token_ = 0;
};

std::string read_file(const fs::path& path) {
  return read_whole_file(path.string());
}

Json parse_json(const std::string& text, const std::string& source) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) fail_user("{}: no JSON object; the file is broken, fetch it again", source);
  return json;
}

/// A token named in tokenizer_config.json: a text, or an object with its content.
std::string named_token(const Json& config, const char* name) {
  auto found = config.find(name);
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  return found->is_object() && found->contains("content") && (*found)["content"].is_string() ? (*found)["content"].get<std::string>() : "";
}

/// vocab.json + merges.txt (GPT-2, OPT) as the tokenizer.json that they are short for.
Json from_vocab_and_merges(const fs::path& root) {
  Json json;
  json["model"] = {{"type", "BPE"}, {"vocab", parse_json(read_file(root / "vocab.json"), (root / "vocab.json").string())}};
  Json merges = Json::array();
  std::istringstream lines(read_file(root / "merges.txt"));
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line.starts_with("#version")) continue;
    merges.push_back(line);
  }
  json["model"]["merges"] = std::move(merges);
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  json["decoder"] = {{"type", "ByteLevel"}};
  return json;
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_json(const std::string& json, const std::string& source) {
  Json parsed = parse_json(json, source);
  try {
    return std::make_unique<JsonTokenizer>(parsed, source);
  } catch (const Json::exception& error) {
    fail_user("{}: {}; the file is broken, fetch it again", source, error.what());
  }
}

std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& directory) {
  const fs::path root(directory);
  const bool whole = file_is_there((root / "tokenizer.json").string());
  if (!whole && !(file_is_there((root / "vocab.json").string()) && file_is_there((root / "merges.txt").string())))
    fail_user("{} holds neither tokenizer.json nor vocab.json and merges.txt", directory);
  const std::string source = (root / (whole ? "tokenizer.json" : "vocab.json")).string();
  Json config = Json::object();
  if (file_is_there((root / "tokenizer_config.json").string()))
    config = parse_json(read_file(root / "tokenizer_config.json"), (root / "tokenizer_config.json").string());

  std::unique_ptr<JsonTokenizer> tokenizer;
  try {
    tokenizer = std::make_unique<JsonTokenizer>(
        whole ? parse_json(read_file(root / "tokenizer.json"), source) : from_vocab_and_merges(root), source);
  } catch (const Json::exception& error) {
    fail_user("{}: {}; the file is broken, fetch it again", source, error.what());
  }
  if (!whole) {
    // OPT puts </s> before every text; its vocabulary has it, GPT-2's has not.
    bool opt = tokenizer->id_of("</s>") == 2;
    std::string end = opt ? "</s>" : "<|endoftext|>";
    for (const char* content : {"<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>"})
      if (auto id = tokenizer->id_of(content)) tokenizer->add({*id, content, true, false, false, false, false});
    if (auto id = tokenizer->id_of(end); id && json_flag(config, "add_bos_token", opt)) tokenizer->set_prefix({*id});
    tokenizer->set_eos(end);
  }
  if (std::string eos = named_token(config, "eos_token"); !eos.empty()) tokenizer->set_eos(eos);
  return tokenizer;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens) {}

std::string StreamDecoder::push(int32_t token) {
  tokens_.push_back(token);
  // A byte may be part of a character that is still to come, and what it becomes depends on its neighbours.
  if (tokenizer_->is_byte_token(token)) return "";
  std::span<const int32_t> window(tokens_.begin() + static_cast<std::ptrdiff_t>(window_start_), tokens_.end());
  std::string before = tokenizer_->decode(window.first(emitted_ - window_start_), skip_special_tokens_);
  std::string now = tokenizer_->decode(window, skip_special_tokens_);
  if (now.size() <= before.size() || now.ends_with("\xef\xbf\xbd")) return "";
  window_start_ = emitted_;
  emitted_ = tokens_.size();
  return now.substr(before.size());
}

std::string StreamDecoder::finish() {
  std::span<const int32_t> window(tokens_.begin() + static_cast<std::ptrdiff_t>(window_start_), tokens_.end());
  std::string before = tokenizer_->decode(window.first(emitted_ - window_start_), skip_special_tokens_);
  std::string now = tokenizer_->decode(window, skip_special_tokens_);
  window_start_ = emitted_ = tokens_.size();
  return now.size() > before.size() ? now.substr(before.size()) : "";
}

}  // namespace flexgen
