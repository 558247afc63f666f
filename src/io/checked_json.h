#pragma once
// JSON that comes with checkpoints and the like, read with distrust: bounded nesting, no key twice. Pure functions.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace flexgen {

/// Where a text has its first NUL byte, npos if it has none. JSON never has one, but nlohmann's parser takes it for the end of the text and what follows for
/// nothing; so all JSON is parsed here, or by a reader that looks for one itself (tests/source_rules.py).
inline size_t nul_in(std::string_view json) { return json.find('\0'); }
/// What an error says of it.
inline constexpr std::string_view kNulAdvice =
    "a NUL byte, which JSON never has (a power cut or a bad copy leaves such holes; within a text it is written \\u0000)";

/// The value; discarded (is_discarded(), no object, no text) if the text is not JSON.
template <typename Json = nlohmann::json>
Json json_or_none(std::string_view text) {
  return nul_in(text) == std::string_view::npos ? Json::parse(text, nullptr, false) : Json(Json::value_t::discarded);
}

/// Of a text that was checked before, or is ours. Throws Error{user} "WHAT is not JSON".
template <typename Json = nlohmann::json>
Json parse_json(std::string_view text, std::string_view what) {
  Json json = json_or_none<Json>(text);
  if (json.is_discarded()) fail_user("{} is not JSON", what);
  return json;
}

/// Throws Error{user} "FILE: WHAT is not JSON ...", or is nested deeper than `max_depth`, or names a key twice in one
/// object, or has a number that is out of range; the message ends with `advice` (last-wins parsers and first-wins parsers would read two different files).
/// `twice`: the last of a key's values counts, as in Python, and keys that come again are added here.
nlohmann::json parse_checked_json(const std::string& text, int max_depth, const std::string& file_name, const std::string& what,
                                  const std::string& advice = "the file is broken, fetch it again", std::vector<std::string>* twice = nullptr);

/// What a warning says of keys that come twice where the last counts.
std::string said_of_twice(const std::vector<std::string>& names);

/// Whether arrays and objects are nested deeper than that in a text that is JSON (whatever it is otherwise): comparing and writing values go as deep into the stack.
bool nests_deeper(std::string_view json, int max_depth);

/// `name` as it may stand in a message: control characters escaped, cut after 100 bytes.
std::string printable(std::string_view name);

}  // namespace flexgen
