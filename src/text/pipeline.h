#pragma once
// The steps of a tokenizer.json around its model: normalizers, pre-tokenizers, decoders, as functions made from JSON. Everything
// unsupported is refused by name, and so is what makes a text many times longer. Immutable; any thread.

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace flexgen {

/// How long a text may become on its way through a tokenizer; any thread may have its own.
class GrowthLimit {
 public:
  /// For a text of `bytes`: 32 times that and 64 KiB. The most that is known in earnest is 22 (NFKC of U+FDFA, then ByteLevel).
  explicit GrowthLimit(size_t bytes) : left_(kFactor * bytes + kBase) {}
  size_t left() const { return left_; }
  void take(size_t bytes) { left_ -= bytes < left_ ? bytes : left_; }
  static constexpr size_t kFactor = 32, kBase = 64 * 1024;

 private:
  size_t left_;
};

/// Gives back at most `limit` bytes; throws Error{user} for more. Takes no more memory than that either.
using Normalizer = std::function<std::string(std::string text, size_t limit)>;

/// A stretch of text on its way to the model.
struct TextPiece {
  std::string text;
  bool first = false;  ///< it is the beginning of the input
};
/// The same with all pieces together.
using PreTokenizer = std::function<std::vector<TextPiece>(std::vector<TextPiece>, size_t limit)>;
using TokenDecoder = std::function<std::vector<std::string>(std::vector<std::string>)>;

/// json may be null: the identity. `source` is for messages.
Normalizer make_normalizer(const nlohmann::json& json, const std::string& source);
PreTokenizer make_pre_tokenizer(const nlohmann::json& json, const std::string& source);
/// The parts it returns are joined to the text. A null json joins the tokens with spaces.
TokenDecoder make_decoder(const nlohmann::json& json, const std::string& source);

/// Whether a step is_meant: `chain` itself or, where it is a sequence, one of its `list` ("normalizers", "pretokenizers", "decoders"), however deep.
bool any_step(const nlohmann::json& chain, const char* list, const std::function<bool(const nlohmann::json& step)>& is_meant);

/// Refuses the one pair of them that would give other tokens than PyPI tokenizers.
void refuse_dropped_start(const nlohmann::json& normalizer, const nlohmann::json& pre_tokenizer, const std::string& source);

/// Refuses what make_...() would refuse for its length, and nothing else: for steps that are not used.
void check_chain_limits(const nlohmann::json& json, const char* kind, const std::string& source);

/// Field access with errors that name file and field.
const nlohmann::json& json_field(const nlohmann::json& json, const char* name, const std::string& source);
std::string json_text(const nlohmann::json& json, const char* name, const std::string& source);
const nlohmann::json& json_list(const nlohmann::json& json, const char* name, const std::string& source);
/// A value as it may stand in a message.
std::string shown(const nlohmann::json& json);
bool json_flag(const nlohmann::json& json, const char* name, bool fallback);

}  // namespace flexgen
