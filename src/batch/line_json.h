#pragma once
// LineJson: the JSON of one batch line, read in one pass and bounded memory. body.prompt, which may be large, goes straight into texts and token
// ids; body.messages and its like into the values that chat templates take; of everything else a small tree is built, and what is too large for it is passed over. By nlohmann's parser of events and not by simdjson: it says at which
// byte a line is broken, and needs no index of four bytes for every byte of the line. Pure functions; any thread.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/json_values.h"

namespace flexgen {

/// Bounds on what is kept of a line.
struct LineBounds {
  int64_t prompts = 0;     ///< prompts
  int64_t ids = 0;         ///< token ids of each prompt, the last ones
  int64_t first_ids = 0;   ///< and so many of the first
  int64_t vocab_size = 0;  ///< a token id is smaller
};

/// body.prompt as it is written.
struct PromptField {
  enum class Form { kNone, kText, kIds, kTexts, kLists, kEmpty, kMixed, kOther };
  struct Ids {
    std::vector<int32_t> kept;   ///< the last LineBounds::ids
    std::vector<int32_t> first;  ///< of all `count`, the first LineBounds::first_ids
    int64_t count = 0;
  };

  Form form = Form::kNone;  ///< kNone: missing or null
  int64_t count = 0;        ///< items of the list; the first LineBounds::prompts are kept
  std::vector<std::string> texts;
  std::vector<Ids> ids;                 ///< kIds: one
  std::optional<nlohmann::json> no_id;  ///< the first thing in a list of ids that is none; an empty array or object if it was one
};

struct LineJson {
  nlohmann::json line;  ///< body.prompt is null in it; of a field in `values`, whether it is a list or an object, and empty
  PromptField prompt;
  /// body.messages and its like, in their order; lists and objects alone.
  std::vector<std::pair<std::string, jinja::Value>> values;
  std::string syntax_error;                    ///< not JSON: why; the rest is not to be used
  size_t broken_at = 0;                        ///< and at which byte, from 1
  bool too_deep = false;                       ///< nested more than kMaxLineDepth levels
  std::optional<std::string> twice;            ///< a name that comes twice in one object
  std::string twice_in;                        ///< the field with that object, "body.messages"; empty: the line or its body
  std::optional<std::string> too_large_value;  ///< "body.messages": it has more values than kMaxFieldValues, or is nested too deep
  std::optional<std::string> too_large;        ///< "body.stop": where the tree ends, as the line has more values than kMaxLineValues
  /// "body.temperature", "1e999": the first number that is too large for a double. It and its like are 0 above.
  std::optional<std::pair<std::string, std::string>> overflow;

  /// A field of `values`; null if it is not there.
  const jinja::Value* value(std::string_view name) const;
};

inline constexpr int kMaxLineDepth = 8;              // {body: {prompt: [[id]]}} needs 4
inline constexpr int64_t kMaxLineValues = 4096;      ///< prompts and `values` apart
inline constexpr int64_t kMaxFieldValues = 200'000;  ///< of a field of `values`

LineJson read_line_json(std::string_view text, const LineBounds& bounds);

}  // namespace flexgen
