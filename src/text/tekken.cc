#include "text/tekken.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <tuple>
#include <unordered_map>

#include "base/error.h"
#include "io/checked_json.h"
#include "text/base64.h"
#include "text/byte_level.h"
#include "text/merge_bounds.h"
#include "text/pipeline.h"

namespace flexgen {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxTokens = 10'000'000;

int64_t count_of(const Json& config, const char* name, int64_t otherwise, const std::string& source) {
  const auto found = config.find(name);
  if (found == config.end() || found->is_null()) return otherwise;
  if (!found->is_number_integer() || found->get<int64_t>() < 0 || found->get<int64_t>() > kMaxTokens)
    fail_user("{}: the field '{}' is {}, not a number of tokens", source, name, shown(*found));
  return found->get<int64_t>();
}

std::vector<std::string> special_tokens(const Json& json, int64_t count, const std::string& source) {
  if (!json.contains("special_tokens") || json["special_tokens"].is_null())
    fail_user("{}: it has no special_tokens (an old file), which only Mistral's own program knows; fetch tokenizer.json of the same model", source);
  const Json& list = json_list(json, "special_tokens", source);
  const int64_t given = std::ssize(list);
  std::vector<std::string> tokens(static_cast<size_t>(given));
  for (const Json& entry : list) {
    const Json& rank = json_field(entry, "rank", source);
    if (!rank.is_number_integer() || rank.get<int64_t>() < 0 || rank.get<int64_t>() >= given || !tokens[static_cast<size_t>(rank.get<int64_t>())].empty())
      fail_user("{}: the ranks of its special_tokens are not 0, 1 and so on", source);
    tokens[static_cast<size_t>(rank.get<int64_t>())] = json_text(entry, "token_str", source);
  }
  for (int64_t i = given; i < count; ++i) tokens.push_back(fmt::format("<SPECIAL_{}>", i));
  return tokens;
}

Json split_by(const Json& pattern) { return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}}; }
Json plain_byte_level() { return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}; }

/// Of a version of transformers; its trial versions (5.0.0.dev0, 5.0.0rc1) come before it. None: it is no version.
std::optional<bool> is_before_5(std::string_view version) {
  uint32_t major = 0;
  const auto [end, error] = std::from_chars(version.data(), version.data() + version.size(), major);
  if (error != std::errc()) return std::nullopt;
  if (major != 5) return major < 5;
  const std::string_view behind(end, static_cast<size_t>(version.data() + version.size() - end));
  const std::string_view rest = behind.substr(std::min(behind.find_first_not_of(".-_0"), behind.size()));
  constexpr std::string_view kTrials[]{"dev", "a", "b", "c", "rc", "pre"};
  return std::any_of(std::begin(kTrials), std::end(kTrials), [&](std::string_view trial) { return rest.starts_with(trial); });
}

}  // namespace

Tekken read_tekken(const Json& json, const std::string& source) {
  const Json& config = json_field(json, "config", source);
  if (!config.is_object()) fail_user("{}: the field 'config' is no object; fetch the file again", source);
  const Json& list = json_list(json, "vocab", source);
  Tekken tekken;
  const int64_t specials = count_of(config, "default_num_special_tokens", -1, source);
  tekken.specials = special_tokens(json, specials, source);
  const int64_t first = specials < 0 ? std::ssize(tekken.specials) : specials;
  const int64_t wanted = count_of(config, "default_vocab_size", first + std::ssize(list), source) - first;
  if (wanted < 0 || first < std::ssize(tekken.specials))
    fail_user("{}: it has more special tokens than default_num_special_tokens or default_vocab_size says", source);

  std::vector<std::string> tokens;
  std::unordered_map<std::string_view, size_t> ranks;
  uint64_t work = 0;
  tokens.reserve(list.size());
  for (const Json& entry : list) {
    if (std::ssize(tokens) == wanted) break;
    const std::optional<std::string> bytes = base64_bytes(json_text(entry, "token_bytes", source));
    if (!bytes || bytes->empty() || bytes->size() > kMaxMergedBytes)
      fail_user("{}: token_bytes of rank {} are no Base64, or too long; fetch the file again", source, tokens.size());
    work += bytes->size() * bytes->size();
    tokens.push_back(*bytes);
  }
  if (work > kMaxMergeWork) fail_user("{}: its tokens are too many and too long; check the file", source);
  for (size_t rank = 0; rank < tokens.size(); ++rank)
    if (!ranks.emplace(tokens[rank], rank).second) fail_user("{}: the token of rank {} is there twice; fetch the file again", source, rank);

  Json vocab = Json::object(), merges = Json::array();
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    vocab[bytes_to_alphabet(tokens[rank])] = rank + static_cast<size_t>(first);
    std::vector<std::pair<size_t, size_t>> ways;
    const std::string_view token = tokens[rank];
    for (size_t at = 1; at < token.size(); ++at) {
      const auto left = ranks.find(token.substr(0, at)), right = ranks.find(token.substr(at));
      if (left != ranks.end() && right != ranks.end()) ways.emplace_back(left->second, right->second);
    }
    std::sort(ways.begin(), ways.end());
    for (const auto& [left, right] : ways) merges.push_back(Json::array({bytes_to_alphabet(tokens[left]), bytes_to_alphabet(tokens[right])}));
  }
  for (size_t id = 0; id < tekken.specials.size(); ++id) vocab[tekken.specials[id]] = id;  // an ordinary token of that text has lost its id
  tekken.tokenizer["model"] = {{"type", "BPE"}, {"vocab", std::move(vocab)}, {"merges", std::move(merges)}, {"ignore_merges", true}};
  tekken.tokenizer["pre_tokenizer"] = {{"type", "Sequence"},
                                       {"pretokenizers", Json::array({split_by(json_text(config, "pattern", source)), plain_byte_level()})}};
  tekken.tokenizer["decoder"] = {{"type", "ByteLevel"}};
  return tekken;
}

bool split_was_written_wrong(const Json& model_config, const std::string& source) {
  const Json version = model_config.value("transformers_version", Json()), type = model_config.value("model_type", Json());
  if (!version.is_null() && version != "") {
    const std::optional<bool> is_old = version.is_string() ? is_before_5(version.get<std::string>()) : std::nullopt;
    if (!is_old) fail_user("{}: the field 'transformers_version' is {}, no version, and fix_mistral_regex goes by it", source, shown(version));
    if (!*is_old) return false;
  }
  constexpr const char* kTypes[]{"mistral", "mistral3", "voxtral", "ministral", "pixtral"};
  return type.is_null() || std::any_of(std::begin(kTypes), std::end(kTypes), [&](const char* known) { return type == known; });
}

Json with_tekken_split(Json pre_tokenizer, const std::string& source) {
  const Json type = pre_tokenizer.value("type", Json()), split = split_by(kTekkenPattern);
  if (type == "Sequence") {
    Json& steps = pre_tokenizer["pretokenizers"];
    if (!steps.is_array() || steps.empty()) fail_user("{}: the pre_tokenizer has no first step, which fix_mistral_regex puts another in the place of", source);
    steps[0] = split;
    return pre_tokenizer;
  }
  if (type == "Metaspace") pre_tokenizer = plain_byte_level();  // its marks for blanks would be lost
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({split, std::move(pre_tokenizer)})}};
}

}  // namespace flexgen
