#pragma once
// What several JSON schemas say together, as one: `allOf`, keywords beside `$ref`, `anyOf` and `oneOf`, and what says "unless" (`if`, `not`, `dependentRequired`). Pure functions; any thread.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace flexgen {

/// One schema without `allOf` at its top whose values are valid by both (by less than both where that is simpler to say); nothing: no value is. Throws Error{user} where it cannot be said.
std::optional<nlohmann::ordered_json> both_schemas(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b);

/// Whether keywords of `schema` stand together that a grammar has no form for, so that joined_schema() must say them otherwise.
bool has_parts(const nlohmann::ordered_json& schema);

/// The same as one schema, or as the options of an `anyOf` (of a `oneOf` where it is not known that no value fits two). References are looked up in `root`, the whole schema as it was given.
/// Throws Error{user}: what cannot be joined, and that no value is left.
nlohmann::ordered_json joined_schema(const nlohmann::ordered_json& schema, const nlohmann::ordered_json& root);

}  // namespace flexgen
