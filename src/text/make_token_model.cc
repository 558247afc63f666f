#include "text/token_model.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/error.h"
#include "io/checked_json.h"
#include "text/bpe.h"
#include "text/pipeline.h"
#include "text/unigram.h"
#include "text/word_level.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr int32_t kMaxTokenId = 10'000'000;

std::unordered_map<std::string, int32_t> read_vocab(const Json& model, const std::string& source) {
  const Json& vocab_json = json_field(model, "vocab", source);
  if (!vocab_json.is_object()) fail_user("{}: the vocabulary is no object", source);
  std::unordered_map<std::string, int32_t> vocab;
  vocab.reserve(vocab_json.size());
  for (const auto& [text, id] : vocab_json.items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxTokenId)
      fail_user("{}: the token '{}' has the id {}", source, printable(text), shown(id));
    vocab[text] = id.get<int32_t>();
  }
  return vocab;
}

std::unique_ptr<TokenModel> make_bpe(const Json& model, const std::string& source) {
  if (auto dropout = model.find("dropout"); dropout != model.end() && dropout->is_number() && dropout->get<double>() != 0)
    fail_user("{}: the model has a dropout of {}, so one text has many encodings; set it to null", source, shown(*dropout));
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (model.contains(name) && !model[name].is_null() && model[name] != "") fail_user("{}: '{}' is not supported", source, name);
  std::unordered_map<std::string, int32_t> vocab = read_vocab(model, source);
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
    if (std::count(text.begin(), text.end(), ' ') > 64) space = std::string::npos;  // trying each takes n^2
    // Old files leave merges of tokens that contain spaces ambiguous: the vocabulary tells.
    while (space != std::string::npos && text.find(' ', space + 1) != std::string::npos &&
           !(vocab.contains(text.substr(0, space)) && vocab.contains(text.substr(space + 1))))
      space = text.find(' ', space + 1);
    if (space == std::string::npos) fail_user("{}: the merge {} is not two tokens", source, shown(merge));
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  BpeOptions options;
  options.byte_fallback = json_flag(model, "byte_fallback", false);
  options.ignore_merges = json_flag(model, "ignore_merges", false);
  options.fuse_unknown = json_flag(model, "fuse_unk", false);
  if (model.contains("unk_token") && model["unk_token"].is_string()) options.unknown_token = model["unk_token"].get<std::string>();
  return std::make_unique<Bpe>(std::move(vocab), merges, options, source);
}

/// [["<unk>", 0.0], ["▁the", -3.5], ...]
std::unique_ptr<TokenModel> make_unigram(const Json& model, const std::string& source) {
  std::vector<std::pair<std::string, double>> pieces;
  for (const Json& piece : json_list(model, "vocab", source)) {
    if (!piece.is_array() || piece.size() != 2 || !piece[0].is_string() || !piece[1].is_number() || !std::isfinite(piece[1].get<double>()))
      fail_user("{}: the piece {} of the vocabulary is no text with a score", source, pieces.size());
    pieces.emplace_back(piece[0].get<std::string>(), piece[1].get<double>());
  }
  if (pieces.size() > kMaxTokenId) fail_user("{}: the vocabulary has {} pieces; flexgen takes {}", source, pieces.size(), kMaxTokenId);
  std::optional<int32_t> unknown;
  if (auto id = model.find("unk_id"); id != model.end() && !id->is_null()) {
    if (!id->is_number_integer() || id->get<int64_t>() < 0 || id->get<uint64_t>() > kMaxTokenId)
      fail_user("{}: the field 'unk_id' is {}, not an id", source, shown(*id));
    unknown = id->get<int32_t>();
  }
  return std::make_unique<Unigram>(std::move(pieces), unknown, json_flag(model, "byte_fallback", false), source);
}

}  // namespace

std::unique_ptr<TokenModel> make_token_model(const Json& tokenizer, const std::string& source) {
  const Json& model = json_field(tokenizer, "model", source);
  const std::string type = model.is_object() && model.contains("type") ? json_text(model, "type", source) : "BPE";
  if (type == "BPE") return make_bpe(model, source);
  if (type == "Unigram") return make_unigram(model, source);
  if (type == "WordLevel") return std::make_unique<WordLevel>(read_vocab(model, source), json_text(model, "unk_token", source), source);
  fail_user("{}: the model '{}' is not supported; flexgen knows BPE, Unigram and WordLevel", source, printable(type));
}

}  // namespace flexgen
