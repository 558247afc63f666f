#pragma once
// JSON schemas that say less than what was given, where a grammar can follow that alone: bounds, names, sets, and options that are told apart. `root`: the whole schema as it was given, in which
// references are looked up. Pure functions; any thread.

#include <cstdint>
#include <nlohmann/json.hpp>

namespace flexgen {

inline constexpr double kMostBound = 1e15;  ///< doubles count to there, and xgrammar's digits too
inline constexpr int64_t kMostWhole = 999'999'999'999'999;
inline constexpr size_t kMaxSetValues = 8;  ///< of list_sets()

/// Whether a value has a number in it that xgrammar would take for a floating-point one.
bool has_unsigned(const nlohmann::ordered_json& value);

/// Bounds of whole numbers beyond kMostBound: those that have fewer digits fit too.
void narrow_bounds(nlohmann::ordered_json& schema);

/// Bounds of whole numbers that are none: 1.5 means 2, or what is less than it.
void round_bounds(nlohmann::ordered_json& schema);

/// `options` of a `oneOf`, as they are asked whether no value fits two of them.
nlohmann::ordered_json joined_options(const nlohmann::ordered_json& options, const nlohmann::ordered_json& root);

/// Has objects require the property that tells them apart, which they may leave out (pydantic's with a default). `joined`: joined_options() of them. False: there is none.
bool require_what_tells(nlohmann::ordered_json& options, const nlohmann::ordered_json& joined, const nlohmann::ordered_json& root);

/// Names (`propertyNames`) that are all that may come become properties.
void name_properties(nlohmann::ordered_json& schema, const nlohmann::ordered_json& root);

/// `uniqueItems` whose items are one of a few values: all lists of them in the values' order. False: they are not.
bool list_sets(nlohmann::ordered_json& schema, const nlohmann::ordered_json& root);

}  // namespace flexgen
