#pragma once
// For tests: a tokenizer for checkpoints of random weights, and grammars for every second request of a list, of all kinds and with a dead end among them. One thread.

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "generation/request.h"
#include "text/grammar/grammar.h"
#include "text/grammar/json_schema.h"

namespace flexgen {

/// Writes tokenizer.json: printable ASCII byte by byte and in pairs, so that a text can be written in many ways; no byte of another character. `eos` and what stands before it are special.
inline void write_ascii_tokenizer(const std::string& directory, int32_t vocab_size, int32_t eos) {
  using Json = nlohmann::json;
  Json vocab = Json::object(), added = Json::array();
  for (int32_t id = 0; id <= eos; ++id) {
    const std::string text = id == eos ? "</s>" : "<" + std::to_string(id) + ">";
    vocab[text] = id;
    added.push_back({{"id", id}, {"content", text}, {"special", true}, {"normalized", false}, {"lstrip", false}, {"rstrip", false}, {"single_word", false}});
  }
  const auto add = [&](const std::string& text) {
    if (const auto id = static_cast<int32_t>(vocab.size()); id < vocab_size && !vocab.contains(text)) vocab[text] = id;
  };
  add("\u0120");  // a blank in the alphabet of bytes
  for (char c = '!'; c <= '~'; ++c) add({c});
  for (const char first : std::string("\"{}[]:,0123abcdefxyz"))
    for (const char second : std::string("\":,}]a01bcxe{[")) add({first, second});
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  std::ofstream(directory + "/tokenizer.json") << Json{{"version", "1.0"},
                                                       {"added_tokens", added},
                                                       {"normalizer", nullptr},
                                                       {"pre_tokenizer", byte_level},
                                                       {"post_processor", nullptr},
                                                       {"decoder", byte_level},
                                                       {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
}

/// What each grammar of with_grammars() is, in turn.
inline const std::vector<GrammarSpec>& grammars_in_turn() {
  using Kind = GrammarSpec::Kind;
  static const std::vector<GrammarSpec> grammars{
      {Kind::kJsonSchema,
       honoured_schema(
           R"({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "y", null]}}, "required": ["a"]})"),
       {},
       true},
      {Kind::kRegex, "[a-c]{2,5}x?", {}, true},
      {Kind::kChoice, "", {"a\u00e9"}, true},  // the tokenizer writes the "a" alone
      {Kind::kEbnf, "root ::= \"(\" root \")\" | \"x\" | \"y\" root", {}, true},
      {Kind::kJsonObject, "", {}, false},
      {Kind::kChoice, "", {"yes", "no", "maybe", "0101"}, true}};
  return grammars;
}
/// Of grammars_in_turn(), the one that no answer can follow to its end.
inline constexpr size_t kDeadEndGrammar = 2;

/// Gives every second request a grammar; what may not stand beside one is taken out.
inline void with_grammars(std::vector<Request>& requests) {
  for (size_t i = 0; i < requests.size(); i += 2) {
    SamplingParams& params = requests[i].params;
    params.grammar = std::make_shared<const GrammarSpec>(grammars_in_turn()[i / 2 % grammars_in_turn().size()]);
    params.min_tokens = 0;
    params.bad_words.clear();
    params.stop_token_ids.clear();
    if (params.max_tokens > 0) params.max_tokens += 6;
  }
}

}  // namespace flexgen
