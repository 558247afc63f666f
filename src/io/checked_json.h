#pragma once
// JSON that comes with checkpoints and the like, read with distrust: bounded nesting, no key twice. Pure functions.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace flexgen {

/// Throws Error{user} "FILE: WHAT is not JSON ...", or is nested deeper than `max_depth`, or names a key twice in one
/// object, or has a number that is out of range; the message ends with `advice` (last-wins parsers and first-wins parsers would read two different files).
nlohmann::json parse_checked_json(const std::string& text, int max_depth, const std::string& file_name, const std::string& what,
                                  const std::string& advice = "the file is broken, fetch it again");

/// Whether arrays and objects are nested deeper than that in a text that is JSON (whatever it is otherwise): comparing and writing values go as deep into the stack.
bool nests_deeper(std::string_view json, int max_depth);

/// `name` as it may stand in a message: control characters escaped, cut after 100 bytes.
std::string printable(std::string_view name);

}  // namespace flexgen
