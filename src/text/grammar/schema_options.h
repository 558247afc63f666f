#pragma once
// Which options of a JSON schema's `oneOf` no value fits two of, so that "one of them" says the same as "any of them"; and how a schema is looked at for it. Pure functions; any thread.

#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

namespace flexgen {

/// As a schema's `type` names it: "integer" for whole numbers, "boolean", "string", and so on.
std::string json_type(const nlohmann::ordered_json& value);

/// The value as a text that is the same for equal values: 1 and 1.0, and objects whose members stand in another order.
std::string value_key(const nlohmann::ordered_json& value);

/// `value_key()` of each of a list.
std::set<std::string> value_keys(const nlohmann::ordered_json& values);

/// A number as it is compared; what 64 bits hold stays what it is.
long double number_of(const nlohmann::ordered_json& number);

/// A value where a list of them may stand as well.
nlohmann::ordered_json as_list(const nlohmann::ordered_json& value);

/// Of `const` or `enum`; nothing if a schema has neither.
std::optional<nlohmann::ordered_json> schema_values(const nlohmann::ordered_json& schema);

/// What stands at the place that a `$ref` within `root` names ("#", "#/a/b", behind root's `$id` too); null where there is nothing, or it names no place.
const nlohmann::ordered_json* referenced(const nlohmann::ordered_json& root, const std::string& reference);

/// A schema, or what its chain of references within `root` leads to; null where that is nothing.
const nlohmann::ordered_json* target_of(const nlohmann::ordered_json& schema, const nlohmann::ordered_json& root);

/// A keyword that says nothing of which values fit: `title`, `$defs`, `x-...`.
bool is_schema_note(const std::string& name);

/// Whether a value is of the type, whole numbers of "number" too.
bool is_of_type(const nlohmann::ordered_json& value, const std::string& type);

/// Whether it can be seen that all values that `schema` allows are of one of `types`. References are looked up in `root`.
bool allows_only(const nlohmann::ordered_json& schema, const std::set<std::string>& types, const nlohmann::ordered_json& root);

/// Has a `type` beside `nullable: true` (OpenAPI 3.0) allow null, here and in all schemas within.
void allow_nulls(nlohmann::ordered_json& schema);

/// Whether it can be seen that no value that is written for one of `options` (a list of schemas, as they were given) fits another: any two allow values of different types, or list different
/// values, or allow objects alone, of which each requires a property that the other has with different values, may not have, or does not name (properties that are named are all that are written). References are looked up in `root`, the whole schema.
/// `always`: a property that is always written where an option says which values it has; null: none. `of_all`: of all values that are valid, not of those alone that are written.
bool no_value_fits_two(const nlohmann::ordered_json& options, const nlohmann::ordered_json& root, const std::string* always = nullptr, bool of_all = false);

}  // namespace flexgen
