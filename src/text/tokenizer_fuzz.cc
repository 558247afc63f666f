// Fuzz target: a tokenizer.json that is made of the input's bytes (structure first, so that most of them load), or the bytes as they
// are; and a text for it. It may be refused with an Error; it may not crash, hang or grow without bound.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/fuzz_choices.h"
#include "text/base64.h"
#include "text/pipeline.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace {

using Json = nlohmann::json;

class Choices : public flexgen::FuzzChoices {
 public:
  using FuzzChoices::FuzzChoices;

  std::string text() {
    static const char* kTexts[] = {"a",   "b",    "ab",     " ", "  ",     "e", "",   "▁",        "é",  "e\u0301",
                                   "<s>", "</s>", "<0xC3>", "Ġ", "\u00c4", "1", "\n", "aaaaaaaa", "中", "<|x|>"};
    if (!rarely()) return kTexts[below(std::size(kTexts))];
    std::string text;
    for (size_t i = below(64); i > 0; --i) text += static_cast<char>(byte());
    return flexgen::sanitize_utf8(text);
  }
  std::string pattern() {
    static const char* kPatterns[] = {"a", "a+",  "(a+)+b", "\\s+(?!\\S)|\\s+", "\\p{N}", "(?=b)",   "b*", "", "[^a]", "(a|aa)*$",
                                      ".", "\\b", "^",      "(?<=a)b",          "\\Ka",   "(a)(?1)?"};
    return rarely() ? text() : kPatterns[below(std::size(kPatterns))];
  }
  Json id() {
    switch (below(16)) {
      case 0: return -1;
      case 1: return 1e30;
      case 2: return uint64_t{1} << 63;
      case 3: return nullptr;
      case 4: return 70'000;
      default: return below(40);
    }
  }
};

Json pattern_json(Choices& choose) {
  if (choose.flag()) return {{"String", choose.text()}};
  return {{"Regex", choose.pattern()}};
}

Json steps_json(Choices& choose, const char* list, Json (*make)(Choices&, int), int depth) {
  Json steps = Json::array();
  for (size_t i = choose.below(depth > 0 ? 6 : 2); i > 0; --i) steps.push_back(make(choose, depth - 1));
  return {{"type", "Sequence"}, {list, steps}};
}

Json normalizer_json(Choices& choose, int depth) {
  static const char* kForms[] = {"NFC", "NFD", "NFKC", "NFKD"};
  switch (choose.below(11)) {
    case 10: {
      std::string bytes(1, static_cast<char>(4 * choose.below(16)));
      bytes.resize(4);
      for (size_t i = choose.below(80); i > 0; --i) bytes += static_cast<char>(choose.byte());
      return {{"type", "Precompiled"}, {"precompiled_charsmap", flexgen::base64_text(bytes)}};
    }
    case 0: return nullptr;
    case 1: return {{"type", kForms[choose.below(4)]}};
    case 8: return {{"type", "Lowercase"}};
    case 9: return {{"type", "Strip"}, {"strip_left", choose.flag()}, {"strip_right", choose.flag()}};
    case 2: return {{"type", "Prepend"}, {"prepend", choose.text()}};
    case 3:
    case 4: return {{"type", "Replace"}, {"pattern", pattern_json(choose)}, {"content", choose.text()}};
    case 5: return {{"type", choose.text()}};
    default: return depth > 0 ? steps_json(choose, "normalizers", normalizer_json, depth) : Json();
  }
}

Json pre_tokenizer_json(Choices& choose, int depth) {
  static const char* kBehaviors[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
  static const char* kSchemes[] = {"always", "never", "first", "x"};
  switch (choose.below(11)) {
    case 0: return nullptr;
    case 8: return {{"type", "Punctuation"}, {"behavior", kBehaviors[choose.below(5)]}};
    case 9: return {{"type", "WhitespaceSplit"}};
    case 10: return {{"type", "Whitespace"}};
    case 1: return {{"type", "ByteLevel"}, {"add_prefix_space", choose.flag()}, {"use_regex", choose.flag()}};
    case 2:
      return {
          {"type", "Metaspace"}, {"replacement", choose.flag() ? "▁" : choose.text()}, {"prepend_scheme", kSchemes[choose.below(4)]}, {"split", choose.flag()}};
    case 3: return {{"type", "Digits"}, {"individual_digits", choose.flag()}};
    case 4:
    case 5: return {{"type", "Split"}, {"pattern", pattern_json(choose)}, {"behavior", kBehaviors[choose.below(5)]}, {"invert", choose.flag()}};
    default: return depth > 0 ? steps_json(choose, "pretokenizers", pre_tokenizer_json, depth) : Json();
  }
}

Json decoder_json(Choices& choose, int depth) {
  switch (choose.below(9)) {
    case 0: return {{"type", "ByteLevel"}};
    case 1: return {{"type", "ByteFallback"}};
    case 2: return {{"type", "Fuse"}};
    case 3: return {{"type", "Replace"}, {"pattern", pattern_json(choose)}, {"content", choose.text()}};
    case 4: return {{"type", "Strip"}, {"content", choose.text()}, {"start", choose.below(4)}, {"stop", choose.id()}};
    case 5: return {{"type", "Metaspace"}, {"replacement", "▁"}};
    case 6: return nullptr;
    default: return depth > 0 ? steps_json(choose, "decoders", decoder_json, depth) : Json{{"type", "Fuse"}};
  }
}

Json template_json(Choices& choose, int depth) {
  if (depth > 0 && choose.below(4) == 0) return steps_json(choose, "processors", template_json, depth);
  if (choose.below(4) == 0) return {{"type", "ByteLevel"}};
  if (choose.rarely()) return {{"type", "RobertaProcessing"}, {"cls", {"a", choose.id()}}, {"sep", {"b", choose.id()}}};
  Json single = Json::array(), ids = Json::array();
  for (size_t i = choose.below(4); i > 0; --i) ids.push_back(choose.id());
  for (size_t i = choose.below(5); i > 0; --i) single.push_back({{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}});
  if (!choose.rarely()) single.push_back({{"Sequence", {{"id", choose.rarely() ? "B" : "A"}, {"type_id", 0}}}});
  return {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", ids}}}}}};
}

Json tokenizer_json(Choices& choose) {
  Json vocab = Json::object(), merges = Json::array(), added = Json::array();
  int32_t next = 0;
  for (const char* text : {"a", "b", "ab", "e", "▁", "<unk>", "Ġ", "1", " ", "<0xC3>", "<0xA9>", "Ã", "©"}) vocab[text] = next++;
  for (size_t i = choose.below(8); i > 0; --i) vocab[choose.text()] = choose.rarely() ? choose.id() : Json(next++);
  for (size_t i = choose.below(6); i > 0; --i) {
    std::string left = choose.text(), right = choose.text();
    if (!choose.rarely())
      for (const std::string& text : {left, right, left + right})
        if (!vocab.contains(text)) vocab[text] = next++;
    merges.push_back(choose.rarely() ? Json(left + " " + right) : Json::array({left, right}));
  }
  for (size_t i = choose.below(6); i > 0; --i)
    added.push_back({{"id", choose.rarely() ? choose.id() : Json(next++)},
                     {"content", choose.text()},
                     {"special", choose.flag()},
                     {"normalized", choose.flag()},
                     {"lstrip", choose.flag()},
                     {"rstrip", choose.flag()},
                     {"single_word", choose.flag()}});
  Json model = {
      {"type", "BPE"}, {"vocab", vocab}, {"merges", merges}, {"byte_fallback", choose.flag()}, {"fuse_unk", choose.flag()}, {"ignore_merges", choose.flag()}};
  if (choose.flag()) model["unk_token"] = choose.rarely() ? choose.text() : "<unk>";
  switch (choose.below(3)) {
    case 0: {
      Json pieces = Json::array();
      for (const auto& [text, id] : vocab.items())
        pieces.push_back({choose.rarely() ? choose.text() : text, choose.rarely() ? choose.id() : Json(-0.25 * static_cast<double>(choose.byte()))});
      model = {{"type", "Unigram"}, {"vocab", pieces}, {"byte_fallback", choose.flag()}};
      if (choose.flag()) model["unk_id"] = choose.id();
      break;
    }
    case 1: model = {{"type", "WordLevel"}, {"vocab", vocab}, {"unk_token", choose.flag() ? "<unk>" : choose.text()}}; break;
    default: break;
  }
  return {{"model", model},
          {"added_tokens", added},
          {"normalizer", normalizer_json(choose, 3)},
          {"pre_tokenizer", pre_tokenizer_json(choose, 3)},
          {"decoder", decoder_json(choose, 3)},
          {"post_processor", choose.flag() ? template_json(choose, 2) : Json()}};
}

/// The rest of the bytes, or a pattern of words many times over.
std::string fuzz_text(Choices& choose) {
  std::string text;
  if (choose.flag()) {
    for (size_t i = choose.below(8); i > 0; --i) text += choose.text();
    std::string many;
    for (size_t i = size_t{1} << choose.below(12); i > 0; --i) many += text;
    text = std::move(many);
  }
  return text + choose.rest() + " Hello wörld 123 </s>";
}

void check(const flexgen::Tokenizer& tokenizer, const std::string& text) {
  const auto ids = tokenizer.encode(text, true);
  for (int32_t id : ids)
    if (id < 0) __builtin_trap();
  const auto plain = tokenizer.encode(text, false);
  if (plain.size() > ids.size()) __builtin_trap();
  // Bounded by what the header promises: 32 times the text and 64 KiB, a token a byte at most; and the template.
  if (ids.size() > flexgen::GrowthLimit(3 * text.size()).left() + 10'000) __builtin_trap();
  const std::string decoded = tokenizer.decode(ids, false);
  if (flexgen::sanitize_utf8(decoded) != decoded) __builtin_trap();
  flexgen::StreamDecoder stream(tokenizer);
  for (size_t i = 0; i < std::min<size_t>(ids.size(), 300); ++i) {
    stream.push(ids[i]);
    tokenizer.token_text(ids[i]);
  }
  stream.finish();
  tokenizer.prefix_text();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Choices choose(data, size);
  try {
    if (choose.byte() % 8 == 0) {
      const std::string json = choose.rest();
      check(*flexgen::Tokenizer::from_json(json, "tokenizer.json"), json.substr(0, 200));
    } else {
      const std::string json = tokenizer_json(choose).dump(-1, ' ', false, Json::error_handler_t::replace);
      check(*flexgen::Tokenizer::from_json(json, "tokenizer.json"), fuzz_text(choose));
    }
  } catch (const flexgen::Error&) {
  }
  return 0;
}
