#pragma once
// The steps of a tokenizer.json around its model: normalizers, pre-tokenizers, decoders, as functions made from JSON. Everything
// unsupported is refused by name. Immutable; any thread.

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace flexgen {

using Normalizer = std::function<std::string(std::string)>;

/// A stretch of text on its way to the model.
struct Piece {
  std::string text;
  bool first = false;  ///< it is the beginning of the input
};
using PreTokenizer = std::function<std::vector<Piece>(std::vector<Piece>)>;
using Decoder = std::function<std::vector<std::string>(std::vector<std::string>)>;

/// json may be null: the identity. `source` is for messages.
Normalizer make_normalizer(const nlohmann::json& json, const std::string& source);
PreTokenizer make_pre_tokenizer(const nlohmann::json& json, const std::string& source);
/// The parts it returns are joined to the text. A null json joins the tokens with spaces.
Decoder make_decoder(const nlohmann::json& json, const std::string& source);

/// Field access with errors that name file and field.
const nlohmann::json& json_field(const nlohmann::json& json, const char* name, const std::string& source);
std::string json_text(const nlohmann::json& json, const char* name, const std::string& source);
bool json_flag(const nlohmann::json& json, const char* name, bool fallback);

}  // namespace flexgen
