#pragma once
// Formats of xgrammar's structural tags, as GrammarSpec::Kind::kStructure has them, of which the grammars of calls and of thoughts are made. Pure functions; any thread.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace flexgen::structure {

using Format = nlohmann::ordered_json;

Format const_text(const std::string& text);
/// Null elements count for nothing.
Format sequence_of(const std::vector<Format>& elements);
Format one_of(const std::vector<Format>& elements);
Format maybe(const Format& content);
/// In which none of `excluded` comes.
Format any_text(const std::vector<std::string>& excluded = {});
/// The token that the mark is, if it is a special one of `tokenizer` (null: none are): such a token has no bytes, and no other way leads to it.
std::optional<int32_t> special_token(const std::string& mark, const Tokenizer* tokenizer);
/// That token, or else the mark as text; null for no mark.
Format mark_of(const std::string& mark, const Tokenizer* tokenizer);
/// The text of a message of harmony: without what is read as the end of one.
Format harmony_text();
/// A message of harmony with another one behind it: thoughts, or what is said before a call. From the mark of its channel to where that of the next one stands.
Format harmony_message(const std::string& channel, const Tokenizer* tokenizer);

}  // namespace flexgen::structure
