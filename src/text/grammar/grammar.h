#pragma once
// Grammars that answers must follow: what is asked (GrammarSpec), compiled for a tokenizer (GrammarCompiler), followed token by token (GrammarMatcher).
// By xgrammar, where the build has it; else no_grammar/ refuses. A compiler may be used from any thread, a matcher from one at a time.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace flexgen {

/// What an answer must be. Pure data.
struct GrammarSpec {
  enum class Kind {
    kJsonObject,  ///< any JSON object
    kJsonSchema,  ///< text: a schema, as honoured_schema() gives it
    kRegex,       ///< text: all of the answer matches it
    kChoice,      ///< one of choices
    kEbnf,        ///< text: a grammar in xgrammar's GBNF-like form, its first rule is "root"
    kStructure,   ///< text: a format of xgrammar's structural tags, in JSON, with schemas as honoured_schema() gives them
  };
  Kind kind = Kind::kJsonObject;
  std::string text;
  std::vector<std::string> choices;
  bool any_whitespace = true;  ///< JSON: up to kMostBlanks blanks and line ends where JSON allows them; else a blank behind each ',' and ':' alone
  /// Of an answer that is more than that: formats as kStructure's, of what stands before it and behind it, and of what the answer may be instead of all that; empty: nothing.
  std::string before = "", after = "", instead = "";

  friend bool operator==(const GrammarSpec&, const GrammarSpec&) = default;
};

/// Why grammars cannot be honoured in this build; nothing if they can.
std::optional<std::string> why_no_grammars();

/// Throws Error{user}, which says why, for a specification that cannot be honoured whole. Without the tokenizer; the costly part is left to GrammarCompiler.
void check_grammar(const GrammarSpec& spec);

/// Bits of the tokens that may come next: token t is bit t % 32 of word t / 32.
using TokenMask = std::vector<uint32_t>;
inline bool may_come(std::span<const uint32_t> mask, int32_t token) { return mask[static_cast<size_t>(token) / 32] >> (token % 32) & 1; }
inline void leave_out(TokenMask& mask, int32_t token) { mask[static_cast<size_t>(token) / 32] &= ~(uint32_t{1} << (token % 32)); }

/// How far an answer has got in its grammar.
class GrammarMatcher {
 public:
  virtual ~GrammarMatcher() = default;
  /// False if the token cannot come here; nothing has changed then.
  virtual bool accept(int32_t token) = 0;
  /// [ceil(V / 32)]; where the grammar may end, with the end tokens, where it must, with these alone.
  virtual TokenMask mask() = 0;
  /// An end token was accepted.
  virtual bool ended() const = 0;
};

/// Compiles grammars for one vocabulary, and keeps as many as its memory holds, the newest.
class GrammarCompiler {
 public:
  virtual ~GrammarCompiler() = default;
  /// `vocab_size`: V of the model, which may differ from the tokenizer's; `ends`: the tokens that end an answer, at least one; `cache_bytes`: for grammars that are kept.
  /// Throws Error{user}: why_no_grammars(). `tokenizer` is used here alone.
  static std::unique_ptr<GrammarCompiler> create(const Tokenizer& tokenizer, int64_t vocab_size, std::vector<int32_t> ends, int64_t cache_bytes);
  /// At the start of an answer. Throws Error{user} as check_grammar() does. While one thread compiles, others go on; who asks for what is being compiled compiles it too.
  virtual std::unique_ptr<GrammarMatcher> start(const GrammarSpec& spec) = 0;
  /// The same of a grammar that is kept, without compiling; null: it is not.
  virtual std::unique_ptr<GrammarMatcher> start_kept(const GrammarSpec& spec) = 0;
};

/// Of whitespace between two tokens of JSON: answers come to an end.
inline constexpr int kMostBlanks = 8;
/// Of the compiled grammars of a job.
inline constexpr int64_t kGrammarCacheBytes = int64_t{64} << 20;

}  // namespace flexgen
