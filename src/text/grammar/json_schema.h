#pragma once
// Which JSON schemas can be honoured. Pure functions; any thread.

#include <string>
#include <string_view>

namespace flexgen {

/// The schema as GrammarSpec::text has it: what it leaves open is narrowed where a grammar needs that (docs/structured_answers.md says how), so that whatever is valid by the result is valid by
/// `json`. Properties stay in their order. Throws Error{user} that names the place ("properties/a") and the keyword for all that cannot be honoured, and for what is no schema.
/// `pattern_characters`: of the schemas that the same grammar has besides, to which its own are added; null: it has none.
std::string honoured_schema(std::string_view json, double* pattern_characters = nullptr);

/// Bounds on one schema.
inline constexpr size_t kMaxSchemaBytes = 256 << 10;
inline constexpr int kMaxSchemaDepth = 32;
inline constexpr int64_t kMaxSchemaCount = 4096;  ///< of minLength, maxItems and their like
inline constexpr int64_t kMaxSchemaParts = 4096;  ///< schemas in it, itself counted
inline constexpr int64_t kMaxPatternCharacters =
    8192;  ///< of all patterns of a grammar's schemas, with repetitions written out; the same pattern counts once in a schema

}  // namespace flexgen
