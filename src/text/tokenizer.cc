#include "text/tokenizer.h"

#include <algorithm>
#include <charconv>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "io/checked_json.h"
#include "text/added_tokens.h"
#include "text/byte_level.h"
#include "text/pipeline.h"
#include "text/post_processor.h"
#include "text/token_model.h"
#include "text/tokenizer_files.h"
#include "text/unicode.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

class JsonTokenizer : public Tokenizer {
 public:
  explicit JsonTokenizer(const TokenizerFiles& files)
      : model_(make_token_model(files.json, files.source)), normalizer_(make_normalizer(files.json.value("normalizer", Json()), files.source)),
        pre_tokenizer_(make_pre_tokenizer(files.json.value("pre_tokenizer", Json()), files.source)),
        decoder_(make_decoder(files.json.value("decoder", Json()), files.source)),
        bytes_by_alphabet_(has_decoder_step(files.json.value("decoder", Json()), "ByteLevel")),
        bytes_by_fallback_(has_decoder_step(files.json.value("decoder", Json()), "ByteFallback")), split_special_tokens_(files.split_special_tokens),
        special_tokens_(files.special_tokens) {
    refuse_dropped_start(files.json.value("normalizer", Json()), files.json.value("pre_tokenizer", Json()), files.source);
    model_->for_each([&](const std::string& text, int32_t id) { set_text(id, text, files.source); });
    add_tokens(files);
    if (files.own_template) {
      if (auto id = id_of(files.begin_token)) prefix_.push_back(*id);
      if (auto id = id_of(files.end_token)) suffix_.push_back(*id);
    } else {
      PostProcessor processor = read_post_processor(files.json.value("post_processor", Json()), files.source);
      prefix_ = std::move(processor.before);
      suffix_ = std::move(processor.behind);
    }
    if (!files.eos.empty()) eos_ = id_of(files.eos);
  }

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override {
    std::vector<int32_t> out;
    if (add_special_tokens) out = prefix_;
    const std::string clean = sanitize_utf8(text);
    GrowthLimit normalized_limit(clean.size()), piece_limit(clean.size());
    added_.scan_raw(
        clean, split_special_tokens_,
        [&](size_t begin, size_t end) {
          const std::string normalized = normalizer_(clean.substr(begin, end - begin), normalized_limit.left());
          normalized_limit.take(normalized.size());
          encode_normalized(normalized, begin == 0, piece_limit, out);
        },
        [&](int32_t id) { out.push_back(id); });
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

  /// One that is a token by itself is found without encoding it, as this is asked for each line of a job.
  bool has_special_tokens(std::string_view text) const override {
    if (!split_special_tokens_)
      if (const std::optional<int32_t> id = added_.find(std::string(text))) return special_.contains(*id);
    const std::vector<int32_t> tokens = encode(text, false);
    return std::any_of(tokens.begin(), tokens.end(), [&](int32_t token) { return special_.contains(token); });
  }

  std::string token_text(int32_t token) const override {
    if (token < 0 || token >= vocab_size()) return "";
    if (special_.contains(token) || is_byte_token(token)) return texts_[static_cast<size_t>(token)];
    // Behind another token, so that a decoder which strips the start of a text leaves a leading space alone.
    std::string lead = decode(std::vector<int32_t>{plain_token_}, false);
    std::string both = decode(std::vector<int32_t>{plain_token_, token}, false);
    return both.starts_with(lead) ? both.substr(lead.size()) : decode(std::vector<int32_t>{token}, false);
  }

  std::string token_bytes(int32_t token) const override {
    if (token < 0 || token >= vocab_size() || special_.contains(token)) return "";
    const std::string& text = texts_[static_cast<size_t>(token)];
    if (bytes_by_alphabet_)
      if (std::optional<std::string> bytes = alphabet_to_bytes(text)) return *bytes;
    unsigned byte = 0;
    if (bytes_by_fallback_ && is_byte_token(token) && std::from_chars(text.data() + 3, text.data() + 5, byte, 16).ptr == text.data() + 5)
      return {static_cast<char>(byte)};
    return is_byte_token(token) ? text : token_text(token);
  }

  bool is_byte_token(int32_t token) const override {
    if (token < 0 || token >= vocab_size()) return false;
    const std::string& text = texts_[static_cast<size_t>(token)];
    return text.size() == 6 && text.starts_with("<0x") && text[5] == '>';
  }

  int64_t vocab_size() const override { return static_cast<int64_t>(texts_.size()); }
  std::span<const int32_t> prefix() const override { return prefix_; }
  std::optional<int32_t> eos() const override { return eos_; }
  std::vector<std::pair<std::string, std::string>> special_tokens() const override { return special_tokens_; }

  /// What a user should know about `files`: where transformers 5 was followed against one of them.
  std::vector<std::string> warnings(const TokenizerFiles& files) const {
    std::vector<std::string> result = files.warnings;
    auto contradiction = [&](const char* field, std::optional<bool> says, const std::vector<int32_t>& tokens, const char* where) {
      if (says && *says == tokens.empty())
        result.push_back(fmt::format("tokenizer_config.json says {}: {}, but {} puts {} {} a text; as in transformers 5 that counts", field, *says,
                                     files.own_template ? "the tokenizer class" : "the post-processor of tokenizer.json",
                                     tokens.empty() ? "no token" : fmt::format("'{}'", printable(token_text(tokens.front()))), where));
    };
    contradiction("add_bos_token", files.says_begin, prefix_, "before");
    contradiction("add_eos_token", files.says_end, suffix_, "behind");
    int64_t moved = 0;
    std::string first;
    for (const ExpectedId& expected : files.expected_ids) {
      const std::optional<int32_t> id = id_of(expected.content);
      if (id == expected.id) continue;
      if (moved++ == 0)
        first = fmt::format("{}: the token '{}' has the id {} in {}, but {}", files.source, printable(expected.content), expected.id, expected.file,
                            id ? fmt::format("gets {}", *id) : "is dropped");
    }
    if (moved > 0) result.push_back(fmt::format("{}, as in transformers 5{}", first, moved > 1 ? fmt::format("; so do {} more", moved - 1) : ""));
    return result;
  }

 private:
  static bool has_decoder_step(const Json& decoder, std::string_view type) {
    return any_step(decoder, "decoders", [&](const Json& step) { return step.value("type", Json()) == type; });
  }

  /// Each id's text has a place in memory, so ids may not be far apart.
  void set_text(int32_t id, const std::string& text, const std::string& source) {
    const int64_t most = (int64_t{1} << 20) + 16 * model_->size();
    if (id >= most) fail_user("{}: the token '{}' has the id {}, but the vocabulary has {} tokens", source, printable(text), id, model_->size());
    if (id >= vocab_size()) texts_.resize(static_cast<size_t>(id) + 1);
    std::string& place = texts_[static_cast<size_t>(id)];
    if (!place.empty() && place != text && !added_.tokens().contains(id))
      fail_user("{}: the tokens '{}' and '{}' have one id, {}", source, printable(place), printable(text), id);
    place = text;
    if (text == "a") plain_token_ = id;
  }

  void add_tokens(const TokenizerFiles& files) {
    size_t bytes = 0;
    for (const AddedToken& token : files.added) {
      added_.add(token, model_->size(), [&](const std::string& content) { return model_->find(content); });
      bytes += token.content.size();
    }
    GrowthLimit limit(2 * bytes);  // each is normalized twice
    auto normalize = [&](const std::string& content) {
      std::string normalized = normalizer_(sanitize_utf8(content), limit.left());
      limit.take(normalized.size());
      return normalized;
    };
    added_.finish(normalize);
    for (const auto& [id, token] : added_.tokens()) {
      const bool special = added_.is_special(token.content);
      // As PyPI tokenizers decodes it. (There a special one would then no longer be left out.)
      set_text(id, token.normalized && !special ? normalize(token.content) : token.content, files.source);
      if (special) special_.insert(id);
    }
  }

  std::optional<int32_t> id_of(const std::string& content) const {
    if (auto id = added_.find(content)) return id;
    return model_->find(content);
  }

  void encode_normalized(const std::string& text, bool first, GrowthLimit& limit, std::vector<int32_t>& out) const {
    added_.scan_normalized(
        text, split_special_tokens_,
        [&](size_t begin, size_t end) {
          size_t bytes = 0;
          for (const TextPiece& piece : pre_tokenizer_({{text.substr(begin, end - begin), first && begin == 0}}, limit.left())) {
            model_->encode(piece.text, out);
            bytes += piece.text.size();
          }
          limit.take(bytes);
        },
        [&](int32_t id) { out.push_back(id); });
  }

  std::unique_ptr<TokenModel> model_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  TokenDecoder decoder_;
  bool bytes_by_alphabet_, bytes_by_fallback_;  ///< how the decoder writes bytes
  AddedTokens added_;
  bool split_special_tokens_;
  std::vector<std::string> texts_;  ///< of each id
  std::set<int32_t> special_;
  std::vector<int32_t> prefix_, suffix_;
  std::optional<int32_t> eos_;
  std::vector<std::pair<std::string, std::string>> special_tokens_;
  int32_t plain_token_ = 0;
};

/// Each message once in a process, however often a checkpoint is opened.
void warn_once(const std::string& message) {
  static std::mutex mutex;
  static std::set<std::string> said;
  std::lock_guard lock(mutex);
  if (said.insert(message).second) spdlog::warn("{}", message);
}

std::unique_ptr<JsonTokenizer> make_tokenizer(const TokenizerFiles& files) {
  try {
    return std::make_unique<JsonTokenizer>(files);
  } catch (const Json::exception& error) {
    fail_user("{}: {}; the file is broken, fetch it again", files.source, error.what());
  }
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_json(const std::string& json, const std::string& source) { return make_tokenizer(tokenizer_files_of(json, source)); }

std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& directory) {
  const TokenizerFiles files = read_tokenizer_files(directory);
  auto tokenizer = make_tokenizer(files);
  for (const std::string& warning : tokenizer->warnings(files)) warn_once(warning);
  return tokenizer;
}

std::span<const int32_t> end_of_prompt(const Tokenizer& tokenizer, std::span<const int32_t> prompt, bool skip_special_tokens) {
  constexpr size_t kTokens = 6;
  const std::span<const int32_t> end = prompt.last(std::min(prompt.size(), kTokens));
  return tokenizer.decode(end, skip_special_tokens).ends_with("\xef\xbf\xbd") ? std::span<const int32_t>() : end;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens, std::span<const int32_t> before)
    : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens), tokens_(before.begin(), before.end()), emitted_(before.size()) {}

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
